"""Scripts and lengths of tokens, and how examples are chosen."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabkit.shared.overlap import LENGTHS, PARTIAL_UTF8, length_classes, scripts, varied


def script_of(token: bytes) -> str:
    codes, names = scripts(pa.array([token], pa.binary()))
    return names[codes[0]]


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("the", "Latin"), (" the", "Latin"), ("é", "Latin"), ("1st", "Latin"), ("x_1", "Latin"), ("ª", "Latin"),
        ("ﬁ", "Latin"), ("Ａ", "Latin"), ("𝑒", "Latin"), ("K", "Latin"), ("Ⅷ", "Latin"),
        ("λ", "Greek"), ("µ", "Greek"), ("Ω", "Greek"), ("щ", "Cyrillic"), ("ש", "Hebrew"), ("ع", "Arabic"),
        ("年", "Han"), ("々", "Han"), ("𠀀", "Han"), ("カ", "Katakana"), ("ｶ", "Katakana"), ("ー", "Katakana"),
        ("か", "Hiragana"), ("이", "Hangul"), ("र", "Devanagari"), ("ᐅ", "Canadian Syllabics"), ("ᚠ", "Runic"),
        ("𐰇", "Old Turkic"), ("ᱚ", "Ol Chiki"),
        ("12", "digits"), ("²", "digits"), ("½", "symbols"), ("①", "digits"), ("٣", "digits"),
        (" ", "whitespace"), ("\n\t", "whitespace"), ("\u00a0", "whitespace"),
        ("!?", "symbols"), ("_", "symbols"), ("€", "symbols"), ("😀", "symbols"), ("\u200b", "symbols"),
        ("\u0301", "symbols"), ("ʼ", "symbols"), ("ˇ", "symbols"), ("\x00", "symbols"), ("\ue000", "symbols"),
    ],
)  # fmt: skip
def test_first_letter_decides_script(text: str, script: str) -> None:
    assert script_of(text.encode()) == script


@pytest.mark.parametrize("token", [b"\xe5\xb9", b"\xb4", b"ab\xff", b"\xed\xa0\x80", b"\xc0\x80"])
def test_invalid_utf8_has_no_script(token: bytes) -> None:
    assert script_of(token) == PARTIAL_UTF8


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(min_size=1, max_size=20) | st.text(min_size=1, max_size=8).map(lambda t: t.encode())))
def test_every_token_has_one_script_and_one_length(tokens: list[bytes]) -> None:
    array = pa.array(tokens, pa.binary())
    codes, names = scripts(array)
    assert len(codes) == len(tokens)
    assert set(codes.tolist()) == set(range(len(names)))
    assert [names[code] for code in codes] == list(map(script_of, tokens))
    for token, length in zip(tokens, length_classes(array).tolist(), strict=True):
        low, _, high = LENGTHS[length].partition("-")
        assert int(low.removesuffix("+")) <= len(token)
        assert low.endswith("+") or len(token) <= int(high or low)


def test_examples_take_one_of_each_class_in_turn_and_largest_class_first() -> None:
    rows = np.array([10, 11, 12, 13, 14, 15])
    classes = np.array([7, 2, 2, 7, 7, 0])
    assert varied(rows, classes, 6).tolist() == [10, 11, 15, 13, 12, 14]
    assert varied(rows, classes, 2).tolist() == [10, 11]
    assert varied(rows, classes, 0).tolist() == []
    assert varied(rows[:0], classes[:0], 3).tolist() == []
