"""Pictures for the server of a text-only LLM: as words in the prompt, or as prompt embeddings of vLLM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vocabkit.adapter.embeds import embeds_data
from vocabkit.adapter.model import Adapter, LangBridgeAdapter, load_adapter
from vocabkit.adapter.words import Word, check_words, image_words
from vocabkit.data.samples import Picture
from vocabkit.errors import VocabkitError
from vocabkit.vision.encoder import VisionEncoder, encoder_of

Pictures = Sequence[str | Path | bytes]
"""Paths, or the content of files."""


def words(
    adapter: Adapter | str | Path, pictures: Pictures, *, encoder: VisionEncoder | None = None
) -> list[list[Word]]:
    """Return the words of each picture, for any LLM and any API; see `vocabkit.adapter.words`.

    Args:
        adapter: with a softmax head, transferred or not; loaded, or as for `load_adapter`.
        encoder: the adapter's own, from `encoder_of`, if it is already open.

    Raises VocabkitError: see `load_adapter` and `encoder_of`; another head; a broken picture.
    """
    loaded = load_adapter(adapter) if isinstance(adapter, str | Path) else adapter
    check_words(loaded)
    assert isinstance(loaded, LangBridgeAdapter)
    return [image_words(loaded, features) for features in _features(loaded, pictures, encoder)]


def prompt_embeds(
    adapter: Adapter | str | Path, pictures: Pictures, *, encoder: VisionEncoder | None = None
) -> list[dict[str, str]]:
    """Return a part of a chat request's `content` for each picture, for `vllm serve LLM --enable-prompt-embeds`.

    `data` holds the visual tokens, (N, D) in the dtype of the adapter's embeddings; see `embeds_data`. They are for one
    LLM, the target of the adapter. Only trusted clients should be allowed to send any: the server can't check them.

    Args:
        adapter: transferred, or an MLP projector; loaded, or as for `load_adapter`.
        encoder: the adapter's own, from `encoder_of`, if it is already open.

    Raises VocabkitError: see `load_adapter` and `encoder_of`; an adapter that was not transferred; a broken picture.
    """
    loaded = load_adapter(adapter) if isinstance(adapter, str | Path) else adapter
    if isinstance(loaded, LangBridgeAdapter) and loaded.embeddings is None:
        raise VocabkitError("the adapter was not transferred: it has no embedding rows; run `vocabkit transfer` first")
    with torch.no_grad():
        tokens = [loaded(features).cpu() for features in _features(loaded, pictures, encoder)]
    return [{"type": "prompt_embeds", "data": embeds_data(each)} for each in tokens]


def _features(adapter: Adapter, pictures: Pictures, encoder: VisionEncoder | None) -> Iterator[Tensor]:
    """(N, Dv) of each picture."""
    if isinstance(pictures, str | Path | bytes):
        raise TypeError(f"`pictures` is {type(pictures).__name__}; expected a list of paths, or of files' content")
    opened = encoder or encoder_of(adapter)
    for number, each in enumerate(pictures, 1):
        picture = Picture(f"picture {number}", each if isinstance(each, bytes) else Path(each))
        yield opened(opened.pixels_of(picture)[None])[0]
