"""Result files of `vocabkit infer`: a folder of numbered shards, with `index.json` when all are there.

`NNNNN.arrow` is an Arrow IPC file (see `arrow_file`, format `inference/1`) with a row for each picture of the shard:

- `image` string: the key of the picture, the path or name that it was given by.
- `caption` string, if captions were asked for.
- `prompt_embeds` string, if asked for: the visual tokens as the `data` of a part of a chat request to vLLM, see
  `vocabkit.adapter.embeds`.
- `words` list of string, `share` list of float32 and `prompt` string, if words were asked for: the words of the
  picture, the surest first, their mean coefficients, and the text that tells an LLM how to read them: the adapter's
  own prompt, if it has one. For spelled visual tokens also `visual_ids` list of int32, their ids in the LLM's
  tokenizer.
- for the K largest coefficients of each of the N patches, if asked for, largest first, lists of N lists of K:
  `coefficient` float32; `row` int32, of the shared vocabulary; `token_id` int32, of the LLM, null where it lacks the
  token, or for words a list of int32; `token` binary, a dictionary of the bytes.

`NNNNN.safetensors`, if visual tokens were asked for, holds the tensor `visual_tokens` (M, N, D) of the M pictures in
the same order and, under `vocabkit` in its metadata, JSON with their keys as `images` and the `settings`.

Patches are in row-major order. `settings`, also in the metadata of the Arrow file and in `index.json`, holds the `grid`
(rows and columns of patches, N = rows x columns) and everything else that results depend on. Broken pictures are not in
the table: `broken`, in its metadata and in `index.json`, maps their keys to what is wrong with them. `contents` in its
metadata has the `content_digest` of each picture, by which a run that resumes knows another one of the same key. The
table is the last file of a shard to be written. A shard holds the results of `per_shard` consecutive pictures, and an
interrupted run resumes after the last complete shard: the files are the same, byte for byte, as without the
interruption. They are also the same if several processes compute some of the shards each; the one that ends last writes
`index.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vocabkit.adapter.embeds import embeds_data
from vocabkit.adapter.words import Word, prompt
from vocabkit.arrow.arrow_file import json_field, read_table
from vocabkit.data.shards import ShardFolder
from vocabkit.errors import VocabkitError, quote
from vocabkit.shared.shared_vocabulary import SharedVocabulary

FORMAT = "inference"
_VERSION = f"{FORMAT}/1"
SHARD_BYTES, SHARD_PICTURES = 2**28, 256
"""Maximum bytes and pictures of a shard, and so the most work that an interruption can cost."""


@dataclass(frozen=True, eq=False)
class Results:
    """The results of M pictures, on the CPU."""

    images: Sequence[str]
    """Their keys."""
    tensors: Mapping[str, Tensor]
    """Only those asked for: `visual_tokens` (M, N, D); `coefficient` (M, N, K) float32, largest first; `row` (M, N, K)
    int32; `visual_ids` (M, P) int32. Of pictures in tiles, the first three are joined, (ΣN, D) and (ΣN, K), and
    `lengths` (M,) says how many visual tokens each has, `patches` (M,) how many patches."""
    captions: Sequence[str] | None
    words: Sequence[Sequence[Word]] | None = None

    @classmethod
    def joined(cls, parts: Sequence[Results]) -> Results:
        """Concatenate `parts`; no parts give no tensors."""
        if len(parts) < 2:
            return parts[0] if parts else cls([], {}, None)
        images = [image for part in parts for image in part.images]
        tensors = {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}
        captions = words = None
        if parts[0].captions is not None:
            captions = [caption for part in parts for caption in part.captions or ()]
        if parts[0].words is not None:
            words = [each for part in parts for each in part.words or ()]
        return cls(images, tensors, captions, words)


def read_captions(folder: Path) -> tuple[str, dict[str, str]]:
    """Read the captions in a folder: the name of the LLM that wrote them, and key of a picture -> caption.

    Raises VocabkitError: not a folder of results with captions, or damaged.
    """
    found: dict[str, str] = {}
    llm = ""
    for file in sorted(folder.glob("*.arrow")):
        table, metadata = read_table(file, FORMAT, ["image", "caption"])
        llm = str(json_field(str(file), metadata, "settings", dict[str, Any]).get("llm"))
        found |= zip(table["image"].to_pylist(), table["caption"].to_pylist(), strict=True)
    if not found:
        raise VocabkitError(f"{folder}: no captions in it; give the output folder of `vocabkit infer --captions`")
    return llm, found


@dataclass(frozen=True)
class Stored:
    """What a shard records of its pictures."""

    broken: Mapping[str, str]
    """Key -> what is wrong with the picture."""
    contents: Mapping[str, str]
    """Key of the others -> `content_digest`; empty in shards of earlier versions."""


class ResultFolder:
    """The result shards in a folder."""

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any],
        *,
        picture_bytes: int,
        shared: SharedVocabulary | None = None,
        llm: str | None = None,
        reading: str | None = None,
    ) -> None:
        """Create the folder if it doesn't exist.

        Args:
            settings: plain JSON; results with other settings are refused.
            picture_bytes: size of the results of one picture.
            reading: the adapter's own prompt for words, if it has one.
            shared, llm: where to look up tokens and ids of rows: the shared vocabulary, and the name of a column.

        Raises VocabkitError: can't make the folder, or no such column.
        """
        self.per_shard = 1 << (min(max(SHARD_BYTES // picture_bytes, 1), SHARD_PICTURES).bit_length() - 1)
        """Pictures of a shard: a power of two, so that batches fill it."""
        self._shards = ShardFolder(folder, "results", {**settings, "per_shard": self.per_shard}, _VERSION)
        self._lookup = Lookup.of(shared, llm, reading)

    def stored(self, number: int, images: Sequence[str]) -> Stored | None:
        """Return what shard `number` records of the pictures `images`; None if there is no such shard, or half of it.

        Raises VocabkitError: the shard is damaged, or of other pictures or settings.
        """
        name = f"{_name(number)}.arrow"
        if not self._shards.has(name):
            return None
        file = f"{self._shards.folder}/{name}"
        table, metadata = self._shards.read_table(name, FORMAT, ["image"])
        self._shards.check(json_field(file, metadata, "settings", dict[str, Any]))
        broken: dict[str, str] = json_field(file, metadata, "broken", dict[str, str])
        usable = [image for image in images if image not in broken]
        if usable != table["image"].to_pylist() or set(broken) - set(images):
            raise self._shards.refusal("results of other pictures")
        if (
            usable
            and self._shards.settings.get("visual_tokens")
            and not self._shards.has(f"{_name(number)}.safetensors")
        ):
            return None
        contents = json_field(file, metadata, "contents", list[str]) if "contents" in metadata else []
        return Stored(broken, dict(zip(usable, contents, strict=False)))

    def changed(self, key: str) -> VocabkitError:
        """Return the error for a picture that is another one than the folder has results of."""
        return self._shards.refusal(f"results of another picture as {quote(key, 200)}")

    def write(
        self, number: int, results: Results, broken: Mapping[str, str], contents: Mapping[str, str] | None = None
    ) -> None:
        """Write a shard; `contents` is as in `Stored`. Raises VocabkitError: can't write."""
        images, name, settings = list(results.images), _name(number), self._shards.settings
        if "visual_tokens" in results.tensors and settings["visual_tokens"]:
            tensors = {name: results.tensors[name] for name in ("visual_tokens", "lengths") if name in results.tensors}
            self._shards.write_tensors(name, tensors, _text({"images": images, "settings": settings}))
        table = result_table(results, self._lookup, prompt_embeds=bool(settings.get("prompt_embeds")))
        metadata = {"format": _VERSION, "settings": _text(settings), "broken": _text(dict(broken))}
        if contents is not None:
            metadata["contents"] = _text([contents[image] for image in images])
        self._shards.write_table(name, table, metadata)

    def kept(self) -> AbstractContextManager[None]:
        """Remove the folder if the work inside fails before anything is in it."""
        return self._shards.kept()

    def discard(self, shards: int) -> None:
        """Remove the first shards, which hold no results, and the folder if nothing else is in it."""
        endings = (".arrow", ".safetensors")
        self._shards.discard(_name(number) + ending for number in range(shards) for ending in endings)

    def finish(self, shards: int, images: int, broken: Mapping[str, str]) -> None:
        """Write the index. Raises VocabkitError: can't write, or a further shard of other pictures is there."""
        if self._shards.has(f"{_name(shards)}.arrow"):
            raise self._shards.refusal("results of other pictures")
        content = {
            "format": _VERSION,
            "settings": self._shards.settings,
            "shards": [_name(number) for number in range(shards)],
            "images": images,
            "broken": broken,
        }
        self._shards.finish((json.dumps(content, indent=2) + "\n").encode())


