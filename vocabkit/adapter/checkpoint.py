"""Checkpoints of adapters: a folder in the layout of the Hugging Face hub, or one file, saved and loaded.

Folder: `config.json`, `model.safetensors`, `shared_vocabulary.arrow` (not for an MLP projector), `README.md`.
File `*.pt`: `torch.save` of {"format", "config": JSON text, "tensors": {name: tensor}, "fingerprint": text,
"shared_vocabulary": uint8 tensor of the Arrow file's bytes}. It is read without executing pickles.

Beside the tensors, in the metadata of `model.safetensors` or under "fingerprint", is their `weights_fingerprint`, which
detects bytes that changed since. Checkpoints of earlier versions have none and are read without this check.

A result replaces an earlier result of the same kind and nothing else: `check_destination`.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vocabkit.adapter.description import (
    CARD,
    CONFIG,
    FORMAT,
    IMPORT,
    KINDS,
    SHARED,
    SINGLE_FILES,
    VERSION,
    WEIGHTS,
    check_name,
    config_of,
    nowhere,
    read_folder_config,
    read_json,
)
from vocabkit.adapter.tensors import (
    check_tensors,
    detach_copy,
    hash_tensors,
    is_plain,
    read_torch,
    weights_fingerprint,
    write_torch,
)
from vocabkit.errors import VocabkitError, quote
from vocabkit.files.atomic import reading, temporary_folder
from vocabkit.hub import hub_answers, hub_id, what_the_hub_said, why_failed
from vocabkit.shared.shared_vocabulary import SharedVocabulary, open_shared, parse_shared
from vocabkit.tokenizer.gguf import read_tensor_table

FOLDER_FILES = (WEIGHTS, SHARED, CARD, CONFIG)
FINGERPRINT = "vocabkit.fingerprint"
"""Key in the metadata of `model.safetensors`. The only key: safetensors writes several in an order that varies."""

_MM_PROJECTOR = {f"model.mm_projector.{layer}.{part}" for layer in "02" for part in ("weight", "bias")}
_INNER = "adapter."
"""Prefix on disk of the weights of a transferred adapter."""


class Pretrained(nn.Module):
    """Base class of modules that are completely described by config, tensors and shared vocabulary.

    A subclass is constructed as `Class(config, shared)`. Its `config_class` is a dataclass with `shapes()`, `to_json()`
    and `from_json()`.
    """

    config_class: ClassVar[Any]
    config: Any
    shared: SharedVocabulary | None

    def save(self, path: str | Path) -> None:
        """Write one file if `path` ends in `.pt`, else a folder as `save_pretrained` does.

        Raises VocabkitError: `path` holds something other than an adapter of this kind, can't be written, or the
        weights are not finite.
        """
        checkpoint = self.checkpoint()
        check_destination(path, self.config.kind)
        write_checkpoint(path, checkpoint, self.generate_model_card())

    def checkpoint(self) -> Checkpoint:
        """Return the content to store. Weights of a transferred adapter are named `adapter.*`, beside `embeddings`."""
        config, tensors = self.config.to_json(), self.state_dict()
        if self.config.kind == "transferred":
            tensors = {name if name == "embeddings" else _INNER + name: tensor for name, tensor in tensors.items()}
        return Checkpoint(config, tensors, self.shared)

    def fingerprint(self, others: Mapping[str, Tensor] | None = None, *, names: bool = True) -> str:
        """Return the sha256 of config, weights and `others`; it does not depend on how they are stored.

        Args:
            names: whether those of LLM and vision model count, which may be paths.
        """
        stored = self.checkpoint()
        left_out = {"adapter_type"} if names else {"adapter_type", "llm", "vision_model"}
        config = {key: value for key, value in stored.config.items() if key not in left_out}
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
        from huggingface_hub import ModelHubMixin  # 9 MB and 0.1 s, so no base class

        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")  # we mean to
                pushed = ModelHubMixin.push_to_hub(self, repo_id, **options)  # type: ignore[arg-type]
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
        config = config_of(path, checkpoint.config, cls.config_class, (kind,) if kind else cls.config_class.KINDS)
        tensors = checkpoint.tensors
        if config.kind == "transferred":
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

    def generate_model_card(self) -> str:
        """The README.md of a checkpoint folder."""
        raise NotImplementedError


def locate(source: str | Path, **options: Any) -> Path:
    """Return the local path of an adapter; the files of a hub repository are downloaded.

    Raises VocabkitError: neither a path nor a hub id, two revisions, or the hub refuses.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if problem := nowhere(source):
        raise VocabkitError(problem)
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    found = hub_id(str(source))
    assert found is not None
    if found.revision is not None and options.setdefault("revision", found.revision) != found.revision:
        raise VocabkitError(f"{source}: names one revision and `revision` another; pass only one")
    if not hub_answers():
        options["local_files_only"] = True
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


