"""The LLM that goes into an export: a folder, a hub repository, or a GGUF or LoRA weights turned into a folder."""

from __future__ import annotations

import functools
import io
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import huggingface_hub
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from vocabkit.adapter.partners import llm_ids
from vocabkit.errors import VocabkitError, needs_extra
from vocabkit.files.atomic import reading
from vocabkit.llm.model_folders import downloaded, first_line, quiet_transformers
from vocabkit.llm.weight_files import LORA_CONFIG
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.tokenizer.catalog import catalog, resolve, without_name
from vocabkit.tokenizer.vocabulary import Vocabulary


@contextmanager
def llm_folder(source: str) -> Iterator[Path]:
    """A folder in the layout of transformers with the LLM that `source` names: a folder, a model of the catalog or a
    hub repository. A GGUF, dequantised to bfloat16, and LoRA weights, merged into their LLM, go into a temporary one.

    Raises VocabkitError: not found, or one that transformers or peft can't load.
    """
    found = llm_source(source)
    gguf = found.suffix == ".gguf" and found.is_file()
    if not gguf and not is_lora(found):
        yield found
        return
    with tempfile.TemporaryDirectory() as folder:
        (_from_gguf if gguf else _from_lora)(found, Path(folder))
        yield Path(folder)


def llm_source(source: str) -> Path:
    """The path that `source` names, or the folder of a model that is downloaded. Raises VocabkitError: not found."""
    name = without_name(source)
    path = Path(name).expanduser()
    if path.exists():
        return path
    entry = catalog().get(name.lower())
    return downloaded(entry.hub if entry is not None and entry.hub else name)


def is_lora(path: Path) -> bool:
    """Whether a folder holds LoRA weights, as peft and `vocabkit finetune` write them, and no LLM."""
    return (path / LORA_CONFIG).is_file()


def lora_base(folder: Path) -> str:
    """The LLM that LoRA weights belong to, as `llm_source` takes it. Raises VocabkitError: they name none."""
    config = folder / LORA_CONFIG
    with reading(config):
        try:
            return str(json.loads(config.read_text("utf-8"))["base_model_name_or_path"])
        except (ValueError, KeyError, TypeError) as error:
            raise VocabkitError(f"{config}: names no LLM that the LoRA weights belong to") from error


def _down_to_llm(path: Path) -> list[Path]:
    """LoRA weights, those that they were put on, and last the LLM that all of them belong to; of an LLM itself alone.

    Raises VocabkitError: not found, or they name each other in a circle.
    """
    found = [path]
    while is_lora(found[-1]):
        base = llm_source(lora_base(found[-1]))
        if any(base.samefile(above) for above in found):
            raise VocabkitError(
                f"{found[-1] / LORA_CONFIG}: names {base}, LoRA weights that lead back here; name the LLM itself in it"
            )
        found.append(base)
    return found


def load_model(source: str, dtype: torch.dtype | str) -> tuple[Any, Any]:
    """The causal LLM that `source` names, as for `llm_folder`, with its tokenizer. LoRA weights are merged in place.

    Args:
        dtype: `auto` for that of its config.

    Raises VocabkitError: not found, damaged, or no causal language model.
    """
    *loras, llm = _down_to_llm(llm_source(source))
    with llm_folder(str(llm)) as folder, quiet_transformers():
        try:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # whatever a damaged model makes transformers raise
            raise VocabkitError(f"{llm}: transformers can't load this LLM ({first_line(error)})") from error
    for lora in reversed(loras):
        model = _with_lora(model, lora)
    return model, tokenizer


def _with_lora(model: Any, folder: Path) -> Any:
    with needs_extra("train", "an LLM with LoRA weights"):
        from peft import PeftModel
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft about transformers
            return PeftModel.from_pretrained(model, folder).merge_and_unload()
    except Exception as error:  # whatever damaged weights make peft raise
        base = lora_base(folder)
        raise VocabkitError(f"{folder}: peft can't put these LoRA weights into {base} ({first_line(error)})") from error


@contextmanager
def _read_once() -> Iterator[None]:
    """Without it, transformers reads a GGUF three times, token by token, which takes most of the time."""
    plain = gguf.GGUFReader
    gguf.GGUFReader = functools.cache(plain)  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        gguf.GGUFReader = plain  # type: ignore[misc]


def _from_gguf(path: Path, folder: Path) -> None:
    try:
        # its progress bar can't be switched off
        with quiet_transformers(), _read_once(), redirect_stderr(io.StringIO()):
            model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype="bfloat16")
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # whatever a damaged file makes gguf and transformers raise
        raise VocabkitError(f"{path}: transformers can't load this GGUF ({first_line(error)})") from error
    _write(path, "dequantised", model, tokenizer, folder)


def _from_lora(path: Path, folder: Path) -> None:
    _write(path, "merged", *load_model(str(path), "auto"), folder)
    llm = _down_to_llm(path)[-1]
    for name in ("config.json", "generation_config.json"):
        if (llm / name).is_file():  # as its publisher wrote it
            shutil.copyfile(llm / name, folder / name)


def _write(source: Path, how: str, model: Any, tokenizer: Any, folder: Path) -> None:
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
        raise VocabkitError(f"{source}: can't write it {how} to {folder} ({error.strerror}); set TMPDIR") from error


# MERGED: Loading the LLM that reads visual tokens.


@dataclass(frozen=True, eq=False)
class LLM:
    """A causal language model with its tokenizer, both of transformers."""

    source: str
    """What was asked for."""
    vocabulary: Vocabulary
    """Its name is the LLM's."""
    model: Any
    tokenizer: Any

    @property
    def width(self) -> int:
        """D of its embeddings."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    def ids(self, shared: SharedVocabulary) -> Tensor:
        """(V,) its ids of the tokens of `shared`.

        Raises VocabkitError: `shared` has no column of this LLM, one with gaps, or one of other ids.
        """
        ids = llm_ids(shared, self.vocabulary, self.source)
        return torch.from_numpy(ids.astype("int64")).to(self.model.device)

    @torch.no_grad()
    def rows(self, shared: SharedVocabulary) -> Tensor:
        """(V, D) its embeddings of the tokens of `shared`. Raises VocabkitError, as `ids`."""
        rows: Tensor = self.model.get_input_embeddings()(self.ids(shared))
        return rows


def load_llm(source: str, dtype: torch.dtype = torch.float32) -> LLM:
    """The LLM that `source` names: a model folder, a GGUF, a model of the catalog or a hub id, in evaluation mode and
    without gradients. GGUF weights are dequantised to bfloat16 first; LoRA weights are merged into their LLM.

    Raises VocabkitError: not found, damaged, or no causal language model.
    """
    vocabulary = resolve(source).vocabulary
    model, tokenizer = load_model(source, dtype)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LLM(source, vocabulary, model.eval().requires_grad_(False), tokenizer)
