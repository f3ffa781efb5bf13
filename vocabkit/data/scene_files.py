"""Scenes as a data set on disk: drawn pictures, and LLaVA's JSON format with one file per split."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vocabkit.data.samples import PLACEHOLDER
from vocabkit.data.scenes import (
    ATTRIBUTION,
    BACKGROUNDS,
    OTHER_PICTURES,
    Scene,
    cut_out,
    drawings,
    licence,
    pictures_of_things,
    plan_scenes,
    rasterised,
)
from vocabkit.errors import VocabkitError, needs_extra
from vocabkit.files.atomic import new_folder
from vocabkit.files.progress import Progress, no_progress

if TYPE_CHECKING:
    from PIL.Image import Image


QUESTION = f"""\
This is a picture of a harp.
This is a picture of three barns on a red background.
This is a picture of a kettle and a windmill on a blue background.
Image: {PLACEHOLDER}
This is a picture of"""
"""Shows the form of answers, with things that are in no drawing: the loss then measures what is seen, not the form."""
_README = """\
# Scenes of {title}

{pictures:,} pictures of {size} x {size} pixels with answers, made of {drawings:,} {kind} by `vocabkit scenes` with
seed {seed}, in LLaVA's JSON format.{held_out}

{splits}

A record also holds what its picture shows, for questions about it: `kind` (single, pair or count), `objects` (names; of
a pair the left one first), `count` (copies of the one object, or null) and `background` (the name of its colour, or
null for a light one that the answer does not name).

{names}

