"""The adapter over words in Gemma 3 270M, which never saw it: what Gemma says of new combinations of drawings."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import vocabkit_here

ADAPTER = Path(__file__).parents[2] / "data" / "scenes-words.pt"
PICTURES = 12


def test_gemma_names_what_pictures_show_by_the_prompt_of_the_adapter(sources: Path, tmp_path: Path) -> None:
    gemma = f"gemma3={sources / 'gemma-3-270m-q4_k_m.gguf'}"
    scenes = ("--train", "12000", "--held-out", str(PICTURES), "--only", "combination", "--seed", "0")
    for words in (
        ("scenes", "scenes", *scenes),
        ("transfer", ADAPTER, "--to", gemma, "--visual-tokens", "spelled", "--out", "moved"),
        (
            "validate", "scenes/combination.json", "--llm", gemma, "--adapter", "words=moved", "--answers",
            "--template", "completion", "--out", "found.json",
        ),
    ):  # fmt: skip
        done = vocabkit_here(tmp_path, *words)
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())["combination"]
    assert found["answers"]["words"]["recognised"]["value"] >= 0.5  # 0.7 to 0.8 of many more
    loss = found["validation"]["caption_loss"]
    assert loss["words"]["value"] < loss["blind"]["value"] - 0.5
    assert loss["words shuffled"]["value"] > loss["words"]["value"] + 0.5
