"""A training step beside what it can't do without: the frozen LLM's own forward and backward pass to the visual tokens.

Adapters with linear and softmax heads over 19,200 and 46,145 rows (what SmolLM2 and Gemma3 share) and the MLP projector
train with SmolLM2-135M on captions of random features. A step is features, adapter, LLM, caption loss, gradients,
clipping and AdamW. Steps of all kinds take turns in one process; peak memory is that of a process for each.

Operations are counted too: those of the head over those of the LLM. That ratio grows with V_shared and falls with the
LLM: a head that costs as much as a model of 135 million parameters costs little beside one of 8 billion.
Run: python benchmarks/train.py --llm SOURCE [--hidden H] [--batch B] [--patches N] [--rounds R]
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable

import torch
from process import cost

from vocabkit.adapter import LangBridgeAdapter, MLPProjector
from vocabkit.adapter_config import AdapterConfig, MLPConfig
from vocabkit.alignment import align
from vocabkit.allocation import keep_freed_memory
from vocabkit.catalog import resolve
from vocabkit.data import Turn
from vocabkit.llms import LLM, load_llm
from vocabkit.lvlm import LVLM, Batch, Connector, caption_loss, collate
from vocabkit.mixing import Head
from vocabkit.prompts import encode_sample
from vocabkit.training.dataset import Item
from vocabkit.training.objective import Objective

ROWS = (19_200, 46_145)
HEADS: tuple[Head, ...] = ("linear", "softmax")
VISION = 1024
CAPTION = "a photograph of two people who walk a small dog along the beach at sunset"
LIMIT = 1.10
LARGE_LLM, LARGE_WIDTH = 6.98e9, 4096
"""Parameters in the matrices of LLaMA3-8B's layers, and its width."""


