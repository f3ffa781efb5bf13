"""Adopt a projector: fit an adapter with a head over V_shared that does for its LLM what an MLP projector does.

The projector with its LLM is the teacher; captions are its own. The student learns the words of these captions (word
loss), then the LLM's next-token distributions in them (KL divergence, through the frozen LLM).
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vocabkit.adapter.config import AspectRatio
from vocabkit.adapter.partners import check_encoder
from vocabkit.adopt.captions import (
    QUESTIONS,
    Asked,
    check_captions,
    count_captions,
    gain_of_picture,
    in_order,
    words_prompt,
    write_captions,
)
from vocabkit.adopt.teacher import Teacher, open_teacher, with_fingerprint
from vocabkit.data.pictures import path_key
from vocabkit.data.samples import Picture
from vocabkit.data.sources import Columns, image_files, is_image, pictures_of
from vocabkit.data.urls import each_file, is_url
from vocabkit.errors import VocabkitError, quote, warn
from vocabkit.files.atomic import claiming, make_folder
from vocabkit.files.progress import Progress, no_progress
from vocabkit.llm.devices import open_device
from vocabkit.llm.load import load_llm
from vocabkit.llm.lvlm import LVLM
from vocabkit.llm.prompts import Template, check_question
from vocabkit.shared.align import align, check_tokenizers
from vocabkit.shared.align_words import align_words
from vocabkit.shared.rank import rank
from vocabkit.shared.shared_vocabulary import SharedVocabulary, open_shared
from vocabkit.tokenizer.catalog import resolve, without_name
from vocabkit.tokenizer.vocabulary import Vocabulary
from vocabkit.train.loop import Step
from vocabkit.train.recipe import ADAPTER, STATE, Recipe, make_recipe
from vocabkit.train.train import Trained, check_recipe, train
from vocabkit.vision.encoder import encoder_of
from vocabkit.vision.features import Features, cache_features, open_features

CAPTIONS, TEACHER, FEATURES, SHARED = "captions.jsonl", "teacher", "features", "shared.arrow"
"""Names in the output folder, beside those of a training."""
TRIED = 64
"""Pictures that the teacher captions before anything else, to see whether it and V_shared are of use."""
LEAST_GAIN: dict[Template, float] = {"chat": 0.25, "completion": 0.02, "plain": 0.02}
"""Nats per token that its captions must gain from their own pictures, by template. A greedy caption is likeliest with
what it was written for, noise too: in a chat, those of random projectors gain up to 0.22, of a trained one 1.6 or more.
Without a chat, noise may begin the text alone and gains nearly what pictures do, so only a projector that shows the
same for all is told. Measured with SmolLM2-135M (docs/maintainers/experiments.md)."""
LEAST_COVERED = 0.5
"""Share of the captions' tokens or words that V_shared must have."""
STEPS = {"batch": 16, "learning_rate": 2e-4, "word_weight": 0.2}
"""Settings of the steps on the teacher, unless the user gives others. Without the word loss beside it, the divergence
alone makes a head forget the words that it has chosen."""


SET = {
    "data", "shared", "teacher", "adapter", "connector", "text_column", "vision_layer", "vision_pool", "train_llm",
    "start_from_labels",
}  # fmt: skip
"""Fields of the recipe that follow from the projector and its captions; the LLM stays as it is."""
GIVEN = {"llm", "features", "template", "vision", "image_aspect_ratio", "images", "split", "image_column"}
"""Fields that have a parameter of the same name."""


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
    left_out: int | None
    """Pictures that are missing or broken, or have no features; known to the first process."""
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
        pictures: images or a folder of them, a LLaVA file or a dataset (folder or hub id). Only its pictures are used.
            By default all in `options.features`.

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
    for setting in options.settings:
        name = setting.partition("=")[0]
        if name in SET | GIVEN:
            advice = f"; give `{name}` instead" if name in GIVEN else " from the projector and its captions"
            raise VocabkitError(f"`settings` {name}: an adoption sets this field itself{advice}")
    targets = [resolve(name).vocabulary for name in options.targets]
    _check_out(out, [model, options.llm, options.vision, pictures, options.features, options.images])
    teacher = open_teacher(model, options.llm, options.vision, options.image_aspect_ratio)
    if options.features is None and options.vision is None and teacher.projector.config.vision_model is None:
        raise VocabkitError(f"{model}: does not say which vision model it was trained with: give `vision`")
    tokenizers = [resolve(teacher.llm).vocabulary, *targets]
    check_tokenizers([vocabulary.name for vocabulary in tokenizers], None)
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
    check_recipe(recipe)
    make_folder(out)
    if os.environ.get("RANK", "0") == "0":
        with claiming(out):
            shared, left_out, gain = _prepare(teacher, tokenizers, pictures, out, questions, options, recipe, progress)
    else:
        while not (out / SHARED).exists():  # hours, beyond the patience of torch's barriers
            time.sleep(1)
        shared, left_out, gain = open_shared(out / SHARED), None, None
    if options.words and recipe.prompt is None:
        recipe = dataclasses.replace(recipe, prompt=words_prompt(out / CAPTIONS, shared))
    trained = train(recipe, out, on_step=on_step, progress=progress)
    covered = shared.selection.mass_kept or 0.0
    return Adopted(trained, teacher.projector.config.llm, len(shared), covered, left_out, gain)


