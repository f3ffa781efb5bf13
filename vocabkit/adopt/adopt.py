"""Adopt a projector: fit an adapter with a head over V_shared that does for its LLM what an MLP projector does.

The projector with its LLM is the teacher; captions are its own. The student learns the words of these captions (word
loss), then the LLM's next-token distributions in them (KL divergence, through the frozen LLM).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vocabkit.adapter.config import AspectRatio
from vocabkit.adapter.partners import check_encoder
from vocabkit.adopt.captions import QUESTIONS, Asked, gain_of_picture, write_captions
from vocabkit.adopt.teacher import Teacher, open_teacher, with_fingerprint
from vocabkit.data.samples import Picture
from vocabkit.data.sources import Columns, image_files, pictures_of
from vocabkit.errors import VocabkitError
from vocabkit.files.atomic import claiming, make_folder
from vocabkit.files.progress import Progress, no_progress
from vocabkit.llm.devices import open_device
from vocabkit.llm.load import load_llm
from vocabkit.llm.lvlm import LVLM
from vocabkit.llm.prompts import Template, check_question
from vocabkit.shared.align import align
from vocabkit.shared.align_words import align_words
from vocabkit.shared.rank import rank
from vocabkit.shared.shared_vocabulary import SharedVocabulary, open_shared
from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.vocabulary import Vocabulary
from vocabkit.train.loop import Step
from vocabkit.train.recipe import make_recipe
from vocabkit.train.train import Trained, train
from vocabkit.vision.encoder import encoder_of
from vocabkit.vision.features import cache_features, open_features

CAPTIONS, TEACHER, FEATURES, SHARED = "captions.jsonl", "teacher", "features", "shared.arrow"
"""Names in the output folder, beside those of a training."""
TRIED = 64
"""Pictures that the teacher captions before anything else, to see whether it and V_shared are of use."""
LEAST_GAIN = 0.02
"""Nats per token that its captions must gain from their own pictures: the greedy captions of a projector that shows
nothing are as likely with any picture."""
LEAST_COVERED = 0.5
"""Share of the captions' tokens or words that V_shared must have."""
STEPS = {"batch": 16, "learning_rate": 2e-4, "word_weight": 0.2}
"""Settings of the steps on the teacher, unless the user gives others. Without the word loss beside it, the divergence
alone makes a head forget the words that it has chosen."""


@dataclass(frozen=True, kw_only=True)
class AdoptOptions:
    """What an adoption needs besides the projector and its pictures."""

    targets: tuple[str, ...]
    """Tokenizers that V_shared is built with, beside that of the projector's LLM."""
    words: bool = False
    """Whether rows are the words and phrases of the captions, and not tokens."""
    top: int | None = None
    """Rows to keep; by default all that occur in the captions."""
    llm: str | None = None
    """The projector's LLM, if it is not in the checkpoint."""
    vision: str | None = None
    """Its vision model, if the checkpoint neither holds nor names it."""
    image_aspect_ratio: AspectRatio | None = None
    """How pictures become square; by default as the checkpoint says."""
    features: Path | None = None
    """Their features, from `cache_features`."""
    images: Path | None = None
    """Folder of the images of LLaVA files."""
    columns: Columns = Columns()
    """Of datasets."""
    template: Template = "chat"
    """How question and answer become text."""
    questions: tuple[str, ...] = ()
    """What the teacher is asked; by default see `QUESTIONS`."""
    max_new_tokens: int = 48
    """Maximum tokens of an answer."""
    batch: int = 32
    """Pictures that the teacher sees at a time."""
    device: str = "auto"
    """For features and captions."""
    settings: tuple[str, ...] = ()
    """NAME=VALUE of recipe fields, for the training."""


@dataclass(frozen=True)
class Adopted:
    """The result of an adoption."""

    trained: Trained
    llm: str
    """The projector's LLM."""
    rows: int
    """Of V_shared."""
    covered: float
    """Share of the captions' tokens or words that V_shared has."""
    gain_of_picture: float | None
    """Nats per token that the teacher's first captions gain from their own pictures; known to the first process."""


