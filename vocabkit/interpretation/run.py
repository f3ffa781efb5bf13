"""An interpretation from files: adapter, LLMs, pictures and checkpoints by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from vocabkit.adapter import MLPProjector
from vocabkit.data import BrokenImage, Picture, Sample, is_llava, load_image, read_llava
from vocabkit.errors import VocabkitError
from vocabkit.interpretation.interpret import interpret
from vocabkit.interpretation.naming import object_words
from vocabkit.interpretation.results import ImageInfo, Interpretation
from vocabkit.interpretation.seen import Part, seen_part
from vocabkit.lvlm import Connector, adapter_within, encoder_of, llm_of, load_connector, vision_width
from vocabkit.targets import open_target
from vocabkit.transfer import Target
from vocabkit.vision import VisionEncoder

_STEP = re.compile(r"step-(\d+)")
_BATCH = 8
"""Pictures at a time."""


def interpret_files(
    adapter: str,
    pictures: Sequence[Path],
    *,
    llms: Sequence[str] = (),
    vision: str | None = None,
    layer: int | None = None,
    pool: tuple[int, int] | None = None,
    image_folder: Path | None = None,
    limit: int = 10,
    top: int = 5,
    checkpoints: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Interpretation:
    """What the pictures become in the words of each LLM. Missing and broken pictures are left out.

    Args:
        adapter: a folder, a .pt or a hub id, of any type.
        pictures: image files, and data in LLaVA's format, which also say what their images show.
        llms: each as for `vocabkit.targets.open_target`; none: the LLM that the adapter was trained with or moved to.
        vision, layer: as for `open_vision`; None: what the adapter was trained with.
        image_folder: of the data.
        limit: images of each file of data, from its start.
        checkpoints: a folder of a training with `keep_adapters`, holding `step-*/adapter`; these come before `adapter`.

    Raises VocabkitError: anything that can't be found or does not fit, no picture that can be used.
    """
    series = _series(adapter, checkpoints)
    own = series["adapter"]
    targets = _targets(llms, llm_of(own), progress)
    encoder = encoder_of(own, vision, layer=layer, pool=pool)
    images, features, broken = _images(encoder, list(_named(pictures, image_folder, limit)), progress)
    parts = {}
    for name, target in targets.items():

        def searched(done: int, total: int, name: str = name) -> None:
            progress(f"{name}: tokens", done, total)

        parts[name] = interpret(series, target, images, features, top, searched)
    head = adapter_within(own)
    return Interpretation(
        adapter=adapter,
        head=None if isinstance(head, MLPProjector) else head.config.head,
        vision=encoder.name,
        grid=encoder.grid,
        top=top,
        llms=tuple(targets),
        vocabularies={name: part.searched for name, part in parts.items()},
        checkpoints=tuple(series),
        images=tuple(images),
        broken=tuple(broken),
        readings=tuple(reading for part in parts.values() for reading in part.readings),
        development=tuple(entry for part in parts.values() for entry in part.development),
        tokens={name: part.tokens for name, part in parts.items()},
        rows={name: part.rows for name, part in parts.items()},
    )


def _series(adapter: str, folder: Path | None) -> dict[str, Connector]:
    """Label -> adapter, in the order of training."""
    steps: dict[str, Path] = {}
    if folder is not None:
        found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _STEP.fullmatch(path.name))]
        steps = {f"step {step}": path / "adapter" for step, path in sorted(found)}
        if not steps:
            raise VocabkitError(f"{folder}: no step-*/adapter in it; train with keep_adapters = true")
    series = {label: load_connector(path) for label, path in steps.items()} | {"adapter": load_connector(adapter)}
    for label, connector in series.items():
        if type(connector) is not type(series["adapter"]) or vision_width(connector) != vision_width(series["adapter"]):
            raise VocabkitError(f"{steps[label]}: an adapter of another type or vision encoder than {adapter}")
    return series


def _targets(llms: Sequence[str], own: str, progress: Callable[[str, int, int], None]) -> dict[str, Target]:
    """Name -> LLM; the adapter's own first, if it is among them."""
    targets = {}
    for llm in llms or [own]:

        def downloaded(done: int, total: int, llm: str = llm) -> None:
            progress(f"{llm}: bytes", done, total)

        target = open_target(llm, progress=downloaded)[0]
        if target.vocabulary.name in targets:
            raise VocabkitError(f"--llm {llm}: there is a {target.vocabulary.name} before; give NAME=SOURCE")
        targets[target.vocabulary.name] = target
    return dict(sorted(targets.items(), key=lambda item: item[0] != own))


def _named(paths: Sequence[Path], image_folder: Path | None, limit: int) -> Iterator[tuple[Picture, Sample | None]]:
    """Each picture, and the sample that it is from."""
    for path in dict.fromkeys(paths):
        if is_llava(path):
            pairs = ((picture, sample) for sample in read_llava(path, image_folder) for picture in sample.images)
            yield from islice(pairs, limit)
        else:
            yield Picture(str(path), path), None


def _images(
    encoder: VisionEncoder,
    pictures: Sequence[tuple[Picture, Sample | None]],
    progress: Callable[[str, int, int], None],
) -> tuple[list[ImageInfo], Tensor, list[str]]:
    """What is known of the images, their features (I, N, Dv) float32, and what is wrong with those left out."""
    if not pictures:
        raise VocabkitError("no pictures in the data")
    images: list[ImageInfo] = []
    features, broken, parts = [], [], {}
    batch: list[Tensor] = []
    for number, (picture, sample) in enumerate(pictures):
        try:
            image, pixels = _opened(encoder, picture)
        except BrokenImage as error:
            broken.append(str(error))
        else:
            batch.append(pixels)
            if image.size not in parts:
                parts[image.size] = seen_part(encoder.pixels, image.size)
            images.append(_info(picture, sample, image.size, parts[image.size]))
        if batch and (len(batch) == _BATCH or number == len(pictures) - 1):
            states = encoder(torch.stack(batch)).float().cpu()
            features.append(states[:, -encoder.grid[0] * encoder.grid[1] :])  # without class and register tokens
            batch = []
        progress("pictures", number + 1, len(pictures))
    if not images:
        raise VocabkitError(f"none of {len(pictures)} pictures can be used; the first: {broken[0]}")
    return images, torch.cat(features), broken


def _opened(encoder: VisionEncoder, picture: Picture) -> tuple[Image, Tensor]:
    """The picture and its pixels. Raises BrokenImage as `encoder.pixels_of`."""
    image = load_image(picture)
    try:
        return image, encoder.pixels(image)
    except VocabkitError as error:
        raise BrokenImage(f"{picture.key}: {error}") from error


def _info(picture: Picture, sample: Sample | None, size: tuple[int, int], seen: Part) -> ImageInfo:
    assert isinstance(picture.source, Path)
    objects: tuple[str, ...] = ()
    caption = None
    if sample is not None:
        named = sample.extra.get("objects")
        objects = tuple(name for name in named if isinstance(name, str)) if isinstance(named, list) else ()
        caption = " ".join(turn.answer for turn in sample.turns)
    return ImageInfo(picture.key, picture.source, size, seen, caption, objects, object_words(objects, caption))
