"""What config.json, or the metadata of a GGUF, says about the language model of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vocabkit.errors import VocabkitError, quote
from vocabkit.files.records import decode_json

_INNER = ("text_config", "llm_config", "language_config", "thinker_config")
"""Keys under which the config of a multimodal model keeps that of its language model."""
_ENCODERS = {
    "big_bird", "data2vec-text", "electra", "ernie", "esm", "fnet", "funnel", "gte", "longformer", "luke", "mpnet",
    "mra", "nystromformer", "roformer", "t5encoder", "xlm", "xmod", "yoso",
}  # fmt: skip
"""Encoder families without `bert` in their name, of transformers and GGUF."""
_DTYPES = {
    "float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64,
    "auto": None, None: None,
}  # fmt: skip


@dataclass(frozen=True)
class LanguageModel:
    """The language model of a checkpoint."""

    file: str
    """The config file, for messages."""
    family: str
    """Its model_type in transformers."""
    values: Mapping[str, Any]
    """Its own part of the config."""
    dtype: torch.dtype | None
    """The dtype that the model runs in; None for that of the weights."""
    tied: bool
    """Whether the output layer is the embedding table."""

    @property
    def is_encoder(self) -> bool:
        """Whether it is encoder-only, as BERT: it can't generate text from visual tokens."""
        if self.values.get("is_decoder") is True or "decoder" in self.family:
            return False
        heads = self.values.get("architectures")
        masked = isinstance(heads, list) and any(str(name).endswith("ForMaskedLM") for name in heads)
        return masked or "bert" in self.family or self.family in _ENCODERS


def read_config(path: Path) -> LanguageModel:
    """Read a config.json.

    Raises VocabkitError: missing or damaged, no model type, or an unknown dtype.
    """
    if not path.is_file():
        raise VocabkitError(
            f"{path}: no such file; weights are read together with the model's config.json, which says how its "
            "embeddings are multiplied"
        )
    config = decode_json(path, dict[str, Any], "a model's config.json")
    inner = config
    while (key := next((key for key in _INNER if isinstance(inner.get(key), dict)), None)) is not None:
        inner = inner[key]
    family = inner.get("model_type", config.get("model_type"))
    if not isinstance(family, str):
        raise VocabkitError(f"{path}: no model_type in it; expected the config.json of an LLM")
    dtype = config.get("dtype", config.get("torch_dtype"))
    if not isinstance(dtype, str | None) or dtype not in _DTYPES:
        raise VocabkitError(f"{path}: dtype {quote(str(dtype))} is not one of {', '.join(filter(None, _DTYPES))}")
    tied = inner.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    return LanguageModel(str(path), family, inner, _DTYPES[dtype], tied is True)


def from_gguf(file: str, metadata: Mapping[str, Any]) -> LanguageModel:
    """Describe the language model of a GGUF file, which transformers loads in float32.

    llama.cpp's converter leaves embeddings unmultiplied and stores the factor, with two exceptions: it multiplies
    those of Falcon-H1 itself, and the factor of MiniCPM3 is built in.

    Raises VocabkitError: no architecture, or MiniCPM without its factor.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise VocabkitError(f"{file}: GGUF without an architecture; expected one of an LLM")
    scale = metadata.get(f"{architecture}.embedding_scale")
    values: dict[str, Any] = {}
    match architecture:
        case "minicpm":
            if scale is None:
                raise VocabkitError(
                    f"{file}: no minicpm.embedding_scale in it; convert the model with a newer llama.cpp"
                )
            values = {"scale_emb": scale}
        case "minicpm3":
            values = {"scale_emb": 12}
        case "granitehybrid" | "graniteswitch":
            architecture = "granite"
        case _ if scale is not None:
            values = {"embedding_scale": scale}
    return LanguageModel(file, architecture.replace("-", "_"), values, torch.float32, tied=True)