{source}
"""
_OPENMOJI_NAMES = """\
Names are those of Unicode in lower case. Plural names and names of stuff stand without an article (`grapes`, `bread`).
Only drawings whose names have a regular plural are counted: `three owls`, but never several mice."""
_OTHER_NAMES = """\
Names are those of the captions in lower case. `phrases` holds them with the captions' own articles: `a useful tool`,
but `milk` for *some milk*. Only things with an article whose names have a regular plural are counted: `three owls`, but
never several mice."""
_OPENMOJI = f"""\
{ATTRIBUTION}
The pictures are adaptations of these drawings (resized, turned, put on backgrounds) under the same licence; its text is
in LICENSE.txt."""
_OTHERS = (
    "The pictures are adaptations (resized, turned, put on backgrounds) of those in {folder}, whose licence they keep."
)
_HELD_OUT = (
    "",
    " One of its splits is held out from `train.json`.",
    *(
        f" {number} of its splits are held out from `train.json`, ever further from it."
        for number in ("Two", "Three", "Four")
    ),
)
"""By the number of splits that are held out."""
_ABOUT = {
    "train": "to train on",
    "rendering": "scenes of train, drawn anew: other sizes, places, turns and light backgrounds",
    "combination": "two {kind} that train has, but never together, on a background on which it has neither of them",
    OTHER_PICTURES: "other pictures of {kind} that train has",
    "drawing": "{kind} that train does not have",
}
"""What is in each split, ever further from train."""


@dataclass(frozen=True)
class Split:
    """Summary of a written split."""

    name: str
    file: Path
    pictures: int
    single: int
    pair: int
    count: int
    drawings: int
    """Different drawings in the split."""


def write_scenes(
    out: str | Path,
    *,
    train: int = 12_000,
    held_out: int = 500,
    seed: int = 0,
    size: int = 224,
    only: Collection[str] | None = None,
    objects: str | Path | None = None,
    progress: Progress = no_progress,
) -> tuple[Split, ...]:
    """Write the new folder `out`, whole or not at all: train.json, rendering.json, combination.json, drawing.json
    and, of `objects`, picture.json (see `vocabkit.data.scenes`), images/, README.md and LICENSE.txt.

    The same seed and sizes give the same bytes; those of pictures depend on the versions of OpenMoji, resvg and Pillow.

    Args:
        train, held_out: pictures in train and in each of the other splits.
        only: the splits to write; None for all. They are the same whether or not the others are written.
        objects: a folder of pictures with captions, see `pictures_of_things`, instead of OpenMoji's drawings. Of a
            thing with several, the last one is held out, for picture.json. There is no LICENSE.txt then.
        size: width and height of the pictures in pixels.
        progress: counts the pictures drawn.

    Raises:
        VocabkitError: `out` already exists or can't be written, packages are missing, `held_out` is more than `train`
            or the drawings allow, or as `pictures_of_things` and `cut_out`.
    """
    out = Path(out)
    with new_folder(out) as folder:
        files, phrases, source = {name: [file] for name, file in drawings().items()}, None, "OpenMoji"
        if objects is not None:
            (files, phrases), source = pictures_of_things(objects), str(objects)
        several = [name for name in files if files[name][1:]]
        plan = plan_scenes(
            files, train=train, held_out=held_out, seed=seed, several=several, phrases=phrases, source=source
        )
        if only is not None:
            if OTHER_PICTURES in only and OTHER_PICTURES not in plan:
                raise VocabkitError(
                    "no split `picture`: fewer than two of the things in train have several pictures, or none a plural"
                )
            plan = {name: scenes for name, scenes in plan.items() if name in only}
        painters = {other: painter(_shown(files, other=other), size) for other in (False, True)}
        (folder / "images").mkdir()
        done, total = 0, sum(map(len, plan.values()))
        for split, scenes in plan.items():
            records = [_record(f"{split}-{number:06d}", scene) for number, scene in enumerate(scenes)]
            for record, scene in zip(records, scenes, strict=True):
                paint = painters[split == OTHER_PICTURES]
                picture = paint(scene, random.Random(f"{seed}/{record['id']}"))
                picture.save(folder / record["image"], compress_level=1)
                done += 1
                progress("drawing scenes", done, total)
            lines = ",\n".join(json.dumps(record) for record in records)
            (folder / f"{split}.json").write_text(f"[\n{lines}\n]\n", "utf-8")
        if objects is None:
            (folder / "LICENSE.txt").write_text(licence(), "utf-8")
        (folder / "README.md").write_text(_readme(plan, len(files), seed, size, objects), "utf-8")
    return tuple(_split(out, name, scenes) for name, scenes in plan.items())


def _shown(files: Mapping[str, Sequence[Path]], *, other: bool) -> dict[str, Sequence[Path]]:
    """The pictures of each thing that may be shown: the last of several is held out, for the scenes with `other`."""
    return {name: found if not found[1:] else found[-1:] if other else found[:-1] for name, found in files.items()}


def _record(name: str, scene: Scene) -> dict[str, Any]:
    own = {} if scene.phrases is None else {"phrases": scene.phrases}
    return {
        "id": name,
        "image": f"images/{name}.png",
        "conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": scene.answer}],
        "kind": scene.kind,
        "objects": scene.objects,
        "count": scene.count,
        "background": scene.background,
    } | own


def _split(out: Path, name: str, scenes: Sequence[Scene]) -> Split:
    kinds = Counter(scene.kind for scene in scenes)
    shown = {name for scene in scenes for name in scene.objects}
    return Split(name, out / f"{name}.json", len(scenes), kinds["single"], kinds["pair"], kinds["count"], len(shown))


def _readme(plan: Mapping[str, Sequence[Scene]], drawn: int, seed: int, size: int, objects: str | Path | None) -> str:
    kind = "drawings" if objects is None else "things"
    held_out = len(plan.keys() - {"train"})
    return _README.format(
        title="OpenMoji drawings" if objects is None else "pictures",
        kind=kind,
        held_out=_HELD_OUT[held_out] if "train" in plan else "",
        names=_OPENMOJI_NAMES if objects is None else _OTHER_NAMES,
        pictures=sum(map(len, plan.values())),
        size=size,
        seed=seed,
        drawings=drawn,
        splits="\n".join(
            f"- `{name}.json` ({len(plan[name]):,}): {about.format(kind=kind)}"
            for name, about in _ABOUT.items()
            if name in plan
        ),
        source=_OPENMOJI if objects is None else _OTHERS.format(folder=objects),
    )


def held_out_scene(seed: int, size: int = 224) -> Image:
    """Paint one of the combinations that `write_scenes` holds out by default: no shipped adapter was trained on them.

    Raises VocabkitError: packages are missing.
    """
    files, rng = {name: [file] for name, file in drawings().items()}, random.Random(seed)
    scenes = plan_scenes(files, train=12_000, held_out=500, seed=0)["combination"]
    return painter(files, size)(rng.choice(scenes), rng)


def painter(files: Mapping[str, Sequence[Path]], size: int) -> Callable[[Scene, random.Random], Image]:
    """Return a function that paints scenes of the drawings or pictures in `files`, by name, as (size, size) RGB.

    Each is rasterised once. Raises VocabkitError: Pillow or resvg-py is not installed.
    """
    with needs_extra("offline", "drawing scenes"):
        from PIL import Image

    drawing = cache(lambda file: rasterised(file, size) if file.suffix == ".svg" else cut_out(file, size))

    def paint(scene: Scene, rng: random.Random) -> Image.Image:
        light = "#" + "".join(f"{rng.randint(222, 255):02x}" for _ in range(3))
        picture = Image.new("RGBA", (size, size), BACKGROUNDS[scene.background] if scene.background else light)
        names = scene.objects * (scene.count or 1)
        for name, place in zip(names, places(scene, rng), strict=True):
            side = int(place.side * size)
            file = rng.choice(files[name]) if files[name][1:] else files[name][0]
            turned = drawing(file).resize((side, side)).rotate(place.turn, Image.Resampling.BICUBIC)
            picture.alpha_composite(turned, (int(place.left * size), int(place.top * size)))
        return picture.convert("RGB")

    return paint


class Place(NamedTuple):
    """Position of a drawing: the square that it is drawn in, then turned. Lengths are shares of the picture's side."""

    left: float
    top: float
    side: float
    turn: float
    """Degrees, counterclockwise."""


def places(scene: Scene, rng: random.Random) -> list[Place]:
    """Choose a place inside the picture for each drawing of a scene; no two overlap.

    One drawing fills 55 to 95% of the side; two are in the left and the right half at 38 to 49%. Counted ones are in
    cells of a 3 x 3 grid at 25 to 32%, whatever their number, so that their size does not reveal it.
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