def adopt(
    model: str,
    pictures: str | None,
    out: str | Path,
    options: AdoptOptions,
    *,
    on_step: Callable[[Step], None] = lambda step: None,
    progress: Progress = no_progress,
) -> Adopted:
    """Fit an adapter that does for its LLM what the projector `model` does. Safe to kill; the next run resumes.

    Afterwards, `out` holds the projector (`teacher/`), what it said (`captions.jsonl`), V_shared (`shared.arrow`), and
    what `train` writes: `adapter/` is the result.

    Args:
        model: as for `open_teacher`.
        pictures: a folder of images, a LLaVA file or a dataset (folder or hub id). Only its pictures are used. By
            default all in `options.features`.

    Raises:
        VocabkitError: parts that do not fit together, a teacher that sees nothing, a V_shared that covers too little of
            its captions, or as `train`.
    """
    out = Path(out)
    questions = options.questions or QUESTIONS.get(options.template, ())
    if not questions:
        raise VocabkitError(f"`template` {options.template}: also say what to ask, with `question`")
    for question in questions:
        check_question(question, options.template)
    if pictures is None and options.features is None:
        raise VocabkitError("give `pictures`, or `features` that were computed of them")
    if not options.targets:
        raise VocabkitError("say which other LLMs the adapter is for, with `targets`")
    targets = [resolve(name).vocabulary for name in options.targets]
    teacher = open_teacher(model, options.llm, options.vision, options.image_aspect_ratio)
    if options.features is None and options.vision is None and teacher.projector.config.vision_model is None:
        raise VocabkitError(f"{model}: does not say which vision model it was trained with: give `vision`")
    recipe = make_recipe(
        {
            "data": (str(out / CAPTIONS),),
            "llm": teacher.llm,
            "features": str(options.features or out / FEATURES),
            "shared": str(out / SHARED),
            "teacher": str(out / TEACHER),
            "template": options.template,
            **STEPS,
        },
        options.settings,
        "`settings`",
    )
    make_folder(out)
    if os.environ.get("RANK", "0") == "0":
        with claiming(out):
            shared, gain = _prepare(teacher, targets, pictures, out, questions, options, recipe.precision, progress)
    else:
        while not (out / SHARED).exists():  # hours, beyond the patience of torch's barriers
            time.sleep(1)
        shared, gain = open_shared(out / SHARED), None
    trained = train(recipe, out, on_step=on_step, progress=progress)
    return Adopted(trained, teacher.projector.config.llm, len(shared), shared.selection.mass_kept or 0.0, gain)


def _prepare(
    teacher: Teacher,
    targets: Sequence[Vocabulary],
    pictures: str | None,
    out: Path,
    questions: Sequence[str],
    options: AdoptOptions,
    precision: str,
    progress: Progress,
) -> tuple[SharedVocabulary, float]:
    """Write all that the training reads. Returns V_shared and the gain of the first captions from their pictures."""
    vocabulary = resolve(teacher.llm).vocabulary
    device = open_device(options.device)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    if options.features is None:
        assert pictures is not None
        encoder = encoder_of(teacher.projector, options.vision, device=device, dtype=dtype)
        with_fingerprint(teacher.projector, encoder.info["fingerprint"])
        cache_features(encoder, _pictures(pictures, options), out / FEATURES, progress=progress)
    features = open_features(options.features or out / FEATURES)
    check_encoder(teacher.projector.config, features.encoder, features.folder)
    projector = with_fingerprint(teacher.projector, features.encoder["fingerprint"])
    keys = sorted(features.keys)
    if pictures is not None and options.features is not None:
        keys = sorted({picture.key for picture in _pictures(pictures, options)} & features.keys)
    if not keys:
        raise VocabkitError(f"{features.folder}: has no features of any picture in {pictures}")
    progress(f"loading {teacher.llm}", 0, None)
    low = device.type == "cuda" or precision == "bfloat16"
    llm = load_llm(teacher.llm, torch.bfloat16 if low else torch.float32)
    llm.model.to(device)
    lvlm = LVLM(llm, projector.to(device))
    asked = Asked(llm, lvlm, features, keys, questions, options.template, options.max_new_tokens, options.batch)
    captions = out / CAPTIONS
    tried = max(TRIED // options.batch, 1) * options.batch
    write_captions(captions, asked, limit=tried, progress=progress)
    progress("comparing captions with other pictures", 0, None)
    gain = gain_of_picture(captions, asked, tried * len(questions))
    if gain < LEAST_GAIN:
        raise VocabkitError(
            f"{captions}: what the teacher says does not depend on the picture ({gain:.3f} nats per token): is the "
            "projector trained, and are these its own `llm` and `vision`?"
        )
    _shared(captions, vocabulary, targets, options)
    write_captions(captions, asked, progress=progress)
    shared = _shared(captions, vocabulary, targets, options)
    if (out / SHARED).exists() and open_shared(out / SHARED).fingerprint != shared.fingerprint:
        raise VocabkitError(f"{out / SHARED}: of another adoption; choose another `out`, or remove this folder")
    projector.cpu().save(out / TEACHER)
    shared.save(out / SHARED)
    return shared, gain


def _pictures(source: str, options: AdoptOptions) -> Iterable[Picture]:
    """The pictures of a folder of images, by their names in it, or of a LLaVA file or a dataset."""
    path = Path(source)
    if path.is_dir() and (files := image_files(path)):
        return [Picture(file.relative_to(path).as_posix(), file) for file in files]
    return pictures_of(source, options.images, options.columns)


def _shared(
    captions: Path, vocabulary: Vocabulary, targets: Sequence[Vocabulary], options: AdoptOptions
) -> SharedVocabulary:
    """V_shared of what the captions say so far. Raises VocabkitError: it covers too little of them."""
    tokenizers = [vocabulary, *targets]
    if options.words:
        shared = align_words(tokenizers, [captions], top=options.top, phrases=True)
    else:
        shared = rank(align(tokenizers), vocabulary, [captions])
        assert shared.counts is not None
        shared = shared.select(np.flatnonzero(shared.counts > 0)[: options.top])
    covered = shared.selection.mass_kept or 0.0
    if covered < LEAST_COVERED:
        what = "words" if options.words else "tokens"
        raise VocabkitError(
            f"{captions}: {', '.join(v.name for v in tokenizers)} share {covered:.0%} of the {what} in the teacher's "
            "captions, too few to say what it says; choose other `targets`, or set `words`"
        )
    return shared
