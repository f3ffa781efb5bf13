"""A few steps of TRL's SFTTrainer on an exported checkpoint, by the code of docs/serving.md."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import torch
from programs import in_ecosystem
from small_models import loaded

PAGE = Path(__file__).parents[2] / "docs/serving.md"
SETTINGS = "SFTConfig(use_cpu=True, logging_steps=1, num_train_epochs=6, learning_rate=3e-3, report_to='none', "
LOG = "\nimport json\nprint(json.dumps([row['loss'] for row in trainer.state.log_history if 'loss' in row]))\n"


def test_the_checkpoint_is_tuned_as_the_page_shows_and_stays_a_llava(small: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (code,) = (block for block in blocks if "SFTTrainer" in block and "llava-mine" in block)
    said = in_ecosystem(small, "-c", code.replace("SFTConfig(", SETTINGS) + LOG)
    losses = json.loads(said.splitlines()[-1])
    assert len(losses) == 6
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0] - 0.1
    before, after = (loaded(small / name)[0] for name in ("llava-mine", "llava-tuned"))
    tuned = dict(after.named_parameters())
    changed = {
        name
        for name, old in before.named_parameters()
        if not torch.equal(old.to(torch.bfloat16), tuned[name].to(torch.bfloat16))
    }
    for part in ("vision_tower", "multi_modal_projector.linear_1", "multi_modal_projector.linear_2", "language_model"):
        assert any(part in name for name in changed), part
    assert all(torch.isfinite(weight).all() for weight in tuned.values())
