"""What each model family multiplies its embeddings by, and how it rounds that.

Read off transformers 5.23 (`models/*/modeling_*.py`) and the published remote code of MiniCPM. Three habits exist:

- Inside the embedding module: the factor is rounded to the dtype of the weights (Gemma, MiniCPM3), or it is not (Bart).
- In `forward`, but only where it looked the ids up itself (MiniCPM, Falcon-H1): whoever hands in `inputs_embeds` must
  have multiplied already, so rows are multiplied here.
- In `forward`, whatever came in (Granite): rows must not be multiplied here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from vocabkit.embeddings.language_model import LanguageModel
from vocabkit.errors import VocabkitError, quote


@dataclass(frozen=True)
class Scale:
    """A factor on embedding rows."""

    factor: float
    rounded: bool
    """Whether the factor is rounded to the dtype of the rows before it is multiplied."""

    def apply_(self, rows: Tensor) -> None:
        """Multiply (R, D) rows in place."""
        rows.mul_(torch.tensor(self.factor).to(rows.dtype) if self.rounded else self.factor)


_SQRT_WIDTH = {
    "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "gemma4_unified",
    "gemma4_unified_text", "gemma_embedding", "diffusion_gemma", "diffusion_gemma_text", "embedding_gemma2",
    "embedding_gemma2_text", "vaultgemma",
}  # fmt: skip
"""Multiply by sqrt(D), rounded."""
_CONFIGURED = {
    "minicpm": ("scale_emb", False), "minicpmv": ("scale_emb", False), "minicpmo": ("scale_emb", False),
    "minicpm3": ("scale_emb", True), "falcon_h1": ("embedding_multiplier", False),
}  # fmt: skip
"""Multiply by a number of their config: its key, and whether it is rounded."""
_SQRT_WIDTH_IF_SET = {
    "bart", "bigbird_pegasus", "biogpt", "blenderbot", "mbart", "mvp", "plbart", "trocr", "xglm",
}  # fmt: skip
"""Multiply by sqrt(D), not rounded, where the config has `scale_embedding`."""
_IN_FORWARD = {
    "afmoe", "blenderbot-small", "granite", "granite_swa", "granite4_vision_text", "granite_docling_text", "granitemoe",
    "granitemoe_swa", "granitemoehybrid", "granitemoeshared", "hrm_text", "hyperclovax", "marian", "pegasus",
    "recurrent_gemma", "whisper",
}  # fmt: skip
"""Multiply whatever comes in, later."""
_OTHERWISE = {
    "inkling_text", "inkling_mm_model", "inkling2", "inkling2_text", "muse_glimmer", "muse_glimmer_text", "muse_spark",
    "muse_spark_text", "t5gemma2", "t5gemma2_text", "t5gemma2_encoder", "t5gemma2_decoder",
}  # fmt: skip
"""Do more to their embeddings than multiply them: a norm, or a row that is a parameter of its own."""
_SUSPICIOUS = re.compile(r"emb\w*(scale|mult)|scal\w*_emb|mult\w*_emb|mup_enabled")
_HARMLESS = (None, False, 0, 1)


def scale_of(model: LanguageModel, width: int) -> Scale | None:
    """What the embeddings (V, `width`) of `model` are multiplied by; None for nothing.

    Raises VocabkitError: a family whose embeddings are not only multiplied, or one that is not known here but whose
    config speaks of a multiplier; a factor that is no number.
    """
    family, values = model.family, model.values
    if family in _SQRT_WIDTH:
        return Scale(width**0.5, rounded=True)
    if family in _CONFIGURED:
        key, rounded = _CONFIGURED[family]
        return _scale(model, key, values.get(key, 1), rounded)
    if family in _SQRT_WIDTH_IF_SET:
        if "scale_embedding" not in values:
            raise VocabkitError(f"{model.file}: doesn't say `scale_embedding`, which a model of type {family} needs")
        return Scale(math.sqrt(width), rounded=False) if values["scale_embedding"] else None
    if family in _IN_FORWARD:
        return None
    if family in _OTHERWISE:
        raise VocabkitError(
            f"{model.file}: a model of type {family} does more to its embeddings than multiply; not supported"
        )
    found = [key for key in sorted(values) if _SUSPICIOUS.search(key) and "pos" not in key and _counts(values[key])]
    if found or "gemma" in family:
        reason = (
            f"its {quote(found[0])} may multiply embeddings" if found else "families of this name multiply embeddings"
        )
        raise VocabkitError(f"{model.file}: model type {quote(family)} is not known and {reason}; not supported")
    return None


def _scale(model: LanguageModel, key: str, factor: object, rounded: bool) -> Scale | None:
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not math.isfinite(factor):
        raise VocabkitError(f"{model.file}: {key} is {quote(str(factor))}, expected a number")
    return Scale(float(factor), rounded) if factor != 1 else None


def _counts(value: object) -> bool:
    return value not in _HARMLESS
