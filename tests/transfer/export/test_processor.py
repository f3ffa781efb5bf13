"""Chat template, tokenizer and image processor of an exported checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2.nodes
import pytest
from small_models import VOCABULARY, byte_tokenizer, llama, llm, projector
from transformers import AutoProcessor, AutoTokenizer
from transformers.utils.chat_template_utils import _compile_jinja_template
from vision_models import PATCHES, clip, images

from vocabkit.errors import VocabkitError
from vocabkit.transfer.export.llava import export_llava

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|system|>Be kind.' }}{% endif %}{{ '<|' + message['role'] + '|>' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""A template as LLMs have them: it takes text only, and adds a system message where there is none."""
IMAGE = {"type": "image"}


def said(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}


def processor(tmp_path: Path, template: str | None, **options: Any) -> Any:
    """The processor of the checkpoint of a small LLM with this chat template, loaded."""
    out = export_llava(
        projector(), clip(tmp_path / "clip"), llm(tmp_path / "llm", template=template, **options), tmp_path / "out"
    )
    return AutoProcessor.from_pretrained(out.folder)


@pytest.fixture
def with_template(tmp_path: Path) -> Any:
    return processor(tmp_path, CHATML)


@pytest.fixture
def without_template(tmp_path: Path) -> Any:
    return processor(tmp_path, None)


# ---- an LLM with a chat template ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("Hi")], "<|system|>Be kind.<|user|>Hi"),
        ([user(said("Hi"))], "<|system|>Be kind.<|user|>Hi"),
        ([user(IMAGE, said("What?"))], "<|system|>Be kind.<|user|><image>\nWhat?"),
        ([user("<image>\nWhat?")], "<|system|>Be kind.<|user|><image>\nWhat?"),
        ([user(IMAGE, IMAGE, said("Both?"))], "<|system|>Be kind.<|user|><image>\n<image>\nBoth?"),
        ([user(said("This "), IMAGE, said("or that?"))], "<|system|>Be kind.<|user|>This <image>\nor that?"),
        ([{"role": "system", "content": "Be brief."}, user(IMAGE)], "<|system|>Be brief.<|user|><image>\n"),
        (
            [{"role": "system", "content": [said("Be brief.")]}, user(IMAGE, said("A?"))],
            "<|system|>Be brief.<|user|><image>\nA?",
        ),
        (
            [user(IMAGE, said("A?")), {"role": "assistant", "content": [said("B.")]}, user("C?")],
            "<|system|>Be kind.<|user|><image>\nA?<|assistant|>B.<|user|>C?",
        ),
    ],
)
def test_llms_own_template_gets_messages_in_its_format(
    with_template: Any, messages: list[dict[str, Any]], expected: str
) -> None:
    assert with_template.apply_chat_template(messages) == expected
    assert with_template.apply_chat_template(messages, add_generation_prompt=True) == expected + "<|assistant|>"


def test_plain_text_is_templated_like_the_llms(with_template: Any, tmp_path: Path) -> None:
    messages = [user("A?"), {"role": "assistant", "content": "B."}, user("C?")]
    own: Any = AutoTokenizer.from_pretrained(tmp_path / "llm")
    assert with_template.apply_chat_template(messages) == own.apply_chat_template(messages, tokenize=False)


def test_extra_message_fields_reach_the_llms_template(tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message.name }}: {{ message.content }}{% endfor %}"
    message = {**user(IMAGE, said("Hi")), "name": "Ada"}
    assert processor(tmp_path, template).apply_chat_template([message]) == "Ada: <image>\nHi"


def test_message_without_content_is_left_to_the_llms_template(tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message.tool_calls or message.content }};{% endfor %}"
    messages = [user(said("Hi")), {"role": "assistant", "content": None, "tool_calls": "call"}]
    assert processor(tmp_path, template).apply_chat_template(messages) == "Hi;call;"


