"""Rows of equal length in a file, each run of neighbours read straight to where it belongs."""

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
        """(n, size) uint8: these rows. See `read_into`."""
        rows = np.empty((len(ids), self.size), np.uint8)
        self.read_into(ids, rows, np.arange(len(ids)))
        return rows

    def read_into(self, ids: np.ndarray, into: np.ndarray, places: np.ndarray) -> None:
        """Read row ids[i] straight into into[places[i]], and not a byte more of the file.

        Args:
            ids: (n,) ascending, below `count`; they may repeat.
            into: (N, size) uint8, contiguous.
            places: (n,) rows of it, in any order.

        Raises VocabkitError: the file can't be read, or ends too soon.
        """
        if not len(ids):
            return
        view = into.data.cast("B")
        runs = np.flatnonzero((np.diff(ids) != 1) | (np.diff(places) != 1)) + 1
        with reading(self.path), self.path.open("rb", buffering=0) as file:
            for first, last in pairwise([0, *runs.tolist(), len(ids)]):
                file.seek(self.start + int(ids[first]) * self.size)
                place = int(places[first])
                part = view[place * self.size : (place + last - first) * self.size]
                while part:
                    got = file.readinto(part)
                    if not got:
                        raise VocabkitError(f"{self.path}: ends before row {ids[last - 1]}; it is truncated")
                    part = part[got:]
