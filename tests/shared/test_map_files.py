"""The two layouts of index maps, and invalid files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from index_map_files import LLAMA_MAP, QWEN_MAP, RANKED_LLAMA_MAP, refusal, written

from vocabkit.shared.maps import read_map


def test_both_layouts_read_same(tmp_path: Path) -> None:
    plain = read_map(written(tmp_path, LLAMA_MAP))
    assert plain == list(LLAMA_MAP.items())
    assert read_map(written(tmp_path, RANKED_LLAMA_MAP)) == plain


def test_rows_follow_rank_not_place_in_file(tmp_path: Path) -> None:
    assert read_map(written(tmp_path, RANKED_LLAMA_MAP[::-1])) == list(LLAMA_MAP.items())


def test_file_may_escape_its_spellings_or_start_with_byte_order_mark(tmp_path: Path) -> None:
    escaped = written(tmp_path, json.dumps(QWEN_MAP, ensure_ascii=True, indent=4))
    marked = tmp_path / "marked.json"
    marked.write_text(json.dumps(QWEN_MAP, ensure_ascii=False), "utf-8-sig")
    assert read_map(escaped) == read_map(marked) == list(QWEN_MAP.items())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
        ('"text"', "not an index map"),
        ("12", "not an index map"),
        ("null", "not an index map"),
        ("{}", "holds no rows"),
        ("[]", "holds no rows"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' appears twice"),
        ('{"a": 1, "a": 1}', "'a' appears twice"),
        ('{"a": "1"}', "'a' has \"1\" for an id"),
        ('{"a": 1.0}', "'a' has 1.0 for an id"),
        ('{"a": NaN}', "'a' has NaN for an id"),
        ('{"a": true}', "'a' has true for an id"),
        ('{"a": null}', "'a' has null for an id"),
        ('{"a": -1}', "'a' has -1 for an id"),
        ('{"a": 9223372036854775808}', "for an id"),
        ('{"a": [1, 0]}', "a list or object for an id"),
        ('{"a": {"b": 1}}', "a list or object for an id"),
        ('{"a\\nb\\u001b[31m": -1}', "'a\\nb\\x1b[31m' has -1"),
        ('{"\\ud800": 1}', "'\\ud800' is not valid Unicode"),
        ("[1]", "entry 0 of the list"),
        ('["a"]', "entry 0 of the list"),
        ("[[]]", "entry 0 of the list"),
        ("[{}]", "entry 0 of the list"),
        ('[["a", [1, 0]]]', "entry 0 of the list"),
        ('[{"a": [1, 0]}, {"b": 2}]', "entry 1 of the list"),
        ('[{"a": [1, 0], "b": [2, 1]}]', "entry 0 of the list"),
        ('[{"a": [1, 0, 0]}]', "entry 0 of the list"),
        ('[{"a": [1, "0"]}]', "entry 0 of the list"),
        ('[{"a": [1, 0]}, {"b": [2, 2]}]', "rank 1 is missing"),
        ('[{"a": [1, 1]}]', "rank 0 is missing"),
        ('[{"a": [1, -1]}]', "rank 0 is missing"),
        ('[{"a": [1, 0]}, {"b": [2, 0]}]', "'a' and 'b' both have rank 0"),
        ('[{"a": [1, 0]}, {"a": [2, 1]}]', "'a' appears twice"),
        ('[{"a": [-1, 0]}]', "'a' has -1 for an id"),
    ],
)
def test_invalid_map_raises_on_one_line(tmp_path: Path, content: str, says: str) -> None:
    assert says in refusal(read_map, written(tmp_path, content))


def test_invalid_file_raises(tmp_path: Path) -> None:
    assert "no such file" in refusal(read_map, tmp_path / "absent.json")
    assert "is a folder" in refusal(read_map, tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\xd8{}\x80")
    assert "not JSON" in refusal(read_map, tmp_path / "binary.json")
