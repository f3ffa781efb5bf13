"""Tokenizer with an image token, image processor and chat template of an exported Llava checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AddedToken, AutoImageProcessor, AutoTokenizer, LlavaProcessor, PreTrainedConfig

from vocabkit.errors import VocabkitError, quote

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
"""Turns messages of text and image parts into messages of text with `<image>`, for the LLM's own template after it."""

_PLAIN = """\
{%- for message in messages -%}
{{ (message['role'] | upper) + ': ' + (message['content'] | trim) + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}
"""
"""For LLMs without a chat template: roles as in LLaVA 1.5."""


def load_tokenizer(llm: Path) -> tuple[Any, int]:
    """The LLM's tokenizer with the special token `<image>`, and that token's id. An existing one is used."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(llm, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VocabkitError(f"{llm}: transformers can't load its tokenizer ({quote(first, 120)})") from error
    if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) in (None, tokenizer.unk_token_id):
        tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if tokenizer.encode(IMAGE_TOKEN, add_special_tokens=False) != [image_token_id]:
        raise VocabkitError(f"{llm}: its tokenizer cuts {IMAGE_TOKEN} into pieces although it has such a token")
    return tokenizer, int(image_token_id)


def build_processor(
    tokenizer: Any, vision: Path, vision_config: PreTrainedConfig, *, class_tokens: int, keep_cls: bool
) -> LlavaProcessor:
    """The processor that puts as many image tokens into the text as the model makes visual tokens.

    Args:
        class_tokens: how many tokens the vision model has beside its patches.
        keep_cls: whether the adapter takes them, too.
    """
    try:
        image_processor = AutoImageProcessor.from_pretrained(vision, local_files_only=True)
    except (OSError, ValueError) as error:
        raise VocabkitError(f"{vision}: no image processor in it (preprocessor_config.json)") from error
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=vision_config.patch_size,
        vision_feature_select_strategy="default" if class_tokens and not keep_cls else "full",
        num_additional_image_tokens=class_tokens,
        chat_template=_FLATTEN + (tokenizer.chat_template or _PLAIN),
        image_token=IMAGE_TOKEN,
    )
