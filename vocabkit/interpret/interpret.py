"""Interpretation: read the visual tokens of images as vocabulary tokens of an LLM.

From top to bottom: the options, `interpret`, the adapters, LLMs and images that it opens, `interpret_features` for one
LLM, and the part of a picture that an encoder sees.

Sizes: C checkpoints, I images of N patches, Dv width of the vision encoder, D width of the LLM; k tokens kept of each
patch and m of each image.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vocabkit.adapter.config import AspectRatio
from vocabkit.adapter.model import Adapter, LangBridgeAdapter, MLPProjector, load_adapter
from vocabkit.adapter.partners import check_llm
from vocabkit.data.llava import is_llava, read_llava
from vocabkit.data.pictures import BrokenImage, load_image
from vocabkit.data.samples import Picture, Sample
from vocabkit.errors import VocabkitError, warn
from vocabkit.files.progress import Progress, no_progress
from vocabkit.interpret.nearest import HeadReading, nearest_tokens, read_head, searched_ids
from vocabkit.interpret.results import (
    Development,
    ImageInfo,
    Interpretation,
    Part,
    Reading,
    Token,
    as_word,
    object_words,
)
from vocabkit.tokenizer.vocabulary import Kind
from vocabkit.transfer.transfer import Target, head_rows, open_target, transfer
from vocabkit.vision.encoder import VisionEncoder, encoder_of

IMAGE_TOKENS = 20
"""m: more than the ten that terminal reports show."""
_STEP = re.compile(r"step-(\d+)")
_BATCH = 8
"""Pictures per batch of the encoder: few enough for a laptop. Tens of pictures are interpreted, not thousands."""


@dataclass(frozen=True)
class InterpretOptions:
    """What to read, and in which words."""

    llms: Sequence[str] = ()
    """Each as for `open_target`. By default the LLM that the adapter was trained with or moved to."""
    top: int = 5
    """k."""
    limit: int = 10
    """Images from the start of each LLaVA file."""
    checkpoints: str | Path | None = None
    """Output folder of a training with `keep_adapters`, which holds `step-*/adapter`, read before `adapter`."""
    other_weights: bool = False
    """Accept an LLM that was tuned since the adapter was made for it."""
    vision: str | None = None
    """The vision model, as for `open_vision`. This and the next three are by default as in training."""
    layer: int | None = None
    """Its hidden layer, numbered as in transformers."""
    pool: tuple[int, int] | None = None
    """(rows, columns) to pool the grid of patches to."""
    image_aspect_ratio: AspectRatio | None = None
    images: str | Path | None = None
    """Folder of the images of LLaVA files. By default the folder of each file."""
    written: Mapping[str, str] = field(default_factory=dict)
    """What an LLM wrote of pictures, by key, to be shown beside them."""


def interpret(
    adapter: str | Path, pictures: Sequence[str | Path], *, progress: Progress = no_progress, **options: Any
) -> Interpretation:
    """Read the visual tokens of pictures in the words of one or more LLMs: `interpret("moved", ["photo.jpg"])`.

    Missing and broken pictures are left out.

    Args:
        adapter: a checkpoint folder, a `.pt` file or a hub id, of any kind of adapter.
        pictures: images, and LLaVA JSON or JSONL files, which also say what their images show.
        options: the fields of `InterpretOptions`, by keyword.

    Raises VocabkitError: something is not found, parts do not fit together, or no picture is usable.
    """
    wanted = InterpretOptions(**options)
    if isinstance(pictures, str | Path):
        raise TypeError(f"`pictures` is {type(pictures).__name__}; expected a list of images or LLaVA files")
    if wanted.top < 1:
        raise VocabkitError(f"`top` {wanted.top}: must be at least 1")
    series = _series(adapter, wanted.checkpoints)
    own = series["adapter"]
    if len(wanted.llms) > 1 and own.config.output_width is not None:
        raise VocabkitError(
            f"{adapter}: its visual tokens are for one LLM, {own.llm}: give that `llm` alone, or, to compare "
            "several, an adapter that was not moved"
        )
    targets = _targets(wanted.llms, own.llm, adapter, progress)
    encoder = encoder_of(
        own, wanted.vision, layer=wanted.layer, pool=wanted.pool, image_aspect_ratio=wanted.image_aspect_ratio
    )
    images, features, broken = _read(encoder, list(_named(pictures, wanted)), progress)
    parts = {
        name: interpret_features(
            series, target, images, features, wanted.top, progress, other_weights=wanted.other_weights
        )
        for name, target in targets.items()
    }
    return Interpretation(
        adapter=str(adapter),
        head=None if isinstance(own, MLPProjector) else own.config.head,
        vision=encoder.name,
        grid=encoder.grid,
        top=wanted.top,
        llms=tuple(targets),
        vocabularies={name: part.searched for name, part in parts.items()},
        checkpoints=tuple(series),
        images=tuple(dataclasses.replace(image, written=_written(image, wanted.written)) for image in images),
        broken=tuple(broken),
        readings=tuple(reading for part in parts.values() for reading in part.readings),
        development=tuple(entry for part in parts.values() for entry in part.development),
        fingerprints={
            "adapter": own.fingerprint(),
            "vision encoder": encoder.info["fingerprint"],
            **{f"vocabulary of {name}": target.vocabulary.fingerprint for name, target in targets.items()},
        },
        tokens={name: part.tokens for name, part in parts.items()},
        rows={name: part.rows for name, part in parts.items()},
    )


# ---- what is named: adapters, LLMs, pictures ---------------------------------------------------------------------


def _series(adapter: str | Path, checkpoints: str | Path | None) -> dict[str, Adapter]:
    """Label -> adapter, in the order of training."""
    steps: dict[str, Path] = {}
    if checkpoints is not None:
        folder = Path(checkpoints)
        found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _STEP.fullmatch(path.name))]
        steps = {f"step {step}": path / "adapter" for step, path in sorted(found)}
        if not steps:
            raise VocabkitError(f"{folder}: no step-*/adapter in it; train with keep_adapters = true")
    series = {label: load_adapter(path) for label, path in steps.items()} | {"adapter": load_adapter(adapter)}
    whole = series["adapter"]
    if isinstance(whole, LangBridgeAdapter) and whole.config.spelled is not None:
        warn(f"{adapter}: an LLM is shown its words spelled out; here is what each patch adds to them")
    for label, connector in series.items():
        config, own = connector.config, whole.config
        if config.kind != own.kind or config.vision_width != own.vision_width:
            raise VocabkitError(f"{steps[label]}: not the same type of adapter or vision width as {adapter}")
    return series


def _targets(llms: Sequence[str], own: str, adapter: str | Path, progress: Progress) -> dict[str, Target]:
    """Name -> LLM; the adapter's own first, if it is among them."""
    targets = {}
    for llm in llms or [own]:
        try:
            target = open_target(llm, progress=progress)
        except VocabkitError as error:
            if llms:
                raise
            raise VocabkitError(
                f"{adapter}: its visual tokens are for {own}, whose words are searched: add `llm` {own}=SOURCE, a "
                "model folder, GGUF, catalog model or hub id"
            ) from error
        if target.vocabulary.name in targets:
            raise VocabkitError(f"`llm` {llm}: {target.vocabulary.name} is already given; rename one with NAME=SOURCE")
        targets[target.vocabulary.name] = target
    return dict(sorted(targets.items(), key=lambda item: item[0] != own))


