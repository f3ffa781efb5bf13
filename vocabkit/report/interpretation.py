"""Interpretations as Rich renderables, made for 80 columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.text import Text

from vocabkit.interpretation import ImageInfo, Interpretation, Reading
from vocabkit.interpretation.naming import as_word
from vocabkit.report.layout import Columns, Section, printable, show_token

_NAME_WIDTH = 24
_WIDEST, _NARROWEST = 14, 6
"""Columns of the terminal for a word in a grid."""
_TOKENS = 10
"""Of an image."""
_TOKEN_WIDTH = 18
_FAINT = 1 / 3
"""Share of the patches of an image, those with the lowest values, whose words are dim."""


def interpretation_report(found: Interpretation) -> RenderableType:
    """Images in words by the last checkpoint, and the development over all."""
    rows, columns = found.grid
    head = "an MLP projector" if found.head is None else f"a {found.head} head"
    searched = " and ".join(f"{_name(llm)} ({found.vocabularies[llm]:,} tokens)" for llm in found.llms)
    parts: list[RenderableType] = [
        Text(f"{printable(found.adapter, 56)}, {head}", style="bold"),
        Text(f"{rows} x {columns} patches of {printable(found.vision, 40)}, in words of {searched}"),
    ]
    for number, image in enumerate(found.images):
        parts += [
            Text(),
            *_image(found, image, [found.reading(number, llm, found.checkpoints[-1]) for llm in found.llms]),
        ]
    return Group(*parts, Text(), _development(found))


def _image(found: Interpretation, image: ImageInfo, readings: Sequence[Reading]) -> Iterator[RenderableType]:
    yield Text(printable(image.key, 78), style="bold")
    if image.caption is not None:
        yield Text(f"  {printable(image.caption, 76)}", style="italic")
    for reading in readings:
        tokens = found.tokens[reading.llm]
        named = "" if reading.names_object is None else f", {_count(reading.names_object)} name an object"
        yield Text(f"nearest tokens in {_name(reading.llm)}{named}", style="dim")
        yield _Grid(
            found.grid,
            [tokens[near].token for near in reading.nearest[:, 0].tolist()],
            reading.cosines[:, 0],
            image.words,
        )
    first = readings[0]
    if first.rows is not None and first.coefficients is not None:
        rows = found.rows[first.llm]
        yield Text("largest coefficients of the head", style="dim")
        yield _Grid(found.grid, [rows[row] for row in first.rows[:, 0].tolist()], first.coefficients[:, 0], image.words)
    yield Text()
    yield _tokens(found, readings)


def _tokens(found: Interpretation, readings: Sequence[Reading]) -> Columns:
    """What stands for the image as a whole."""
    first = readings[0]
    headings, columns = [], []
    if first.image_rows is not None and first.image_mass is not None:
        headings += ["head", "mass"]
        columns += [[_token(found.rows[first.llm][row]) for row in first.image_rows.tolist()[:_TOKENS]]]
        columns += [[f"{mass:.1%}" for mass in first.image_mass.tolist()[:_TOKENS]]]
    for reading in readings:
        tokens = found.tokens[reading.llm]
        headings += [f"nearest {_name(reading.llm)}", "cosine"]
        columns += [[_token(tokens[token].token) for token in reading.image_nearest.tolist()[:_TOKENS]]]
        columns += [[f"{cosine:.3f}" for cosine in reading.image_cosines.tolist()[:_TOKENS]]]
    height = max(map(len, columns))
    cells = zip(*(column + [""] * (height - len(column)) for column in columns), strict=True)
    return Columns(headings, [Section("image", [(str(rank), row) for rank, row in enumerate(cells, 1)])])


def _development(found: Interpretation) -> Columns:
    headings = ("best cosine", "named by nearest", "named by head", "entropy (nats)")
    sections = []
    for llm in found.llms:
        rows = [
            (entry.checkpoint, (f"{entry.mean_best_cosine:.3f}", _percent(entry.named), _percent(entry.named_by_head),
                                "" if entry.mean_entropy is None else f"{entry.mean_entropy:.2f}"))
            for entry in found.development if entry.llm == llm
        ]  # fmt: skip
        sections.append(Section(_name(llm), rows))
    return Columns(headings, sections)


@dataclass(frozen=True)
class _Grid:
    """The words of patches, each in its place. Where a terminal is too narrow, several patches share a place, of which
    the one with the largest value is shown.
    """

    grid: tuple[int, int]
    tokens: Sequence[bytes]
    values: np.ndarray
    """(N,)."""
    words: Sequence[str]
    """That name an object of the image."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """A line for each row of places."""
        rows, columns = self.grid
        room = options.max_width
        side = max(1, math.ceil(columns / max(1, room // (_NARROWEST + 2))))
        if side > 1:
            yield Text(f"  of each {side} x {side} patches the one with the largest value", style="dim")
        width = min(_WIDEST, room // math.ceil(columns / side) - 2)
        places = np.arange(rows * columns).reshape(rows, columns)
        faint = np.quantile(self.values, _FAINT)
        for top in range(0, rows, side):
            line = Text()
            for left in range(0, columns, side):
                block = places[top : top + side, left : left + side].ravel()
                best = int(block[self.values[block].argmax()])
                word = _word(self.tokens[best], width)
                named = as_word(self.tokens[best]) in self.words
                line.append("  ")
                line.append(word, style="bold green" if named else "dim" if self.values[best] < faint else "")
                line.append(" " * (width - cell_len(word)))
            line.rstrip()
            yield line


def _word(token: bytes, width: int) -> str:
    """A token without spaces around it and without quotes, harmless."""
    if not token:
        return "(role)"
    shown = show_token(token.strip(b" ") or token, width + 1)  # of which two are quotes, and one may be an ellipsis
    quote = shown[0]
    body, _, rest = shown[1:].rpartition(quote)
    return shown if body.isspace() else body + rest


def _token(token: bytes) -> str:
    return show_token(token, _TOKEN_WIDTH) if token else "(role)"


def _name(llm: str) -> str:
    return printable(llm, _NAME_WIDTH)


def _count(named: np.ndarray) -> str:
    return f"{int(named.sum())} of {len(named)} patches"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
