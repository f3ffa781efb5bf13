"""What a teacher says of pictures: its answers as LLaVA's JSONL, a file that a run resumes.

The first answer to a question is the most likely one, others are drawn by their probability: how often a word comes is
how sure the teacher is of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vocabkit.data.llava import read_llava
from vocabkit.data.samples import PLACEHOLDER, Sample, Turn
from vocabkit.errors import VocabkitError
from vocabkit.files.atomic import reading, write_text
from vocabkit.files.progress import Progress, no_progress
from vocabkit.files.records import parse_json
from vocabkit.llm.load import LLM
from vocabkit.llm.lvlm import LVLM, caption_loss, collate, write_answers
from vocabkit.llm.prompts import IGNORED, Template, encode_question, encode_sample
from vocabkit.vision.features import Features

QUESTIONS = {
    "plain": (PLACEHOLDER,),
    "chat": (f"{PLACEHOLDER}\nDescribe the picture in one sentence.", f"{PLACEHOLDER}\nName what is in the picture."),
}
"""What a teacher is asked by default, by template."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A teacher, and what it is asked of which pictures."""

    llm: LLM
    lvlm: LVLM
    """`llm` with the projector."""
    features: Features
    keys: Sequence[str]
    """The pictures, in order."""
    questions: Sequence[str]
    answers: int
    """To each question about a picture."""
    template: Template
    longest: int
    """Maximum tokens of an answer."""
    batch: int
    """Pictures at a time."""

    def visual_tokens(self, keys: Sequence[str]) -> Tensor:
        """(I, N, D) what the projector makes of these pictures."""
        features = torch.stack([self.features[key] for key in keys])
        return self.lvlm.visual_tokens(features.to(next(self.lvlm.connector.parameters()).device))

    @property
    def lines(self) -> int:
        """Answers about a picture."""
        return len(self.questions) * self.answers

    @property
    def fingerprint(self) -> str:
        """Of everything that answers depend on, except the pictures."""
        settings = [self.lvlm.connector.fingerprint(), self.template, *self.questions, self.longest, self.batch]
        settings += [self.answers]
        return f"sha256:{hashlib.sha256(json.dumps(settings).encode()).hexdigest()}"


@torch.no_grad()
def write_captions(file: Path, asked: Asked, *, limit: int | None = None, progress: Progress = no_progress) -> None:
    """Write the answers about the first `limit` pictures, or all of them, to `file`, after those that it has already.

    A line is one answer, a record of LLaVA's format. Batches are written whole, so a run that was killed goes on with
    the same batches, and ends with the same answers.

    Raises:
        VocabkitError: the file holds answers of another teacher or about other pictures, or can't be written.
    """
    fingerprint, keys = asked.fingerprint, asked.keys[:limit]
    lines = _lines(file)
    for number, (key, line) in enumerate(zip(np.repeat(asked.keys, asked.lines), lines, strict=False)):
        record = parse_json(line.encode(), f"{file}: line {number + 1}", dict[str, Any], "an answer")
        if (record.get("teacher"), record.get("image")) != (fingerprint, key):
            raise VocabkitError(
                f"{file}: answers of another teacher or about other pictures; choose another folder, or remove this one"
            )
    step = asked.batch * asked.lines
    if len(lines) < len(asked.keys) * asked.lines:  # only the last batch of all may be smaller
        lines = lines[: len(lines) // step * step]
    write_text(file, "".join(lines))
    questions = [question for question in asked.questions for _ in range(asked.answers)]
    for start in range(len(lines) // asked.lines, len(keys), asked.batch):
        batch = keys[start:][: asked.batch]
        visual = asked.visual_tokens(batch)
        answers = [_answers(asked, question, visual, start) for question in asked.questions]
        written = []
        for key, said in zip(batch, zip(*answers, strict=True), strict=True):
            for number, (question, answer) in enumerate(zip(questions, chain(*said), strict=True)):
                turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
                record = {"id": f"{key}#{number}", "image": key, "conversations": turns, "teacher": fingerprint}
                written.append(json.dumps(record) + "\n")
        with file.open("a", encoding="utf-8") as out:
            out.write("".join(written))
        progress("captions of the teacher", start + len(batch), len(keys))


def _lines(file: Path) -> list[str]:
    """The whole lines of the file; none if it does not exist."""
    if not file.exists():
        return []
    with reading(file):
        lines = file.read_text("utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]


def _answers(asked: Asked, question: str, visual: Tensor, first: int) -> list[list[str]]:
    """The answers about each of these pictures, of which the first has this number."""
    ids = encode_question(asked.llm.tokenizer, [Turn(question, "")], asked.template, visual.shape[1])
    write = partial(write_answers, asked.llm, template=asked.template, max_new_tokens=asked.longest)
    found = [[answer] for answer in write([ids] * len(visual), visual)]
    if drawn := asked.answers - 1:
        visual = visual.repeat_interleave(drawn, dim=0)
        for number, answer in enumerate(write([ids] * len(visual), visual, seed=first)):
            found[number // drawn].append(answer)
    return found


@torch.no_grad()
def gain_of_picture(file: Path, asked: Asked, limit: int) -> float:
    """Return how many nats per token the most likely answers about the first `limit` pictures gain from their own
    pictures, instead of the next ones'.
    """
    samples: list[Sample] = list(islice(read_llava(file), 0, limit * asked.lines, asked.answers))
    own, other, tokens = 0.0, 0.0, 0
    count = asked.features.tokens
    for start in range(0, len(samples), asked.batch):
        part = samples[start : start + asked.batch]
        prompts = [encode_sample(asked.llm.tokenizer, s.turns, asked.template, count, longest=4096) for s in part]
        batch = collate(prompts, []).to(asked.llm.model.device)
        keys = [sample.images[0].key for sample in part]
        others = [asked.keys[(asked.keys.index(key) + 1) % len(asked.keys)] for key in keys]
        own += float(caption_loss(asked.llm.model, batch, asked.visual_tokens(keys)).sum())
        other += float(caption_loss(asked.llm.model, batch, asked.visual_tokens(others)).sum())
        tokens += sum(label != IGNORED for prompt in prompts for label in prompt.labels[1:])
    return (other - own) / max(tokens, 1)
