"""Element-wise steps between the two products of softmax mixing, in torch; `kernels` has the same in Triton.

The signatures list every buffer, as Triton kernels need it, so that the two modules are interchangeable.

Scores arrive as `hidden @ weight.T`; bias and temperature are applied here. B is the number of rows in a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROWTH = 8.0
"""How far scores may exceed a patch's reference before it is raised and the sums so far are rescaled. exp(8) is well
within the range of every dtype, and after the first block most patches need no rescaling."""


def softmax_block(
    scores: Tensor,
    bias: Tensor | None,
    temperature: float,
    reference: Tensor,
    total: Tensor,
    stored: Tensor,
    rescale: Tensor,
    p: Tensor,
) -> None:
    """Compute exponentials of one block of scores, relative to each patch's reference, which is raised if needed.

    Args:
        scores: (N, B), overwritten.
        bias: (B,) or None.
        reference: (N,), updated; starts at the lowest finite number.
        total: (N,) sum of the exponentials so far, updated.
        stored: (N,) the same sum of the values in `p`, which are rounded to its dtype.
        rescale: (N,), becomes the factor for sums relative to the previous reference.
        p: (N, B), becomes the exponentials; may be `scores` itself.
    """
    _finish(scores, bias, temperature)
    highest = scores.amax(dim=1)
    raised = torch.where(highest > reference + GROWTH, highest, reference)
    torch.sub(reference, raised, out=rescale).exp_()
    reference.copy_(raised)
    scores.sub_(raised[:, None]).exp_()
    total.mul_(rescale).add_(scores.sum(dim=1))
    if p is scores:
        stored.copy_(total)
    else:
        p.copy_(scores)
        stored.mul_(rescale).add_(p.sum(dim=1, dtype=stored.dtype))


def rescale_rows(mixed: Tensor, rescale: Tensor) -> None:
    """Multiply (N, D) by (N,) in place."""
    mixed.mul_(rescale[:, None])


def gradient_block(
    scores: Tensor,
    bias: Tensor | None,
    temperature: float,
    log_total: Tensor,
    d_p: Tensor,
    expected: Tensor,
    p: Tensor | None,
    d_scores: Tensor,
) -> None:
    """Compute the coefficients of one block and the gradient of `hidden @ weight.T`: P (dP - <dP, P>) / temperature.

    Args:
        scores: (N, B), overwritten.
        bias: (B,) or None.
        log_total: (N,) logarithm of the normaliser.
        d_p: (N, B) gradient of the coefficients, overwritten.
        expected: (N,) <dP, P>.
        p: (N, B) or None, becomes the coefficients; may be `scores`.
        d_scores: (N, B), becomes the gradient; may be `d_p`.
    """
    _finish(scores, bias, temperature)
    scores.sub_(log_total[:, None]).exp_()
    d_p.sub_(expected[:, None]).mul_(scores).div_(temperature)
    if p is not None and p is not scores:
        p.copy_(scores)
    if d_scores is not d_p:
        d_scores.copy_(d_p)


def _finish(scores: Tensor, bias: Tensor | None, temperature: float) -> None:
    if bias is not None:
        scores.add_(bias)
    if temperature != 1.0:
        scores.div_(temperature)
