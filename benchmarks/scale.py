"""How time and memory grow: tokenizers at once, tokens of a vocabulary, captions of a corpus, rows of an adapter.

Whole commands, one after the other. A slope is that of a straight line through logarithms: 1 means twice the size,
twice the time; 0 means the same memory at any size. What a command takes that does nothing is taken off first.
Captions are made while they are read, by another process, so theirs is time beside that. All of it takes an hour to two
and 12 GB of disk on two cores; PART is any of tokenizers, vocabulary, corpus, transfer.
Run: python benchmarks/scale.py [PART ...] [--gigabytes N]
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from process import Cost, cost
from scale_inputs import captions, synthetic_tokenizer, tokenizers, tokens_of

VOCABKIT = (sys.executable, "-m", "vocabkit_cli")
TOKENIZERS = (2, 5, 10, 20, 50)
VOCABULARY = (125_000, 250_000, 500_000, 1_000_000, 2_000_000)
CORPUS = (0.01, 0.1, 1.0)
"""Shares of --gigabytes."""
ROWS = (18_750, 37_500, 75_000, 150_000)
WIDTH = 8_192


def main() -> None:
    """Print a table for each part, and the slopes; or write captions into a pipe."""
    parts: dict[str, Callable[[Path], None]] = {
        "tokenizers": grow_tokenizers,
        "vocabulary": grow_vocabulary,
        "corpus": lambda work: grow_corpus(work, options.gigabytes),
        "transfer": grow_adapter,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[*parts, []], help=", ".join(parts))
    parser.add_argument("--gigabytes", type=float, default=10, help="of the largest corpus [10]")
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        with Path(options.write[0]).open("wb", buffering=0) as pipe:
            for block in captions(int(options.write[1])):
                pipe.write(block)
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}", flush=True)
    for part in options.parts or parts:
        with tempfile.TemporaryDirectory() as temporary:
            parts[part](Path(temporary))


def grow_tokenizers(work: Path) -> None:
    """`build-shared` of ever more tokenizers, in at least two of them."""
    names = tokenizers(work, max(TOKENIZERS))
    sizes = [sum(map(tokens_of, names[:count])) for count in TOKENIZERS]
    shared = [*VOCABKIT, "build-shared", "--at-least", "2", "--overwrite", "--out", str(work / "shared.arrow")]
    costs = [cost([*shared, *names[:count]]) for count in TOKENIZERS]
    table("tokenizers at once", "tokens of all", [f"{count:,}" for count in TOKENIZERS], sizes, costs, nothing())


def grow_vocabulary(work: Path) -> None:
    """`build-shared` of two tokenizer.json of ever more tokens, of which four in five are shared."""
    costs = []
    for size in VOCABULARY:
        pair = [str(synthetic_tokenizer(work / f"{name}{size}", size, seed)) for seed, name in enumerate("ab")]
        costs.append(cost([*VOCABKIT, "build-shared", *pair, "--overwrite", "--out", str(work / "shared.arrow")]))
    table("tokens of each of two", "tokens", [f"{size:,}" for size in VOCABULARY], VOCABULARY, costs, nothing())


def grow_corpus(work: Path, gigabytes: float) -> None:
    """`build-shared --rank-by` over captions from a pipe."""
    pipe, sizes, costs = work / "captions.txt", [int(share * gigabytes * 1e9) for share in CORPUS], []
    os.mkfifo(pipe)
    shared = [*VOCABKIT, "build-shared", "qwen2.5", "smollm2", "--overwrite", "--out", str(work / "shared.arrow")]
    unranked = cost(shared)
    for size in sizes:
        writer = subprocess.Popen([sys.executable, __file__, "--write", str(pipe), str(size)])
        costs.append(cost([*shared, "--rank-by", str(pipe), "--top", "19200"]))
        print(f"{size / 1e9:,.2f} GB: {costs[-1].seconds:,.0f} s, {costs[-1].megabytes:,.0f} MB of memory", flush=True)
        if writer.wait():
            sys.exit("the writer of captions failed")
    table("captions", "bytes", [f"{size / 1e9:,.2f} GB" for size in sizes], sizes, costs, unranked)


def grow_adapter(work: Path) -> None:
    """`transfer` of adapters of ever more rows to an LLM of width 8,192."""
    vocabulary = 200_000
    pair = [synthetic_tokenizer(work / name, vocabulary, seed) for seed, name in enumerate("ab")]
    make_table(work / "b" / "model.safetensors", vocabulary)
    costs = []
    for rows in ROWS:
        adapter, out = work / f"{rows}.pt", work / f"moved-{rows}"
        make_adapter(adapter, pair, rows)
        costs.append(
            cost([*VOCABKIT, "transfer", str(adapter), "--to", f"b={pair[1]}", "--overwrite", "--out", str(out)])
        )
        size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
        print(f"{rows:,} rows: {size:,.0f} MB written, {costs[-1].megabytes:,.0f} MB of memory", flush=True)
        for file in (adapter, *out.iterdir()):
            file.unlink()
    table(f"rows, to width {WIDTH:,}", "rows", [f"{rows:,}" for rows in ROWS], ROWS, costs, cost(imports()))


def make_table(path: Path, rows: int) -> None:
    """A checkpoint that has random embeddings and nothing else, beside its config.json."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    LlamaConfig(vocab_size=rows, hidden_size=WIDTH, architectures=["LlamaForCausalLM"]).save_pretrained(path.parent)
    table = torch.empty(rows, WIDTH, dtype=torch.bfloat16).normal_()
    save_file({"model.embed_tokens.weight": table}, path)


def make_adapter(path: Path, pair: Sequence[Path], rows: int) -> None:
    """An untrained softmax adapter in bfloat16 over the first `rows` tokens that the pair shares."""
    import torch

    from vocabkit.adapter.config import AdapterConfig
    from vocabkit.adapter.model import LangBridgeAdapter
    from vocabkit.shared.align import align
    from vocabkit.tokenizer.catalog import resolve

    shared = align([resolve(str(folder)).vocabulary for folder in pair]).select(range(rows))
    config = AdapterConfig.of(shared, llm=shared.names[0], vision_width=1_024, hidden_width=1_024, head="softmax")
    LangBridgeAdapter(config, shared).to(torch.bfloat16).save(path)


def nothing() -> Cost:
    """Of a command that does nothing."""
    return cost([*VOCABKIT, "--help"])


def imports() -> list[str]:
    """A process that imports what a transfer does, and no more."""
    return [
        sys.executable,
        "-c",
        "import vocabkit.transfer.transfer, vocabkit.transfer.transfer, vocabkit.report.adapters",
    ]


def table(title: str, unit: str, names: list[str], sizes: Sequence[float], costs: Sequence[Cost], base: Cost) -> None:
    """The measurements, and the slopes of time and of memory over sizes."""
    print(f"\n{title:>24s} {unit:>16s} {'time':>10s} {'memory':>10s}")
    for name, size, each in zip(names, sizes, costs, strict=True):
        print(f"{name:>24s} {size:16,.0f} {each.seconds:8.2f} s {each.megabytes:7,.0f} MB")
    times = [each.seconds - base.seconds for each in costs]
    memory = [max(1.0, each.megabytes - base.megabytes) for each in costs]
    print(f"{'slope':>24s} {'':16s} {slope(sizes, times):10.2f} {slope(sizes, memory):10.2f}", flush=True)


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of the straight line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


if __name__ == "__main__":
    main()
