"""Held-out samples as an LLM reads them, and what is shown to it in the places of their images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vocabkit.data import Sample
from vocabkit.errors import VocabkitError
from vocabkit.features import Features
from vocabkit.llms import LLM
from vocabkit.lvlm import LVLM
from vocabkit.prompts import IMAGE_ID, Prompt, Template, encode_sample

LONGEST_PROMPT = 2048
"""Of a sample, its visual tokens included."""

VisualTokens = Callable[[Tensor], Tensor]
"""From the numbers (I,) of images to their visual tokens (I, N, D)."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Samples ready for one LLM."""

    prompts: Sequence[Prompt]
    keys: Sequence[str]
    """Of all images, in the order of the prompts."""
    features: Features

    @cached_property
    def first_images(self) -> np.ndarray:
        """(S + 1,) the number of the first image of each prompt, and of all images."""
        counts = [prompt.ids.count(IMAGE_ID) // self.features.tokens for prompt in self.prompts]
        return np.concatenate([[0], np.cumsum(counts)])

    def features_of(self, numbers: Tensor) -> Tensor:
        """(I,) numbers of images -> (I, N, Dv), float32."""
        found = [self.features[self.keys[number]].float() for number in numbers.tolist()]
        shape = (0, self.features.tokens, self.features.width)
        return torch.stack(found) if found else torch.empty(shape)


def prepare(
    llm: LLM, samples: Sequence[Sample], features: Features, template: Template
) -> tuple[HeldOut, list[Sample]]:
    """Samples with images as `llm` reads them, and those of them that can be used.

    Raises VocabkitError: none can.
    """
    prompts, kept, reason = [], [], "no images"
    for sample in samples:
        missing = [picture.key for picture in sample.images if picture.key not in features]
        if missing or not sample.images:
            reason = f"no features of {missing[0]}" if missing else reason
            continue
        try:
            prompts.append(
                encode_sample(llm.tokenizer, sample.turns, template, features.tokens, longest=LONGEST_PROMPT)
            )
        except VocabkitError as error:
            reason = str(error)
            continue
        kept.append(sample)
    if not kept:
        raise VocabkitError(f"none of {len(samples)} samples can be used ({reason})")
    keys = [picture.key for sample in kept for picture in sample.images]
    return HeldOut(prompts, keys, features), kept


def shown_by(lvlm: LVLM, held: HeldOut) -> VisualTokens:
    """The visual tokens of an adapter."""
    return lambda numbers: lvlm.visual_tokens(held.features_of(numbers).to(lvlm.llm.device))
