"""Rows of equal length in a file, read one run of neighbours at a time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from vocabkit.errors import VocabkitError
from vocabkit.files import reading


@dataclass(frozen=True)
class ByteRows:
    """A matrix of bytes inside a file."""

    path: Path
    start: int
    """Where its first row starts in the file."""
    count: int
    size: int
    """Bytes of a row."""

    def read(self, ids: np.ndarray) -> np.ndarray:
        """(n, size) uint8: these rows and not a byte more of the file. ids: (n,) ascending, below `count`.

        Raises VocabkitError: the file can't be read, or ends too soon.
        """
        rows = np.empty((len(ids), self.size), np.uint8)
        view = rows.data.cast("B") if rows.size else memoryview(b"")
        runs = np.flatnonzero(np.diff(ids) != 1) + 1
        bounds = [0, *runs.tolist(), len(ids)] if len(ids) else [0]
        with reading(self.path), self.path.open("rb", buffering=0) as file:
            for first, last in pairwise(bounds):
                file.seek(self.start + int(ids[first]) * self.size)
                part = view[first * self.size : last * self.size]
                while part:
                    got = file.readinto(part)
                    if not got:
                        raise VocabkitError(f"{self.path}: ends before row {ids[last - 1]}; it is truncated")
                    part = part[got:]
        return rows
