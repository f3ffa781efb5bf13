"""Terminal reports on adapters: a transfer, its check, a validation, a comparison of several. Made for 80 columns.

The rooms below import torch, so only their types are imported here: `compare` needs none of it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from vocabkit.errors import counted
from vocabkit.report.layout import Columns, Listing, Section, printable, show_token

if TYPE_CHECKING:
    from vocabkit.evaluate.answers import Answers, Share
    from vocabkit.evaluate.calibrate import Calibration
    from vocabkit.evaluate.compare import Comparison, Metric
    from vocabkit.evaluate.losses import Estimate
    from vocabkit.evaluate.validate import Result, Validation
    from vocabkit.transfer.check import Proof
    from vocabkit.transfer.plan import MissingToken, Preflight

_NAME = 24
"""Columns of the name of an adapter."""
_CAPTIONS = 8
"""Pictures whose captions are shown."""
_FAR = 3
"""Visual tokens this many times longer or shorter than embeddings get a hint."""


def preflight_report(found: Preflight) -> RenderableType:
    """Transfer summary."""
    facts = {
        "head": f"{found.head}, {found.rows:,} shared rows, trained with {printable(found.source)}",
        "embeddings": f"{printable(found.embeddings)}, {found.dtype or 'not read'}",
        **_to_read(found),
        "coverage": _coverage(found),
        "corpus mass": _mass(found),
        **_choices(found),
        **_lengths(found),
        "scale": f"{found.scale:.6g}",
        **({} if found.visual_tokens is None else {"made": found.visual_tokens.in_words()}),
        "widths": f"features {found.vision_width:,}, hidden {found.hidden_width:,}, LLM {_number(found.width)}",
        "size": _size(found),
        "folds": f"{'yes' if found.folds else 'no'}: {found.folding}",
    }
    parts: list[RenderableType] = [
        Text(f"Transfer to {printable(found.target)}", style="bold"),
        Listing([(label, words.split()) for label, words in facts.items()]),
    ]
    if found.examples:
        listed = [_missing(token, dropped=found.dropped > 0 and not found.composed) for token in found.examples]
        what = "Tokens" if found.of_several is None else "Words"
        parts += [Text(f"{what} that it lacks", style="bold"), Listing(listed)]
    if more := found.rows - found.found - len(found.examples):
        parts.append(Text(f"  and {more:,} more", style="dim"))
    return Group(*parts)


def proof_report(proof: Proof) -> RenderableType:
    """Result of checking a transfer."""
    rows = [
        (
            check.name,
            (f"{check.patches:,}", f"{check.error:.1e}", f"{check.limit:.0e}", "ok" if check.passed else "WRONG"),
        )
        for check in proof.checks
    ]
    parts: list[RenderableType] = []
    if rows:
        how = "compared with the equations of the transfer (LangBridge, Eq. 5-6)"
        parts.append(Columns(("patches", "relative error", "limit", ""), [Section("visual tokens of", rows, how)]))
    parts.append(Text(f"scale of the visual tokens, as recorded: {proof.scale:.6g}"))
    if proof.spelled is not None:
        parts.append(Text(f"made, as recorded: {proof.spelled.in_words()}"))
    parts += [Text(f"wrong: {problem}", style="red") for problem in proof.problems]
    verdict = f"{printable(proof.target)}: {proof.rows:,} rows {'proven' if proof.passed else 'NOT proven'}"
    return Group(*parts, Text(verdict, style="green" if proof.passed else "red"))


def _coverage(found: Preflight) -> str:
    parts = [f"{found.found:,} of {found.rows:,} rows ({found.found / found.rows:.1%})"]
    parts += [f"{found.of_several:,} of them words of several tokens"] if found.of_several else []
    parts += [f"{found.composed:,} composed"] if found.composed else []
    parts += [f"{found.dropped:,} dropped"] if found.dropped else []
    return ", ".join(parts)


def _mass(found: Preflight) -> str:
    if found.mass_found is None or found.mass_dropped is None:
        return "unknown: the shared vocabulary was not ranked by a corpus"
    dropped = "" if _choices(found) else f", {found.mass_dropped:.2%} dropped"
    return f"{found.mass_found:.2%} on rows found{dropped}"


def _choices(found: Preflight) -> dict[str, str]:
    """What each way to handle missing tokens would give, where none was chosen."""
    lacking = found.rows - found.found
    if not found.undecided:
        return {}
    composed = f"{found.found + found.spelled:,} rows"
    if found.mass_found is None or found.mass_spelled is None:
        dropped = f"{found.found:,} rows"
    else:
        dropped = f"{found.found:,} rows, {found.mass_found:.2%} of the corpus"
        composed += f", {found.mass_found + found.mass_spelled:.2%}"
    if found.of_several is not None:  # the tokenizer changes these words
        return {"missing: drop": dropped}
    spelled = f"it spells {found.spelled:,} of the {lacking:,} missing tokens in pieces, whose mean stands for them"
    return {"missing: drop": dropped, "missing: compose": f"{composed}; {spelled}"}


def _to_read(found: Preflight) -> dict[str, str]:
    """The embedding table that is still to be read, as far as it is known."""
    if found.unread is None or found.width is None or found.table_rows is None:
        return {}
    shape = f"{found.table_rows:,} x {found.width:,}"
    if found.unread.bytes is None:
        return {"to read": f"{shape}, {2 * found.width * found.table_rows / 1e9:,.2f} GB in 16 bits"}
    file = found.unread.file or "the file that model.safetensors.index.json names"
    return {"to read": f"{found.unread.bytes:,} bytes: {found.unread.tensor}, {shape} bfloat16, in {file}"}


def _lengths(found: Preflight) -> dict[str, str]:
    """Lengths of embedding rows, and of visual tokens if they were measured."""
    norms, rms = found.norms, found.visual_rms
    if norms is None:
        return {"row norms": "not read: they need the embeddings"}
    rows = (
        f"length {norms.shortest:.3g} to {norms.longest:.3g}, median {norms.median:.3g}; "
        f"RMS of an element {norms.rms:.3g}"
    )
    if rms is None:
        return {"row norms": rows}
    ratio = rms / norms.rms if norms.rms else math.inf
    far = found.head == "linear" and not 1 / _FAR < ratio < _FAR
    hint = "; far from the embeddings of this LLM: try scale rms" if far else ""
    return {
        "row norms": rows,
        "visual tokens": f"RMS of an element {rms:.3g}, {ratio:.3g} times that of the rows{hint}",
    }


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _size(found: Preflight) -> str:
    if found.bytes is not None:
        return f"{found.bytes / 1e6:,.1f} MB to write"
    if found.parameters is None:
        return "unknown without the width of the LLM"
    return f"{found.parameters / 1e6:,.1f} million numbers, {2 * found.parameters / 1e6:,.1f} MB in 16 bits"


def _missing(token: MissingToken, *, dropped: bool) -> tuple[str, list[str]]:
    parts = [show_token(part) for part in token.spelled]
    words = ["dropped"] if dropped or not parts else [f"{part} +" for part in parts[:-1]] + parts[-1:]
    share = [] if token.share is None else [f"{token.share:.3%} of the corpus:"]
    return show_token(token.token), share + words


# ---- validation and comparison ----------------------------------------------------------------------------------


def calibration_report(found: Calibration) -> RenderableType:
    """Caption losses by scale, and the scale that was chosen."""
    lines = [
        f"  {scale:8.3g}  {loss:.3f} nats per token{'  <- best' if scale == found.best else ''}"
        for scale, loss in found.caption_loss.items()
    ]
    from vocabkit.evaluate.losses import FEWEST_PICTURES

    if found.pictures < FEWEST_PICTURES:
        lines.append(f"{_too_few(found.pictures)} to tell the scales apart, so the scale is kept")
    elif found.scale != found.best:
        gain = f"{found.gain.value:.3f} ({found.gain.low:.3f} to {found.gain.high:.3f})"
        lines.append(f"the best gains {gain} nats per token, which may be chance, so the scale is kept")
    lines.append(f"scale {found.scale:.4g} for {printable(found.llm)}, chosen on {counted(found.samples, 'sample')}")
    return Group(Text("Caption loss by scale", style="bold"), *map(Text, lines))


def validation_report(name: str, result: Result) -> RenderableType:
    """Caption losses, retention and answers on one dataset."""
    from vocabkit.evaluate.validate import MLP, NATIVE

    found, few = result.validation, result.validation.too_few
    rows = [
        (
            _label(shown, found.gain),
            (
                f"{loss.value:.3f}",
                "" if few else f"{loss.low:.3f} to {loss.high:.3f}",
                _share(found.retention.get(shown), few),
                _share(found.of_mlp.get(shown), few),
            ),
        )
        for shown, loss in found.caption_loss.items()
    ]
    heads = ("nats/token", "" if few else "95% interval", "retention", "of MLP's gain")
    sizes = f"{counted(found.samples, 'sample')}, {found.visual_tokens:,g} visual tokens"
    title = f"{printable(found.llm)} on {printable(name)}: {sizes}"
    parts: list[RenderableType] = [Text(title, style="bold"), Columns(heads, [Section("caption loss, shown", rows)])]
    if found.left_out:
        first = "" if found.first_left_out is None else f"; the first, {printable(found.first_left_out, 200)}"
        parts.append(Text(f"{counted(found.left_out, 'sample')} left out{first}", style="dim"))
    if found.pictures is not None and few:
        parts.append(Text(f"{_too_few(found.pictures)} for intervals and a verdict"))
        if found.pictures == 1 and found.gain:
            parts.append(Text("not shuffled: there is no other picture to show"))
    for reference, shares in ((NATIVE, found.retention), (MLP, found.of_mlp)):
        if reference in found.gain and not shares and len(found.gain) > 1:
            parts.append(Text(f"no share of the gain of {reference}, which is not certainly better than blind"))
    if result.answers:
        parts += [Text(), *_right_answers(result.answers, few)]
        for name, answers in result.answers.items():
            parts += [Text(), Text(f"first pictures, {printable(name, _NAME)}", style="bold")]
            for each in answers.captions[:_CAPTIONS]:
                lines = ("shows", each.shows), (f"{printable(found.llm, _NAME)} says", each.says)
                parts.append(Listing([(label, printable(text).split()) for label, text in lines]))
    if found.gain and not few:
        verdicts = [(printable(name, _NAME), _verdict(found, name).split()) for name in found.gain]
        parts += [Text(), Listing(verdicts, indent="")]
    return Group(*parts)


def _too_few(pictures: int) -> str:
    from vocabkit.evaluate.losses import FEWEST_PICTURES

    return f"{pictures} different picture{'s are' if pictures > 1 else ' is'} too few (fewer than {FEWEST_PICTURES})"


def _label(shown: str, adapters: Collection[str]) -> str:
    """The label of a row: a control comes below its adapter, indented."""
    from vocabkit.evaluate.validate import AS_TEXT, RANDOM_VOCABULARY, SHUFFLED

    for control in (AS_TEXT, SHUFFLED, RANDOM_VOCABULARY):
        if shown not in adapters and shown.removesuffix(f" {control}") in adapters:
            return f"  {control}"
    return printable(shown, _NAME)


def _right_answers(answers: Mapping[str, Answers], few: bool) -> Iterator[RenderableType]:
    """Shares of right answers, without questions that were not asked or that each adapter answers always alike."""
    from vocabkit.evaluate.answers import RIGHT, asked

    def row(name: str, label: str) -> tuple[str, list[str]]:
        shares: list[Share | None] = [getattr(each, name) for each in answers.values()]
        questions = next(share.questions for share in shares if share)
        return label, [f"{questions:,}", *(_percent(share, few) for share in shares)]

    said = {each.said_yes.value for each in answers.values() if each.said_yes}
    alike = said in ({0.0}, {1.0})
    names = [name for name in asked(answers.values()) if not (alike and name == "yes_no")]
    sections = [Section("right answers", [row(name, RIGHT[name][0]) for name in names])]
    if said and not alike:
        sections.append(Section("said yes", [row("said_yes", "to yes or no")], "half is right"))
    yield Columns(("asked", *(printable(name, _NAME) for name in answers)), sections)
    if chances := [f"{label} {chance:.0%}," for label, chance in map(RIGHT.__getitem__, names) if chance]:
        yield Listing([("by chance", [*chances[:-1], chances[-1].rstrip(",")])], indent="")
    if alike:
        always = "yes" if said == {1.0} else "no"
        yield Text(f"asked yes or no, it always says {always}, so only the ranking can tell something", "dim")


def _verdict(found: Validation, name: str) -> str:
    gain, of_picture, kept = found.gain[name], found.gain_of_picture.get(name), found.retention.get(name)
    if gain.high < 0:
        return "worse than blind"
    if not gain.low > 0:
        return "not certainly better than blind"
    words = f"{gain.value:.2f} nats better than blind"
    if kept is not None:
        words += f", {kept.value:.0%} of what native gains"
    if of_picture is None:
        return words
    if not of_picture.low > 0:
        return f"{words}, but no better than with the tokens of other pictures: it only knows the form of the captions"
    return f"{words}, {of_picture.value:.2f} better than with the tokens of other pictures"


def _share(estimate: Estimate | None, few: bool) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:.2f}" + ("" if few else f" ({estimate.low:.2f} to {estimate.high:.2f})")


def _percent(share: Share | None, few: bool) -> str:
    if share is None:
        return "-"
    return f"{share.value:.1%}" + ("" if few else f" ({100 * share.low:.0f} to {share.high:.0%})")


def comparison_report(found: Comparison) -> RenderableType:
    """Connectors in rows, metrics in columns: the figure, and in brackets its change relative to the first row."""
    rows = [
        (printable(name, _NAME), [_change(figures.get(metric)) for metric in found.metrics])
        for name, figures in found.connectors.items()
    ]
    return Columns([printable(metric, 40) for metric in found.metrics], [Section("connector", rows)])


def _change(metric: Metric | None) -> str:
    if metric is None:
        return "-"
    change = "" if metric.change is None else f" ({metric.change:+.2%})"
    return f"{metric.value:.4g}{change}"
