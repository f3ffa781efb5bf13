"""The Triton kernels, on a GPU or under Triton's interpreter, against float64 written out here.

Whatever a kernel should write is NaN before, and so is what lies around it, which it must leave alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="triton is not installed")

from vocabkit.adapter.mixing import choice, kernels, products, top, two_pass  # noqa: E402
from vocabkit.adapter.mixing import softmax as streamed  # noqa: E402
from vocabkit.adapter.mixing.mix import mix  # noqa: E402
from vocabkit.adapter.mixing.top import top_coefficients  # noqa: E402

SHAPES = [(1, 977, 5, 3), (7, 977, 5, 33), (3, 1, 4, 2), (4, 3000, 6, 1500), (0, 12, 5, 3)]
"""N, T, H, D."""
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2}

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vocabkit.adapter.mixing import kernels

f32, b16, i32 = "*fp32", "*bf16", "i32"
strides = dict(scores_stride=i32, columns=i32, temperature="fp32")
sources = {
    kernels._softmax_block: (
        dict(scores=f32, bias=b16, reference=f32, total=f32, stored=f32, rescale=f32, p=b16, p_stride=i32, **strides),
        dict(GROWTH=8.0, HAS_BIAS=True, TILE=2048),
    ),
    kernels._rescale_rows: (dict(mixed=f32, rescale=f32, stride=i32, width=i32), dict(TILE=1024)),
    kernels._gradient_block: (
        dict(scores=f32, bias=b16, log_total=f32, d_p=f32, expected=f32, p=b16, d_scores=b16,
             d_p_stride=i32, p_stride=i32, d_scores_stride=i32, **strides),
        dict(HAS_BIAS=True, HAS_P=True, TILE=2048),
    ),
    kernels._top_candidates: (
        dict(hidden=b16, weight=b16, bias=b16, values=f32, rows="*i32", log_totals=f32, n=i32, columns=i32, width=i32,
             tiles=i32, per_part=i32, parts=i32, temperature="fp32"),
        dict(HAS_BIAS=True, CANDIDATES=4, TILE_ROWS=128, TILE_PATCHES=128, TILE_WIDTH=64, WIDEN=False),
    ),
    kernels._sum_of_rows: (
        dict(values=f32, rows="*i64", embeddings=b16, out=b16, k=i32, embeddings_stride=i32, out_stride=i32, width=i32),
        dict(TILE=1024),
    ),
}
types, constants = sources[kernels._top_candidates]
every = [*sources.items(), (kernels._top_candidates, (types, constants | dict(CANDIDATES=0)))]
for kernel, (types, constants) in every:
    types = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    target = GPUTarget("cuda", 90, 32)
    found = triton.compile(ASTSource(kernel, signature=types, constexprs=constants), target=target)
    print(kernel.__name__, len(found.asm["cubin"]) > 0)
"""


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def poisoned(n: int, columns: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A wider buffer of NaN, and the (n, columns) at its start."""
    buffer = torch.full((n, columns + 5), torch.nan, dtype=dtype, device=DEVICE)
    return buffer, buffer[:, :columns]


def relative_error(found: Tensor, expected: Tensor) -> float:
    error = (found.detach().double() - expected.detach().double()).norm()
    return float(error / expected.detach().double().norm().clamp_min(1e-30))


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def with_bias(request: pytest.FixtureRequest) -> bool:
    wanted: bool = request.param
    return wanted


@pytest.fixture
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mix on the kernels, in small blocks; bfloat16 stays bfloat16 between products, as on a GPU."""
    monkeypatch.setattr(choice, "elementwise_impl", lambda *_: (True, "wanted by a test"))
    monkeypatch.setattr(choice, "DENSE_LIMIT", -1)
    monkeypatch.setattr(streamed, "_LEAST_ROWS", 1)
    monkeypatch.setattr(streamed, "_MOST_ROWS", 300)
    monkeypatch.setattr(products, "_ALIGNMENT", 1)


def test_kernels_compile_for_hopper_without_a_gpu(tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1::2] == ["True"] * 6


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("n", "columns"), [(1, 977), (3, 1), (2, 5000)])
def test_softmax_block_matches_torch(n: int, columns: int, dtype: torch.dtype, with_bias: bool) -> None:
    scores, bias = 9 * normal(n, columns, seed=0), normal(columns, seed=1) if with_bias else None
    reference, total = normal(n, seed=2), normal(n, seed=3).abs()
    stored = total.clone()
    before, sums = reference.double(), total.double()
    rescale = torch.full((n,), torch.nan, device=DEVICE)
    around, p = poisoned(n, columns, dtype)
    kernels.softmax_block(scores, bias, 0.7, reference, total, stored, rescale, p)

    exact = (scores.double() + (0 if bias is None else bias.double())) / 0.7
    powers = (exact - reference.double()[:, None]).exp()
    assert relative_error(p, powers) < TOLERANCES[dtype]
    assert (reference >= before).all()
    assert (exact.amax(dim=1) - reference <= kernels.GROWTH + 1e-4).all()
    assert relative_error(rescale, (before - reference).exp()) < 1e-5
    assert relative_error(total, sums * (before - reference).exp() + powers.sum(dim=1)) < 1e-5
    assert relative_error(stored, sums * (before - reference).exp() + p.double().sum(dim=1)) < 1e-5
    assert around[:, columns:].isnan().all()


