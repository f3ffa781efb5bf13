"""mix: every path against a float64 reference written here, and its gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from vocabkit.adapter.mixing import choice, products
from vocabkit.adapter.mixing import softmax as streamed
from vocabkit.adapter.mixing.choice import Choice, choose
from vocabkit.adapter.mixing.mix import coefficients, mix
from vocabkit.adapter.mixing.top import top_coefficients
from vocabkit.errors import VocabkitError

SHAPES = [(1, 977, 5, 3), (7, 977, 5, 33), (3, 1, 4, 2), (50, 16, 40, 24), (0, 12, 5, 3)]
"""N, T, H, D."""
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}


class Operands(NamedTuple):
    hidden: Tensor
    weight: Tensor
    embeddings: Tensor
    bias: Tensor

    def to(self, dtype: torch.dtype) -> Operands:
        return Operands(*(tensor.to(dtype) for tensor in self))


def operands(n: int, t: int, h: int, d: int, *, seed: int = 0, spread: float = 1.0) -> Operands:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return Operands(spread * normal(n, h), normal(t, h), normal(t, d), normal(t))


def reference(o: Operands, head: str, temperature: float = 1.0) -> Tensor:
    """Eq. 3 and 4, written out in float64."""
    hidden, weight, embeddings, bias = o.to(torch.float64)
    scores = hidden @ weight.T + bias
    if head == "linear":
        return scores @ embeddings
    scores = scores / temperature
    powers = (scores - scores.max(dim=1, keepdim=True).values).exp()
    return (powers / powers.sum(dim=1, keepdim=True)) @ embeddings


def relative_error(found: Tensor, expected: Tensor) -> float:
    error = (found.detach().double() - expected.detach()).norm()
    return float(error / expected.detach().norm().clamp_min(1e-30))


def want(monkeypatch: pytest.MonkeyPatch, path: Any) -> None:
    wanted = choice.Choice(path, False, "wanted by a test")
    monkeypatch.setattr(choice, "choose", lambda *_, **__: wanted)


def small_blocks(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(streamed, "_LEAST_ROWS", 1)
    monkeypatch.setattr(streamed, "_MOST_ROWS", rows)
    monkeypatch.setattr(products, "_ALIGNMENT", 1)


@pytest.fixture(params=["dense", "streamed"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Softmax on the one path or on the other, the streamed one with blocks that don't divide T."""
    chosen: str = request.param
    want(monkeypatch, chosen)
    small_blocks(monkeypatch, 100)
    return chosen


