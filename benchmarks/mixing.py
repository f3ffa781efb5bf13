"""Mixing at the hardware's limit: time, share of the measured GEMM peak and memory, beside the peers in the same run.

Softmax head: dense torch, scaled_dot_product_attention (hidden as queries, weight as keys, embeddings as values) and,
on CUDA, torch.compile of dense and FlexAttention, where they can run at these head sizes. Folded linear head: a plain
two-layer MLP. FLOPs forward are 2 N T (H + D); backward, with gradients to hidden and weight, 2 N T (3 H + D).

Patches look like those of a trained head: each is near four rows of the weight. On CUDA 32 images of 576 patches in
bfloat16, on a CPU one image in float32 at narrower widths. Where other programs load the machine, ratios say more than
seconds. Run: python benchmarks/mixing.py [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from claims import Claim, report
from torch import Tensor, nn
from torch.nn import functional

from vocabkit.adapter.config import MLPConfig
from vocabkit.adapter.mixing.choice import choose, elementwise_impl
from vocabkit.adapter.mixing.mix import coefficients, mix
from vocabkit.adapter.mixing.top import top_coefficients
from vocabkit.adapter.mixing.two_pass import two_pass_softmax_mix
from vocabkit.adapter.model import MLPProjector
from vocabkit.report.as_json import write_json

TOP = 64
TOLERANCE = 0.01
CHECKED = 16
"""Patches that are compared with float64."""
Work = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """Of one run."""

    patches: int
    rows: int
    hidden: int
    width: int
    vision: int = 1024


DEFAULTS = {"cuda": Sizes(18_432, 109_566, 1024, 4096), "cpu": Sizes(576, 109_566, 256, 1024)}


@dataclass(frozen=True)
class Result:
    """What --json writes."""

    device: str
    torch: str
    dtype: str
    sizes: Sizes
    paths: dict[str, str]
    gemm_peak: float
    """In TFLOP/s."""
    peakedness: str
    seconds: dict[str, float] = field(default_factory=dict)
    megabytes: dict[str, float] = field(default_factory=dict)
    """Peak beyond the operands."""
    errors: dict[str, float] = field(default_factory=dict)
    """Relative, against float64."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Peers that can't run here, and why."""
    claims: list[Claim] = field(default_factory=list)


