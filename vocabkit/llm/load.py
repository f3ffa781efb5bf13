"""Load LLMs: for generation and losses, or as a folder in the layout of transformers.

An LLM is a model folder, a hub repository, a model of the catalog, a GGUF file or LoRA weights. Of a Llava checkpoint,
it is the LLM inside.
"""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from vocabkit.adapter.partners import LLMTable, llm_spellings
from vocabkit.adapter.spelled import compose
from vocabkit.errors import VocabkitError, counted, needs_extra, quote
from vocabkit.files.records import decode_json, optional_json
from vocabkit.hub import Repository, why_unreachable
from vocabkit.llm.embeddings import open_embeddings
from vocabkit.llm.gguf_reader import quick_reader
from vocabkit.llm.gguf_rows import open_gguf
from vocabkit.llm.lora_rows import trained_rows, unties_output
from vocabkit.shared.shared_vocabulary import SharedVocabulary, Spellings
from vocabkit.tokenizer.catalog import catalog, resolve, without_name
from vocabkit.tokenizer.lora import LORA_CONFIG, is_lora, lora_base
from vocabkit.tokenizer.read import holds_tokenizer
from vocabkit.tokenizer.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class LLM:
    """A causal language model and its tokenizer, both of transformers."""

    source: str
    """What the user named, for messages."""
    vocabulary: Vocabulary
    """Its name is the LLM's."""
    model: Any
    tokenizer: Any
    rounding: float = 0.0
    """Relative error of embedding rows that come from a quantised GGUF."""

    @property
    def width(self) -> int:
        """D of its embeddings."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    def table(self) -> LLMTable:
        """Return it as partners are compared."""
        weight: Tensor = self.model.get_input_embeddings().weight

        def read(ids: np.ndarray) -> Tensor:
            return weight.detach()[torch.from_numpy(ids).to(weight.device)]

        return LLMTable(self.source, self.vocabulary, len(weight), self.width, read, self.rounding)

    def rows(self, shared: SharedVocabulary) -> Tensor:
        """Return (V, D): its embeddings of the rows of `shared`, with gradients if they are trained.

        Raises VocabkitError: see `llm_spellings`.
        """
        return composed_rows(self.model, llm_spellings(shared, self.vocabulary, self.source))


def composed_rows(model: Any, spellings: Spellings) -> Tensor:
    """Return (V, D): a model's embeddings of rows that are spelled so, with gradients if they are trained."""
    table = model.get_input_embeddings()
    ids = torch.from_numpy(spellings.ids.astype("int64")).to(table.weight.device)
    return compose(table(ids), spellings)


def load_llm(llm: str | Path, dtype: torch.dtype = torch.float32) -> LLM:
    """Load an LLM in evaluation mode and without gradients.

    Args:
        llm: a model folder, GGUF, catalog model or hub id, or NAME=any of these. GGUF weights are dequantised to
            bfloat16 first; LoRA weights are merged into their LLM.

    Raises VocabkitError: not found, damaged, or not a causal language model.
    """
    source = str(llm)
    vocabulary = resolve(source).vocabulary
    model, tokenizer = load_model(source, dtype)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    file = down_to_llm(llm_source(source))[-1]
    rounding = open_gguf(file)[1].rounding if file.suffix == ".gguf" else 0.0
    if (output_layer := model.get_output_embeddings()) is not None:
        output_layer.register_forward_pre_hook(_contiguous)
    return LLM(source, vocabulary, model.eval().requires_grad_(False), tokenizer, rounding)


