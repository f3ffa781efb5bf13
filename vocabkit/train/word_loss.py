"""Word loss: an image's coefficients, averaged over its patches, must predict the tokens of its caption.

It teaches a softmax head which tokens name what a patch shows, without a pass through any LLM. A visual token then
becomes a sum of the embeddings of fitting words, which every LLM can read. The loss per image is

    - sum_t w_t log( mean_n p_nt ) + e mean_n H(p_n),    p_n = softmax(h_n W^T + b),    sum_t w_t = 1

over the tokens t of the caption. A token weighs more the rarer it is in the captions: by the fourth root of its inverse
document frequency, so that common words still count. The entropy H, in nats, makes each patch choose one word and leave
the others to other patches: LLMs read mixtures of many words badly.

Sizes: I images, N patches, V rows of V_shared, H hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vocabkit.adapter.mixing.products import accumulation_dtype

_BLOCK = 2**24
"""Scores (patches x rows) in memory at a time: 64 MiB in float32."""
RARITY = 0.25
"""Power of the inverse document frequency. At 1, the form of captions is not learned; at 0, names count too little."""


class CaptionWords:
    """The rows of V_shared in a caption, and their weights."""

    def __init__(self, captions: Iterable[Iterable[int]]) -> None:
        """Count in how many captions each row occurs.

        Args:
            captions: the rows of V_shared in each caption of the training data.
        """
        self._found: dict[int, int] = {}
        self._captions = 0
        self.without = 0
        """Captions that have no row at all."""
        for rows in map(set, captions):
            self._captions += 1
            self.without += not rows
            for row in rows:
                self._found[row] = self._found.get(row, 0) + 1

    @property
    def tell_apart(self) -> bool:
        """Whether some caption has a row that another lacks: otherwise no row has a weight."""
        return any(count < self._captions for count in self._found.values())

    def weights(self, rows: Iterable[int]) -> dict[int, float]:
        """Return row -> weight of a caption with these rows.

        Weights sum to 1; empty if it has no rows, or only rows of every caption.
        """
        rarity = {row: math.log(self._captions / self._found.get(row, 1)) ** RARITY for row in set(rows)}
        total = sum(rarity.values())
        return {row: value / total for row, value in rarity.items() if value > 0} if total > 0 else {}


def word_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    temperature: float,
    words: Sequence[dict[int, float]],
    *,
    entropy: float = 0.0,
) -> Tensor:
    """Return the sum of the loss above over images, in nats. The (I N, V) coefficients are never held in memory.

    Args:
        hidden: (I, N, H). The loss is computed in float32, or in float64 if `hidden` is. Autocast affects products.
        weight, bias: (V, H) and (V,) of the head.
        words: row -> weight for each image, from `CaptionWords.weights`.
        entropy: e above.
    """
    return _computed(hidden, weight, bias, temperature, None, words, entropy)[0]


def word_loss_and_tokens(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    temperature: float,
    embeddings: Tensor,
    words: Sequence[dict[int, float]],
    *,
    entropy: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the word loss, and the visual tokens (I, N, D) that `vocabkit.mix` gives, from the same scores.

    Autocast has no effect.

    Args:
        embeddings: (V, D), with or without gradients. Others as for `word_loss`.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        loss, tokens = _computed(hidden, weight, bias, temperature, embeddings, words, entropy)
    return loss, tokens.to(embeddings.dtype)


def _computed(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    temperature: float,
    embeddings: Tensor | None,
    words: Sequence[dict[int, float]],
    entropy: float,
) -> tuple[Tensor, Tensor]:
    dtype, (images, patches, _) = accumulation_dtype(hidden.dtype), hidden.shape
    hidden, weight, bias = hidden.to(dtype) / temperature, weight.to(dtype), bias.to(dtype) / temperature
    mixed = None if embeddings is None else embeddings.to(dtype)
    total, entropies, tokens = _softmax(hidden.flatten(0, 1), weight, bias, mixed, with_entropy=entropy > 0)
    tokens = tokens.unflatten(0, (images, patches))  # (I N, D) -> (I, N, D)
    spread = entropy * entropies.sum() / max(patches, 1)
    rows, targets = _targets(words, dtype)
    if not len(rows):
        return 0 * total.sum() + spread, tokens  # depends on all weights, as DDP requires
    rows, targets = rows.to(hidden.device), targets.to(hidden.device)
    # one gather for all images: each gather has a gradient as large as the head
    scores = functional.linear(hidden, weight[rows], bias[rows])  # (I, N, H) @ (H, K) -> (I, N, K)
    log_mean = (scores - total.view(images, patches, 1)).logsumexp(dim=1) - math.log(patches)  # (I, K)
    return spread - (targets * log_mean).sum(), tokens


def _targets(words: Sequence[dict[int, float]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(K,) the rows that any image is about, and (I, K) their weights for each image."""
    rows = sorted(set().union(*words))
    column = {row: number for number, row in enumerate(rows)}
    targets = torch.zeros(len(words), len(rows), dtype=dtype)
    for image, chosen in enumerate(words):
        for row, value in chosen.items():
            targets[image, column[row]] = value
    return torch.tensor(rows, dtype=torch.int64), targets


def _softmax(
    hidden: Tensor, weight: Tensor, bias: Tensor, embeddings: Tensor | None, *, with_entropy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for M patches, the (M,) logs of softmax normalisers, (M,) entropies (0 without `with_entropy`) and (M, D)
    mixes of embeddings, or (M, 0); computed a block at a time.
    """
    blocks = hidden.split(max(1, _BLOCK // len(weight)))

    def of_block(block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = functional.linear(block, weight, bias)
        total = scores.logsumexp(dim=1)
        if embeddings is None and not with_entropy:
            return total, torch.zeros_like(total), total.new_empty(len(total), 0)
        p = (scores - total[:, None]).exp()
        entropy = total - (p * scores).sum(dim=1) if with_entropy else torch.zeros_like(total)
        return total, entropy, total.new_empty(len(total), 0) if embeddings is None else p @ embeddings

    found = [checkpoint(of_block, block, use_reentrant=False) for block in blocks] if blocks[1:] else [of_block(hidden)]
    total, entropy, mixed = (torch.cat(parts) for parts in zip(*found, strict=True))
    return total, entropy, mixed
