"""Results of a validation as Rich renderables, made for 80 columns."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from vocabkit.evaluation.answers import RIGHT, Answers, Share
from vocabkit.evaluation.conditions import RANDOM_VOCABULARY, SHUFFLED
from vocabkit.evaluation.losses import Estimate
from vocabkit.evaluation.run import Result
from vocabkit.evaluation.validate import NATIVE, Validation
from vocabkit.report.layout import Columns, Listing, Section, printable

_NAME = 24
"""Columns of an adapter's name."""


def validation_report(name: str, result: Result) -> RenderableType:
    """Caption losses, retention and answers of one data set."""
    found = result.validation
    rows = [
        (
            _label(shown, found.gain),
            (
                f"{loss.value:.3f}",
                f"{loss.low:.3f} to {loss.high:.3f}",
                _share(found.retention.get(shown)),
                _share(found.of_mlp.get(shown)),
            ),
        )
        for shown, loss in found.caption_loss.items()
    ]
    heads = ("nats/token", "95% interval", "retention", "of MLP's gain")
    title = (
        f"{printable(found.llm)} on {printable(name)}: {found.samples:,} samples, {found.visual_tokens} visual tokens"
    )
    parts: list[RenderableType] = [Text(title, style="bold"), Columns(heads, [Section("caption loss, shown", rows)])]
    if found.left_out:
        parts.append(Text(f"{found.left_out:,} samples left out", style="dim"))
    if result.answers:
        right, yes = ([_answers(name, result.answers) for name in names] for names in (RIGHT, ("said_yes",)))
        sections = [Section("right answers", right), Section("of yes no", yes, "how often it said yes; half is right")]
        parts += [Text(), Columns(("asked", *(printable(name, _NAME) for name in result.answers)), sections)]
    if found.gain:
        verdicts = [(printable(name, _NAME), _verdict(found, name).split()) for name in found.gain]
        parts += [Text(), Listing(verdicts, indent="")]
    return Group(*parts)


def _label(shown: str, adapters: Collection[str]) -> str:
    """Of a row: a control stands below its adapter, indented."""
    for control in (SHUFFLED, RANDOM_VOCABULARY):
        if shown not in adapters and shown.removesuffix(f" {control}") in adapters:
            return f"  {control}"
    return printable(shown, _NAME)


def _answers(name: str, answers: Mapping[str, Answers]) -> tuple[str, list[str]]:
    """The row of a kind of question: how many there were, and what share of them each adapter got."""
    shares: list[Share | None] = [getattr(each, name) for each in answers.values()]
    asked = next((share.questions for share in shares if share), 0)
    return name.replace("_", " "), [f"{asked:,}", *map(_percent, shares)]


def _verdict(found: Validation, name: str) -> str:
    gain, of_picture, kept = found.gain[name], found.gain_of_picture.get(name), found.retention.get(name)
    if gain.high < 0:
        return "worse than blind"
    if not gain.low > 0:
        return "not certainly better than blind"
    words = f"{gain.value:.2f} nats better than blind"
    native_gains = NATIVE not in found.gain or found.gain[NATIVE].low > 0
    if kept is not None and math.isfinite(kept.value) and native_gains:
        words += f", {kept.value:.0%} of what native gains"
    if of_picture is None:
        return words
    if not of_picture.low > 0:
        return f"{words}, but no better than with the tokens of other pictures: it tells the form of the captions only"
    return f"{words}, {of_picture.value:.2f} better than with the tokens of other pictures"


def _share(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _percent(share: Share | None) -> str:
    return "-" if share is None else f"{share.value:.1%} ({100 * share.low:.0f} to {share.high:.0%})"
