"""Results of a validation as Rich renderables, made for 80 columns."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.text import Text

from vocabkit.evaluation.answers import RIGHT
from vocabkit.evaluation.losses import Estimate
from vocabkit.evaluation.run import Result
from vocabkit.evaluation.validate import Validation
from vocabkit.report.layout import Columns, Listing, Section, printable


def validation_report(name: str, result: Result) -> RenderableType:
    """Caption losses, retention and answers of one data set."""
    found = result.validation
    rows = [
        (
            shown,
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
        right, yes = (
            [
                (name.replace("_", " "), [_percent(getattr(each, name)) for each in result.answers.values()])
                for name in names
            ]
            for names in (RIGHT, ("said_yes",))
        )
        sections = [Section("right answers", right), Section("of yes no", yes, "how often it said yes; half is right")]
        parts.append(Columns(tuple(map(printable, result.answers)), sections))
    if found.gain:
        parts.append(Listing([(printable(name), _verdict(found, name).split()) for name in found.gain], indent=""))
    return Group(*parts)


def _verdict(found: Validation, name: str) -> str:
    gain, of_picture, kept = found.gain[name], found.gain_of_picture.get(name), found.retention.get(name)
    if gain.high < 0:
        return "worse than blind"
    if not gain.low > 0:
        return "not certainly better than blind"
    words = f"{gain.value:.2f} nats better than blind"
    if kept is not None and math.isfinite(kept.value):
        words += f", {kept.value:.0%} of what native gains"
    if of_picture is None:
        return words
    if not of_picture.low > 0:
        return f"{words}, but no better than with the tokens of other pictures: it tells the form of the captions only"
    return f"{words}, {of_picture.value:.2f} better than with the tokens of other pictures"


def _share(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
