"""Adapters for the small world, and readers of what `vocabkit infer` writes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors import safe_open
from small_world import World, make_world
from torch import Tensor

from vocabkit.adapter.config import AdapterConfig, MLPConfig
from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector
from vocabkit.adapter.partners import llm_info
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.transfer.transfer import open_target, transfer
from vocabkit.vision.encoder import open_vision


@dataclass(frozen=True)
class InferWorld:
    """A small world with untrained adapters for its vision encoder."""

    small: World
    langbridge: Path
    """With a softmax head, for LLM one."""
    transferred: Path
    """The same, moved to LLM two."""
    mlp: Path
    """For LLM one."""
    pooled: Path
    """The same, which says that it takes class tokens and 2x2 patches of the last layer."""

    @property
    def pictures(self) -> Path:
        """Folder of twelve PNG files, 0.png and so on."""
        return self.small.data.parent


def make_infer_world(folder: Path) -> InferWorld:
    """Make the small world and its adapters in `folder`."""
    small = make_world(folder / "world")
    shared = open_shared(small.shared)
    encoder = open_vision(str(small.vision))
    known: dict[str, Any] = {"vision_width": encoder.width, "hidden_width": 16, "llm": "one"}
    known |= {"vision_model": str(small.vision), "vision_fingerprint": encoder.info["fingerprint"]}
    known["llm_info"] = llm_info(open_target(small.one).table())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = LangBridgeAdapter(AdapterConfig.of(shared, head="softmax", **known), shared)
        mlp = MLPProjector(MLPConfig(llm_width=24, **known))
    adapter.head.weight.data.mul_(20)  # coefficients that are far from equal
    adapter.save(folder / "langbridge.pt")
    mlp.save(folder / "mlp.pt")
    says: dict[str, Any] = {"vision_layer": -1, "vision_keep_cls": True, "vision_pool": (2, 2)}
    mlp.config = replace(mlp.config, **says)
    mlp.save(folder / "pooled.pt")
    transfer(adapter, open_target(small.two))[0].save(folder / "transferred")
    return InferWorld(small, folder / "langbridge.pt", folder / "transferred", folder / "mlp.pt", folder / "pooled.pt")


def table(folder: Path) -> pa.Table:
    """Concatenate all shards that the index names."""
    names = json.loads((folder / "index.json").read_text())["shards"]
    return pa.concat_tables(pa.ipc.open_file(folder / f"{name}.arrow").read_all() for name in names)


def visual_tokens(folder: Path) -> dict[str, Tensor]:
    """Return (N, D) visual tokens by picture."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            keys = json.loads(opened.metadata()["vocabkit"])["images"]
            found |= dict(zip(keys, opened.get_tensor("visual_tokens"), strict=True))
    return found


def nested(column: pa.ChunkedArray) -> Tensor:
    """Return (M, N, K) from a column of nested lists."""
    return torch.tensor(column.to_pylist())


def content(folder: Path) -> dict[str, bytes]:
    """Return every file by name, without temporary files of a killed writer."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".vocabkit-")}
