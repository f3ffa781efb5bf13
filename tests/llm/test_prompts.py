"""From turns to token ids: where visual tokens stand, and on which tokens the caption loss falls."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from vocabkit.data.samples import Turn
from vocabkit.errors import VocabkitError
from vocabkit.llm.prompts import IGNORED, IMAGE_ID, Prompt, encode_question, encode_sample

CHATML = (
    "{%- for m in messages -%}<|{{ m['role'] }}|>{{ m['content'] | trim }}</s>{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
TURNS = (Turn("<image>\nWhat?", "A dog."), Turn("More?", "No."))


def tokenizer(*, bos: bool = False, eos: bool = False, chat: str | None = None, **names: str) -> Any:
    """One of bytes, with `<s>` and `</s>`, which it puts around each text if asked to."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>", "<|user|>", "<|assistant|>")])
    single = "<s> " * bos + "$A" + " </s>" * eos
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 256), ("</s>", 257)])
    named = {"bos_token": "<s>", "eos_token": "</s>"} | names
    found = PreTrainedTokenizerFast(tokenizer_object=made, **{name: token for name, token in named.items() if token})
    found.chat_template = chat
    return found


def shown(tokenizer: Any, ids: list[int]) -> str:
    """The text of `ids`, with `#` for visual tokens."""
    runs = itertools.groupby(ids, key=lambda token: token == IMAGE_ID)
    return "".join("#" * len(list(run)) if visual else tokenizer.decode(list(run)) for visual, run in runs)


def parts(tokenizer: Any, prompt: Prompt) -> list[tuple[str, bool]]:
    """Stretches of a prompt, and whether the loss falls on them."""
    assert len(prompt.ids) == len(prompt.labels)
    assert all(label in (token, IGNORED) for token, label in zip(prompt.ids, prompt.labels, strict=True))
    runs = itertools.groupby(zip(prompt.ids, prompt.labels, strict=True), key=lambda pair: pair[1] != IGNORED)
    return [(shown(tokenizer, [token for token, _ in run]), counts) for counts, run in runs]


def encoded(tokenizer: Any, template: Any, *turns: Turn, longest: int = 1000) -> list[tuple[str, bool]]:
    return parts(tokenizer, encode_sample(tokenizer, turns or TURNS, template, 3, longest=longest))


# ---- templates ---------------------------------------------------------------------------------------------------


def test_plain_is_the_image_and_the_answer_without_the_question() -> None:
    assert encoded(tokenizer(), "plain", Turn("Say: <image>", "A dog.")) == [("###", False), ("A dog.\n", True)]


def test_plain_joins_the_answers_of_all_turns_and_leaves_room_for_all_images() -> None:
    turns = (Turn("<image> one <image>", "A dog."), Turn("<image>", "A cat."))
    assert encoded(tokenizer(), "plain", *turns) == [("#" * 9, False), ("A dog.\nA cat.\n", True)]


def test_completion_continues_the_unchanged_question() -> None:
    assert encoded(tokenizer(), "completion", Turn("Image: <image>\nThis is", "a dog.")) == [
        ("Image: ###\nThis is", False), (" a dog.", True),
    ]  # fmt: skip


def test_completion_starts_each_further_turn_on_a_new_line() -> None:
    assert encoded(tokenizer(), "completion") == [
        ("###\nWhat?", False), (" A dog.", True), ("\nMore?", False), (" No.", True),
    ]  # fmt: skip


def test_chat_uses_the_llms_own_template() -> None:
    assert encoded(tokenizer(chat=CHATML), "chat") == [
        ("<|user|>###\nWhat?</s><|assistant|>", False), ("A dog.</s>", True),
        ("<|user|>More?</s><|assistant|>", False), ("No.</s>", True),
    ]  # fmt: skip


def test_chat_template_of_a_processor_gets_parts() -> None:
    """As those of llava-hf's checkpoints, which show nothing of plain text."""
    chat = (
        "{% for message in messages %}{{ message['role'] }}:"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %};"
        "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    found = encoded(tokenizer(chat=chat), "chat", Turn("<image>\nWhat?", "an owl"))
    assert "".join(text for text, _ in found) == "user:###\nWhat?;assistant:an owl;"


def test_chat_template_that_fails_on_text_gets_parts() -> None:
    chat = "{% for message in messages %}{{ message.role }}:{{ message.content[0].text + ';' }}{% endfor %}"
    found = encoded(tokenizer(chat=chat), "chat", Turn("<image>\nWhat?", "an owl"))
    assert "".join(text for text, _ in found) == "user:###\nWhat?;assistant:an owl;"


