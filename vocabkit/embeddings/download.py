"""One matrix of a safetensors file on the hub, as a safetensors file of its own on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from vocabkit.embeddings.byte_ranges import RemoteFile
from vocabkit.embeddings.safetensors_file import Place, read_header
from vocabkit.errors import VocabkitError


def download_matrix(
    file: RemoteFile, name: str, place: Place, target: Path, progress: Callable[[int, int], None] | None
) -> None:
    """Write the matrix `name`, which stands at `place` of `file`, to `target`: whole or not at all.

    What came before an interruption is kept beside it, and the next call goes on from there. Processes that want the
    same one wait for each other.

    Args:
        progress: called with (bytes done, bytes in total).

    Raises:
        OSError: the disk. Else as `RemoteFile.fetch`.
    """
    size = place.stop - place.start
    head = _header(name, place)
    partial = target.with_suffix(".incomplete")
    with WeakFileLock(target.with_suffix(".lock")):
        if is_whole(target):
            return
        with partial.open("a+b") as into:
            into.seek(0)
            done = partial.stat().st_size - len(head)
            if into.read(len(head)) != head or done > size:
                into.truncate(0)
                into.write(head)
                done = 0

            def report(received: int) -> None:
                if progress is not None:
                    progress(done + received, size)

            report(0)
            file.fetch(place.start + done, place.stop, into, report)
            into.flush()
            os.fsync(into.fileno())
        read_header(partial)
        partial.replace(target)


def is_whole(file: Path) -> bool:
    """Whether `file` is there and as long as its header says."""
    try:
        return bool(read_header(file).names)
    except VocabkitError:
        return False


def _header(name: str, place: Place) -> bytes:
    entry = {"dtype": place.dtype, "shape": [place.rows, place.width], "data_offsets": [0, place.stop - place.start]}
    text = json.dumps({name: entry}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
