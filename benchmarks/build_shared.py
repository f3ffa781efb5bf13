"""Time and memory of `vocabkit build-shared` beside what users do today: AutoTokenizer + get_vocab + intersection.

Whole processes, one after the other in turn, best of several rounds; peak memory is the largest resident set. The
peer needs transformers, in the same environment. Run: python benchmarks/build_shared.py [--rounds N] [--claims FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from claims import Claim, report
from process import Cost, cost

from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.segmentation import to_tokenizers

PEER = """
import sys
from transformers import AutoTokenizer
vocabularies = [set(AutoTokenizer.from_pretrained(folder).get_vocab()) for folder in sys.argv[1:]]
print(len(set.intersection(*vocabularies)))
"""


def main() -> None:
    """Print each claim: ours, the peer, the ratio, the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="best of so many [7]")
    parser.add_argument("--claims", type=Path, help="also write the claims to this file")
    options = parser.parse_args()
    rounds = options.rounds
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, best of {rounds}")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folders = [str(_hub_layout(name, work / name)) for name in ("qwen2.5", "llama3")]
        vocabkit = [
            sys.executable,
            "-m",
            "vocabkit_cli",
            "build-shared",
            "--overwrite",
            "--out",
            str(work / "shared.arrow"),
        ]
        bare_typer = [sys.executable, "-c", "pass; import typer"]
        costs = _best(
            {
                "peer": [sys.executable, "-c", PEER, *folders],
                "files": [*vocabkit, *folders],
                "snapshots": [*vocabkit, "qwen2.5", "llama3"],
                "help": [sys.executable, "-m", "vocabkit_cli", "--help"],
                "bare": bare_typer,
            },
            rounds,
        )
        peer = costs["peer"]
        files, snapshots = costs["files"], costs["snapshots"]
        claims = [
            Claim("build-shared from tokenizer.json, time", files.seconds, peer.seconds, "s", 0.15),
            Claim("build-shared from tokenizer.json, memory", files.megabytes, peer.megabytes, "MB", 0.35),
            Claim("build-shared from snapshots, time", snapshots.seconds, peer.seconds, "s", 0.10),
            Claim("--help, time beside importing typer", costs["help"].seconds, costs["bare"].seconds, "s", 1.3),
            _twenty(vocabkit, rounds),
        ]
    report(claims, options.claims)


def _twenty(vocabkit: Sequence[str], rounds: int) -> Claim:
    """20 tokenizers at once: time per token against that of 2 of them. At most 1 means at most linear."""
    copies = [f"copy{i}={name}" for i, name in enumerate(4 * ["qwen2.5", "llama3", "mistral-v3", "smollm2", "gemma3"])]
    commands = {"two": [*vocabkit, *copies[:2]], "twenty": [*vocabkit, *copies], "none": [*vocabkit, "--help"]}
    costs = _best(commands, rounds)
    sizes = [len(resolve(copy).vocabulary) for copy in copies]
    start = costs["none"].seconds
    two, twenty = ((costs[n].seconds - start) / sum(sizes[:k]) * 1e6 for n, k in (("two", 2), ("twenty", 20)))
    return Claim("20 tokenizers, seconds per million tokens beside 2", twenty, two, "s", 1.0)


def _best(commands: dict[str, Sequence[str]], rounds: int) -> dict[str, Cost]:
    runs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            runs[name].append(cost(command))
    return {
        name: Cost(min(cost.seconds for cost in each), min(cost.megabytes for cost in each))
        for name, each in runs.items()
    }


def _hub_layout(name: str, folder: Path) -> Path:
    """A tokenizer.json as it lies on the hub: indented, merges as "left right"."""
    content = json.loads(to_tokenizers(resolve(name).vocabulary).to_str())
    content["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False, indent=2), "utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}', "utf-8")
    return folder


if __name__ == "__main__":
    main()
