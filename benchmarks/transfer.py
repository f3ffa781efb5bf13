"""Time and memory of a transfer at real size, beside reading the same bytes and beside loading the whole model.

The checkpoint has LLaMA3-8B's true embedding shape (128,256 x 4,096, bfloat16, random values) and so many layers
(--layers) that the published way (load the model, index_select) fits in memory; it is the more costly, the more layers
there are. Adapters have hidden width 1,024 and 19,200 or 109,566 rows. Needs about 8 GB of disk.

Cold: the files were dropped from the page cache before (Linux). In-process times leave out starting Python and torch,
and alternate with those of the peer. Processor time counts both cores, which share the check for NaN.
Run: python benchmarks/transfer.py [--layers N] [--rows R ...] [--claims FILE]
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from claims import Claim, report
from process import cost
from safetensors.torch import save_file
from transformers import LlamaConfig

from vocabkit.adapter.config import AdapterConfig
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.llm.embeddings import open_embeddings
from vocabkit.shared.align import align
from vocabkit.tokenizer.catalog import resolve
from vocabkit.transfer.transfer import Target, transfer

ROWS, WIDTH = 128_256, 4_096
ROUNDS = 5
PUBLISHED_WAY = """
import sys, torch
from transformers import AutoModelForCausalLM
from vocabkit.adapter.model import LangBridgeAdapter
adapter = LangBridgeAdapter.from_pretrained(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
ids = torch.tensor(adapter.shared.ids_for("llama3").tolist())
rows = model.get_input_embeddings().weight.index_select(0, ids)
torch.save({"adapter": adapter.state_dict(), "embeddings": rows}, sys.argv[3])
"""
ONLY_IMPORTS = "import vocabkit.transfer.transfer, vocabkit.transfer.transfer, vocabkit.report.adapters"


def main() -> None:
    """Print each claim: ours, the peer, the ratio, the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=1, help="layers of the checkpoint [1]")
    parser.add_argument("--rows", type=int, nargs="+", default=[19_200, 109_566], help="of the adapters [both]")
    parser.add_argument("--claims", type=Path, help="also write the claims to this file")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, best of {ROUNDS}")
    claims: list[Claim] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        model = make_model(work / "llama3-8b", options.layers)
        for rows in options.rows:
            claims += measure(work, model, rows)
    report(claims, options.claims)


def measure(work: Path, model: Path, rows: int) -> list[Claim]:
    """One adapter: in this process, then whole processes."""
    adapter_file, adapter = make_adapter(work / f"adapter-{rows}.pt", rows)
    vocabulary = resolve("llama3").vocabulary
    in_order = sorted(adapter.shared.ids_for("llama3").tolist())
    needed = rows * WIDTH * 2
    print(
        f"{rows:,} rows: {needed / 1e6:,.0f} MB of embeddings, adapter of {adapter_file.stat().st_size / 1e6:,.0f} MB"
    )
    name, claims = f"transfer of {rows:,} rows", []

    def ours() -> None:
        transfer(adapter, Target(vocabulary, open_embeddings(model)))

    def same_rows() -> None:
        read_rows(model, in_order)

    def whole_table() -> None:
        read_range(model, ROWS * WIDTH * 2)

    for how in ("cold", "warm"):
        prepare: Callable[[], None] = (lambda: drop(model)) if how == "cold" else (lambda: None)
        rounds = [[timed(work, prepare) for work in (ours, same_rows)] for _ in range(ROUNDS)]
        mine, same = (tuple(map(min, zip(*times, strict=True))) for times in zip(*rounds, strict=True))
        whole = min(timed(whole_table, prepare) for _ in range(ROUNDS))  # apart: it leaves 1 GB behind to be cleared
        claims.append(Claim(f"{name}, {how}", mine[0], same[0], "s", 1.3))
        claims.append(Claim(f"{name}, {how}, processor time", mine[1], same[1], "s"))
        print(f"  {how}: (the peer reads these rows one after the other; the whole table in one go: {whole[0]:.2f} s)")

    out = work / "out"
    command = [sys.executable, "-m", "vocabkit_cli", "transfer", str(adapter_file), "--to", f"llama3={model}"]
    command += ["--weights", str(model), "--overwrite", "--out", str(out)]
    tokenizer = work / "llama3.arrow"
    if not tokenizer.exists():
        subprocess.run([sys.executable, "data/build.py", "llama3", str(tokenizer)], check=True)
    command[command.index(f"llama3={model}")] = f"llama3={tokenizer}"
    costs = {"ours": cost(command)}
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    claims.append(Claim(f"{name}, memory beside output + 300 MB", costs["ours"].megabytes, size + 300, "MB", 1.0))
    print(f"    (the output has {size:,.0f} MB; Python and the imports alone take {cost(imports()).megabytes:,.0f} MB)")
    published = cost([sys.executable, "-c", PUBLISHED_WAY, str(model), str(adapter_file), str(work / "published.pt")])
    claims.append(Claim(f"{name}, beside the published way", costs["ours"].seconds, published.seconds, "s"))
    claims.append(Claim(f"{name}, memory beside the published way", costs["ours"].megabytes, published.megabytes, "MB"))
    return claims


