"""Answers about pictures whose objects are known: naming, yes or no, counting.

The records of `vocabkit scenes` say what is in each picture. By likelihood the LLM chooses between captions that differ
in one word; by generation it writes the caption itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vocabkit.data import Sample, Turn
from vocabkit.data.scenes import COUNTS, Scene
from vocabkit.data.wording import plural, with_article
from vocabkit.evaluation.losses import HeldOut, measure
from vocabkit.features import Features
from vocabkit.llms import LLM
from vocabkit.lvlm import LVLM, Connector, collate
from vocabkit.prompts import Prompt, Template, encode_question, encode_sample

CHOICES = 10
"""Names to choose from."""
LONGEST = 24
"""Tokens of a written caption."""


@dataclass(frozen=True)
class Answers:
    """Shares of right answers, from 0 to 1; None where the data asks no such question."""

    named: float | None
    """Of written captions, those that hold the names of all objects."""
    name_chosen: float | None
    """Of pictures with one drawing, those whose name is the most likely of ten; by chance 0.1."""
    yes_no: float | None
    """Of questions whether an object is there (POPE), half of them about others; by chance 0.5."""
    said_yes: float | None
    """Of these, those that were answered yes; 0.5 is right."""
    yes_no_ranked: float | None
    """The chance that a question about an object that is there gets a higher likelihood of yes than one about another:
    the area under the ROC curve, which no bias towards yes or no changes."""
    counted: float | None
    """Of pictures with several equal objects, those whose number is the most likely of two to five; by chance 0.25."""


def ask(
    llm: LLM,
    samples: Sequence[Sample],
    features: Features,
    adapter: Connector,
    *,
    template: Template,
    batch: int = 32,
    seed: int = 0,
) -> Answers:
    """What `llm` answers about those of `samples` that are scenes with features, when `adapter` shows them."""
    scenes = [s for s in samples if s.extra.get("objects") and all(p.key in features for p in s.images)]
    random = np.random.default_rng(seed)
    names = sorted({name for scene in scenes for name in scene.extra["objects"]})
    asker = _Asker(llm, LVLM(llm, adapter), features, template, batch)
    alone = [s for s in scenes if s.extra["kind"] == "single"] if len(names) >= CHOICES else []
    several = [s for s in scenes if s.extra.get("count")]
    asked = [q for s in scenes for q in _yes_no_questions(s, names, template, random)]
    favour = asker.favour_yes([(scene, question) for scene, question, _ in asked])
    there = np.array([answer for *_, answer in asked], dtype=bool)
    texts = asker.write(scenes)
    return Answers(
        named=_share([_names_all(text, scene) for text, scene in zip(texts, scenes, strict=True)]),
        name_chosen=_share(asker.first_is_best(alone, [_with_other_names(s, names, random) for s in alone])),
        yes_no=_share((favour > 0) == there),
        said_yes=_share(favour > 0),
        yes_no_ranked=_ranked(favour[there], favour[~there]),
        counted=_share(asker.first_is_best(several, [_with_other_counts(s) for s in several])),
    )


class _Asker:
    def __init__(self, llm: LLM, lvlm: LVLM, features: Features, template: Template, batch: int) -> None:
        self._llm, self._lvlm, self._features = llm, lvlm, features
        self._template, self._batch = template, batch

    def write(self, samples: Sequence[Sample]) -> list[str]:
        """The captions that the LLM writes, greedily."""
        tokenizer, texts = self._llm.tokenizer, []
        for start in range(0, len(samples), self._batch):
            part = samples[start : start + self._batch]
            asked = [encode_question(tokenizer, s.turns, self._template, self._features.tokens) for s in part]
            images = [self._features[p.key].float() for s in part for p in s.images]
            batch = collate([Prompt(ids, [0] * len(ids)) for ids in asked], images, left=True)
            written = self._lvlm.generate(
                batch.to(self._llm.model.device),
                max_new_tokens=LONGEST,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
            texts += tokenizer.batch_decode(written, skip_special_tokens=True)
        return texts

    def first_is_best(self, samples: Sequence[Sample], answers: Sequence[Sequence[str]]) -> list[bool]:
        """Whether the first of the answers to each sample is more likely than all others."""
        turns = [
            (sample, (*sample.turns[:-1], sample.turns[-1]._replace(answer=answer)))
            for sample, given in zip(samples, answers, strict=True)
            for answer in given
        ]
        nats = iter(self._nats(turns).tolist())
        rows = [[next(nats) for _ in given] for given in answers]
        return [all(row[0] < other for other in row[1:]) for row in rows]

    def favour_yes(self, questions: Sequence[tuple[Sample, str]]) -> np.ndarray:
        """(Q,) how many nats likelier yes is than no."""
        no, yes = (
            self._nats([(sample, (Turn(question, answer),)) for sample, question in questions])
            for answer in ("no", "yes")
        )
        favour: np.ndarray = no - yes
        return favour

    def _nats(self, samples: Sequence[tuple[Sample, tuple[Turn, ...]]]) -> np.ndarray:
        if not samples:
            return np.zeros(0)
        tokens = self._features.tokens
        prompts = [
            encode_sample(self._llm.tokenizer, turns, self._template, tokens, longest=2048) for _, turns in samples
        ]
        held = HeldOut(prompts, [picture.key for sample, _ in samples for picture in sample.images], self._features)
        device = self._llm.model.device
        return measure(
            self._llm, held, lambda n: self._lvlm.visual_tokens(held.features_of(n).to(device)), batch=self._batch
        ).nats


def _with_other_names(sample: Sample, names: Sequence[str], random: np.random.Generator) -> list[str]:
    """The answer, and the same with nine other names."""
    (own,) = sample.extra["objects"]
    others = [names[i] for i in random.permutation(len(names)) if names[i] != own][: CHOICES - 1]
    return [_scene(sample, objects=(name,), kind="single", count=None).answer for name in (own, *others)]


def _with_other_counts(sample: Sample) -> list[str]:
    own = sample.extra["count"]
    return [_scene(sample, count=count).answer for count in (own, *(c for c in COUNTS if c != own))]


def _yes_no_questions(
    sample: Sample, names: Sequence[str], template: Template, random: np.random.Generator
) -> list[tuple[Sample, str, bool]]:
    """One question about an object that is there, and one about another."""
    objects = sample.extra["objects"]
    others = [name for name in names if name not in objects]
    if not others:
        return []
    asked = [(objects[random.integers(len(objects))], True), (others[random.integers(len(others))], False)]
    return [(sample, _is_there(name, template), there) for name, there in asked]


def _is_there(name: str, template: Template) -> str:
    question = f"Is there {with_article(name)} in this picture?"
    if template == "chat":
        return f"<image>\n{question} Answer yes or no."
    return f"Image: <image>\nQuestion: {question}\nAnswer:"


def _scene(sample: Sample, **changes: Any) -> Scene:
    extra = {key: sample.extra[key] for key in ("kind", "objects", "count", "background")} | changes
    return Scene(**{**extra, "objects": tuple(extra["objects"])})


def _names_all(text: str, sample: Sample) -> bool:
    """Whether a caption holds all names, one of several equal things as its plural."""
    first = re.split(r"[.\n]", text.strip(), maxsplit=1)[0].lower()
    objects = sample.extra["objects"]
    wanted = [plural(objects[0]) or objects[0]] if sample.extra.get("count") else objects
    return all(re.search(rf"\b{re.escape(name)}\b", first) for name in wanted)


def _share(right: Sequence[bool] | np.ndarray) -> float | None:
    return float(np.mean(right)) if len(right) else None


def _ranked(there: np.ndarray, others: np.ndarray) -> float | None:
    """The area under the ROC curve."""
    if not (len(there) and len(others)):
        return None
    differences = there[:, None] - others[None, :]
    return float((differences > 0).mean() + 0.5 * (differences == 0).mean())
