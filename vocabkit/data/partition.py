"""Partition: the part of many pictures that one of several processes computes, into the folder that all share.

Parts are blocks of pictures in turn: a scheduler may start them in any order, at once or one by one, and start one
again that failed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from vocabkit.errors import VocabkitError, quote


@dataclass(frozen=True)
class Partition:
    """Part `number` of `count`, from 1. The whole by default."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise VocabkitError(f"`partition` {self}: there is no such part; the first of two is 1/2, the last 2/2")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Partition:
        """Return the partition of a text such as `1/8`. Raises VocabkitError: another form, or no such part."""
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if found is None:
            raise VocabkitError(f"`partition` {quote(text)}: must be I/N, part I of N, such as 1/8")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def of_this_process(cls) -> Partition:
        """The share of a process that `accelerate launch` or `torchrun` started; the whole for any other process.

        Raises VocabkitError: a rank that there is not.
        """
        rank, world = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
        if not (rank.isdecimal() and world.isdecimal()):
            return cls()
        if int(rank) >= int(world):
            raise VocabkitError(
                f"RANK={rank}, WORLD_SIZE={world}: ranks are below WORLD_SIZE; unset both, or mend what set them"
            )
        return cls(int(rank) + 1, int(world))

    def has(self, block: int) -> bool:
        """Whether block number `block`, from 0, is in this part."""
        return block % self.count == self.number - 1


WHOLE = Partition()
