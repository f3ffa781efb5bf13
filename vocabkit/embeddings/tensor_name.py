"""Which tensor of a checkpoint is the embedding table of its language model."""

from __future__ import annotations

import re
from collections.abc import Collection

from vocabkit.embeddings.language_model import LanguageModel
from vocabkit.errors import VocabkitError, quote

_EMBEDDINGS = re.compile(
    r"((model|transformer|language_model|llm|lm|text_model|thinker|base_model|backbone|decoder|embedding|embeddings|rwkv"
    r"|gpt_neox|gpt_neox_japanese|biogpt|cpmant)\.)*"
    r"(embed_tokens|wte|embed_in|word_embeddings?|tok_embeddings|tokens_embed|embeddings?|input_embedding)\.weight"
)
"""The names that model families give it, with whatever their wrappers put before. Towers of other modalities, further
prediction heads (`model.layers.61.embed_tokens.weight`) and position embeddings have other names."""
_OUTPUT = re.compile(r"((model|language_model|thinker)\.)*lm_head\.weight")
_ALIKE = re.compile(r"emb|wte|\bshared\b", re.IGNORECASE)


def embedding_name(names: Collection[str], model: LanguageModel, where: str) -> str:
    """The name of the embedding table among the `names` of all tensors.

    Raises VocabkitError: none of them, or several, with those that come near.
    """
    found = sorted(filter(_EMBEDDINGS.fullmatch, names))
    if not found and model.tied:
        found = sorted(filter(_OUTPUT.fullmatch, names))
    if len(found) == 1:
        return found[0]
    near = found or sorted(filter(_ALIKE.search, names)) or sorted(names)
    listed = ", ".join(map(quote, near[:5])) + (", …" if len(near) > 5 else "")
    problem = "several tensors look like" if found else "no tensor is named like"
    raise VocabkitError(
        f"{where}: {problem} the embedding table of a model of type {model.family} (it has {listed or 'none'})"
    )
