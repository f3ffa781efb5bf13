"""Batches of a training: the samples of each step, and the tensors that they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vocabkit.data.samples import Picture, Sample
from vocabkit.errors import VocabkitError
from vocabkit.llm.lvlm import Batch, collate
from vocabkit.llm.prompts import Prompt, Template, encode_sample
from vocabkit.train.word_loss import CaptionWords
from vocabkit.vision.encoder import VisionEncoder
from vocabkit.vision.features import Features

Images = Features | VisionEncoder
"""Source of image features: the cache, or an encoder that computes them from pixels."""


@dataclass(frozen=True, eq=False)
class Item:
    """A micro-batch: what one process handles at a time."""

    batch: Batch
    words: list[dict[int, float]]
    """For each image, the rows of V_shared that its caption is about, and their weights."""
    skipped: list[str]
    """Why samples were skipped: an entry for each time."""

    def to(self, device: torch.device) -> Item:
        """The item on `device`."""
        return replace(self, batch=self.batch.to(device))


class CaptionData(Dataset[Item]):
    """Micro-batches of one process, in order. A recipe always gives the same ones, so that a training can resume."""

    def __init__(
        self,
        samples: Sequence[Sample],
        images: Images,
        tokenizer: Any,
        template: Template,
        *,
        longest: int,
        words: CaptionWords | None,
        plan: Sequence[np.ndarray],
    ) -> None:
        """Prepare micro-batches by `plan`.

        Args:
            longest: maximum token ids of a sample; the rest is cut off.
            words: for the word loss.
            plan: sample numbers of each micro-batch.
        """
        self._samples, self._images, self._plan = samples, images, plan
        self._tokenizer, self._template, self._longest, self._words = tokenizer, template, longest, words

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, number: int) -> Item:
        prompts, images, words = [], [], []
        skipped: list[str] = []
        for wanted in self._plan[number]:
            sample, prompt, found = self._usable(int(wanted), skipped)
            prompts.append(prompt)
            images += found
            if self._words is not None:
                words += [self._words.weights(answer_ids(self._tokenizer, sample))] * len(found)
        return Item(collate(prompts, images, width=self._images.width), words, skipped)

    def _usable(self, wanted: int, skipped: list[str]) -> tuple[Sample, Prompt, list[Tensor]]:
        """Sample `wanted`, or the next one that can be used."""
        for number in range(wanted, wanted + len(self._samples)):
            sample = self._samples[number % len(self._samples)]
            try:
                images = [image_tensor(self._images, picture) for picture in sample.images]
                prompt = encode_sample(
                    self._tokenizer, sample.turns, self._template, self._images.tokens, longest=self._longest
                )
            except VocabkitError as error:
                skipped.append(f"{sample.id}: {error}")
                continue
            return sample, prompt, images
        raise VocabkitError(f"none of the {len(self._samples)} samples can be used; the last one: {skipped[-1]}")


def image_tensor(images: Images, picture: Picture) -> Tensor:
    """(N, Dv) features or (3, H, W) pixels. Raises VocabkitError if they are not in the cache or can't be decoded."""
    return images[picture.key] if isinstance(images, Features) else images.pixels_of(picture)


def answer_ids(tokenizer: Any, sample: Sample) -> list[int]:
    """Return the token ids of all answers, each encoded as after a space."""
    return [i for turn in sample.turns for i in tokenizer.encode(f" {turn.answer}", add_special_tokens=False)]


def count_words(samples: Sequence[Sample], tokenizer: Any, ids: Sequence[int]) -> CaptionWords:
    """Count how rare each row of V_shared is in the captions of `samples`."""
    return CaptionWords((answer_ids(tokenizer, sample) for sample in samples), ids)


def plan(
    samples: int, batch: int, steps: int, seed: int, *, process: int, processes: int, micro: int
) -> list[np.ndarray]:
    """Return the sample numbers of each micro-batch of one process, `batch / processes / micro` of them per step.

    In each step, all processes together see the samples that a single process would see. Each epoch is a permutation.

    Raises:
        VocabkitError: a batch that can't be divided.
    """
    share = batch // processes
    if batch % processes or share % micro:
        raise VocabkitError(
            f"a batch of {batch} can't be divided into micro-batches of {micro} on {processes} processes"
        )
    orders: dict[int, np.ndarray] = {}

    def order(epoch: int) -> np.ndarray:
        if epoch not in orders:
            orders.clear()
            orders[epoch] = np.random.default_rng([seed, epoch]).permutation(samples)
        return orders[epoch]

    found = []
    for step in range(steps):
        first = step * batch + process * share
        for start in range(first, first + share, micro):
            numbers = range(start, start + micro)
            found.append(np.array([order(n // samples)[n % samples] for n in numbers]))
    return found
