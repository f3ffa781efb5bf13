"""JSON of results: stable keys, and output that is safe for parsers and terminals."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_map_files import small

from vocabkit.report.as_json import to_json
from vocabkit.shared.audit import audit
from vocabkit.shared.explain import explain
from vocabkit.shared.overlap import overlap
from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.vocabulary import Kind


def shape(value: Any) -> Any:
    """Keys of objects, and the type of the rest; lists by their first element without a null."""
    if isinstance(value, dict) and value.keys() == {"hex", "text"}:
        return "bytes"
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        shapes = [shape(item) for item in value]
        return [next((each for each in shapes if "NoneType" not in str(each)), shapes[0])] if shapes else []
    return type(value).__name__


PIECES = [{"id": "int", "token": "bytes"}]
SPELLED = [{"token": "bytes", "pieces": PIECES}]
BREAKDOWN = [{"label": "str", "distinct": ["int"], "shared_by_all": "int"}]
OVERLAP = {
    "tokenizers": [
        {
            "name": "str",
            "source": "str",
            "size": "int",
            "kinds": {"text": "int", "byte": "int", "special": "int", "unused": "int"},
            "distinct": "int",
            "partial_utf8": "int",
            "in_no_other": "int",
            "lacks": {"count": "int", "examples": SPELLED},
            "aliases": "int",
            "alias_examples": [{"token": "bytes", "ids": ["int"]}],
            "special_without_role": ["str"],
            "embedding_rows": "int",
            "width": "int",
            "notes": [],
            "mass_shared_by_all": "float",
            "unreachable": {"count": "int", "shared_by_all": "int", "examples": []},
        }
    ],
    "shared_by_all": "int",
    "shared_by_all_partial_utf8": "int",
    "union": "int",
    "shared": [["int"]],
    "coverage": [["float"]],
    "jaccard": [["float"]],
    "mass": [["float"]],
    "by_kind": BREAKDOWN,
    "by_script": BREAKDOWN,
    "by_length": BREAKDOWN,
    "roles": [{"role": "str", "tokens": [{"id": "int", "spelling": "str"}]}],
}
EXPLANATION = {
    "token": "bytes",
    "findings": [
        {
            "name": "str",
            "id": "NoneType",
            "kind": "NoneType",
            "aliases": [],
            "lookalikes": [{"id": "int", "kind": "str", "roles": ["str"]}],
            "pieces": PIECES,
        }
    ],
    "shared": "bool",
    "reason": "str",
    "hints": [{"how": "str", "token": "bytes", "found_in": ["str"]}],
}
CASES = [
    {
        "source_id": "int",
        "source_token": "bytes",
        "target_id": "int",
        "target_token": "bytes",
        "expected_id": "int",
        "reason": "str",
    }
]
AUDIT = {
    "source": "str",
    "target": "str",
    "pairs": "int",
    "expected": "int",
    "right": "int",
    "wrong": "int",
    "unjudged": "int",
    "missed": "int",
    "by_reason": dict.fromkeys(
        ["same bytes", "alias", "same role", "other bytes", "special", "no such id", "no role"], "int"
    ),
    "wrong_examples": CASES,
    "missed_examples": [{**CASES[0], "target_id": "NoneType", "target_token": "NoneType"}],
}


def test_overlap_json_has_its_keys() -> None:
    vocabularies = [resolve(name).vocabulary for name in ("smollm2-135m", "mistral-v1")]
    counts = {v.name: np.ones(len(v), np.int64) for v in vocabularies}
    found = json.loads(to_json(overlap(vocabularies, reachability=True, counts=counts)))
    smollm, mistral = found["tokenizers"]
    merged = {**smollm, "alias_examples": mistral["alias_examples"]}
    assert shape({**found, "tokenizers": [merged]}) == OVERLAP
    assert list(found) == list(OVERLAP)
    assert list(smollm) == list(mistral) == list(OVERLAP["tokenizers"][0])  # type: ignore[index]


def test_explanation_json_has_its_keys() -> None:
    found = json.loads(to_json(explain(b"<eos>", [resolve("gemma3").vocabulary, small([b" <eos>"])])))
    assert shape(found) == EXPLANATION
    assert list(found) == list(EXPLANATION)


def test_audit_json_has_its_keys() -> None:
    found = json.loads(to_json(audit([(0, 1)], small([b"a", b"b"], name="a"), small([b"a", b"b"], name="b"))))
    assert shape(found) == AUDIT
    assert list(found) == list(AUDIT)


def test_bytes_become_hex_and_text_if_utf_8() -> None:
    assert json.loads(to_json([b" \xc3\xa9", b"\xff", b""])) == [
        {"hex": "20c3a9", "text": " é"},
        {"hex": "ff", "text": None},
        {"hex": "", "text": ""},
    ]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), np.float64("nan"), np.array([1.0, np.inf])])
def test_nonfinite_numbers_become_null(number: Any) -> None:
    text = to_json({"value": number})
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} in JSON"))
    assert "null" in text


def test_arrays_paths_and_dataclasses_become_plain() -> None:
    @dataclass(frozen=True)
    class Result:
        kind: Kind
        path: Path
        rows: np.ndarray
        share: np.float32
        names: tuple[str, ...]

    result = Result(Kind.BYTE, Path("a/b"), np.array([[1, 2]], np.int32), np.float32(0.5), ("x",))
    assert json.loads(to_json(result)) == {"kind": 1, "path": "a/b", "rows": [[1, 2]], "share": 0.5, "names": ["x"]}


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.text(alphabet=st.characters()), st.text(alphabet=st.characters()) | st.binary(), max_size=3))
def test_any_text_and_bytes_survive_and_print_safely(value: dict[str, str | bytes]) -> None:
    text = to_json(value)
    assert all(character.isprintable() or character == "\n" for character in text)
    text.encode()
    for key, item in json.loads(text).items():
        own = value[key]
        assert (bytes.fromhex(item["hex"]) if isinstance(own, bytes) else item) == own


@pytest.mark.parametrize("text", ["\ud800", "a\udcff", "\x1b[31m", "\x9b31m", "\u202e", "\u2028", "\U000e0041"])
def test_halves_of_surrogate_pairs_and_control_characters_are_escaped(text: str) -> None:
    shown = to_json([text])
    assert shown.isascii()
    assert json.loads(shown) == [text]


def test_readable_text_stays_readable() -> None:
    assert to_json("é年 שלום 😀") == '"é年 שלום 😀"'
