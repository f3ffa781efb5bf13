"""`build-shared --rank-by`: counting a corpus on all cores, beside `encode_batch` of tokenizers on the same text.

The peer has the text in memory and only encodes it; ours reads the file, counts, and gives counts by id. In turn, best
of the rounds; processor time is of all processes. Run: python benchmarks/ranking.py
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from claims import Claim, report
from scale_inputs import captions

from vocabkit.shared.pieces import BATCH_TEXTS
from vocabkit.shared.rank import count_tokens
from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.segmentation import to_tokenizers

COUNTER = "qwen2.5"


def main() -> None:
    """Print the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=48, help="of captions [48]")
    parser.add_argument("--rounds", type=int, default=2, help="best of so many [2]")
    parser.add_argument("--claims", type=Path, help="also write the claims to this file")
    options = parser.parse_args()
    report(measure(options.megabytes, options.rounds), options.claims)


def measure(megabytes: int, rounds: int) -> list[Claim]:
    """Count and encode `megabytes` of captions."""
    vocabulary = resolve(COUNTER).vocabulary
    tokenizer = to_tokenizers(vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "captions.txt"
        with path.open("wb") as file:
            file.writelines(captions(megabytes * 1_000_000))
        texts = path.read_text("utf-8").splitlines()
        batches = [texts[start : start + BATCH_TEXTS] for start in range(0, len(texts), BATCH_TEXTS)]
        peer, ours = [], []
        for _ in range(rounds):
            peer.append(timed(lambda: sum(len(e) for b in batches for e in tokenizer.encode_batch(b))))
            ours.append(timed(lambda: int(count_tokens(vocabulary, [path]).sum())))
    assert {each[2] for each in peer} == {each[2] for each in ours}, "both find as many tokens"
    (our_wall, our_cpu), (peer_wall, peer_cpu) = (
        np.min([each[:2] for each in found], axis=0) for found in (ours, peer)
    )
    return [
        Claim(
            "ranking, throughput beside encode_batch", megabytes / our_wall, megabytes / peer_wall, "MB/s", 0.9, True
        ),
        Claim("ranking, processor time beside encode_batch", our_cpu, peer_cpu, "s", 1.1),
    ]


def timed(work: Callable[[], int]) -> tuple[float, float, int]:
    """Seconds on the wall, processor seconds with children, and what `work` returns."""
    start, before = time.perf_counter(), processor()
    found = work()
    return time.perf_counter() - start, processor() - before, found


def processor() -> float:
    """Processor seconds of this process and the children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
