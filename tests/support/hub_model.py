"""What the hub of `range_server` serves, and where it lies afterwards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from range_server import COMMIT
from safetensors.torch import save
from table_files import NAME, random_table


def index(weight_map: Mapping[str, str]) -> bytes:
    """Content of a model.safetensors.index.json."""
    return json.dumps({"weight_map": weight_map}).encode()


WEIGHT = random_table(4000, 64, torch.bfloat16)
SIZE = WEIGHT.nbytes
DIGEST = hashlib.sha256(WEIGHT.view(torch.uint8).numpy().tobytes()).hexdigest()
SHARD = save({"model.a": torch.ones(70_000), NAME: WEIGHT, "model.z": torch.ones(90_000)})
HEADER = 8 + int.from_bytes(SHARD[:8], "little")
CONFIG = json.dumps({"model_type": "llama", "dtype": "bfloat16"}).encode()
SINGLE = {"config.json": CONFIG, "model.safetensors": SHARD}
SHARDED = {
    "config.json": CONFIG,
    "model.safetensors.index.json": index({"lm_head.weight": "2.safetensors", NAME: "1.safetensors"}),
    "1.safetensors": SHARD,
    "2.safetensors": b"never read",
}
FILES = {"model.safetensors": SINGLE, "1.safetensors": SHARDED}


def cache(home: Path, files: Mapping[str, bytes], *names: str) -> None:
    """Put these files into the cache as huggingface_hub does."""
    folder = home / "hub" / "models--owner--name"
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    for name in names:
        (folder / "snapshots" / COMMIT / name).write_bytes(files[name])


def stored(home: Path) -> list[Path]:
    """What lies in vocabkit's part of the cache."""
    return sorted(file for file in home.glob("assets/vocabkit/**/*") if file.is_file() and file.suffix != ".lock")
