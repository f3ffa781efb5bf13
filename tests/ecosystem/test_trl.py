"""A few steps of TRL's SFTTrainer on an exported checkpoint, by the code of docs/serving.md."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from programs import in_ecosystem
from small_models import loaded

PAGE = Path(__file__).parents[2] / "docs/serving.md"


def test_the_checkpoint_is_tuned_as_the_page_shows_and_stays_a_llava(small: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (code,) = (block for block in blocks if "SFTTrainer" in block)
    said = in_ecosystem(small, "-c", code.replace("SFTConfig(", "SFTConfig(use_cpu=True, "))
    assert "train_loss" in said
    before, after = (loaded(small / name)[0] for name in ("llava-mine", "llava-tuned"))
    changed = {
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert any("multi_modal_projector" in name for name in changed)
    assert any("language_model" in name for name in changed)
