"""Our Arrow files: any damage is detected, and files rewritten by other programs are read."""

from __future__ import annotations

import json
import os
import random
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from arrow_files import arrow_file, forged, metadata_of, rewritten
from vocabularies import chat_vocabulary, content, refusal, text_vocabulary

from vocabkit.arrow.arrow_file import parse_table, read_table, table_bytes, write_table
from vocabkit.errors import VocabkitError
from vocabkit.shared.align import align
from vocabkit.shared.shared_vocabulary import SharedVocabulary, open_shared, parse_shared
from vocabkit.tokenizer import snapshot


@cache
def small() -> SharedVocabulary:
    """A union with gaps, roles, counts and a token that is not UTF-8."""
    a = chat_vocabulary("a", b"x", b"\xff", b"y", "é".encode(), roles=("bos", "eos"))
    b = chat_vocabulary("b", b"y", b"\xff", b"q", "é".encode(), roles=("bos",))
    union = align([a, b], at_least=1, special_roles=True)
    return union.with_counts(np.arange(len(union)))


# ---- damage ------------------------------------------------------------------------------------------------------


def opens(file: bytes | bytearray) -> bool:
    """Whether the bytes pass for a shared vocabulary. Anything but a refusal on one line fails the test."""
    try:
        parse_shared(bytes(file), "f.arrow")
    except VocabkitError as error:
        message = str(error)
    else:
        return True
    assert message.startswith("f.arrow: ")
    assert message.isprintable()
    return False


def test_every_flipped_bit_is_detected() -> None:
    file = small().to_bytes()
    assert opens(file)
    for position in range(len(file)):
        for bit in range(8):
            flipped = bytearray(file)
            flipped[position] ^= 1 << bit
            assert not opens(flipped), f"bit {bit} of byte {position}"


def test_any_other_value_of_any_byte_is_detected() -> None:
    file, chance = small().to_bytes(), random.Random(0)
    for position in range(len(file)):
        changed = bytearray(file)
        changed[position] = chance.choice([value for value in range(256) if value != file[position]])
        assert not opens(changed), f"{changed[position]} at byte {position}"


def test_truncation_at_every_length_is_detected() -> None:
    file = small().to_bytes()
    for length in range(len(file)):
        assert not opens(file[:length]), f"first {length} bytes"


@pytest.mark.parametrize("added", [b"\0", b"ARROW1", b"x" * 100])
def test_bytes_added_at_end_are_detected(added: bytes) -> None:
    assert not opens(small().to_bytes() + added)


