"""verify finds and names every kind of wrong row, and accepts what align makes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabularies import Drawn, by_name, groups, refusal, text_vocabulary

from vocabkit.shared.align import align
from vocabkit.shared.shared_vocabulary import SharedVocabulary, open_shared
from vocabkit.shared.verify import Verdict, verify
from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary, make_vocabulary

generated = settings(deadline=None, max_examples=60)
TOKENS = (b"x", b"y", b"y", b"", b"<s>", b"<eos>")
KINDS = (Kind.TEXT, Kind.TEXT, Kind.TEXT, Kind.TEXT, Kind.SPECIAL, Kind.SPECIAL)


def tokenizer(name: str, **changes: Any) -> Vocabulary:
    """Text x and y (two ids), an empty piece, special tokens with the roles bos and eos."""
    kinds, roles = np.array(KINDS, np.uint8), {"bos": 4, "eos": 5}
    parts = {"name": name, "source": name, "tokens": TOKENS, "kinds": kinds, "roles": roles, **changes}
    return make_vocabulary(**parts)


A, B = tokenizer("a"), text_vocabulary("b", b"x", b"y", b"z", b"<s>")


def shared() -> SharedVocabulary:
    """Rows: x, y, bos, eos of the first; z and the text <s> of the second."""
    return align([A, B], at_least=1, special_roles=True)


def with_column(column: str, *values: Any) -> SharedVocabulary:
    """The same with another column."""
    table = shared().table
    position = table.column_names.index(column)
    array = pa.array(values, table.schema.field(column).type)
    return dataclasses.replace(shared(), table=table.set_column(position, column, array))


def problems(wrong: SharedVocabulary, a: Vocabulary = A) -> list[str]:
    """What verify finds wrong."""
    return list(verify(wrong, {"a": a, "b": B}).problems)


def test_rows_are_ones_that_these_tests_change() -> None:
    assert shared().tokens.to_pylist() == [b"x", b"y", b"z", b"<s>", b"", b""]
    assert shared().table["id:a"].to_pylist() == [0, 1, None, None, 4, 5]
    assert shared().table["id:b"].to_pylist() == [0, 1, 2, 3, None, None]
    assert problems(shared()) == []


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([1, 1, None, None, 4, 5], "0 is b'x', which is id 0, but the file has id 1 (text b'y')"),
        ([6, 1, None, None, 4, 5], "0 is b'x', which is id 0, but the file has id 6, beyond the tokenizer's 6 ids"),
        ([None, 1, None, None, 4, 5], "0 is b'x', which is id 0, but the file has none"),
        ([0, 1, 3, None, 4, 5], "2 is b'z', which this tokenizer lacks, but the file has id 3 (text b'')"),
        ([0, 1, None, 4, 4, 5], "3 is b'<s>', which this tokenizer lacks, but the file has id 4 (special b'<s>')"),
        ([0, 1, None, None, 5, 5], "4 is role bos, which is id 4, but the file has id 5 (special b'<eos>')"),
        ([0, 1, None, None, 4, 3], "5 is role eos, which is id 5, but the file has id 3 (text b'')"),
        ([0, 1, None, None, 4, None], "5 is role eos, which is id 5, but the file has none"),
    ],
    ids=["wrong", "outside", "null", "lacking", "special", "role", "text for role", "role null"],
)  # fmt: skip
def test_wrong_id_is_named_with_what_it_should_be(ids: list[int | None], says: str) -> None:
    assert problems(with_column("id:a", *ids)) == [f"a: row {says}"]


def test_tokenizer_of_another_version_is_named_and_its_rows_are_checked_all_same() -> None:
    same_ids = tokenizer("a", roles={"bos": 4, "eos": 5, "pad": 5})
    verdict = verify(shared(), {"a": same_ids, "b": B})
    assert verdict.passed
    assert [line.split(" (")[0] for line in verdict.notes] == ["a: built with another version of this tokenizer"]
    verdict = verify(shared(), {"a": tokenizer("a", tokens=(b"y", b"x", *TOKENS[2:])), "b": B})
    assert "another version" in verdict.notes[0]
    assert len(verdict.problems) == 2
    assert verdict.problems[0] == "a: row 0 is b'x', which is id 1, but the file has id 0 (text b'y')"


def test_alias_is_right_and_noted() -> None:
    verdict = verify(with_column("id:a", 0, 2, None, None, 4, 5), {"a": A, "b": B})
    assert verdict.passed
    (line,) = verdict.notes
    assert line.endswith("that encode does not give, such as row 1 b'y': 2, where encode gives 1")


def test_rows_that_repeat_token_are_named() -> None:
    twice = with_column("token", b"x", b"x", b"z", b"<s>", b"", b"")
    assert "rows 0 and 1 are both b'x'" in problems(twice)


def test_many_wrong_rows_are_counted_and_first_ten_listed() -> None:
    tokens = [b"%d" % i for i in range(30)]
    a, b = text_vocabulary("a", *tokens), text_vocabulary("b", *tokens)
    other = align([a, b])
    table = other.table.set_column(4, "id:b", pa.array(np.roll(np.arange(30), 1), pa.int32()))
    found = verify(dataclasses.replace(other, table=table), {"a": a, "b": b}).problems
    assert len(found) == 11
    assert found[-1] == "b: and 20 more rows"
    table = table.set_column(0, "token", pa.array([b"1"] * 30))
    repeated = verify(dataclasses.replace(other, table=table), {"a": a, "b": b}).problems
    assert "rows 0 and 1 are both b'1'" in repeated
    assert repeated[-1] == "and 19 more rows repeat a token"


# ---- columns without gaps, whose tokens are compared all at once -------------------------------------------------

FULL = tokenizer("full", tokens=(b"x", b"y", b"y", b"x", b"<s>", b"<eos>", b"<pad>", b"z"),
                 kinds=np.array([*KINDS[:3], Kind.SPECIAL, *KINDS[4:], Kind.SPECIAL, Kind.TEXT], np.uint8),
                 roles={"bos": 4, "eos": 5, "pad": 6})  # fmt: skip
TWIN = dataclasses.replace(FULL, name="twin")


def verdict_on(*ids: int | None) -> Verdict:
    """What verify says if one of two equal tokenizers has these ids for x, y, z, bos, eos and pad."""
    made = align([FULL, TWIN], special_roles=True)
    assert made.table["id:full"].to_pylist() == [0, 1, 7, 4, 5, 6]
    position = made.table.column_names.index("id:full")
    table = made.table.set_column(position, "id:full", pa.array(ids, pa.int32()))
    return verify(dataclasses.replace(made, table=table), {"full": FULL, "twin": TWIN})


def test_full_column_with_an_alias_passes_with_a_note() -> None:
    verdict = verdict_on(0, 2, 7, 4, 5, 6)
    assert verdict.passed
    assert len(verdict.notes) == 1


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ((7, 1, 7, 4, 5, 6), ["row 0 is b'x', which is id 0, but the file has id 7 (text b'z')"]),
        ((0, 1, 8, 4, 5, 6), ["row 2 is b'z', which is id 7, but the file has id 8, beyond the tokenizer's 8 ids"]),
        ((3, 1, 7, 4, 5, 6), ["row 0 is b'x', which is id 0, but the file has id 3 (special b'x')"]),
        ((0, 1, 7, 5, 4, 6), [
            "row 3 is role bos, which is id 4, but the file has id 5 (special b'<eos>')",
            "row 4 is role eos, which is id 5, but the file has id 4 (special b'<s>')",
        ]),
        ((0, 1, 7, 4, 5, 7), ["row 5 is role pad, which is id 6, but the file has id 7 (text b'z')"]),
        ((0, 1, None, 4, 5, 6), ["row 2 is b'z', which is id 7, but the file has none"]),
    ],
    ids=["last id", "id of the size", "special of the same bytes", "swapped", "last id for a role", "last id left out"],
)  # fmt: skip
def test_wrong_id_in_a_full_column_is_named(ids: tuple[int | None, ...], says: list[str]) -> None:
    assert verdict_on(*ids).problems == tuple(f"full: {each}" for each in says)


def test_missing_tokenizer_raises() -> None:
    assert refusal(verify, shared(), {"a": A}) == "tokenizer b of this shared vocabulary is not given"


@generated
@given(groups(most=4), st.data())
def test_aligned_and_selected_rows_pass(group: list[Drawn], data: st.DataObject) -> None:
    at_least = data.draw(st.integers(1, len(group)), label="at_least")
    made = align(list(by_name(group).values()), at_least=at_least, special_roles=True)
    assert verify(made, by_name(group)) == Verdict((), ())
    rows = data.draw(st.lists(st.integers(0, len(made) - 1), unique=True), label="rows")
    assert verify(made.select(rows), by_name(group)) == Verdict((), ())


@generated
@given(groups(most=3), st.data())
def test_any_changed_id_is_found(group: list[Drawn], data: st.DataObject) -> None:
    made = align(list(by_name(group).values()), at_least=1, special_roles=True)
    name = data.draw(st.sampled_from(made.names), label="tokenizer")
    row = data.draw(st.integers(0, len(made) - 1), label="row")
    ids = made.table[f"id:{name}"].to_pylist()
    changes = st.integers(0, 2**31 - 1) | st.integers(0, len(by_name(group)[name]) - 1) | st.none()
    vocabulary = by_name(group)[name]
    meaning = None if ids[row] is None else vocabulary.canonical[ids[row]]

    def differs(value: int | None) -> bool:
        if value is None or meaning is None or value >= len(vocabulary):
            return value != ids[row]
        return bool(vocabulary.canonical[value] != meaning)

    ids[row] = data.draw(changes.filter(differs), label="id")
    position = made.table.column_names.index(f"id:{name}")
    table = made.table.set_column(position, f"id:{name}", pa.array(ids, pa.int32()))
    found = verify(dataclasses.replace(made, table=table), by_name(group)).problems
    assert len(found) == 1
    assert found[0].startswith(f"{name}: row {row} is ")


def test_real_file_is_right_about_its_tokenizers_and_wrong_about_others(tmp_path: Path) -> None:
    vocabularies = {name: resolve(name).vocabulary for name in ("qwen2", "llama3")}
    align(list(vocabularies.values()), special_roles=True).save(tmp_path / "shared.arrow")
    opened = open_shared(tmp_path / "shared.arrow")
    assert verify(opened, vocabularies) == Verdict((), ())
    confused = {"qwen2": resolve("qwen2").vocabulary, "llama3": resolve("llama4").vocabulary}
    verdict = verify(opened, confused)
    assert "llama3: built with another version of this tokenizer" in verdict.notes[0]
    assert len(verdict.problems) == 10 + 1