def _named(paths: Sequence[str | Path], wanted: InterpretOptions) -> Iterator[tuple[Picture, Sample | None]]:
    """Each picture, with the sample that it comes from."""
    folder = None if wanted.images is None else Path(wanted.images)
    for path in dict.fromkeys(map(Path, paths)):
        if is_llava(path):
            pairs = ((picture, sample) for sample in read_llava(path, folder) for picture in sample.images)
            yield from islice(pairs, wanted.limit)
        else:
            yield Picture(str(path), path), None


def _read(
    encoder: VisionEncoder,
    pictures: Sequence[tuple[Picture, Sample | None]],
    progress: Progress,
) -> tuple[list[ImageInfo], Tensor, list[str]]:
    """Return what is known of the images, their features (I, N, Dv) in float32, and problems of the broken ones."""
    if not pictures:
        raise VocabkitError("`pictures`: the files hold no pictures")
    images: list[ImageInfo] = []
    features, broken, parts = [], [], {}
    batch: list[Tensor] = []
    progress("pictures", 0, len(pictures))
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
            patches = encoder.grid[0] * encoder.grid[1]
            features.append(states[:, -patches:])  # without class and register tokens, which come first
            batch = []
        progress("pictures", number + 1, len(pictures))
    if not images:
        raise VocabkitError(f"none of {len(pictures)} pictures can be used; the first: {broken[0]}")
    return images, torch.cat(features), broken


