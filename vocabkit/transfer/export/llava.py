"""Hugging Face Llava checkpoint of a vision model, a projector and an LLM.

The folder holds what `LlavaForConditionalGeneration`, vLLM, SGLang, lmms-eval and TRL load: config, weights, processor
with chat template, generation config and model card. Tensors are named as in the checkpoints of the hub (llava-hf),
which all versions of these readers know.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AddedToken,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedConfig,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from vocabkit.adapter.card import llava_card
from vocabkit.adapter.checkpoint import check_destination
from vocabkit.adapter.config import AdapterConfig, AspectRatio, MLPConfig
from vocabkit.adapter.model import MLPProjector
from vocabkit.errors import VocabkitError
from vocabkit.files.atomic import new_folder
from vocabkit.files.progress import Progress, no_progress
from vocabkit.llm.load import first_line, quiet_transformers
from vocabkit.llm.weight_files import read_weights, weight_files
from vocabkit.llm.write import config_dtype, generation_settings, llm_tensors, published_config, read_llm_config
from vocabkit.transfer.export.vision import (
    LLAVA_NEXT,
    adapted_states,
    check_features,
    converted,
    vision_tensors,
)
from vocabkit.transfer.fold import pad_hidden
from vocabkit.vision.tiles import Sizes
from vocabkit.vision.transformers_model import (
    HiddenStates,
    image_processor,
    pixel_size,
    preprocessing,
    processed,
    read_vision_config,
    tile_processor,
)

IMAGE_TOKEN = "<image>"

_FLATTEN = """\
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message['content'] is string or not message['content'] -%}
{%- set flat.messages = flat.messages + [message] -%}
{%- else -%}
{%- set said = namespace(text='') -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{%- set said.text = said.text + '<image>\\n' -%}
{%- elif part['type'] == 'text' -%}{%- set said.text = said.text + part['text'] -%}{%- endif -%}
{%- endfor -%}
{%- set flat.messages = flat.messages + [dict(message, content=said.text)] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""
"""Turns messages of text and image parts into messages of text with `<image>`, for the LLM's own template after it.

The two loops are written as vLLM looks for them to see that a template takes parts.
"""

_PLAIN = """\
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}{{ 'USER: ' + message['content'] | trim + ' ' }}
{%- elif message['role'] == 'assistant' -%}{{ 'ASSISTANT: ' + message['content'] | trim + eos_token }}
{%- else -%}{{ message['content'] | trim + ' ' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}
"""
"""For LLMs without a chat template: as LLaVA 1.5 was trained."""


@dataclass(frozen=True)
class ExportedLlava:
    """What was written."""

    folder: Path
    image_token_id: int
    image_tokens: int
    """Visual tokens per image."""
    added_rows: int
    """Rows that the embedding table grew by to hold the image token."""
    padded_units: int
    """Hidden units of zero weight that the projector was padded by."""


def export_llava(
    projector: MLPProjector,
    vision: Path,
    llm: Path,
    out: Path,
    *,
    feature_layer: int = -2,
    keep_cls: bool | None = None,
    image_aspect_ratio: AspectRatio | None = None,
    tuned: float = 0.0,
    progress: Progress = no_progress,
) -> ExportedLlava:
    """Write the Llava checkpoint of `vision`, `projector` and `llm` as the new folder `out`, whole or not at all.

    Weights are memory-mapped, the LLM's one file at a time. Vision model and projector get the dtype of the LLM.
    Finally transformers checks that no tensor is missing and that all have the right shape.

    Args:
        projector: vision width -> width of the LLM; its hidden units are padded with zeros.
        vision: folder of a vision model of transformers, with its image processor.
        llm: folder of a causal language model of transformers, with its tokenizer.
        feature_layer: the hidden states of the vision model that the adapter was trained on.
        keep_cls: whether these include the class token; None means what the config of `projector` says, or else no.
        image_aspect_ratio: what becomes of pictures that are not square; None means what that config says, or square.
        tuned: see `llava_card`.
        progress: reports the bytes of the LLM.

    Raises:
        VocabkitError: widths or features that do not fit, an LLM whose logits Llava would not reproduce, damaged or
            incomplete models, or `out` exists.
    """
    check_destination(out, "llava")
    keep_cls = bool(projector.config.vision_keep_cls) if keep_cls is None else keep_cls
    with quiet_transformers():
        vision_config, states = check_vision(
            projector.config, vision, feature_layer, keep_cls=keep_cls, aspect_ratio=image_aspect_ratio
        )
        text_config = read_llm_config(llm)
        check_llm_width(projector.config, llm, text_config.hidden_size)
        padded = pad_hidden(projector, text_config.hidden_size)
        llm_tokenizer = load_tokenizer(llm)
        image_token_id = llm_tokenizer.image_token_id
        pads = (image_aspect_ratio or projector.config.vision_aspect_ratio) == "pad"
        sizes = projector.config.vision_grid_pinpoints
        processor = build_processor(
            llm_tokenizer.tokenizer, vision, vision_config, states, keep_cls=keep_cls, pads=pads, sizes=sizes
        )
        settings = generation_settings(llm, text_config, llm_tokenizer.tokenizer, image_token_id)
        files = weight_files(llm)
        dtype = config_dtype(text_config) or next(iter(read_weights(files[0]).values())).dtype
        state = padded.state_dict()
        first = {"image_newline": newline} if (newline := state.pop("image_newline", None)) is not None else {}
        first |= {f"multi_modal_projector.{key}": tensor for key, tensor in state.items()}
        first = converted(first | vision_tensors(vision, vision_config), dtype, out)
        added_rows = max(image_token_id + 1 - text_config.vocab_size, 0)
        text_config.vocab_size += added_rows
        image_tokens = states.patches + (states.class_tokens if keep_cls else 0)
        vision_config.dtype, vision_config._name_or_path = dtype, ""
        of_kind: Any = LlavaConfig if sizes is None else LlavaNextConfig
        config = of_kind(
            **({} if sizes is None else {"image_grid_pinpoints": [list(size) for size in sizes]}),
            vision_config=vision_config,
            text_config=text_config,
            image_token_index=image_token_id,
            image_seq_length=image_tokens,
            projector_hidden_act="gelu",
            vision_feature_layer=layer_of_features(feature_layer, vision_config.num_hidden_layers),
            vision_feature_select_strategy=processor.vision_feature_select_strategy,
            tie_word_embeddings=text_config.tie_word_embeddings,
            architectures=[_model_class(sizes).__name__],
            dtype=dtype,
        )
        new_token = image_token_id if llm_tokenizer.is_new else None
        rest = llm_shards(files, tied=text_config.tie_word_embeddings, new_token=new_token, progress=progress)
        content = {**config.to_diff_dict(), "text_config": published_config(llm, text_config)}
        with new_folder(out) as folder:
            write_settings(folder, content, settings, processor, llava_card(projector.config, out.name, tuned))
            write_shards(folder, chain([first], rest), 1 + len(files))
            _check_complete(folder, llm, vision, _model_class(sizes))
    units = padded.config.hidden_width - projector.config.hidden_width
    return ExportedLlava(out, image_token_id, image_tokens, added_rows, units)


def check_vision(
    projector: MLPConfig, vision: Path, feature_layer: int, *, keep_cls: bool, aspect_ratio: AspectRatio | None
) -> tuple[PreTrainedConfig, HiddenStates]:
    """The config of a vision model that Llava can hold, and the hidden states that the projector takes.

    Args: as for `export_llava`, which checks the same.

    Raises:
        VocabkitError: widths or features that do not fit, tokens that Llava can't leave out, a damaged or incomplete
            model.
    """
    name = LLAVA_NEXT if projector.vision_aspect_ratio == "anyres" else "a Llava checkpoint"
    check_features(name, projector, keep_cls=keep_cls, aspect_ratio=aspect_ratio)
    with quiet_transformers():
        config = read_vision_config(vision)
        states = adapted_states(vision, config, feature_layer, projector.vision_width)
    if states.class_tokens > 1 and not keep_cls:
        raise VocabkitError(
            f"{vision}: has {states.class_tokens} tokens before its patches, but Llava leaves out only one; if the "
            "adapter was trained with them, set `keep_cls`"
        )
    return config, states


def llm_shards(
    files: list[Path], *, tied: bool, new_token: int | None, progress: Progress
) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors of each weight file of an LLM; see `llm_tensors`."""
    done, total = 0, sum(file.stat().st_size for file in files)
    progress("writing the LLM", done, total)
    for file in files:
        yield llm_tensors(read_weights(file), tied=tied, new_token=new_token)
        done += file.stat().st_size
        progress("writing the LLM", done, total)


def write_shards(folder: Path, shards: Iterable[dict[str, Tensor]], count: int) -> int:
    """Write model-XXXXX-of-XXXXX.safetensors and their index; returns the bytes of all tensors."""
    index: dict[str, str] = {}
    size = 0
    for number, tensors in enumerate(shards, 1):
        file = folder / f"model-{number:05d}-of-{count:05d}.safetensors"
        try:
            save_file(tensors, file, metadata={"format": "pt"})
        except SafetensorError as error:  # such as a full disk
            raise OSError(str(error)) from error
        shutil.copymode(folder / "config.json", file)  # save_file makes it readable by its owner only
        index |= dict.fromkeys(tensors, file.name)
        size += sum(tensor.nbytes for tensor in tensors.values())
    content = {"metadata": {"total_size": size}, "weight_map": dict(sorted(index.items()))}
    _write_json(folder / "model.safetensors.index.json", content)
    return size


def _write_json(file: Path, content: dict[str, Any]) -> None:
    """Write `content` as an indented JSON file."""
    file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _model_class(sizes: Sizes | None) -> Any:
    return LlavaForConditionalGeneration if sizes is None else LlavaNextForConditionalGeneration


def _check_complete(folder: Path, llm: Path, vision: Path, model: Any) -> None:
    """Raise VocabkitError if transformers would miss a tensor of the checkpoint, or find one of another shape."""
    load: Any = model.from_pretrained
    try:
        _, found = load(folder, device_map={"": "meta"}, output_loading_info=True)
    except (RuntimeError, ValueError) as error:
        raise VocabkitError(f"{llm}: its tensors do not fit its config ({first_line(error)})") from error
    if missing := sorted(found["missing_keys"]):
        source = vision if missing[0].startswith("model.vision_tower") else llm
        raise VocabkitError(f"{source}: its weights lack {missing[0]}, one of {len(missing)} missing tensors")


def check_llm_width(config: AdapterConfig | MLPConfig, llm: Path, width: int) -> None:
    """Raise VocabkitError unless the LLM has the width of the adapter's visual tokens."""
    if config.output_width != width:
        raise VocabkitError(
            f"{llm}: has width {width}, but the adapter gives visual tokens of width {config.output_width}; give the "
            "LLM that it was transferred to"
        )


def layer_of_features(layer: int, layers: int) -> int:
    """Return an index into the hidden states of a vision model with so many layers, as transformers' Llava takes it."""
    return layer or -(layers + 1)  # it mistakes 0, the hidden states before the first layer, for none


def write_settings(folder: Path, config: dict[str, Any], generation: dict[str, Any], processor: Any, card: str) -> None:
    """Write all files of a checkpoint but its tensors."""
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", generation)
    _save_processor(processor, folder)
    (folder / "README.md").write_text(card, "utf-8")


@dataclass(frozen=True)
class LlavaTokenizer:
    """The LLM's tokenizer with the special token `<image>`."""

    tokenizer: Any
    image_token_id: int
    is_new: bool
    """Whether the LLM did not have that token before."""


def load_tokenizer(llm: Path) -> LlavaTokenizer:
    """Load the tokenizer in a model folder, and add `<image>` and a padding token if it lacks them.

    Raises:
        VocabkitError: no tokenizer, or one that has no place for another token.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(llm, trust_remote_code=False)
    except Exception as error:  # whatever a damaged tokenizer.json makes tokenizers and transformers raise
        raise VocabkitError(f"{llm}: transformers can't load its tokenizer ({first_line(error)})") from error
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    ids = tokenizer.encode(IMAGE_TOKEN, add_special_tokens=False)
    is_new = IMAGE_TOKEN not in known
    if len(ids) != 1 or (is_new and ids[0] in known.values()):
        raise VocabkitError(f"{llm}: no place for the token {IMAGE_TOKEN} in its tokenizer (its ids have gaps)")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"  # generation appends at the right
    return LlavaTokenizer(tokenizer, ids[0], is_new)


def build_processor(
    tokenizer: Any,
    vision: Path,
    config: PreTrainedConfig,
    states: HiddenStates,
    *,
    keep_cls: bool,
    pads: bool,
    sizes: Sizes | None = None,
) -> LlavaProcessor | LlavaNextProcessor:
    """Return the processor that puts an image token into the text for each visual token of the model.

    Args:
        keep_cls: whether class tokens become visual tokens.
        pads: whether pictures are padded to a square.
        sizes: heights and widths of pictures in tiles, for LlavaNext.

    Raises:
        VocabkitError: no image processor, one for images of another size than the model takes, or one that can't pad.
    """
    tokenizer.chat_template = chat_template(tokenizer)
    own = padding_processor(vision) if pads else image_processor(vision)
    of_kind: Any = LlavaProcessor if sizes is None else LlavaNextProcessor
    processor: LlavaProcessor | LlavaNextProcessor = of_kind(
        image_processor=own if sizes is None else tile_processor(own, sizes),
        tokenizer=tokenizer,
        patch_size=config.patch_size,
        vision_feature_select_strategy="default" if states.class_tokens and not keep_cls else "full",
        num_additional_image_tokens=states.class_tokens,
        chat_template=tokenizer.chat_template,
        image_token=IMAGE_TOKEN,
    )
    processor.image_processor.do_convert_rgb = True  # SigLIP's leaves transparent and grey pictures as they are
    height, width = pixel_size(vision, config, own)
    if (height, width) != (config.image_size, config.image_size):
        raise VocabkitError(
            f"{vision}: its image processor makes images of {width} x {height} pixels, but the model takes "
            f"{config.image_size} x {config.image_size}"
        )
    return processor


def padding_processor(vision: Path) -> LlavaImageProcessorPil:
    """The image processor in the folder, after padding to a square with the mean colour, as LLaVA does.

    Raises VocabkitError: it does more than resize, crop and normalise, or has no mean colour.
    """
    own = image_processor(vision)
    settings = preprocessing(own)
    found = LlavaImageProcessorPil(**settings, do_pad=True)
    square = Image.radial_gradient("L").resize((90, 90)).convert("RGB")
    if not settings["image_mean"] or not torch.equal(processed(found, square), processed(own, square)):
        raise VocabkitError(
            f"{vision}: a LlavaImageProcessor, which pads pictures, can't do what its image processor does "
            f"({type(own).__name__.removesuffix('Pil')}); export projector, or run it with vocabkit"
        )
    return found


def _save_processor(processor: Any, folder: Path) -> None:
    """Write `processor` for transformers 5 and 4.

    Version 4, and what is built on it, needs `preprocessor_config.json` and the old names in `tokenizer_config.json`.
    """
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text("utf-8"))
    for key in ("backend", "is_local", "local_files_only"):
        settings.pop(key, None)
    for key in ("model_input_names", "padding_side"):
        settings[key] = getattr(processor.tokenizer, key)
    if settings["tokenizer_class"] == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if extra := settings.pop("extra_special_tokens", None):
        settings["additional_special_tokens"] = extra
    file.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def chat_template(tokenizer: Any) -> str:
    """Return the LLM's own chat template, or LLaVA 1.5's, after lines that turn image parts into `<image>`."""
    template = tokenizer.chat_template
    own: str | None = template.get("default") if isinstance(template, dict) else template
    if own is None:
        starts = tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]  # those of templates are tokenised as is
        own = ("{{- bos_token -}}" if starts else "") + _PLAIN
    return _FLATTEN + own
