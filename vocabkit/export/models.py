"""The models that go into an export: local folders, hub repositories, and GGUF files turned into folders."""

from __future__ import annotations

import io
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import huggingface_hub
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from vocabkit.catalog import catalog, without_name
from vocabkit.errors import VocabkitError, quote
from vocabkit.hub import Repository, why_unreachable

_FILES = ("*.json", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken")
_WEIGHTS = (("model.safetensors", "model-*.safetensors"), ("pytorch_model.bin", "pytorch_model-*.bin"))
"""The files of a repository that are weights, best first."""


def vision_folder(source: str) -> Path:
    """The folder of a vision model: itself, or a hub repository, downloaded into the Hugging Face cache.

    Raises VocabkitError: neither.
    """
    path = Path(source).expanduser()
    return path if path.exists() else _downloaded(source)


@contextmanager
def llm_folder(source: str) -> Iterator[Path]:
    """A folder in the layout of transformers with the LLM that `source` names: a folder, a GGUF (dequantised to
    bfloat16 into a temporary folder), a model of the catalog or a hub repository.

    Raises VocabkitError: not found, or a GGUF that transformers can't load.
    """
    name = without_name(source)
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            _from_gguf(path, Path(folder))
            yield Path(folder)
    elif path.exists():
        yield path
    else:
        entry = catalog().get(name.lower())
        yield _downloaded(entry.hub if entry is not None and entry.hub else name)


def read_config(folder: Path) -> PreTrainedConfig:
    """The config of the model in a folder. Raises VocabkitError: none, or not one of transformers."""
    if not (folder / "config.json").is_file():
        raise VocabkitError(f"{folder}: no config.json in it; give the folder of a transformers model")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # its strict dataclasses raise many kinds
        raise VocabkitError(f"{folder}: transformers can't read its config ({first_line(error)})") from error
    return config


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Transformers without its log lines and progress bars."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """The first line of what `error` says, safe to show."""
    return quote((str(error).splitlines() or [type(error).__name__])[0], 120)


def _from_gguf(path: Path, folder: Path) -> None:
    try:
        with quiet_transformers(), redirect_stderr(io.StringIO()):  # its progress bar can't be switched off
            model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype="bfloat16")
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # whatever a damaged file makes gguf and transformers raise
        raise VocabkitError(f"{path}: transformers can't load this GGUF ({first_line(error)})") from error
    config = model.config.to_dict()
    config.pop("quantization_config", None)  # save_pretrained takes the model for quantised and refuses it
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:  # where transformers 4 looks for it, which else takes the default
        config |= {"rope_theta": rope["rope_theta"], "rope_scaling": rope if rope["rope_type"] != "default" else None}
    try:
        (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
        huggingface_hub.save_torch_model(model, folder, shared_tensors_to_discard=["lm_head.weight"])
        tokenizer.save_pretrained(folder)
    except OSError as error:
        raise VocabkitError(f"{path}: can't write it dequantised to {folder} ({error.strerror}); set TMPDIR") from error


def _downloaded(repository: str) -> Path:
    hub = Repository(repository)
    if hub.file("config.json") is None:
        reason = "it has no config.json on the Hugging Face hub" if hub.reachable else why_unreachable()
        raise VocabkitError(f"{repository}: no such folder, and {reason}")
    try:
        for weights in _WEIGHTS:
            patterns = [*_FILES, *weights]
            folder = Path(huggingface_hub.snapshot_download(repository, allow_patterns=patterns, ignore_patterns="*/*"))
            if any(file for pattern in weights for file in folder.glob(pattern)):
                break
    except Exception as error:  # also those of the HTTP library, which huggingface_hub changes from time to time
        raise VocabkitError(f"{repository}: the download failed ({first_line(error)}); try again") from error
    return folder