def main() -> None:
    """Print each claim: ours, the peer, the ratio, the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="[bfloat16 on CUDA, else float32]")
    parser.add_argument("--rounds", type=int, default=5, help="best of so many, in turn [5]")
    parser.add_argument("--patches", type=int, help="[18,432 on CUDA, else 576]")
    parser.add_argument("--rows", type=int, help="[109,566]")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--claims", type=Path, help="write the claims alone to this file, too")
    options = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler, which counts memory on a CPU, is silent
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    dtype = getattr(torch, options.dtype or ("bfloat16" if on_gpu else "float32"))
    default = DEFAULTS["cuda" if on_gpu else "cpu"]
    sizes = Sizes(options.patches or default.patches, options.rows or default.rows, default.hidden, default.width)
    result = measure(device, dtype, sizes, options.rounds)
    report(result.claims, options.claims)
    if options.json:
        write_json(options.json, result)
        print(f"\nwritten to {options.json}")


def measure(device: torch.device, dtype: torch.dtype, sizes: Sizes, rounds: int) -> Result:
    """All of it, printed as it comes."""
    n, t, h, d = sizes.patches, sizes.rows, sizes.hidden, sizes.width
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, best of {rounds}")
    print(f"N = {n:,} patches, T = {t:,} rows, H = {h:,}, D = {d:,}, {_name(dtype)}")
    hidden, weight, embeddings, bias = operands(sizes, device, dtype)

    def path(head: Any, **approximation: Any) -> str:
        chosen = choose(head, n, t, h, d, hidden=dtype, embeddings=dtype, device=device, **approximation)
        return f"{chosen.path}: {chosen.reason}"

    values, _ = top_coefficients(hidden, weight, TOP, head="softmax", bias=bias)
    mass = f"{values.sum(dim=1).mean():.5f} of the mass on {TOP} rows, {values[:, 0].mean():.3f} on the largest"
    paths = {
        "softmax": path("softmax"),
        f"top-{TOP}": path("softmax", top=TOP),
        "bounded": path("softmax", tolerance=TOLERANCE),
        "linear": path("linear"),
    }
    for head, chosen in paths.items():
        print(f"  {head}: {chosen}")
    print(f"  peaked: {mass}")

    def dense(hidden: Tensor = hidden) -> Tensor:
        return torch.softmax(functional.linear(hidden, weight, bias).float(), dim=-1).to(dtype) @ embeddings

    def attention() -> Tensor:
        q, k, v = hidden[None, None], weight[None, None], embeddings[None, None]
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(n, t), scale=1.0)[0, 0]

    works: dict[str, Work] = {
        "streamed": lambda: mix(hidden, weight, embeddings, head="softmax", bias=bias),
        f"top-{TOP}": lambda: mix(hidden, weight, embeddings, head="softmax", bias=bias, top=TOP),
        "bounded": lambda: mix(hidden, weight, embeddings, head="softmax", bias=bias, tolerance=TOLERANCE),
        "dense": dense,
    }
    peers: dict[str, Work] = {"attention": attention}
    if on_gpu:  # on a CPU, scores that are computed twice can't pay
        kernels, _ = elementwise_impl(torch.float32, device)
        works["two passes"] = lambda: two_pass_softmax_mix(hidden, weight, embeddings, bias, 1.0, kernels=kernels)
        peers |= {"compiled dense": torch.compile(dense), "flex attention": _flex(hidden, weight, embeddings, bias)}
    left_out: dict[str, str] = {}
    for peer, work in peers.items():
        if reason := why_not(work):
            left_out[peer] = reason
        else:
            works[peer] = work
    forward = mix(hidden.requires_grad_(), weight.requires_grad_(), embeddings, head="softmax", bias=bias)
    up = torch.randn_like(forward)
    backward: Work = lambda: torch.autograd.grad(forward, (hidden, weight), up, retain_graph=True)  # noqa: E731

    with torch.no_grad():
        expected = exact(hidden, weight, embeddings, bias)
        errors = {key: relative_error(work()[:CHECKED], expected) for key, work in works.items()}  # type: ignore[index]
        megabytes = {key: peak_megabytes(work, device) for key, work in works.items()}
        seconds = best(works, device, rounds)
        several = {key: works[key] for key in ("streamed", "dense", f"top-{TOP}", "bounded")}
        processor = (
            {} if on_gpu else {key: 1e3 * s for key, s in best(several, device, rounds, time.process_time).items()}
        )
        linear = folded(sizes, device, dtype)
        for work in linear.values():
            work()
        seconds |= best(linear, device, 20 * rounds)
        peak = gemm_peak(device, dtype, rounds)
    backward()
    megabytes["backward"] = peak_megabytes(backward, device)
    seconds |= best({"backward": backward}, device, rounds)

    flops, back = 2 * n * t * (h + d) / 1e12, 2 * n * t * (3 * h + d) / 1e12
    throughput = {key: n / each for key, each in seconds.items()}
    tokens, topped = throughput["streamed"], throughput[f"top-{TOP}"]
    limit = dict(zip(("peak", "back", "top", "memory"), (0.75, 0.60, 3.0, 1.0) if on_gpu else (None,) * 4, strict=True))
    claims = [
        Claim("mixing, streamed, share of GEMM peak", flops / seconds["streamed"], peak, "TF/s", limit["peak"], True),
        Claim("mixing, backward, share of GEMM peak", back / seconds["backward"], peak, "TF/s", limit["back"], True),
        Claim("mixing, streamed, throughput beside dense", tokens, throughput["dense"], "/s", 0.9, True),
        Claim(f"mixing, top-{TOP}, throughput beside dense", topped, throughput["dense"], "/s", limit["top"], True),
        Claim("folded linear, time beside an MLP", 1e3 * seconds["folded"], 1e3 * seconds["mlp"], "ms", 1.05),
        Claim("mixing, streamed, memory", megabytes["streamed"], 1500, "MB", limit["memory"]),
        Claim("mixing, streamed, memory beside dense", megabytes["streamed"], megabytes["dense"], "MB", 0.1),
    ]
    if "two passes" in seconds:
        claims.append(
            Claim("mixing, two passes, share of GEMM peak", flops / seconds["two passes"], peak, "TF/s", 0.75, True)
        )
    if processor:  # tells of a loaded machine, too
        streamed = processor["streamed"]
        claims += [
            Claim("mixing, streamed, processor time beside dense", streamed, processor["dense"], "ms", 1.11),
            Claim(f"mixing, top-{TOP}, processor time beside streamed", processor[f"top-{TOP}"], streamed, "ms", 0.3),
            Claim("mixing, bounded, processor time beside streamed", processor["bounded"], streamed, "ms", 0.3),
        ]
    claims += [
        Claim(f"mixing, {peer}, share of GEMM peak", flops / seconds[peer], peak, "TF/s")
        for peer in ("dense", *peers)
        if peer in works
    ]
    claims += [
        Claim(f"mixing, streamed, throughput beside {peer}", tokens, throughput[peer], "/s")
        for peer in peers
        if peer in works
    ]
    _print(seconds, megabytes, errors, left_out, peak)
    return Result(
        name, torch.__version__, _name(dtype), sizes, paths, peak, mass, seconds, megabytes, errors, left_out, claims
    )


def operands(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden (N, H), each row near four rows of weight (T, H); embeddings (T, D); bias (T,)."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    weight = functional.normalize(normal(sizes.rows, sizes.hidden), dim=1)
    chosen = torch.randint(sizes.rows, (4, sizes.patches), generator=generator, device=device)
    strengths = (26.0, 25.0, 24.0, 23.0)
    hidden = sum(strength * weight[rows] for strength, rows in zip(strengths, chosen, strict=True))
    assert isinstance(hidden, Tensor)
    return hidden, weight, 0.02 * normal(sizes.rows, sizes.width), 0.1 * normal(sizes.rows)


def folded(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> dict[str, Work]:
    """The projector that a linear head folds into, and a plain two-layer MLP."""
    config = MLPConfig(sizes.vision, sizes.hidden, sizes.width, llm="llama3")
    projector = MLPProjector(config).to(device, dtype)
    mlp = nn.Sequential(nn.Linear(sizes.vision, sizes.hidden), nn.GELU(), nn.Linear(sizes.hidden, sizes.width))
    mlp = mlp.to(device, dtype)
    features = torch.randn(sizes.patches, sizes.vision, device=device, dtype=dtype)
    return {"folded": lambda: projector(features), "mlp": lambda: mlp(features)}


def _flex(hidden: Tensor, weight: Tensor, embeddings: Tensor, bias: Tensor) -> Work:
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention)

    def shifted(score: Tensor, _b: Tensor, _h: Tensor, _q: Tensor, row: Tensor) -> Tensor:
        return score + bias[row]

    def work() -> Tensor:
        q, k, v = hidden[None, None], weight[None, None], embeddings[None, None]
        found: Tensor = compiled(q, k, v, score_mod=shifted, scale=1.0)[0, 0]
        return found

    return work


@torch.no_grad()
def why_not(work: Work) -> str | None:
    """The first line of what stops a peer, or None if it runs. The first run also compiles it."""
    try:
        work()
    except Exception as error:  # whatever a compiler or an unsupported size raises
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:160]
    return None


def exact(hidden: Tensor, weight: Tensor, embeddings: Tensor, bias: Tensor) -> Tensor:
    """The first patches in float64."""
    p = coefficients(hidden[:CHECKED].double(), weight.double(), head="softmax", bias=bias.double())
    return p @ embeddings.double()  # (16, T) @ (T, D) -> (16, D)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Of the whole, by Frobenius norms."""
    return float((found.double() - expected).norm() / expected.norm())