def main() -> None:
    """Print each claim: ours, the peer, the ratio, the limit; or do the steps of one kind, for its peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llm", default="smollm2-135m", help="SmolLM2-135M: a folder, a GGUF or a hub id")
    parser.add_argument("--hidden", type=int, default=1024, help="hidden width of the adapters [1024]")
    parser.add_argument("--batch", type=int, default=8, help="samples of a step [8]")
    parser.add_argument("--patches", type=int, default=144, help="visual tokens of a sample [144]")
    parser.add_argument("--rounds", type=int, default=5, help="the best of so many [5]")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    llm = load_llm(options.llm)
    batch = make_batch(llm, options.batch, options.patches)
    if options.only:
        step = kinds(llm, batch, options.hidden)[options.only]()
        for _ in range(2):
            step()
        return
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"best of {options.rounds}\n"
        f"{options.batch} samples of {options.patches} patches and {batch.ids.shape[1] - options.patches} tokens of "
        f"text, hidden width {options.hidden}\n"
    )
    seconds = measured(kinds(llm, batch, options.hidden), options.rounds)
    megabytes = {kind: cost([sys.executable, *sys.argv, "--only", kind]).megabytes for kind in seconds}
    per_token = matrix_parameters(llm)
    bare, mlp = seconds["bare"], seconds["mlp"]
    columns = ("s/step", 8), ("/ bare", 7), ("limit", 7), ("operations", 11), ("8B LLM", 7), ("/ MLP", 7), ("MB", 6)
    print(" " * 16 + " ".join(f"{name:>{width}s}" for name, width in columns))
    for kind, mine in seconds.items():
        verdict, here, there = "", "", ""
        if kind not in ("bare", "mlp"):
            verdict = f"{LIMIT:6.2f}{' ' if mine / bare <= LIMIT else '!'}"
            tokens, patches = batch.ids.numel(), batch.images.shape[0] * batch.images.shape[1]
            here = f"{head_operations(kind, patches, options.hidden, llm.width) / (4 * tokens * per_token):+.0%}"
            there = f"{head_operations(kind, patches, options.hidden, LARGE_WIDTH) / (4 * tokens * LARGE_LLM):+.1%}"
        print(
            f"{kind:16s}{mine:8.2f} {mine / bare:7.2f} {verdict:>7s} {here:>11s} {there:>7s} {mlp / mine:7.2f} "
            f"{megabytes[kind]:6.0f}"
        )
    print(
        "\n/ bare: time of the step over that of the LLM alone; / MLP: samples per second over those of the projector"
    )


def kinds(llm: LLM, batch: Batch, hidden: int) -> dict[str, Callable[[], Callable[[], None]]]:
    """Name -> what makes a step of that kind."""

    def langbridge(head: Head, rows: int) -> Callable[[], None]:
        names = [llm.vocabulary, resolve("gemma3-270m").vocabulary]
        shared = align(names).select(range(rows))
        config = AdapterConfig.of(shared, llm=llm.vocabulary.name, vision_width=VISION, hidden_width=hidden, head=head)
        return training(llm, LangBridgeAdapter(config, shared), batch)

    def mlp() -> Callable[[], None]:
        return training(llm, MLPProjector(MLPConfig(VISION, llm.width, llm.width, llm.vocabulary.name)), batch)

    made: dict[str, Callable[[], Callable[[], None]]] = {"bare": lambda: bare(llm, batch), "mlp": mlp}
    for head in HEADS:
        for rows in ROWS:
            made[f"{head} {rows:,}"] = lambda head=head, rows=rows: langbridge(head, rows)  # type: ignore[misc]
    return made


def bare(llm: LLM, batch: Batch) -> Callable[[], None]:
    """Forward and backward through the LLM alone, from given visual tokens and to their gradients."""
    visual = torch.randn(*batch.images.shape[:2], llm.width) * 0.1

    def step() -> None:
        tokens = visual.detach().requires_grad_()
        (caption_loss(llm.model, batch, tokens).sum() / batch.answer_tokens).backward()

    return step


def training(llm: LLM, connector: Connector, batch: Batch) -> Callable[[], None]:
    """A step as in `vocabkit.training.loop`."""
    objective = Objective(LVLM(llm, connector), images=None).train()  # type: ignore[arg-type]
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=1e-4)
    item = Item(batch, [], [])

    def step() -> None:
        captions, _ = objective(item, caption=True, words=False)
        (captions / batch.answer_tokens).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adamw.step()
        adamw.zero_grad()

    return step


def measured(makers: dict[str, Callable[[], Callable[[], None]]], rounds: int) -> dict[str, float]:
    """Seconds of a step of each kind. They take turns; the first round warms up."""
    steps = {kind: make() for kind, make in makers.items()}
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    for _ in range(rounds + 1):
        for kind, step in steps.items():
            start = time.perf_counter()
            step()
            times[kind].append(time.perf_counter() - start)
    return {kind: min(found[1:]) for kind, found in times.items()}


def make_batch(llm: LLM, samples: int, patches: int) -> Batch:
    """Captions of random features."""
    prompt = encode_sample(llm.tokenizer, [Turn("<image>", CAPTION)], "plain", patches, longest=patches + 64)
    return collate([prompt] * samples, list(torch.randn(samples, patches, VISION)))


def matrix_parameters(llm: LLM) -> int:
    """Of the layers. A token takes 2 operations for each in the forward pass and, all being frozen, 2 in the other."""
    return sum(p.numel() for name, p in llm.model.named_parameters() if p.ndim == 2 and ".layers." in name)


def head_operations(kind: str, n: int, h: int, d: int) -> float:
    """Multiplications and additions of the head, forward and backward, gradients to its input and weight included."""
    head, rows = kind.split()
    t = int(rows.replace(",", ""))
    if head == "softmax":  # scores and their mix; then both again, and the gradients of hidden state and weight
        return 2 * n * t * ((h + d) + (h + d) + 2 * h)
    unfused = 2 * n * t * ((h + d) + d + 2 * h)
    return min(unfused, 2 * (t + n) * h * d + 2 * t * h * d + 4 * n * h * d)


if __name__ == "__main__":
    main()
