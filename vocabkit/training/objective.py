"""What a training minimises: the caption loss of an LVLM, and the word loss of its head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocabkit.adapter import LangBridgeAdapter
from vocabkit.errors import VocabkitError
from vocabkit.lvlm import LVLM, adapter_within, caption_loss
from vocabkit.training.dataset import Images, Item
from vocabkit.vision import VisionEncoder
from vocabkit.word_loss import word_loss


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
        captions = caption_loss(self.lvlm.llm, item.batch, self.lvlm.visual_tokens(features)).sum() if caption else zero
        return captions, self._word_loss(features, item.words) if words else zero

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(I, N, Dv) features as they are, or of (I, 3, H, W) pixels."""
        return self._images(images) if isinstance(self._images, VisionEncoder) and images.ndim == 4 else images

    def _word_loss(self, features: Tensor, words: list[dict[int, float]]) -> Tensor:
        adapter = head_of(self.lvlm)
        hidden = adapter.hidden(features.to(self.lvlm.connector_dtype))
        head, temperature = adapter.head, adapter.config.temperature
        return word_loss(hidden, head.weight, head.bias, temperature, words, entropy=self._entropy)


def head_of(lvlm: LVLM) -> LangBridgeAdapter:
    """The adapter with the softmax head of an LVLM. Raises VocabkitError: it has none."""
    adapter = adapter_within(lvlm.connector)
    if not isinstance(adapter, LangBridgeAdapter) or adapter.config.head != "softmax":
        raise VocabkitError("the word loss needs an adapter with a softmax head; set word_steps and word_weight to 0")
    return adapter
