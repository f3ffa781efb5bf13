"""`vocabkit transfer --export llava`: what its options come to, and what it says meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from command_line import Done, vocabkit_here
from safetensors import safe_open
from small_models import HIDDEN, VOCABULARY, WIDTH, llm
from vision_models import PATCHES, VISION, clip

from vocabkit.adapter import LangBridgeAdapter
from vocabkit.adapter_config import AdapterConfig
from vocabkit.alignment import align
from vocabkit.catalog import resolve

ROWS = 64


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with an adapter over single characters, a vision model and an LLM with a token for each byte."""
    shared = align([resolve("qwen2").vocabulary, resolve("llama3").vocabulary]).select(range(ROWS))
    config = AdapterConfig.of(shared, llm="qwen2", vision_width=VISION, hidden_width=HIDDEN)
    LangBridgeAdapter(config, shared).save(tmp_path / "adapter.pt")
    clip(tmp_path / "vision")
    llm(tmp_path / "llm")
    return tmp_path


def export(here: Path, *words: str) -> Done:
    """Run the command with these words besides."""
    fixed = ("transfer", "adapter.pt", "--to", "llm", "--export", "llava", "--vision", "vision", "--out", "out")
    return vocabkit_here(here, *fixed, *words)


def config_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


@pytest.mark.parametrize(
    ("words", "tokens", "strategy"), [((), PATCHES, "default"), (("--keep-cls",), PATCHES + 1, "full")], ids=str
)
def test_the_class_token_is_left_out_unless_it_is_to_be_kept(
    here: Path, words: tuple[str, ...], tokens: int, strategy: str
) -> None:
    done = export(here, *words)
    assert done.returncode == 0, done.stderr
    config = config_of(here / "out")
    assert (config["image_seq_length"], config["vision_feature_select_strategy"]) == (tokens, strategy)


def test_that_a_gguf_is_dequantised_is_said_before(here: Path) -> None:
    with safe_open(here / "llm/model.safetensors", "numpy") as file:
        rows = file.get_tensor("model.embed_tokens.weight")
    assert rows.shape == (VOCABULARY, WIDTH)
    writer = gguf.GGUFWriter(here / "rows-only.gguf", "unheard-of")
    writer.add_tensor("token_embd.weight", rows.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    done = export(here, "--weights", "rows-only.gguf")
    assert "rows-only.gguf: dequantising it to bfloat16, which takes a while" in done.stderr.splitlines()
    assert "rows-only.gguf: transformers can't load this GGUF" in done.stderr.splitlines()[-1]
    assert (done.returncode, (here / "out").exists()) == (2, False)
