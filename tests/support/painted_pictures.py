"""Picture files, and data in the format of LLaVA that names them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from vocabkit.data.samples import Picture


def painted(folder: Path, count: int, *, seed: int = 0) -> list[Picture]:
    """`count` small PNG files of random pixels, 0.png and so on; their keys are their names."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    pictures = []
    for number in range(count):
        file = folder / f"{number}.png"
        Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(file)
        pictures.append(Picture(file.name, file))
    return pictures


def llava_json(file: Path, names: Iterable[str]) -> Path:
    """A sample about each of these pictures."""
    said = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A picture."}]
    file.write_text(json.dumps([{"id": name, "image": name, "conversations": said} for name in names]))
    return file