def softmax(o: Operands, temperature: float = 1.0, **options: Any) -> Tensor:
    return mix(o.hidden, o.weight, o.embeddings, bias=o.bias, head="softmax", temperature=temperature, **options)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_softmax_matches_the_reference(path: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    o = operands(*shape).to(dtype)
    found = softmax(o, temperature=0.7)
    assert found.dtype == dtype
    assert found.shape == (shape[0], shape[3])
    assert relative_error(found, reference(o, "softmax", 0.7)) < TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_linear_matches_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    o = operands(*shape).to(dtype)
    found = mix(o.hidden, o.weight, o.embeddings, bias=o.bias, head="linear")
    assert found.dtype == dtype
    assert found.shape == (shape[0], shape[3])
    assert relative_error(found, reference(o, "linear")) < TOLERANCES[dtype]


def test_linear_paths_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    o = operands(19, 61, 5, 7)
    for name in ("unfused", "fused"):
        want(monkeypatch, name)
        found = mix(o.hidden, o.weight, o.embeddings, bias=o.bias, head="linear")
        torch.testing.assert_close(found, reference(o, "linear"))


def test_large_logits_do_not_overflow(path: str) -> None:
    o = operands(9, 977, 5, 3, spread=1e4).to(torch.float32)
    found = softmax(o)
    assert found.isfinite().all()
    assert relative_error(found, reference(o, "softmax")) < 1e-5


def test_half_precision_logits_keep_their_last_digits(path: str) -> None:
    # logits around 40: rounding them to bfloat16 would change coefficients by a tenth
    o = operands(9, 977, 64, 3, spread=5.0).to(torch.bfloat16)
    assert relative_error(softmax(o), reference(o, "softmax")) < 1e-2


def test_infinite_bias_excludes_rows(path: str) -> None:
    o = operands(6, 300, 5, 3).to(torch.float32)
    o.bias[:150] = -torch.inf  # the first blocks hold nothing else
    kept = Operands(o.hidden, o.weight[150:], o.embeddings[150:], o.bias[150:])
    torch.testing.assert_close(softmax(o), reference(kept, "softmax").float())


def test_softmax_coefficients_sum_to_one() -> None:
    o = operands(4, 50, 5, 3).to(torch.bfloat16)
    p = coefficients(o.hidden, o.weight, head="softmax", bias=o.bias, temperature=2.0)
    assert p.dtype == torch.float32
    assert (p > 0).all()
    torch.testing.assert_close(p.sum(dim=1), torch.ones(4))


@pytest.mark.parametrize("head", ["linear", "softmax"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_gradients_match_numerical_ones(path: str, head: str, with_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if head == "linear":
        want(monkeypatch, {"dense": "unfused", "streamed": "fused"}[path])
    small_blocks(monkeypatch, 4)
    hidden, weight, embeddings, bias = operands(3, 11, 5, 4)
    leaves = [
        t.requires_grad_() for t in ((hidden, weight, embeddings, bias) if with_bias else (hidden, weight, embeddings))
    ]

    def function(hidden: Tensor, weight: Tensor, embeddings: Tensor, bias: Tensor | None = None) -> Tensor:
        temperature = 1.0 if head == "linear" else 0.6
        return mix(hidden, weight, embeddings, head=head, bias=bias, temperature=temperature)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("only", ["hidden", "weight", "embeddings", "bias"])
def test_single_gradient_equals_the_joint_one(path: str, only: str) -> None:
    o = operands(5, 130, 6, 4)
    together = Operands(*(tensor.clone().requires_grad_() for tensor in o))
    softmax(together).square().sum().backward()
    alone = o._replace(**{only: getattr(o, only).clone().requires_grad_()})
    softmax(alone).square().sum().backward()
    torch.testing.assert_close(getattr(alone, only).grad, getattr(together, only).grad)


def test_half_precision_gradients_are_close(path: str) -> None:
    rough = Operands(*(t.requires_grad_() for t in operands(8, 300, 6, 4).to(torch.bfloat16)))
    exact = Operands(*(t.detach().double().requires_grad_() for t in rough))
    up = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    softmax(rough).backward(up)
    reference(exact, "softmax").backward(up.double())
    for found, expected in zip(rough, exact, strict=True):
        assert found.grad is not None
        assert found.grad.dtype == torch.bfloat16
        assert relative_error(found.grad, expected.grad) < 1e-2


def test_float32_head_trains_with_bfloat16_embeddings(path: str) -> None:
    o = operands(8, 300, 6, 4).to(torch.float32)
    o = o._replace(embeddings=o.embeddings.bfloat16(), weight=o.weight.requires_grad_())
    found = softmax(o)
    found.sum().backward()
    assert found.dtype == torch.bfloat16
    assert o.weight.grad is not None
    assert o.weight.grad.dtype == torch.float32
    assert relative_error(found, reference(o, "softmax")) < 1e-2


@pytest.mark.parametrize("head", ["linear", "softmax"])
def test_autocast_has_no_effect(path: str, head: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if head == "linear":
        want(monkeypatch, {"dense": "unfused", "streamed": "fused"}[path])
    hidden, weight, embeddings, bias = operands(8, 300, 6, 4).to(torch.float32)

    def computed() -> list[Tensor]:
        return [
            mix(hidden, weight, embeddings, bias=bias, head=head),
            coefficients(hidden, weight, bias=bias, head=head),
            top_coefficients(hidden, weight, 3, bias=bias, head=head)[0],
        ]

    plain = computed()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(one, two) for one, two in zip(computed(), plain, strict=True))


@pytest.mark.parametrize("operand", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_weights_of_a_patch_add_up_to_one(
    dtype: torch.dtype, operand: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where products take them in bfloat16, as on a GPU."""
    small_blocks(monkeypatch, 100)
    monkeypatch.setattr(streamed, "operand_dtype", lambda *_: operand)
    o = operands(9, 977, 5, 3).to(dtype)
    mixed, _ = streamed.softmax_mix(o.hidden, o.weight, torch.ones(977, 3, dtype=dtype), o.bias, 0.7, False)
    torch.testing.assert_close(mixed, torch.ones(9, 3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("frozen", [(), ("embeddings",), ("hidden", "weight", "bias")])
def test_gradients_of_products_in_half_precision_are_close(
    frozen: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where coefficients and their gradients have buffers of their own."""
    small_blocks(monkeypatch, 100)
    monkeypatch.setattr(streamed, "operand_dtype", lambda dtype, *_: dtype)
    rough = operands(8, 300, 6, 4).to(torch.bfloat16)
    exact = Operands(*(tensor.double() for tensor in rough))
    up = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    for o in (rough, exact):
        for name, tensor in o._asdict().items():
            tensor.requires_grad_(name not in frozen)
    mixed = streamed.streamed_softmax_mix(*rough, 1.0, kernels=False)
    mixed.backward(up)
    reference(exact, "softmax").backward(up.double())
    for name, found, expected in zip(rough._fields, rough, exact, strict=True):
        assert (found.grad is None) == (name in frozen)
        if found.grad is not None and expected.grad is not None:
            assert relative_error(found.grad, expected.grad) < 2e-2, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch, 100)
    o = operands(9, 977, 5, 3).to(dtype)
    found, exact = softmax(o), reference(o, "softmax")
    spacing = torch.finfo(dtype).eps * 2.0 ** exact.abs().log2().floor()
    assert ((found.double() - exact).abs() <= 0.51 * spacing).all()


@pytest.mark.parametrize("head", ["linear", "softmax"])
def test_leading_dimensions_are_kept(head: Any) -> None:
    hidden, weight, embeddings, bias = operands(12, 31, 5, 3)
    flat = mix(hidden, weight, embeddings, bias=bias, head=head)
    images = mix(hidden.reshape(2, 2, 3, 5), weight, embeddings, bias=bias, head=head)
    one = mix(hidden[0], weight, embeddings, bias=bias, head=head)
    torch.testing.assert_close(images, flat.reshape(2, 2, 3, 3))
    torch.testing.assert_close(one, flat[0])


def test_operands_are_unchanged(path: str) -> None:
    o = operands(5, 130, 6, 4)
    before = Operands(*(tensor.clone() for tensor in o))
    softmax(o, temperature=1.0)
    for tensor, copy in zip(o, before, strict=True):
        assert torch.equal(tensor, copy)


def test_streamed_path_never_holds_all_coefficients() -> None:
    n, t = 1024, 16 * 1024
    leaves = [torch.randn(n, 8), torch.randn(t, 8), torch.randn(t, 8)]
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, list | tuple) else [result]:
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.numel())
            return result

    forward, backward = streamed.softmax_mix._init_fn, streamed.softmax_mix_backward._init_fn
    with Watch(), torch.no_grad():
        mixed, log_total = forward(*leaves, None, 1.0, False)
        backward(mixed, *leaves, None, mixed, log_total, 1.0, False, [True, True, True, False])
    assert max(n * 8, t * 8) <= largest <= streamed.BLOCK_ELEMENTS["cpu"]


def chosen(*sizes: int, head: Any = "softmax", dtype: torch.dtype = torch.float32, device: str = "cpu") -> Choice:
    found = choose(head, *sizes, hidden=dtype, embeddings=dtype, device=torch.device(device))
    assert len(found.reason) > 20
    return found


def test_choice_follows_size_and_precision() -> None:
    assert chosen(16, 4000, 64, 64).path == "dense"
    assert chosen(576, 109_566, 1024, 4096).path == "streamed"
    assert chosen(16, 4000, 64, 64, dtype=torch.bfloat16).path == "streamed"
    assert chosen(1, 19_200, 1024, 4096, head="linear").path == "unfused"
    assert chosen(18_432, 19_200, 1024, 4096, head="linear").path == "fused"
    assert "copied a block at a time to float32" in chosen(16, 4000, 64, 64, dtype=torch.bfloat16).reason


def test_choice_on_a_gpu_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = (18_432, 109_566, 1024, 4096)
    monkeypatch.setattr(choice, "_HAS_TRITON", True)
    monkeypatch.setattr(choice, "HAS_WIDE_PRODUCTS", True)
    monkeypatch.setattr(products, "HAS_WIDE_PRODUCTS", True)
    best = chosen(*sizes, dtype=torch.bfloat16, device="cuda")
    assert best.kernels
    assert "bfloat16 products with float32 sums; element-wise steps in Triton" in best.reason
    assert "too little range" in chosen(*sizes, dtype=torch.float16, device="cuda").reason
    assert not chosen(*sizes, dtype=torch.float64, device="cuda").kernels
    monkeypatch.setattr(choice, "_HAS_TRITON", False)
    without = chosen(*sizes, dtype=torch.bfloat16, device="cuda")
    assert not without.kernels
    assert "pip install triton" in without.reason
    monkeypatch.setattr(choice, "HAS_WIDE_PRODUCTS", False)
    monkeypatch.setattr(products, "HAS_WIDE_PRODUCTS", False)
    assert "needs torch 2.13" in chosen(*sizes, dtype=torch.bfloat16, device="cuda").reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden": torch.zeros(2, 6)}, "hidden (2, 6)"),
        ({"weight": torch.zeros(10, 5)}, "weight (10, 5)"),
        ({"embeddings": torch.zeros(10, 3)}, "embeddings (10, 3)"),
        ({"bias": torch.zeros(10)}, "bias (10,)"),
        ({"bias": torch.zeros(())}, "bias ()"),
        ({"hidden": torch.zeros(())}, "hidden ()"),
    ],
)
def test_mismatched_shapes_raise(change: dict[str, Tensor], words: str) -> None:
    o = operands(2, 11, 5, 3)._replace(**change)
    with pytest.raises(VocabkitError) as caught:
        softmax(o)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("head", "temperature"), [("softmax", 0.0), ("softmax", float("nan")), ("linear", 2.0), ("hard", 1)]
)
def test_invalid_head_or_temperature_raises(head: Any, temperature: float) -> None:
    hidden, weight, embeddings, _ = operands(2, 11, 5, 3)
    with pytest.raises(VocabkitError):
        mix(hidden, weight, embeddings, head=head, temperature=temperature)
