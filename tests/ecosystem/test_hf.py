"""A softmax head in transformers' pipeline and in TRL, by the code of docs/serving.md."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from moved_adapters import Kind, moved
from PIL import Image
from programs import in_ecosystem
from small_world import make_world
from transformers import AutoModelForImageTextToText

import vocabkit.serving  # noqa: F401
from vocabkit.llm.load import quiet_transformers
from vocabkit.transfer.export.export import ExportOptions, export

PAGE = Path(__file__).parents[2] / "docs/serving.md"
SETTINGS = "SFTConfig(use_cpu=True, logging_steps=1, num_train_epochs=6, learning_rate=3e-3, report_to='none', "
LOG = "\nimport json\nprint(json.dumps([row['loss'] for row in trainer.state.log_history if 'loss' in row]))\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `served`, which holds pooled patches and a softmax head."""
    here = tmp_path_factory.mktemp("hf")
    world = make_world(here / "small")
    adapter = moved(world, Kind(pool=(2, 2), temperature=0.3), here)
    export(adapter, "hf", here / "served", ExportOptions(llm=world.two))
    return here


def code(word: str) -> str:
    """The block of the page with this word, about this checkpoint."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (found,) = (block for block in blocks if "vocabkit.serving" in block and word in block)
    return str(found)


def test_the_pipeline_answers_by_what_the_picture_shows(folder: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(folder / "red.png")
    Image.radial_gradient("L").convert("RGB").save(folder / "rings.png")
    greedy = code("pipeline").replace("max_new_tokens=50", "generate_kwargs={'do_sample': False, 'max_new_tokens': 12}")
    red, rings = (in_ecosystem(folder, "-c", greedy.replace("photo.jpg", name)) for name in ("red.png", "rings.png"))
    assert red.strip()
    assert red != rings
    assert "What is in the picture" not in red


def test_trl_tunes_it_as_the_page_shows(folder: Path) -> None:
    said = in_ecosystem(folder, "-c", code("SFTTrainer").replace("SFTConfig(", SETTINGS) + LOG)
    losses = json.loads(said.splitlines()[-1])
    assert len(losses) == 6
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0] - 0.1
    with quiet_transformers():
        before, after = (
            AutoModelForImageTextToText.from_pretrained(folder / name, dtype=torch.bfloat16).state_dict()
            for name in ("served", "served-tuned")
        )
    changed = {name for name, old in before.items() if not torch.equal(old, after[name])}
    for part in ("vision_tower", "multi_modal_projector.linear_1", "multi_modal_projector.head", "language_model"):
        assert any(part in name for name in changed), part
    assert "model.multi_modal_projector.embeddings" not in changed
