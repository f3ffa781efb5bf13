"""Interpretations as plain data, and the words that name what an image shows. Imports no torch.

Sizes: N patches of an image, in rows and columns; k tokens kept of each patch, m of each image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Part = tuple[float, float, float, float]
"""Left, top, right and bottom edge of a part of a picture, as shares of its width and height."""


@dataclass(frozen=True)
class Token:
    """The token of an id."""

    token: bytes
    """Its bytes in decoded text; for a special token, its spelling. Show it with `report.layout.show_token`."""
    kind: str
    """text, byte or special, as in `tokenizer.vocabulary.Kind`."""


@dataclass(frozen=True)
class ImageInfo:
    """A picture, and what is known to be in it."""

    key: str
    """Its name in the data, or its path."""
    path: Path
    size: tuple[int, int]
    """Width and height in pixels."""
    seen: Part
    """The part that the vision encoder sees and the grid of patches covers; (0, 0, 1, 1) is the whole picture."""
    caption: str | None
    objects: tuple[str, ...]
    """Names of what it shows (`extra["objects"]` of its sample); empty if unknown."""
    words: tuple[str, ...]
    """Words that name what it shows, as `object_words` gives them."""
    written: str | None = None
    """What an LLM wrote of it; None if unknown."""


@dataclass(frozen=True, eq=False)
class Reading:
    """The visual tokens of one image in the words of one LLM, by one checkpoint. Patches are row by row."""

    image: int
    """Index into `Interpretation.images`."""
    llm: str
    checkpoint: str
    nearest: np.ndarray
    """(N, k) int32: ids of the tokens nearest to each visual token in the LLM's whole vocabulary, nearest first."""
    cosines: np.ndarray
    """(N, k) float32: their cosine similarities."""
    names_object: np.ndarray | None
    """(N,) bool: whether one of the k nearest names an object of the image. None if its objects are unknown."""
    rows: np.ndarray | None
    """(N, k) int32: rows of the head with the largest coefficients, largest first. None for an MLP, which has none."""
    coefficients: np.ndarray | None
    """(N, k) float32: these coefficients. Shares of 1 for a softmax head, any numbers for a linear one."""
    entropy: np.ndarray | None
    """(N,) float32 in nats: entropy of the coefficients of each patch. Like mass, only for a softmax head, whose
    coefficients are a distribution."""
    image_nearest: np.ndarray
    """(m,) int32: the tokens with the largest sums of cosines over the patches that have them among their k nearest."""
    image_cosines: np.ndarray
    """(m,) float32: these sums divided by N, largest first."""
    image_rows: np.ndarray | None
    """(m,) int32: rows of a softmax head with the most mass."""
    image_mass: np.ndarray | None
    """(m,) float32: their mean coefficients over the patches, largest first. The means of all rows sum to 1."""


@dataclass(frozen=True)
class Development:
    """Averages over the patches of all images, for one checkpoint and one LLM."""

    llm: str
    checkpoint: str
    mean_best_cosine: float
    """Between each visual token and its nearest vocabulary token."""
    named: float | None
    """Share of the patches with an object named by one of the k nearest tokens, over images with known objects. None if
    there are none."""
    named_by_head: float | None
    """The same for the k largest coefficients. Also None for an MLP."""
    mean_entropy: float | None
    """Mean of `Reading.entropy`, in nats. None unless the head is softmax."""


@dataclass(frozen=True, eq=False)
class Interpretation:
    """Images in the words that they become."""

    adapter: str
    """As given."""
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
    """LLM -> number of tokens searched."""
    checkpoints: tuple[str, ...]
    """Labels in the order of training; a single one without a series."""
    images: tuple[ImageInfo, ...]
    broken: tuple[str, ...]
    """What is wrong with each picture that was left out, one line each."""
    readings: tuple[Reading, ...]
    """One for each image, LLM and checkpoint."""
    development: tuple[Development, ...]
    """One for each LLM and checkpoint."""
    tokens: Mapping[str, Mapping[int, Token]]
    """LLM -> token id -> token, for all ids in the readings."""
    rows: Mapping[str, Mapping[int, bytes]]
    """LLM -> row of the head -> bytes of its token (empty for a role), for all rows in the readings. Rows whose token
    the LLM lacks are dropped first, so a token can have different rows in two LLMs."""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Of the adapter, the vision encoder and the LLMs' vocabularies, by name."""

    def reading(self, image: int, llm: str, checkpoint: str) -> Reading:
        """The reading of this image, LLM and checkpoint. Raises KeyError if there is none."""
        for reading in self.readings:
            if (reading.image, reading.llm, reading.checkpoint) == (image, llm, checkpoint):
                return reading
        raise KeyError((image, llm, checkpoint))


# ---- words that name what an image shows -------------------------------------------------------------------------

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

    If its `objects` are known: the words of their names, and words of the caption that begin with one of these (`owls`
    for an owl). Otherwise all words of the caption. Words of one letter and words that only shape a sentence (`with`,
    `picture`) never count.
    """
    said = _words(caption or "")
    if not objects:
        return tuple(sorted(said))
    names = {word for name in objects for word in _words(name)}
    return tuple(sorted(names | {word for word in said if word.startswith(tuple(names))}))


def as_word(token: bytes) -> str | None:
    """Return a token in lower case, without surrounding white space; None if it is not UTF-8.

    It names an object if it is one of the `object_words`. A name that a vocabulary has only in pieces is never found.
    """
    try:
        return token.decode().strip().lower()
    except UnicodeDecodeError:
        return None


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower())) - set(_FORM.split())
