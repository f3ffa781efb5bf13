"""What LoRA weights of peft do to the embedding table of their LLM: its rows as `merge_and_unload` leaves them.

Read off peft 0.21: `tuners/lora/layer.py` (class Embedding), `tuners/lora/dora.py`, `tuners/trainable_tokens/layer.py`
and `utils/save_and_load.py` (names in the file).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vocabkit.adapter.state_dicts import own_name
from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading
from vocabkit.llm.embedding_names import embedding_module
from vocabkit.llm.weight_files import DTYPES, StoredRows, read_tensors, rows_of
from vocabkit.tokenizer.lora import LORA_CONFIG, lora_config

_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_TABLE, _BASE, _A, _B, _MAGNITUDE, _TOKENS = "weight", "base_layer.weight", "A", "B", "magnitude", "tokens"
_PARTS = {
    "weight": _TABLE,  # modules_to_save, or a table that was resized
    "base_layer.weight": _BASE,
    "token_adapter.base_layer.weight": _BASE,
    "lora_embedding_A": _A,
    "lora_embedding_B": _B,
    "lora_magnitude_vector": _MAGNITUDE,
    "lora_magnitude_vector.weight": _MAGNITUDE,
    "token_adapter.trainable_tokens_delta": _TOKENS,
    "trainable_tokens_delta": _TOKENS,
    "original_module.weight": "",  # from before the training
}
"""What stands behind the name of the module -> what it is."""
_HEAD = re.compile(r"(.*\.)?lm_head\.")
_VARIANTS = (
    "alora_invocation_tokens",
    "arrow_config",
    "monteclora_config",
    "kasa_config",
    "use_bdlora",
    "use_qalora",
    "ensure_weight_tying",
)
"""Kinds of LoRA that compute something else than A and B say, or share them with the output layer."""
_MERGE = "merge the weights (merge_and_unload of peft) and give the merged model"


def lora_file(folder: Path) -> Path:
    """Return the file of the LoRA weights in a folder of peft. Raises VocabkitError: none."""
    for name in _FILES:
        if (folder / name).is_file():
            return folder / name
    raise VocabkitError(f"{folder}: has {LORA_CONFIG}, but no {_FILES[0]} beside it; copy it there")


def changed_rows(base: StoredRows, folder: Path) -> StoredRows:
    """Return the embedding table of an LLM with the LoRA weights in `folder` merged in; `base` if they leave it as is.

    Args:
        base: the table of the LLM that they belong to.

    Raises:
        VocabkitError: damaged, weights that don't fit the table, or that change it in a way that is not known.
    """
    change = read_change(folder, base.num_rows)
    if change is None:
        return base
    if change.table is not None:
        return change.table
    base = change.base or base
    if change.a is not None:
        expected = (change.a.shape[0], base.num_rows), (base.width, change.a.shape[0])
        assert change.b is not None
        if (tuple(change.a.shape), tuple(change.b.shape)) != expected:
            raise VocabkitError(
                f"{change.file}: LoRA of {tuple(change.b.shape)} x {tuple(change.a.shape)} does not fit an embedding "
                f"table of {base.num_rows} x {base.width}; is it of this LLM?"
            )
    if change.tokens is not None:
        fits = change.tokens.shape == (len(change.indices), base.width)
        if not fits or not all(0 <= index < base.num_rows for index in change.indices):
            raise VocabkitError(
                f"{change.file}: {tuple(change.tokens.shape)} trained rows for {len(change.indices)} tokens do not fit "
                f"an embedding table of {base.num_rows} x {base.width}; is it of this LLM?"
            )
    return LoraRows(base, change)


def trained_rows(folder: Path) -> int | None:
    """Return how many rows the embedding table had when the weights in `folder` were trained, None if not told."""
    for key, shape in _shapes(_read(lora_file(folder))).items():
        split = embedding_module(key.replace(".default", ""))
        part = None if split is None else _PARTS.get(split[1])
        if part in (_TABLE, _BASE, _A) and len(shape) == 2:
            return shape[1] if part == _A else shape[0]
    return None


def unties_output(folder: Path) -> bool:
    """Whether the LoRA weights in `folder` are on the embedding table or the output layer of their LLM, and not tied.

    In training, an output layer that is tied to the table then differs from it by these weights.
    """
    keys = [own_name(key) for key in _read(lora_file(folder)) if "lora_" in key]
    on_either = any(_HEAD.match(key) or embedding_module(key) is not None for key in keys)
    return on_either and not lora_config(folder).get("ensure_weight_tying")


@dataclass(frozen=True, eq=False)
class Change:
    """What LoRA weights hold of an embedding table (V, D)."""

    file: Path
    table: StoredRows | None = None
    """(V, D), trained as a whole."""
    base: StoredRows | None = None
    """(V, D) to start from, in place of the LLM's own."""
    a: Tensor | None = None
    """(r, V) float32"""
    b: Tensor | None = None
    """(D, r) float32"""
    scaling: float = 1.0
    magnitude: Tensor | None = None
    """(D,) float32: of DoRA, the length of each column."""
    tokens: Tensor | None = None
    """(T, D): rows that were trained."""
    indices: tuple[int, ...] = ()
    """Their T ids."""


