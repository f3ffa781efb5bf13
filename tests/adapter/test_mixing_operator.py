"""Streamed softmax mixing as operators of torch.library: registered soundly, one node of a compiled graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vocabkit.adapter.mixing import softmax as streamed
from vocabkit.adapter.mixing.mix import mix
from vocabkit.adapter.mixing.products import explain_oom
from vocabkit.errors import VocabkitError


def operands(n: int = 5, t: int = 130, *, dtype: torch.dtype = torch.float32, grad: bool = True) -> list[Tensor]:
    """hidden, weight, embeddings, bias."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(n, 6), (t, 6), (t, 4), (t,)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_(grad) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
def test_operators_pass_opcheck(dtype: torch.dtype, with_bias: bool) -> None:
    hidden, weight, embeddings, bias = operands(dtype=dtype)
    given = bias if with_bias else None
    torch.library.opcheck(streamed.softmax_mix, (hidden, weight, embeddings, given, 0.7, False))
    h, w, e, b = operands(dtype=dtype, grad=False)
    mixed, log_total = streamed.softmax_mix(h, w, e, b if with_bias else None, 0.7, False)
    for wanted in ([True, True, True, with_bias], [True, False, False, False]):
        arguments = (mixed, h, w, e, b if with_bias else None, mixed, log_total, 0.7, False, wanted)
        torch.library.opcheck(streamed.softmax_mix_backward, arguments)


def test_only_wanted_gradients_are_returned() -> None:
    h, w, e, b = operands(grad=False)
    mixed, log_total = streamed.softmax_mix(h, w, e, b, 0.7, False)
    arguments = (mixed, h, w, e, b, mixed, log_total, 0.7, False)
    every = streamed.softmax_mix_backward(*arguments, [True] * 4)
    for at in range(4):
        (found,) = streamed.softmax_mix_backward(*arguments, [number == at for number in range(4)])
        assert torch.equal(found, every[at])


def test_compiled_graph_holds_one_operator_each_way() -> None:
    hidden, weight, embeddings, bias = operands(600, 8000)
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph

    def function(hidden: Tensor) -> Tensor:
        return mix(hidden, weight, embeddings, head="softmax", bias=bias)

    compiled = torch.compile(function, fullgraph=True, backend=keep)(hidden)
    names = [str(node.target) for graph in graphs for node in graph.graph.nodes if node.op == "call_function"]
    assert sum("softmax_mix" in name for name in names) == 1
    assert not any("mm" in name for name in names)
    torch.testing.assert_close(compiled, function(hidden))


@pytest.mark.parametrize("dynamic", [True, False])
def test_gradients_pass_through_a_compiled_graph(dynamic: bool) -> None:
    plain, compiled = operands(600, 8000), operands(600, 8000)

    def function(hidden: Tensor, weight: Tensor, embeddings: Tensor, bias: Tensor) -> Tensor:
        return mix(hidden, weight, embeddings, head="softmax", bias=bias, temperature=0.5).square().sum()

    torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)(*compiled).backward()
    function(*plain).backward()
    for found, expected in zip(compiled, plain, strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


def test_out_of_memory_raises_with_advice() -> None:
    @explain_oom
    def full() -> None:
        torch.empty(2**60, dtype=torch.uint8)

    @explain_oom
    def full_gpu() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1")

    for function in (full, full_gpu):
        with pytest.raises(VocabkitError, match=r"not enough memory.*fewer patches at a time") as caught:
            function()
        assert "\n" not in str(caught.value)


def test_other_errors_pass_through() -> None:
    @explain_oom
    def wrong() -> None:
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        wrong()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int32])
def test_unsupported_dtype_raises(dtype: torch.dtype) -> None:
    hidden, weight, embeddings, _ = operands(grad=False)
    with pytest.raises(VocabkitError, match=r"embeddings is .*convert it to bfloat16"):
        mix(hidden, weight, embeddings.to(dtype), head="softmax")


def test_tensors_on_different_devices_raise() -> None:
    hidden, weight, embeddings, _ = operands(grad=False)
    with pytest.raises(VocabkitError, match="embeddings is on meta, but hidden on cpu"):
        mix(hidden, weight, embeddings.to("meta"), head="softmax")
