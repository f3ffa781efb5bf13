"""Validate visual tokens on one LLM: adapters, controls, and the baseline that a transfer has to beat.

The baseline, called the rival, needs no shared vocabulary: an MLP projector trained with LLM-1, whose visual tokens are
mapped into the embedding space of LLM-2. The map is fitted to the embeddings of the tokens that both share, see
`vocabkit.adapter.space_maps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vocabkit.adapter.model import Adapter, LangBridgeAdapter, MLPProjector, load_adapter
from vocabkit.adapter.partners import check_encoder, check_llm, llm_spellings
from vocabkit.adapter.space_maps import SpaceMap, procrustes, ridge
from vocabkit.adapter.words import image_words
from vocabkit.data.samples import PLACEHOLDER, Sample
from vocabkit.data.sources import Columns, samples_of
from vocabkit.errors import VocabkitError, quote
from vocabkit.evaluate.answers import Answers, ask
from vocabkit.evaluate.losses import (
    FEWEST_PICTURES,
    LONGEST_PROMPT,
    Estimate,
    EvaluateOptions,
    HeldOut,
    Images,
    Losses,
    VisualTokens,
    difference,
    mean_loss,
    measure,
    none_usable,
    prepare,
    retention,
    shown_by,
    why_unusable,
)
from vocabkit.files.progress import Progress, no_progress
from vocabkit.llm.devices import open_device
from vocabkit.llm.load import LLM, load_llm
from vocabkit.llm.lvlm import LVLM
from vocabkit.llm.prompts import Template, encode_sample
from vocabkit.transfer.transfer import open_target
from vocabkit.vision.computed import ComputedFeatures
from vocabkit.vision.encoder import VisionEncoder, encoder_of
from vocabkit.vision.features import Features, open_features

NATIVE, MLP = "native", "mlp"
"""Names of adapters that retention is relative to. Adapters may have any other name."""


@dataclass(frozen=True, kw_only=True)
class FileOptions(EvaluateOptions):
    """Where held-out samples and their features are, and how they are measured."""

    features: str | Path | None = None
    """Folder of their patch features; None to compute them, of whole pictures or tiles, with the encoder that the
    adapters were trained with."""
    vision: str | Path | None = None
    """That encoder, as for `open_vision`, if it has moved or the adapters do not name it."""
    images: str | Path | None = None
    """Folder of the images in files; by default that of each file."""
    columns: Columns = Columns()
    """Columns of datasets."""
    limit: int | None = None
    """Samples to take from the start of each file; None for all."""
    device: str = "auto"
    """Device of the LLM and the adapters."""


@dataclass(frozen=True)
class Validation:
    """Results of one LLM on one dataset."""

    llm: str
    samples: int
    left_out: int
    """Samples without features, or that could not be used; see `first_left_out`."""
    visual_tokens: float
    """Visual tokens per image, on average, of `blind`: those of the adapter with the fewest. With more of them, a blind
    LLM has a higher loss, and all gains would be larger."""
    template: str
    caption_loss: Mapping[str, Estimate]
    """Nats per answer token by condition: `blind` (the mean embedding), each adapter, followed by `NAME shuffled` (the
    visual tokens of other images; not if all samples have the same) and `NAME random vocabulary` (embedding rows
    permuted; not for an MLP), `ridge` and `procrustes`. Of a softmax head also `NAME as text`: its words of each image
    as text in the prompt; not with the template plain, which has no text."""
    retention: Mapping[str, Estimate]
    """(blind - NAME) / (blind - native), for all but `native`; empty if that does not certainly gain."""
    of_mlp: Mapping[str, Estimate]
    """(blind - NAME) / (blind - mlp): the share of an MLP's gain, for all but `mlp`; empty if that does not
    certainly gain."""
    gain: Mapping[str, Estimate] = field(default_factory=dict)
    """blind - NAME, for each adapter."""
    gain_of_picture: Mapping[str, Estimate] = field(default_factory=dict)
    """`NAME shuffled` - NAME: the gain from seeing the right picture instead of another one."""
    pictures: int | None = None
    """Different pictures; None in earlier versions' results. Intervals of fewer than `FEWEST_PICTURES` say nothing."""
    first_left_out: str | None = None
    """The first sample that was left out, and why."""

    @property
    def too_few(self) -> bool:
        """Whether there are too few different pictures for intervals and a verdict."""
        return self.pictures is not None and self.pictures < FEWEST_PICTURES


