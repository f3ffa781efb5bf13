"""Training objective: the caption loss of an LVLM, or its distance from a teacher, and the word loss of its head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocabkit.adapter.model import Adapter, LangBridgeAdapter
from vocabkit.errors import VocabkitError
from vocabkit.llm.lvlm import LVLM, caption_loss, teacher_loss
from vocabkit.train.dataset import Images, Item
from vocabkit.train.word_loss import word_loss, word_loss_and_tokens
from vocabkit.vision.encoder import VisionEncoder


class Objective(nn.Module):
    """An LVLM in training: one module, so that a wrapper (DDP, FSDP2) sees all trained parameters."""

    def __init__(self, lvlm: LVLM, images: Images, *, teacher: Adapter | None = None, entropy: float = 0.0) -> None:
        """Wrap `lvlm`.

        Args:
            images: source of features; a frozen vision encoder computes them from pixels.
            teacher: another adapter for the same LLM, which is frozen. The caption loss is then the KL divergence from
                it.
            entropy: weight of the coefficients' entropy in the word loss.
        """
        super().__init__()
        self.lvlm = lvlm
        self._teacher = (teacher,)  # in a tuple: no part of this module, so that nothing saves or trains it
        self._images = images
        self._entropy = entropy
        self._no_split_modules = getattr(lvlm.llm, "_no_split_modules", None)  # accelerate shards by it under FSDP2

    def train(self, mode: bool = True) -> Objective:
        """Set the training mode, but keep a frozen LLM without dropout."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.lvlm.llm.parameters()):
            self.lvlm.llm.eval()
        return self

    def forward(self, item: Item, *, caption: bool, words: bool) -> tuple[Tensor, Tensor]:
        """Return the caption loss summed over answer tokens, and the word loss summed over images, in nats. A loss that
        was not asked for is 0.
        """
        features = self.features(item.batch.images)
        zero = torch.zeros((), device=features.device)
        word, visual = self._words_and_tokens(features, item.words, caption) if words else (zero, None)
        if not caption:
            return zero, word
        visual = self.lvlm.visual_tokens(features) if visual is None else visual
        (teacher,) = self._teacher
        if teacher is None:
            return caption_loss(self.lvlm.llm, item.batch, visual).sum(), word
        with torch.no_grad():
            wanted = teacher(features.to(next(teacher.parameters()).dtype))
        return teacher_loss(self.lvlm.llm, item.batch, visual, wanted).sum(), word

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(I, N, Dv) features unchanged, or computed from (I, 3, H, W) pixels."""
        return self._images(images) if isinstance(self._images, VisionEncoder) and images.ndim == 4 else images

    def _words_and_tokens(
        self, features: Tensor, words: list[dict[int, float]], tokens: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The word loss and, with `tokens`, the visual tokens."""
        adapter = head_of(self.lvlm)
        hidden = adapter.hidden(features.to(self.lvlm.connector_dtype))
        head = (hidden, adapter.head.weight, adapter.head.bias, adapter.config.temperature)
        if not tokens:
            return word_loss(*head, words, entropy=self._entropy), None
        loss, mixed = word_loss_and_tokens(*head, self.lvlm.rows(), words, entropy=self._entropy)
        return loss, mixed * adapter.scale


def head_of(lvlm: LVLM) -> LangBridgeAdapter:
    """Return the adapter of an LVLM. Raises VocabkitError: it has no softmax head."""
    adapter = lvlm.connector
    if not isinstance(adapter, LangBridgeAdapter) or adapter.config.head != "softmax":
        raise VocabkitError("the word loss needs an adapter with a softmax head; set word_steps and word_weight to 0")
    return adapter
