"""LLaVA's own projector file, and how LLaVA's code loads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from file_limit import files_of_at_most
from small_models import HIDDEN, WIDTH, projector
from torch import nn
from torch.testing import assert_close
from vision_models import VISION

from vocabkit.errors import VocabkitError
from vocabkit.transfer.export.export import export
from vocabkit.transfer.published import export_mm_projector

HERE = Path(__file__).parent


def as_llava_loads_it(path: Path, dtype: torch.dtype) -> nn.Sequential:
    """`mlp2x_gelu` of LLaVA's builder, filled as its `initialize_vision_modules` does."""
    module = nn.Sequential(nn.Linear(VISION, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)).to(dtype)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(
        {key.split("mm_projector.")[1]: value for key, value in weights.items() if "mm_projector" in key}
    )
    return module


@pytest.mark.parametrize("hidden", [HIDDEN, WIDTH])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_llava_code_loads_it_and_gives_our_visual_tokens(tmp_path: Path, dtype: torch.dtype, hidden: int) -> None:
    ours = projector(hidden=hidden, dtype=dtype)
    export_mm_projector(ours, tmp_path / "mm_projector.bin")
    features = torch.randn(9, VISION, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert_close(as_llava_loads_it(tmp_path / "mm_projector.bin", dtype)(features), ours(features))


def test_keys_are_those_of_llava(tmp_path: Path) -> None:
    export_mm_projector(projector(), tmp_path / "mm_projector.bin")
    found = torch.load(tmp_path / "mm_projector.bin", weights_only=True)
    assert sorted(found) == [f"model.mm_projector.{layer}.{part}" for layer in (0, 2) for part in ("bias", "weight")]


def test_hidden_layer_wider_than_the_llm_raises(tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match="has 64 units, more than the LLM's width 48"):
        export_mm_projector(projector(hidden=64), tmp_path / "mm_projector.bin")
    with pytest.raises(VocabkitError, match="or train it with `hidden_width` 48"):
        export(projector(hidden=64), "mm_projector", tmp_path / "mm_projector.bin")
    assert not list(tmp_path.iterdir())


def test_unwritable_file_raises_and_keeps_the_old_one(tmp_path: Path) -> None:
    out = tmp_path / "mm_projector.bin"
    export_mm_projector(projector(), out)
    before = out.read_bytes()
    with files_of_at_most(5_000), pytest.raises(VocabkitError) as caught:
        export_mm_projector(projector(), out)
    said = str(caught.value)
    assert said.startswith(f"{out}: can't write here")
    assert said.isprintable()
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]
