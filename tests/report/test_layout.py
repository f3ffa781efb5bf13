"""Building blocks of terminal reports: escaped text, columns and lists."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_map_files import small
from rich.cells import cell_len
from rich.console import Console, RenderableType

from vocabkit.report.layout import Columns, Listing, Section, printable, show_token
from vocabkit.shared.explain import parse_token

MARK = "\u200e"


def lines(renderable: RenderableType, width: int = 40) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (b" the", "' the'"),
        ("é年".encode(), "'é年'"),
        (b"\n\t\r", r"'\n\t\r'"),
        (b"\x1b[31m\x07\x7f", r"'\x1b[31m\x07\x7f'"),
        ("\u009b31m".encode(), r"'\u009b31m'"),
        (b"[red]x[/red]", "'[red]x[/red]'"),
        (b"\\n", r"'\\n'"),
        (b"it's", '"it\'s"'),
        (b"'\"", "'\\'\"'"),
        (b"\xe5\xb9", r"'\xe5\xb9'"),
        ("年".encode() + b"\xe5", r"'年\xe5'"),
        (b"\xed\xa0\x80", r"'\xed\xa0\x80'"),
        ("\u00a0\u200b\u202e\ufeff".encode(), r"'\u00a0\u200b\u202e\ufeff'"),
        ("a\ufe0f\U000e0101".encode(), r"'a\ufe0f\U000e0101'"),
        ("\u0301e\u0301".encode(), "'\\u0301e\u0301'"),
        ("ש".encode(), "'ש'" + MARK),
    ],
)
def test_token_is_quoted_with_invisible_characters_escaped(token: bytes, shown: str) -> None:
    assert show_token(token) == shown


@settings(deadline=None, max_examples=300)
@given(st.binary(min_size=1, max_size=12) | st.text(min_size=1, max_size=12).map(lambda text: text.encode()))
def test_shown_token_parses_back(token: bytes) -> None:
    shown = show_token(token, 1000).removesuffix(MARK)
    assert all(character.isprintable() for character in shown)
    assert parse_token(shown[1:-1], small([b"a"])) == token


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=60), st.integers(8, 40))
def test_shortened_text_keeps_to_its_width(text: str, width: int) -> None:
    for shown in (show_token(text.encode(errors="surrogateescape"), width), printable(text, width)):
        assert all(character.isprintable() or character == MARK for character in shown)
        assert cell_len(shown) <= width + 1
    assert (printable(text, width).removesuffix(MARK) == printable(text).removesuffix(MARK)) == (
        cell_len(printable(text)) <= width
    )


def test_names_are_shortened_in_the_middle() -> None:
    assert printable("mistralai/Mistral-7B-Instruct-v0.3", 20) == "mistralai…truct-v0.3"


def test_right_to_left_text_ends_with_a_mark() -> None:
    assert printable("שלום") == "שלום" + MARK
    assert unicodedata.bidirectional(MARK) == "L"
    assert show_token(b"abc").isprintable()


def test_numbers_are_right_aligned_and_text_left_aligned() -> None:
    columns = Columns(["n", "text"], [Section("row", [("a", ["1", "x"]), ("bb", ["1,234", "-"]), ("c", ["-", "yy"])])])
    assert lines(columns) == ["row      n  text", "a        1  x", "bb   1,234  -", "c        -  yy"]


def test_sections_share_their_columns_and_empty_ones_have_no_heading() -> None:
    columns = Columns(
        ["first", "second"],
        [
            Section("long title", [("a", ["1", "2"])]),
            Section("b", [("c", ["12345678", ""])], note="a note"),
        ],
    )
    assert lines(columns) == [
        "long title     first  second",
        "a                  1       2",
        "",
        "a note",
        "b              first",
        "c           12345678",
    ]


def test_long_headings_are_stacked() -> None:
    columns = Columns(["mistral-tekken", "shared by all"], [Section("row", [("a", ["1", "123,456"])])])
    assert lines(columns) == ["     mistral-   shared", "row    tekken   by all", "a           1  123,456"]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_columns_that_do_not_fit_wrap_with_their_labels(width: int) -> None:
    headings = [f"tokenizer{i}" for i in range(10)]
    shown = lines(Columns(headings, [Section("row", [("label", [str(i) for i in range(10)])])]), width)
    assert max(map(len, shown)) <= width
    blocks = [line for line in shown if line.startswith("label")]
    assert " ".join(line.removeprefix("label") for line in blocks).split() == [str(i) for i in range(10)]
    assert [heading for line in shown if line.startswith("row") for heading in line.split()[1:]] == headings
    assert shown.count("") == len(blocks) - 1


def test_listing_wraps_below_the_first_word_and_keeps_words_whole() -> None:
    listing = Listing([("a", ["' one two'", "'three'", "' four five'"]), ("long", ["six"]), ("年", [])])
    assert lines(listing, 30) == [
        "  a     ' one two' 'three'",
        "        ' four five'",
        "  long  six",
        "  年",
    ]
    assert lines(Listing([]), 30) == []
