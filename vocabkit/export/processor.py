"""Tokenizer with an image token, image processor and chat template of an exported Llava checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AddedToken, AutoTokenizer, LlavaProcessor, PreTrainedConfig

from vocabkit.errors import VocabkitError
from vocabkit.model_folders import first_line
from vocabkit.vision.transformers_model import HiddenStates, image_processor, pixel_size

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
class LlavaTokenizer:
    """The LLM's tokenizer with the special token `<image>`."""

    tokenizer: Any
    image_token_id: int
    is_new: bool
    """Whether the LLM did not have that token."""


def load_tokenizer(llm: Path) -> LlavaTokenizer:
    """The tokenizer in a model folder. It gets the token `<image>` and a padding token, if it has none.

    Raises VocabkitError: no tokenizer, or one that has no place for a token.
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
    tokenizer.padding_side = "left"  # generation goes on at the right
    return LlavaTokenizer(tokenizer, ids[0], is_new)


def build_processor(
    tokenizer: Any, vision: Path, config: PreTrainedConfig, states: HiddenStates, *, keep_cls: bool
) -> LlavaProcessor:
    """The processor that puts an image token into the text for each visual token of the model.

    Args:
        keep_cls: whether class tokens become visual tokens, too.

    Raises VocabkitError: no image processor, or one that makes images of another size than the model takes.
    """
    tokenizer.chat_template = _chat_template(tokenizer)
    processor = LlavaProcessor(
        image_processor=image_processor(vision),
        tokenizer=tokenizer,
        patch_size=config.patch_size,
        vision_feature_select_strategy="default" if states.class_tokens and not keep_cls else "full",
        num_additional_image_tokens=states.class_tokens,
        chat_template=tokenizer.chat_template,
        image_token=IMAGE_TOKEN,
    )
    height, width = pixel_size(vision, config, processor.image_processor)
    if (height, width) != (config.image_size, config.image_size):
        raise VocabkitError(
            f"{vision}: its image processor makes images of {width} x {height} pixels, but the model takes "
            f"{config.image_size} x {config.image_size}"
        )
    return processor


def save_processor(processor: LlavaProcessor, folder: Path) -> None:
    """Write it for transformers 5 and, with `preprocessor_config.json` and the old names in `tokenizer_config.json`,
    for transformers 4 and what is built on it.
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


def _chat_template(tokenizer: Any) -> str:
    template = tokenizer.chat_template
    own: str | None = template.get("default") if isinstance(template, dict) else template
    if own is None:
        starts = tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]  # those of templates are tokenised as is
        own = ("{{- bos_token -}}" if starts else "") + _PLAIN
    return _FLATTEN + own
