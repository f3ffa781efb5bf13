"""Loading the LLM that reads visual tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from vocabkit.catalog import resolve
from vocabkit.errors import VocabkitError
from vocabkit.export.models import llm_folder
from vocabkit.model_folders import first_line, quiet_transformers
from vocabkit.shared import SharedVocabulary
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

    @torch.no_grad()
    def rows(self, shared: SharedVocabulary) -> Tensor:
        """(V, D) its embeddings of the tokens of `shared`.

        Raises VocabkitError: `shared` has no column of this LLM, or one of other ids.
        """
        if self.vocabulary.name not in shared.names:
            raise VocabkitError(
                f"the shared vocabulary has columns of {', '.join(shared.names)}, none of {self.vocabulary.name}; "
                "name the LLM as there: NAME=SOURCE"
            )
        ids = shared.ids_for(self.vocabulary.name)
        if not np.array_equal(ids, shared.look_up(self.vocabulary)):
            raise VocabkitError(
                f"{self.source}: its tokenizer has other ids than the shared vocabulary; is it another?"
            )
        rows: Tensor = self.model.get_input_embeddings()(torch.from_numpy(ids.astype("int64")).to(self.model.device))
        return rows


def load_llm(source: str, dtype: torch.dtype = torch.float32) -> LLM:
    """The LLM that `source` names: a model folder, a GGUF, a model of the catalog or a hub id, in evaluation mode and
    without gradients. GGUF weights are dequantised to bfloat16 first.

    Raises VocabkitError: not found, damaged, or no causal language model.
    """
    with llm_folder(source) as folder, quiet_transformers():
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # whatever a damaged model makes transformers raise
            raise VocabkitError(f"{source}: transformers can't load this LLM ({first_line(error)})") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LLM(source, resolve(source).vocabulary, model.eval().requires_grad_(False), tokenizer)
