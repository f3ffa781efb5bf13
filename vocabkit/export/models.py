"""The LLM that goes into an export: a folder, a hub repository, or a GGUF turned into a folder."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import huggingface_hub
from transformers import AutoModelForCausalLM, AutoTokenizer

from vocabkit.catalog import catalog, without_name
from vocabkit.errors import VocabkitError
from vocabkit.model_folders import downloaded, first_line, quiet_transformers


@contextmanager
def llm_folder(source: str) -> Iterator[Path]:
    """A folder in the layout of transformers with the LLM that `source` names: a folder, a GGUF (dequantised to
    bfloat16 into a temporary folder), a model of the catalog or a hub repository.

    Raises VocabkitError: not found, or a GGUF that transformers can't load.
    """
    found = llm_source(source)
    if found.suffix == ".gguf" and found.is_file():
        with tempfile.TemporaryDirectory() as folder:
            _from_gguf(found, Path(folder))
            yield Path(folder)
    else:
        yield found


def llm_source(source: str) -> Path:
    """The path that `source` names, or the folder of a model that is downloaded. Raises VocabkitError: not found."""
    name = without_name(source)
    path = Path(name).expanduser()
    if path.exists():
        return path
    entry = catalog().get(name.lower())
    return downloaded(entry.hub if entry is not None and entry.hub else name)


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
