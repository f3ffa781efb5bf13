"""Which tensor is the embedding table: told by its name, else by its role and size, else by the user. Never guessed."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from vocabkit.adapter.state_dicts import own_name
from vocabkit.errors import VocabkitError, quote
from vocabkit.llm.language_model import LanguageModel

ShapeOf = Callable[[str], Sequence[int] | None]
"""Name of a tensor -> its shape, None if unknown. May read a header of a shard."""

_PREFIXES = (
    r"(?:(?:model|transformer|language_model|language|lang_model|vlm|llm|lm|text_model|text|thinker|base_model|backbone"
    r"|decoder|embedding|embeddings|embd|rwkv|gpt_neox|gpt_neox_japanese|biogpt|cpmant)\.)*"
)
"""Wrappers of language models. Towers of other modalities, further prediction heads
(`model.layers.61.embed_tokens.weight`) and position embeddings have other names."""
_EMBEDDINGS = re.compile(
    _PREFIXES
    + r"(?:embed_tokens|wte|embed_in|word_embeddings?|tok_embeddings|token_embeddings|tokens_embed|embeddings?"
    r"|input_embedding|in_out_embed)(?:\.weight|\.embedding)"
    r"|(?:model\.)?text\.wte"  # moondream: a parameter without a module
    r"|layers\.0\.wte\.weight"  # Phi-1.5 as first published: a Sequential
)
_OUTPUT = re.compile(_PREFIXES + r"lm_head\.weight")
_ALIKE = re.compile(r"emb|wte|\bshared\b", re.IGNORECASE)
_PER_TOKEN = re.compile(r"emb|wte|shared|head|tok|vocab|out", re.IGNORECASE)
"""Names that a tensor with one row per token may have."""
_LISTED = 5


def embedding_name(
    names: Collection[str],
    model: LanguageModel,
    where: str,
    shape_of: ShapeOf = lambda name: None,
    wanted: str | None = None,
) -> str:
    """Find the name of the embedding table among the `names` of all tensors, as it stands in the file.

    By the names of all families; else the only tensor that is named like embeddings and has the size in the config.

    Args:
        wanted: the name that the user gives it, as in the file or without wrappers.

    Raises VocabkitError: no match, or several, with the closest names.
    """
    if wanted is not None:
        return _named(names, model, where, shape_of, wanted)
    found = sorted(name for name in names if _EMBEDDINGS.fullmatch(own_name(name)))
    if not found and model.tied:
        found = sorted(name for name in names if _OUTPUT.fullmatch(own_name(name)))
    if not found:
        _refuse_lora(names, where)
        found = sorted(
            name for name in names if _ALIKE.search(_module(name)) and _is_table(_shape(shape_of, name), model)
        )
    if len(found) == 1:
        return found[0]
    near = found or sorted(filter(_ALIKE.search, names)) or sorted(names)
    problem = "several tensors look like" if found else "no tensor is named like"
    raise VocabkitError(
        f"{where}: {problem} the embedding table of a model of type {model.family} (it has {_listed(near) or 'none'}); "
        "name it: `embedding_tensor`"
    )


def embedding_module(key: str) -> tuple[str, str] | None:
    """Split the name of a tensor at or below an embedding table into its module and the rest; None for others.

    `base_model.model.model.embed_tokens.lora_embedding_A` is (`model.embed_tokens`, `lora_embedding_A`).
    """
    parts = own_name(key).split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        if _EMBEDDINGS.fullmatch(f"{module}.weight"):
            return module, ".".join(parts[end:])
    return None


def _module(name: str) -> str:
    """The last two parts of a name: the module and its parameter."""
    return ".".join(own_name(name).split(".")[-2:])


def _shape(shape_of: ShapeOf, name: str) -> Sequence[int] | None:
    """The shape of a tensor, None as well where its shard can't be read: this one need not be the table's."""
    try:
        return shape_of(name)
    except VocabkitError:
        return None


def _is_table(shape: Sequence[int] | None, model: LanguageModel) -> bool:
    """Whether a tensor has a row for each token, and a width that the config mentions."""
    numbers = [value for value in model.values.values() if type(value) is int]
    return shape is not None and len(shape) == 2 and shape[0] in _heights(model) and shape[1] in numbers


def _heights(model: LanguageModel | None) -> set[int]:
    values = {} if model is None else model.values
    return {value for key, value in values.items() if "vocab" in key and type(value) is int}


def _named(names: Collection[str], model: LanguageModel, where: str, shape_of: ShapeOf, wanted: str) -> str:
    found = [name for name in names if name == wanted] or [name for name in names if own_name(name) == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        raise VocabkitError(f"{where}: {quote(wanted)} may be {_listed(sorted(found))}; give the whole name")
    raise VocabkitError(f"{where}: no tensor {quote(wanted)} in it; {near_names(names, model, shape_of)}")


def near_names(names: Collection[str], model: LanguageModel | None, shape_of: ShapeOf) -> str:
    """Say which tensors have one row per token: as high as the config says, or without a config the highest."""
    heights = _heights(model)
    likely = [name for name in names if _PER_TOKEN.search(_module(name))] if heights else []
    found: dict[str, tuple[int, ...]] = {}
    for pool in (likely, names):  # the shape of each may be one more file to open
        shapes = {name: tuple(shape) for name in pool if (shape := _shape(shape_of, name)) and len(shape) == 2}
        wanted = heights or {max((shape[0] for shape in shapes.values()), default=0)}
        found = {name: shape for name, shape in shapes.items() if shape[0] in wanted}
        if found:
            break
    near = [f"{name} ({rows} x {width})" for name, (rows, width) in sorted(found.items())]
    what = " or ".join(map(str, sorted({shape[0] for shape in found.values()} or heights)))
    return f"tensors of {what} rows are {_listed(near)}" if near else f"no matrix has {what or 'any'} rows"


def _refuse_lora(names: Collection[str], where: str) -> None:
    for name in names:
        split = embedding_module(name)
        if split is not None and split[1] == "base_layer.weight":
            raise VocabkitError(
                f"{where}: {quote(name)} has LoRA weights beside it; merge them (merge_and_unload of peft), or "
                "give the folder that peft saved"
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(quote, names[:_LISTED])) + (", …" if len(names) > _LISTED else "")
