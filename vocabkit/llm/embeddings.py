"""Embedding tables of LLMs: the rows that a model puts in for its token ids, its multiplier included.

What each family multiplies its embeddings by, and how it rounds that, is read off transformers 5.23
(`models/*/modeling_*.py`) and the published remote code of MiniCPM. There are three habits:

- Inside the embedding module: the factor is rounded to the dtype of the weights (Gemma, MiniCPM3), or not (Bart).
- In `forward`, but only for ids that it looked up itself (MiniCPM, Falcon-H1): a caller with `inputs_embeds` must have
  multiplied already, so rows are multiplied here.
- In `forward`, for any input (Granite): rows must not be multiplied here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vocabkit.adapter.spelled import compose
from vocabkit.errors import VocabkitError, quote
from vocabkit.files.progress import Progress, no_progress
from vocabkit.hub import hub_id
from vocabkit.llm.devices import one_thread
from vocabkit.llm.language_model import LanguageModel, from_gguf, read_config
from vocabkit.llm.lora_rows import changed_rows
from vocabkit.llm.weight_files import WEIGHTS, StoredRows, open_weights, weights_file
from vocabkit.shared.shared_vocabulary import Spellings
from vocabkit.tokenizer.catalog import catalog, without_name
from vocabkit.tokenizer.lora import LORA_CONFIG, is_lora, lora_base
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary


def open_embeddings(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    embedding_tensor: str | None = None,
    progress: Progress = no_progress,
) -> EmbeddingTable:
    """Open the embedding table of an LLM. Reads headers only; from a hub repository, downloads the table's bytes once.

    Args:
        source: a model folder, a folder of LoRA weights (whose LLM is opened, with what they change of its table), a
            file (`.safetensors`, `.gguf`, `.bin` or `.pt` of torch.save, or the `.index.json` of several), or a hub id
            `owner/name` or `owner/name@revision`. An existing path takes precedence. All but GGUF need the model's
            config.json beside them.
        dtype: in which the model runs, if not its own (that of config.json, float32 for a GGUF).
        embedding_tensor: the name of the table in the file, if it isn't found by itself. The config still says how the
            model multiplies its rows.
        progress: counts the bytes of a download.

    Raises:
        VocabkitError: not found, damaged, no embedding table or several, an unsupported quantisation, or a family that
            may scale its embeddings in an unknown way.
    """
    return _table(*_open(source, embedding_tensor, progress), dtype)


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """Input embeddings of an LLM, left on disk. Made by `open_embeddings`."""

    source: str
    """The file or repository, without machine-specific paths."""
    dtype: torch.dtype
    """The dtype that the model runs in, and of `rows`."""
    stored: StoredRows
    scale: Scale | None
    """The factor that the model multiplies its embeddings by, if any."""
    encoder: str | None = None
    """The family of an encoder-only model such as BERT, which can't generate text; None for an LLM."""

    @property
    def num_rows(self) -> int:
        """Rows of the table. May exceed the tokenizer's size (padding rows)."""
        return self.stored.num_rows

    @property
    def width(self) -> int:
        """D, the LLM's hidden size."""
        return self.stored.width

    @property
    def rounding(self) -> float:
        """See `LLMInfo`: the relative error of quantised rows; 0 for any other."""
        return getattr(self.stored, "rounding", 0.0)

    def stored_rows(self, ids: np.ndarray) -> Tensor:
        """Return (R, D) in the dtype of the file: rows of ascending ids as they are stored, without the multiplier."""
        rows = torch.empty(len(ids), self.width, dtype=self.stored.dtype)
        self.stored.read_into(ids, rows, np.arange(len(ids)))
        return rows

    def rows(self, ids: np.ndarray | Tensor | Sequence[int], *, tokens: Vocabulary | None = None) -> Tensor:
        """Return (R, D) in `dtype`: the rows of these ids as the LLM takes them in `inputs_embeds`.

        Bit for bit the model's own `get_input_embeddings()(ids)`, with its multiplier and its rounding; also with the
        multiplier of models that apply it only to ids that they looked up themselves (MiniCPM, Falcon-H1).

        Args:
            ids: (R,) integers, in any order, repeated or not.
            tokens: the LLM's vocabulary; ids that are not its tokens are then refused, as rows beyond it are padding.

        Raises:
            VocabkitError: an id that is negative, beyond the rows or not a token, or whose row is NaN or infinite.
        """
        return self.rows_and_norms(ids, tokens=tokens)[0]

    def composed(self, spellings: Spellings, *, tokens: Vocabulary | None = None) -> tuple[Tensor, Tensor]:
        """Return (V, D) in `dtype`, the rows of V_shared that are spelled so (see `compose`), and their norms (V,).

        Raises VocabkitError: as `rows`.
        """
        embeddings, norms = self.rows_and_norms(spellings.ids, tokens=tokens)
        rows = compose(embeddings, spellings)
        return rows, norms if rows is embeddings else rows.float().norm(dim=1)

    @one_thread()
    def rows_and_norms(
        self, ids: np.ndarray | Tensor | Sequence[int], *, tokens: Vocabulary | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return `rows` and their Euclidean norms (R,) in float32, which the check for NaN computes anyway."""
        wanted = np.asarray(ids)
        if wanted.ndim != 1 or not (np.issubdtype(wanted.dtype, np.integer) or not wanted.size):
            raise VocabkitError(f"token ids are {wanted.dtype} of shape {wanted.shape}; expected integers (R,)")
        wanted = wanted.astype(np.int64)
        self._check(wanted, tokens)
        if not len(wanted):
            return torch.empty(0, self.width, dtype=self.dtype), torch.empty(0)
        # numpy asks Linux for pages of 2 MB, torch does not: filling them takes a quarter of the time
        memory = np.empty((len(wanted), self.width), f"i{self.dtype.itemsize}")
        result = torch.from_numpy(memory).view(self.dtype)
        norms = torch.empty(len(wanted))
        order, step = np.argsort(wanted, kind="stable"), max(1, _CHUNK // (self.width * self.dtype.itemsize))
        block = torch.empty(min(step, len(order)), self.width, dtype=self.dtype)
        for start in range(0, len(order), step):
            places = order[start : start + step]
            in_a_row = bool((np.diff(places) == 1).all())
            rows = result[places[0] : places[-1] + 1] if in_a_row else block[: len(places)]  # (P, D)
            self.stored.read_into(wanted[places], rows, np.arange(len(places)))
            if self.scale is not None:
                self.scale.apply_(rows)
            norms.numpy()[places] = self._norms(rows, wanted[places])
            if not in_a_row:
                _bytes(result)[places] = _bytes(rows)  # three times as fast as torch's index_copy_
        return result, norms

    def _norms(self, rows: Tensor, ids: np.ndarray) -> np.ndarray:
        """(P, D) -> (P,) norms. Raises VocabkitError: a row that is not finite."""
        wide = torch.promote_types(self.dtype, torch.float32)
        norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=wide)
        if not norms.isfinite().all():
            bad = int(ids[int((~norms.isfinite()).nonzero()[0])])
            raise VocabkitError(f"{self.source}: row {bad} holds NaN or infinite numbers; the file is damaged")
        return norms.float().numpy()

    def _check(self, ids: np.ndarray, tokens: Vocabulary | None) -> None:
        outside = (ids < 0) | (ids >= self.num_rows)
        if outside.any():
            raise VocabkitError(
                f"{self.source}: token id {ids[outside][0]} is outside its {self.num_rows} rows; "
                "are tokenizer and weights of the same model?"
            )
        if tokens is None:
            return
        padding = ids >= len(tokens)
        if padding.any():
            raise VocabkitError(
                f"{self.source}: row {ids[padding][0]} is padding: {tokens.name} has only {len(tokens)} tokens"
            )
        unused = tokens.kinds[ids] == Kind.UNUSED
        if unused.any():
            raise VocabkitError(
                f"{self.source}: id {ids[unused][0]} is not a token of {tokens.name}: reserved, or a hole"
            )


_CHUNK = 1 << 20
"""Bytes of the result per step: few enough to stay in the CPU cache from reading to checking."""


def _open(
    source: str | Path, wanted: str | None, progress: Progress, above: tuple[Path, ...] = ()
) -> tuple[LanguageModel, StoredRows, str]:
    """The model, its table and where that is. LoRA folders that led here are `above`."""
    path = Path(source).expanduser()
    if path.is_dir() and is_lora(path):
        return _open_lora(path, wanted, progress, above)
    if path.exists():
        return _open_local(path, wanted)
    found = hub_id(str(source))
    if found is None or isinstance(source, Path) or path.suffix in WEIGHTS:
        raise VocabkitError(
            f"{quote(str(source), 200)}: not found: not a folder, a weights file or a hub id (owner/name)"
        )
    from vocabkit.llm.remote import open_hub

    return open_hub(found, progress, wanted)


def _open_lora(
    folder: Path, wanted: str | None, progress: Progress, above: tuple[Path, ...]
) -> tuple[LanguageModel, StoredRows, str]:
    name = without_name(lora_base(folder))
    entry = catalog().get(name.lower())
    base = name if entry is None or entry.hub is None or Path(name).exists() else entry.hub
    if any(Path(base).exists() and Path(base).samefile(other) for other in (*above, folder)):
        raise VocabkitError(
            f"{folder / LORA_CONFIG}: names {base}, LoRA weights that lead back here; name the LLM itself in it"
        )
    try:
        model, rows, source = _open(base, wanted, progress, (*above, folder))
    except VocabkitError as error:
        raise VocabkitError(f"{error} (the LLM that {folder / LORA_CONFIG} names)") from error
    changed = changed_rows(rows, folder)
    return model, changed, source if changed is rows else f"{source} with {folder.resolve().name}"


def _open_local(path: Path, wanted: str | None) -> tuple[LanguageModel, StoredRows, str]:
    file = weights_file(path) if path.is_dir() else path
    source = f"{file.parent.resolve().name}/{file.name}"
    if file.suffix == ".gguf":
        from vocabkit.llm.gguf_rows import open_gguf

        metadata, rows = open_gguf(file, wanted)
        return from_gguf(str(file), metadata), rows, source
    model = read_config(file.parent / "config.json")
    return model, open_weights(file, model, wanted), source


def _table(model: LanguageModel, stored: StoredRows, source: str, dtype: torch.dtype | None) -> EmbeddingTable:
    encoder = model.family if model.is_encoder else None
    return EmbeddingTable(source, dtype or model.dtype or stored.dtype, stored, scale_of(model, stored.width), encoder)


def _bytes(rows: Tensor) -> np.ndarray:
    """View rows as (P, bytes of a row) uint8, in the same memory."""
    return rows.view(torch.uint8).numpy()


@dataclass(frozen=True)
class Scale:
    """A factor on embedding rows, and how it is rounded."""

    factor: float
    rounded: bool
    """Whether the factor is rounded to the dtype of the rows before it is multiplied."""

    def apply_(self, rows: Tensor) -> None:
        """Multiply (R, D) rows in place."""
        rows.mul_(torch.tensor(self.factor).to(rows.dtype) if self.rounded else self.factor)


def scale_of(model: LanguageModel, width: int) -> Scale | None:
    """Return what `model` multiplies its embeddings (V, `width`) by, if anything.

    Raises VocabkitError: a family that does more than multiply, an unknown family whose config mentions a multiplier,
    or a factor that is not a number.
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
    return value is True or value not in _HARMLESS  # True == 1, but a switch that is on multiplies by something


_SQRT_WIDTH = {
    "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "gemma4_unified",
    "gemma4_unified_text", "gemma_embedding", "diffusion_gemma", "diffusion_gemma_text", "embedding_gemma2",
    "embedding_gemma2_text", "vaultgemma",
}  # fmt: skip
"""Families that multiply by sqrt(D), rounded."""
_CONFIGURED = {
    "minicpm": ("scale_emb", False), "minicpmv": ("scale_emb", False), "minicpmo": ("scale_emb", False),
    "minicpm3": ("scale_emb", True), "falcon_h1": ("embedding_multiplier", False),
}  # fmt: skip
"""Families that multiply by a number of their config: its key, and whether it is rounded."""
_SQRT_WIDTH_IF_SET = {
    "bart", "bigbird_pegasus", "biogpt", "blenderbot", "mbart", "mvp", "plbart", "trocr", "xglm",
}  # fmt: skip
"""Families that multiply by sqrt(D), not rounded, if the config has `scale_embedding`."""
_IN_FORWARD = {
    "afmoe", "blenderbot-small", "granite", "granite_swa", "granite4_vision_text", "granite_docling_text", "granitemoe",
    "granitemoe_swa", "granitemoehybrid", "granitemoeshared", "hrm_text", "hyperclovax", "marian", "pegasus",
    "recurrent_gemma", "whisper",
}  # fmt: skip
"""Families that multiply any input later, in `forward`."""
_OTHERWISE = {
    "inkling_text", "inkling_mm_model", "inkling2", "inkling2_text", "muse_glimmer", "muse_glimmer_text", "muse_spark",
    "muse_spark_text", "t5gemma2", "t5gemma2_text", "t5gemma2_encoder", "t5gemma2_decoder",
}  # fmt: skip
"""Families that do more than multiply: a norm, or a row that is a parameter of its own."""
_SUSPICIOUS = re.compile(r"emb\w*(scal|mult)|scal\w*_emb|mult\w*_emb|mup_enabled")
_HARMLESS = (None, False, 0, 1)
