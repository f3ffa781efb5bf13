"""SharedVocabulary: reading ids, selecting rows, adding tokenizers, and its file."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from arrow_files import arrow_file, documented_fingerprint, forged, metadata_of, rewritten
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabularies import Drawn, chat_vocabulary, content, groups, refusal, text_vocabulary, vocabularies

from vocabkit.shared.align import align
from vocabkit.shared.align_words import align_words
from vocabkit.shared.shared_vocabulary import Selection, SharedVocabulary, make_shared, open_shared, parse_shared
from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.vocabulary import Vocabulary

generated = settings(deadline=None, max_examples=60)


def of(group: list[Drawn]) -> list[Vocabulary]:
    """The vocabularies of a generated group."""
    return [drawn.vocabulary for drawn in group]


@st.composite
def shared_vocabularies(draw: st.DrawFn) -> SharedVocabulary:
    """An alignment of generated vocabularies, with and without gaps, roles and counts."""
    group = draw(groups(most=4))
    at_least = draw(st.integers(1, len(group)))
    shared = align(of(group), at_least=at_least, special_roles=draw(st.booleans()))
    if draw(st.booleans()):
        counts = draw(st.lists(st.integers(0, 2**62), min_size=len(shared), max_size=len(shared)))
        shared = shared.with_counts(np.array(counts, np.int64))
    return shared


def rows_of(draw: st.DataObject, shared: SharedVocabulary) -> list[int]:
    """Some rows in some order."""
    return draw.draw(st.lists(st.integers(0, len(shared) - 1), unique=True), label="rows")


def union() -> SharedVocabulary:
    """Token x in both, y in a, z in b."""
    return align([text_vocabulary("a", b"x", b"y"), text_vocabulary("b", b"z", b"x")], at_least=1)


# ---- reading -----------------------------------------------------------------------------------------------------


def test_ids_are_read_where_tokenizer_has_all_rows_and_refused_where_it_lacks_some() -> None:
    shared = union()
    assert "a lacks 1 of 3 rows of this union; take only_with('a') or mask_for('a') first" in refusal(
        shared.ids_for, "a"
    )
    assert shared.mask_for("a").tolist() == [True, True, False]
    assert shared.ids_with_gaps("a").tolist() == [0, 1, -1]
    assert shared.only_with("a").ids_for("a").tolist() == [0, 1]


@pytest.mark.parametrize("method", ["ids_for", "ids_with_gaps", "mask_for", "only_with"])
def test_unknown_tokenizer_raises_with_known_names(method: str) -> None:
    message = refusal(getattr(union(), method), "gemma")
    assert message == "gemma is not in this shared vocabulary; it holds a, b"


def test_text_is_null_where_bytes_are_not_valid_utf_8_and_nothing_lies_under_null() -> None:
    tokens = ["é".encode(), b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", "😀".encode(), b"x"]
    shared = align([text_vocabulary("a", *tokens), text_vocabulary("b", *tokens)])
    text = shared.table["text"].chunk(0)
    assert text.to_pylist() == ["é", None, None, None, "😀", "x"]
    assert bytes(text.buffers()[2]) == "é😀x".encode()


@generated
@given(shared_vocabularies())
def test_columns_are_as_documented_and_agree_with_each_other(shared: SharedVocabulary) -> None:
    names = ["token", "text", "count", *(f"id:{name}" for name in shared.names)]
    types = [pa.binary(), pa.string(), pa.int64(), *(pa.int32() for _ in shared.names)]
    assert [(field.name, field.type) for field in shared.table.schema] == list(zip(names, types, strict=True))
    for token, text in zip(shared.tokens.to_pylist(), shared.table["text"].to_pylist(), strict=True):
        assert (text is None) == (token.decode("utf-8", "replace").encode() != token)
        assert text is None or text.encode() == token
    for name in shared.names:
        ids = shared.table[f"id:{name}"].to_pylist()
        assert shared.ids_with_gaps(name).tolist() == [-1 if i is None else i for i in ids]
        assert shared.mask_for(name).tolist() == [i is not None for i in ids]
        if None not in ids:
            assert shared.ids_for(name).tolist() == ids
    assert shared.counts is None or shared.counts.tolist() == shared.table["count"].to_pylist()


def test_arrays_cannot_change_it() -> None:
    counts = np.array([3, 2, 1])
    shared = union().with_counts(counts)
    before = shared.fingerprint
    counts[0] = 99
    assert shared.counts is not None
    ids = shared.only_with("a").ids_for("a")
    for array in (shared.counts, ids):
        array[0] = 7
    assert shared.counts.tolist() == [3, 2, 1]
    assert dataclasses.replace(shared).fingerprint == before
    ids = np.zeros((2, 1), np.int32)
    made = make_shared(tokens=pa.array([b"x"]), ids=ids, tokenizers=shared.tokenizers, selection=shared.selection)
    ids[0] = 99
    assert made.ids_for("a").tolist() == [0]


def two() -> list[Vocabulary]:
    """Two tokenizers with two tokens and a role in common."""
    return [chat_vocabulary("a", b"x", b"y"), chat_vocabulary("b", b"y", b"w", b"x")]


# ---- choosing rows -----------------------------------------------------------------------------------------------


@generated
@given(shared_vocabularies(), st.data())
def test_selected_rows_are_those_rows_in_that_order_and_roles_follow(
    shared: SharedVocabulary, data: st.DataObject
) -> None:
    rows = rows_of(data, shared)
    chosen = shared.select(rows)
    table = shared.table.to_pylist()
    assert chosen.table.to_pylist() == [table[row] for row in rows]
    assert chosen.roles == {role: rows.index(row) for role, row in shared.roles.items() if row in rows}
    assert chosen.tokenizers == shared.tokenizers


@generated
@given(shared_vocabularies(), st.data())
def test_rows_that_some_tokenizers_have_are_all_that_have_no_gap_there(
    shared: SharedVocabulary, data: st.DataObject
) -> None:
    names = data.draw(st.lists(st.sampled_from(shared.names), unique=True), label="names")
    kept = content(shared.only_with(*names))
    assert kept == {key: ids for key, ids in content(shared).items() if set(names) <= set(ids)}


def test_only_with_no_names_keeps_every_row() -> None:
    assert content(union().only_with()) == content(union())


@pytest.mark.parametrize("rows", [[0, 3], [-1], [1, 1]])
def test_rows_outside_or_given_twice_raise(rows: list[int]) -> None:
    assert refusal(union().select, rows) == "rows to select must be distinct and within 0..2"


@pytest.mark.parametrize("rows", [np.array([True, False, True]), [0.5], [[0]], ["0"]])
def test_masks_and_non_integer_rows_raise(rows: object) -> None:
    assert refusal(union().select, rows).startswith("rows to select must be a list of row numbers")


def test_record_of_selection_stays_true() -> None:
    counted = union().with_counts(np.array([70, 20, 5]))
    record = Selection(at_least=1, order="count", corpus="c.txt, counted with a", corpus_tokens=100, mass_kept=0.95)
    ranked = counted.select([0, 1, 2], record)
    assert ranked.selection == record
    assert ranked.select([0, 2]).selection == dataclasses.replace(record, mass_kept=0.75)
    assert ranked.select([2, 0]).selection == dataclasses.replace(record, mass_kept=0.75, order="given")
    assert union().select([0, 2]).selection == union().selection


@pytest.mark.parametrize("counts", [np.zeros(2, np.int64), np.array([1, 2, -1]), np.array([0.5, 1, 2])])
def test_invalid_counts_raise(counts: np.ndarray) -> None:
    assert refusal(union().with_counts, counts) == "counts must be 3 integers from 0, one per row"


# ---- one more tokenizer ------------------------------------------------------------------------------------------


@generated
@given(groups(most=4), vocabularies("z"), st.data())
def test_extending_looks_each_row_up_in_new_tokenizer(group: list[Drawn], new: Drawn, data: st.DataObject) -> None:
    at_least = data.draw(st.integers(1, len(group)), label="at_least")
    shared = align(of(group), at_least=at_least, special_roles=True)
    extended = shared.extend(new.vocabulary)
    assert extended.names == [*shared.names, "z"]
    assert extended.table.select(shared.table.column_names).equals(shared.table)
    has = new.ids() | dict(new.vocabulary.roles)
    before = content(shared)
    assert content(extended) == {key: ids | ({"z": has[key]} if key in has else {}) for key, ids in before.items()}


@generated
@given(groups(least=3, most=4))
def test_extending_intersection_and_dropping_gaps_is_aligning_with_it(group: list[Drawn]) -> None:
    *first, last = of(group)
    extended = align(first, special_roles=True).extend(last).only_with(last.name)
    assert extended.table.equals(align([*first, last], special_roles=True).table)


@generated
@given(groups(least=3, most=4))
def test_extending_union_gives_first_rows_of_union_with_it(group: list[Drawn]) -> None:
    *first, last = of(group)
    extended = align(first, at_least=1).extend(last)
    whole = align([*first, last], at_least=1)
    assert whole.table.slice(0, len(extended)).equals(extended.table)


def test_extending_by_existing_name_raises() -> None:
    assert refusal(union().extend, text_vocabulary("b", b"x")) == "b is already in this shared vocabulary"


# ---- fingerprint -------------------------------------------------------------------------------------------------


@generated
@given(shared_vocabularies())
def test_fingerprint_is_documented_one(shared: SharedVocabulary) -> None:
    selection = dataclasses.asdict(shared.selection)
    assert selection.pop("unreachable") is None
    tokenizers = [dataclasses.asdict(info) for info in shared.tokenizers]
    assert all(info.pop("origin") is info.pop("given_roles") is None for info in tokenizers)
    records = {
        "tokenizers": tokenizers,
        "selection": selection,
        "roles": dict(shared.roles),
    }
    assert shared.fingerprint == documented_fingerprint(shared.table, **records)


@generated
@given(shared_vocabularies(), st.data())
def test_other_rows_or_another_order_have_another_fingerprint(shared: SharedVocabulary, data: st.DataObject) -> None:
    rows = rows_of(data, shared)
    same = rows == list(range(len(shared)))
    assert (shared.select(rows, shared.selection).fingerprint == shared.fingerprint) == same


def test_everything_that_file_says_is_part_of_fingerprint() -> None:
    shared = align(two(), special_roles=True)
    info = shared.tokenizers[0]
    others = [
        shared.with_counts(np.zeros(len(shared), np.int64)),
        dataclasses.replace(shared, selection=dataclasses.replace(shared.selection, order="given")),
        dataclasses.replace(shared, roles={"bos": 3, "eos": 2}),
        *(
            dataclasses.replace(shared, tokenizers=(dataclasses.replace(info, **change), shared.tokenizers[1]))
            for change in ({"source": "s"}, {"fingerprint": "sha256:"}, {"size": 99}, {"embedding_rows": 99})
        ),
    ]
    assert len({shared.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


# ---- the file ----------------------------------------------------------------------------------------------------


@generated
@given(shared_vocabularies())
def test_file_round_trips(shared: SharedVocabulary) -> None:
    read = parse_shared(shared.to_bytes(), "f")
    assert read.table.to_pylist() == shared.table.to_pylist()
    assert (read.tokenizers, read.selection, read.roles) == (shared.tokenizers, shared.selection, shared.roles)
    assert read.fingerprint == shared.fingerprint


@generated
@given(shared_vocabularies(), st.data())
def test_same_content_has_same_bytes(shared: SharedVocabulary, data: st.DataObject) -> None:
    rows = rows_of(data, shared)
    file = shared.select(rows).to_bytes()
    assert parse_shared(file, "f").to_bytes() == file
    assert parse_shared(rewritten(file, rows_per_batch=2), "f").to_bytes() == file
    whole = shared.select(range(len(shared)))
    assert whole.select(rows).to_bytes() == file
    assert whole.to_bytes() == shared.to_bytes()


@pytest.mark.parametrize("options", [{"compression": "lz4"}, {"compression": "zstd"}, {"rows_per_batch": 1}])
def test_fingerprint_depends_neither_on_compression_nor_on_chunks(options: dict[str, object]) -> None:
    shared = align(two(), at_least=1, special_roles=True)
    assert parse_shared(rewritten(shared.to_bytes(), **options), "f").fingerprint == shared.fingerprint


@pytest.mark.parametrize("of_words", [False, True])
def test_wider_types_of_other_programs_are_read(*, of_words: bool) -> None:
    shared = align_words(["llama3", "qwen2"], {"a": 1, "banjo": 2}) if of_words else align(two(), special_roles=True)
    ids = pa.large_list(pa.field("element", pa.int64(), nullable=False)) if of_words else pa.int64()
    types = [pa.large_binary(), pa.large_string(), pa.int64(), ids, ids]
    table = shared.table.cast(pa.schema(list(zip(shared.table.column_names, types, strict=True))))
    metadata = {key: value for key, value in metadata_of(shared.to_bytes()).items() if key != "vocabkit.checksum"}
    read = parse_shared(arrow_file(table, metadata), "f")
    assert read.table.equals(shared.table)


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.string()), pa.string_view()])
def test_types_whose_values_can_share_bytes_are_refused(kind: pa.DataType) -> None:
    shared = align(two())
    table = shared.table.set_column(1, "text", shared.table["text"].cast(kind))
    assert "are not as expected" in refusal(parse_shared, forged(shared, table), "f")


def test_file_on_disk_is_one_uncompressed_record_batch_with_documented_metadata(tmp_path: Path) -> None:
    path = tmp_path / "shared.arrow"
    shared = align(two(), special_roles=True)
    shared.save(path)
    assert path.read_bytes() == shared.to_bytes()
    with pa.memory_map(str(path)) as source:
        assert pa.ipc.open_file(source).num_record_batches == 1
    metadata = metadata_of(path.read_bytes())
    a, b = two()
    assert metadata.pop("vocabkit.checksum").startswith("file-sha256:")
    assert metadata == {
        "vocabkit.fingerprint": shared.fingerprint,
        "vocabkit.format": "shared-vocabulary/1",
        "vocabkit.roles": '{"bos":2,"eos":3}',
        "vocabkit.selection": '{"at_least":2,"corpus":null,"corpus_tokens":null,"mass_kept":null,"order":"id:a"}',
        "vocabkit.tokenizers": (
            f'[{{"embedding_rows":null,"fingerprint":"{a.fingerprint}","name":"a","size":4,"source":"a.json"}},'
            f'{{"embedding_rows":null,"fingerprint":"{b.fingerprint}","name":"b","size":5,"source":"b.json"}}]'
        ),
    }


def test_non_unicode_source_name_round_trips() -> None:
    a, b = two()
    shared = align([dataclasses.replace(a, source="half \udc80.json"), b])
    read = parse_shared(shared.to_bytes(), "f")
    assert (read.tokenizers[0].source, read.fingerprint) == ("half ?.json", shared.fingerprint)


# ---- real size ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 109,566 tokens that Qwen2.5 and LLaMA3 share."""
    path = tmp_path_factory.mktemp("real") / "shared.arrow"
    real().save(path)
    return path


