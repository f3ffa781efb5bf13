"""Save and load adapters: a folder, one file, or the Hugging Face hub."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import huggingface_hub
import msgspec
import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import Tensor, nn

from vocabkit.adapter.checkpoint import (
    FOLDER_FILES,
    KINDS,
    Checkpoint,
    check_destination,
    kind_of,
    read_checkpoint,
    write_checkpoint,
)
from vocabkit.adapter.tensors import hash_tensors
from vocabkit.errors import VocabkitError, quote
from vocabkit.hub import hub_id, what_the_hub_said, why_failed
from vocabkit.shared.shared_vocabulary import SharedVocabulary

_ADVICE = {
    ("mlp", "langbridge"): "it has no vocabulary, so it can't be moved: train one with a head (`vocabkit train`)",
    ("transferred", "langbridge"): "give the adapter that it was made from",
    ("langbridge", "transferred"): "`vocabkit transfer` it first",
    ("mlp", "transferred"): "it was made for one LLM and can't be moved",
}
"""(`adapter_type` found, wanted) -> what to do."""
_INNER = "adapter."
"""Prefix on disk of the weights of a transferred adapter."""


class Pretrained(nn.Module, PyTorchModelHubMixin):
    """Base class of modules that config, tensors and shared vocabulary describe completely.

    A subclass takes `Class(config, shared)` and names its config dataclass, which has `shapes()`, `to_json()` and
    `from_json()`.
    """

    config_class: ClassVar[Any]
    config: Any
    shared: SharedVocabulary | None

    def save(self, path: str | Path) -> None:
        """Write one file if `path` ends in `.pt`, else a folder as `save_pretrained` does.

        Raises VocabkitError: `path` holds something other than an adapter of this kind, can't write here, or weights
        that are not finite.
        """
        checkpoint = self.checkpoint()
        check_destination(path, self.config.kind)
        write_checkpoint(path, checkpoint, str(self.generate_model_card()))

    def checkpoint(self) -> Checkpoint:
        """Return the content to store. Weights of a transferred adapter are named `adapter.*`, beside `embeddings`."""
        config, tensors = self.config.to_json(), self.state_dict()
        if self.config.kind == "transferred":
            tensors = {name if name == "embeddings" else _INNER + name: tensor for name, tensor in tensors.items()}
        return Checkpoint(config, tensors, self.shared)

    def fingerprint(self, others: Mapping[str, Tensor] | None = None) -> str:
        """Return the sha256 of config, weights and `others`; it does not depend on how they are stored."""
        stored = self.checkpoint()
        config = {key: value for key, value in stored.config.items() if key != "adapter_type"}
        return hash_tensors(json.dumps(config, sort_keys=True).encode(), {**stored.tensors, **(others or {})})

    def save_pretrained(
        self, save_directory: str | Path, *, repo_id: str | None = None, push_to_hub: bool = False, **options: Any
    ) -> str | None:
        """Write a checkpoint folder (see `vocabkit.adapter.checkpoint`); other options go to `push_to_hub`.

        Config and model card are always the adapter's own; files of an older checkpoint are replaced.
        """
        folder = Path(save_directory)
        if folder.suffix == ".pt":
            raise VocabkitError(f"{folder}: save_pretrained writes a folder; save() writes one file")
        self.save(folder)
        return self.push_to_hub(repo_id or folder.name, **options) if push_to_hub else None

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the checkpoint folder to a hub repository, created if missing; options are huggingface_hub's.

        Returns:
            The address of the commit.

        Raises VocabkitError: no access, an invalid name, or a failed upload.
        """
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")  # we mean to
                pushed = super().push_to_hub(repo_id, **options)
        except VocabkitError:
            raise
        except Exception as error:  # as in `locate`
            raise VocabkitError(f"{repo_id}: {why_failed(repo_id, error, 'upload to')}") from error
        return pushed

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, kind: str | None = None, **options: Any
    ) -> Self:
        """Load from a checkpoint folder, a `.pt` file or a hub id (owner/name or owner/name@revision).

        Args:
            kind: the required `adapter_type`: langbridge (as it was trained), transferred or mlp.
            options: of huggingface_hub, for hub ids: token, cache_dir, force_download, local_files_only.

        Raises VocabkitError: not found, damaged, an adapter of another type, or parts that do not belong together.
        """
        path = locate(pretrained_model_name_or_path, **options)
        return cls.from_checkpoint(path, read_checkpoint(path), kind)

    @classmethod
    def from_checkpoint(cls, path: Path, checkpoint: Checkpoint, kind: str | None = None) -> Self:
        """Build the module that `checkpoint`, read from `path`, describes; `kind` as for `from_pretrained`."""
        found = checkpoint.config.get("adapter_type")
        wanted = (kind,) if kind else cls.config_class.KINDS
        if found not in wanted:
            advice = _ADVICE.get((str(found), wanted[0]), "give another one")
            raise VocabkitError(f"{path}: holds {kind_of(found)}, not {KINDS[wanted[0]]}; {advice}")
        try:
            config = cls.config_class.from_json(checkpoint.config)
        except msgspec.ValidationError as error:
            raise VocabkitError(f"{path}: its config is wrong: {error}") from error
        tensors = checkpoint.tensors
        if found == "transferred":
            tensors = {name.removeprefix(_INNER): tensor for name, tensor in tensors.items()}
        return cls.from_parts(path, config, tensors, checkpoint.shared)

    @classmethod
    def from_parts(
        cls, path: Path, config: Any, tensors: Mapping[str, Tensor], shared: SharedVocabulary | None
    ) -> Self:
        """Build a module in evaluation mode whose parameters are `tensors`, not copies; `path` is for messages."""
        _check_shapes(path, config.shapes(), tensors)
        try:
            with torch.device("meta"):
                module = cls(config, shared)
        except VocabkitError as error:
            raise VocabkitError(f"{path}: {error}") from error
        module.load_state_dict(tensors, assign=True)
        return module.eval()

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """The README.md of a checkpoint folder."""
        raise NotImplementedError


def locate(source: str | Path, **options: Any) -> Path:
    """Return the local path of an adapter; the files of a hub repository are downloaded.

    Raises VocabkitError: neither a path nor a hub id, two revisions, or the hub refuses.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    found = hub_id(str(source))
    if found is None:
        raise VocabkitError(f"{source}: no such file or folder, and no hub id (owner/name or owner/name@revision)")
    if found.revision is not None and options.setdefault("revision", found.revision) != found.revision:
        raise VocabkitError(f"{source}: names one revision and `revision` another; pass only one")
    try:
        files = huggingface_hub.snapshot_download(found.repository, allow_patterns=list(FOLDER_FILES), **options)
    except Exception as error:  # also those of the HTTP library, which huggingface_hub changes from time to time
        answer = what_the_hub_said(error)
        if isinstance(answer, LocalEntryNotFoundError):
            raise VocabkitError(
                f"{source}: no such folder, can't reach the Hugging Face hub, and it is not in the cache; check the "
                "path and the network"
            ) from error
        raise VocabkitError(f"{source}: {why_failed(found.repository, answer, 'download from')}") from error
    return Path(files)


def _check_shapes(path: Path, expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> None:
    if missing := sorted(expected.keys() - tensors.keys()):
        raise VocabkitError(f"{path}: lacks {', '.join(missing)}; save the adapter again")
    if extra := sorted(tensors.keys() - expected.keys()):
        raise VocabkitError(f"{path}: holds {quote(', '.join(extra), 120)}, which such an adapter does not have")
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise VocabkitError(f"{path}: {name} is {tuple(tensors[name].shape)}, but should be {shape} by its config")
