"""Terminal report on an interpretation. Made for 80 columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.text import Text

from vocabkit.interpret.results import ImageInfo, Interpretation, Reading, as_word
from vocabkit.report.layout import Columns, Listing, Section, printable, show_token

_GAP = "  "
_NAME_WIDTH = 24
_WIDEST, _COMFORTABLE, _NARROWEST = 14, 10, 6
"""Terminal columns per word of a grid: the most, the number that grids side by side need, and the fewest."""
_TOKENS, _FEW = 10, 5
"""Tokens shown per image, in a table and in one line."""
_TOKEN_WIDTH = 18
_FAINT = 1 / 3
"""Share of the patches, those with the lowest values, whose words are dimmed."""


def interpretation_report(found: Interpretation, *, everything: bool = True) -> RenderableType:
    """Images in the words of the last checkpoint, and the development over all checkpoints.

    Args:
        everything: show the tokens of each image as a table with their values, not in one line.
    """
    rows, columns = found.grid
    head = "an MLP projector" if found.head is None else f"a {found.head} head"
    searched = [f"{_name(llm)} ({found.vocabularies[llm]:,} tokens)" for llm in found.llms]
    parts: list[RenderableType] = [
        Text(f"{printable(found.adapter, 56)}, {head}", style="bold"),
        Listing(
            [
                ("patches", [f"{rows} x {columns}, of {printable(found.vision, 50)}"]),
                ("words of", [f"{llm}," for llm in searched[:-1]] + searched[-1:]),
            ]
        ),
    ]
    for number, image in enumerate(found.images):
        readings = [found.reading(number, llm, found.checkpoints[-1]) for llm in found.llms]
        parts += [Text(), *_image(found, image, readings, everything=everything)]
    return Group(*parts, Text(), _development(found))


def _image(
    found: Interpretation, image: ImageInfo, readings: Sequence[Reading], *, everything: bool
) -> Iterator[RenderableType]:
    yield Text(printable(image.key, 78), style="bold")
    if image.caption is not None:
        yield Text(f"  {printable(image.caption, 76)}", style="italic")
    if image.written is not None:
        yield Listing([("written:", printable(image.written).split())])
    grids = []
    for reading in readings:
        tokens = [found.tokens[reading.llm][near].token for near in reading.nearest[:, 0].tolist()]
        grids.append(_Grid(f"nearest in {_name(reading.llm)}", found.grid, tokens, reading.cosines[:, 0], image.words))
    first = readings[0]
    if first.rows is not None and first.coefficients is not None:
        tokens = [found.rows[first.llm][row] for row in first.rows[:, 0].tolist()]
        grids.append(_Grid("largest coefficient", found.grid, tokens, first.coefficients[:, 0], image.words))
    yield Text()
    yield _Grids(grids)
    yield Text()
    yield _tokens(found, readings) if everything else Listing(_in_one_line(found, readings))


def _in_one_line(found: Interpretation, readings: Sequence[Reading]) -> list[tuple[str, list[str]]]:
    """The tokens of the image as a whole: by mass of a softmax head, and nearest in each LLM."""
    first, rows = readings[0], []
    if first.image_rows is not None and first.image_mass is not None:
        tokens = [_token(found.rows[first.llm][row]) for row in first.image_rows.tolist()]
        masses = [f"{mass:.0%}" for mass in first.image_mass.tolist()]
        rows.append(("head", [f"{token} {mass}" for token, mass in zip(tokens, masses, strict=True)][:_FEW]))
    for reading in readings:
        tokens = [_token(found.tokens[reading.llm][i].token) for i in reading.image_nearest.tolist()[:_FEW]]
        rows.append((_name(reading.llm), tokens))
    return rows


def _tokens(found: Interpretation, readings: Sequence[Reading]) -> Columns:
    """The tokens of the image as a whole."""
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


def _development(found: Interpretation) -> RenderableType:
    headings = ("best cosine", "named by nearest", "named by head", "entropy, nats")
    rows: dict[str, list[tuple[str, Sequence[str]]]] = {}
    for entry in found.development:
        entropy = "" if entry.mean_entropy is None else f"{entry.mean_entropy:.2f}"
        cells = (f"{entry.mean_best_cosine:.3f}", _percent(entry.named), _percent(entry.named_by_head), entropy)
        title, label = (entry.llm, entry.checkpoint) if len(found.checkpoints) > 1 else ("all images", entry.llm)
        rows.setdefault(title, []).append((_name(label), cells))
    parts: list[RenderableType] = [
        Columns(headings, [Section(_name(title), section) for title, section in rows.items()])
    ]
    if any(entry.named is not None for entry in found.development):
        note = f"named: one of the {found.top} nearest, or largest, is a word for what is shown"
        parts.append(Text(note, style="dim"))
    return Group(*parts)


@dataclass(frozen=True)
class _Grid:
    """A word per patch, laid out like the patches."""

    title: str
    size: tuple[int, int]
    """Rows and columns."""
    tokens: Sequence[bytes]
    values: np.ndarray
    """(N,)."""
    words: Sequence[str]
    """Words that name an object of the image."""

    def lines(self, room: int) -> list[Text]:
        """Return lines of at most `room` columns. Where words do not fit, several patches share a cell, which shows the
        word of the patch with the largest value.
        """
        rows, columns = self.size
        side = math.ceil(columns / max(1, room // (_NARROWEST + len(_GAP))))
        longest = max(cell_len(_word(token, _WIDEST)) for token in self.tokens)
        width = min(longest, room // math.ceil(columns / side) - len(_GAP))
        places = np.arange(rows * columns).reshape(rows, columns)
        faint = np.quantile(self.values, _FAINT)
        lines = [
            Text(_GAP + self.title + ("" if side == 1 else f", the clearest of {side} x {side} patches"), "italic")
        ]
        for top in range(0, rows, side):
            line = Text()
            for left in range(0, columns, side):
                block = places[top : top + side, left : left + side].ravel()
                best = int(block[self.values[block].argmax()])
                word = _word(self.tokens[best], width)
                named = as_word(self.tokens[best]) in self.words
                line.append(_GAP)
                line.append(word, style="bold green" if named else "dim" if self.values[best] < faint else "")
                line.append(" " * (width - cell_len(word)))
            lines.append(line)
        return lines


@dataclass(frozen=True)
class _Grids:
    """Grids of one size, side by side where their words fit."""

    grids: Sequence[_Grid]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Lines of text."""
        wanted = self.grids[0].size[1] * (_COMFORTABLE + len(_GAP))
        beside = min(len(self.grids), max(1, options.max_width // wanted))
        room = options.max_width // beside
        for start in range(0, len(self.grids), beside):
            if start:
                yield Text()
            for line in zip(*(grid.lines(room) for grid in self.grids[start : start + beside]), strict=True):
                for part in line[:-1]:
                    part.append(" " * (room - part.cell_len))
                whole = Text().join(line)
                whole.rstrip()
                yield whole


def _word(token: bytes, width: int) -> str:
    """An escaped token without surrounding spaces or quotes. A lone `-` keeps its quotes: bare, it reads as nothing."""
    if not token:
        return "(role)"
    for room in (width + 2, width + 1):  # room for the quotes, and for the ellipsis of a shortened token
        shown = show_token(token.strip(b" ") or token, room)
        body, _, rest = shown[1:].rpartition(shown[0])
        if cell_len(body + rest) <= width:
            break
    return shown if body.isspace() or body == "-" else body + rest


def _token(token: bytes) -> str:
    return show_token(token, _TOKEN_WIDTH) if token else "(role)"


def _name(llm: str) -> str:
    return printable(llm, _NAME_WIDTH)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
