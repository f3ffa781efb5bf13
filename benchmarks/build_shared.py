"""Time and memory of `vocabkit build-shared` beside what users do today: AutoTokenizer + get_vocab + intersection.

Whole processes, one after the other in turn, best of several rounds; peak memory is the largest resident set. The
peer needs transformers, in the same environment. Run by `make benchmark`.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from process import Cost, cost

from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.segmentation import to_tokenizers

ROUNDS = 7
PEER = """
import sys
from transformers import AutoTokenizer
vocabularies = [set(AutoTokenizer.from_pretrained(folder).get_vocab()) for folder in sys.argv[1:]]
print(len(set.intersection(*vocabularies)))
"""


def main() -> None:
    """Print each claim: ours, the peer, the ratio, the limit."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, best of {ROUNDS}\n")
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
            }
        )
        peer = costs["peer"]
        _line("tokenizer.json files, time", costs["files"].seconds, peer.seconds, "s", 0.15)
        _line("tokenizer.json files, memory", costs["files"].megabytes, peer.megabytes, "MB", 0.35)
        _line("snapshots, time", costs["snapshots"].seconds, peer.seconds, "s", 0.10)
        _line("vocabkit --help, beside python + typer", costs["help"].seconds, costs["bare"].seconds, "s", 2.5)
        _twenty(vocabkit, work)


def _twenty(vocabkit: Sequence[str], work: Path) -> None:
    """20 tokenizers at once: time per token against that of 2 of them. At most 1 means at most linear."""
    copies = [f"copy{i}={name}" for i, name in enumerate(4 * ["qwen2.5", "llama3", "mistral-v3", "smollm2", "gemma3"])]
    costs = _best({"two": [*vocabkit, *copies[:2]], "twenty": [*vocabkit, *copies], "none": [*vocabkit, "--help"]})
    sizes = [len(resolve(copy).vocabulary) for copy in copies]
    start = costs["none"].seconds
    per_million = [(costs[n].seconds - start) / sum(sizes[:k]) * 1e6 for n, k in (("two", 2), ("twenty", 20))]
    print(
        f"\n20 tokenizers, {sum(sizes):,} tokens: {costs['twenty'].seconds:.2f} s, {costs['twenty'].megabytes:.0f} MB"
    )
    _line("20 tokenizers, time per million tokens, beside 2", per_million[1], per_million[0], "s", 1.0)


def _best(commands: dict[str, Sequence[str]]) -> dict[str, Cost]:
    runs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
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


def _line(claim: str, ours: float, peer: float, unit: str, limit: float) -> None:
    ratio = ours / peer
    verdict = "ok" if ratio <= limit else "MISSED"
    print(f"{claim:48s} {ours:8.2f} {unit:2s} / {peer:8.2f} {unit:2s} = {ratio:5.3f}  limit {limit:4.2f}  {verdict}")


if __name__ == "__main__":
    main()