@pytest.mark.parametrize("chat", ["{% for %}", "{{ raise_exception('no\nway') }}", "{{ 1 + 'a' }}"])
def test_chat_template_that_fails_is_told_in_one_line(chat: str) -> None:
    with pytest.raises(VocabkitError, match=r"chat template fails \(.*\); use template plain or completion") as caught:
        encoded(tokenizer(chat=chat), "chat")
    assert "\n" not in str(caught.value)


def test_llm_without_chat_template_gets_that_of_llava() -> None:
    assert encoded(tokenizer(), "chat") == [
        ("USER: ###\nWhat? ASSISTANT:", False), (" A dog.</s>", True),
        ("USER: More? ASSISTANT:", False), (" No.</s>", True),
    ]  # fmt: skip
    assert encoded(tokenizer(eos_token=""), "chat")[-1] == (" No.", True)


def test_chat_template_that_rewrites_earlier_turns_raises() -> None:
    forgetful = "{{ messages[-1]['content'] }}"
    with pytest.raises(VocabkitError, match=r"rewrites earlier turns.*use template plain or completion"):
        encoded(tokenizer(chat=forgetful), "chat")


def test_placeholder_in_an_answer_is_text() -> None:
    assert encoded(tokenizer(), "completion", Turn("Say", "<image>!"))[1] == (" <image>!", True)


def test_text_needs_no_image_and_ignores_the_first_token() -> None:
    assert encoded(tokenizer(), "plain", Turn("Say", "Yes.")) == [("Y", False), ("es.\n", True)]
    assert encoded(tokenizer(bos=True), "plain", Turn("Say", "Yes.")) == [("<s>", False), ("Yes.\n", True)]


# ---- BOS ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["plain", "completion", "chat"])
@pytest.mark.parametrize("eos", [False, True])
def test_prompt_starts_with_the_tokenizers_prefix(template: Any, eos: bool) -> None:
    found = encoded(tokenizer(bos=True, eos=eos), template)
    without = encoded(tokenizer(), template)
    assert found == [("<s>" + without[0][0], False), *without[1:]]


def test_bos_of_the_chat_template_is_not_doubled() -> None:
    found = encoded(tokenizer(bos=True, chat="<s>" + CHATML), "chat")
    assert found[0][0].startswith("<s><|user|>")


def test_sentencepiece_adds_no_space_inside_a_text() -> None:
    """Llama 2 and Mistral put a space before each text that they are given."""
    pieces = ["<unk>", "<0x0A>", "▁", "▁a", "▁dog", "▁▁", *"adginots:.I"]
    made = Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, [], byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    found = PreTrainedTokenizerFast(tokenizer_object=made)
    prompt = encode_sample(found, [Turn("<image>\nIt is", "a dog.")], "completion", 2, longest=99)
    tokens = found.convert_ids_to_tokens([token for token in prompt.ids if token != IMAGE_ID])
    assert "".join(tokens) == "▁<0x0A>It▁is▁a▁dog."


# ---- lengths and questions ---------------------------------------------------------------------------------------


def test_tokens_beyond_longest_are_cut_off() -> None:
    whole = encode_sample(tokenizer(), TURNS, "completion", 3, longest=1000)
    cut = encode_sample(tokenizer(), TURNS, "completion", 3, longest=14)
    assert (cut.ids, cut.labels) == (whole.ids[:14], whole.labels[:14])


@pytest.mark.parametrize(
    ("turns", "longest", "message"),
    [
        (TURNS, 2, "has an image after its first 2 tokens"),
        ((*TURNS, Turn("<image>", "Yes.")), 20, "has an image after its first 20 tokens"),
        (TURNS, 8, "no answer in its first 8 tokens"),
    ],
)
def test_sample_cut_before_image_or_answer_raises(turns: Any, longest: int, message: str) -> None:
    with pytest.raises(VocabkitError, match=message):
        encode_sample(tokenizer(), turns, "completion", 3, longest=longest)


@pytest.mark.parametrize("template", ["plain", "completion", "chat"])
@pytest.mark.parametrize("chat", [None, CHATML])
def test_question_ends_before_the_last_answer(template: Any, chat: str | None) -> None:
    made = tokenizer(bos=True, chat=chat)
    prompt = encode_sample(made, TURNS, template, 3, longest=1000)
    question = encode_question(made, TURNS, template, 3)
    assert question == prompt.ids[: len(question)]
    assert len(parts(made, Prompt(prompt.ids[len(question) :], prompt.labels[len(question) :]))) == 1
