"""A training step beside what it can't do without: the frozen LLM's own forward and backward pass to the visual tokens.

Adapters with linear and softmax heads over 19,200 and 46,145 rows (what SmolLM2 and Gemma3 share) and the MLP projector
train on captions of random features. A step is features, adapter, LLM, caption loss, gradients, clipping and AdamW.
Steps of all kinds take turns in one process; peak memory is that of a process for each.

A head costs the same work beside any LLM of one width, so what share of a step that is depends on the LLM. Two of them,
with a table each: SmolLM2-135M, and LLaMA3-8B's layers, 4,096 wide, with random weights. Of its 32 layers one is really
there; the time of the others is that of two more layers, measured in the same run (memory is with the one alone).

rows     bare              the LLM's own forward and backward pass, from given visual tokens to their gradients
         mlp               a step that trains an MLP projector
         linear, softmax   a step that trains an adapter with such a head, of so many rows
columns  s/step            seconds of a step, best of --rounds after one that warms up
         / bare            the same over that of the LLM alone: what the adapter adds to it
         limit             what / bare should not exceed; with a ! where it does
         / MLP             samples per second over those of the MLP projector
         MB                peak memory of a process that does two such steps, in millions of bytes

Run: python benchmarks/train.py [--llm SOURCE] [--hidden H] [--batch B] [--patches N] [--rounds R]
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from process import cost
from transformers import LlamaConfig, LlamaForCausalLM

from vocabkit.adapter.config import AdapterConfig, Head, MLPConfig
from vocabkit.adapter.model import Adapter, LangBridgeAdapter, MLPProjector
from vocabkit.data.samples import Turn
from vocabkit.errors import VocabkitError, one_line
from vocabkit.files.memory import keep_freed_memory
from vocabkit.llm.load import LLM, load_llm
from vocabkit.llm.lvlm import LVLM, Batch, caption_loss, collate
from vocabkit.llm.prompts import encode_sample
from vocabkit.shared.align import align
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.tokenizer.catalog import resolve
from vocabkit.train.dataset import Item
from vocabkit.train.objective import Objective

ROWS = (19_200, 46_145)
HEADS: tuple[Head, ...] = ("linear", "softmax")
VISION = 1024
CAPTION = "a photograph of two people who walk a small dog along the beach at sunset"
LIMIT = 1.10
LAYERS = 32
"""Of LLaMA3-8B."""


def main() -> None:
    """Print each claim: ours, the peer, the ratio, the limit; or do the steps of one kind, for its peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--llm", default="smollm2-135m", metavar="SOURCE",
        help="the small LLM, SmolLM2-135M: a folder, a GGUF, a catalog name or a hub id [smollm2-135m, of the hub]",
    )  # fmt: skip
    parser.add_argument("--hidden", type=int, default=1024, metavar="H", help="hidden width of the adapters [1024]")
    parser.add_argument(
        "--batch", type=int, default=8, metavar="B", help="samples of a step [8]; beside the large LLM a quarter of it"
    )
    parser.add_argument("--patches", type=int, default=144, metavar="N", help="visual tokens of a sample [144]")
    parser.add_argument("--rounds", type=int, default=5, metavar="R", help="steps of a kind; the best one counts [5]")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    try:
        small = load_llm(options.llm)
        with_gemma(small, max(ROWS))
    except VocabkitError as error:
        print(f"error: --llm {options.llm}: {one_line(str(error))}", file=sys.stderr)
        sys.exit(2)
    quarter = max(1, options.batch // 4)
    if options.only:
        size, kind = options.only
        llm, samples = (small, options.batch) if size == "small" else (large(small, 1), quarter)
        step = kinds(llm, make_batch(llm, samples, options.patches), options.hidden)[kind]()
        for _ in range(2):
            step()
        return
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, best of {options.rounds}"
    )
    batch = make_batch(small, options.batch, options.patches)
    print_table(
        "small", options.llm, measured(kinds(small, batch, options.hidden), options.rounds), 0.0, batch, options
    )

    batch = make_batch(small, quarter, options.patches)
    one, three = (measured({"bare": lambda n=n: bare(large(small, n), batch)}, options.rounds)["bare"] for n in (1, 3))  # type: ignore[misc]
    others = (three - one) / 2 * (LAYERS - 1)
    seconds = measured(kinds(large(small, 1), batch, options.hidden), options.rounds)
    print_table("large", f"LLaMA3-8B's {LAYERS} layers", seconds, others, batch, options)
    print(
        "\n/ bare: time of the step over that of the LLM alone; / MLP: samples per second over those of the projector"
    )


