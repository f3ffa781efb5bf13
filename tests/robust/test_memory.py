"""Large inputs stream: memory does not grow with a corpus, an embedding table or an LLM. Linux only: reads /proc."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SUPPORT = Path(__file__).parents[1] / "support"


def printed_by(code: str, *words: str | Path) -> str:
    """What a Python program prints; a process of its own has no memory that other tests left behind."""
    code = f"import sys\nsys.path[:0] = [{str(SUPPORT)!r}]\n{code}"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True).stdout


# ---- counting a corpus -------------------------------------------------------------------------------------------

COUNT = """
from pathlib import Path
from vocabkit.shared import pieces, rank
from vocabkit.tokenizer.catalog import resolve
pieces.PENDING_PIECES = 1 << 13
rank.count_tokens(resolve("smollm2").vocabulary, [Path(sys.argv[1])])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
"""Prints the largest resident set in kB. (getrusage would count the parent's where that is larger.)"""
CAPTION = "A photograph of a dog that runs after a ball on a green meadow under a blue sky. " * 3


def distinct_words(line: int) -> str:
    return " ".join(f"{word:08x}" for word in range(25 * line, 25 * line + 25))


LARGE: dict[str, Callable[[int], Iterable[str]]] = {
    "lines.txt": lambda count: (f"{CAPTION}\n" for _ in range(count)),
    "one-line.txt": lambda count: (CAPTION for _ in range(count)),
    "distinct-words.txt": lambda count: (f"{distinct_words(i)}\n" for i in range(count // 8)),  # slow
    "array.json": lambda count: (f'{"," if i else "["}{{"caption": "{CAPTION}"}}' for i in range(count)),
}


def write_large(path: Path, count: int) -> Path:
    from caption_files import compressed

    if path.suffix == ".parquet":
        table = pa.table({"text": [CAPTION] * count})
        pq.write_table(table, path, row_group_size=count, use_dictionary=False, compression="none")
        return path
    with path.open("w") as file:
        file.writelines(LARGE[path.name](count))
        file.write("]" if path.suffix == ".json" else "")
    return compressed(path, ".zst")


@pytest.mark.parametrize("name", [*LARGE, "row-group.parquet"])
def test_counting_tokens_streams_the_corpus(tmp_path: Path, name: str) -> None:
    def peak(count: int) -> int:
        return int(printed_by(COUNT, write_large(tmp_path / name, count))) // 1024

    few, many = peak(40_000), peak(200_000)  # both fill every buffer
    assert many < few + 20  # MB, for 38 MB more text


# ---- reading rows of a table -------------------------------------------------------------------------------------

ROWS = """
from pathlib import Path
from vocabkit.llm.embeddings import open_embeddings
def memory(*kinds):
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(kinds))
folder, *kinds = sys.argv[1:]
before = memory(*kinds)
rows = open_embeddings(folder).rows(range(0, 32768, 512))
print(memory(*kinds) - before)
"""


@pytest.mark.parametrize(
    ("save", "kinds"),
    [
        ("save_file", ("RssAnon", "RssFile")),
        ("torch.save", ("RssAnon",)),  # pages of a mapped file belong to the system's cache
    ],
)
def test_reading_rows_leaves_the_table_on_disk(save: str, kinds: tuple[str, ...], tmp_path: Path) -> None:
    import torch
    from table_files import NAME, random_table, safetensors_folder, write_config

    write_config(tmp_path)
    weight = random_table(32768, 1024)  # 128 MiB
    if save == "save_file":
        safetensors_folder(tmp_path, {NAME: weight})
    else:
        torch.save({NAME: weight}, tmp_path / "pytorch_model.bin")
    assert int(printed_by(ROWS, tmp_path, *kinds)) < 32 * 1024  # KiB; importing the readers takes a few MiB


# ---- exporting a checkpoint --------------------------------------------------------------------------------------

EXPORT = """
import json
from pathlib import Path
import torch
from safetensors.torch import save_file
from small_models import llama, llm, projector, byte_tokenizer
from vision_models import clip
from transformers import AutoModelForCausalLM
from vocabkit.transfer.export.llava import export_llava
here = Path(sys.argv[1])
vision, small, large = clip(here / "vision"), llm(here / "llm"), here / "large"
large.mkdir()
config = llama(vocab_size=100_000, hidden_size=512, intermediate_size=4096, num_hidden_layers=16, head_dim=128)
config.architectures, config.dtype = ["LlamaForCausalLM"], torch.bfloat16
config.save_pretrained(large)
byte_tokenizer().save_pretrained(large)
with torch.device("meta"):
    shapes = {key: value.shape for key, value in AutoModelForCausalLM.from_config(config).state_dict().items()}
index = {}
for number, key in enumerate(shapes):
    name = f"model-{number:05d}.safetensors"
    save_file({key: torch.rand(shapes[key]).bfloat16()}, large / name)
    index[key] = name
(large / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
export_llava(projector(), vision, small, here / "warm")
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
open("/proc/self/clear_refs", "w").write("5")
before = peak()
export_llava(projector(512), vision, large, here / "out")
print(peak() - before, sum(file.stat().st_size for file in large.glob("*.safetensors")))
"""


def test_export_never_holds_the_whole_llm(tmp_path: Path) -> None:
    grown, size = map(int, printed_by(EXPORT, tmp_path).split())
    assert size > 300e6
    assert grown < 0.75 * size
