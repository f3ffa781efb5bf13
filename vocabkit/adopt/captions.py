"""What a teacher says of pictures: greedy answers as LLaVA's JSONL, a file that a run resumes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.shared.words import WordFinder
from vocabkit.vision.features import Features

QUESTIONS = {
    "plain": (PLACEHOLDER,),
    "chat": (f"{PLACEHOLDER}\nDescribe the picture in one sentence.", f"{PLACEHOLDER}\nName what is in the picture."),
}
"""What a teacher is asked by default, by template."""
_NOT_OURS = "holds something other than a teacher's answers, or those of an earlier version"
_OTHER_PICTURES = "answers about other pictures;"
FAR = 0.38
"""How far away the other picture is in the order, as a share of all."""
EXAMPLES = 5
"""Answers that a prompt shows."""
COMMON = 0.2
"""Words of a larger share of all answers, such as *a*, are not among those that a prompt shows."""
SAMPLED = 256
"""Values of each of the LLM's tensors in a teacher's fingerprint: tuning changes nearly all of those it trains."""


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

    @cached_property
    def settings(self) -> dict[str, Any]:
        """How it is asked, by the names of parameters. Batches and devices differ in rounding, and so in words."""
        model = self.llm.model
        return {
            "template": self.template,
            "question": list(self.questions),
            "max_new_tokens": self.longest,
            "batch": self.batch,
            "precision": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
        }

    @cached_property
    def teacher(self) -> str:
        """The fingerprint of projector, LLM and tokenizer."""
        digest = hashlib.sha256(self.lvlm.connector.fingerprint(names=False).encode())
        for name, tensor in self.llm.model.named_parameters():
            values = tensor.detach().flatten()
            some = values[:: max(1, len(values) // SAMPLED)].float().cpu().numpy()
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(some.astype("<f4").tobytes())
        for question in self.questions:
            digest.update(json.dumps(self.prompt(question)).encode())
        return f"sha256:{digest.hexdigest()}"

    def prompt(self, question: str) -> list[int]:
        """The token ids of a question about one picture."""
        return encode_question(self.llm.tokenizer, [Turn(question, "")], self.template, self.features.tokens)


def in_order(keys: Collection[str], file: Path, first: int) -> list[str]:
    """Return these pictures in the order in which the teacher is asked about them.

    It begins with those that `file` has already; then come `first` that are spread evenly over all, because neighbours
    are often alike (frames of a film, folders of one class); then the rest.
    """
    ordered = sorted(keys)
    spread = [ordered[number * len(ordered) // first] for number in range(first)]
    said = (str(record.get("image")) for record in map(_record, _read(file)[0]))
    return list(dict.fromkeys([*(key for key in said if key in keys), *spread, *ordered]))


@torch.no_grad()
def write_captions(file: Path, asked: Asked, *, limit: int | None = None, progress: Progress = no_progress) -> None:
    """Write the answers about the first `limit` pictures, or all of them, to `file`, after those that it has already.

    A line is one answer, a record of LLaVA's format. Batches are written whole, so a run that was killed goes on with
    the same batches, and ends with the same answers.

    Raises:
        VocabkitError: the file is something else, or holds answers of another teacher, to other questions or about
            other pictures; or it can't be written.
    """
    keys, lines = asked.keys[:limit], _lines(file, asked)
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
                record = {"id": f"{key}#{number}", "image": key, "conversations": turns}
                of = {"teacher": asked.teacher, "settings": asked.settings}
                written.append(json.dumps(record | of) + "\n")
        with file.open("a", encoding="utf-8") as out:
            out.write("".join(written))
        progress("captions of the teacher", start // len(asked.questions) + len(batch), len(keys))


def count_captions(file: Path, asked: Asked) -> int:
    """Return how many answers `file` has. Raises VocabkitError: as `write_captions`."""
    return len(_lines(file, asked))


def check_captions(file: Path) -> None:
    """Raise VocabkitError: the file, if there is one, was not written by `write_captions`."""
    lines, _ = _read(file)
    if lines and "settings" not in _record(lines[0]):
        raise VocabkitError(f"{file}: {_NOT_OURS}; choose another folder")


def _lines(file: Path, asked: Asked) -> list[str]:
    """The whole lines of the file; none if it does not exist. Raises VocabkitError: `asked` did not write them."""
    lines, torn = _read(file)
    begins = json.dumps({"id": f"{asked.keys[0]}#0", "image": asked.keys[0]})[:-1]
    if torn and not lines and not begins.startswith(torn[: len(begins)]):
        raise VocabkitError(f"{file}: {_NOT_OURS}; choose another folder")
    for key, line in zip(np.repeat(asked.keys, len(asked.questions)), lines, strict=False):
        if problem := _difference(_record(line), asked, key):
            raise VocabkitError(f"{file}: {problem} choose another folder, or remove this one")
    if len(lines) > len(asked.keys) * len(asked.questions):
        raise VocabkitError(f"{file}: {_OTHER_PICTURES} choose another folder, or remove this one")
    return [f"{line}\n" for line in lines]


def _read(file: Path) -> tuple[list[str], str]:
    """The whole lines of the file, if it exists, and what a run that was killed wrote of the next."""
    if not file.exists():
        return [], ""
    with reading(file):
        *lines, torn = file.read_text("utf-8", "replace").split("\n")
    return lines, torn


def _record(line: str) -> dict[str, Any]:
    """An answer, or an empty record for something else."""
    try:
        return parse_json(line.encode(), "", dict[str, Any], "an answer")
    except VocabkitError:
        return {}


def _difference(record: Mapping[str, Any], asked: Asked, key: str) -> str | None:
    """What keeps a line of the file from being an answer of `asked` about the picture `key`, as the beginning of a
    message.
    """
    settings = record.get("settings")
    if not isinstance(settings, dict):
        return f"{_NOT_OURS};"
    if changed := [f"`{name}`" for name, value in asked.settings.items() if settings.get(name) != value]:
        return f"answers that were given with another {' and '.join(changed)}; set it as before, or"
    if record.get("teacher") != asked.teacher:
        return "answers of another teacher: another projector or LLM;"
    return _OTHER_PICTURES if record.get("image") != key else None


def _answers(asked: Asked, question: str, visual: Tensor) -> list[str]:
    ids = [asked.prompt(question)] * len(visual)
    return write_answers(asked.llm, ids, visual, template=asked.template, max_new_tokens=asked.longest)


def words_prompt(file: Path, shared: SharedVocabulary) -> str | None:
    """Return a prompt that shows an LLM how words become a caption, by the teacher's answers to the first question and
    the words in them that few others have; None if no answer has two of these.

    Args:
        shared: V_shared of words.
    """
    said = [" ".join(sample.turns[0].answer.split()) for sample in read_llava(file) if sample.id.endswith("#0")]
    said = [text for text in said if text.endswith((".", "!", "?"))] or said  # others may have been cut off
    finder = WordFinder(token.decode() for token in shared.tokens.to_pylist())
    rows = [set(finder.rows(text)) for text in said]
    often = Counter(row for each in rows for row in each)
    examples, shown = list[str](), set[int]()
    for text, each in zip(said, rows, strict=True):
        rare = {row for row in each if often[row] <= COMMON * len(said)}
        if len(rare) > 1 and not rare & shown and PLACEHOLDER not in text and len(examples) < EXAMPLES:
            shown |= rare
            words = " ".join(sorted(shared[row].decode().strip() for row in rare))
            examples.append(f"Words: {words}\nCaption: {text}\n")
    return "".join(examples) + f"Words: {PLACEHOLDER}\nCaption:" if examples else None


@torch.no_grad()
def gain_of_picture(file: Path, asked: Asked, pictures: int) -> float:
    """Return how many nats per token the answers about the first `pictures` gain from their own picture, instead of one
    far away in the order. Greedy answers are likeliest with their own, so a projector that shows noise gains a little.
    """
    keys = asked.keys[:pictures]
    # neither neighbours nor the other half, which may be a copy of the first
    far = round(FAR * len(keys)) or 1
    other_of = dict(zip(keys, [*keys[far:], *keys[:far]], strict=True))
    samples: list[Sample] = list(islice(read_llava(file), len(keys) * len(asked.questions)))
    own, other, tokens = 0.0, 0.0, 0
    count = asked.features.tokens
    for start in range(0, len(samples), asked.batch):
        part = samples[start : start + asked.batch]
        prompts = [encode_sample(asked.llm.tokenizer, s.turns, asked.template, count, longest=4096) for s in part]
        batch = collate(prompts, []).to(asked.llm.model.device)
        shown = [sample.images[0].key for sample in part]
        own += float(caption_loss(asked.llm.model, batch, asked.visual_tokens(shown)).sum())
        others = asked.visual_tokens([other_of[key] for key in shown])
        other += float(caption_loss(asked.llm.model, batch, others).sum())
        tokens += sum(label != IGNORED for prompt in prompts for label in prompt.labels[1:])
    return (other - own) / max(tokens, 1)
