"""Make docs/patches.png, the picture of README.md: python docs/picture.py

The first three of the drawn scenes with new combinations, in patches labelled by the token of Gemma 3 270M that is
nearest to each visual token of the adapter in data/, which was trained with SmolLM2. Needs .sources/ (`make test`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vocabkit.data.scene_files import write_scenes
from vocabkit.interpret.interpret import interpret
from vocabkit.interpret.results import as_word
from vocabkit.transfer.transfer import open_target, transfer

ROOT = Path(__file__).parent.parent
SIDE, GAP = 288, 24
"""Pixels of a picture, and between pictures."""


def main() -> None:
    """Draw scenes, read them in Gemma's words, and write the picture."""
    gemma = f"gemma3={ROOT / '.sources/gemma-3-270m-q4_k_m.gguf'}"
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder) / "scenes", train=12_000, held_out=500, seed=0, size=SIDE, only=["combination"])
        moved, _ = transfer(ROOT / "data/smollm2-scenes.pt", open_target(gemma))
        moved.save(Path(folder) / "moved")
        found = interpret(Path(folder) / "moved", [Path(folder) / "scenes/combination.json"], llms=[gemma], limit=3)
        sheet = Image.new("RGBA", (len(found.images) * (SIDE + GAP) - GAP, SIDE))
        for number, image in enumerate(found.images):
            reading = found.reading(number, "gemma3", found.checkpoints[-1])
            words = [found.tokens["gemma3"][i].token for i in reading.nearest[:, 0].tolist()]
            with Image.open(image.path) as scene:
                sheet.paste(labelled(scene.convert("RGB"), words, found.grid), (number * (SIDE + GAP), 0))
    sheet.quantize(256).save(ROOT / "docs/patches.png", optimize=True)


def labelled(scene: Image.Image, words: list[bytes], grid: tuple[int, int]) -> Image.Image:
    """The scene with a grid of patches and a word in each."""
    rows, columns = grid
    draw = ImageDraw.Draw(scene, "RGBA")
    font = ImageFont.load_default(14)
    for patch, word in enumerate(words):
        row, column = divmod(patch, columns)
        left, right = (SIDE * at / columns for at in (column, column + 1))
        top, bottom = (SIDE * at / rows for at in (row, row + 1))
        draw.rectangle((left, top, right, bottom), outline=(255, 255, 255, 120))
        centre, text = ((left + right) / 2, (top + bottom) / 2), as_word(word) or word.decode().strip()
        x0, y0, x1, y1 = draw.textbbox(centre, text, font, "mm")
        draw.rounded_rectangle((x0 - 5, y0 - 4, x1 + 5, y1 + 4), 5, fill=(0, 0, 0, 185))
        draw.text(centre, text, (255, 255, 255), font, "mm")
    return scene


if __name__ == "__main__":
    main()