def _opened(encoder: VisionEncoder, picture: Picture) -> tuple[Image.Image, Tensor]:
    """The picture and its pixels. Raises BrokenImage, like `encoder.pixels_of`."""
    image = load_image(picture)
    try:
        return image, encoder.pixels(image)
    except VocabkitError as error:
        raise BrokenImage(f"{picture.key}: {error}") from error


def _written(image: ImageInfo, captions: Mapping[str, str]) -> str | None:
    """The caption of an image, by its key or, where the images themselves were captioned, by its path."""
    return captions.get(image.key) or captions.get(str(image.path))


def _info(picture: Picture, sample: Sample | None, size: tuple[int, int], seen: Part) -> ImageInfo:
    assert isinstance(picture.source, Path)
    objects: tuple[str, ...] = ()
    caption = None
    if sample is not None:
        named = sample.extra.get("objects")
        objects = tuple(name for name in named if isinstance(name, str)) if isinstance(named, list) else ()
        caption = " ".join(turn.answer for turn in sample.turns)
    return ImageInfo(picture.key, picture.source, size, seen, caption, objects, object_words(objects, caption))


# ---- features in the words of one LLM ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class InOneLLM:
    """The part of an `Interpretation` about one LLM, with fields of the same names."""

    searched: int
    """Tokens of its vocabulary."""
    readings: tuple[Reading, ...]
    development: tuple[Development, ...]
    tokens: Mapping[int, Token]
    rows: Mapping[int, bytes]


def interpret_features(
    checkpoints: Mapping[str, Adapter],
    target: Target,
    images: Sequence[ImageInfo],
    features: Tensor,
    top: int,
    progress: Progress = no_progress,
    *,
    other_weights: bool = False,
) -> InOneLLM:
    """Read the visual tokens of images in the words of the LLM `target`.

    A LangBridgeAdapter is transferred to the target first; rows of its V_shared that the target lacks are dropped. For
    all checkpoints and images together, the target's rows are read once and its vocabulary is searched once.

    Args:
        checkpoints: label -> adapter; all of one type and, if they have one, one V_shared.
        features: (I, N, Dv) of `images`.
        top: k; fewer are kept if the head has fewer rows.
        other_weights: accept an LLM that was tuned since the adapter was made for it.
        progress: counts the rows searched.

    Raises VocabkitError: parts that do not fit together, no shared token, or damaged rows.
    """
    if len({None if c.shared is None else c.shared.fingerprint for c in checkpoints.values()}) > 1:
        raise VocabkitError(
            f"{', '.join(checkpoints)}: adapters with different shared vocabularies; give checkpoints of one training"
        )
    moved = _for_target(checkpoints, target, other_weights=other_weights)
    visual = torch.cat([_visual_tokens(connector, features) for connector in moved.values()])  # (C I, N, D)
    step = f"{target.vocabulary.name}: tokens"
    ids = searched_ids(target.vocabulary, target.embeddings)
    found, best = nearest_tokens(visual.flatten(0, 1), target.embeddings, ids, min(top, len(ids)), step, progress)
    found = found[:, : int((found[0] >= 0).sum())]  # rows of zeros are never found
    nearest = found.view(len(moved), *features.shape[:2], -1).numpy().astype(np.int32)  # (C, I, N, k)
    cosines = best[:, : found.shape[1]].reshape(nearest.shape).numpy()
    tokens = {token: _token(target, token) for token in np.unique(nearest).tolist()}
    token_words = {token: as_word(known.token) for token, known in tokens.items() if known.kind != "special"}
    readings: list[Reading] = []
    for at, (label, connector) in enumerate(moved.items()):
        for number, image in enumerate(images):
            near, cosine = nearest[at, number], cosines[at, number]
            image_nearest, image_cosines = _summed(near, cosine)
            readings.append(
                Reading(
                    image=number,
                    llm=target.vocabulary.name,
                    checkpoint=label,
                    nearest=near,
                    cosines=cosine,
                    names_object=_names(near, token_words, image.words),
                    image_nearest=image_nearest,
                    image_cosines=image_cosines,
                    **_of_head(connector, features[number], top),
                )
            )
    shared = next(iter(moved.values())).shared
    parts = [part.ravel() for r in readings for part in (r.rows, r.image_rows) if part is not None]
    rows = (
        {} if shared is None else {row: shared.tokens[row].as_py() for row in np.unique(np.concatenate(parts)).tolist()}
    )
    development = tuple(_development(label, readings, images, rows) for label in moved)
    return InOneLLM(len(ids), tuple(readings), development, tokens, rows)


