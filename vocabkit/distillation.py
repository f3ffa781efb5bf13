"""Distillation: a stock two-layer projector that imitates a transferred adapter with a softmax head.

A softmax does not fold (see `fold`), so programs that know LLaVA can't hold it. For one LLM, a projector `linear_1`,
GELU, `linear_2` can be fitted to its visual tokens instead: only approximately, and for pictures like those it saw.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from vocabkit.adapter import MLPProjector
from vocabkit.adapter_config import DistilledFrom, MLPConfig, vision_of
from vocabkit.errors import VocabkitError
from vocabkit.features import Features
from vocabkit.fold import why_not_foldable
from vocabkit.lvlm import check_vision
from vocabkit.tensor_files import fingerprint
from vocabkit.transferred import TransferredAdapter

HELD_OUT = 0.1
"""Share of the pictures that the error is measured on."""
PATCHES = 1024
"""Of a step."""
LEARNING_RATE, WARMUP = 2e-3, 0.05
NOISE = 0.5
"""Standard deviation of what is added to standardised features; the adapter says what is right for them, too. It keeps
a projector from learning its pictures by heart."""
_SAMPLE = 8 * PATCHES
"""Patches that means and deviations are measured on."""


@dataclass(frozen=True)
class Distillation:
    """How a projector was fitted, and how well."""

    llm: str
    """The LLM that it gives visual tokens for."""
    pictures: int
    """Different ones that it was fitted on."""
    held_out: int
    """Different ones that it was not fitted on."""
    relative_error: float
    """Squared error of the visual tokens of the held-out pictures, relative to their variance: 0 is perfect, 1 is what
    their mean would do."""


def distil(
    transferred: TransferredAdapter,
    features: Features,
    *,
    keys: Iterable[str] | None = None,
    steps: int = 2000,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[MLPProjector, Distillation]:
    """Fit a projector with as many hidden units as the LLM is wide, as Llava has it, to the tokens of `transferred`.

    Minimises the mean squared error with AdamW (a short warm-up, then a cosine) on patches drawn at random, with noise.
    Equal pictures are taken once, so none of the held-out ones is among the others. Same arguments, same result.

    Args:
        keys: of the pictures in `features`; by default all of them.
        progress: called with (steps done, steps in total).

    Returns the projector in the dtype of the adapter's embeddings, with `config.distilled_from`, and the figures.

    Raises VocabkitError: a head that folds, features of another width or not in the cache, fewer than two different
    pictures, visual tokens that are all equal, or a fit that diverges.
    """
    _check(transferred, features)
    generator = torch.Generator().manual_seed(seed)
    held, seen = _split(features, sorted(set(features.keys if keys is None else keys)), generator)
    source = transferred.config
    tensors = {name: tensor.to(device, torch.float32) for name, tensor in transferred.state_dict().items()}
    teacher = TransferredAdapter.from_parts(Path(source.target), source, tensors, transferred.shared)
    config = MLPConfig(
        vision_width=features.width,
        hidden_width=source.target_width,
        llm_width=source.target_width,
        llm=source.target,
        **vision_of(source.adapter),
    )
    student = _fitted(teacher, config, features, seen, steps, seed, generator, progress).to(
        transferred.embeddings.dtype
    )
    error = _relative_error(student, teacher, features, held)
    distilled = DistilledFrom(fingerprint(transferred.config, transferred.state_dict()), source.adapter.llm, error)
    student = MLPProjector.from_parts(
        Path(config.llm), replace(config, distilled_from=distilled), student.cpu().state_dict(), None
    )
    return student, Distillation(config.llm, len(seen), len(held), error)


def _check(transferred: TransferredAdapter, features: Features) -> None:
    head = transferred.config.adapter.head
    if why_not_foldable(head) is None:
        raise VocabkitError(f"a {head} head folds exactly, nothing is to be distilled: `vocabkit transfer --export`")
    check_vision(transferred, features.encoder, features.folder)


def _split(features: Features, keys: Sequence[str], generator: torch.Generator) -> tuple[list[str], list[str]]:
    """A key of each different picture, at random: those that are held out, and the others."""
    distinct: dict[bytes, str] = {}
    for key in keys:
        distinct.setdefault(hashlib.blake2b(features[key].contiguous().numpy().data, digest_size=16).digest(), key)
    if len(distinct) < 2:
        raise VocabkitError(f"{features.folder}: {len(distinct)} different pictures to fit a projector on; give more")
    ordered = list(distinct.values())
    order = [ordered[number] for number in torch.randperm(len(ordered), generator=generator).tolist()]
    count = max(1, round(HELD_OUT * len(order)))
    return order[:count], order[count:]


def _drawn(features: Features, keys: Sequence[str], count: int, generator: torch.Generator) -> Tensor:
    """(count, Dv) patches of these pictures, float32."""
    pictures = torch.randint(len(keys), (count,), generator=generator).tolist()
    patches = torch.randint(features.tokens, (count,), generator=generator).tolist()
    return torch.stack([features[keys[p]][n] for p, n in zip(pictures, patches, strict=True)]).float()


def _fitted(
    teacher: TransferredAdapter,
    config: MLPConfig,
    features: Features,
    keys: Sequence[str],
    steps: int,
    seed: int,
    generator: torch.Generator,
    progress: Callable[[int, int], None],
) -> MLPProjector:
    """Inputs and targets are standardised while it is fitted, which afterwards goes into its weights."""
    device = teacher.embeddings.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = MLPProjector(config).to(device)
    sample = _drawn(features, keys, _SAMPLE, generator).to(device)
    with torch.no_grad():
        tokens = torch.cat([teacher(part) for part in sample.split(PATCHES)])  # (S, Dv) -> (S, D)
    shift, spread = sample.mean(dim=0), sample.std(dim=0).clamp_min(1e-6)  # (Dv,), (Dv,)
    centre = tokens.mean(dim=0)  # (D,)
    size = (tokens - centre).square().mean().sqrt()
    if size <= 1e-5 * tokens.square().mean().sqrt():  # which is rounding
        raise VocabkitError(f"{features.folder}: the adapter gives all patches the same visual token; nothing to fit")
    optimizer = torch.optim.AdamW(student.parameters(), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=max(steps, 2), pct_start=WARMUP, cycle_momentum=False
    )
    for step in range(steps):
        drawn = _drawn(features, keys, PATCHES, generator).to(device)
        drawn += NOISE * spread * torch.randn(drawn.shape, generator=generator).to(device)
        with torch.no_grad():
            wanted = (teacher(drawn) - centre) / size  # (PATCHES, D)
        loss = mse_loss(student((drawn - shift) / spread), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress(step + 1, steps)
    if not math.isfinite(loss.item()):
        raise VocabkitError("the fit diverged; are the features those of the adapter's vision model?")
    with torch.no_grad():
        student.linear_1.weight /= spread
        student.linear_1.bias.sub_(student.linear_1.weight @ shift)  # (H, Dv) @ (Dv,) -> (H,)
        student.linear_2.weight *= size
        student.linear_2.bias.mul_(size).add_(centre)
    return student


@torch.no_grad()
def _relative_error(
    student: MLPProjector, teacher: TransferredAdapter, features: Features, keys: Sequence[str]
) -> float:
    squared, total, squares, count = 0.0, torch.zeros(()), 0.0, 0
    device = teacher.embeddings.device
    for key in keys:
        shown = features[key].to(device)
        wanted = teacher(shown.float()).double()  # (N, Dv) -> (N, D)
        squared += float((student(shown.to(student.linear_1.weight.dtype)).double() - wanted).square().sum())
        total, squares, count = (
            total + wanted.sum(dim=0).cpu(),
            squares + float(wanted.square().sum()),
            count + len(wanted),
        )
    variance = squares - float(total.square().sum()) / count
    return squared / max(variance, torch.finfo(torch.float64).tiny)