# ---- the two layouts ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The content of both layouts."""

    config: Mapping[str, Any]
    """Plain JSON."""
    tensors: Mapping[str, Tensor]
    """Floating point, finite, on the CPU."""
    shared: SharedVocabulary | None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint folder or a `.pt` file; tensors of a file are memory-mapped.

    Raises VocabkitError: missing, damaged or of a newer format; a pickle with more than plain tensors; tensors that
    are not finite floating-point numbers, or not those that were saved.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix != ".pt":
        missing = "" if path.exists() else "no such file or folder; "
        advice = IMPORT if path.exists() else ""
        raise VocabkitError(f"{path}: {missing}expected a folder with {CONFIG} or a file named *.pt{advice}")
    return _read_file(path)


def read_config(path: Path) -> dict[str, Any]:
    """Return the config in a checkpoint as plain JSON, without its tensors. Raises VocabkitError: not a checkpoint."""
    return read_folder_config(path) if path.is_dir() else _config_inside(path, read_torch(path))


def adapter_type(path: Path) -> str:
    """Return the kind of the adapter in a checkpoint, from its config alone. Raises VocabkitError: not a checkpoint."""
    return str(read_config(path).get("adapter_type"))


def write_checkpoint(path: str | Path, checkpoint: Checkpoint, card: str) -> None:
    """Write a `.pt` file if `path` ends in `.pt`, else a folder with the model card `card`. Same content, same bytes.

    A file is written whole or not at all. The files of a folder are first written beside the old ones. If the config
    changes, the old `config.json` is then removed, and the new one moves in last: a save that is killed leaves the old
    checkpoint, the new one, or a folder without `config.json`, which is refused.

    Raises VocabkitError: can't write here, or tensors that are not finite.
    """
    path = Path(path)
    tensors = {name: detach_copy(tensor) for name, tensor in sorted(checkpoint.tensors.items())}
    check_tensors(path, tensors, advice="nothing is saved; go back to before the training diverged")
    config = json.dumps({**checkpoint.config, "format": f"{FORMAT}/{VERSION}"}, indent=2, sort_keys=True) + "\n"
    if path.suffix == ".pt":
        _write_file(path, config, tensors, checkpoint.shared)
    else:
        _write_folder(path, config, tensors, checkpoint.shared, card)


def _write_file(path: Path, config: str, tensors: dict[str, Tensor], shared: SharedVocabulary | None) -> None:
    content: dict[str, Any] = {"format": f"{FORMAT}/{VERSION}", "config": config, "tensors": tensors}
    content["fingerprint"] = weights_fingerprint(tensors)
    if shared is not None:
        content["shared_vocabulary"] = torch.frombuffer(bytearray(shared.to_bytes()), dtype=torch.uint8)
    write_torch(path, content)


def _read_file(path: Path) -> Checkpoint:
    content = read_torch(path)
    config = _config_inside(path, content)
    tensors = content.get("tensors")
    if not isinstance(tensors, dict):
        raise VocabkitError(f"{path}: its tensors are missing; save the adapter again")
    check_tensors(path, tensors)
    _check_unchanged(path, tensors, content.get("fingerprint"))
    arrow = content.get("shared_vocabulary")
    if arrow is None:
        return Checkpoint(config, tensors, None)
    if not (is_plain(arrow) and arrow.dtype == torch.uint8 and arrow.ndim == 1):
        raise VocabkitError(f"{path}: its shared vocabulary is not a tensor of bytes; save the adapter again")
    return Checkpoint(config, tensors, parse_shared(arrow.numpy().data, f"{path}: {SHARED} inside"))