@cache
def real() -> SharedVocabulary:
    """Qwen2.5 and LLaMA3."""
    return align([resolve("qwen2.5").vocabulary, resolve("llama3").vocabulary])


def test_real_file_round_trips(real_file: Path) -> None:
    opened = open_shared(real_file)
    assert opened.table.equals(real().table)
    assert opened.fingerprint == real().fingerprint


def test_opening_copies_no_column(real_file: Path) -> None:
    before = pa.total_allocated_bytes()
    opened = open_shared(real_file)
    allocated = pa.total_allocated_bytes() - before
    assert len(opened) == 109_566
    assert allocated < 10_000 < real_file.stat().st_size


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
def test_columns_lie_in_mapped_file_and_ids_become_numpy_without_copy(real_file: Path) -> None:
    opened = open_shared(real_file)
    maps = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in maps if line.endswith(str(real_file))]
    mapped = [range(int(start, 16), int(end, 16)) for start, end in spans]

    def is_mapped(start: int, size: int) -> bool:
        return any(start in span and start + size - 1 in span for span in mapped)

    for column in opened.table.columns:
        (chunk,) = column.chunks
        buffers = [buffer for buffer in chunk.buffers() if buffer is not None and buffer.size]
        assert all(is_mapped(buffer.address, buffer.size) for buffer in buffers)


