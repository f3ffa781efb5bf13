"""Plots of figures with their intervals: where things stand on an axis, in percent of its length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vocabkit.evaluation.losses import Estimate

_TICKS = 5
"""How many an axis has, about."""


@dataclass(frozen=True)
class Bar:
    """One figure. Places are percent of the axis."""

    label: str
    estimate: Estimate
    place: float
    low: float
    width: float


@dataclass(frozen=True)
class Plot:
    """Figures over one axis."""

    bars: tuple[Bar, ...]
    lines: tuple[tuple[str, float], ...]
    """What the others are measured by: name and place."""
    ticks: tuple[tuple[str, float], ...]


def plot(figures: Mapping[str, Estimate], lines: Mapping[str, float]) -> Plot:
    """`figures` and named vertical `lines` over an axis that holds them all."""
    values = [*lines.values(), *(value for e in figures.values() for value in (e.value, e.low, e.high))]
    lowest, highest = min(values), max(values)
    room = (highest - lowest or abs(highest) or 1.0) * 0.06
    start, end = lowest - room, highest + room

    def place(value: float) -> float:
        return 100 * (value - start) / (end - start)

    return Plot(
        bars=tuple(
            Bar(name, e, place(e.value), place(e.low), place(e.high) - place(e.low)) for name, e in figures.items()
        ),
        lines=tuple((name, place(value)) for name, value in lines.items()),
        ticks=tuple((shown, place(value)) for shown, value in _ticks(start, end)),
    )


def _ticks(start: float, end: float) -> list[tuple[str, float]]:
    """Round numbers between the ends."""
    raw = (end - start) / _TICKS
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = magnitude * next(factor for factor in (1, 2, 5, 10) if factor * magnitude >= raw)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(start / step), math.floor(end / step)
    return [(f"{number * step:.{digits}f}", number * step) for number in range(first, last + 1)]
