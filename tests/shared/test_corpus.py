"""Reading captions in every corpus format."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from caption_files import CAPTIONS, FORMATS, compressed
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabkit.errors import VocabkitError, VocabkitWarning
from vocabkit.files import records as json_records
from vocabkit.files import records as text_blocks
from vocabkit.shared.corpus import LONGEST, captions

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "<image>" not in text))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the files of many examples, one after the other."""
    return tmp_path_factory.mktemp("corpus")


@pytest.fixture
def blocks_of_16_bytes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_blocks, "BLOCK", 16)
        yield


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path, text_column: str | None = None) -> str:
    with pytest.raises(VocabkitError) as caught:
        list(captions([path], text_column=text_column))
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


# ---- what is a caption -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_same_captions(tmp_path: Path, name: str, compression: str) -> None:
    path = tmp_path / name
    FORMATS[name](path, CAPTIONS)
    if compression:
        path = compressed(path, compression)
    if compression and "parquet" in name:
        assert "Parquet compresses by itself" in refusal(path)
    else:
        assert list(captions([path])) == CAPTIONS


def test_files_of_a_folder_that_are_left_out_are_told(tmp_path: Path) -> None:
    for name in ("a.txt", ".hidden.csv", "b.csv", "c.md"):
        write(tmp_path / name, "a dog")
    with pytest.warns(VocabkitWarning, match=f"^{tmp_path}: 2 files were left out, first b.csv; captions are in files"):
        assert list(captions([tmp_path])) == ["a dog"]


def test_folder_stands_for_its_caption_files_in_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", "second")
    write(tmp_path / "a.jsonl", '{"text": "first"}')
    for other in ("README.md", "image.jpg", "._b.txt", "table.csv"):
        write(tmp_path / other, b"\xff never read")
    (tmp_path / "c.txt").mkdir()
    assert list(captions([tmp_path, tmp_path / "b.txt"])) == ["first", "second", "second"]


def test_pattern_names_files_unless_it_is_one(tmp_path: Path) -> None:
    for name in ("a-0.txt", "a-1.txt", "b[1].txt"):
        write(tmp_path / name, name)
    for pattern, names in (("*.txt", 3), ("a-{0..1}.txt", 2), ("b[1].txt", 1)):
        assert len(list(captions([tmp_path / pattern]))) == names
    with pytest.raises(VocabkitError, match=r"c-\*.txt: no file matches this pattern"):
        list(captions([tmp_path / "c-*.txt"]))


@pytest.mark.parametrize("url", ["s3://bucket/a.txt", "https://example.com/a.jsonl", "simplecache::s3://bucket/a.txt"])
def test_url_is_refused_by_its_name(url: str) -> None:
    for path in (url, Path(url)):
        with pytest.raises(VocabkitError) as caught:
            list(captions([path]))
        assert str(caught.value) == f"{url}: captions are read from disks and pipes; copy it, or pipe it into `-`"


def test_conversation_counts_by_its_answers_without_image_placeholders(tmp_path: Path) -> None:
    turns = [("human", "<image>\nWhat?"), ("gpt", "A cat."), ("human", "Where?"), ("gpt", "<image>\nOn a <image>mat.")]
    record = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    assert list(captions([write(tmp_path / "chat.json", json.dumps([record]))])) == ["A cat.", "On a mat."]


def test_texts_instead_of_objects_are_captions(tmp_path: Path) -> None:
    for name, content in {"a.json": '["a dog",\n"a cat"]', "b.jsonl": '"a dog"\n"a cat"\n'}.items():
        path = write(tmp_path / name, content)
        assert list(captions([path])) == ["a dog", "a cat"]
        assert "is not a JSON object; expected a record with the field 'word'" in refusal(path, "word")


def test_blank_and_null_captions_are_skipped(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "\n \t\r\n\nA\n<image> \n")
    write(tmp_path / "b.jsonl", '{"text": null}\n{"text": ""}\n  \n{"text": "B"}\n')
    write(tmp_path / "c.json", "[]")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "d.parquet")
    write(tmp_path / "e.txt", "")
    assert list(captions([tmp_path])) == ["A", "B"]


