"""Answers about pictures whose objects are known: naming, yes or no, counting.

The records of `vocabkit scenes` say what is in each picture. The LLM writes captions itself, and chooses by likelihood
between captions that differ in one word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import msgspec
import numpy as np
import torch

from vocabkit.adapter.model import Adapter
from vocabkit.data.samples import Sample, Turn
from vocabkit.data.scenes import COUNTS, Scene, plural, short_names
from vocabkit.evaluate.losses import (
    LONGEST_PROMPT,
    Estimate,
    EvaluateOptions,
    HeldOut,
    Images,
    bootstrap,
    measure,
    shown_by,
    why_unusable,
)
from vocabkit.files.progress import Progress, no_progress
from vocabkit.llm.load import LLM
from vocabkit.llm.lvlm import LVLM, write_answers
from vocabkit.llm.prompts import Template, encode_question, encode_sample

CHOICES = 10
"""Names to choose from."""
LONGEST = 24
"""Maximum tokens of a written caption."""


@dataclass(frozen=True)
class Share(Estimate):
    """Share of questions, from 0 to 1. Its interval resamples pictures: both questions about one are drawn together."""

    questions: int
    """Number of questions."""


@dataclass(frozen=True)
class Written:
    """A caption that the LLM wrote."""

    image: str
    """Key of the picture."""
    shows: str
    """The right caption."""
    says: str


@dataclass(frozen=True)
class Answers:
    """Shares of right answers, except `said_yes`; None where the data has no such question."""

    named: Share | None
    """Written captions with the names of all objects. The LLM is asked with the adapter's own prompt, if it has one."""
    name_chosen: Share | None
    """Pictures with one drawing whose name is the most likely of ten; 0.1 by chance."""
    yes_no: Share | None
    """Right answers to whether an object is in the picture (POPE). For half of the questions it is; 0.5 by chance."""
    said_yes: Share | None
    """Yes as the answer to these questions, right or wrong; 0.5 is right."""
    yes_no_ranked: Share | None
    """Chance that a question about a present object gets a higher likelihood of yes than one about an absent object:
    the area under the ROC curve, which a bias towards yes or no does not change."""
    counted: Share | None
    """Pictures of several equal objects whose true number is the most likely of two to five; 0.25 by chance."""
    recognised: Share | None = None
    """Written captions with all objects by name or by the noun at the head of it: an apple for a red apple."""
    captions: tuple[Written, ...] = ()
    """What the LLM wrote, in the order of the samples."""


RIGHT: dict[str, tuple[str, float]] = {
    "named": ("names in full", 0.0),
    "recognised": ("names by noun", 0.0),
    "name_chosen": ("name of ten", 0.1),
    "yes_no": ("yes or no", 0.5),
    "yes_no_ranked": ("yes above no", 0.5),
    "counted": ("count of four", 0.25),
}
"""The fields of `Answers` that are shares of right answers, more is better: their labels, and what chance gives."""


def asked(answers: Collection[Answers]) -> list[str]:
    """The fields of `RIGHT` that the data allows."""
    return [name for name in RIGHT if any(getattr(each, name) is not None for each in answers)]


