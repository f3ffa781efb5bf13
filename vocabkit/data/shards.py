"""Shards: a folder that a run fills file by file, and that the next run resumes after an interruption.

Each file is written whole or not at all, `index.json` last: on a disk by renaming it, in an object store because a file
appears there when all of it has arrived. A shard may be several files with one name; its last file makes it complete.
Shards record the settings that their content depends on, so a folder never holds two kinds; nor are results written
over an `index.json` that is not theirs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vocabkit.arrow.arrow_file import parse_table, read_table, table_bytes
from vocabkit.data.output import check_output_folder
from vocabkit.data.urls import RemoteFolder, is_url
from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import check_writable, make_folder, reading, replacing

INDEX = "index.json"
AGAIN = "remove it and run the same command again"
"""What to do about a damaged shard."""
_HEADER = 100_000_000
"""The most bytes of the header of a safetensors file, as that library has it."""


class ShardFolder:
    """The shards in a folder, all with the same settings."""

    def __init__(self, folder: str | Path, content: str, settings: Mapping[str, Any], format_name: str) -> None:
        """Create the folder if it doesn't exist.

        Args:
            folder: a folder, or the URL of one in an object store.
            content: what shards hold, for messages: features, results.
            settings: as plain JSON.
            format_name: the `format` in its index.

        Raises VocabkitError: the folder can't be made or written to, is in a store that files can't be written whole
            to, or has an index of something else.
        """
        check_output_folder(str(folder))
        remote = is_url(str(folder))
        self.folder = str(folder) if remote else str(Path(folder))
        self._remote = RemoteFolder(self.folder) if remote else None
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._content = content
        if self._remote is None:
            make_folder(Path(folder))
        self._check_index(format_name)
        self._check_writable()

    def _check_index(self, format_name: str) -> None:
        if not self.has(INDEX):
            return
        try:
            content = (Path(self.folder) / INDEX).read_bytes() if self._remote is None else self._remote.read(INDEX)
            index = json.loads(content)
        except (OSError, ValueError):
            index = None
        found = index.get("format") if isinstance(index, dict) else None
        if found != format_name:
            kind = f" of {quote(found)}" if isinstance(found, str) else ""
            raise VocabkitError(
                f"{self.folder}: has an {INDEX}{kind} that is not of {self._content}; choose another folder"
            )

    def _check_writable(self) -> None:
        if self._remote is None:
            check_writable(Path(self.folder) / INDEX)
        else:
            self._remote.check_writable()

    def check(self, found: Mapping[str, Any]) -> None:
        """Raise VocabkitError unless `found`, the settings of a shard in the folder, are those of this run."""
        found = json.loads(json.dumps(found))
        if told := list(_differences(found, self.settings)):
            raise self.refusal(f"{self._content} of other settings ({'; '.join(told)})")

    def refusal(self, held: str) -> VocabkitError:
        """Return the error for a folder that holds something else than this run writes."""
        return VocabkitError(f"{self.folder}: holds {held}; choose another folder, or remove this one")

    def has(self, name: str) -> bool:
        """Whether the file `name` is there."""
        return (Path(self.folder) / name).exists() if self._remote is None else self._remote.has(name)

    def names(self, ending: str) -> list[str]:
        """Return the names of the files with this ending, sorted."""
        found = [file.name for file in Path(self.folder).iterdir()] if self._remote is None else self._remote.names()
        return sorted(name for name in found if name.endswith(ending))

    def read_table(self, name: str, format_name: str, columns: Sequence[str]) -> tuple[pa.Table, dict[str, str]]:
        """Read columns and metadata of a file. Raises VocabkitError: as `arrow_file.read_table`."""
        try:
            if self._remote is None:
                return read_table(Path(self.folder) / name, format_name, columns)
            return parse_table(self._remote.read(name), f"{self.folder}/{name}", format_name, columns)
        except VocabkitError as error:
            what, damaged, _ = str(error).partition("; build it again")
            if damaged or "not an Arrow file" in what:
                raise VocabkitError(f"{what}; {AGAIN}") from error
            raise

    def tensors_metadata(self, name: str) -> dict[str, str]:
        """Return the metadata of a safetensors file, without its tensors. Raises VocabkitError: damaged."""
        where = f"{self.folder}/{name}"
        try:
            if self._remote is None:
                with reading(Path(where)), safe_open(where, "pt") as opened:
                    return opened.metadata() or {}
            size = int.from_bytes(self._remote.read(name, 0, 8), "little")
            header = json.loads(self._remote.read(name, 8, 8 + size)) if size < _HEADER else None
            return dict((header or {}).get("__metadata__", {}))
        except (SafetensorError, ValueError, AttributeError) as error:
            raise VocabkitError(f"{where}: damaged ({quote(str(error), 80)}); {AGAIN}") from error

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor], header: str) -> None:
        """Write NAME.safetensors with JSON under `vocabkit` in its metadata. Raises VocabkitError: can't write."""
        self._write(f"{name}.safetensors", safetensors.torch.save(dict(tensors), {"vocabkit": header}))

    def write_table(self, name: str, table: pa.Table, metadata: Mapping[str, str]) -> None:
        """Write NAME.arrow. Raises VocabkitError: can't write."""
        self._write(f"{name}.arrow", table_bytes(table, metadata, None))

    def finish(self, index: bytes) -> None:
        """Write `index.json`, which makes the folder complete. Raises VocabkitError: can't write."""
        self._write(INDEX, index)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Remove the folder if the work inside fails before anything is in it."""
        try:
            yield
        except BaseException:
            self.discard(())
            raise

    def discard(self, names: Iterable[str]) -> None:
        """Remove files, and the folder if nothing else is in it."""
        for name in names:
            if self._remote is None:
                (Path(self.folder) / name).unlink(missing_ok=True)
            else:
                self._remote.remove(name)
        if self._remote is None:
            with suppress(OSError):
                Path(self.folder).rmdir()

    def _write(self, name: str, content: bytes | memoryview) -> None:
        if self._remote is not None:
            self._remote.write(name, bytes(content))
            return
        with replacing(Path(self.folder) / name) as temporary:
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
