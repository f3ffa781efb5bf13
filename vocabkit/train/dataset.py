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
from vocabkit.llm.load import LLM
from vocabkit.llm.lvlm import Batch, collate
from vocabkit.llm.prompts import Prompt, Template, encode_sample
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.shared.words import WordFinder
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
        visual_tokens: int,
        words: SampleWords | None,
        plan: Sequence[np.ndarray],
    ) -> None:
        """Prepare micro-batches by `plan`.

        Args:
            longest: maximum token ids of a sample; the rest is cut off.
            visual_tokens: of an image.
            words: for the word loss.
            plan: sample numbers of each micro-batch.
        """
        self._samples, self._images, self._plan = samples, images, plan
        self._tokenizer, self._template, self._longest, self._words = tokenizer, template, longest, words
        self._visual_tokens = visual_tokens

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
                words += [self._words.weights(sample)] * len(found)
        return Item(collate(prompts, images, width=self._images.width), words, skipped)

    def _usable(self, wanted: int, skipped: list[str]) -> tuple[Sample, Prompt, list[Tensor]]:
        """Sample `wanted`, or the next one that can be used."""
        for number in range(wanted, wanted + len(self._samples)):
            sample = self._samples[number % len(self._samples)]
            try:
                images = [image_tensor(self._images, picture) for picture in sample.images]
                prompt = encode_sample(
                    self._tokenizer, sample.turns, self._template, self._visual_tokens, longest=self._longest
                )
            except VocabkitError as error:
                skipped.append(f"{sample.id}: {error}")
                continue
            return sample, prompt, images
        raise VocabkitError(f"none of the {len(self._samples)} samples can be used; the last one: {skipped[-1]}")


def image_tensor(images: Images, picture: Picture) -> Tensor:
    """(N, Dv) features or (3, H, W) pixels. Raises VocabkitError if they are not in the cache or can't be decoded."""
    return images[picture.key] if isinstance(images, Features) else images.pixels_of(picture)


class SampleWords:
    """The rows of V_shared in the answers of samples: their words or, if its rows are tokens, the LLM's tokens."""

    def __init__(self, samples: Sequence[Sample], shared: SharedVocabulary, llm: LLM) -> None:
        """Count how rare each row is in the answers of `samples`.

        Args:
            llm: it need not be the one that an adapter was trained with.

        Raises VocabkitError: no answer has a row, so that the word loss would have nothing to teach.
        """
        self._tokenizer = llm.tokenizer
        self._finder, self._row_of = None, {}
        if shared.of_words:
            self._finder = WordFinder(token.decode() for token in shared.tokens.to_pylist())
        else:
            self._row_of = {token: row for row, token in enumerate(shared.look_up(llm.vocabulary).tolist())}
        self._words = CaptionWords(map(self._rows, samples))
        self.without = self._words.without
        """Samples whose answers have no row."""
        self.tell_apart = self._words.tell_apart
        if self.without == len(samples):
            what = "word" if shared.of_words else "token"
            raise VocabkitError(
                f"none of the {len(samples):,} captions has a {what} of the shared vocabulary, so the word loss has "
                "nothing to teach; train over a vocabulary that was built from such captions"
            )

    def weights(self, sample: Sample) -> dict[int, float]:
        """As `CaptionWords.weights`, of all answers of `sample`."""
        return self._words.weights(self._rows(sample))

    def _rows(self, sample: Sample) -> list[int]:
        answers = [turn.answer for turn in sample.turns]
        if self._finder is not None:
            return [row for answer in answers for row in self._finder.rows(answer)]
        # each encoded as after a space
        tokens = [i for answer in answers for i in self._tokenizer.encode(f" {answer}", add_special_tokens=False)]
        return [self._row_of[token] for token in tokens if token in self._row_of]


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
        where = f"{processes} process{'es' * (processes > 1)}"
        raise VocabkitError(f"a batch of {batch} can't be divided into micro-batches of {micro} on {where}")
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