def print_table(
    size: str, name: str, seconds: dict[str, float], others: float, batch: Batch, options: argparse.Namespace
) -> None:
    """`others`: seconds of the layers that are not there."""
    samples, length = batch.ids.shape
    print(
        f"\n{name}: {samples} samples of {options.patches} patches and {length - options.patches} tokens of text, "
        f"hidden width {options.hidden}\n"
        f"{'':16s}  s/step  / bare   limit   / MLP     MB"
    )
    for kind, alone in seconds.items():
        mine, there, share = alone + others, seconds["bare"] + others, (seconds["mlp"] + others) / (alone + others)
        verdict = "" if kind in ("bare", "mlp") else f"{LIMIT:.2f}{' ' if mine / there <= LIMIT else '!'}"
        megabytes = cost([sys.executable, *sys.argv, "--only", size, kind]).megabytes
        print(f"{kind:16s}{mine:8.2f} {mine / there:7.3f} {verdict:>7s} {share:7.3f} {megabytes:6.0f}")


def large(small: LLM, layers: int) -> LLM:
    """LLaMA3-8B's shape, but of so many layers, with the tokenizer (and so the rows) of `small`."""
    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=14_336,
        num_attention_heads=32,
        num_key_value_heads=8,
        num_hidden_layers=layers,
        vocab_size=small.model.config.vocab_size,
        tie_word_embeddings=True,
    )
    return replace(small, model=LlamaForCausalLM(config).eval().requires_grad_(False))


def kinds(llm: LLM, batch: Batch, hidden: int) -> dict[str, Callable[[], Callable[[], None]]]:
    """Name -> what makes a step of that kind."""

    def langbridge(head: Head, rows: int) -> Callable[[], None]:
        shared = with_gemma(llm, rows)
        config = AdapterConfig.of(shared, llm=llm.vocabulary.name, vision_width=VISION, hidden_width=hidden, head=head)
        return training(llm, LangBridgeAdapter(config, shared), batch)

    def mlp() -> Callable[[], None]:
        return training(llm, MLPProjector(MLPConfig(VISION, llm.width, llm.width, llm.vocabulary.name)), batch)

    made: dict[str, Callable[[], Callable[[], None]]] = {"bare": lambda: bare(llm, batch), "mlp": mlp}
    for head in HEADS:
        for rows in ROWS:
            made[f"{head} {rows:,}"] = lambda head=head, rows=rows: langbridge(head, rows)  # type: ignore[misc]
    return made


def with_gemma(llm: LLM, rows: int) -> SharedVocabulary:
    """The first tokens that `llm` and Gemma3 share. Raises VocabkitError: they share fewer."""
    shared = align([llm.vocabulary, resolve("gemma3-270m").vocabulary])
    if len(shared) < rows:
        raise VocabkitError(f"shares {len(shared):,} tokens with Gemma3, and {rows:,} are needed; take SmolLM2-135M")
    return shared.select(range(rows))


def bare(llm: LLM, batch: Batch) -> Callable[[], None]:
    """Forward and backward through the LLM alone, from given visual tokens and to their gradients."""
    visual = torch.randn(*batch.images.shape[:2], llm.width) * 0.1

    def step() -> None:
        tokens = visual.detach().requires_grad_()
        (caption_loss(llm.model, batch, tokens).sum() / batch.answer_tokens).backward()

    return step


def training(llm: LLM, connector: Adapter, batch: Batch) -> Callable[[], None]:
    """A step as in `vocabkit.train.loop`."""
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


if __name__ == "__main__":
    main()