def _for_target(connectors: Mapping[str, Adapter], target: Target, *, other_weights: bool) -> dict[str, Adapter]:
    moved: dict[str, Adapter] = {}
    first: LangBridgeAdapter | None = None
    for label, connector in connectors.items():
        if not isinstance(connector, LangBridgeAdapter) or connector.embeddings is not None:
            own = getattr(connector, "embeddings", None)
            check_llm(connector.config, connector.shared, target.table(), rows=own, other_weights=other_weights)
            moved[label] = connector
            continue
        if target.vocabulary.name == connector.llm:
            check_llm(connector.config, connector.shared, target.table(), other_weights=other_weights)
        if first is None:
            first, report = transfer(connector, target, missing="drop")
            moved[label] = first
            if report.dropped:
                warn(
                    f"{target.vocabulary.name} lacks {report.dropped:,} of the adapter's {report.rows:,} rows, "
                    "which are left out"
                )
        else:
            moved[label] = _moved_as(first, connector, target)
    return moved


def _moved_as(first: LangBridgeAdapter, adapter: LangBridgeAdapter, target: Target) -> LangBridgeAdapter:
    """Transfer another adapter with the same V_shared, reusing the rows that were read for `first`."""
    name = target.vocabulary.name
    shared = adapter.shared if name in adapter.shared.names else adapter.shared.extend(target.vocabulary)
    head = head_rows(adapter, np.flatnonzero(shared.mask_for(name)))
    own = first.config
    config = dataclasses.replace(
        adapter.config, rows=own.rows, shared_fingerprint=own.shared_fingerprint, transfer=own.transfer
    )
    assert first.embeddings is not None
    tensors = {**head, "embeddings": first.embeddings}
    return LangBridgeAdapter.from_parts(Path(name), config, tensors, first.shared)


@torch.no_grad()
def _visual_tokens(connector: Adapter, features: Tensor) -> Tensor:
    """(I, N, Dv) -> (I, N, D) float32."""
    dtype = next(connector.parameters()).dtype
    if isinstance(connector, LangBridgeAdapter) and connector.config.spelled is not None:
        rows = connector.rows  # one visual token per patch, although the LLM is shown words in order
        assert rows is not None
        return torch.stack([connector.mixed(image.to(dtype), rows).float() for image in features])
    return torch.stack([connector(image.to(dtype)).float() for image in features])


def _of_head(connector: Adapter, features: Tensor, top: int) -> dict[str, np.ndarray | None]:
    """The fields of a `Reading` about the head, for the (N, Dv) features of one image."""
    if isinstance(connector, MLPProjector):
        return dict.fromkeys(HeadReading._fields)
    k, m = min(top, connector.config.rows), min(IMAGE_TOKENS, connector.config.rows)
    return read_head(connector, features.to(connector.linear_1.weight.dtype), k, m)._asdict()


