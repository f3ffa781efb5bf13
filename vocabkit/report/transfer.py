"""The pre-flight report of a transfer and its proof as Rich renderables, made for 80 columns."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vocabkit.proof import Proof
from vocabkit.report.layout import show_token
from vocabkit.transfer import Preflight


def preflight_report(found: Preflight) -> RenderableType:
    """What a transfer comes to."""
    table = _facts()
    table.add_row("head", f"{found.head}, {found.rows:,} rows of V_shared, trained with {escape(found.source)}")
    table.add_row("target", f"{escape(found.target)}, embedding rows from {escape(found.embeddings)}")
    table.add_row("coverage", _coverage(found))
    if found.mass_found is not None and found.mass_dropped is not None:
        table.add_row("corpus mass", f"{found.mass_found:.2%} on found rows, {found.mass_dropped:.2%} dropped")
    lengths = f"{found.norms.shortest:.3g} to {found.norms.longest:.3g}, median {found.norms.median:.3g}"
    table.add_row("rows of the target", f"RMS {found.norms.rms:.3g}, norms {lengths}")
    table.add_row("scale", f"{found.scale:.6g}")
    table.add_row("widths", f"features {found.vision_width:,} -> hidden {found.hidden_width:,} -> LLM {found.width:,}")
    table.add_row("size", f"{found.bytes / 1e6:,.1f} MB in {found.dtype}")
    table.add_row("folds", f"{'yes' if found.folds else 'no'}: {found.folding}")
    examples = []
    for missing in found.examples:
        instead = " + ".join(show_token(part) for part in missing.composed_of) or "dropped"
        examples.append(Text(f"  row {missing.row:,} {show_token(missing.token)}: {instead}"))
    return Group(Text(f"Transfer to {found.target}", style="bold"), table, *_titled("tokens it lacks", examples))


def proof_report(proof: Proof) -> RenderableType:
    """What check-transfer found."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("against Eq. 5-6 in float64", "patches", "largest relative error", "limit", ""):
        table.add_column(name, justify="left" if name.startswith("against") else "right")
    for check in proof.checks:
        verdict = Text("ok", style="green") if check.passed else Text("WRONG", style="red")
        table.add_row(check.name, str(check.patches), f"{check.error:.2e}", f"{check.limit:.0e}", verdict)
    problems = [Text(f"WRONG: {problem}", style="red") for problem in proof.problems]
    verdict = Text(
        f"{proof.rows:,} rows for {proof.target}: {'proven' if proof.passed else 'NOT proven'}", style="bold"
    )
    return Group(*([table] if proof.checks else []), *problems, verdict)


def _coverage(found: Preflight) -> str:
    parts = [f"{found.found:,} of {found.rows:,} rows ({found.found / found.rows:.1%})"]
    parts += [f"{found.composed:,} composed"] if found.composed else []
    parts += [f"{found.dropped:,} dropped"] if found.dropped else []
    return ", ".join(parts)


def _facts() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _titled(title: str, lines: list[Text]) -> list[RenderableType]:
    return [Text(title, style="bold"), *lines] if lines else []