def test_ids_convert_to_torch_without_warning(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    align(two()).with_counts(np.array([3, 2])).save(tmp_path / "two.arrow")
    opened = open_shared(tmp_path / "two.arrow")
    for array in (opened.ids_for("a"), opened.ids_with_gaps("b"), opened.mask_for("a"), opened.counts):
        assert torch.from_numpy(array).tolist() == array.tolist()


def test_tokens_are_found_by_bytes_and_by_text() -> None:
    shared = align([text_vocabulary("a", b"x", "é".encode(), b"\xff"), text_vocabulary("b", b"\xff", "é".encode())])
    assert list(shared) == ["é".encode(), b"\xff"]
    assert "é" in shared
    assert b"\xff" in shared
    assert b"x" not in shared
    assert "" not in shared
    assert 1 not in shared
    assert [shared.row_of(shared[row]) for row in range(len(shared))] == [0, 1]
    assert shared[-1] == b"\xff"
    with pytest.raises(KeyError):
        shared.row_of("x")
    with pytest.raises(IndexError):
        shared[2]


def test_to_pandas_has_integers_and_gaps() -> None:
    pytest.importorskip("pandas")
    shared = union()
    frame = shared.to_pandas()
    assert list(frame.columns) == shared.to_arrow().column_names
    assert frame["id:a"].tolist() == [None if i is None else i for i in frame["id:a"].tolist()]
    assert [None if value is frame["id:a"].dtype.na_value else value for value in frame["id:a"]] == shared.table[
        "id:a"
    ].to_pylist()


def test_to_pandas_without_pandas_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert "pip install pandas" in refusal(union().to_pandas)


def test_no_rows_at_all_can_be_selected() -> None:
    assert len(union().select([])) == 0


def test_repr_is_one_short_line() -> None:
    assert repr(align(two())) == f"SharedVocabulary(a, b: {len(align(two()))} rows)"


BUILD = """
import sys
from pathlib import Path
from vocabkit.shared.align import align
from vocabkit.shared.align_words import align_words
from vocabkit.tokenizer.catalog import resolve
vocabularies = [resolve(name).vocabulary for name in ("qwen2.5", "llama3", "mistral-v3")]
align(vocabularies, at_least=2, special_roles=True).save(Path(sys.argv[1]))
"""


def test_two_fresh_processes_write_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / "one.arrow", tmp_path / "two.arrow"]
    for path, seed in zip(paths, ("1", "2"), strict=True):
        subprocess.run([sys.executable, "-c", BUILD, path], env={"PYTHONHASHSEED": seed}, check=True)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(open_shared(paths[0])) > 109_566