def test_damage_raises_on_one_line_that_names_file(tmp_path: Path) -> None:
    path = tmp_path / "shared.arrow"
    file = bytearray(small().to_bytes())
    file[len(file) // 2] ^= 1
    path.write_bytes(file)
    assert refusal(open_shared, path) == f"{path}: damaged (its bytes don't match its checksum); build it again"


def test_without_checksum_flipped_bit_never_changes_what_is_read() -> None:
    """Padding and Arrow's own fields may change; content may not, and Arrow's parser may not crash."""
    original, chance = small(), random.Random(0)
    file = rewritten(original.to_bytes())
    opened = 0
    for position in range(len(file)):
        flipped = bytearray(file)
        flipped[position] ^= 1 << chance.randrange(8)
        if opens(flipped):
            opened += 1
            read = parse_shared(bytes(flipped), "f.arrow")
            assert read.fingerprint == original.fingerprint
            assert content(read) == content(original)
            assert read.table.to_pydict() == original.table.to_pydict()
    assert 0 < opened < len(file)


def test_without_checksum_truncation_at_every_length_is_detected() -> None:
    file = rewritten(small().to_bytes())
    for length in range(len(file)):
        assert not opens(file[:length]), f"first {length} bytes"


def test_token_like_checksum_raises_on_writing(
    tmp_path: Path,
) -> None:
    token = b"file-sha256:" + b"0" * 64
    shared = align([text_vocabulary("a", b"x", token), text_vocabulary("b", b"x", token)])
    assert "like the file's checksum" in refusal(shared.save, tmp_path / "shared.arrow")
    assert list(tmp_path.iterdir()) == []
    harmless = align([text_vocabulary("a", b"x", token[:-1]), text_vocabulary("b", b"x", token[:-1])])
    assert parse_shared(harmless.to_bytes(), "f").tokens.to_pylist() == [b"x", token[:-1]]


# ---- rewritten by other programs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"compression": "lz4"}, {"compression": "zstd"}, {"rows_per_batch": 2}, {}])
def test_file_rewritten_by_another_program_opens_with_same_fingerprint(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "shared.arrow"
    path.write_bytes(rewritten(small().to_bytes(), **options))
    opened = open_shared(path)
    assert opened.fingerprint == small().fingerprint
    assert content(opened) == content(small())
    assert opened.to_bytes() == small().to_bytes()


def test_bytes_under_nulls_are_ignored() -> None:
    table = small().table
    text, ids = table["text"].chunk(0), table["id:b"].chunk(0)
    under_text = pa.Array.from_buffers(
        pa.string(), len(text), [text.buffers()[0], *pa.array(["x", "under", "y", "é", "q", "", ""]).buffers()[1:]]
    )
    under_ids = pa.Array.from_buffers(
        pa.int32(), len(ids), [ids.buffers()[0], pa.array([77, 1, 0, 3, 2, 4, 77], pa.int32()).buffers()[1]]
    )
    other = table.set_column(1, "text", under_text).set_column(4, "id:b", under_ids)
    assert other.equals(table)
    file = arrow_file(other, metadata_of(rewritten(small().to_bytes())))
    assert file != rewritten(small().to_bytes())
    assert parse_shared(file, "f").to_bytes() == small().to_bytes()


def test_metadata_of_other_programs_is_ignored() -> None:
    file = rewritten(small().to_bytes(), {"pandas": "{}", "other.vocabkit.format": "9"})
    assert parse_shared(file, "f").fingerprint == small().fingerprint


def test_rewrite_that_keeps_old_checksum_raises() -> None:
    file = small().to_bytes()
    stale = arrow_file(pa.ipc.open_file(file).read_all(), metadata_of(file), compression="lz4")
    assert "don't match its checksum" in refusal(parse_shared, stale, "f")


def changed(column: str, values: list[Any]) -> pa.Table:
    """The small table with another column."""
    table = small().table
    position = table.column_names.index(column)
    return table.set_column(position, column, pa.array(values, table.schema.field(column).type))


CHANGES = {
    "token": [b"x", b"\xfe", b"y", "é".encode(), b"q", b"", b""],
    "text": ["x", None, "z", "é", "q", "", ""],
    "count": [0, 1, 2, 3, 4, 5, 7],
    "id:a": [0, 1, 2, 3, 0, 4, 5],
    "id:b": [None, 1, 0, 3, 2, 4, 0],
}


@pytest.mark.parametrize("column", CHANGES)
def test_rewrite_that_changed_column_raises(column: str) -> None:
    table = changed(column, CHANGES[column])
    assert not table.equals(small().table)
    metadata = metadata_of(rewritten(small().to_bytes()))
    assert refusal(parse_shared, arrow_file(table, metadata), "f").startswith("f: ")


def test_rewrite_that_changed_records_raises() -> None:
    roles = json.loads(metadata_of(small().to_bytes())["vocabkit.roles"])
    swapped = {"bos": roles["eos"], "eos": roles["bos"]}
    file = rewritten(small().to_bytes(), {"vocabkit.roles": json.dumps(swapped)})
    assert "does not match its fingerprint" in refusal(parse_shared, file, "f")
    renamed = metadata_of(small().to_bytes())["vocabkit.selection"].replace("id:a", "id:b")
    file = rewritten(small().to_bytes(), {"vocabkit.selection": renamed})
    assert "does not match its fingerprint" in refusal(parse_shared, file, "f")


def test_rewrite_that_moved_rows_or_columns_raises() -> None:
    table, metadata = small().table, metadata_of(rewritten(small().to_bytes()))
    moved = table.take(list(reversed(range(len(table)))))
    assert refusal(parse_shared, arrow_file(moved, metadata), "f")
    reordered = table.select([*table.column_names[:3], "id:b", "id:a"])
    assert "columns" in refusal(parse_shared, arrow_file(reordered, metadata), "f")


# ---- other files -------------------------------------------------------------------------------------------------


def test_newer_format_raises_with_upgrade_advice() -> None:
    file = rewritten(small().to_bytes(), {"vocabkit.format": "shared-vocabulary/3"})
    message = refusal(parse_shared, file, "f")
    assert "shared-vocabulary format '3'; this vocabkit reads format 2" in message
    assert message.endswith("pip install -U vocabkit")


def test_snapshot_and_shared_vocabulary_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    snapshot.write(path, text_vocabulary("a", b"x"), snapshot.Provenance("a.json", "0" * 64))
    assert "is the vocabulary of one tokenizer, expected a shared vocabulary" in refusal(open_shared, path)
    small().save(path)
    assert "expected the vocabulary of one tokenizer" in refusal(snapshot.read, path)


def test_arrow_file_of_another_program_raises() -> None:
    file = arrow_file(pa.table({"token": [b"x"]}), {})
    assert "an Arrow file of another program" in refusal(parse_shared, file, "f")


@pytest.mark.parametrize("file", [b"", b"ARROW1", b"ARROW1\0\0", b"PK\3\4" + bytes(99), b'{"model": {}}', b"PAR1" * 9])
def test_file_of_another_kind_raises(tmp_path: Path, file: bytes) -> None:
    path = tmp_path / "shared.arrow"
    path.write_bytes(file)
    assert refusal(open_shared, path).startswith(f"{path}: ")


def test_missing_file_and_folder_raise(tmp_path: Path) -> None:
    assert refusal(open_shared, tmp_path / "none.arrow").endswith("no such file")
    assert "is a folder" in refusal(open_shared, tmp_path)


def test_device_raises() -> None:
    assert refusal(open_shared, Path(os.devnull)).startswith(f"{os.devnull}: ")


# ---- records that contradict the columns, under a fingerprint that fits -----------------------------------------


def entries(**changes: Any) -> list[dict[str, Any]]:
    """The records of the tokenizers, the first of them changed."""
    first, *others = json.loads(metadata_of(small().to_bytes())["vocabkit.tokenizers"])
    return [{key: value for key, value in {**first, **changes}.items() if value is not ...}, *others]


def selection(**changes: Any) -> dict[str, Any]:
    """The record of the selection, changed."""
    return json.loads(metadata_of(small().to_bytes())["vocabkit.selection"]) | changes


def test_forged_file_with_true_records_opens() -> None:
    assert parse_shared(forged(small()), "f").fingerprint == small().fingerprint


NONSENSE: dict[str, tuple[dict[str, Any], str]] = {
    "tokenizers a number": ({"tokenizers": 5}, "tokenizers is not as expected"),
    "tokenizers null": ({"tokenizers": None}, "tokenizers is not as expected"),
    "tokenizers an object": ({"tokenizers": {"a": {}}}, "tokenizers is not as expected"),
    "no tokenizers": ({"tokenizers": []}, "columns"),
    "a tokenizer is a text": ({"tokenizers": ["a", "b"]}, "tokenizers is not as expected"),
    "name missing": ({"tokenizers": entries(name=...)}, "missing required field `name`"),
    "name a number": ({"tokenizers": entries(name=1)}, "$[0].name"),
    "name empty": ({"tokenizers": entries(name="")}, "can't name a tokenizer"),
    "name with escapes": ({"tokenizers": entries(name="a\x1b[31m")}, "can't name a tokenizer"),
    "one name twice": ({"tokenizers": entries(name="b")}, "columns"),
    "source null": ({"tokenizers": entries(source=None)}, "$[0].source"),
    "fingerprint a list": ({"tokenizers": entries(fingerprint=[])}, "$[0].fingerprint"),
    "size a text": ({"tokenizers": entries(size="6")}, "$[0].size"),
    "size zero": ({"tokenizers": entries(size=0)}, "$[0].size"),
    "size too small": ({"tokenizers": entries(size=5)}, "column id:a has ids outside 0..4"),
    "size huge": ({"tokenizers": entries(size=10**30)}, "$[0].size"),
    "embedding rows negative": ({"tokenizers": entries(embedding_rows=-1)}, "$[0].embedding_rows"),
    "embedding rows true": ({"tokenizers": entries(embedding_rows=True)}, "$[0].embedding_rows"),
    "selection a list": ({"selection": [1]}, "selection is not as expected"),
    "at_least a text": ({"selection": selection(at_least="1")}, "$.at_least"),
    "at_least zero": ({"selection": selection(at_least=0)}, "at_least is 0 for 2 tokenizers"),
    "at_least beyond": ({"selection": selection(at_least=3)}, "at_least is 3 for 2 tokenizers"),
    "order null": ({"selection": selection(order=None)}, "$.order"),
    "corpus a number": ({"selection": selection(corpus=1)}, "$.corpus"),
    "corpus tokens negative": ({"selection": selection(corpus_tokens=-1)}, "$.corpus_tokens"),
    "mass above one": ({"selection": selection(mass_kept=1.5)}, "$.mass_kept"),
    "mass not a number": ({"selection": selection(mass_kept=float("nan"))}, "selection is not as expected"),
    "roles a list": ({"roles": [5, 6]}, "roles is not as expected"),
    "role outside": ({"roles": {"bos": 5, "eos": 7}}, "its roles do not match"),
    "role negative": ({"roles": {"bos": -1, "eos": 6}}, "roles is not as expected"),
    "role a text": ({"roles": {"bos": "5", "eos": 6}}, "roles is not as expected"),
    "role of a text row": ({"roles": {"bos": 0, "eos": 6}}, "its roles do not match"),
    "two roles of one row": ({"roles": {"bos": 5, "eos": 5}}, "its roles do not match"),
    "role missing": ({"roles": {"bos": 5}}, "its roles do not match"),
}  # fmt: skip


@pytest.mark.parametrize("case", NONSENSE)
def test_invalid_records_raise_on_one_line(case: str) -> None:
    records, says = NONSENSE[case]
    message = refusal(parse_shared, forged(small(), **records), "f")
    assert message.startswith("f: ")
    assert says in message


COLUMNS: dict[str, tuple[pa.Table, str]] = {
    "token null": (changed("token", [None, b"\xff", b"y", "é".encode(), b"q", b"", b""]), "column token has nulls"),
    "text of another token": (changed("text", CHANGES["text"]), "column text does not match"),
    "text missing": (changed("text", ["x", None, None, "é", "q", "", ""]), "column text does not match"),
    "text where there is none": (changed("text", ["x", "ÿ", "y", "é", "q", "", ""]), "column text does not match"),
    "count null": (changed("count", [0, 1, 2, 3, 4, 5, None]), "column count"),
    "count negative": (changed("count", [0, 1, 2, 3, 4, 5, -2]), "column count"),
    "id outside": (changed("id:a", [0, 1, 2, 3, None, 4, 6]), "column id:a has ids outside 0..5"),
    "id negative": (changed("id:a", [0, -1, 2, 3, None, 4, 5]), "column id:a has ids outside 0..5"),
    "column missing": (small().table.drop_columns(["count"]).append_column("count", [[0] * 7]), "columns"),
    "column more": (small().table.append_column("id:c", pa.array([0] * 7, pa.int32())), "columns"),
    "column twice": (small().table.append_column("id:a", pa.array([0] * 7, pa.int32())), "columns"),
    "dictionary": (small().table.set_column(0, "token", small().table["token"].dictionary_encode()), "columns"),
}  # fmt: skip


@pytest.mark.parametrize("case", COLUMNS)
def test_invalid_columns_raise_on_one_line(case: str) -> None:
    table, says = COLUMNS[case]
    message = refusal(parse_shared, forged(small(), table), "f")
    assert message.startswith("f: ")
    assert says in message


def test_two_tokenizers_and_columns_of_one_name_raise() -> None:
    twice = small().table.rename_columns(["token", "text", "count", "id:b", "id:b"])
    file = forged(small(), twice, tokenizers=entries(name="b"))
    assert "two of its tokenizers have one name" in refusal(parse_shared, file, "f")


@pytest.mark.parametrize("value", ["", "{", '{"deep": ' + "[" * 100_000, '{"a": NaN}', '"\\ud800"', "\x00"])
@pytest.mark.parametrize("key", ["tokenizers", "selection", "roles"])
def test_non_json_records_raise(key: str, value: str) -> None:
    file = rewritten(small().to_bytes(), {f"vocabkit.{key}": value})
    assert f"metadata vocabkit.{key} is not as expected" in refusal(parse_shared, file, "f")


def test_missing_record_or_fingerprint_raises() -> None:
    for key in ("tokenizers", "selection", "roles", "fingerprint", "format"):
        metadata = metadata_of(rewritten(small().to_bytes()))
        del metadata[f"vocabkit.{key}"]
        assert refusal(parse_shared, arrow_file(small().table, metadata), "f").startswith("f: ")


def test_non_utf_8_metadata_raises() -> None:
    sink = pa.BufferOutputStream()
    table = small().table.replace_schema_metadata({b"vocabkit.format": b"\xff"})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert "damaged" in refusal(parse_shared, bytes(sink.getvalue()), "f")


# ---- the envelope itself -----------------------------------------------------------------------------------------


def test_metadata_order_does_not_change_bytes() -> None:
    table, metadata = pa.table({"n": pa.chunked_array([[1, 2], [3]])}), {"format": "t/1", "b": "2", "a": "1"}
    one = table_bytes(table, metadata, None)
    assert one == table_bytes(table.combine_chunks(), dict(reversed(metadata.items())), None)
    assert parse_table(bytes(one), "f", "t")[0]["n"].to_pylist() == [1, 2, 3]


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_only_requested_columns_are_read(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "t.arrow"
    write_table(path, pa.table({"a": [1], "b": [2], "c": [3]}), {"format": "t/1", "note": "é"}, compression)
    table, metadata = read_table(path, "t", ["c", "z", "a"])
    assert table.to_pydict() == {"a": [1], "c": [3]}
    assert (metadata["format"], metadata["note"]) == ("t/1", "é")


def test_open_file_keeps_its_content_when_replaced(tmp_path: Path) -> None:
    path = tmp_path / "shared.arrow"
    small().save(path)
    opened = open_shared(path)
    align([text_vocabulary("c", b"new"), text_vocabulary("d", b"new")]).save(path)
    assert content(opened) == content(small())
    shutil.rmtree(tmp_path)
    assert content(opened) == content(small())