def ask(
    llm: LLM,
    samples: Sequence[Sample],
    features: Images,
    adapter: Adapter,
    options: EvaluateOptions = EvaluateOptions(),
    *,
    progress: Progress = no_progress,
) -> Answers:
    """Ask `llm` about those of `samples` that are scenes with features, as `adapter` shows them."""
    template, seed = options.template, options.seed
    scenes = [_Seen(s, scene) for s in samples if (scene := _scene_of(s)) and not why_unusable(s, features)]
    random = np.random.default_rng(seed)
    things = dict(sorted(pair for seen in scenes for pair in zip(seen.scene.objects, seen.scene.things, strict=True)))
    asker = _Asker(
        llm, LVLM(llm, adapter, other_weights=options.other_weights), features, template, options.batch, progress
    )
    alone = [seen for seen in scenes if seen.scene.kind == "single"] if len(things) >= CHOICES else []
    several = [seen for seen in scenes if seen.scene.count]
    favour = asker.favour_yes([q for seen in scenes for q in _yes_no_questions(seen, things, template, random)])
    favour = favour.reshape(-1, 2)  # (S, 2): a present object, an absent one
    texts = asker.write([seen.sample for seen in scenes])
    named, recognised = (
        np.array([names_all(text, seen.scene, names_of) for text, seen in zip(texts, scenes, strict=True)])
        for names_of in (full_name, short_names)
    )
    chosen = asker.first_is_best(alone, [_other_names(seen.scene, things, random) for seen in alone])
    counted = asker.first_is_best(several, [_other_counts(seen.scene) for seen in several])
    return Answers(
        named=_share(named, np.mean, seed),
        recognised=_share(recognised, np.mean, seed),
        name_chosen=_share(chosen, np.mean, seed),
        yes_no=_share(favour, lambda some: np.mean((some > 0) == [True, False]), seed),
        said_yes=_share(favour, lambda some: float(np.mean(some > 0)), seed),
        yes_no_ranked=_share(favour, lambda some: ranked(some[:, 0], some[:, 1]), seed),
        counted=_share(counted, np.mean, seed),
        captions=tuple(
            Written(seen.sample.images[0].key, seen.scene.answer, text)
            for seen, text in zip(scenes, texts, strict=True)
        ),
    )


class _Seen(NamedTuple):
    sample: Sample
    scene: Scene


def _scene_of(sample: Sample) -> Scene | None:
    """What a record of `vocabkit scenes` says about its picture; None for other samples."""
    if not sample.extra.get("objects") or len(sample.images) != 1 or sample.problem is not None:
        return None
    try:
        scene = msgspec.convert({field.name: sample.extra.get(field.name) for field in fields(Scene)}, Scene)
    except msgspec.ValidationError:
        return None
    countable = scene.count is None or (scene.count in COUNTS and plural(scene.objects[0]) is not None)
    named = len(scene.objects) == len(scene.things) == (2 if scene.kind == "pair" else 1)
    return scene if countable and named else None


class _Asker:
    def __init__(
        self, llm: LLM, lvlm: LVLM, features: Images, template: Template, batch: int, progress: Progress
    ) -> None:
        self._progress = progress
        self._llm, self._lvlm, self._features = llm, lvlm, features
        self._template, self._batch, self._prompt = template, batch, lvlm.connector.config.prompt

    @torch.no_grad()
    def write(self, samples: Sequence[Sample]) -> list[str]:
        """The captions that the LLM writes."""
        texts = []
        prompt = None if self._prompt is None else [Turn(self._prompt, "")]
        template = "completion" if prompt and self._template == "plain" else self._template
        for start in range(0, len(samples), self._batch):
            part = samples[start : start + self._batch]
            held = HeldOut((), [picture.key for s in part for picture in s.images], self._features)
            visual = list(shown_by(self._lvlm, held)(torch.arange(len(part))))
            asked = [
                encode_question(self._llm.tokenizer, prompt or s.turns, template, len(tokens))
                for s, tokens in zip(part, visual, strict=True)
            ]
            joined = torch.cat(visual)[None]  # (1, ΣN, D)
            texts += write_answers(self._llm, asked, joined, template=template, max_new_tokens=LONGEST)
            self._progress("captions", len(texts), len(samples))
        return texts

    def first_is_best(self, scenes: Sequence[_Seen], answers: Sequence[Sequence[str]]) -> np.ndarray:
        """(S,) whether the first of the answers to each is more likely than all others."""
        turns = [
            (sample, (*sample.turns[:-1], sample.turns[-1]._replace(answer=answer)))
            for (sample, _), given in zip(scenes, answers, strict=True)
            for answer in given
        ]
        nats = iter(self._nats(turns, self._template).tolist())
        rows = [[next(nats) for _ in given] for given in answers]
        return np.array([all(row[0] < other for other in row[1:]) for row in rows])

    def favour_yes(self, questions: Sequence[tuple[Sample, str]]) -> np.ndarray:
        """(Q,) how much likelier yes is than no, in nats. Uses completion for plain, which drops questions."""
        template: Template = "completion" if self._template == "plain" else self._template
        no, yes = (
            self._nats([(sample, (Turn(question, answer),)) for sample, question in questions], template)
            for answer in ("no", "yes")
        )
        favour: np.ndarray = no - yes
        return favour

    def _nats(self, samples: Sequence[tuple[Sample, tuple[Turn, ...]]], template: Template) -> np.ndarray:
        if not samples:
            return np.zeros(0)
        tokenizer = self._llm.tokenizer
        prompts = [encode_sample(tokenizer, turns, template, 1, longest=LONGEST_PROMPT) for _, turns in samples]
        held = HeldOut(prompts, [picture.key for sample, _ in samples for picture in sample.images], self._features)
        shown = shown_by(self._lvlm, held)
        return measure(
            self._llm, held, shown, batch=self._batch, what="answers to choose from", progress=self._progress
        ).nats


