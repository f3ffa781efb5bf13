"""The interpretation page: pictures whose patches show the words they became."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL.Image import Image

from vocabkit.data.pictures import load_image
from vocabkit.data.samples import Picture
from vocabkit.interpret.results import Development, ImageInfo, Interpretation, Part, Reading
from vocabkit.report.html.page import Origin, pack, render
from vocabkit.report.layout import spelled

_PIXELS = 512
"""Longer side of an embedded picture."""
_QUALITY = 82
"""JPEG quality."""
_IMAGE_BYTES, _FEWEST_IMAGES = 195_000, 10
"""Bytes of a page per image, and the fewest images that they are allowed for: ten images stay below two megabytes."""
_MOST_COLUMNS = 12
"""Wider grids of patches have no room for words."""
_SHARES, _COSINES = 10_000, 1000
"""Shares and cosines are packed as whole multiples of 1 / this."""


@dataclass(frozen=True)
class Frame:
    """Where a picture and its grid of patches are in a frame around both, each as left, top, width and height in
    percent of the frame.
    """

    ratio: float
    """Width / height of the frame."""
    picture: tuple[float, float, float, float]
    grid: tuple[float, float, float, float]


@dataclass(frozen=True)
class Curve:
    """One measure over the checkpoints."""

    measure: str
    lowest: str
    highest: str
    lines: tuple[tuple[str, str], ...]
    """LLM, and points of an SVG polyline in a box of 100 x 100."""


_MEASURES: Sequence[tuple[str, str, Callable[[Development], float | None]]] = (
    ("best cosine", ".3f", lambda entry: entry.mean_best_cosine),
    ("named by nearest", ".1%", lambda entry: entry.named),
    ("named by head", ".1%", lambda entry: entry.named_by_head),
    ("entropy, nats", ".2f", lambda entry: entry.mean_entropy),
)
"""Name, format and value."""


def interpretation_page(found: Interpretation, pictures: Sequence[str], origin: Origin, *, writer: str = "") -> str:
    """Render the page, with as many tokens per patch as keep it small, at least one.

    Args:
        pictures: the images of `found`, each from `picture_uri`.
        writer: the LLM that wrote of the images.
    """
    room = _IMAGE_BYTES * max(_FEWEST_IMAGES, len(pictures)) - sum(map(len, pictures))
    top, data = found.top, _data(found, found.top)
    while top > 1 and (size := len(pack(data))) > room:
        top = max(1, min(top - 1, top * room // size))
        data = _data(found, top)
    return render(
        "interpretation.html.j2",
        origin,
        scripts=("data.js", "grid.js", "patches.js"),
        data=data,
        top=top,
        found=found,
        pictures=pictures,
        writer=writer,
        frames=[frame(image.size, image.seen) for image in found.images],
        words_fit=found.grid[1] <= _MOST_COLUMNS,
        named=any(image.words for image in found.images),
        curves=[curve for measure in _MEASURES if (curve := _curve(found, *measure))],
    )


def picture_uri(image: ImageInfo) -> str:
    """The picture as a small JPEG in a data: URI. Raises BrokenImage, like `load_image`."""
    return small_jpeg(load_image(Picture(image.key, image.path)))


def small_jpeg(picture: Image) -> str:
    """A data: URI of `picture`, which becomes small."""
    picture.thumbnail((_PIXELS, _PIXELS))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _data(found: Interpretation, top: int) -> dict[str, Any]:
    """The data for patches.js: readings by image, LLM and checkpoint, with `top` tokens per patch. Words are indices
    into a list of spellings.
    """
    places: dict[str, int] = {}
    spelling = cache(spelled)

    def words(ids: np.ndarray | None, token: Callable[[int], bytes]) -> list[int] | None:
        if ids is None:
            return None
        return [places.setdefault(spelling(token(i)), len(places)) for i in ids.ravel().tolist()]

    def values(numbers: np.ndarray | None) -> list[float] | None:
        if numbers is None or found.head == "softmax":
            return _whole(numbers, _SHARES)
        return [float(f"{value:.3g}") for value in numbers.ravel().tolist()]

    def first(kept: np.ndarray | None) -> np.ndarray | None:
        return None if kept is None else kept[:, :top]

    def plain(reading: Reading) -> dict[str, Any]:
        tokens, rows = found.tokens[reading.llm], found.rows[reading.llm]
        return {
            "nearest": words(reading.nearest[:, :top], lambda i: tokens[i].token),
            "cosines": _whole(reading.cosines[:, :top], _COSINES),
            "names": _whole(reading.names_object, 1),
            "rows": words(first(reading.rows), rows.__getitem__),
            "coefficients": values(first(reading.coefficients)),
            "imageNearest": words(reading.image_nearest, lambda i: tokens[i].token),
            "imageCosines": _whole(reading.image_cosines, _COSINES),
            "imageRows": words(reading.image_rows, rows.__getitem__),
            "imageMass": _whole(reading.image_mass, _SHARES),
        }

    readings = [
        [[plain(found.reading(number, llm, checkpoint)) for checkpoint in found.checkpoints] for llm in found.llms]
        for number in range(len(found.images))
    ]
    return {
        "grid": found.grid,
        "llms": found.llms,
        "checkpoints": found.checkpoints,
        "head": found.head,
        "words": list(places),
        "readings": readings,
        "telling": [
            _most_telling(found.reading(n, found.llms[0], found.checkpoints[-1])) for n in range(len(readings))
        ],
    }


def _most_telling(reading: Reading) -> int:
    """The patch whose word says most: it names an object of the image, if one does, and is near, and rare.

    Tokenizers number tokens from frequent to rare, as they merge them.
    """
    rarity = np.log1p(reading.nearest[:, 0].astype(np.float64))
    value = reading.cosines[:, 0] if reading.coefficients is None else reading.coefficients[:, 0]
    score = rarity * np.maximum(value, 0)
    if reading.names_object is not None and reading.names_object.any():
        score = np.where(reading.names_object, score, -1)
    return int(score.argmax())


def _whole(numbers: np.ndarray | None, parts: int) -> list[float] | None:
    return None if numbers is None else np.rint(numbers.astype(np.float64) * parts).astype(int).ravel().tolist()


def frame(size: tuple[int, int], seen: Part) -> Frame:
    """Place a picture of `size` (width, height) and the grid of patches on the part of it that is seen."""
    left, top, right, bottom = seen
    start_x, start_y = min(0.0, left), min(0.0, top)
    width, height = max(1.0, right) - start_x, max(1.0, bottom) - start_y

    def placed(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        return (
            100 * (left - start_x) / width,
            100 * (top - start_y) / height,
            100 * (right - left) / width,
            100 * (bottom - top) / height,
        )

    ratio = size[0] * width / (size[1] * height)
    return Frame(ratio, placed(0.0, 0.0, 1.0, 1.0), placed(left, top, right, bottom))


def _curve(
    found: Interpretation, measure: str, shown: str, value: Callable[[Development], float | None]
) -> Curve | None:
    """None without a series of checkpoints, or if one lacks the measure."""
    values = {(entry.llm, entry.checkpoint): value(entry) for entry in found.development}
    numbers = [number for number in values.values() if number is not None]
    if len(found.checkpoints) < 2 or len(numbers) < len(values):
        return None
    lowest, highest = min(numbers), max(numbers)
    steps = len(found.checkpoints) - 1

    def point(at: int, number: float | None) -> str:
        share = 0.5 if number is None or highest == lowest else (number - lowest) / (highest - lowest)
        return f"{100 * at / steps:.2f},{100 - 100 * share:.2f}"

    lines = tuple(
        (llm, " ".join(point(at, values[llm, name]) for at, name in enumerate(found.checkpoints))) for llm in found.llms
    )
    return Curve(measure, format(lowest, shown), format(highest, shown), lines)