def test_default_of_several_templates_is_used(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    source = llm(tmp_path / "llm")
    tokenizer.chat_template = {"default": CHATML, "tool_use": "{{ 'tools' }}"}
    tokenizer.save_pretrained(source)
    out = export_llava(projector(), clip(tmp_path / "clip"), source, tmp_path / "out")
    found = AutoProcessor.from_pretrained(out.folder)
    assert found.apply_chat_template([user("Hi")]) == "<|system|>Be kind.<|user|>Hi"
    assert isinstance(found.chat_template, str)


def test_tokenizer_has_the_template_too_for_lmms_eval(with_template: Any) -> None:
    messages = [user("<image>\nWhat?")]
    text = with_template.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|system|>Be kind.<|user|><image>\nWhat?<|assistant|>"


def test_template_has_the_content_loop_that_vllm_detects(with_template: Any) -> None:
    environment = _compile_jinja_template(with_template.chat_template).environment
    loops = environment.parse(with_template.chat_template).find_all(jinja2.nodes.For)
    outer = next(loop for loop in loops if loop.iter == jinja2.nodes.Name("messages", "load"))
    inner = next(outer.find_all(jinja2.nodes.For))
    assert outer.target == jinja2.nodes.Name("message", "store")
    assert inner.iter == jinja2.nodes.Getitem(
        jinja2.nodes.Name("message", "load"), jinja2.nodes.Const("content"), "load"
    )


# ---- an LLM without ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("Hi")], "USER: Hi "),
        ([user(IMAGE, said("What?"))], "USER: <image>\nWhat? "),
        ([{"role": "system", "content": "Be brief."}, user(IMAGE, IMAGE)], "Be brief. USER: <image>\n<image> "),
        (
            [user(IMAGE, said("A?")), {"role": "assistant", "content": [said("B.")]}, user("C?")],
            "USER: <image>\nA? ASSISTANT: B.</s>USER: C? ",
        ),
    ],
)
def test_llm_without_a_template_gets_that_of_llava_1_5(
    without_template: Any, messages: list[dict[str, Any]], expected: str
) -> None:
    assert without_template.apply_chat_template(messages) == expected
    assert without_template.apply_chat_template(messages, add_generation_prompt=True) == expected + "ASSISTANT:"


def test_bos_is_added_once(tmp_path: Path) -> None:
    found = processor(tmp_path, None, bos=True)
    assert found.apply_chat_template([user("Hi")]) == "<s>USER: Hi "
    ids = found.apply_chat_template([user("Hi")], tokenize=True, return_dict=True)["input_ids"][0]
    assert ids[0] == 256
    assert ids.count(256) == 1


# ---- tokens ------------------------------------------------------------------------------------------------------


def test_each_image_expands_to_its_number_of_visual_tokens(with_template: Any) -> None:
    chats = [[user(IMAGE, said("A?"))], [user(IMAGE, IMAGE, said("B?"))]]
    texts = [with_template.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    one, two, three = images(3)
    inputs = with_template(text=texts, images=[[one], [two, three]], padding=True, return_tensors="pt")
    assert (inputs["input_ids"] == VOCABULARY).sum(dim=1).tolist() == [PATCHES, 2 * PATCHES]
    assert inputs["pixel_values"].shape == (3, 3, 28, 28)


def test_batches_are_left_padded_even_without_a_padding_token(with_template: Any) -> None:
    inputs = with_template(text=["a", "abc"], padding=True, return_tensors="pt")
    assert inputs["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
    assert inputs["input_ids"][0, 0] == with_template.tokenizer.eos_token_id == 257


def test_text_is_tokenized_like_the_llms(with_template: Any, tmp_path: Path) -> None:
    own: Any = AutoTokenizer.from_pretrained(tmp_path / "llm")
    for text in ("Zwölf <s> Boxkämpfer</s>", " < image>", "日本語\n"):
        assert with_template.tokenizer(text)["input_ids"] == own(text)["input_ids"]
    assert with_template.tokenizer("a<image>b")["input_ids"] == [
        *own("a")["input_ids"],
        VOCABULARY,
        *own("b")["input_ids"],
    ]


def test_special_tokens_of_the_llm_stay_special(tmp_path: Path) -> None:
    source = llm(tmp_path / "llm", llama(vocab_size=VOCABULARY + 2))
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.save_pretrained(source)
    out = export_llava(projector(), clip(tmp_path / "clip"), source, tmp_path / "out")
    assert out.image_token_id == VOCABULARY + 1
    found = AutoProcessor.from_pretrained(out.folder).tokenizer
    ids = found("a<|turn|><image>b")["input_ids"]
    assert ids[1:3] == [VOCABULARY, VOCABULARY + 1]
    assert found.decode(ids, skip_special_tokens=True) == "ab"
    assert "<|turn|>" in found.all_special_tokens


def test_tokenizer_whose_ids_have_gaps_raises(tmp_path: Path) -> None:
    source = llm(tmp_path / "llm", llama(vocab_size=VOCABULARY + 1))
    content = json.loads((source / "tokenizer.json").read_text())
    content["model"]["vocab"]["A"] = VOCABULARY  # where the library puts the next token
    (source / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(VocabkitError, match="no place for the token <image> in its tokenizer"):
        export_llava(projector(), clip(tmp_path / "clip"), source, tmp_path / "out")