@dataclass(frozen=True)
class Result:
    """Results on one file or dataset."""

    validation: Validation
    answers: Mapping[str, Answers]
    """By adapter; empty if not asked for."""


def validate_files(
    data: Sequence[str],
    llm: str,
    adapters: Mapping[str, str],
    options: FileOptions,
    *,
    rival: tuple[str, str] | None = None,
    answers: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Result]:
    """Validate adapters on each source in `data`.

    Args:
        data: sources of samples, as `samples_of` takes them.
        llm: as `load_llm` takes it.
        adapters: folder, `.pt` file or hub id by name; names as for `validate`.
        rival: an MLP trained with another LLM, and that LLM.
        answers: whether to ask for names, yes or no, and counts as well.
        progress: reports the loading of the LLM, then samples, by source and condition.

    Returns:
        Results by the name of the source, without folder and ending unless two sources share it.

    Raises:
        VocabkitError: anything that can't be found or does not fit.
    """
    place = open_device(options.device)
    connectors: dict[str, Adapter] = {name: load_adapter(path).to(place) for name, path in adapters.items()}
    given = _open_images(options, connectors, place)
    parts = _read(data, given, connectors, options)  # before the LLM, which takes a minute to load
    progress(f"loading {llm}", 0, None)
    loaded = load_llm(llm)
    loaded.model.to(place)
    opponent = None if rival is None else _rival(*rival, connectors, loaded)
    results = {}
    for label, (samples, features) in parts.items():

        def of_file(what: str, done: int, total: int | None, label: str = label) -> None:
            progress(f"{label}: {what}", done, total)

        found = validate(loaded, samples, features, connectors, options, rival=opponent, progress=of_file)
        asked = {
            name: ask(loaded, samples, features, connector, options, progress=of_file)
            for name, connector in (connectors.items() if answers else ())
        }
        results[label] = Result(found, asked)
    return results


def validate(
    llm: LLM,
    samples: Sequence[Sample],
    features: Images,
    adapters: Mapping[str, Adapter],
    options: EvaluateOptions = EvaluateOptions(),
    *,
    rival: Rival | None = None,
    progress: Progress = no_progress,
) -> Validation:
    """Measure the caption loss of `samples` under every condition.

    Args:
        adapters: by name. Retention is relative to `native` (trained on this LLM) and `mlp` (an MLP trained on it).
        progress: reports samples, by condition.

    Raises:
        VocabkitError: an adapter that does not fit the features or the LLM, or has the name of another condition; no
            sample that can be used.
    """
    seed = options.seed
    held, kept = prepare(llm, samples, features, options.template)
    numbers = [adapter.config.visual_tokens(features.tokens) for adapter in adapters.values()]
    held = replace(held, tokens=min(numbers, default=features.tokens))
    mean = sum(held.counts) / len(held.counts)
    losses: dict[str, Losses] = {}
    for name, visual in conditions(llm, held, adapters, rival, seed, options.other_weights).items():
        losses[name] = measure(llm, held, visual, batch=options.batch, what=name, progress=progress)
        adapter = adapters.get(name)
        if isinstance(adapter, LangBridgeAdapter) and adapter.config.head == "softmax" and options.template != "plain":
            text = as_text(llm, kept, adapter, features, options.template)
            what = f"{name} {AS_TEXT}"
            losses[what] = measure(llm, text, lambda _: (), batch=options.batch, what=what, progress=progress)

    def shares(reference: str) -> dict[str, Estimate]:
        if reference not in losses:
            return {}
        gain = difference(losses[BLIND], losses[reference], seed=seed)
        if not (gain.value if held.pictures < FEWEST_PICTURES else gain.low) > 0:
            return {}
        others = [name for name in losses if name not in (BLIND, reference)]
        return {name: retention(losses[BLIND], losses[name], losses[reference], seed=seed) for name in others}

    shuffled = {name: losses[control] for name in adapters if (control := f"{name} {SHUFFLED}") in losses}
    return Validation(
        llm=llm.vocabulary.name,
        samples=len(kept),
        left_out=len(samples) - len(kept),
        visual_tokens=int(mean) if mean.is_integer() else round(mean, 1),
        template=options.template,
        caption_loss={name: mean_loss(found, seed=seed) for name, found in losses.items()},
        retention=shares(NATIVE),
        of_mlp=shares(MLP),
        gain={name: difference(losses[BLIND], losses[name], seed=seed) for name in adapters},
        gain_of_picture={name: difference(other, losses[name], seed=seed) for name, other in shuffled.items()},
        pictures=held.pictures,
        first_left_out=held.first_left_out,
    )


