"""A comparison of connectors as a Rich renderable, made for 80 columns."""

from __future__ import annotations

from rich.console import RenderableType

from vocabkit.evaluate.compare import Comparison, Metric
from vocabkit.report.layout import Columns, Section, printable


def comparison_report(found: Comparison) -> RenderableType:
    """Connectors in rows, metrics in columns: the figure, and in brackets its change relative to the first row."""
    rows = [
        (printable(name, 24), [_cell(figures.get(metric)) for metric in found.metrics])
        for name, figures in found.connectors.items()
    ]
    return Columns([printable(metric, 40) for metric in found.metrics], [Section("connector", rows)])


def _cell(metric: Metric | None) -> str:
    if metric is None:
        return "-"
    change = "" if metric.change is None else f" ({metric.change:+.2%})"
    return f"{metric.value:.4g}{change}"
