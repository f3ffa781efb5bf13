"""Validate visual tokens from several sources on one LLM: the proof, or the refutation, of a transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from vocabkit.adapter.model import Adapter, MLPProjector, load_adapter
from vocabkit.adapter.partners import llm_ids
from vocabkit.data.samples import Sample
from vocabkit.data.sources import Columns, samples_of
from vocabkit.errors import VocabkitError
from vocabkit.evaluate.answers import Answers, ask
from vocabkit.evaluate.conditions import BLIND, SHUFFLED, Rival, conditions
from vocabkit.evaluate.losses import (
    Estimate,
    EvaluateOptions,
    Losses,
    difference,
    mean_loss,
    measure,
    prepare,
    retention,
)
from vocabkit.files.progress import Progress, no_progress
from vocabkit.llm.devices import open_device
from vocabkit.llm.load import LLM, load_llm
from vocabkit.transfer.transfer import open_target
from vocabkit.vision.features import Features, open_features

NATIVE, MLP = "native", "mlp"
"""Adapters that retention is computed from. `validate` takes any other names as well."""


@dataclass(frozen=True, kw_only=True)
class FileOptions(EvaluateOptions):
    """Where held-out samples and their features are, and how they are measured."""

    features: str | Path
    """Folder of their patch features."""
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
    """Samples without features, or that could not be used."""
    visual_tokens: int
    """Visual tokens of an image. Losses compare only at the same number."""
    template: str
    caption_loss: Mapping[str, Estimate]
    """Nats per answer token by condition: `blind` (the mean embedding), each adapter, followed by `NAME shuffled` (the
    visual tokens of other images; not if all samples have the same) and `NAME random vocabulary` (embedding rows
    permuted; not for an MLP), `ridge` and `procrustes`."""
    retention: Mapping[str, Estimate]
    """(blind - NAME) / (blind - native), for all but `native`."""
    of_mlp: Mapping[str, Estimate]
    """(blind - NAME) / (blind - mlp): the share of an MLP's gain, for all but `mlp`."""
    gain: Mapping[str, Estimate] = field(default_factory=dict)
    """blind - NAME, for each adapter."""
    gain_of_picture: Mapping[str, Estimate] = field(default_factory=dict)
    """`NAME shuffled` - NAME: what the right picture gains over another one."""


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
        progress: reports samples, by source and condition.

    Returns:
        Results by the name of the source without ending, or in full where two share that name.

    Raises:
        VocabkitError: anything that can't be found or does not fit.
    """
    place, features = open_device(options.device), open_features(Path(options.features))
    connectors: dict[str, Adapter] = {name: load_adapter(path).to(place) for name, path in adapters.items()}
    loaded = load_llm(llm)
    loaded.model.to(place)
    opponent = None if rival is None else _rival(*rival, connectors, loaded)
    images = None if options.images is None else Path(options.images)
    names = [Path(source).stem for source in data]
    names = [name if names.count(name) == 1 else source for name, source in zip(names, data, strict=True)]
    results = {}
    for label, source in zip(names, data, strict=True):
        samples = list(islice(samples_of(source, images, options.columns), options.limit))

        def of_file(what: str, done: int, total: int | None, label: str = label) -> None:
            progress(f"{label}: {what}", done, total)

        found = validate(loaded, samples, features, connectors, options, rival=opponent, progress=of_file)
        asked = {
            name: ask(loaded, samples, features, connector, options)
            for name, connector in (connectors.items() if answers else ())
        }
        results[label] = Result(found, asked)
    return results


def validate(
    llm: LLM,
    samples: Sequence[Sample],
    features: Features,
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
    losses: dict[str, Losses] = {
        name: measure(llm, held, visual, batch=options.batch, what=name, progress=progress)
        for name, visual in conditions(llm, held, adapters, rival, seed).items()
    }

    def shares(reference: str) -> dict[str, Estimate]:
        if reference not in losses:
            return {}
        others = [name for name in losses if name not in (BLIND, reference)]
        return {name: retention(losses[BLIND], losses[name], losses[reference], seed=seed) for name in others}

    shuffled = {name: losses[control] for name in adapters if (control := f"{name} {SHUFFLED}") in losses}
    return Validation(
        llm=llm.vocabulary.name,
        samples=len(kept),
        left_out=len(samples) - len(kept),
        visual_tokens=features.tokens,
        template=options.template,
        caption_loss={name: mean_loss(found, seed=seed) for name, found in losses.items()},
        retention=shares(NATIVE),
        of_mlp=shares(MLP),
        gain={name: difference(losses[BLIND], losses[name], seed=seed) for name in adapters},
        gain_of_picture={name: difference(other, losses[name], seed=seed) for name, other in shuffled.items()},
    )


def _rival(source: str, llm: str, connectors: Mapping[str, Adapter], target: LLM) -> Rival:
    """The MLP, and both LLMs' embedding rows of the tokens in the V_shared of the first adapter that has one."""
    mlp = load_adapter(source)
    if not isinstance(mlp, MLPProjector):
        raise VocabkitError(f"{source}: not an MLP projector; give as `rival` an MLP that was trained with {llm}")
    shared = next((c.shared for c in connectors.values() if c.shared is not None), None)
    if shared is None:
        raise VocabkitError("`rival` needs an `adapter` with a shared vocabulary, to fit the maps on its rows")
    found = open_target(llm)
    shared = shared.only_with(found.vocabulary.name, target.vocabulary.name)
    rows = found.embeddings.rows(llm_ids(shared, found.vocabulary, llm), tokens=found.vocabulary)
    return Rival(mlp, rows.float(), target.rows(shared).float().cpu())
