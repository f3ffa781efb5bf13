"""Tokens of one tokenizer in another: the map of all ids, and where the tokens of one text meet.

What draft-and-verify decoding with two vocabularies, distillation across tokenizers, and embedding transplants need.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa

from vocabkit.errors import VocabkitError
from vocabkit.files.atomic import write_atomically
from vocabkit.tokenizer.load import load_tokenizer
from vocabkit.tokenizer.segmentation import encode_batch, to_tokenizers
from vocabkit.tokenizer.segmenter import spell
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from vocabkit.tokenizer.load import AnyTokenizer

Match = Literal["token", "role", "pieces", "none"]
"""One token of the same bytes; a special token of the same role; the target's own tokens for the bytes; nothing."""
MATCHES: tuple[Match, ...] = ("token", "role", "pieces", "none")
FORMATS = (".json", ".csv", ".parquet", ".npy")


@dataclass(frozen=True, eq=False)
class TokenMap:
    """What stands for each of the V ids of `source` in `target`."""

    source: str
    target: str
    match: np.ndarray
    """(V,) uint8, index into `MATCHES`."""
    target_ids: tuple[tuple[int, ...], ...]
    """(V,) ids of the target: one for a token or role, two or more for pieces, none for nothing."""
    note: str | None = None
    """Why there are no pieces, where the target does not say how it cuts text."""

    def __len__(self) -> int:
        return len(self.match)

    def counts(self) -> dict[Match, int]:
        """Kind of match -> number of ids."""
        found = np.bincount(self.match, minlength=len(MATCHES)).tolist()
        return dict(zip(MATCHES, found, strict=True))

    def one_to_one(self) -> np.ndarray:
        """(V,) int32: the target's id where one token or role stands for it, else -1."""
        single = self.match <= MATCHES.index("role")
        return np.array([ids[0] if one else -1 for ids, one in zip(self.target_ids, single, strict=True)], np.int32)

    def to_arrow(self) -> pa.Table:
        """Columns `source_id` int32, `match` text and `target_ids` list of int32."""
        return pa.table(
            {
                "source_id": pa.array(np.arange(len(self), dtype=np.int32)),
                "match": pa.array([MATCHES[kind] for kind in self.match.tolist()]),
                "target_ids": pa.array([list(ids) for ids in self.target_ids], pa.list_(pa.int32())),
            }
        )

    def save(self, path: str | Path) -> None:
        """Write JSON, CSV or Parquet with all matches, or .npy with `one_to_one()`, by the ending of `path`.

        Raises VocabkitError: another ending, or can't write.
        """
        check_format(path)
        content = self._bytes(Path(path))

        def write(file: BinaryIO) -> None:
            file.write(content)

        write_atomically(Path(path), write)

    def _bytes(self, path: Path) -> bytes:
        buffer = io.BytesIO()
        match path.suffix.lower():
            case ".npy":
                np.save(buffer, self.one_to_one())
            case ".parquet":
                import pyarrow.parquet

                pyarrow.parquet.write_table(self.to_arrow(), buffer)
            case ".csv":
                text = io.StringIO()
                writer = csv.writer(text, lineterminator="\n")
                writer.writerow(["source_id", "match", "target_ids"])
                writer.writerows([i, MATCHES[m], " ".join(map(str, ids))] for i, m, ids in self._rows())
                return text.getvalue().encode()
            case ".json":
                rows: list[Any] = [
                    {"id": i, "match": MATCHES[m], "target_ids": list(ids)} for i, m, ids in self._rows()
                ]
                content = {"source": self.source, "target": self.target, "map": rows}
                return (json.dumps(content, separators=(",", ":")) + "\n").encode()
        return buffer.getvalue()

    def _rows(self) -> list[tuple[int, int, tuple[int, ...]]]:
        return list(zip(range(len(self)), self.match.tolist(), self.target_ids, strict=True))


def check_format(path: str | Path) -> None:
    """Raises VocabkitError: a token map can't be written under this name."""
    if Path(path).suffix.lower() not in FORMATS:
        raise VocabkitError(f"{path}: a token map ends in {', '.join(FORMATS)}; choose such a name")