@dataclass(frozen=True, eq=False)
class Lookup:
    """What a table tells of rows and words."""

    tokens: pa.Array | None
    """(V,) the bytes of each row of the shared vocabulary; None without one."""
    ids: pa.Array | None
    """(V,) their ids in the LLM's tokenizer."""
    reading: str | None
    """The adapter's own prompt for words, if it has one."""

    @classmethod
    def of(cls, shared: SharedVocabulary | None, llm: str | None, reading: str | None) -> Lookup:
        """Look up the column of the LLM `llm`. Raises VocabkitError: no such column."""
        if shared is None:
            return cls(None, None, reading)
        return cls(shared.tokens, None if llm is None else shared.ids_column(llm), reading)


def result_table(results: Results, lookup: Lookup, *, prompt_embeds: bool) -> pa.Table:
    """Return the columns of `NNNNN.arrow`, a row for each picture, without metadata."""
    columns = {"image": pa.array(list(results.images), pa.string())}
    if prompt_embeds:
        columns["prompt_embeds"] = pa.array(map(embeds_data, each_visual_tokens(results.tensors)), pa.string())
    if results.captions is not None:
        columns["caption"] = pa.array(results.captions, pa.string())
    if results.words is not None:
        columns |= {
            "words": pa.array([[word.text for word in words] for words in results.words], pa.list_(pa.string())),
            "share": pa.array([[word.share for word in words] for words in results.words], pa.list_(pa.float32())),
            "prompt": pa.array([prompt(words, lookup.reading) for words in results.words], pa.string()),
        }
    if "visual_ids" in results.tensors:
        columns["visual_ids"] = pa.array(results.tensors["visual_ids"].tolist(), pa.list_(pa.int32()))
    if "row" in results.tensors:
        columns |= _top_columns(results.tensors, lookup)
    return pa.table(columns)


