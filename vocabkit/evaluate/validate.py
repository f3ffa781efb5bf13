"""What an LLM makes of visual tokens from several sources: the proof, or the refutation, of a transfer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from vocabkit.adapter.model import Adapter, LangBridgeAdapter, MLPProjector, load_adapter
from vocabkit.adapter.partners import llm_ids
from vocabkit.data.samples import Sample
from vocabkit.data.sources import Columns, samples_of
from vocabkit.errors import VocabkitError
from vocabkit.evaluate.answers import Answers, ask
from vocabkit.evaluate.calibrate import Calibration, calibrate
from vocabkit.evaluate.conditions import BLIND, SHUFFLED, Rival, conditions
from vocabkit.evaluate.losses import Estimate, Losses, difference, mean_loss, measure, prepare, retention
from vocabkit.llm.devices import open_device
from vocabkit.llm.load import LLM, load_llm
from vocabkit.llm.prompts import Template, parse_template
from vocabkit.transfer.target import open_target
from vocabkit.transfer.transfer import with_scale
from vocabkit.vision.features import Features, open_features

NATIVE, MLP = "native", "mlp"
"""Adapters with a part in retention; `validate` takes any other names, too."""


@dataclass(frozen=True)
class Validation:
    """Results of one LLM on one data set."""

    llm: str
    samples: int
    left_out: int
    """Samples without features, or that can't be used."""
    visual_tokens: int
    """Of an image. Losses compare only at the same number."""
    template: str
    caption_loss: Mapping[str, Estimate]
    """Nats per answer token by what was shown: `blind` (the mean embedding), each adapter, followed by `NAME shuffled`
    (the visual tokens of other images; not if all samples have the same) and `NAME random vocabulary` (embedding rows
    permuted; not of an MLP), `ridge` and `procrustes`."""
    retention: Mapping[str, Estimate]
    """(blind - NAME) / (blind - native), of each but `native`."""
    of_mlp: Mapping[str, Estimate]
    """(blind - NAME) / (blind - mlp): the share of an MLP's gain, of each but `mlp`."""
    gain: Mapping[str, Estimate] = field(default_factory=dict)
    """blind - NAME, of each adapter."""
    gain_of_picture: Mapping[str, Estimate] = field(default_factory=dict)
    """`NAME shuffled` - NAME: what the right picture is worth beside another one."""


def validate(
    llm: LLM,
    samples: Sequence[Sample],
    features: Features,
    adapters: Mapping[str, Adapter],
    *,
    template: Template,
    rival: Rival | None = None,
    batch: int = 32,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda shown, done, total: None,
) -> Validation:
    """Measure the caption loss of `samples` under every condition.

    Args:
        adapters: by name. `transferred`, `native` (trained on this LLM) and `mlp` (an MLP trained on it) have a part in
            retention.
        progress: called with (condition, samples done, samples in total).

    Raises VocabkitError: an adapter that does not fit the features or the LLM, or has the name of something else that
    is shown, or no sample that can be used.
    """
    held, kept = prepare(llm, samples, features, template)
    losses: dict[str, Losses] = {}
    for name, visual in conditions(llm, held, adapters, rival, seed).items():
        done = 0

        def count(samples_done: int, name: str = name) -> None:
            nonlocal done
            done += samples_done
            progress(name, done, len(kept))

        losses[name] = measure(llm, held, visual, batch=batch, progress=count)

    def shares(reference: str) -> dict[str, Estimate]:
        if reference not in losses:
            return {}
        others = [name for name in losses if name not in (BLIND, reference)]
        return {name: retention(losses[BLIND], losses[name], losses[reference], seed=seed) for name in others}

    shuffled = {name: losses[of_it] for name in adapters if (of_it := f"{name} {SHUFFLED}") in losses}
    return Validation(
        llm=llm.vocabulary.name,
        samples=len(kept),
        left_out=len(samples) - len(kept),
        visual_tokens=features.tokens,
        template=template,
        caption_loss={name: mean_loss(found, seed=seed) for name, found in losses.items()},
        retention=shares(NATIVE),
        of_mlp=shares(MLP),
        gain={name: difference(losses[BLIND], losses[name], seed=seed) for name in adapters},
        gain_of_picture={name: difference(other, losses[name], seed=seed) for name, other in shuffled.items()},
    )


