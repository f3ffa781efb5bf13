"""What a training minimises: the caption loss of an LVLM, and the word loss of its head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.errors import VocabkitError
from vocabkit.llm.lvlm import LVLM, caption_loss
from vocabkit.train.dataset import Images, Item
from vocabkit.train.word_loss import word_loss, word_loss_and_tokens
from vocabkit.vision.encoder import VisionEncoder


class Objective(nn.Module):
    """An LVLM in training. One module, so that a wrapper of it (DDP, FSDP2) sees all that is trained."""

    def __init__(self, lvlm: LVLM, images: Images, *, entropy: float = 0.0) -> None:
        """Losses of `lvlm`; a frozen vision encoder in `images` computes features of pixels.

        Args:
            entropy: weight of the coefficients' entropy in the word loss.
        """
        super().__init__()
        self.lvlm = lvlm
        self._images = images
        self._entropy = entropy
        self._no_split_modules = getattr(lvlm.llm, "_no_split_modules", None)  # what accelerate shards by, under FSDP2

    def train(self, mode: bool = True) -> Objective:
        """As of any module; but an LLM that is frozen has no dropout."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.lvlm.llm.parameters()):
            self.lvlm.llm.eval()
        return self

    def forward(self, item: Item, *, caption: bool, words: bool) -> tuple[Tensor, Tensor]:
        """The sums of the caption loss over answer tokens and of the word loss over images, in nats; 0 if not asked."""
        features = self.features(item.batch.images)
        zero = torch.zeros((), device=features.device)
        word, visual = self._words_and_tokens(features, item.words, caption) if words else (zero, None)
        if not caption:
            return zero, word
        visual = self.lvlm.visual_tokens(features) if visual is None else visual
        return caption_loss(self.lvlm.llm, item.batch, visual).sum(), word

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(I, N, Dv) features as they are, or of (I, 3, H, W) pixels."""
        return self._images(images) if isinstance(self._images, VisionEncoder) and images.ndim == 4 else images

    def _words_and_tokens(
        self, features: Tensor, words: list[dict[int, float]], tokens: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The word loss and, if they are asked for, the visual tokens."""
        adapter = head_of(self.lvlm)
        hidden = adapter.hidden(features.to(self.lvlm.connector_dtype))
        head = (hidden, adapter.head.weight, adapter.head.bias, adapter.config.temperature)
        if not tokens:
            return word_loss(*head, words, entropy=self._entropy), None
        loss, mixed = word_loss_and_tokens(*head, self.lvlm.rows(), words, entropy=self._entropy)
        return loss, mixed * adapter.scale


def head_of(lvlm: LVLM) -> LangBridgeAdapter:
    """The adapter with the softmax head of an LVLM. Raises VocabkitError: it has none."""
    adapter = lvlm.connector
    if not isinstance(adapter, LangBridgeAdapter) or adapter.config.head != "softmax":
        raise VocabkitError("the word loss needs an adapter with a softmax head; set word_steps and word_weight to 0")
    return adapter