def _summed(nearest: np.ndarray, cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, k), (N, k) -> (m,) tokens and (m,) sums over N of their cosines, largest first."""
    tokens, places = np.unique(nearest, return_inverse=True)
    sums = np.bincount(places.ravel(), weights=cosines.ravel()) / len(nearest)
    order = np.argsort(-sums, kind="stable")[:IMAGE_TOKENS]
    return tokens[order], sums[order].astype(np.float32)


def _names(numbers: np.ndarray, words: Mapping[int, str | None], wanted: Sequence[str]) -> np.ndarray | None:
    """(N, k) tokens or rows -> (N,) bool: whether one of them is a wanted word; None if no word is wanted."""
    if not wanted:
        return None
    naming = [number for number, word in words.items() if word in wanted]
    return np.asarray(np.isin(numbers, naming).any(axis=1))


def _development(
    label: str, readings: Sequence[Reading], images: Sequence[ImageInfo], rows: Mapping[int, bytes]
) -> Development:
    own = [reading for reading in readings if reading.checkpoint == label]
    row_words = {row: as_word(token) for row, token in rows.items()}
    by_head = [_names(r.rows, row_words, images[r.image].words) for r in own if r.rows is not None]
    entropies = [r.entropy for r in own if r.entropy is not None]
    return Development(
        llm=own[0].llm,
        checkpoint=label,
        mean_best_cosine=float(np.concatenate([r.cosines[:, 0] for r in own]).mean()),
        named=_share([r.names_object for r in own]),
        named_by_head=_share(by_head),
        mean_entropy=float(np.concatenate(entropies).mean()) if entropies else None,
    )


def _share(parts: Sequence[np.ndarray | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return float(np.concatenate(known).mean()) if known else None


def _token(target: Target, token_id: int) -> Token:
    spelled = target.vocabulary.token(token_id)
    return Token(b"" if spelled is None else spelled, Kind(target.vocabulary.kinds[token_id]).name.lower())


# ---- the part of a picture that an encoder sees ------------------------------------------------------------------


def seen_part(pixels: Callable[[Image.Image], Tensor], size: tuple[int, int]) -> Part:
    """Return the part of a picture of `size` (width, height) that `pixels` keeps; beyond 0 to 1 is padding.

    It is measured, because image processors do not say: in a picture whose red grows from left to right and whose green
    grows from top to bottom, the colours of the output tell where each pixel was taken from.

    Args:
        pixels: RGB -> (3, H, W), by scaling, cropping, padding and a linear change of each channel, as
            `VisionEncoder.pixels`.
    """
    width, height = size
    ramps = np.zeros((height, width, 3), np.uint8)
    ramps[..., 0] = np.round(255 * (np.arange(width) + 0.5) / width)
    ramps[..., 1] = np.round(255 * (np.arange(height) + 0.5) / height)[:, None]
    black, white = (Image.new("RGB", size, (level,) * 3) for level in (0, 255))
    dark, light, found = (pixels(image).numpy() for image in (black, white, Image.fromarray(ramps)))
    row, column = (side // 2 for side in found.shape[1:])
    left, right = _ends(dark[0, row], light[0, row], found[0, row])
    top, bottom = _ends(dark[1, :, column], light[1, :, column], found[1, :, column])
    return left, top, right, bottom


def _ends(dark: np.ndarray, light: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Return where a line of pixels begins and ends, by a linear fit to its middle half, without padding."""
    places = np.arange(len(found) // 4, len(found) - len(found) // 4)
    places = places[light[places] != dark[places]]
    shares = (found[places] - dark[places]) / (light[places] - dark[places])
    slope, start = np.polyfit(places + 0.5, shares, 1)
    return tuple(round(float(start + slope * at), 3) for at in (0, len(found)))  # type: ignore[return-value]
