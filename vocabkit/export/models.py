"""The models that go into an export: local folders, hub repositories, and GGUF files turned into folders."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from vocabkit.catalog import catalog
from vocabkit.errors import VocabkitError, quote

_FILES = ("*.json", "*.safetensors", "tokenizer.model", "*.jinja", "*.txt")


def vision_folder(source: str) -> Path:
    """The folder of a vision model: itself, or a hub repository, downloaded into the Hugging Face cache."""
    path = Path(source).expanduser()
    return path if path.exists() else _downloaded(source)


@contextmanager
def llm_folder(source: str) -> Iterator[Path]:
    """A folder in the layout of transformers with the LLM that `source` names: a folder, a GGUF (dequantised into a
    temporary folder), a model of the catalog or a hub repository.

    Raises VocabkitError: not found, or a GGUF that transformers can't load.
    """
    name = source.partition("=")[2] if "=" in source and not Path(source).exists() else source
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


def _from_gguf(path: Path, folder: Path) -> None:
    try:
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype="bfloat16")
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            # a model that came out of a GGUF counts as quantised, which save_pretrained refuses
            config = model.config.to_dict()
            config.pop("quantization_config", None)
            (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
            model.generation_config.save_pretrained(folder)
            huggingface_hub.save_torch_model(model, folder)
            tokenizer.save_pretrained(folder)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VocabkitError(f"{path}: transformers can't load this GGUF ({quote(first, 120)})") from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers without its log lines and progress bars."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


def _downloaded(repository: str) -> Path:
    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = quote(str(error).splitlines()[0], 120)
        raise VocabkitError(f"{repository}: no such folder, and not from the hub either ({reason})") from error