def _contiguous(layer: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Give an output layer hidden states, (B, W, D), without gaps between sequences. On a CPU, torch copies the weights
    for each sequence of a slice, such as the last states of each: 22 s for eight in bfloat16, instead of 0.1.
    """
    (hidden,) = inputs
    return (hidden.clone(memory_format=torch.contiguous_format),)  # contiguous() keeps the strides of one sequence


def load_model(source: str, dtype: torch.dtype | str) -> tuple[Any, Any]:
    """Load a causal LLM, named as for `llm_folder`, and its tokenizer. LoRA weights are merged in place.

    Args:
        dtype: `auto` for that of its config.

    Raises VocabkitError: not found, damaged, or not a causal language model.
    """
    *loras, llm = down_to_llm(llm_source(source))
    with llm_folder(str(llm)) as folder, quiet_transformers():
        own = next((lora for lora in loras if holds_tokenizer(lora)), folder)
        inside = _inside_llava(folder)
        try:
            # LoRA weights are merged in the dtype of their LLM, so that the rows are the same wherever they are read
            load: Any = AutoModelForCausalLM.from_pretrained
            model, found = load(
                folder,
                dtype="auto" if loras else dtype,
                trust_remote_code=False,
                output_loading_info=True,
                **inside,
            )
            tokenizer = AutoTokenizer.from_pretrained(own, trust_remote_code=False)
        except Exception as error:  # transformers raises many kinds on a damaged model
            raise VocabkitError(f"{llm}: transformers can't load this LLM ({first_line(error)})") from error
        tokenizer.chat_template = tokenizer.chat_template or _template_of_processor(own)
        quantised = "quantization_config" in optional_json(folder / "config.json")
    if not quantised:  # else transformers has put the scales where they belong
        check_all_read(str(llm), model, found["unexpected_keys"])
    if missing := sorted(found["missing_keys"]):
        raise VocabkitError(f"{llm}: its weights lack {missing[0]}, one of {len(missing)} missing tensors")
    for lora in reversed(loras):
        model = _with_lora(model, lora)
    if loras and isinstance(dtype, torch.dtype):
        for parameter in model.parameters():  # no buffers, which a model keeps in float32
            parameter.data = parameter.data.to(dtype)
        model.config.dtype = dtype
    return model, tokenizer


def check_all_read(source: str, model: torch.nn.Module, unexpected: Iterable[str]) -> None:
    """Raise VocabkitError if `unexpected`, names of tensors that transformers did not read, has weights of `model`:
    inside one of its layers, or beside a weight. What was loaded is not what was saved then.
    """
    modules = dict(model.named_modules())
    lists = {name for name, each in modules.items() if isinstance(each, torch.nn.ModuleList)}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."  # which weights of a model without its output layer lack

    def belongs(name: str) -> bool:
        above = name.rpartition(".")[0]
        while above not in modules:
            above = above.rpartition(".")[0]
        in_layer = any(above.startswith(f"{each}.") for each in lists)
        return above != "" and (in_layer or bool(modules[above]._parameters)) and not _BUFFER.search(name)

    if unread := sorted(name for name in unexpected if belongs(name) or belongs(prefix + name)):
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise VocabkitError(
            f"{source}: its weights have {counted(len(unread), 'tensor')} that a {kind} lacks, such as "
            f"{quote(unread[0], 120)}: they are quantised, or of another kind of model than config.json says; give "
            "unquantised weights, and the config.json that was published with them"
        )


_BUFFER = re.compile(
    r"(inv_freq|position_ids|embed_positions|causal_mask|masked_bias|(cos|sin)_cached|(attn|attention)\.bias)$"
)
"""What older releases of transformers stored in layers, beside their weights: no weights."""


def _template_of_processor(folder: Path) -> str | None:
    """The chat template that older processors have in a JSON file of their own, where a tokenizer does not look for it.
    Raises VocabkitError: not text.
    """
    for name in ("processor_config.json", "chat_template.json"):  # in the order of transformers
        template = optional_json(folder / name).get("chat_template")
        if template is not None and not isinstance(template, str):
            raise VocabkitError(
                f"{folder / name}: its chat_template is no text, but {type(template).__name__}; write the one to use "
                "to chat_template.jinja beside it"
            )
        if template:
            return template
    return None


LLAVA = ("llava", "llava_next")
"""`model_type` of checkpoints of Llava and LlavaNext in the layout of transformers."""
LLAVA_OWN = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral", "llava_qwen": "qwen2"}
"""`model_type` of LLaVA's own checkpoints, whose config is that of their LLM -> that of their LLM."""
_FAMILIES = {"Llama": "llama", "Mistral": "mistral", "Qwen": "qwen2", "Qwen2": "qwen2"}
"""Name in the architecture of such a checkpoint, as in LlavaQwenForCausalLM -> `model_type` of its LLM."""


def _inside_llava(folder: Path) -> dict[str, Any]:
    """How transformers loads the LLM inside a Llava checkpoint; nothing for other models.

    Raises VocabkitError: its config does not describe that LLM (transformers would make up one of 7B), or it is
        quantised or of another family.
    """
    file = folder / "config.json"
    content = decode_json(file, dict[str, Any], "a model's config.json") if file.is_file() else {}
    kind = content.get("model_type")
    if kind in (*LLAVA, *LLAVA_OWN):
        _check_not_quantised(folder, content)
    if kind in LLAVA and "text_config" in content:
        config = read_config(folder).text_config
        # what the LLM alone has before the names of its layers: `model.` or, as GPT-2, `transformer.`
        inner = getattr(AutoModelForCausalLM._model_mapping.get(type(config), None), "base_model_prefix", "model")
        names = {
            r"^language_model\.lm_head": "lm_head",
            rf"^(model\.)?language_model\.(({inner}|model)\.)?(?!lm_head)": f"{inner}.",
        }
        return {"config": config, "key_mapping": names}
    if kind in (*LLAVA, *LLAVA_OWN) and "hidden_size" not in content:
        raise VocabkitError(
            f"{file}: describes no LLM: neither text_config, as in the layout of transformers, nor hidden_size, as in "
            "LLaVA's own, is in it; take the config.json that was published with the weights"
        )
    if kind in LLAVA_OWN:
        return {"config": AutoConfig.for_model(**content | {"model_type": _family(file, content)})}
    return {}


def _check_not_quantised(folder: Path, content: Mapping[str, Any]) -> None:
    """Raise VocabkitError for a quantised Llava: what its config says of it is not in that of the LLM alone, by which
    transformers would take numbers without their scales for weights.
    """
    inner = content.get("text_config")
    for place in (content, inner if isinstance(inner, dict) else {}):
        if settings := place.get("quantization_config") or place.get("compression_config"):
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            raise VocabkitError(
                f"{folder}: its weights are quantised{f' ({quote(str(method))})' if method else ''}, but the LLM in a "
                "Llava is read unquantised only; give the Llava that they were made of"
            )


def _family(file: Path, content: Mapping[str, Any]) -> str:
    """The `model_type` of the LLM in a checkpoint of LLaVA's own layout: as its architecture says, which is newer than
    some values of its `model_type`. Raises VocabkitError: another family.
    """
    listed = content.get("architectures")
    architecture = str(listed[0]) if isinstance(listed, list) and listed else ""
    named = re.fullmatch(r"(?:Llava)?(?!Llava)(\w+)ForCausalLM", architecture)
    if named is None:
        return LLAVA_OWN[content["model_type"]]
    if named[1] not in _FAMILIES:
        raise VocabkitError(
            f"{file}: its architecture is {quote(architecture)}; in LLaVA's own layout, the LLM is read of "
            f"{', '.join(_FAMILIES)} only; give a checkpoint in the layout of transformers (llava-hf has many)"
        )
    return _FAMILIES[named[1]]


def llm_table(source: str) -> LLMTable:
    """Open the tokenizer and the embedding table of an LLM, named as for `llm_folder`, without loading it.

    Raises VocabkitError: not found, or damaged.
    """
    llm = down_to_llm(llm_source(source))[0]
    _inside_llava(llm)  # refuses here what could not be loaded later
    vocabulary, table = resolve(str(llm)).vocabulary, open_embeddings(llm)
    return LLMTable(source, vocabulary, table.num_rows, table.width, table.stored_rows, table.rounding)


@contextmanager
def llm_folder(source: str) -> Iterator[Path]:
    """Yield a folder in the layout of transformers with the LLM that `source` names.

    For a GGUF, dequantised to bfloat16, and for LoRA weights, merged into their LLM, it is a temporary folder.

    Raises VocabkitError: not found, or transformers or peft can't load it.
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
    """Return the path of an LLM; a catalog model or hub repository is downloaded. Raises VocabkitError: not found."""
    name = without_name(source)
    path = Path(name).expanduser()
    if path.exists():
        return path
    entry = catalog().get(name.lower())
    return downloaded(entry.hub if entry is not None and entry.hub else name)


def down_to_llm(path: Path) -> list[Path]:
    """Follow LoRA weights down to their LLM, which comes last; an LLM gives itself alone.

    Raises VocabkitError: not found, or LoRA weights that name each other in a circle.
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


def _with_lora(model: Any, folder: Path) -> Any:
    with needs_extra("train", "an LLM with LoRA weights"):
        from peft import PeftModel
    rows = trained_rows(folder)
    if rows is not None and rows != model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(rows, mean_resizing=False)
    try:
        with warnings.catch_warnings(action="ignore"):  # from peft, about transformers and tied layers
            adapted = PeftModel.from_pretrained(model, folder)
            if unties_output(folder):  # peft would merge what is on the table or the output layer into both
                _untie(adapted.get_base_model())
            merged = adapted.merge_and_unload()
    except Exception as error:  # peft raises many kinds on damaged weights
        base = lora_base(folder)
        raise VocabkitError(f"{folder}: peft can't put these LoRA weights into {base} ({first_line(error)})") from error
    if merged.config.tie_word_embeddings and not _is_tied(merged):  # also if peft trained a copy of one of the two
        merged.config.tie_word_embeddings = False
    return merged


def _untie(model: Any) -> None:
    if _is_tied(model):
        head = model.get_output_embeddings()
        head = getattr(head, "base_layer", head)
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)


