"""Drawing scenes: where each drawing stands, and the picture."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vocabkit.data.openmoji import rasterised
from vocabkit.data.scenes import BACKGROUNDS, Scene
from vocabkit.extras import needs_extra

if TYPE_CHECKING:
    from PIL.Image import Image


class Place(NamedTuple):
    """Where a drawing stands: a square that holds it whatever its turn. Lengths are shares of the picture's side."""

    left: float
    top: float
    side: float
    turn: float
    """Degrees, counterclockwise."""


def places(scene: Scene, rng: random.Random) -> list[Place]:
    """A place for each drawing of a scene, inside the picture; no two overlap.

    One drawing fills 55 to 95% of the side; two stand in the left and the right half at 38 to 49%. Counted ones stand
    in cells of a 3 x 3 grid at 25 to 32%, whatever their number, so that their size does not give it away.
    """

    def inside(left: float, top: float, width: float, height: float, smallest: float, largest: float) -> Place:
        side = rng.uniform(smallest, largest)
        x, y = left + rng.uniform(0, width - side), top + rng.uniform(0, height - side)
        return Place(x, y, side, rng.uniform(-15, 15))

    if scene.kind == "single":
        return [inside(0, 0, 1, 1, 0.55, 0.95)]
    if scene.kind == "pair":
        return [inside(half, 0, 1 / 2, 1, 0.38, 0.49) for half in (0, 1 / 2)]
    cells = rng.sample([(column / 3, row / 3) for row in range(3) for column in range(3)], scene.count or 1)
    return [inside(left, top, 1 / 3, 1 / 3, 0.25, 0.32) for left, top in cells]


def painter(files: dict[str, Path], size: int) -> Callable[[Scene, random.Random], Image]:
    """A function that paints scenes of the drawings in `files` by name, as (size, size) RGB.

    Each drawing is rasterised once. Raises VocabkitError: Pillow or resvg-py is not installed.
    """
    with needs_extra("offline", "drawing scenes"):
        from PIL import Image

    drawing = cache(lambda name: rasterised(files[name], size))

    def paint(scene: Scene, rng: random.Random) -> Image.Image:
        light = "#" + "".join(f"{rng.randint(222, 255):02x}" for _ in range(3))
        picture = Image.new("RGBA", (size, size), BACKGROUNDS[scene.background] if scene.background else light)
        names = scene.objects * (scene.count or 1)
        for name, place in zip(names, places(scene, rng), strict=True):
            side = int(place.side * size)
            turned = drawing(name).resize((side, side)).rotate(place.turn, Image.Resampling.BICUBIC)
            picture.alpha_composite(turned, (int(place.left * size), int(place.top * size)))
        return picture.convert("RGB")

    return paint