def read_change(folder: Path, num_rows: int) -> Change | None:
    """Return what the LoRA weights in `folder` hold of the embedding table of their LLM, None if nothing.

    Args:
        num_rows: of the table, by which weights under other names than usual are noticed.

    Raises VocabkitError: see `changed_rows`.
    """
    file, config = lora_file(folder), lora_config(folder)
    tensors = _read(file)
    found: dict[str, str] = {}
    modules: set[str] = set()
    for key, shape in _shapes(tensors).items():
        split = embedding_module(key.replace(".default", ""))
        part = None if split is None else _PARTS.get(split[1])
        if split is not None and part == "":
            continue
        if split is None or part is None:
            if split is not None or (num_rows in shape and not _HEAD.match(own_name(key))):
                raise VocabkitError(f"{file}: {quote(key)} may change the embedding table in an unknown way; {_MERGE}")
            continue
        modules.add(split[0])
        if part in found and torch.equal(tensors[found[part]], tensors[key]):  # peft saves a resized table twice
            continue
        if part in found or len(modules) > 1:
            raise VocabkitError(f"{file}: two embedding tables, with {quote(found.get(part, ''))} and {quote(key)}")
        found[part] = key
    if not found:
        if config.get("ensure_weight_tying") and any(_HEAD.match(own_name(key)) for key in tensors):
            raise VocabkitError(f"{file}: trains an output layer with embeddings tied to it; {_MERGE}")
        return None
    if found.keys() - {_BASE} not in ({_TABLE}, {_A, _B}, {_A, _B, _MAGNITUDE}, {_TOKENS}):
        raise VocabkitError(f"{file}: has {', '.join(sorted(map(quote, found.values())))}: an unknown change; {_MERGE}")
    module = modules.pop()
    scaling, indices = 1.0, tuple[int, ...]()
    if _A in found:
        _refuse_variants(file, config)
        scaling = _scaling(file, config, module, tensors[found[_A]].shape[0])
    if _TOKENS in found:
        indices = _indices(file, config, module)

    def rows(part: str) -> StoredRows | None:
        return rows_of(tensors, found[part], file) if part in found else None

    def numbers(part: str, ndim: int) -> Tensor | None:
        return _numbers(file, found[part], tensors[found[part]], ndim) if part in found else None

    return Change(
        file, rows(_TABLE), rows(_BASE), numbers(_A, 2), numbers(_B, 2), scaling, numbers(_MAGNITUDE, 1),
        numbers(_TOKENS, 2), indices,
    )  # fmt: skip


def _numbers(file: Path, key: str, tensor: Tensor, ndim: int) -> Tensor:
    if tensor.ndim != ndim or tensor.dtype not in DTYPES.values():
        raise VocabkitError(f"{file}: {quote(key)} is {tensor.dtype} of shape {tuple(tensor.shape)}; it is damaged")
    return tensor.float()  # as peft loads them