def _check_out(out: Path, inputs: Sequence[str | Path | None]) -> None:
    """Raise VocabkitError: an input is in `out`, or the results of something else, which would be mixed up."""
    folders = [Path(without_name(str(source))) for source in inputs if source is not None]
    if any(folder.is_dir() and out.is_dir() and out.samefile(folder) for folder in folders):
        raise VocabkitError(f"{out}: is an input; choose another `out`")
    check_captions(out / CAPTIONS)
    results = [name for name in (TEACHER, SHARED, ADAPTER, STATE) if (out / name).exists()]
    if results and not (out / CAPTIONS).exists():
        raise VocabkitError(f"{out}: holds {results[0]}, but of no adoption; choose another `out`")


def _prepare(
    teacher: Teacher,
    tokenizers: Sequence[Vocabulary],
    pictures: str | None,
    out: Path,
    questions: Sequence[str],
    options: AdoptOptions,
    recipe: Recipe,
    progress: Progress,
) -> tuple[SharedVocabulary, int | None, float | None]:
    """Write all that the training reads. Returns V_shared, how many pictures are left out, and the gain of the first
    captions from their own pictures.
    """
    device = open_device(options.device)
    features, found, left_out = _open_features(teacher, pictures, out, options, device, progress)
    projector = with_fingerprint(teacher.projector, features.encoder["fingerprint"])
    captions = out / CAPTIONS
    tried = max(TRIED // options.batch, 1) * options.batch
    keys = in_order(found, captions, tried)
    if all(torch.equal(features[key], features[keys[0]]) for key in keys[:tried]):
        raise VocabkitError(
            f"{features.folder}: of one picture only, or copies of it; the teacher's answers are compared between "
            "pictures: give more"
        )
    progress(f"loading {teacher.llm}", 0, None)
    low = device.type == "cuda" or recipe.precision == "bfloat16"
    llm = load_llm(teacher.llm, torch.bfloat16 if low else torch.float32)
    llm.model.to(device)
    lvlm = LVLM(llm, projector.to(device))
    asked = Asked(llm, lvlm, features, keys, questions, options.template, options.max_new_tokens, options.batch)
    for question in questions:
        if (length := len(asked.prompt(question))) >= recipe.max_tokens:
            raise VocabkitError(
                f"`settings` max_tokens: {recipe.max_tokens}, but question and picture are {length:,}; set more"
            )
    said, wanted = count_captions(captions, asked), len(keys) * len(questions)
    if (out / SHARED).exists() and said < wanted:
        raise VocabkitError(
            f"{out}: was adopted from {said:,} answers, and these pictures need {wanted:,}; choose another `out`, or "
            "give the same pictures"
        )
    write_captions(captions, asked, limit=tried, progress=progress)
    progress("comparing captions with other pictures", 0, None)
    gain = gain_of_picture(captions, asked, tried)
    if gain < (least := LEAST_GAIN[options.template]):
        raise VocabkitError(
            f"{captions}: what the teacher says gains {gain:.2f} nats per token from its own picture, less than "
            f"{least}: it hardly sees it. Is the projector trained, and are these its own `llm` and `vision`?"
        )
    _shared(captions, tokenizers, options)
    write_captions(captions, asked, progress=progress)
    shared = _shared(captions, tokenizers, options)
    if (out / SHARED).exists() and open_shared(out / SHARED).fingerprint != shared.fingerprint:
        raise VocabkitError(f"{out / SHARED}: of another adoption; choose another `out`, or remove this folder")
    projector.cpu().save(out / TEACHER)
    shared.save(out / SHARED)
    return shared, left_out, gain


def _open_features(
    teacher: Teacher,
    pictures: str | None,
    out: Path,
    options: AdoptOptions,
    device: torch.device,
    progress: Progress,
) -> tuple[Features, set[str], int]:
    """Return the features, computed unless they are given, the keys of the pictures, and how many are left out."""
    left_out, why = 0, ""
    wanted: set[str] = set()
    if options.features is None:
        assert pictures is not None
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        encoder = encoder_of(teacher.projector, options.vision, device=device, dtype=dtype)
        with_fingerprint(teacher.projector, encoder.info["fingerprint"])
        shown = _pictures(pictures, options)
        if isinstance(shown, list):  # of a known length, which progress shows
            wanted = {picture.key for picture in shown}
        else:
            shown = _noting(shown, wanted)
        report = cache_features(encoder, shown, out / FEATURES, progress=progress)
        left_out, why = report.broken, "".join(f"; the first: {problem}" for problem in report.first_broken[:1])
    features = open_features(options.features or out / FEATURES)
    check_encoder(teacher.projector.config, features.encoder, features.folder)
    keys = set(features.keys)
    if pictures is not None and options.features is not None:
        wanted = {picture.key for picture in _pictures(pictures, options)}
        left_out, why = len(wanted - keys), f": {features.folder} has no features of them"
    if pictures is not None:
        keys &= wanted  # an earlier run may have computed others
    if not keys:
        raise VocabkitError(f"{features.folder}: has no features of any picture in {pictures}")
    for key in keys:
        if key.startswith("/") or ".." in key.split("/"):  # as in LLaVA's format, which captions are written in
            raise VocabkitError(
                f"{features.folder}: the key {quote(key)} leads out of its folder; compute features of a folder, or "
                "give `pictures` alone"
            )
    if left_out:
        warn(f"{left_out:,} of {left_out + len(keys):,} pictures left out{why}")
    return features, keys, left_out


def _noting(pictures: Iterable[Picture], keys: set[str]) -> Iterator[Picture]:
    """Hand on the pictures, and add their keys to `keys`."""
    for picture in pictures:
        keys.add(picture.key)
        yield picture


def _pictures(source: str, options: AdoptOptions) -> Iterable[Picture]:
    """The pictures of a folder of images, or images by name, with their names in the folder as keys, or the pictures of
    a LLaVA file or a dataset.
    """
    folder = Path(source)
    if folder.is_dir():
        files = image_files(folder)
    else:
        files = [Path(name) for name in each_file(source) if is_image(name) and not is_url(name)]
        folder = Path(os.path.commonpath([file.parent for file in files])) if files else folder
    if files:
        return [Picture(path_key(file.relative_to(folder)), file) for file in files]
    return pictures_of(source, options.images, options.columns)


def _shared(captions: Path, tokenizers: Sequence[Vocabulary], options: AdoptOptions) -> SharedVocabulary:
    """V_shared of what the captions say so far. Raises VocabkitError: it covers too little of them."""
    if options.words:
        whole = align_words(tokenizers, [captions], phrases=True)
    else:
        ranked = rank(align(tokenizers), tokenizers[0], [captions])
        assert ranked.counts is not None
        whole = ranked.select(np.flatnonzero(ranked.counts > 0))
    what = "words" if options.words else "tokens"
    if (covered := whole.selection.mass_kept or 0.0) < LEAST_COVERED:
        raise VocabkitError(
            f"{captions}: {', '.join(v.name for v in tokenizers)} share {covered:.0%} of the {what} in the teacher's "
            f"captions, too few to say what it says; choose other `targets`{', or set `words`' * (not options.words)}"
        )
    if options.top is None or options.top >= len(whole):
        return whole
    shared = whole.select(np.arange(options.top))
    if (covered := shared.selection.mass_kept or 0.0) < LEAST_COVERED:
        raise VocabkitError(
            f"{captions}: the {options.top:,} most frequent rows are {covered:.0%} of the {what} in the teacher's "
            f"captions, too few to say what it says; give a larger `top`, up to {len(whole):,}"
        )
    return shared