def gemm_peak(device: torch.device, dtype: torch.dtype, rounds: int) -> float:
    """TFLOP/s of the fastest of three square products."""
    found = []
    for size in (4096, 8192, 16384) if device.type == "cuda" else (512, 1024, 2048):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        work: Work = lambda a=a, b=b, out=out: torch.mm(a, b, out=out)  # type: ignore[misc]  # noqa: E731
        work()
        found.append(2 * size**3 / 1e12 / best({"gemm": work}, device, rounds)["gemm"])
    return max(found)


def best(
    works: dict[str, Work], device: torch.device, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Seconds of each, the least of several rounds, one after the other in turn. Each has run before."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            _wait(device)
            start = clock()
            work()
            _wait(device)
            times[name].append(clock() - start)
    return {name: min(each) for name, each in times.items()}


def peak_megabytes(work: Work, device: torch.device) -> float:
    """Millions of bytes that tensors take at most while `work` runs, beyond those from before."""
    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        _wait(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    results = profile.profiler.kineto_results  # type: ignore[union-attr]
    changes = sorted((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]")
    return max(accumulate((size for _, size in changes), initial=0)) / 1e6


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _print(
    seconds: dict[str, float],
    megabytes: dict[str, float],
    errors: dict[str, float],
    left_out: dict[str, str],
    peak: float,
) -> None:
    print(f"\nGEMM peak, measured: {peak:.2f} TFLOP/s\n")
    print(f"{'':20s}{'ms':>10s}{'MB':>10s}{'error':>10s}")
    for name, each in seconds.items():
        memory = f"{megabytes[name]:10,.0f}" if name in megabytes else f"{'':10s}"
        error = f"{errors[name]:10.1e}" if name in errors else ""
        print(f"{name:20s}{1e3 * each:10.2f}{memory}{error}")
    for name, reason in left_out.items():
        print(f"{name:20s}can't run here: {reason}")


if __name__ == "__main__":
    main()
