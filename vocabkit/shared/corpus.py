"""Captions read from files, in memory that doesn't grow with the corpus.

The format follows from the ending of the name (before `.gz` or `.zst`): `.txt` holds one caption per line, `.parquet` a
column of them, and `.json`, `.jsonl` and `.ndjson` records: an array of objects, as LLaVA writes it, or one object per
line; a string instead of an object is a caption itself. Compression is detected from a file's first bytes. A folder
means the files in it with these endings (a warning tells of others), and a pattern, such as part-{00..15}.txt or
*.jsonl, the files that it names.

`-` is standard input. It, and pipes whose name has none of these endings, hold records if they begin like JSON, else
one caption per line. Parquet can't be read from a pipe, because reading starts at its end.

In a record the caption is the field `caption`, else `text`, else `conversations`. In a conversation (LLaVA) only the
answers of `gpt` count: the caption loss covers them, while the questions are a few sentences repeated over and over.
`<image>` marks an image, not text, and is removed together with white space at the ends, as LLaVA's
preprocess_multimodal does. Null and blank captions are skipped.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import pyarrow as pa

from vocabkit.errors import VocabkitError, quote, warn
from vocabkit.files.atomic import reading
from vocabkit.files.patterns import matching
from vocabkit.files.progress import Progress, no_progress
from vocabkit.files.records import BLOCK, COMPRESSIONS, compression_of, is_text, json_records, text_blocks

STANDARD_INPUT = Path("-")

_ENDINGS = (".txt", ".json", ".jsonl", ".ndjson", ".parquet")
_EXPECTED = f"{', '.join(_ENDINGS)}, with or without .gz or .zst"
_IMAGE = "<image>"
_FIELDS = ("caption", "text", "conversations")
_TOLD_BY_CONTENT = ""
_URL = re.compile("([a-zA-Z][a-zA-Z0-9+.:-]+:)/+")
_RECORDS = re.compile(r'\s*(\[\s*[{\]"]|\{\s*["}])')
"""How JSON records begin; hardly any caption does."""

LONGEST = 1 << 18
"""Characters of a caption per part; longer captions are split."""


def captions(
    paths: Sequence[str | Path],
    *,
    text_column: str | None = None,
    progress: Progress = no_progress,
    joint: str = " ",
) -> Iterator[str]:
    """Yield the captions of `paths` (files, patterns, pipes or folders of files), in their order; in folders by name.

    A caption of more than `LONGEST` characters is split at a single space between two words, or anywhere if there is
    none in that length.

    Args:
        text_column: field or column to take instead of looking for one.
        progress: reports bytes read on disk after each block; the size of a pipe is what was read so far.
        joint: start of the rest of a caption that was split at a space: the space, or "" to leave it out.

    Raises:
        VocabkitError: no such file, an unknown format, no such field, no text in it, invalid UTF-8, damaged JSON,
            Parquet or compression.
    """
    named = [file for path in paths for file in _named(str(path))]
    files = [file for path in named for file in (_caption_files(path) if path.is_dir() else [path])]
    sizes = [_size(file) for file in files]
    formats = [_format(file) for file in files]
    done, total = 0, sum(sizes)
    for path, size, kind in zip(files, sizes, formats, strict=True):
        at, has_no_size = 0, is_stream(path)

        def report(read: int, before: int = done, size: int = size, has_no_size: bool = has_no_size) -> None:
            nonlocal at, total
            if has_no_size:
                total += read - at
            at = read if has_no_size else min(read, size)
            progress("captions", before + at, total)

        with reading(path, pipe=True), _opened(path) as file:
            for caption in _read(path, file, kind, text_column, report, joint):
                yield from [caption] if len(caption) <= LONGEST else _parts(caption, joint)
        report(at if has_no_size else size)
        done += at


def _named(path: str) -> list[Path]:
    if (url := _URL.match(path)) is not None and not Path(path).exists():
        address = f"{url[1]}//{path[url.end() :]}"  # a Path has only one slash here
        raise VocabkitError(f"{address}: captions are read from disks and pipes; copy it, or pipe it into `-`")
    return [Path(each) for each in matching(path)]


def is_stream(path: Path) -> bool:
    """Whether `path` can be read only once: standard input or a pipe."""
    return path == STANDARD_INPUT or path.is_fifo()


class _Pipe(io.RawIOBase):
    """A pipe whose reads fill the buffer, and whose position is the number of bytes read."""

    def __init__(self, file: io.FileIO) -> None:
        self._file, self._read = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view, filled = memoryview(buffer), 0
        while filled < len(view) and (count := self._file.readinto(view[filled:])):
            filled += count
        self._read += filled
        return filled

    def tell(self) -> int:
        return self._read

    def close(self) -> None:
        self._file.close()
        super().close()


def _opened(path: Path) -> BufferedReader:
    if not is_stream(path):
        return path.open("rb")
    is_standard_input = path == STANDARD_INPUT
    return BufferedReader(_Pipe(io.FileIO(0 if is_standard_input else path, closefd=not is_standard_input)))


def _caption_files(folder: Path) -> list[Path]:
    try:
        visible = [file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file()]
    except OSError as error:
        raise VocabkitError(f"{folder}: can't read this folder ({error.strerror})") from error
    found = sorted(file for file in visible if _ending(file) in _ENDINGS)
    if not found:
        raise VocabkitError(f"{folder}: no file in this folder ends in {_EXPECTED}")
    if others := sorted(set(visible) - set(found)):
        those = "1 file was" if len(others) == 1 else f"{len(others):,} files were"
        warn(f"{folder}: {those} left out, first {others[0].name}; captions are in files that end in {_EXPECTED}")
    return found


def _size(path: Path) -> int:
    with reading(path, pipe=True):
        return 0 if is_stream(path) else path.stat().st_size


def _format(path: Path) -> str:
    ending = _ending(path)
    if is_stream(path):
        if ending == ".parquet":
            raise VocabkitError(f"{path}: Parquet is read from its end, which a pipe can't do; write it to a file")
        return ending if ending in _ENDINGS else _TOLD_BY_CONTENT
    if ending not in _ENDINGS:
        raise VocabkitError(f"{path}: unknown format; its name must end in {_EXPECTED}")
    return ending


def _ending(path: Path) -> str:
    *_, inner, last = "", "", *(suffix.lower() for suffix in path.suffixes)
    return inner if last in COMPRESSIONS else last


def _read(
    path: Path, file: BufferedReader, kind: str, text_column: str | None, report: Callable[[int], None], joint: str
) -> Iterator[str]:
    if kind == ".parquet":
        if compression_of(path, file):
            raise VocabkitError(f"{path}: a compressed Parquet file; Parquet compresses by itself, unpack this one")
        yield from _parquet(path, file, text_column, report)
        return
    blocks = text_blocks(path, file, report)
    if kind == _TOLD_BY_CONTENT:
        first = next(blocks)
        kind = ".json" if _RECORDS.match(first) else ".txt"
        blocks = itertools.chain([first], blocks)
    if kind == ".txt" and text_column is not None:
        raise VocabkitError(f"{path}: plain text has no field {quote(text_column)}; leave out `text_column`")
    if kind == ".txt":
        yield from _plain(blocks, joint)
        return
    for where, record in json_records(path, blocks):
        yield from _captions(_texts(f"{path}: {where}", record, text_column))


# ---- text --------------------------------------------------------------------------------------------------------


def _plain(blocks: Iterator[str], joint: str) -> Iterator[str]:
    rest = ""
    for block in blocks:
        rest += block
        while True:
            *lines, rest = rest.split("\n")
            yield from _captions(line.removesuffix("\r") for line in lines)
            if len(rest) <= LONGEST:
                break
            rest = yield from _long_line(itertools.chain([rest], blocks), joint)
    yield from _captions([rest.removesuffix("\r")])


def _long_line(blocks: Iterator[str], joint: str) -> Generator[str, None, str]:
    """Yield the parts of a line that is never held as a whole, and return the text after it."""
    clean, raw, after, has_image, begun = "", "", "", False, False
    first = ""  # kept back: an image that is still to come takes the white space from its start
    for block in itertools.chain(blocks, ["\n"]):
        line, end, after = block.partition("\n")
        raw += line
        cut = len(raw) - (0 if end else _begun_image(raw))
        has_image |= _IMAGE in raw[:cut]
        *parts, clean = _parts(clean + raw[:cut].replace(_IMAGE, ""), joint)
        raw = raw[cut:]
        if end:
            clean = clean.rstrip() if has_image else clean.removesuffix("\r")
            parts.append(clean)
        for part in parts:
            if not begun and part[:1].isspace():
                first = part
            elif part and not part.isspace():
                yield part
            begun = True
        if end:
            break
    if first and not first.isspace():
        yield first.lstrip() if has_image else first
    return after


def _begun_image(text: str) -> int:
    """How many characters at the end of `text` may be the start of a placeholder."""
    return next((length for length in range(len(_IMAGE) - 1, 0, -1) if text.endswith(_IMAGE[:length])), 0)


def _captions(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        caption = text.replace(_IMAGE, "").strip() if _IMAGE in text else text
        if caption and not caption.isspace():
            yield caption


def _parts(text: str, joint: str) -> Iterator[str]:
    """Split `text` into parts of at most `LONGEST` characters; each cut depends only on the text after the last one."""
    start, prefix = 0, ""
    while len(prefix) + len(text) - start > LONGEST:
        end = start + LONGEST - len(prefix)
        at = text.rfind(" ", start + 1, end)
        while at > start and not (_in_word(text[at - 1]) and _in_word(text[at + 1])):
            at = text.rfind(" ", start + 1, at)
        yield prefix + text[start : at if at > start else end]
        start, prefix = (at + 1, joint) if at > start else (end, "")
    yield prefix + text[start:]


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


# ---- records ---------------------------------------------------------------------------------------------------------


def _texts(where: str, record: Any, text_column: str | None) -> list[str]:
    if isinstance(record, str) and text_column is None:
        record = {_FIELDS[0]: record}
    if not isinstance(record, dict):
        raise VocabkitError(
            f"{where} is not a JSON object; expected a record with "
            + ("a caption, or the caption itself" if text_column is None else f"the field {quote(text_column)}")
        )
    readable = [name for name, value in record.items() if isinstance(value, str) or _is_conversation(value)]
    name = _field(where, "field", text_column, record, readable)
    value = record[name]
    if _is_conversation(value):
        texts = [turn.get("value") for turn in value if turn["from"] == "gpt"]
    else:
        texts = [value] if value is not None else []
    for text in texts:
        if not isinstance(text, str):
            raise VocabkitError(f"{where}: {quote(name)} holds {type(text).__name__}, expected text or conversations")
        if not is_text(text):
            raise VocabkitError(f"{where}: {quote(name)} holds half a surrogate pair, which isn't text")
    return texts


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(turn, dict) and "from" in turn for turn in value)


def _field(where: str, kind: str, text_column: str | None, names: Iterable[str], readable: Sequence[str]) -> str:
    """Return the field to read: `text_column`, or the first usual one in `names`. `readable` are those with text."""
    found = [name for name in ((text_column,) if text_column is not None else _FIELDS) if name in names]
    if not found:
        wanted = quote(text_column) if text_column is not None else ", ".join(_FIELDS)
        have = f"{kind}s with text: {quote(', '.join(readable), 120)}" if readable else f"no {kind} with text"
        raise VocabkitError(
            f"{where} has no {kind} {wanted}; it has {have}" + "; name one in `text_column`" * bool(readable)
        )
    return found[0]


# ---- Parquet -----------------------------------------------------------------------------------------------------


def _parquet(path: Path, file: BufferedReader, text_column: str | None, report: Callable[[int], None]) -> Iterator[str]:
    import pyarrow.parquet as pq

    size, rows = path.stat().st_size, 0
    try:
        # Page by page: with the defaults a whole row group is held.
        content = pq.ParquetFile(pa.PythonFile(file, "r"), buffer_size=BLOCK, pre_buffer=False)
        schema = content.schema_arrow
        readable = [field.name for field in schema if _holds_text(field.type)]
        name = _field(str(path), "column", text_column, schema.names, readable)
        if not _holds_text(schema.field(name).type):
            kind = quote(str(schema.field(name).type))
            raise VocabkitError(f"{path}: column {quote(name)} is {kind}, expected text or conversations")
        for batch in content.iter_batches(batch_size=512, columns=[name]):
            for row, value in enumerate(batch.column(0).to_pylist(), rows):
                yield from _captions(_texts(f"{path}: row {row}", {name: value}, name))
            rows += len(batch)
            report(size * rows // max(content.metadata.num_rows, 1))
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise VocabkitError(f"{path}: damaged Parquet file ({quote(str(error), 80)})") from error


def _holds_text(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_list(kind) or types.is_large_list(kind):
        turn = kind.value_type
        return types.is_struct(turn) and {"from", "value"} <= {field.name for field in turn}
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