def _refuse_variants(file: Path, config: Mapping[str, Any]) -> None:
    given = [name for name in _VARIANTS if config.get(name)]
    if config.get("peft_type") != "LORA":
        given.append(f"peft_type {config.get('peft_type')}")
    if given:
        raise VocabkitError(f"{file}: LoRA on the embedding table with {quote(given[0])} is not known; {_MERGE}")


def _scaling(file: Path, config: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = config.get("lora_alpha")
    patterns = config.get("alpha_pattern") or {}
    if isinstance(patterns, dict):
        try:
            alpha = next((each for key, each in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), alpha)
        except re.error:
            alpha = None
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha) or not rank:
        raise VocabkitError(f"{file}: its {LORA_CONFIG} has no number for lora_alpha")
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _indices(file: Path, config: Mapping[str, Any], module: str) -> tuple[int, ...]:
    given = config.get("trainable_token_indices", config.get("token_indices"))
    if isinstance(given, dict):
        given = next((ids for name, ids in given.items() if f".{module}".endswith(f".{name}")), None)
    if not isinstance(given, list) or not all(type(index) is int for index in given):
        raise VocabkitError(f"{file}: its {LORA_CONFIG} does not say which tokens were trained")
    return tuple(given)


def _read(file: Path) -> Mapping[str, Any]:
    """The tensors of LoRA weights. Files of safetensors are memory-mapped."""
    if file.suffix != ".safetensors":
        return read_tensors(file)
    with reading(file):
        try:
            with safe_open(file, "pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise VocabkitError(f"{file}: damaged ({quote(str(error), 80)}); copy it again") from error


def _shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) if isinstance(tensor, Tensor) else () for key, tensor in tensors.items()}


@dataclass(frozen=True, eq=False)
class LoraRows:
    """Rows of an embedding table with LoRA weights merged in, with the dtypes and the order of operations of peft."""

    base: StoredRows
    change: Change
    _factors: dict[torch.dtype, Tensor] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return self.base.num_rows

    @property
    def width(self) -> int:
        return self.base.width

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def rounding(self) -> float:
        """See `GGUFRows`; 0 for a table that is not quantised."""
        return getattr(self.base, "rounding", 0.0)

    def read_into(self, ids: np.ndarray, into: Tensor, places: np.ndarray) -> None:
        self.base.read_into(ids, into, places)
        where, rows = torch.from_numpy(places), torch.from_numpy(ids)
        if self.change.tokens is not None:
            row_of = {index: row for row, index in enumerate(self.change.indices)}
            for place, index in zip(places.tolist(), ids.tolist(), strict=True):
                if index in row_of:
                    into[place] = self.change.tokens[row_of[index]].to(into.dtype)
        elif self.change.magnitude is not None:
            merged = self._factor(into.dtype) * (into[where] + self.delta[rows])
            into.index_copy_(0, where, merged.to(into.dtype))
        elif self.change.a is not None:
            into.index_copy_(0, where, into[where] + self.delta[rows].to(into.dtype))

    @cached_property
    def delta(self) -> Tensor:
        """(V, D) float32, computed at once as peft does: rows of a smaller product may differ in their last bits."""
        assert self.change.a is not None
        assert self.change.b is not None
        return (self.change.b @ self.change.a).T * self.change.scaling  # (D, r) @ (r, V) -> (V, D)

    def _factor(self, dtype: torch.dtype) -> Tensor:
        """(1, D): of DoRA, what each column is multiplied by, from the whole table in `dtype`."""
        if dtype not in self._factors:
            assert self.change.magnitude is not None
            table = torch.empty(self.num_rows, self.width, dtype=dtype)
            every = np.arange(self.num_rows)
            self.base.read_into(every, table, every)
            norms = torch.linalg.norm(table.T + 1 * self.delta.T, dim=1)  # (D,)
            self._factors[dtype] = (self.change.magnitude / norms).view(1, -1)
        return self._factors[dtype]
