"""Scores that a vision model itself gives to names, as linear functions of a patch: a head without any training.

Sizes: L names, Dv width of the features, n patches, d width of a space that pictures and text share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vocabkit.adapter.space_maps import penalised
from vocabkit.errors import VocabkitError
from vocabkit.llm.load import first_line, model_folder, quiet_transformers
from vocabkit.vision.efficientnet_lite import NAME, classifier

PROMPT = "a photo of a {}."
"""How CLIP's authors put the names of classes."""
_PENALTY = 1e-3
"""Of ridge, in units of the mean variance of a feature."""
_BATCH = 256
"""Texts at a time."""


def label_scores(
    source: str, layer: int | None, names: Sequence[str], patches: Tensor, *, file: str = "names"
) -> tuple[Tensor, Tensor]:
    """Return (L, Dv) and (L,): the scores of the names are weight x + bias for a patch x.

    Of EfficientNet-Lite0 they are those of its classifier, exactly. Of a model with a text encoder (CLIP, SigLIP) they
    are its scaled similarities with the names, of each patch as if it were the whole picture: what comes after the
    features (norms, SigLIP's pooling) is made linear by least squares on `patches`.

    Args:
        source, layer: the vision model, as for `open_vision`, and the hidden states that features are taken from.
        names: those of the classes in their order; for a text encoder any names.
        patches: (n, Dv) some features of pictures.
        file: where the names are from, for messages.

    Raises VocabkitError: not as many names as classes, neither a classifier nor a text encoder, or features of other
    hidden states than the last ones.
    """
    if source == NAME:
        weight, bias = classifier()
        if len(names) != len(bias):
            raise VocabkitError(
                f"{file}: has {len(names):,} names, but {source} {len(bias):,} classes; name each in its order"
            )
        return weight, bias
    with quiet_transformers():
        model, tokenizer = _with_text(source)
        layers = model.config.vision_config.num_hidden_layers
        if layer not in (-1, layers):
            raise VocabkitError(
                f"{source}: text goes with its last hidden states; take features of layer -1, not {layer}"
            )
        with torch.no_grad():
            seen = _in_common_space(model, patches.float())  # (n, d)
            parts = [_texts(model, tokenizer, names[start : start + _BATCH]) for start in range(0, len(names), _BATCH)]
            texts = torch.cat(parts) * model.logit_scale.exp()  # (L, d)
    fitted = penalised(patches.double(), seen.double(), _PENALTY)  # (n, Dv) -> (n, d)
    return (texts.double() @ fitted.weight.T).float(), (texts.double() @ fitted.bias).float()


def head_scores(weight: Tensor, bias: Tensor, rows: Sequence[int | None], count: int) -> tuple[Tensor, Tensor]:
    """Scores of names -> those of the V rows of a head, (V, Dv) and (V,).

    Names with the same row are averaged. Scores are centred, which a softmax does not notice; rows without a name score
    -log V, so that all of them together weigh no more than one average name.

    Args:
        rows: the row of each name; None for those that have none.
        count: V.
    """
    named = torch.tensor([number for number, row in enumerate(rows) if row is not None])
    places = torch.tensor([row for row in rows if row is not None])
    share = torch.bincount(places, minlength=count)[places].reciprocal()
    weight, bias = weight[named] - weight[named].mean(dim=0), bias[named] - bias[named].mean()
    of_rows = weight.new_zeros(count, weight.shape[1]).index_add_(0, places, weight * share[:, None])
    offsets = bias.new_full((count,), -math.log(count)).index_fill_(0, places, 0).index_add_(0, places, bias * share)
    return of_rows, offsets


def _with_text(source: str) -> tuple[Any, Any]:
    """Load a CLIP or SigLIP with its tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    folder: Path = model_folder(source)
    try:
        model = AutoModel.from_pretrained(folder, trust_remote_code=False)
        has_text = hasattr(model, "logit_scale") and hasattr(model, "get_text_features")
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False) if has_text else None
    except (OSError, ValueError, RuntimeError) as error:
        raise VocabkitError(f"{source}: its text encoder can't be loaded ({first_line(error)})") from error
    if not has_text:
        raise VocabkitError(f"{source}: has neither names of classes nor a text encoder, so no labels to start from")
    assert tokenizer is not None
    if tokenizer.pad_token is None:  # a CLIP does not see what comes after the end
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise VocabkitError(f"{source}: its tokenizer has neither a padding token nor an end of text; name one in it")
    return model.eval(), tokenizer


def _in_common_space(model: Any, patches: Tensor) -> Tensor:
    """(n, Dv) -> (n, d), of length 1: each patch as if it were the whole picture."""
    states = model.vision_model.post_layernorm(patches)
    pooled = (
        model.visual_projection(states)
        if hasattr(model, "visual_projection")
        else model.vision_model.head(states[:, None])
    )
    found: Tensor = functional.normalize(pooled, dim=-1)
    return found


def _texts(model: Any, tokenizer: Any, names: Sequence[str]) -> Tensor:
    """(L, d), of length 1."""
    longest = model.config.text_config.max_position_embeddings
    # SigLIP was trained with padding, which CLIP does not see
    ids = tokenizer(
        [PROMPT.format(name) for name in names],
        padding="max_length",
        max_length=longest,
        truncation=True,
        return_tensors="pt",
    )
    given = {key: ids[key] for key in ("input_ids", "attention_mask") if key in ids}
    found: Tensor = functional.normalize(model.get_text_features(**given).pooler_output, dim=-1)
    return found
