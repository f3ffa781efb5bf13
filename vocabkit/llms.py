"""Loading the LLM that reads visual tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vocabkit.catalog import resolve
from vocabkit.export.models import load_model
from vocabkit.shared import SharedVocabulary
from vocabkit.verification import check_ids, checked_ids
from vocabkit.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class LLM:
    """A causal language model with its tokenizer, both of transformers."""

    source: str
    """What was asked for."""
    vocabulary: Vocabulary
    """Its name is the LLM's."""
    model: Any
    tokenizer: Any

    @property
    def width(self) -> int:
        """D of its embeddings."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    def ids(self, shared: SharedVocabulary) -> Tensor:
        """(V,) its ids of the tokens of `shared`.

        Raises VocabkitError: `shared` has no column of this LLM, one with gaps, or one of other ids.
        """
        ids = checked_ids(shared, self.vocabulary, self.source)
        return torch.from_numpy(ids.astype("int64")).to(self.model.device)

    @torch.no_grad()
    def rows(self, shared: SharedVocabulary) -> Tensor:
        """(V, D) its embeddings of the tokens of `shared`. Raises VocabkitError, as `ids`."""
        rows: Tensor = self.model.get_input_embeddings()(self.ids(shared))
        return rows

    def check_ids(self, shared: SharedVocabulary, name: str) -> None:
        """Raises VocabkitError: the column `name` of `shared` has other ids than its tokenizer."""
        check_ids(shared, name, self.vocabulary, self.source)


def load_llm(source: str, dtype: torch.dtype = torch.float32) -> LLM:
    """The LLM that `source` names: a model folder, a GGUF, a model of the catalog or a hub id, in evaluation mode and
    without gradients. GGUF weights are dequantised to bfloat16 first; LoRA weights are merged into their LLM.

    Raises VocabkitError: not found, damaged, or no causal language model.
    """
    vocabulary = resolve(source).vocabulary
    model, tokenizer = load_model(source, dtype)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LLM(source, vocabulary, model.eval().requires_grad_(False), tokenizer)
