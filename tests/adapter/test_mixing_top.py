"""top_coefficients: the largest of all coefficients, found without keeping all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_adapters import VISION, langbridge, normal
from torch import Tensor

from vocabkit.adapter.mixing import choice, top
from vocabkit.adapter.mixing.mix import mix
from vocabkit.adapter.mixing.top import top_coefficients, top_mix
from vocabkit.errors import VocabkitError


def operands(n: int, t: int, h: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in [(n, h), (t, h), (t,)]
    )
    return hidden, weight, bias


def all_coefficients(hidden: Tensor, weight: Tensor, bias: Tensor | None, head: str, temperature: float) -> Tensor:
    scores = hidden.double() @ weight.double().T
    scores = scores if bias is None else scores + bias.double()
    return scores if head == "linear" else (scores / temperature).softmax(dim=-1)


@pytest.mark.parametrize("head", ["softmax", "linear"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("n", "t", "k"), [(1, 977, 1), (7, 977, 3), (7, 977, 64), (3, 5, 5), (0, 12, 3), (9, 4096, 8)])
def test_top_coefficients_are_the_k_largest(head: Any, with_bias: bool, n: int, t: int, k: int) -> None:
    hidden, weight, bias = operands(n, t, 5)
    temperature = 0.7 if head == "softmax" else 1.0
    given = bias if with_bias else None
    values, rows = top_coefficients(hidden, weight, k, head=head, bias=given, temperature=temperature)
    expected = all_coefficients(hidden, weight, given, head, temperature)
    assert rows.dtype == torch.int64
    torch.testing.assert_close(values, expected.sort(dim=-1, descending=True).values[:, :k])
    torch.testing.assert_close(expected.gather(1, rows), values)
    assert all(len(set(patch.tolist())) == k for patch in rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_operands_are_not_rounded_further(dtype: torch.dtype) -> None:
    hidden, weight, bias = (5 * tensor.to(dtype) for tensor in operands(6, 977, 16))
    values, rows = top_coefficients(hidden, weight, 4, head="softmax", bias=bias)
    expected = all_coefficients(hidden, weight, bias, "softmax", 1.0)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), expected.topk(4).values, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(expected.gather(1, rows), values.double(), rtol=1e-4, atol=1e-7)


def test_block_sizes_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, bias = (tensor.bfloat16() for tensor in operands(11, 977, 8))
    whole = top_coefficients(hidden, weight, 5, head="softmax", bias=bias)
    monkeypatch.setattr(top, "SCORES", {"cpu": 3 * 977})
    monkeypatch.setattr(top, "_ROWS", {"cpu": 100})
    blocks = top_coefficients(hidden, weight, 5, head="softmax", bias=bias)
    torch.testing.assert_close(blocks[0], whole[0])
    assert torch.equal(blocks[1], whole[1])


def test_leading_dimensions_are_kept() -> None:
    hidden, weight, bias = operands(12, 300, 5)
    flat = top_coefficients(hidden, weight, 4, head="softmax", bias=bias)
    images = top_coefficients(hidden.reshape(2, 6, 5), weight, 4, head="softmax", bias=bias)
    one = top_coefficients(hidden[0], weight, 4, head="softmax", bias=bias)
    assert torch.equal(images[1], flat[1].reshape(2, 6, 4))
    torch.testing.assert_close(images[0], flat[0].reshape(2, 6, 4))
    torch.testing.assert_close(one[0], flat[0][0])


def test_top_mix_takes_one_patch_or_none() -> None:
    hidden, weight, _ = operands(6, 20, 4)
    tokens, dropped = top_mix(hidden, weight, weight, 3)
    one, of_one = top_mix(hidden[0], weight, weight, 3)
    torch.testing.assert_close((one, of_one), (tokens[0], dropped[0]))
    none, of_none = top_mix(hidden[:0], weight, weight, 3)
    assert (none.shape, of_none.shape) == ((0, 4), (0,))


def test_infinite_bias_excludes_rows() -> None:
    hidden, weight, bias = operands(3, 400, 5)
    bias[10:] = -torch.inf
    values, rows = top_coefficients(hidden, weight, 12, head="softmax", bias=bias)
    assert (rows[:, :10].sort(dim=1).values == torch.arange(10)).all()
    torch.testing.assert_close(values.sum(dim=1), torch.ones(3, dtype=torch.float64))
    assert all(len(set(patch.tolist())) == 12 for patch in rows)


@pytest.mark.parametrize("k", [0, -1, 12, 2.0, True, None])
def test_k_out_of_range_raises(k: Any) -> None:
    hidden, weight, _ = operands(2, 11, 5)
    with pytest.raises(VocabkitError, match=r"1 to the 11 rows"):
        top_coefficients(hidden, weight, k, head="softmax")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_top_mix_equals_full_mix_when_top_holds_all_mass(dtype: torch.dtype) -> None:
    hidden, weight, bias = (tensor.to(dtype) for tensor in operands(6, 977, 16))
    embeddings = torch.randn(977, 33, generator=torch.Generator().manual_seed(1)).to(dtype)
    hidden = 4 * hidden
    p = all_coefficients(hidden, weight, bias, "softmax", 1.0)
    assert (p.topk(64).values.sum(dim=1) > 0.999).all()
    found = mix(hidden, weight, embeddings, head="softmax", bias=bias, top=64)
    expected = p @ embeddings.double()
    assert found.dtype == dtype
    assert (found.double() - expected).norm() / expected.norm() < 1e-2


def test_top_mix_of_all_rows_equals_full_mix() -> None:
    hidden, weight, bias = operands(6, 40, 16)
    embeddings = torch.randn(40, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = mix(hidden, weight, embeddings, head="softmax", bias=bias, temperature=0.5, top=40)
    torch.testing.assert_close(found, mix(hidden, weight, embeddings, head="softmax", bias=bias, temperature=0.5))


def test_kept_coefficients_are_renormalised() -> None:
    hidden, weight, bias = operands(6, 300, 4)
    ones = torch.ones(300, 2, dtype=torch.float64)  # a convex sum of equal rows is that row
    found = mix(hidden, weight, ones, head="softmax", bias=bias, top=3)
    torch.testing.assert_close(found, torch.ones(6, 2, dtype=torch.float64))


@given(
    seed=st.integers(0, 2**32 - 1),
    t=st.integers(2, 200),
    k=st.integers(1, 200),
    peak=st.floats(0, 30),
    temperature=st.floats(0.1, 10),
)
@settings(max_examples=50, deadline=None)
def test_error_is_at_most_twice_the_dropped_mass_times_the_longest_row(
    seed: int, t: int, k: int, peak: float, temperature: float
) -> None:
    hidden, weight, bias = operands(3, t, 4, seed=seed)
    embeddings = torch.randn(t, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    hidden, k = peak * hidden, min(k, t)
    found, dropped = top_mix(hidden, weight, embeddings, k, bias=bias, temperature=temperature)
    p = all_coefficients(hidden, weight, bias, "softmax", temperature)
    torch.testing.assert_close(dropped, 1 - p.topk(k).values.sum(dim=1), rtol=0, atol=1e-12)
    error = (found - p @ embeddings).norm(dim=1)
    assert (error <= 2 * dropped * embeddings.norm(dim=1).max() + 1e-9).all()


@pytest.fixture
def _bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that a tolerance permits, for small sizes too."""
    monkeypatch.setattr(choice, "DENSE_LIMIT", -1)
    monkeypatch.setattr(choice, "BOUNDED_TOP", 4)


