"""Which words name what an image shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_WORD = re.compile(r"[^\W\d_]{2,}")
_FORM = """
about above after all along am an and are around as at be because been before behind below beside between but by can
could do does down each few for four from five front has have having he her here him his how if image in into is it
its many me more most my near next no not of off on one onto or other out over photo picture several she show showing
shown shows side so some than that the their them then there these they this those three through to top two under up
us very was we were what when where which while who with would you your background
"""
"""English words that shape a caption without naming a thing."""


def object_words(objects: Sequence[str], caption: str | None) -> tuple[str, ...]:
    """The words that name what an image shows, in lower case, sorted.

    Words have two letters or more and do not only shape a sentence (`with`, `picture`). If its `objects` are known:
    the words of their names, and those words of the caption that begin with one of them (`owls`, of an owl). Else the
    words of the caption. Empty if neither is known.
    """
    said = _words(caption or "")
    if not objects:
        return tuple(sorted(said))
    names = {word for name in objects for word in _words(name)}
    return tuple(sorted(names | {word for word in said if word.startswith(tuple(names))}))


def as_word(token: bytes) -> str | None:
    """A token in lower case, without white space around it; it names an object if that is one of its `object_words`.

    None if it is no text. Pieces of words name nothing, so that a name of which a vocabulary has only pieces is never
    found.
    """
    try:
        return token.decode().strip().lower()
    except UnicodeDecodeError:
        return None


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower())) - set(_FORM.split())


# MERGED: Interpretations as plain data, without torch.
# MERGED:
# MERGED: Sizes: N patches of an image, in rows and columns; k tokens kept of each patch; m tokens kept of each image.


@dataclass(frozen=True)
class Token:
    """What a token id stands for."""

    token: bytes
    """Its bytes in decoded text; of a special token, its spelling. Show it with `report.layout.show_token`."""
    kind: str
    """text, byte or special, as in `vocabulary.Kind`."""


@dataclass(frozen=True)
class ImageInfo:
    """A picture, and what is known to be in it."""

    key: str
    """Its name in the data, or its path."""
    path: Path
    size: tuple[int, int]
    """Width and height in pixels."""
    seen: tuple[float, float, float, float]
    """The part that the vision encoder sees, and that the grid of patches covers: left, top, right and bottom as shares
    of width and height, (0, 0, 1, 1) for all of it."""
    caption: str | None
    objects: tuple[str, ...]
    """Names of what it shows (`extra["objects"]` of its sample); empty if unknown."""
    words: tuple[str, ...]
    """What names an object here, in lower case: see `naming.object_words`. Empty if nothing is known of it."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What the visual tokens of one image stand for in one LLM, by one checkpoint. Patches are row by row."""

    image: int
    """Index into `Interpretation.images`."""
    llm: str
    checkpoint: str
    nearest: np.ndarray
    """(N, k) int32: token ids nearest to each visual token among the LLM's whole vocabulary, nearest first."""
    cosines: np.ndarray
    """(N, k) float32: their cosine similarities."""
    names_object: np.ndarray | None
    """(N,) bool: one of the k nearest names an object of the image. None if nothing is known of the image."""
    rows: np.ndarray | None
    """(N, k) int32: rows of the head with the largest coefficients, largest first. None for an MLP, which has none."""
    coefficients: np.ndarray | None
    """(N, k) float32: theirs. Of a softmax head, shares of 1; of a linear head any numbers, largest by value."""
    entropy: np.ndarray | None
    """(N,) float32 in nats: of each patch's coefficients. Of a softmax head only, as mass is: the coefficients of a
    linear head are no shares of 1."""
    image_nearest: np.ndarray
    """(m,) int32: token ids with the largest sums of cosines over the patches of which they are among the k nearest."""
    image_cosines: np.ndarray
    """(m,) float32: these sums over N, largest first."""
    image_rows: np.ndarray | None
    """(m,) int32: rows of a softmax head with the most mass."""
    image_mass: np.ndarray | None
    """(m,) float32: their mean coefficients over the patches, largest first; over all rows these sum to 1."""


@dataclass(frozen=True)
class Development:
    """One checkpoint in one LLM, over the patches of all images."""

    llm: str
    checkpoint: str
    mean_best_cosine: float
    """Of each visual token with its nearest vocabulary token."""
    named: float | None
    """Share of patches of which one of the k nearest tokens names an object of the image, among the patches of images
    of which something is known. None if nothing is known of any."""
    named_by_head: float | None
    """The same of the k largest coefficients. None for an MLP, too."""
    mean_entropy: float | None
    """In nats: mean over patches of `Reading.entropy`. None but for a softmax head."""


@dataclass(frozen=True, eq=False)
class Interpretation:
    """What images become in words."""

    adapter: str
    """As it was named."""
    head: str | None
    """linear or softmax; None for an MLP projector."""
    vision: str
    grid: tuple[int, int]
    """Rows and columns of patches: N is their product."""
    top: int
    """k."""
    llms: tuple[str, ...]
    """The LLMs; the first is the one that the adapter was trained with or moved to, if that is among them."""
    vocabularies: Mapping[str, int]
    """LLM -> how many tokens were searched."""
    checkpoints: tuple[str, ...]
    """In the order of training; one if there is no series."""
    images: tuple[ImageInfo, ...]
    broken: tuple[str, ...]
    """What is wrong with each picture that was left out, a line each."""
    readings: tuple[Reading, ...]
    """Of each image, LLM and checkpoint."""
    development: tuple[Development, ...]
    """Of each LLM and checkpoint."""
    tokens: Mapping[str, Mapping[int, Token]]
    """LLM -> token id -> what it is, for all ids in the readings."""
    rows: Mapping[str, Mapping[int, bytes]]
    """LLM -> row of the head -> the bytes of its token (empty: it stands for a role), for all rows in the readings.
    Rows whose token an LLM lacks are left out before, so that numbers of rows may differ between LLMs."""

    def reading(self, image: int, llm: str, checkpoint: str) -> Reading:
        """The one of this image, LLM and checkpoint. Raises KeyError: there is none."""
        for reading in self.readings:
            if (reading.image, reading.llm, reading.checkpoint) == (image, llm, checkpoint):
                return reading
        raise KeyError((image, llm, checkpoint))
