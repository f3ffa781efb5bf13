"""What a teacher says of pictures: greedy answers as LLaVA's JSONL, a file that a run resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
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
    def fingerprint(self) -> str:
        """Of everything that answers depend on, except the pictures."""
        settings = [self.lvlm.connector.fingerprint(), self.template, *self.questions, self.longest, self.batch]
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
    for number, (key, line) in enumerate(zip(np.repeat(asked.keys, len(asked.questions)), lines, strict=False)):
        record = parse_json(line.encode(), f"{file}: line {number + 1}", dict[str, Any], "an answer")
        if (record.get("teacher"), record.get("image")) != (fingerprint, key):
            raise VocabkitError(
                f"{file}: answers of another teacher or about other pictures; choose another folder, or remove this one"
            )
    step = asked.batch * len(asked.questions)
    if len(lines) < len(asked.keys) * len(asked.questions):  # only the last batch of all may be smaller
        lines = lines[: len(lines) // step * step]
    write_text(file, "".join(lines))
    for start in range(len(lines), len(keys) * len(asked.questions), step):
        batch = keys[start // len(asked.questions) :][: asked.batch]
        visual = asked.visual_tokens(batch)
        answers = [_answers(asked, question, visual) for question in asked.questions]
        written = []
        for key, said in zip(batch, zip(*answers, strict=True), strict=True):
            for number, (question, answer) in enumerate(zip(asked.questions, said, strict=True)):
                turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
                record = {"id": f"{key}#{number}", "image": key, "conversations": turns, "teacher": fingerprint}
                written.append(json.dumps(record) + "\n")
        with file.open("a", encoding="utf-8") as out:
            out.write("".join(written))
        progress("captions of the teacher", start // len(asked.questions) + len(batch), len(keys))


def _lines(file: Path) -> list[str]:
    """The whole lines of the file; none if it does not exist."""
    if not file.exists():
        return []
    with reading(file):
        lines = file.read_text("utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]


def _answers(asked: Asked, question: str, visual: Tensor) -> list[str]:
    ids = encode_question(asked.llm.tokenizer, [Turn(question, "")], asked.template, visual.shape[1])
    return write_answers(asked.llm, [ids] * len(visual), visual, template=asked.template, max_new_tokens=asked.longest)


@torch.no_grad()
def gain_of_picture(file: Path, asked: Asked, limit: int) -> float:
    """Return how many nats per token the first `limit` answers in `file` gain from their own pictures, instead of the
    next ones'.
    """
    samples: list[Sample] = list(islice(read_llava(file), limit))
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
