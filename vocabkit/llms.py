"""Loading the LLM that reads visual tokens."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from vocabkit.catalog import resolve, without_name
from vocabkit.data.extras import needs_extra
from vocabkit.errors import VocabkitError
from vocabkit.export.models import llm_folder
from vocabkit.files import reading
from vocabkit.model_folders import first_line, quiet_transformers
from vocabkit.shared import SharedVocabulary
from vocabkit.verification import other_ids
from vocabkit.vocabulary import Vocabulary

LORA_CONFIG = "adapter_config.json"
"""Of peft."""


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
        if self.vocabulary.name not in shared.names:
            raise VocabkitError(
                f"the shared vocabulary has columns of {', '.join(shared.names)}, none of {self.vocabulary.name}; "
                "name the LLM as there: NAME=SOURCE"
            )
        self.check_ids(shared, self.vocabulary.name)
        return torch.from_numpy(shared.ids_for(self.vocabulary.name).astype("int64")).to(self.model.device)

    @torch.no_grad()
    def rows(self, shared: SharedVocabulary) -> Tensor:
        """(V, D) its embeddings of the tokens of `shared`. Raises VocabkitError, as `ids`."""
        rows: Tensor = self.model.get_input_embeddings()(self.ids(shared))
        return rows

    def check_ids(self, shared: SharedVocabulary, name: str) -> None:
        """Raises VocabkitError: the column `name` of `shared` has other ids than its tokenizer."""
        if difference := other_ids(shared, name, self.vocabulary):
            raise VocabkitError(f"{self.source}: {difference}; is it another?")


def load_llm(source: str, dtype: torch.dtype = torch.float32) -> LLM:
    """The LLM that `source` names: a model folder, a GGUF, a model of the catalog or a hub id, in evaluation mode and
    without gradients. GGUF weights are dequantised to bfloat16 first; LoRA weights are merged into their LLM.

    Raises VocabkitError: not found, damaged, or no causal language model.
    """
    vocabulary = resolve(source).vocabulary
    with llm_folder(source) as folder, quiet_transformers():
        if (folder / LORA_CONFIG).is_file():
            model, tokenizer = _with_lora(source, folder, dtype)
        else:
            try:
                model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
                tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            except Exception as error:  # whatever a damaged model makes transformers raise
                raise VocabkitError(f"{source}: transformers can't load this LLM ({first_line(error)})") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LLM(source, vocabulary, model.eval().requires_grad_(False), tokenizer)


def _with_lora(source: str, folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The LLM that the LoRA weights in `folder` belong to, with these merged into its own."""
    with needs_extra("train", "an LLM with LoRA weights"):
        from peft import PeftModel
    with reading(folder / LORA_CONFIG):
        try:
            base = json.loads((folder / LORA_CONFIG).read_text("utf-8"))["base_model_name_or_path"]
        except (ValueError, KeyError, TypeError) as error:
            raise VocabkitError(f"{folder / LORA_CONFIG}: names no LLM that the LoRA weights belong to") from error
    if without_name(base) == str(folder):
        raise VocabkitError(f"{folder / LORA_CONFIG}: names itself as the LLM that its LoRA weights belong to")
    llm = load_llm(base, dtype)
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft about transformers
            model = PeftModel.from_pretrained(llm.model, folder).merge_and_unload()
    except Exception as error:  # whatever damaged weights make peft raise
        raise VocabkitError(f"{source}: peft can't put these LoRA weights into {base} ({first_line(error)})") from error
    return model, llm.tokenizer