def test_first_usual_field_is_default_caption(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", '{"text": "no", "caption": "usual", "alt": "named"}')
    pq.write_table(pa.table({"text": ["no"], "caption": ["usual"], "alt": ["named"]}), tmp_path / "b.parquet")
    assert list(captions([tmp_path])) == ["usual", "usual"]
    assert list(captions([tmp_path], text_column="alt")) == ["named", "named"]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_parquet_column_may_hold_any_kind_of_string(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"text": pa.array(["one", "two", "one"]).cast(kind)}), tmp_path / "a.parquet")
    assert list(captions([tmp_path])) == ["one", "two", "one"]


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    for name in ("captions.txt", "captions.jsonl", "captions.json"):
        FORMATS[name](tmp_path / name, ["A dog."])
        write(tmp_path / name, b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    assert list(captions([tmp_path])) == ["A dog."] * 3


def test_compression_is_told_from_content_and_its_parts_are_joined(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", gzip.compress(b"one\ntw") + gzip.compress(b"o\n"))
    write(tmp_path / "b.txt", "three\n")
    write(tmp_path / "c.txt.zst", compressed(tmp_path / "b.txt", ".zst").read_bytes() * 2)
    assert list(captions([tmp_path / "a.txt", tmp_path / "c.txt.zst"])) == ["one", "two", "three", "three"]


# ---- in blocks ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("blocks_of_16_bytes")
@given(TEXTS)
@settings(deadline=None)
def test_plain_text_is_cut_at_line_ends_only_wherever_blocks_end(folder: Path, lines: list[str]) -> None:
    lines = [part for line in lines for part in line.split("\n")]
    path = write(folder / "lines.txt", "\n".join(lines))
    expected = [line.removesuffix("\r") for line in lines]
    expected[:1] = [first.removeprefix("\ufeff") for first in expected[:1]]
    assert list(captions([path])) == [line for line in expected if line.strip()]


@pytest.mark.usefixtures("blocks_of_16_bytes")
@given(TEXTS, st.sampled_from([None, 0, 1, 40]), st.booleans(), st.sampled_from(["array", "lines"]))
@settings(deadline=None)
def test_json_is_read_same_wherever_blocks_end(
    folder: Path, texts: list[str], indent: int | None, ascii_only: bool, layout: str
) -> None:
    records = [{"n": [i, -1.5e-7, None, True], "caption": text, "": {}} for i, text in enumerate(texts)]
    if layout == "array":
        content = json.dumps(records, indent=indent, ensure_ascii=ascii_only) + "\n"
    else:
        content = "\n".join(json.dumps(record, ensure_ascii=ascii_only) for record in records)
    assert list(captions([write(folder / "records.json", content)])) == [text for text in texts if text.strip()]


@pytest.mark.usefixtures("blocks_of_16_bytes")
def test_json_truncated_anywhere_raises(folder: Path) -> None:
    content = ' [ {"caption" : "d\\u00e9j\\u00e0 \\n vu" , "n": [1, -2.5, true]} , {"caption":"two"} ] '
    end = content.index("]", content.index("two"))
    for length in range(content.index("[") + 1, end + 1):
        assert "is the file truncated?" in refusal(write(folder / "cut.json", content[:length]))
    for whole in (content, content[: end + 1]):
        assert list(captions([write(folder / "whole.json", whole)])) == ["déjà \n vu", "two"]


@pytest.mark.parametrize("joint", [" ", ""])
def test_long_caption_is_cut_between_words(tmp_path: Path, joint: str) -> None:
    long = "word, and  another (one) and more" + " word, and  another (one) and more" * (LONGEST // 10)
    write(tmp_path / "a.txt", long)
    write(tmp_path / "b.json", json.dumps([{"text": long}]))
    pq.write_table(pa.table({"text": [long]}), tmp_path / "c.parquet")
    start, *rest = parts = list(captions([tmp_path / "a.txt"], joint=joint))
    assert len(rest) > 2
    assert max(map(len, parts)) <= LONGEST
    assert " ".join([start, *(part.removeprefix(joint) for part in rest)]) == long
    assert all(before[-1].isalpha() for before in parts)
    assert all(after.startswith(joint) and after.removeprefix(joint)[0].isalpha() for after in rest)
    assert list(captions([tmp_path / "b.json", tmp_path / "c.parquet"], joint=joint)) == parts * 2


@pytest.mark.parametrize("start", ["", " ", "<image>", " <image>"])
@pytest.mark.parametrize("middle", ["", "<image>"])
@pytest.mark.parametrize("end", [" ", "<image> \r", "\n <image> next line"])
def test_placeholders_of_a_long_line_take_white_space_from_its_ends_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, middle: str, end: str
) -> None:
    words = "a boat in the sun <image>and a dog, " * (LONGEST // 20)
    for body in (words, words.replace("<image>", "")):
        line, newline, after = f"{start}{body}{middle}{body}{end}".partition("\n")
        whole = line.removesuffix("\r").replace("<image>", "")
        whole = whole.strip() if "<image>" in line else whole
        for block in (10_007, LONGEST, 10 * LONGEST):
            monkeypatch.setattr(text_blocks, "BLOCK", block)
            parts = list(captions([write(tmp_path / "a.txt", line + newline + after)]))
            if newline:
                assert parts.pop() == "next line"
            first = next(number for number, part in enumerate(parts) if whole.startswith(part))
            assert "".join([parts.pop(first), *parts]) == whole
            assert len(parts) >= 2


def test_placeholder_is_found_wherever_blocks_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "word <image>" * (LONGEST // 5)
    path = write(tmp_path / "a.txt", body)
    for block in range(100_000, 100_012):
        monkeypatch.setattr(text_blocks, "BLOCK", block)
        assert "".join(captions([path])) == body.replace("<image>", "").strip()


def test_long_caption_without_spaces_is_cut_in_same_places_wherever_blocks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.txt", "一匹の猫" * LONGEST + " and more " + "猫" * LONGEST)
    parts = list(captions([path]))
    assert "".join(parts) == path.read_text("utf-8")
    assert max(map(len, parts)) <= LONGEST
    for block in (100_003, LONGEST, 10 * LONGEST):
        monkeypatch.setattr(text_blocks, "BLOCK", block)
        assert list(captions([path])) == parts


def test_progress_rises_with_what_was_read_to_size_of_all_files(tmp_path: Path) -> None:
    for name, write_format in FORMATS.items():
        write_format(tmp_path / name, CAPTIONS * 2000)
    compressed(tmp_path / "captions.txt", ".zst")
    seen: list[tuple[int, int]] = []
    list(captions([tmp_path], progress=lambda what, done, total: seen.append((done, total))))
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    done = [done for done, _ in seen]
    assert done == sorted(done)
    assert len(set(done)) > len(FORMATS)
    assert seen[-1] == (size, size)
    assert {total for _, total in seen} == {size}


# ---- pipes -------------------------------------------------------------------------------------------------------


def piped(path: Path, content: bytes, sizes: Sequence[int] = ()) -> Path:
    """A pipe at `path` that another thread fills with `content`, first in writes of these sizes."""
    os.mkfifo(path)

    def fill() -> None:
        with path.open("wb", buffering=0) as pipe:
            at = 0
            for size in (*sizes, len(content)):
                pipe.write(content[at : at + size])
                at += size

    threading.Thread(target=fill, daemon=True).start()
    return path


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("ending", ["as the file", "none"])
@pytest.mark.parametrize("name", [name for name in FORMATS if "parquet" not in name])
def test_pipe_holds_same_captions_as_file(tmp_path: Path, name: str, ending: str, compression: str) -> None:
    FORMATS[name](tmp_path / name, CAPTIONS)
    path = compressed(tmp_path / name, compression) if compression else tmp_path / name
    (tmp_path / "pipes").mkdir()
    pipe = piped(tmp_path / "pipes" / (path.name if ending == "as the file" else "pipe"), path.read_bytes(), [1, 1, 7])
    assert list(captions([pipe])) == CAPTIONS


def test_text_in_brackets_out_of_pipe_is_text(tmp_path: Path) -> None:
    for number, line in enumerate(["[laughs] A dog.", "{a} dog", "[1] dog"]):
        assert list(captions([piped(tmp_path / str(number), line.encode())])) == [line]


def test_empty_pipe_holds_no_captions(tmp_path: Path) -> None:
    assert list(captions([piped(tmp_path / "pipe", b"")])) == []


def test_progress_of_pipe_rises_with_what_was_read(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "A dog.\n" * 1000)
    seen: list[tuple[int, int]] = []
    pipe = piped(tmp_path / "pipe", b"A cat.\n" * 500_000)
    list(captions([pipe, tmp_path / "a.txt"], progress=lambda what, done, total: seen.append((done, total))))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len({done for done, _ in seen}) > 3
    assert all(done <= total for done, total in seen)
    assert seen[-1] == (3_507_000, 3_507_000)


# ---- bad input ---------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, bytes, str]] = {
    "unknown format": ("captions.csv", b"1,a dog", "unknown format; its name must end in .txt, .json"),
    "no ending": ("captions", b"a dog", "unknown format"),
    "compressed, no format": ("captions.gz", gzip.compress(b"a"), "unknown format"),
    "latin-1": ("a.txt", b"caf\xc3\xa9, caf\xe9 au lait", "not UTF-8 at byte 10"),
    "half a character at the end": ("a.txt", b"caf\xc3", "not UTF-8 at byte 3"),
    "latin-1 in JSON": ("a.jsonl", b'{"text": "caf\xe9"}', "not UTF-8 at byte 13"),
    "broken line": ("a.jsonl", b'\n{"text": "a"}\n\n{"text"', "line 4: not valid JSON"),
    "line without field": (
        "a.jsonl",
        b'{"caption": "a"}\n{"url": "x", "size": 1}',
        "line 2 has no field caption, text",
    ),
    "fields with text": ("a.jsonl", b'{"url": "x", "size": 1}', "it has fields with text: 'url'; name one in `text_"),
    "no field with text": ("a.json", b'{"annotations": [{"caption": "a"}]}', "it has no field with text"),
    "no object": ("a.jsonl", b"7", "line 1 is not a JSON object"),
    "array of arrays": ("a.json", b'[["a"]]', "record 1 is not a JSON object"),
    "half a surrogate pair as a caption": ("a.json", b'["\\ud83c"]', "record 1: 'caption' holds half a surrogate pair"),
    "pretty object": ("a.json", b'{\n"caption": "a"\n}', "line 1: not valid JSON"),
    "number": ("a.jsonl", b'{"caption": 7}', "line 1: 'caption' holds int"),
    "list": ("a.jsonl", b'{"caption": ["a", "b"]}', "line 1: 'caption' holds list"),
    "turn without text": ("a.json", b'[{"conversations": [{"from": "gpt"}]}]', "record 1: 'conversations' holds None"),
    "half a surrogate pair": ("a.json", b'[{"text": "\\ud83d"}]', "record 1: 'text' holds half a surrogate pair"),
    "comma missing": ("a.json", b'[{"text": "a"} {"text": "b"}]', "record 2: not valid JSON"),
    "comma too many": ("a.json", b'[{"text": "a"},]', "record 2: not valid JSON"),
    "comma first": ("a.json", b'[,{"text": "a"}]', "record 1: not valid JSON"),
    "more after the array": ("a.json", b'[{"text": "a"}] x', "after record 1: not valid JSON"),
    "control character": ("a.json", b'[{"text": "a\nb"}]', "record 1: not valid JSON"),
    "deep array": ("a.json", b"[" * 1_000_000, "record 1: not valid JSON"),
    "deep object": ("a.jsonl", b'{"a":' * 1_000_000, "line 1: not valid JSON"),
    "endless number": ("a.json", b'[{"n": ' + b"9" * 10_000, "record 1: not valid JSON"),
    "no Parquet": ("a.parquet", b"PAR1 not at all", "damaged Parquet file"),
    "empty Parquet": ("a.parquet", b"", "damaged Parquet file"),
    "no gzip": ("a.txt.gz", b"a dog", "not compressed with gzip"),
    "bad gzip": ("a.txt.gz", b"\x1f\x8b\x08" + bytes(60), "damaged or truncated gzip"),
    "bytes after gzip": ("a.txt.gz", gzip.compress(b"a dog") + b"???", "damaged or truncated gzip"),
    "no zstd": ("a.txt.zst", b"", "not compressed with zstd"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_named_with_its_place(tmp_path: Path, case: str) -> None:
    name, content, problem = REFUSED[case]
    assert problem in refusal(write(tmp_path / name, content))


@pytest.mark.usefixtures("blocks_of_16_bytes")
def test_place_of_invalid_utf_8_does_not_depend_on_blocks(tmp_path: Path) -> None:
    for before in range(40):
        path = write(tmp_path / "a.txt", b"x" * before + "é".encode() + b"\xc3(")
        assert f"not UTF-8 at byte {before + 2} " in refusal(path)


@pytest.mark.parametrize(("ending", "told_by"), [(".gz", 2), (".zst", 4)])
def test_compressed_file_truncated_anywhere_raises(tmp_path: Path, ending: str, told_by: int) -> None:
    FORMATS["captions.txt"](tmp_path / "a.txt", CAPTIONS)
    content = compressed(tmp_path / "a.txt", ending).read_bytes()
    for length in range(len(content)):
        path = write(tmp_path / f"cut.txt{ending}", content[:length])
        assert ("damaged or truncated" if length >= told_by else "not compressed with") in refusal(path)


def test_damaged_parquet_file_is_read_or_refused_never_traceback(tmp_path: Path) -> None:
    FORMATS["captions.parquet"](tmp_path / "a.parquet", CAPTIONS)
    content = (tmp_path / "a.parquet").read_bytes()
    for at in range(len(content)):
        path = write(tmp_path / "b.parquet", content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        with contextlib.suppress(VocabkitError):
            list(captions([path]))
    for length in range(0, len(content), 7):
        assert "damaged Parquet file" in refusal(write(tmp_path / "c.parquet", content[:length]))


def test_missing_or_non_text_column_is_named(tmp_path: Path) -> None:
    numbers = pa.table({"caption": [1, 2], "code": pa.array(["a", "b"], pa.string()).cast(pa.binary())})
    pq.write_table(numbers, tmp_path / "a.parquet")
    assert "column 'caption' is 'int64', expected text" in refusal(tmp_path / "a.parquet")
    assert "column 'code' is 'binary', expected text" in refusal(tmp_path / "a.parquet", "code")
    assert "has no column 'alt'; it has no column with text" in refusal(tmp_path / "a.parquet", "alt")
    pq.write_table(pa.table({"text": [["a"], ["b"]]}), tmp_path / "b.parquet")
    assert "column 'text' is 'list<" in refusal(tmp_path / "b.parquet")
    assert "record 1 has no field 'alt'; it has fields with text: 'text'" in refusal(
        write(tmp_path / "a.json", '[{"text": "a"}]'), "alt"
    )
    assert "plain text has no field 'alt'" in refusal(write(tmp_path / "a.txt", "a"), "alt")


def test_endless_record_raises_before_filling_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "_LONGEST_RECORD", 1 << 20)
    record = '{"text": "' + "a" * (1 << 22)
    assert "line 1 is longer than 1,048,576 characters" in refusal(write(tmp_path / "a.jsonl", record))
    assert "record 1 is longer than 1,048,576 characters" in refusal(write(tmp_path / "a.json", "[" + record))


def test_device_or_missing_file_raises(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.txt")
    assert "no such file" in refusal(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "no file in this folder ends in .txt, .json" in refusal(tmp_path / "empty")
    os.mkfifo(tmp_path / "pipe.parquet")
    assert "a pipe can't do; write it to a file" in refusal(tmp_path / "pipe.parquet")
    assert "is a pipe or device" in refusal(Path("/dev/zero"))
