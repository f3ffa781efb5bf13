"""A transferred linear adapter is exactly a two-layer projector, padded or not."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import pytest
import torch
from small_adapters import HIDDEN, ROWS, VISION, WIDTH, assert_same_state, normal, projector, randomised
from torch import Tensor
from torch.nn.functional import gelu
from torch.testing import assert_close

from vocabkit.adapter.config import AdapterConfig, Head, Transfer, why_not_foldable
from vocabkit.adapter.model import LangBridgeAdapter, load_adapter
from vocabkit.errors import VocabkitError
from vocabkit.shared.align import align
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.tokenizer.catalog import resolve
from vocabkit.transfer.fold import BLOCK, fold, pad_hidden
from vocabkit.transfer.transfer import with_scale

EPSILON = {torch.float64: 1e-14, torch.float32: 1e-5, torch.bfloat16: 1e-2}


@cache
def shared(rows: int) -> SharedVocabulary:
    return align([resolve("qwen2").vocabulary, resolve("llama3").vocabulary]).select(range(rows))


def transferred(
    head: Head = "linear",
    *,
    rows: int = ROWS,
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
    size: float = 1.0,
) -> LangBridgeAdapter:
    """A random adapter on random embedding rows, of this size, of LLaMA3."""
    inner = AdapterConfig.of(shared(rows), llm="qwen2", vision_width=VISION, hidden_width=HIDDEN, head=head)
    adapter = randomised(LangBridgeAdapter(inner, shared(rows)), seed=0).to(dtype)
    moved = Transfer(
        target="llama3",
        target_width=WIDTH,
        source_fingerprint=inner.shared_fingerprint,
        embeddings="random",
        missing="error",
        scale=scale,
    )
    config = dataclasses.replace(inner, transfer=moved)
    tensors = {**adapter.state_dict(), "embeddings": normal(rows, WIDTH, seed=3).mul(size).to(dtype)}
    return LangBridgeAdapter.from_parts(Path("llama3"), config, tensors, shared(rows))


def exact(module: LangBridgeAdapter, features: Tensor) -> Tensor:
    """Eq. 2-3 and 6 in float64."""
    w = {name: tensor.double() for name, tensor in module.state_dict().items()}
    hidden = gelu(features.double() @ w["linear_1.weight"].T + w["linear_1.bias"])
    hidden = hidden @ w["linear_2.weight"].T + w["linear_2.bias"]
    p = hidden @ w["head.weight"].T + w["head.bias"]
    return p @ w["embeddings"] * module.scale


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double() - expected).abs().max() / expected.abs().max())


# ---- fold --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 0.0078])
@pytest.mark.parametrize("rows", [ROWS, 2 * BLOCK + 7])
@pytest.mark.parametrize("dtype", EPSILON)
def test_folded_projector_equals_the_adapter(dtype: torch.dtype, rows: int, scale: float) -> None:
    module, features = transferred(rows=rows, dtype=dtype, scale=scale), normal(33, VISION, dtype=dtype)
    folded = fold(module)
    expected = exact(module, features)
    assert relative_error(folded(features), expected) < EPSILON[dtype]
    assert relative_error(module(features), expected) < EPSILON[dtype]
    assert folded(features).dtype == module(features).dtype == dtype


@pytest.mark.parametrize("bias", ["linear_1", "linear_2", "head"])
def test_each_bias_is_folded_in(bias: str) -> None:
    module, features = transferred(dtype=torch.float64), normal(5, VISION, dtype=torch.float64)
    before = fold(module)(features)
    with torch.no_grad():
        module.get_submodule(bias).bias += 1.0
    after = fold(module)(features)
    assert not torch.allclose(before, after)
    assert_close(after.detach(), exact(module, features))


def test_half_precision_fold_loses_only_the_final_rounding() -> None:
    module, features = transferred(rows=BLOCK + 1, dtype=torch.bfloat16), normal(33, VISION, dtype=torch.float64)
    assert relative_error(fold(module, torch.float64)(features), exact(module, features)) < 1e-14
    assert relative_error(fold(module, torch.float32)(features.float()), exact(module, features)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_fold_is_the_exact_one_rounded(dtype: torch.dtype) -> None:
    module = transferred(rows=BLOCK + 1, dtype=dtype, scale=0.3)
    exact = {name: tensor.double() for name, tensor in module.state_dict().items()}
    mixed = 0.3 * exact["head.weight"].T @ exact["embeddings"]
    bias = 0.3 * exact["head.bias"] @ exact["embeddings"] + exact["linear_2.bias"] @ mixed
    found = fold(module).state_dict()
    for name, wanted in (("linear_2.weight", mixed.T @ exact["linear_2.weight"]), ("linear_2.bias", bias)):
        half_a_step = torch.finfo(dtype).eps * 2.0 ** wanted.abs().log2().floor() / 2
        assert ((found[name].double() - wanted).abs() <= half_a_step + 5e-6 * wanted.abs().max()).all()


def test_fold_has_the_dtype_of_the_embeddings_by_default() -> None:
    module = transferred(dtype=torch.bfloat16)
    for layer in (module.linear_1, module.linear_2, module.head):
        layer.float()
    assert {tensor.dtype for tensor in fold(module).state_dict().values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in fold(module, torch.float32).state_dict().values()} == {torch.float32}


def test_fold_does_not_change_the_adapter() -> None:
    module, untouched = transferred(scale=0.5), transferred(scale=0.5)
    folded = fold(module)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    assert_same_state(module, untouched)


def test_folded_projector_round_trips(tmp_path: Path) -> None:
    folded = fold(transferred())
    config = folded.config
    assert (config.vision_width, config.hidden_width, config.llm_width, config.llm) == (VISION, HIDDEN, WIDTH, "llama3")
    folded.save(tmp_path / "projector")
    assert_same_state(load_adapter(tmp_path / "projector"), folded)


def test_softmax_head_raises() -> None:
    with pytest.raises(VocabkitError, match=r"softmax head does not fold: a softmax is not linear.*streamed"):
        fold(transferred("softmax"))
    assert why_not_foldable("softmax") is not None
    assert why_not_foldable("linear") is None


def test_overflow_raises() -> None:
    module = transferred(size=1e6)
    fold(module)
    with pytest.raises(VocabkitError, match=r"overflows torch\.float16; fold it to float32"):
        fold(module, torch.float16)
    with pytest.raises(VocabkitError, match=r"overflows torch\.float16; transfer with a `scale` smaller than 1e\+06"):
        fold(with_scale(transferred(), 1e6), torch.float16)


# ---- padding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", EPSILON)
@pytest.mark.parametrize("width", [HIDDEN + 1, 64])
def test_padded_hidden_units_are_zero_and_change_nothing(width: int, dtype: torch.dtype) -> None:
    plain, features = projector(dtype=dtype), normal(33, VISION, dtype=dtype)
    padded = pad_hidden(plain, width)
    hidden = gelu(padded.linear_1(features))
    assert torch.equal(hidden[:, HIDDEN:], torch.zeros(33, width - HIDDEN, dtype=dtype))
    assert_close(hidden[:, :HIDDEN], gelu(plain.linear_1(features)))
    assert_close(padded(features), plain(features))
    assert padded.config.hidden_width == width


def test_padding_is_bit_exact_for_exact_sums() -> None:
    plain, hidden = projector(), normal(33, HIDDEN).mul(8).round()
    with torch.no_grad():
        for parameter in plain.linear_2.parameters():
            parameter.mul_(8).round_()  # sums of products of small whole numbers have no rounding, in any order
    padded = pad_hidden(plain, 64)
    more = torch.cat([hidden, torch.zeros(33, 64 - HIDDEN)], dim=1)
    assert torch.equal(padded.linear_2(more), plain.linear_2(hidden))


def test_padding_keeps_the_weights_bit_for_bit() -> None:
    plain = projector(dtype=torch.bfloat16)
    padded = pad_hidden(plain, 64)
    assert torch.equal(padded.linear_1.weight[:HIDDEN], plain.linear_1.weight)
    assert torch.equal(padded.linear_1.bias[:HIDDEN], plain.linear_1.bias)
    assert torch.equal(padded.linear_2.weight[:, :HIDDEN], plain.linear_2.weight)
    assert torch.equal(padded.linear_2.bias, plain.linear_2.bias)


def test_projector_of_the_right_width_is_unchanged() -> None:
    plain = projector()
    assert_same_state(pad_hidden(plain, HIDDEN), plain)


def test_padding_to_a_smaller_width_raises() -> None:
    with pytest.raises(
        VocabkitError, match=r"has 5 units, more than the LLM's width 4.*mmproj.*or projector.*`features`"
    ):
        pad_hidden(projector(), 4)
