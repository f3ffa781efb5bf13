"""The exact search for nearest tokens, beside brute force, FAISS and a naive loop over the same vocabulary.

The table has Gemma 3's true shape (262,144 x 640, bfloat16, random values, one safetensors file in the page cache); the
queries are as many as the visual tokens of an image of 576 patches. Every contender runs in a process of its own,
starts from the file, works in float32 and keeps the 5 nearest; times leave out starting Python and imports, peak memory
is that of the process. Brute force is the whole similarity matrix and torch.topk. The naive loop compares one visual
token after the other with the whole table; it gets 24 of them, and its loop is scaled up. Contenders alternate, best of
the rounds. Where other programs load the machine, processor time says more than wall time.

Run: python benchmarks/interpretation.py [--rounds N] [--faiss PYTHON], an interpreter that has faiss-cpu.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

from claims import Claim, report
from process import cost

ROWS, WIDTH, QUERIES, LOOPED, K = 262_144, 640, 576, 24, 5
PROGRAM = """
import json, sys, time
import numpy as np
folder = sys.argv[1]
{imports}
def now():
    return np.array([time.perf_counter(), time.process_time()])
start = now()
{read}
middle = now()
{search}
times = middle - start + (now() - middle) * {factor}
np.save(folder + "/found.npy", np.asarray(found)[:, :1])
with open(folder + "/times.json", "w") as file:
    json.dump(times.tolist(), file)
"""
READ = """
rows = torch.nn.functional.normalize(load_file(folder + "/model.safetensors")["model.embed_tokens.weight"].float())
queries = torch.nn.functional.normalize(torch.from_numpy(np.load(folder + "/queries.npy")))
"""
TORCH = "import torch\nfrom safetensors.torch import load_file"
OURS = {
    "imports": "import torch\nfrom vocabkit.llm.embeddings import open_embeddings\n"
    "from vocabkit.interpret.nearest import nearest_tokens",
    "read": "table, queries = open_embeddings(folder), torch.from_numpy(np.load(folder + '/queries.npy'))",
    "search": f"found = nearest_tokens(queries, table, np.arange({ROWS}), {K})[0]",
}
BRUTE_FORCE = {"imports": TORCH, "read": READ, "search": f"found = (queries @ rows.T).topk({K}).indices"}
LOOP = {
    "imports": TORCH,
    "read": READ,
    "search": f"found = torch.stack([(rows @ query).topk({K}).indices for query in queries[:{LOOPED}]])",
    "factor": QUERIES / LOOPED,
}
FAISS = {
    "imports": "import faiss",
    "read": f"""
with open(folder + "/model.safetensors", "rb") as file:
    start_of_rows = 8 + int.from_bytes(file.read(8), "little")
rows = np.fromfile(folder + "/model.safetensors", np.uint16, offset=start_of_rows).astype(np.uint32) << 16
rows = rows.view(np.float32).reshape({ROWS}, {WIDTH})
queries = np.load(folder + "/queries.npy")
faiss.normalize_L2(rows)
faiss.normalize_L2(queries)
index = faiss.IndexFlatIP({WIDTH})
index.add(rows)
""",
    "search": f"found = index.search(queries, {K})[1]",
}


def main() -> None:
    """Print ours, each peer and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--faiss", metavar="PYTHON", help="an interpreter that has faiss-cpu")
    parser.add_argument("--claims", type=Path, help="also write the claims to this file")
    arguments = parser.parse_args()
    contenders = {"ours": (sys.executable, OURS), "brute force": (sys.executable, BRUTE_FORCE)}
    contenders["naive loop"] = (sys.executable, LOOP)
    if arguments.faiss:
        contenders["FAISS IndexFlatIP"] = (arguments.faiss, FAISS)
    print(f"{platform.machine()}, {os.cpu_count()} cores, best of {arguments.rounds}")
    print(f"{QUERIES:,} visual tokens among {ROWS:,} tokens of width {WIDTH}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_table(folder)
        costs: dict[str, list[tuple[float, ...]]] = {name: [] for name in contenders}
        for _ in range(arguments.rounds):
            for name, (python, parts) in contenders.items():
                costs[name].append(run(folder, python, parts))
                check(folder, name)
    best = {name: [min(values) for values in zip(*found, strict=True)] for name, found in costs.items()}
    (mine, mine_processor, mine_memory), claims = best.pop("ours"), []
    for name, (seconds, processor, memory) in best.items():
        claims.append(Claim(f"nearest tokens, beside {name}", mine, seconds, "s", 1.0))
        claims.append(Claim(f"nearest tokens, processor time beside {name}", mine_processor, processor, "s"))
        claims.append(Claim(f"nearest tokens, memory beside {name}", mine_memory, memory, "MB", 1.0))
    report(claims, arguments.claims)


def make_table(folder: Path) -> None:
    """The table of an LLM, and visual tokens: mixtures of few rows, as of a head that has learnt something."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    rows = torch.empty(ROWS, WIDTH, dtype=torch.bfloat16).normal_(generator=generator)
    weights = torch.rand(QUERIES, 3, 1, generator=generator)
    chosen = torch.randint(ROWS, (QUERIES, 3), generator=generator)
    np.save(folder / "queries.npy", (rows[chosen] * weights).sum(1).float().numpy())
    save_file({"model.embed_tokens.weight": rows}, folder / "model.safetensors")
    config = {"model_type": "llama", "vocab_size": ROWS, "hidden_size": WIDTH, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))


def run(folder: Path, python: str, parts: dict[str, str | float]) -> tuple[float, ...]:
    """Seconds, processor seconds, peak MB."""
    program = PROGRAM.format(**{"factor": 1, **parts})
    megabytes = cost([python, "-c", program, str(folder)]).megabytes
    return (*json.loads((folder / "times.json").read_text()), megabytes)


def check(folder: Path, name: str) -> None:
    """All find the same nearest tokens as the first, ours."""
    import numpy as np

    found = np.load(folder / "found.npy")
    if not (folder / "ours.npy").exists():
        np.save(folder / "ours.npy", found)
    if not (found == np.load(folder / "ours.npy")[: len(found)]).all():
        sys.exit(f"{name} finds other tokens")


if __name__ == "__main__":
    main()
