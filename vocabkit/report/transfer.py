"""The pre-flight report of a transfer and its proof as Rich renderables, made for 80 columns."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.text import Text

from vocabkit.proof import Proof
from vocabkit.report.layout import Columns, Listing, Section, printable, show_token
from vocabkit.transfer import MissingToken, Preflight

_FAR = 3
"""Visual tokens so many times longer or shorter than embeddings get a hint."""


def preflight_report(found: Preflight) -> RenderableType:
    """What a transfer comes to."""
    norms = found.norms
    facts = {
        "head": f"{found.head}, {found.rows:,} rows of V_shared, trained with {printable(found.source)}",
        "embeddings": f"{printable(found.embeddings)}, {found.dtype}",
        "coverage": _coverage(found),
        "corpus mass": _mass(found),
        "row norms": f"length {norms.shortest:.3g} to {norms.longest:.3g}, median {norms.median:.3g}; "
        f"RMS of an element {norms.rms:.3g}",
        **({} if found.visual_rms is None else {"visual tokens": _visual_tokens(found, found.visual_rms)}),
        "scale": f"{found.scale:.6g}",
        "widths": f"features {found.vision_width:,}, hidden {found.hidden_width:,}, LLM {found.width:,}",
        "size": f"{found.bytes / 1e6:,.1f} MB to write",
        "folds": f"{'yes' if found.folds else 'no'}: {found.folding}",
    }
    parts: list[RenderableType] = [
        Text(f"Transfer to {printable(found.target)}", style="bold"),
        Listing([(label, words.split()) for label, words in facts.items()]),
    ]
    if found.examples:
        parts += [Text("Tokens that it lacks", style="bold"), Listing([_missing(token) for token in found.examples])]
    if more := found.rows - found.found - len(found.examples):
        parts.append(Text(f"  and {more:,} more", style="dim"))
    return Group(*parts)


def proof_report(proof: Proof) -> RenderableType:
    """What check-transfer found."""
    rows = [
        (
            check.name,
            (f"{check.patches:,}", f"{check.error:.1e}", f"{check.limit:.0e}", "ok" if check.passed else "WRONG"),
        )
        for check in proof.checks
    ]
    parts: list[RenderableType] = []
    if rows:
        parts.append(Columns(("patches", "relative error", "limit", ""), [Section("against Eq. 5-6", rows)]))
    parts.append(Text(f"scale of the visual tokens, as recorded: {proof.scale:.6g}"))
    parts += [Text(f"wrong: {problem}", style="red") for problem in proof.problems]
    verdict = f"{printable(proof.target)}: {proof.rows:,} rows {'proven' if proof.passed else 'NOT proven'}"
    return Group(*parts, Text(verdict, style="green" if proof.passed else "red"))


def _coverage(found: Preflight) -> str:
    parts = [f"{found.found:,} of {found.rows:,} rows ({found.found / found.rows:.1%})"]
    parts += [f"{found.composed:,} composed"] if found.composed else []
    parts += [f"{found.dropped:,} dropped"] if found.dropped else []
    return ", ".join(parts)


def _visual_tokens(found: Preflight, rms: float) -> str:
    ratio = rms / found.norms.rms if found.norms.rms else math.inf
    far = found.head == "linear" and not 1 / _FAR < ratio < _FAR
    hint = "; far from what this LLM reads: try --scale rms" if far else ""
    return f"RMS of an element {rms:.3g}, {ratio:.3g} times that of the rows{hint}"


def _mass(found: Preflight) -> str:
    if found.mass_found is None or found.mass_dropped is None:
        return "unknown: V_shared was not ranked by a corpus"
    return f"{found.mass_found:.2%} on rows found, {found.mass_dropped:.2%} dropped"


def _missing(token: MissingToken) -> tuple[str, list[str]]:
    parts = [show_token(part) for part in token.composed_of]
    return show_token(token.token), [f"{part} +" for part in parts[:-1]] + parts[-1:] if parts else ["dropped"]
