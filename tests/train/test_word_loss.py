"""The word loss against its formula, written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from vocabkit.adapter.mixing.mix import mix
from vocabkit.train import word_loss as module
from vocabkit.train.word_loss import CaptionWords, word_loss, word_loss_and_tokens

IMAGES, PATCHES, ROWS, HIDDEN = 3, 4, 11, 5
WORDS: list[dict[int, float]] = [{2: 0.25, 7: 0.75}, {}, {10: 1.0}]


def operands(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (I, N, H), weight (V, H), bias (V,)."""
    random = torch.Generator().manual_seed(0)
    shapes = ((IMAGES, PATCHES, HIDDEN), (ROWS, HIDDEN), (ROWS,))
    hidden, weight, bias = (torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) for shape in shapes)
    return hidden, weight, bias


def dense(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    temperature: float,
    words: list[dict[int, float]],
    entropy: float = 0.0,
) -> Tensor:
    """- sum_t w_t log( mean_n p_nt ) + e mean_n H(p_n), all coefficients at once."""
    p = ((hidden @ weight.T + bias) / temperature).softmax(dim=-1)  # (I, N, V)
    mean = p.mean(dim=1)
    found = [-w * mean[image, row].log() for image, chosen in enumerate(words) for row, w in chosen.items()]
    return torch.stack(found).sum() - entropy * (p * p.log()).sum(dim=-1).mean(dim=1).sum()


@pytest.mark.parametrize("entropy", [0.0, 0.3])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 5.0])
def test_word_loss_matches_the_formula(temperature: float, entropy: float) -> None:
    expected = dense(*operands(), temperature, WORDS, entropy)
    assert_close(word_loss(*operands(), temperature, WORDS, entropy=entropy), expected)


@pytest.mark.parametrize("block", [1, ROWS * 5, 2**24])
def test_blocks_of_patches_give_the_same_loss_and_gradients(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    found, expected = ([part.requires_grad_() for part in operands()] for _ in range(2))
    loss, whole = word_loss(*found, 0.7, WORDS, entropy=0.2), dense(*expected, 0.7, WORDS, 0.2)
    assert_close(loss, whole)
    assert_close(torch.autograd.grad(loss, found), torch.autograd.grad(whole, expected))


@pytest.mark.parametrize("block", [ROWS, 2**24])
def test_gradient_matches_finite_differences(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)

    def loss(*parts: Tensor) -> Tensor:
        return word_loss(*parts, 0.7, WORDS, entropy=0.2)

    assert torch.autograd.gradcheck(loss, [part.requires_grad_() for part in operands()])


def test_half_precision_is_computed_in_float32() -> None:
    found = word_loss(*operands(torch.bfloat16), 1.0, WORDS)
    assert found.dtype == torch.float32
    exact = dense(*(part.double() for part in operands(torch.bfloat16)), 1.0, WORDS)
    assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("images", [0, IMAGES])
def test_caption_without_words_has_zero_loss_and_zero_gradients(images: int) -> None:
    hidden, weight, bias = (part.requires_grad_() for part in operands())
    loss = word_loss(hidden[:images], weight, bias, 1.0, [{}] * images)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, [hidden, weight, bias]):
        assert not gradient.any()


def test_large_scores_stay_finite() -> None:
    hidden, weight, bias = (1e4 * part for part in operands(torch.float32))
    assert word_loss(hidden, weight, bias, 1.0, WORDS).isfinite()


# ---- with visual tokens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [ROWS * 5, 2**24])
def test_scores_are_shared_by_word_loss_and_visual_tokens(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    embeddings = torch.randn(ROWS, 6, dtype=torch.float64)
    found, expected = ([part.requires_grad_() for part in operands()] for _ in range(2))
    loss, tokens = word_loss_and_tokens(*found, 0.7, embeddings, WORDS, entropy=0.2)
    hidden, weight, bias = expected
    mixed = mix(hidden, weight, embeddings, head="softmax", bias=bias, temperature=0.7)
    assert_close(tokens, mixed)
    wanted = word_loss(*expected, 0.7, WORDS, entropy=0.2)
    assert_close(loss, wanted)
    gradients = torch.autograd.grad(loss + tokens.sin().sum(), found)
    assert_close(gradients, torch.autograd.grad(wanted + mixed.sin().sum(), expected))


def test_visual_tokens_keep_the_dtype_of_the_embeddings_under_autocast() -> None:
    embeddings = torch.randn(ROWS, 6, dtype=torch.bfloat16)
    plain = word_loss_and_tokens(*operands(torch.float32), 1.0, embeddings, WORDS)
    with torch.autocast("cpu", torch.bfloat16):
        cast = word_loss_and_tokens(*operands(torch.float32), 1.0, embeddings, WORDS)
    assert cast[1].dtype == torch.bfloat16
    assert all(torch.equal(one, two) for one, two in zip(plain, cast, strict=True))


# ---- which words -------------------------------------------------------------------------------------------------


def test_rarer_words_weigh_more() -> None:
    words = CaptionWords([[0, 1], [0, 2], [0, 1], [3]])
    found = words.weights([0, 1, 3])
    rarity: dict[int, Any] = {row: math.log(4 / found) ** 0.25 for row, found in ((0, 3), (1, 2), (3, 1))}
    assert found == pytest.approx({row: value / sum(rarity.values()) for row, value in rarity.items()})
    assert sum(found.values()) == pytest.approx(1)


def test_repeated_words_count_once() -> None:
    words = CaptionWords([[0, 0, 0], [1]])
    assert words.weights([0, 0, 1]) == pytest.approx({0: 0.5, 1: 0.5})


def test_word_in_every_caption_has_no_weight() -> None:
    words = CaptionWords([[0, 1], [0, 2]])
    assert words.weights([0, 1]) == {1: 1.0}
    assert words.weights([0]) == {}
    assert CaptionWords([[0]]).weights([0]) == {}
    assert CaptionWords([[0], [1]]).weights([]) == {}