def _other_names(scene: Scene, things: Mapping[str, str], random: np.random.Generator) -> list[str]:
    """The right answer, and the same with nine other names."""
    (own,), names = scene.objects, list(things)
    others = [names[i] for i in random.permutation(len(names)) if names[i] != own][: CHOICES - 1]
    return [replace(scene, objects=(name,), phrases=(things[name],)).answer for name in (own, *others)]


def _other_counts(scene: Scene) -> list[str]:
    own = scene.count
    return [replace(scene, count=count).answer for count in (own, *(count for count in COUNTS if count != own))]


def _yes_no_questions(
    seen: _Seen, things: Mapping[str, str], template: Template, random: np.random.Generator
) -> list[tuple[Sample, str]]:
    """One question about a present object and one about an absent one; none if the data has no other object."""
    objects = seen.scene.objects
    others = [name for name in things if name not in objects]
    if not others:
        return []
    asked = [objects[random.integers(len(objects))], others[random.integers(len(others))]]
    return [(seen.sample, _is_there(things[name], template)) for name in asked]


def _is_there(thing: str, template: Template) -> str:
    question = f"Is there {thing} in this picture?"
    if template == "chat":
        return f"<image>\n{question} Answer yes or no."
    return f"Image: <image>\nQuestion: {question}\nAnswer:"


def full_name(name: str) -> list[str]:
    """Return the one name that counts where no other does."""
    return [name]


def names_all(text: str, scene: Scene, names_of: Callable[[str], Collection[str]] = full_name) -> bool:
    """Whether the first sentence of a caption has a name of each object; for several equal objects, a plural.

    Args:
        names_of: the names that count for an object.
    """
    first = re.split(r"[.\n]", text.strip(), maxsplit=1)[0].lower()

    def named(name: str) -> bool:
        forms = [plural(each) or each if scene.count else each for each in names_of(name)]
        return any(re.search(rf"\b{re.escape(form.lower())}\b", first) for form in forms)

    return all(map(named, scene.objects))


def _share(answers: np.ndarray, figure: Callable[[np.ndarray], float], seed: int) -> Share | None:
    """Compute `figure` from the answers about S pictures, (S,) or (S, 2)."""
    if not len(answers):
        return None
    found = bootstrap(len(answers), lambda drawn: figure(answers[drawn]), seed=seed)
    return Share(found.value, found.low, found.high, questions=answers.size)


def ranked(there: np.ndarray, others: np.ndarray) -> float:
    """Area under the ROC curve: the chance that one of `there` is above one of `others`."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, there, side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(others)))