@pytest.mark.usefixtures("_bounded")
@pytest.mark.parametrize("tolerance", [1e-9, 1e-3, 0.1, 2.0])
def test_tolerance_bounds_the_error_of_peaked_and_flat_patches(tolerance: float) -> None:
    hidden, weight, bias = operands(40, 300, 6)
    hidden *= torch.linspace(0, 20, 40)[:, None]  # from flat to peaked
    embeddings = torch.randn(300, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = all_coefficients(hidden, weight, bias, "softmax", 1.0) @ embeddings
    found = mix(hidden, weight, embeddings, head="softmax", bias=bias, tolerance=tolerance)
    error = (found - exact).norm(dim=1) / embeddings.norm(dim=1).max()
    assert (error <= tolerance + 1e-12).all()
    _, dropped = top_mix(hidden, weight, embeddings, 4, bias=bias)
    flat = 2 * dropped > tolerance
    assert flat.any() == (tolerance < 2)
    assert (error[flat] < 1e-12).all()  # mixed in full
    if tolerance > 1e-9:
        assert (error[~flat] > 1e-12).any()  # and the others are not


def test_tolerance_is_used_for_large_calls_with_wide_embeddings() -> None:
    sizes: dict[str, Any] = {"hidden": torch.float32, "embeddings": torch.float32, "device": torch.device("cpu")}
    calls = {
        (n, t, h, d, tolerance): choice.choose("softmax", n, t, h, d, tolerance=tolerance, **sizes).path
        for n, t, h, d, tolerance in [
            (576, 109_566, 1024, 4096, 0.01), (576, 109_566, 1024, 4096, 0.0),
            (576, 109_566, 1024, 576, 0.01), (8, 109_566, 1024, 4096, 0.01),
        ]
    }  # fmt: skip
    assert list(calls.values()) == ["bounded", "streamed", "streamed", "dense"]
    assert choice.choose("linear", 576, 109_566, 1024, 4096, tolerance=0.01, **sizes).path == "unfused"


@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf"), None, "0.1", True])
def test_tolerance_out_of_range_raises(tolerance: Any) -> None:
    hidden, weight, _ = operands(2, 11, 5)
    with pytest.raises(VocabkitError, match="tolerance is"):
        mix(hidden, weight, weight, head="softmax", tolerance=tolerance)


def test_tolerance_with_gradients_or_top_raises() -> None:
    hidden, weight, _ = operands(2, 11, 5)
    with pytest.raises(VocabkitError, match="not both"):
        mix(hidden, weight, weight, head="softmax", tolerance=0.1, top=2)
    with pytest.raises(VocabkitError, match=r"tolerance has no gradients.*torch\.no_grad"):
        mix(hidden, weight.requires_grad_(), weight, head="softmax", tolerance=0.1)


@pytest.mark.usefixtures("_bounded")
def test_adapter_is_exact_until_it_is_given_a_tolerance_and_in_training() -> None:
    adapter = langbridge("softmax")
    features = normal(2, 3, VISION)
    embeddings = normal(adapter.config.rows, 5)
    exact = adapter(features, embeddings)
    with torch.no_grad():
        torch.testing.assert_close(adapter(features, embeddings), exact)
        adapter.tolerance = 2.0  # the four largest will do
        bounded = adapter(features, embeddings)
    assert (bounded - exact).norm() > 1e-3
    torch.testing.assert_close(adapter(features, embeddings), exact)


def test_top_with_gradients_raises() -> None:
    hidden, weight, _ = operands(2, 11, 5)
    embeddings = torch.zeros(11, 3, dtype=torch.float64)
    with pytest.raises(VocabkitError, match=r"torch\.no_grad"):
        mix(hidden, weight.requires_grad_(), embeddings, head="softmax", top=2)
    with torch.no_grad():
        assert mix(hidden, weight, embeddings, head="softmax", top=2).shape == (2, 3)


def test_top_with_linear_head_raises() -> None:
    hidden, weight, _ = operands(2, 11, 5)
    with pytest.raises(VocabkitError, match="softmax head"):
        mix(hidden, weight, torch.zeros(11, 3, dtype=torch.float64), head="linear", top=2)


@pytest.mark.parametrize("head", ["softmax", "linear"])
def test_adapter_top_coefficients_match_all_coefficients(head: Any) -> None:
    adapter = langbridge(head)
    features = normal(2, 3, VISION)  # images, patches
    values, rows = adapter.top_coefficients(features, 4)
    expected = adapter.coefficients(features)
    assert values.shape == rows.shape == (2, 3, 4)
    torch.testing.assert_close(values, expected.topk(4).values)
    torch.testing.assert_close(expected.gather(2, rows), values)
