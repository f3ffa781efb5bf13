"""Partners of an adapter: its shared vocabulary, its vision encoder and its LLM, with one check for each.

Every command asks here, so that a partner that does not belong is an error and never a wrong answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from vocabkit.adapter.config import AdapterConfig, AspectRatio, MLPConfig
from vocabkit.errors import VocabkitError, quote
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.shared.verify import wrong_rows
from vocabkit.tokenizer.vocabulary import Vocabulary


class EncoderInfo(TypedDict):
    """A vision encoder and its settings. Encoders with equal info give equal features, up to rounding."""

    name: str
    layer: int | None
    keep_cls: bool
    pool: tuple[int, int] | None
    image_aspect_ratio: NotRequired[AspectRatio]
    """Features of earlier versions, which lack it, are square."""
    grid: tuple[int, int]
    """Rows and columns of patches, after pooling."""
    tokens: int
    """N."""
    width: int
    """Dv."""
    precision: str
    """The dtype that the encoder computes in."""
    fingerprint: str
    """Of its weights and its preprocessing."""


def check_shared(config: AdapterConfig, shared: SharedVocabulary | None) -> None:
    """Raise VocabkitError unless `shared` is the V_shared whose rows are those of the adapter's head."""
    if shared is None:
        raise VocabkitError("its shared vocabulary is missing, without which the head's rows have no meaning")
    if shared.fingerprint != config.shared_fingerprint:
        raise VocabkitError(
            f"the shared vocabulary is {quote(shared.fingerprint[:19])}…, but the head was trained on "
            f"{quote(config.shared_fingerprint[:19])}…; pass the one it was trained on"
        )
    if len(shared) != config.rows:
        raise VocabkitError(f"the head has {config.rows} rows, but the shared vocabulary has {len(shared)}")
    shared.ids_for(config.llm)  # raises if the column is missing or has gaps
    if config.output_llm not in shared.names:
        raise VocabkitError(f"the shared vocabulary has no column of the target {config.output_llm}")


def check_encoder(config: AdapterConfig | MLPConfig, info: EncoderInfo, source: str | Path) -> None:
    """Raise VocabkitError unless features of `info`, read from `source`, are those that the adapter was trained on.

    Settings that the config does not record are not compared.
    """
    if info["width"] != config.vision_width:
        raise VocabkitError(
            f"{source}: gives features of width {info['width']}, but the adapter takes {config.vision_width}; use the "
            "vision model that it was trained with"
        )
    known: dict[str, tuple[object, object]] = {}
    if config.vision_layer is not None:
        known["layer"] = config.vision_layer, info["layer"]
    if config.vision_keep_cls is not None:
        known |= {"keep_cls": (config.vision_keep_cls, info["keep_cls"]), "pool": (config.vision_pool, info["pool"])}
    if config.vision_aspect_ratio is not None:
        known["image_aspect_ratio"] = config.vision_aspect_ratio, info.get("image_aspect_ratio", "square")
    for name, (wanted, found) in known.items():
        if wanted != found:
            raise VocabkitError(
                f"{source}: gives features with {name} {_shown(found)}, but the adapter was trained with {name} "
                f"{_shown(wanted)}; use the same"
            )


def check_llm(
    config: AdapterConfig | MLPConfig, shared: SharedVocabulary | None, llm: Vocabulary, width: int, source: str
) -> None:
    """Raise VocabkitError unless an LLM can read the adapter's visual tokens.

    Args:
        shared: the adapter's V_shared, None for a projector.
        llm: the vocabulary of the LLM.
        width: D of its embeddings.
        source: what the user called it, for messages.
    """
    if shared is not None and config.output_width is None:
        llm_ids(shared, llm, source)
        return
    if shared is not None:
        _check_ids(shared, config.output_llm, llm, source)
    if config.output_width != width:
        raise VocabkitError(
            f"{source}: its embeddings have width {width}, but the adapter gives visual tokens of width "
            f"{config.output_width} for {config.output_llm}; name that LLM, or transfer the adapter as it was trained"
        )


def llm_ids(shared: SharedVocabulary, llm: Vocabulary, source: str) -> np.ndarray:
    """Return (V,) int32: the LLM's id for each row of `shared`, from the column with the name of `llm`.

    Raises VocabkitError: no such column, a column with gaps, or with ids of another tokenizer.
    """
    if llm.name not in shared.names:
        raise VocabkitError(
            f"{source}: the shared vocabulary has columns of {', '.join(shared.names)}, none of {llm.name}; name the "
            "LLM as there: NAME=SOURCE"
        )
    _check_ids(shared, llm.name, llm, source)
    return shared.ids_for(llm.name)


def other_ids(shared: SharedVocabulary, name: str, vocabulary: Vocabulary) -> str | None:
    """Say how `vocabulary` differs from the tokenizer of column `name`; None if all ids are the same."""
    wrong = wrong_rows(shared, name, vocabulary)
    if not len(wrong):
        return None
    token = quote(shared.tokens[int(wrong[0])].as_py().decode("utf-8", "backslashreplace"))
    return (
        f"its tokenizer has other ids than {name} has in the shared vocabulary for {len(wrong)} of {len(shared)} "
        f"tokens, the first is {token}"
    )


def _check_ids(shared: SharedVocabulary, name: str, llm: Vocabulary, source: str) -> None:
    if difference := other_ids(shared, name, llm):
        raise VocabkitError(f"{source}: {difference}; is it another LLM?")


def _shown(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()
