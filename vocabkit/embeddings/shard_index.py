"""The index of weights in several files: which file holds which tensor."""

from __future__ import annotations

from pathlib import Path

import msgspec

from vocabkit.errors import VocabkitError, quote
from vocabkit.readers.json_file import decode_json


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def read_index(path: Path) -> dict[str, str]:
    """Tensor -> file name, as in model.safetensors.index.json.

    What it names lies beside it, nowhere else. Raises VocabkitError: missing, damaged, or a shard that is not a plain
    file name.
    """
    shards = decode_json(path, _Index, "an index of weight files").weight_map
    for tensor, shard in shards.items():
        if Path(shard).name != shard or shard in ("", "..") or "\\" in shard or ":" in shard:
            raise VocabkitError(
                f"{path}: puts {quote(tensor)} into {quote(shard)}, which is no file beside it; don't trust this model"
            )
    return shards