def _config_inside(path: Path, content: Any) -> dict[str, Any]:
    if not (isinstance(content, dict) and isinstance(content.get("config"), str)):
        raise VocabkitError(f"{path}: not an adapter of vocabkit (it has no config){IMPORT}")
    return read_json(path, content["config"])


def _write_folder(
    folder: Path, config: str, tensors: dict[str, Tensor], shared: SharedVocabulary | None, card: str
) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder) as new:
            safetensors.torch.save_file(tensors, new / WEIGHTS, metadata={FINGERPRINT: weights_fingerprint(tensors)})
            if shared is not None:
                shared.save(new / SHARED)
            (new / CARD).write_text(card, "utf-8")
            (new / CONFIG).write_text(config, "utf-8")
            shutil.copymode(new / CONFIG, new / WEIGHTS)  # save_file makes it readable by its owner only
            for file in new.iterdir():
                with file.open("rb+") as opened:
                    os.fsync(opened.fileno())
            _replace(folder, new)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else quote(str(error), 120)
        raise VocabkitError(f"{folder}: can't write the checkpoint ({reason})") from error


def _replace(folder: Path, new: Path) -> None:
    if not (folder / CONFIG).exists() or (folder / CONFIG).read_bytes() != (new / CONFIG).read_bytes():
        (folder / CONFIG).unlink(missing_ok=True)
    for name in FOLDER_FILES:  # the config last
        if (new / name).exists():
            (new / name).replace(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _read_folder(folder: Path) -> Checkpoint:
    config = read_folder_config(folder)
    weights = folder / WEIGHTS
    with reading(weights), _undamaged(weights):
        tensors = safetensors.torch.load_file(weights)
    check_tensors(weights, tensors)
    _check_unchanged(weights, tensors, _recorded(weights))
    arrow = folder / SHARED
    return Checkpoint(config, tensors, open_shared(arrow) if arrow.exists() else None)


def _recorded(weights: Path) -> str | None:
    """The fingerprint in the metadata of a safetensors file, None if it has none."""
    with reading(weights), _undamaged(weights), safe_open(weights, "pt") as opened:
        recorded: str | None = (opened.metadata() or {}).get(FINGERPRINT)
        return recorded


@contextmanager
def _undamaged(weights: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise VocabkitError(f"{weights}: damaged ({quote(str(error), 120)}); save or download it again") from error


def _check_unchanged(path: Path, tensors: Mapping[str, Tensor], recorded: object) -> None:
    """Raise VocabkitError if the recorded fingerprint is not that of the tensors."""
    if recorded is not None and recorded != weights_fingerprint(tensors):
        raise VocabkitError(
            f"{path}: damaged: its weights are not those that were saved (their fingerprint differs); "
            "take another copy, or download it again"
        )


def check_destination(path: str | Path, kind: str) -> None:
    """Check that a result may be written to `path`. Call it before the work, and again before writing.

    A Llava checkpoint, which holds a whole LLM, never replaces anything.

    Args:
        kind: an `adapter_type`, `llava`, `mmproj` or `mm_projector`.

    Raises VocabkitError: the suffix is that of another format, something else is there, or it can't be written.
    """
    path = Path(path)
    check_name(path, kind)
    if kind == "llava":
        return
    if path.exists() and not _holds(path, kind):
        raise VocabkitError(f"{path}: exists and is not {_name(kind)}; choose another name, or remove it")


def _name(kind: str) -> str:
    return SINGLE_FILES[kind][0] if kind in SINGLE_FILES else KINDS[kind]


def _holds(path: Path, kind: str) -> bool:
    """Whether `path` holds a result of this kind, or the leftovers of an interrupted save of an adapter."""
    try:
        if kind == "mmproj":
            return read_tensor_table(path)[0].get("general.type") == "mmproj"
        if kind == "mm_projector":
            content = read_torch(path)
            return isinstance(content, dict) and content.keys() == _MM_PROJECTOR
        return _is_unfinished(path) or adapter_type(path) == kind
    except VocabkitError:
        return False


def _is_unfinished(path: Path) -> bool:
    """Whether `path` is a folder with nothing but hidden files and the leftovers of an interrupted save."""
    if not path.is_dir() or (path / CONFIG).exists():
        return False
    names = {file.name for file in path.iterdir() if not file.name.startswith(".")}
    return not names or (names <= set(FOLDER_FILES) and _recorded(path / WEIGHTS) is not None)