def _is_tied(model: Any) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def _from_gguf(path: Path, folder: Path) -> None:
    try:
        # its progress bar can't be switched off
        with quiet_transformers(), quick_reader(), redirect_stderr(io.StringIO()):
            model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype="bfloat16")
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # gguf and transformers raise many kinds on a damaged file
        raise VocabkitError(f"{path}: transformers can't load this GGUF ({first_line(error)})") from error
    _write(path, "dequantised", model, tokenizer, folder)


def _from_lora(path: Path, folder: Path) -> None:
    _write(path, "merged", *load_model(str(path), "auto"), folder)
    llm = down_to_llm(path)[-1]
    if (llm / "generation_config.json").is_file():
        shutil.copyfile(llm / "generation_config.json", folder / "generation_config.json")
    if not (llm / "config.json").is_file():
        return
    # as published, not as transformers rewrites it, but for what the weights change
    config = json.loads((llm / "config.json").read_text("utf-8"))
    before, after = read_config(llm).to_dict(), json.loads((folder / "config.json").read_text("utf-8"))
    config |= {key: after[key] for key in _OF_THE_TABLE if after.get(key) != before.get(key)}
    (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")


_OF_THE_TABLE = ("vocab_size", "tie_word_embeddings")
"""What LoRA weights may change in a config."""


def _write(source: Path, how: str, model: Any, tokenizer: Any, folder: Path) -> None:
    config = model.config.to_dict()
    config.pop("quantization_config", None)  # else save_pretrained refuses the model as quantised
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:  # transformers 4 looks here, and else takes its default
        config |= {"rope_theta": rope["rope_theta"], "rope_scaling": rope if rope["rope_type"] != "default" else None}
    try:
        (folder / "config.json").write_text(json.dumps(config, indent=2), "utf-8")
        huggingface_hub.save_torch_model(model, folder, shared_tensors_to_discard=["lm_head.weight"])
        tokenizer.save_pretrained(folder)
    except OSError as error:
        raise VocabkitError(f"{source}: can't write it {how} to {folder} ({error.strerror}); set TMPDIR") from error


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