def _read(
    data: Sequence[str], given: Features | VisionEncoder, connectors: Mapping[str, Adapter], options: FileOptions
) -> dict[str, tuple[list[Sample], Images]]:
    """Return the samples and features of each source, by its label.

    Raises VocabkitError: a source without a sample that can be used, or features that an adapter does not take.
    """
    folder = None if options.images is None else Path(options.images)
    stems = [Path(name).stem for name in data]
    found: dict[str, tuple[list[Sample], Images]] = {}
    for stem, name in zip(stems, data, strict=True):
        samples = list(islice(samples_of(name, folder, options.columns), options.limit))
        features = (
            given if isinstance(given, Features) else ComputedFeatures(given, (p for s in samples for p in s.images))
        )
        for adapter in connectors.values():
            check_encoder(adapter.config, features.encoder, features.folder)
        reasons = [why_unusable(sample, features) for sample in samples]
        if None not in reasons:
            error = none_usable(len(samples), f"{samples[0].id}: {reasons[0]}" if samples else None)
            raise VocabkitError(f"{name}: {error}")
        found[stem if stems.count(stem) == 1 else name] = samples, features
    return found


def _open_images(
    options: FileOptions, connectors: Mapping[str, Adapter], device: torch.device
) -> Features | VisionEncoder:
    """Cached features, or the encoder that computes them."""
    if options.features is not None:
        if options.vision is not None:
            raise VocabkitError("`vision` computes the pictures that `features` has already; leave one of them out")
        return open_features(Path(options.features))
    if not connectors:
        raise VocabkitError("give `features`, or an `adapter` with whose vision encoder they can be computed")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    return encoder_of(next(iter(connectors.values())), options.vision, tiles=True, device=device, dtype=dtype)


def _rival(source: str, llm: str, connectors: Mapping[str, Adapter], target: LLM) -> Rival:
    """The MLP, and both LLMs' embedding rows of the tokens in the V_shared of the first adapter that has one."""
    mlp = load_adapter(source)
    if not isinstance(mlp, MLPProjector):
        raise VocabkitError(f"{source}: not an MLP projector; `rival` takes an MLP that was trained with {llm}")
    shared = next((c.shared for c in connectors.values() if c.shared is not None), None)
    if shared is None:
        raise VocabkitError("`rival` needs an `adapter` with a shared vocabulary, to fit the maps on its rows")
    found = open_target(llm)
    shared = shared.only_with(found.vocabulary.name, target.vocabulary.name)
    rows, _ = found.embeddings.composed(llm_spellings(shared, found.vocabulary, llm), tokens=found.vocabulary)
    check_llm(mlp.config, None, found.table(llm))
    return Rival(mlp, rows.float(), target.rows(shared).float().cpu())


BLIND = "blind"
"""The baseline: the mean embedding in place of every visual token."""
AS_TEXT, SHUFFLED, RANDOM_VOCABULARY = "as text", "shuffled", "random vocabulary"
"""Controls of each adapter, named after it."""

_BLOCK = 8192
"""Rows of the embedding table in float64 at a time."""


@dataclass(frozen=True)
class Rival:
    """An MLP trained with another LLM, and the rows that map its visual tokens to this LLM."""

    mlp: MLPProjector
    source_rows: Tensor
    """(V, D1) embeddings of the shared tokens in the LLM that it was trained with."""
    target_rows: Tensor
    """(V, D2) their embeddings in this LLM."""


