"""Distil a transferred adapter that does not fold into a stock two-layer projector.

A softmax does not fold (see `fold`). A linear head folds into as many hidden units as its adapter has, which may be
more than a Llava projector can hold. For one LLM, a projector `linear_1`, GELU, `linear_2` can be fitted to the visual
tokens instead: only approximately, and for pictures like those it saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import gelu, mse_loss

from vocabkit.adapter.config import DistilledFrom, why_not_foldable
from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector
from vocabkit.adapter.partners import check_encoder
from vocabkit.errors import VocabkitError
from vocabkit.files.progress import Progress, no_progress
from vocabkit.transfer.fold import folded_config
from vocabkit.vision.features import Features

HELD_OUT, MOST_HELD_OUT = 0.1, 1000
"""Share of the pictures that the error is measured on, and their largest number."""
PATCHES = 1024
"""Patches of a step."""
LEARNING_RATE, WARMUP = 2e-3, 0.05
"""Peak learning rate of AdamW, and the share of the steps in which it rises."""
NOISE = 0.5
"""Standard deviation of the noise on standardised features. The adapter labels noisy features as well, so the noise
keeps a projector from memorising its pictures."""
FLOOR = 0.1
"""Smallest deviation that a feature is divided by, as a share of the overall deviation. A feature that hardly varies in
the sample would otherwise outweigh all others in the first picture where it does."""
RIDGE = 1e-3
"""Penalty on the first `linear_2`, relative to the mean square of a hidden unit."""
_PER_UNIT = 16
"""Patches per hidden unit that the first `linear_2` is solved on: well above one, so that it is overdetermined."""
_SAMPLE = 8 * PATCHES
"""Patches that means and deviations are measured on."""


@dataclass(frozen=True)
class Distillation:
    """How a projector was fitted, and how well."""

    llm: str
    """The LLM that it gives visual tokens for."""
    pictures: int
    """Distinct pictures that the projector was fitted on."""
    held_out: int
    """Distinct pictures that the error is measured on."""
    relative_error: float
    """Squared error of the visual tokens of held-out pictures, relative to always giving the mean token of the other
    pictures: 0 is perfect, 1 is no better than the mean token."""

    @property
    def warning(self) -> str | None:
        """Why not to use the projector; None if it beats the mean token."""
        if self.relative_error < 1:
            return None
        return (
            f"relative error {self.relative_error:.3f}: no better than the mean token for every patch; do not use this "
            "projector, but fit one on more pictures like those that it is for"
        )


def distil(
    transferred: LangBridgeAdapter,
    features: Features,
    *,
    keys: Iterable[str] | None = None,
    hidden_width: int | None = None,
    steps: int = 2000,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress = no_progress,
) -> tuple[MLPProjector, Distillation]:
    """Fit a projector to the visual tokens of `transferred`.

    It starts from the most important hidden units of the adapter, and the `linear_2` of least squared error for them,
    in closed form. Then AdamW (a short warm-up, then a cosine) lowers the mean squared error of both layers. All on
    patches drawn at random, with noise. Equal pictures count once, so no held-out picture is also fitted on. The same
    arguments give the same result.

    Args:
        keys: the pictures of `features` to use; by default all of them.
        hidden_width: hidden units; by default as many as the LLM is wide, as in Llava.
        progress: reports the batches of the start and the steps.

    Returns:
        The projector in the dtype of the adapter's embeddings, with `config.distilled_from`, and its error.

    Raises:
        VocabkitError: an adapter that folds, features of another encoder or not in the cache, fewer than two distinct
            pictures, visual tokens that are all equal, or a fit that diverges.
    """
    check_distillable(transferred, features)
    generator = torch.Generator().manual_seed(seed)
    held, seen = _split(features, sorted(set(features.keys if keys is None else keys)), generator)
    moved = transferred.config.transfer
    assert moved is not None
    tensors = {name: tensor.to(device, torch.float32) for name, tensor in transferred.state_dict().items()}
    teacher = LangBridgeAdapter.from_parts(Path(moved.target), transferred.config, tensors, transferred.shared)
    config = replace(folded_config(transferred.config), hidden_width=hidden_width or moved.target_width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = MLPProjector(config).to(device)
    mean = _fit(student, teacher, features, seen, steps, generator, progress)
    student = student.to(transferred.state_dict()["embeddings"].dtype)
    error = _relative_error(student, teacher, features, held, mean)
    distilled = DistilledFrom(transferred.fingerprint(), transferred.config.llm, error)
    student = MLPProjector.from_parts(
        Path(config.llm), replace(config, distilled_from=distilled), student.cpu().state_dict(), None
    )
    return student, Distillation(config.llm, len(seen), len(held), error)


def check_distillable(transferred: LangBridgeAdapter, features: Features) -> None:
    """Raise VocabkitError if `transferred` folds exactly, was not transferred, or takes other features."""
    adapter, width = transferred.config, transferred.llm_width
    if width is None:
        raise VocabkitError("the adapter was not transferred: it has no embedding rows; run `vocabkit transfer` first")
    if why_not_foldable(adapter.head) is None and adapter.hidden_width <= width:
        raise VocabkitError(
            f"a {adapter.head} head with {adapter.hidden_width} hidden units, no more than the LLM's width {width}, "
            "folds exactly; leave `features` out"
        )
    check_encoder(transferred.config, features.encoder, features.folder)


def _split(features: Features, keys: Sequence[str], generator: torch.Generator) -> tuple[list[str], list[str]]:
    """Return a key of each distinct picture, in random order: held-out pictures, then the others."""
    distinct = {features[key].data_ptr(): key for key in reversed(keys)}  # equal pictures share a row in memory
    if len(distinct) < 2:
        raise VocabkitError(f"{features.folder}: {len(distinct)} distinct pictures to fit a projector on; give more")
    ordered = sorted(distinct.values())
    order = [ordered[number] for number in torch.randperm(len(ordered), generator=generator).tolist()]
    count = min(max(1, round(HELD_OUT * len(order))), MOST_HELD_OUT)
    return order[:count], order[count:]


def _draw_patches(features: Features, keys: Sequence[str], count: int, generator: torch.Generator) -> Tensor:
    """(count, Dv) random patches of these pictures, float32."""
    pictures = torch.randint(len(keys), (count,), generator=generator).tolist()
    patches = torch.randint(features.tokens, (count,), generator=generator).tolist()
    return torch.stack([features[keys[p]][n] for p, n in zip(pictures, patches, strict=True)]).float()


def _fit(
    student: MLPProjector,
    teacher: LangBridgeAdapter,
    features: Features,
    keys: Sequence[str],
    steps: int,
    generator: torch.Generator,
    progress: Progress,
) -> Tensor:
    """Fit `student` in place and return the mean token (D,).

    Inputs and targets are standardised for the fit; afterwards the weights absorb both.
    """
    device = teacher.linear_1.weight.device
    sample = _draw_patches(features, keys, _SAMPLE, generator).to(device)
    with torch.no_grad():
        tokens = torch.cat([teacher(part) for part in sample.split(PATCHES)])  # (S, Dv) -> (S, D)
    shift, deviation = sample.mean(dim=0), sample.std(dim=0)  # (Dv,), (Dv,)
    spread = torch.maximum(deviation, FLOOR * deviation.square().mean().sqrt().clamp_min(1e-6))
    centre = tokens.mean(dim=0)  # (D,)
    size = (tokens - centre).square().mean().sqrt()
    if size <= 1e-5 * tokens.square().mean().sqrt():  # only rounding
        raise VocabkitError(f"{features.folder}: the adapter gives all patches the same visual token: nothing to fit")

    def draw() -> tuple[Tensor, Tensor]:
        """(PATCHES, Dv) with noise, and the adapter's tokens for them (PATCHES, D)."""
        drawn = _draw_patches(features, keys, PATCHES, generator).to(device)
        drawn += NOISE * deviation * torch.randn(drawn.shape, generator=generator).to(device)
        with torch.no_grad():
            return (drawn - shift) / spread, (teacher(drawn) - centre) / size

    _start(student, teacher, draw, sample, shift, spread, progress)
    optimizer = torch.optim.AdamW(student.parameters(), LEARNING_RATE, weight_decay=0.0)
    warmup = max(1.0, WARMUP * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    for step in range(steps):
        shown, wanted = draw()
        loss = mse_loss(student(shown), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress("steps", step + 1, steps)
    if not math.isfinite(loss.item()):
        raise VocabkitError("the fit diverged; are the features those of the adapter's vision model?")
    with torch.no_grad():
        student.linear_1.weight /= spread
        student.linear_1.bias.sub_(student.linear_1.weight @ shift)  # (H, Dv) @ (Dv,) -> (H,)
        student.linear_2.weight *= size
        student.linear_2.bias.mul_(size).add_(centre)
    return centre


@torch.no_grad()
def _start(
    student: MLPProjector,
    teacher: LangBridgeAdapter,
    draw: Callable[[], tuple[Tensor, Tensor]],
    sample: Tensor,
    shift: Tensor,
    spread: Tensor,
    progress: Progress,
) -> None:
    """Set `linear_1` to the adapter's hidden units with the largest effect, and solve for `linear_2`."""
    first, second, width = teacher.linear_1, teacher.linear_2, student.config.hidden_width
    effect = gelu(first(sample)).std(dim=0) * second.weight.norm(dim=0)  # (H',) of each unit on what follows
    units = effect.topk(min(len(effect), width)).indices
    student.linear_1.weight[: len(units)] = first.weight[units] * spread
    student.linear_1.bias[: len(units)] = first.bias[units] + first.weight[units] @ shift
    squares = torch.zeros(width + 1, width + 1, dtype=torch.float64, device=sample.device)
    products = torch.zeros(width + 1, student.config.llm_width, dtype=torch.float64, device=sample.device)
    batches = math.ceil(_PER_UNIT * width / PATCHES)
    for batch in range(batches):
        shown, wanted = draw()
        hidden = gelu(student.linear_1(shown)).double()  # (PATCHES, H)
        hidden = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)
        squares += hidden.T @ hidden
        products += hidden.T @ wanted.double()
        progress("start", batch + 1, batches)
    squares.diagonal().add_(RIDGE * squares.diagonal().mean())
    solved = torch.linalg.solve(squares, products)  # (H + 1, D)
    student.linear_2.weight.copy_(solved[:-1].T)
    student.linear_2.bias.copy_(solved[-1])


@torch.no_grad()
def _relative_error(
    student: MLPProjector, teacher: LangBridgeAdapter, features: Features, keys: Sequence[str], mean: Tensor
) -> float:
    squared = of_mean = 0.0
    for key in keys:
        shown = features[key].to(mean.device)
        wanted = teacher(shown.float()).double()  # (N, Dv) -> (N, D)
        found = student(shown.to(student.linear_1.weight.dtype)).double()
        squared += float((found - wanted).square().sum())
        of_mean += float((wanted - mean).square().sum())
    return squared / max(of_mean, torch.finfo(torch.float64).tiny)