def token_map(source: Vocabulary, target: Vocabulary) -> TokenMap:
    """Map each id of `source` to `target`, by bytes; special tokens by role.

    Aliases are mapped as their bytes are. Pieces are the target's own segmentation of the bytes in the middle of a
    text, and nothing where it does not say how it cuts text (`note`). An id without a token, an unused one, and bytes
    that the target can't write are mapped to nothing.
    """
    single = target.ids_of(source.tokens)
    text = source.kinds <= Kind.BYTE
    ids: list[tuple[int, ...]] = [()] * len(source)
    match = np.full(len(source), MATCHES.index("none"), np.uint8)
    for token_id in np.flatnonzero(text & (single >= 0)).tolist():
        ids[token_id] = (int(single[token_id]),)
        match[token_id] = MATCHES.index("token")
    for role, token_id in source.roles.items():
        if role in target.roles and not ids[token_id]:
            ids[token_id] = (target.roles[role],)
            match[token_id] = MATCHES.index("role")
    tokens = source.tokens
    lacking = [i for i in np.flatnonzero(text & (single < 0)).tolist() if tokens[i].as_py()]
    for token_id, pieces in zip(lacking, spell(target, [tokens[i].as_py() for i in lacking]), strict=True):
        if pieces:
            ids[token_id] = tuple(piece.id for piece in pieces)
            match[token_id] = MATCHES.index("pieces")
    return TokenMap(source.name, target.name, match, tuple(ids), _no_pieces(target, len(lacking)))


def _no_pieces(target: Vocabulary, lacking: int) -> str | None:
    if not lacking or target.segmentation is not None:
        return None
    return (
        f"{target.source} of {target.name} does not say how text is cut, so {lacking:,} ids have no pieces; "
        "give its tokenizer.json for them"
    )


Span = tuple[int, int]
"""First and one past the last."""


@dataclass(frozen=True)
class Meeting:
    """The smallest stretch of text after which tokens of both tokenizers end at the same byte."""

    bytes: Span
    tokens_a: Span
    """Positions in `AlignedText.ids_a`."""
    tokens_b: Span


@dataclass(frozen=True)
class AlignedText:
    """One text as two tokenizers cut it. Offsets are in bytes of its UTF-8."""

    text: str
    ids_a: tuple[int, ...]
    ids_b: tuple[int, ...]
    offsets_a: tuple[Span, ...]
    """One for each token. A space that a tokenizer puts before the text has no bytes in it."""
    offsets_b: tuple[Span, ...]
    meetings: tuple[Meeting, ...]
    """In order; together they cover the text."""


def align_text(text: str, a: AnyTokenizer, b: AnyTokenizer) -> AlignedText:
    """Cut `text` by both tokenizers, without special tokens, and align their tokens.

    Args:
        a, b: as `load_tokenizer` takes them.

    Raises VocabkitError: a tokenizer that changes the text (lower case, Unicode normal forms), so that its tokens have
    no place in it; one whose source does not say how it cuts text; or half of a surrogate pair in `text`.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise VocabkitError("`text` is not valid Unicode (half of a surrogate pair)") from error
    ids_a, offsets_a = _cut(text, load_tokenizer(a))
    ids_b, offsets_b = _cut(text, load_tokenizer(b))
    return AlignedText(text, ids_a, ids_b, offsets_a, offsets_b, tuple(_meetings(offsets_a, offsets_b)))


def _cut(text: str, vocabulary: Vocabulary) -> tuple[tuple[int, ...], tuple[Span, ...]]:
    ids = encode_batch(_tokenizer(vocabulary), [text], vocabulary.name)[0].ids
    tokens = [vocabulary.token(i) or b"" for i in ids]
    expected, found = text.encode(), b"".join(tokens)
    prefix = len(found) - len(expected)
    if found[max(prefix, 0) :] != expected or found[: max(prefix, 0)].strip(b" "):
        raise VocabkitError(f"{vocabulary.name}: its tokenizer changes this text, so its tokens have no place in it")
    ends, at = [], -prefix
    for token in tokens:
        start, at = at, at + len(token)
        ends.append((max(start, 0), max(at, 0)))
    return tuple(ids), tuple(ends)


@lru_cache(maxsize=8)
def _tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    return to_tokenizers(vocabulary)  # takes a second, and callers have many texts


def _meetings(a: Sequence[Span], b: Sequence[Span]) -> list[Meeting]:
    found: list[Meeting] = []
    at_a = at_b = first_a = first_b = start = 0
    while at_a < len(a) and at_b < len(b):
        end_a, end_b = a[at_a][1], b[at_b][1]
        if end_a == end_b and end_a > start:
            at_a, at_b = at_a + 1, at_b + 1
            found.append(Meeting((start, end_a), (first_a, at_a), (first_b, at_b)))
            first_a, first_b, start = at_a, at_b, end_a
        elif end_a <= end_b:
            at_a += 1
        else:
            at_b += 1
    return found