# MERGED: A validation from files: models, adapters and held-out data by name.


@dataclass(frozen=True)
class Result:
    """Of one file."""

    validation: Validation
    answers: Mapping[str, Answers]
    """By adapter; empty if not asked for."""


def validate_files(
    data: Sequence[str],
    *,
    llm: str,
    features: Path,
    adapters: Mapping[str, str],
    rival: str | None = None,
    rival_llm: str | None = None,
    images: Path | None = None,
    columns: Columns = Columns(),
    template: str = "plain",
    limit: int | None = None,
    batch: int = 32,
    device: str = "auto",
    answers: bool = False,
    progress: Callable[[str, int, int], None] = lambda shown, done, total: None,
) -> dict[str, Result]:
    """The results of each source in `data`, by its name without ending, or in full where two have the same name.
    Sources are those of `samples_of`; other arguments as for `validate`, by name or path.

    Raises VocabkitError: anything that can't be found or does not fit.
    """
    if rival is not None and rival_llm is None:
        raise VocabkitError("--rival needs --rival-llm, the LLM that this MLP was trained with")
    if rival is None and rival_llm is not None:
        raise VocabkitError("--rival-llm needs --rival, an MLP that was trained with that LLM")
    chosen, place = parse_template(template), open_device(device)
    cache = open_features(features)
    connectors: dict[str, Adapter] = {name: load_adapter(path).to(place) for name, path in adapters.items()}
    loaded = load_llm(llm)
    loaded.model.to(place)
    opponent = None if rival is None or rival_llm is None else _rival(rival, rival_llm, connectors, loaded)
    names = [Path(source).stem for source in data]
    names = [name if names.count(name) == 1 else source for name, source in zip(names, data, strict=True)]
    results = {}
    for label, source in zip(names, data, strict=True):
        samples = list(islice(samples_of(source, images, columns), limit))

        def of_file(shown: str, done: int, total: int, name: str = label) -> None:
            progress(f"{name}: {shown}", done, total)

        found = validate(
            loaded, samples, cache, connectors, template=chosen, rival=opponent, batch=batch, progress=of_file
        )
        asked = {
            name: ask(loaded, samples, cache, connector, template=chosen, batch=batch)
            for name, connector in (connectors.items() if answers else ())
        }
        results[label] = Result(found, asked)
    return results


def calibrate_file(
    adapter: str,
    data: str,
    *,
    llm: str,
    features: Path,
    out: Path,
    images: Path | None = None,
    columns: Columns = Columns(),
    template: str = "plain",
    limit: int = 100,
    batch: int = 32,
    device: str = "auto",
    progress: Callable[[str, int, int], None] = lambda shown, done, total: None,
) -> Calibration:
    """`calibrate` the adapter in a folder or file, and write it with that scale to `out`.

    Raises VocabkitError: anything that can't be found or does not fit.
    """
    chosen, place, cache = parse_template(template), open_device(device), open_features(features)
    moved = LangBridgeAdapter.from_pretrained(adapter, kind="transferred")
    loaded = load_llm(llm)
    loaded.model.to(place)
    samples = list(islice(samples_of(data, images, columns), limit))
    found = calibrate(loaded, samples, cache, moved.to(place), template=chosen, batch=batch, progress=progress)
    with_scale(moved, found.scale).save(out)
    return found


def _rival(source: str, llm: str, connectors: Mapping[str, Adapter], target: LLM) -> Rival:
    """The MLP, and the embedding rows of both LLMs for the tokens of the V_shared of the first adapter that has one."""
    mlp = load_adapter(source)
    if not isinstance(mlp, MLPProjector):
        raise VocabkitError(f"{source}: is no MLP projector; give as --rival an MLP that was trained with {llm}")
    shared = next((c.shared for c in connectors.values() if c.shared is not None), None)
    if shared is None:
        raise VocabkitError("--rival needs an --adapter with a shared vocabulary, on whose rows the maps are fitted")
    found, _ = open_target(llm)
    shared = shared.only_with(found.vocabulary.name, target.vocabulary.name)
    rows = found.embeddings.rows(llm_ids(shared, found.vocabulary, llm), tokens=found.vocabulary)
    return Rival(mlp, rows.float(), target.rows(shared).float().cpu())
