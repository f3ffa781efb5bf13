"""Make data/smollm2-scenes.pt of a trained adapter: python data/build_adapter.py ADAPTER OUT.pt.

Of the head stay the rows that at least `SEEN` training captions hold, in float16. A softmax is renormalised by that.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch

from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.transfer.transfer import head_rows

SEEN = 4
"""Captions; a row of a rarer word has learned little."""


def main(source: str, out: str) -> None:
    """Write the small adapter."""
    adapter = LangBridgeAdapter.from_pretrained(source)
    counts = adapter.shared.counts
    assert counts is not None
    rows = np.flatnonzero(counts >= SEEN)
    shared = adapter.shared.select(rows)
    config = dataclasses.replace(adapter.config, rows=len(rows), shared_fingerprint=shared.fingerprint)
    small = LangBridgeAdapter.from_parts(Path(source), config, head_rows(adapter, rows), shared)
    small.to(torch.float16).save(out)
    print(f"{out}: {len(rows):,} rows of {adapter.config.rows:,}, trained with {config.llm}")


if __name__ == "__main__":
    main(*sys.argv[1:])
