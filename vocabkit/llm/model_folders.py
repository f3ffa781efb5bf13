"""Model folders of transformers: local, or downloaded from the hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from vocabkit.errors import VocabkitError, quote
from vocabkit.hub import Repository, why_unreachable

_FILES = ("*.json", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken")
_WEIGHTS = (("model.safetensors", "model-*.safetensors"), ("pytorch_model.bin", "pytorch_model-*.bin"))
"""Weight files of a repository, best first."""


def model_folder(source: str | Path) -> Path:
    """Return a local folder as it is, or download a hub repository into the Hugging Face cache.

    Raises VocabkitError: neither.
    """
    path = Path(source).expanduser()
    return path if path.exists() else downloaded(str(source))


def downloaded(repository: str) -> Path:
    """Return the folder of a hub repository (owner/name or owner/name@revision) in the cache, downloaded if missing.

    Raises VocabkitError: no such repository, or it can't be reached.
    """
    hub = Repository(repository)
    if hub.file("config.json") is None:
        reason = "it has no config.json on the Hugging Face hub" if hub.reachable else why_unreachable()
        raise VocabkitError(f"{repository}: no such folder, and {reason}")
    try:
        for weights in _WEIGHTS:
            folder = Path(
                huggingface_hub.snapshot_download(
                    hub.id.repository,
                    revision=hub.id.revision,
                    allow_patterns=[*_FILES, *weights],
                    ignore_patterns="*/*",
                )
            )
            if any(file for pattern in weights for file in folder.glob(pattern)):
                break
    except Exception as error:  # also those of the HTTP library, which huggingface_hub changes from time to time
        raise VocabkitError(f"{repository}: the download failed ({first_line(error)}); try again") from error
    return folder


def read_config(folder: Path) -> PreTrainedConfig:
    """Read the config of the model in a folder. Raises VocabkitError: missing, or not one of transformers."""
    if not (folder / "config.json").is_file():
        raise VocabkitError(f"{folder}: no config.json in it; give the folder of a transformers model")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # its strict dataclasses raise many kinds
        raise VocabkitError(f"{folder}: transformers can't read its config ({first_line(error)})") from error
    return config


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the log lines and progress bars of transformers."""
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
    """Return the first line of the message of `error`, safe to show."""
    return quote((str(error).splitlines() or [type(error).__name__])[0], 120)