def imports() -> list[str]:
    """A process that imports what the command does, and no more."""
    return [sys.executable, "-c", ONLY_IMPORTS]


def make_model(folder: Path, layers: int) -> Path:
    """A sharded Llama checkpoint with the true embedding shape."""
    folder.mkdir()
    config = LlamaConfig(
        vocab_size=ROWS, hidden_size=WIDTH, intermediate_size=14_336, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, dtype="bfloat16", architectures=["LlamaForCausalLM"], tie_word_embeddings=False,
    )  # fmt: skip
    config.save_pretrained(folder)
    shapes = {
        "model.embed_tokens.weight": (ROWS, WIDTH),
        "lm_head.weight": (ROWS, WIDTH),
        "model.norm.weight": (WIDTH,),
    }
    for layer in range(layers):
        name = f"model.layers.{layer}."
        shapes |= {
            f"{name}self_attn.{part}_proj.weight": (1_024 if part in "kv" else WIDTH, WIDTH)
            for part in ("q", "k", "v", "o")
        }
        shapes |= {f"{name}mlp.{part}_proj.weight": (14_336, WIDTH) for part in ("gate", "up")}
        shapes |= {f"{name}mlp.down_proj.weight": (WIDTH, 14_336)}
        shapes |= {f"{name}{norm}_layernorm.weight": (WIDTH,) for norm in ("input", "post_attention")}
    index: dict[str, str] = {}
    generator = torch.Generator().manual_seed(0)
    for number, (name, shape) in enumerate(shapes.items()):
        file = f"model-{number + 1:05d}-of-{len(shapes):05d}.safetensors"
        save_file({name: torch.empty(shape, dtype=torch.bfloat16).normal_(generator=generator)}, folder / file)
        index[name] = file
    (folder / "model.safetensors.index.json").write_text(
        '{"metadata": {}, "weight_map": {' + ", ".join(f'"{name}": "{file}"' for name, file in index.items()) + "}}"
    )
    return folder


def make_adapter(path: Path, rows: int) -> tuple[Path, LangBridgeAdapter]:
    """An untrained linear adapter in bfloat16 over the first `rows` shared tokens of Qwen2 and LLaMA3."""
    shared = align([resolve("qwen2").vocabulary, resolve("llama3").vocabulary]).select(range(rows))
    config = AdapterConfig.of(shared, llm="qwen2", vision_width=1_024, hidden_width=1_024)
    LangBridgeAdapter(config, shared).to(torch.bfloat16).save(path)
    return path, LangBridgeAdapter.from_pretrained(path)


def embedding_file(model: Path) -> Path:
    """The shard with the embedding table."""
    return next(iter(sorted(model.glob("model-00001-*.safetensors"))))


def read_rows(model: Path, ids: list[int]) -> None:
    """The bytes of these rows, runs of neighbours in one read, into one buffer."""
    row = WIDTH * 2
    with embedding_file(model).open("rb", buffering=0) as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        buffer = memoryview(bytearray(len(ids) * row))
        at = 0
        while at < len(ids):
            run = 1
            while at + run < len(ids) and ids[at + run] == ids[at] + run:
                run += 1
            file.seek(start + ids[at] * row)
            file.readinto(buffer[at * row : (at + run) * row])
            at += run


def read_range(model: Path, size: int) -> None:
    """So many bytes from the start of the table."""
    with embedding_file(model).open("rb", buffering=0) as file:
        file.readinto(bytearray(size))


def drop(model: Path) -> None:
    """The files of the model, out of the page cache."""
    for path in model.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def timed(work: Callable[[], None], prepare: Callable[[], None]) -> tuple[float, float]:
    """Seconds of wall time and of processor time (user and system)."""
    prepare()
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    main()
