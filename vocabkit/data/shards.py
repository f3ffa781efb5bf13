"""Shards: a folder that a run fills file by file, and that the next run resumes after an interruption.

Each file is written whole or not at all, `index.json` last. A shard may be several files with one name; its last file
makes it complete. Shards record the settings that their content depends on, so a folder never holds two kinds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import safetensors.torch
from torch import Tensor

from vocabkit.arrow.arrow_file import write_table
from vocabkit.errors import VocabkitError
from vocabkit.files.atomic import make_folder, replacing

INDEX = "index.json"


class ShardFolder:
    """The shards in a folder, all with the same settings."""

    def __init__(self, folder: Path, content: str, settings: Mapping[str, Any]) -> None:
        """Create the folder if it doesn't exist.

        Args:
            content: what shards hold, for messages: features, results.
            settings: as plain JSON.

        Raises VocabkitError: the folder can't be made.
        """
        self.folder = folder
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._content = content
        make_folder(folder)

    def check(self, found: Mapping[str, Any]) -> None:
        """Raise VocabkitError unless `found`, the settings of a shard in the folder, are those of this run."""
        found = json.loads(json.dumps(found))
        if told := list(_differences(found, self.settings)):
            raise self.refusal(f"{self._content} of other settings ({'; '.join(told)})")

    def refusal(self, held: str) -> VocabkitError:
        """Return the error for a folder that holds something else than this run writes."""
        return VocabkitError(f"{self.folder}: holds {held}; choose another folder, or remove this one")

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor], header: str) -> None:
        """Write NAME.safetensors with JSON under `vocabkit` in its metadata. Raises VocabkitError: can't write."""
        self._write(f"{name}.safetensors", safetensors.torch.save(dict(tensors), {"vocabkit": header}))

    def write_table(self, name: str, table: pa.Table, metadata: Mapping[str, str]) -> None:
        """Write NAME.arrow. Raises VocabkitError: can't write."""
        write_table(self.folder / f"{name}.arrow", table, metadata, None)

    def finish(self, index: bytes) -> None:
        """Write `index.json`, which makes the folder complete. Raises VocabkitError: can't write."""
        self._write(INDEX, index)

    def _write(self, name: str, content: bytes) -> None:
        with replacing(self.folder / name) as temporary:
            temporary.write_bytes(content)


_FOLLOW = ("grid", "tokens", "width", "precision", "per_shard")
"""Settings that follow from others, and are told only if nothing else differs."""
_HASHES = {
    "adapter": "another adapter, or other weights of its LLM",
    "vision": "another vision model",
    "fingerprint": "another vision model",
}
"""What it means if these settings, which are fingerprints, differ."""


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """Tell in words what differs of the settings `wanted`."""
    differ = [name for name, value in wanted.items() if found.get(name) != value]
    if "llm" in differ or (found.get("captions") is None) != (wanted.get("captions") is None):
        differ = [name for name in differ if name != "adapter"]  # its fingerprint includes an LLM that was loaded
    for name in [name for name in differ if name not in _FOLLOW] or differ:
        old, new = found.get(name), wanted[name]
        if name in _HASHES:
            yield _HASHES[name]
        elif name == "llm":
            yield f"another LLM, or an adapter for another one: {_shown(old)}, now {_shown(new)}"
        elif isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new)
        elif isinstance(old or new, bool | dict):
            yield f"with `{name}`, now without" if old else f"without `{name}`, now with"
        else:
            yield f"`{name}` {_shown(old)}, now {_shown(new)}"


def _shown(value: Any) -> str:
    text = "none" if value is None else json.dumps(value)  # ASCII on one line, whatever a file holds
    return text if len(text) <= 80 else f"{text[:79]}…"
