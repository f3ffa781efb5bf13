"""Where the time of a run goes."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

Stage = Literal["waiting for pictures", "vision encoder", "adapter", "LLM", "writing"]
_ON_DEVICE: tuple[Stage, ...] = ("vision encoder", "adapter", "LLM")


@dataclass(frozen=True)
class Profile:
    """Shares of the wall time of a run."""

    seconds: float
    """From the first picture to the last result on disk."""
    shares: dict[str, float]
    """By stage. On a CPU they add up to at most 1. On a GPU those of models are by its own clock, while this thread
    waits for pictures and writing beside it."""
    busy: float | None
    """The share of a GPU that models had, by its own clock, gaps between the kernels of one stage included; None on a
    CPU."""


class Stopwatch:
    """Times the stages of a run on `device`."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._start = time.perf_counter()

    @contextmanager
    def host(self, stage: Stage) -> Iterator[None]:
        """Around what this thread waits for."""
        start = time.perf_counter()
        yield
        self._seconds[stage] += time.perf_counter() - start

    @contextmanager
    def models(self, stage: Stage) -> Iterator[None]:
        """Around what the device computes. On a GPU between two events in its stream, so that nothing waits."""
        if not self._cuda:
            with self.host(stage):
                yield
            return
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        yield
        end.record()
        self._events.append((stage, begin, end))
        while self._events and self._events[0][2].query():
            self._count()

    def read(self) -> Profile:
        """The shares since the start."""
        if self._cuda:
            torch.cuda.synchronize()
        while self._events:
            self._count()
        seconds = time.perf_counter() - self._start
        shares = {stage: spent / seconds for stage, spent in self._seconds.items()}
        busy = sum(shares.get(stage, 0.0) for stage in _ON_DEVICE) if self._cuda else None
        return Profile(seconds, shares, busy)

    def _count(self) -> None:
        stage, begin, end = self._events.popleft()
        self._seconds[stage] += begin.elapsed_time(end) / 1000  # from milliseconds