def conditions(
    llm: LLM,
    held: HeldOut,
    adapters: Mapping[str, Adapter],
    rival: Rival | None,
    seed: int,
    other_weights: bool = False,
) -> dict[str, VisualTokens]:
    """Visual tokens by the names in `Validation.caption_loss`: each adapter is followed by its controls.

    Raises:
        VocabkitError: an adapter that does not fit the features or the LLM, or has the name of another condition.
    """
    found = {BLIND: blind_tokens(llm, held)}

    def add(name: str, visual: VisualTokens) -> None:
        if name in found:
            raise VocabkitError(f"two conditions are called {quote(name)}; give the adapter another name")
        found[name] = visual

    others = other_images(held.keys, seed)
    for name, adapter in adapters.items():
        if (control := f"{name} {AS_TEXT}") in adapters:
            raise VocabkitError(f"two conditions are called {quote(control)}; give the adapter another name")
        check_encoder(adapter.config, held.features.encoder, held.features.folder)
        lvlm = LVLM(llm, adapter, other_weights=other_weights)
        show = shown_by(lvlm, held)
        add(name, show)
        if others is not None:
            add(f"{name} {SHUFFLED}", lambda numbers, show=show: show(others[numbers]))  # type: ignore[misc]
        if not isinstance(adapter, MLPProjector):
            add(f"{name} {RANDOM_VOCABULARY}", random_vocabulary(lvlm, held, seed))
    if rival is not None:
        check_encoder(rival.mlp.config, held.features.encoder, held.features.folder)
        if rival.mlp.config.llm_width != rival.source_rows.shape[1]:
            raise VocabkitError(
                f"the rival MLP gives visual tokens of width {rival.mlp.config.llm_width}, but its LLM's embeddings "
                f"have width {rival.source_rows.shape[1]}; name the LLM that it was trained with"
            )
        for name, fit in (("ridge", ridge), ("procrustes", procrustes)):
            add(name, carried(rival.mlp, fit(rival.source_rows, rival.target_rows), held))
    return found


def mean_embedding(llm: LLM) -> Tensor:
    """(D,) mean embedding of all ids of the tokenizer, float32."""
    module = llm.model.get_input_embeddings()
    count = min(len(llm.vocabulary), module.weight.shape[0])
    ids = torch.arange(count, device=llm.model.device)
    with torch.no_grad():
        total: Tensor = sum(module(part).double().sum(dim=0) for part in ids.split(_BLOCK))
        mean: Tensor = (total / count).float()
    return mean


def blind_tokens(llm: LLM, held: HeldOut) -> VisualTokens:
    """The mean embedding for every image."""
    mean = mean_embedding(llm)
    return lambda numbers: [mean.expand(held.counts[number], -1) for number in numbers.tolist()]


def random_vocabulary(lvlm: LVLM, held: HeldOut, seed: int) -> VisualTokens:
    """The same coefficients over the embedding rows in a random order."""
    adapter, rows = lvlm.connector, lvlm.rows()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(rows)))

    def mix(features: Tensor) -> Tensor:  # permuted anew each time: a permuted copy would be a second table in memory
        visual: Tensor = adapter(features.to(rows.device, lvlm.connector_dtype), rows[order])
        return visual

    return lambda numbers: held.visual_tokens(mix, numbers, adapter.image_newline)


def as_text(
    llm: LLM, samples: Sequence[Sample], adapter: LangBridgeAdapter, features: Images, template: Template
) -> HeldOut:
    """The samples with the words that `image_words` gives of each picture as text in its place."""

    def put(sample: Sample) -> Sample:
        pictures = iter(sample.images)
        turns = []
        for turn in sample.turns:
            first, *others = turn.question.split(PLACEHOLDER)
            told = (features[next(pictures).key].float() for _ in others)
            words = [", ".join(word.text for word in image_words(adapter, patches)) for patches in told]
            turns.append(turn._replace(question=first + "".join(map("".join, zip(words, others, strict=True)))))
        return replace(sample, turns=tuple(turns), images=())

    tokenizer, told = llm.tokenizer, map(put, samples)
    prompts = [encode_sample(tokenizer, sample.turns, template, 0, longest=LONGEST_PROMPT) for sample in told]
    return HeldOut(prompts, (), features)


def carried(mlp: MLPProjector, carry: SpaceMap, held: HeldOut) -> VisualTokens:
    """The visual tokens of an MLP projector, mapped to another LLM."""

    def show(numbers: Tensor) -> list[Tensor]:
        tokens = held.visual_tokens(lambda features: mlp(features.to(mlp.linear_1.weight)), numbers, mlp.image_newline)
        return [carry(each) for each in tokens]

    return show


def other_images(keys: Sequence[str], seed: int) -> Tensor | None:
    """(I,) the number of another image, one with a different key, for each image; None if all keys are equal."""
    first = {key: number for number, key in reversed(list(enumerate(keys)))}
    distinct = sorted(first)
    if len(distinct) < 2:
        return None
    other = {key: first[distinct[to]] for key, to in zip(distinct, derangement(len(distinct), seed), strict=True)}
    return torch.tensor([other[key] for key in keys])


def derangement(count: int, seed: int) -> np.ndarray:
    """(count,) a permutation without fixed points; `count` is at least 2."""
    order = np.random.default_rng(seed).permutation(count)
    found = np.empty(count, dtype=np.int64)
    found[order] = np.roll(order, 1)
    return found
