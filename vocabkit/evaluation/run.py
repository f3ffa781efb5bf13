"""A validation from files: models, adapters and held-out data by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from vocabkit.adapter import MLPProjector, load_adapter
from vocabkit.data import Columns, samples_of
from vocabkit.devices import open_device
from vocabkit.errors import VocabkitError
from vocabkit.evaluation.answers import Answers, ask
from vocabkit.evaluation.calibration import Calibration, calibrate
from vocabkit.evaluation.conditions import Rival
from vocabkit.evaluation.validate import Validation, validate
from vocabkit.features import open_features
from vocabkit.llms import LLM, load_llm
from vocabkit.lvlm import Connector, load_connector
from vocabkit.prompts import parse_template
from vocabkit.scaling import with_scale
from vocabkit.targets import open_target
from vocabkit.transferred import TransferredAdapter
from vocabkit.verification import checked_ids


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
    device: str = "cpu",
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
    connectors: dict[str, Connector] = {name: load_connector(path).to(place) for name, path in adapters.items()}
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
    device: str = "cpu",
    progress: Callable[[str, int, int], None] = lambda shown, done, total: None,
) -> Calibration:
    """`calibrate` the adapter in a folder or file, and write it with that scale to `out`.

    Raises VocabkitError: anything that can't be found or does not fit.
    """
    chosen, place, cache = parse_template(template), open_device(device), open_features(features)
    moved = TransferredAdapter.from_pretrained(adapter)
    loaded = load_llm(llm)
    loaded.model.to(place)
    samples = list(islice(samples_of(data, images, columns), limit))
    found = calibrate(loaded, samples, cache, moved.to(place), template=chosen, batch=batch, progress=progress)
    with_scale(moved, found.scale).save(out)
    return found


def _rival(source: str, llm: str, connectors: Mapping[str, Connector], target: LLM) -> Rival:
    """The MLP, and the embedding rows of both LLMs for the tokens of the V_shared of the first adapter that has one."""
    mlp = load_adapter(source)
    if not isinstance(mlp, MLPProjector):
        raise VocabkitError(f"{source}: is no MLP projector; give as --rival an MLP that was trained with {llm}")
    shared = next((c.shared for c in connectors.values() if c.shared is not None), None)
    if shared is None:
        raise VocabkitError("--rival needs an --adapter with a shared vocabulary, on whose rows the maps are fitted")
    found, _ = open_target(llm)
    shared = shared.only_with(found.vocabulary.name, target.vocabulary.name)
    rows = found.embeddings.rows(checked_ids(shared, found.vocabulary, llm), tokens=found.vocabulary)
    return Rival(mlp, rows.float(), target.rows(shared).float().cpu())