@pytest.mark.parametrize("n", [1, 3])
def test_rescale_rows_matches_torch(n: int) -> None:
    mixed, rescale = normal(n, 1500, seed=0), normal(n, seed=1)
    rescale[0] = 1.0
    expected = mixed * rescale[:, None]
    kernels.rescale_rows(mixed, rescale)
    torch.testing.assert_close(mixed, expected)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("n", "columns"), [(1, 977), (3, 1), (2, 5000)])
def test_gradient_block_matches_softmax(n: int, columns: int, dtype: torch.dtype, with_bias: bool) -> None:
    scores, d_p = normal(n, columns, seed=0), normal(n, columns, seed=1)
    bias = normal(columns, seed=2) if with_bias else None
    log_total, expected = normal(n, seed=3) + 3, normal(n, seed=4)
    around, p = poisoned(n, columns, dtype)
    around_d, d_scores = poisoned(n, columns, dtype)
    kernels.gradient_block(scores, bias, 0.7, log_total, d_p, expected, p, d_scores)

    share = ((scores.double() + (0 if bias is None else bias.double())) / 0.7 - log_total.double()[:, None]).exp()
    gradient = share * (d_p.double() - expected.double()[:, None]) / 0.7
    assert relative_error(p, share) < TOLERANCES[dtype]
    assert relative_error(d_scores, gradient) < TOLERANCES[dtype]
    assert around[:, columns:].isnan().all()
    assert around_d[:, columns:].isnan().all()
    kernels.gradient_block(scores, bias, 0.7, log_total, d_p, expected, None, d_p)  # in place, coefficients not wanted
    assert relative_error(d_p, gradient) < 1e-5


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("n", "t", "h"), [(1, 977, 5), (3, 128, 70), (2, 7, 3), (130, 300, 4)])
def test_top_candidates_are_the_largest_of_each_tile(
    n: int, t: int, h: int, dtype: torch.dtype, with_bias: bool
) -> None:
    hidden, weight = normal(n, h, seed=0, dtype=dtype), normal(t, h, seed=1, dtype=dtype)
    bias = normal(t, seed=2, dtype=dtype) if with_bias else None
    tiles = -(-t // kernels.TILE_ROWS)
    values = torch.full((n, tiles, kernels.CANDIDATES), torch.nan, device=DEVICE)
    rows = torch.full(values.shape, -1, dtype=torch.int32, device=DEVICE)
    log_total = kernels.top_candidates(hidden, weight, bias, 0.7, values, rows)

    exact = (hidden.double() @ weight.double().T + (0 if bias is None else bias.double())) / 0.7
    padded = torch.nn.functional.pad(exact, (0, tiles * kernels.TILE_ROWS - t), value=-torch.inf)
    largest = padded.unflatten(1, (tiles, -1)).topk(kernels.CANDIDATES, dim=2).values
    torch.testing.assert_close(values.double(), largest, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(padded.gather(1, rows.flatten(1).long()), largest.flatten(1), rtol=1e-5, atol=1e-4)
    assert relative_error(log_total, exact.logsumexp(dim=1)) < 1e-5


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("n", "t", "d", "k"), [(1, 977, 3, 1), (5, 977, 1500, 4)])
def test_sum_of_rows_matches_torch(n: int, t: int, d: int, k: int, dtype: torch.dtype) -> None:
    embeddings, values = normal(t, d, seed=0, dtype=dtype), normal(n, k, seed=1)
    rows = torch.randint(t, (n, k), generator=torch.Generator().manual_seed(2)).to(DEVICE)
    around, out = poisoned(n, d, dtype)
    kernels.sum_of_rows(values, rows, embeddings, out)
    expected = (values.double()[:, :, None] * embeddings.double()[rows]).sum(dim=1)
    assert relative_error(out, expected) < TOLERANCES[dtype]
    assert around[:, d:].isnan().all()


@pytest.mark.usefixtures("_kernels")
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_mix_with_kernels_matches_the_reference(
    shape: tuple[int, ...], dtype: torch.dtype, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed, "operand_dtype", lambda dtype, *_: dtype)  # bfloat16 between products, as on a GPU
    n, t, h, d = shape
    sizes = [(n, h), (t, h), (t, d), (t,)]
    leaves = [normal(*size, seed=i, dtype=dtype).requires_grad_() for i, size in enumerate(sizes)]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    hidden, weight, embeddings, bias = exact
    expected = ((hidden @ weight.T + (bias if with_bias else 0)) / 0.7).softmax(dim=1) @ embeddings
    hidden, weight, embeddings, bias = leaves
    found = mix(hidden, weight, embeddings, head="softmax", bias=bias if with_bias else None, temperature=0.7)
    assert found.dtype == dtype
    assert found.shape == (n, d)
    assert relative_error(found, expected) < TOLERANCES[dtype]

    up = normal(n, d, seed=9, dtype=dtype)
    found.backward(up)
    expected.backward(up.double())
    for leaf, reference in list(zip(leaves, exact, strict=True))[: 4 if with_bias else 3]:
        assert leaf.grad is not None
        assert reference.grad is not None
        if t > 1:  # with one row the coefficients are all 1, and gradients are 0 but for rounding
            assert relative_error(leaf.grad, reference.grad) < TOLERANCES[dtype]


@pytest.mark.parametrize("with_kernels", [True, False], ids=["kernels", "torch"])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_two_passes_match_the_reference(
    shape: tuple[int, ...], dtype: torch.dtype, with_bias: bool, with_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(two_pass, "_PATCHES", 3)
    monkeypatch.setattr(two_pass, "_ROWS", 300)
    if with_kernels:
        monkeypatch.setattr(two_pass, "operand_dtype", lambda dtype, *_: dtype)  # as on a GPU
    n, t, h, d = shape
    hidden, weight, embeddings, bias = (
        normal(*size, seed=i, dtype=dtype) for i, size in enumerate([(n, h), (t, h), (t, d), (t,)])
    )
    given = bias if with_bias else None
    found = two_pass.two_pass_softmax_mix(hidden, weight, embeddings, given, 0.7, kernels=with_kernels)
    scores = hidden.double() @ weight.double().T + (bias.double() if with_bias else 0)
    assert found.dtype == dtype
    assert relative_error(found, (scores / 0.7).softmax(dim=1) @ embeddings.double()) < TOLERANCES[dtype]


@pytest.mark.usefixtures("_kernels")
def test_large_scores_and_excluded_rows_give_no_nan() -> None:
    hidden, weight, embeddings, bias = (normal(*size, seed=0) for size in [(4, 5), (977, 5), (977, 3), (977,)])
    hidden, bias[:500] = 1e4 * hidden, -torch.inf  # the first blocks hold nothing else
    found = mix(hidden, weight, embeddings, head="softmax", bias=bias)
    expected = (hidden.double() @ weight.double().T + bias.double()).softmax(dim=1) @ embeddings.double()
    assert relative_error(found, expected) < 1e-5


@pytest.fixture
def _half(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 stays bfloat16 in the product that the candidates come from, as on a GPU."""
    monkeypatch.setattr(top, "operand_dtype", lambda dtype, *_: dtype)


@pytest.mark.usefixtures("_kernels", "_half")
@pytest.mark.parametrize("k", [1, 7, 16])
def test_top_coefficients_with_kernels_are_exact(k: int, with_bias: bool) -> None:
    hidden, weight, bias = (normal(*size, seed=i).bfloat16() for i, size in enumerate([(5, 6), (977, 6), (977,)]))
    given = bias if with_bias else None
    values, rows = top_coefficients(hidden, weight, k, head="softmax", bias=given, temperature=0.7)
    p = ((hidden.double() @ weight.double().T + (0 if given is None else given.double())) / 0.7).softmax(dim=1)
    assert relative_error(values, p.topk(k).values) < 1e-5
    assert relative_error(p.gather(1, rows), p.topk(k).values) < 1e-5

    embeddings = normal(977, 33, seed=3, dtype=torch.bfloat16)
    found = mix(hidden, weight, embeddings, head="softmax", bias=given, temperature=0.7, top=k)
    kept = p.gather(1, rows)
    expected = (kept[:, :, None] * embeddings.double()[rows]).sum(dim=1) / kept.sum(dim=1, keepdim=True)
    assert relative_error(found, expected) < 1e-2


@pytest.mark.usefixtures("_kernels", "_half")
def test_patches_whose_largest_share_a_tile_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[int] = []
    in_blocks = top._in_blocks
    monkeypatch.setattr(top, "_in_blocks", lambda hidden, *rest: again.append(len(hidden)) or in_blocks(hidden, *rest))
    hidden, weight = torch.eye(2, 3).bfloat16().to(DEVICE), normal(977, 3, seed=1, dtype=torch.bfloat16)
    weight[:8, 0] = torch.arange(20, 28)  # the eight largest of the first patch: one tile gives only four
    weight[::100, 1] = torch.arange(20, 30)  # those of the second: each in its own tile, but for two
    values, rows = top_coefficients(hidden, weight, 8, head="linear")
    assert again == [1]
    assert rows.tolist() == [[7, 6, 5, 4, 3, 2, 1, 0], [900, 800, 700, 600, 500, 400, 300, 200]]
    assert values.tolist() == [[27, 26, 25, 24, 23, 22, 21, 20], [29, 28, 27, 26, 25, 24, 23, 22]]
