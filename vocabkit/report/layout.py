"""Building blocks of terminal reports: escaped text, columns, and lists with a hanging indent."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions
from rich.text import Text

_ESCAPES = {"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Default-ignorable code points that `str.isprintable` accepts (Unicode, DerivedCoreProperties)."""
_RIGHT_TO_LEFT = {"R", "AL", "AN"}
_LEFT_TO_RIGHT_MARK = "\u200e"
_NUMBER = re.compile(r"[\d,.%]+")
_NO_NUMBER = ("", "-", "·")
_GAP = "  "


def show_token(token: bytes, width: int = 40) -> str:
    r"""Quote a token as `parse_token` reads it, in at most about `width` columns.

    Bytes that are not UTF-8 are shown like `\x9b`, invisible characters like `\u200b`. A token of a right-to-left
    script is followed by an invisible mark, so that it does not reorder the rest of the line.
    """
    text = token.decode("utf-8", "surrogateescape")
    quote = '"' if "'" in text and '"' not in text else "'"
    shown, used = "", 2
    for at, character in enumerate(text):
        part = "\\" + quote if character == quote else _escaped(character, leading=at == 0)
        if used + cell_len(part) > width:
            return f"{quote}{shown}{quote}…{_mark(text)}"
        shown += part
        used += cell_len(part)
    return f"{quote}{shown}{quote}{_mark(text)}"


def spelled(token: bytes) -> str:
    """Spell a whole token as `parse_token` reads it, without quotes: invisible characters are escaped."""
    text = token.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        if text.isascii():  # nearly all tokens: no need to look at each character
            return text
        if not _INVISIBLE.search(text) and not unicodedata.category(text[0]).startswith("M"):
            return text
    return "".join(_escaped(character, leading=at == 0) for at, character in enumerate(text))


def printable(text: str, width: int | None = None) -> str:
    """Escape other untrusted text, such as a name, and shorten it in the middle to at most `width` columns."""
    shown = "".join(character if character == "\\" else _escaped(character) for character in text)
    if width is not None and cell_len(shown) > width:
        tail = shown[-(width // 2) :]
        tail = set_cell_size(tail[::-1], width // 2)[::-1] if cell_len(tail) > width // 2 else tail
        shown = f"{set_cell_size(shown, width - 1 - cell_len(tail))}…{tail}"
    return shown + _mark(text)


def _escaped(character: str, *, leading: bool = False) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape of a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    combines = leading and unicodedata.category(character).startswith("M")
    if character.isprintable() and not combines and not _INVISIBLE.match(character):
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _mark(text: str) -> str:
    return _LEFT_TO_RIGHT_MARK if any(unicodedata.bidirectional(c) in _RIGHT_TO_LEFT for c in text) else ""


@dataclass(frozen=True)
class Section:
    """Rows of `Columns`: each a label and one cell per heading."""

    title: str
    rows: Sequence[tuple[str, Sequence[str]]]
    note: str = ""


@dataclass(frozen=True)
class Columns:
    """Sections over the same columns. Columns that do not fit the width follow below, with the labels repeated.

    A column that is empty in a section has no heading there.
    """

    headings: Sequence[str]
    sections: Sequence[Section]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Lines of text."""
        rows = [row for section in self.sections for row in section.rows]
        labels = _Column.of("", [section.title for section in self.sections] + [label for label, _ in rows])
        cells = zip(*(cells for _, cells in rows), strict=True)
        columns = [_Column.of(heading, column) for heading, column in zip(self.headings, cells, strict=True)]
        blocks = list(_blocks(columns, options.max_width - labels.width))
        for number, section in enumerate(self.sections):
            for block in blocks:
                if not any(any(cells[block]) for _, cells in section.rows):
                    continue
                if number or block.start:
                    yield Text()
                if section.note and not block.start:
                    yield Text(section.note, style="dim")
                yield from _lines(section, block, labels, columns[block])


@dataclass(frozen=True)
class _Column:
    heading: list[str]
    """Lines of the heading."""
    width: int
    right: bool

    @classmethod
    def of(cls, heading: str, cells: Sequence[str]) -> _Column:
        parts = re.findall(r"[^-_/ ]*[-_/ ]?", heading)
        width = max(cell_len(text.rstrip()) for text in [*parts, *cells])
        lines = [""]
        for part in parts:
            if lines[-1] and cell_len((lines[-1] + part).rstrip()) > width:
                lines.append("")
            lines[-1] += part
        values = [cell for cell in cells if cell not in _NO_NUMBER]
        return cls([line.rstrip() for line in lines], width, bool(values) and all(map(_NUMBER.fullmatch, values)))

    def place(self, cell: str) -> str:
        space = " " * (self.width - cell_len(cell))
        return space + cell if self.right else cell + space


def _blocks(columns: Sequence[_Column], room: int) -> Iterator[slice]:
    """Runs of columns that fit into `room`, each of at least one column."""
    start, used = 0, 0
    for at, column in enumerate(columns):
        if at > start and used + len(_GAP) + column.width > room:
            yield slice(start, at)
            start, used = at, 0
        used += len(_GAP) + column.width
    yield slice(start, len(columns))


def _lines(section: Section, block: slice, labels: _Column, columns: Sequence[_Column]) -> Iterator[Text]:
    rows = [(label, cells[block]) for label, cells in section.rows]
    used = [any(cells[at] for _, cells in rows) for at in range(len(columns))]
    headings = [column.heading if is_used else [] for column, is_used in zip(columns, used, strict=True)]
    for level in range(-max(1, *map(len, headings)), 0):
        heading = [lines[level] if level >= -len(lines) else "" for lines in headings]
        yield _line(section.title if level == -1 else "", heading, labels, columns, "bold")
    for label, cells in rows:
        yield _line(label, cells, labels, columns, "")


def _line(label: str, cells: Sequence[str], labels: _Column, columns: Sequence[_Column], style: str) -> Text:
    placed = [labels.place(label), *(column.place(cell) for column, cell in zip(columns, cells, strict=True))]
    return Text(_GAP.join(placed).rstrip(), style=style)


@dataclass(frozen=True)
class Listing:
    """Rows of a label and words. Wrapped lines start below the first word; a word with spaces is never broken."""

    rows: Sequence[tuple[str, Sequence[str]]]
    indent: str = _GAP

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Lines of text."""
        width = max((cell_len(label) for label, _ in self.rows), default=0)
        for label, words in self.rows:
            line = self.indent + label + " " * (width - cell_len(label)) + _GAP
            first = start = cell_len(line)
            for word in words:
                if first < cell_len(line) and cell_len(line) + 1 + cell_len(word) > options.max_width:
                    yield Text(line)
                    line = " " * start
                line += word if cell_len(line) == start else " " + word
            yield Text(line.rstrip())