def _top_columns(tensors: Mapping[str, Tensor], lookup: Lookup) -> dict[str, pa.Array]:
    assert lookup.tokens is not None
    assert lookup.ids is not None
    coefficients, rows, counts = tensors["coefficient"].numpy(), tensors["row"].numpy(), tensors.get("patches")
    used, places = np.unique(rows.ravel(), return_inverse=True)
    tokens = pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), lookup.tokens.take(pa.array(used)))
    columns = {
        "coefficient": pa.array(coefficients.ravel()),
        "row": pa.array(rows.ravel()),
        "token_id": lookup.ids.take(pa.array(rows.ravel())),
        "token": tokens,
    }
    nested = {name: _nested(values, rows.shape) for name, values in columns.items()}
    if counts is None:
        return nested
    ends = np.concatenate([[0], np.cumsum(counts.numpy())]).astype(np.int32)  # (L, K) -> lists of L, one a picture
    return {name: pa.ListArray.from_arrays(ends, values) for name, values in nested.items()}


def each_visual_tokens(tensors: Mapping[str, Tensor]) -> Iterable[Tensor]:
    """The visual tokens of each picture, (N, D)."""
    if not tensors:  # all are broken
        return ()
    tokens = tensors["visual_tokens"]
    return tokens.split(tensors["lengths"].tolist()) if "lengths" in tensors else tokens.unbind()


def _name(number: int) -> str:
    return f"{number:05d}"


def _nested(values: pa.Array, shape: tuple[int, ...]) -> pa.Array:
    """(M * N * K,) -> (M,) lists of N lists of K."""
    for size in reversed(shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return values


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
