"""Pictures decoded by threads, a few before they are needed."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_Item = TypeVar("_Item")


@contextmanager
def decoding_threads() -> Iterator[ThreadPoolExecutor]:
    """Threads; what they have not begun is given up at the end. Warnings are then as they were: decoders turn them off
    and on again, which in threads could leave them off.
    """
    threads = ThreadPoolExecutor()
    with warnings.catch_warnings():
        try:
            yield threads
        finally:
            threads.shutdown(cancel_futures=True)


def ahead(items: Iterable[_Item], count: int) -> Iterator[_Item]:
    """The items, each when `count` more have been made."""
    waiting: deque[_Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting
