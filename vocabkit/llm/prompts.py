"""Prompts: token ids of a sample's turns, with places for visual tokens and labels for the caption loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from vocabkit.data.samples import PLACEHOLDER, Turn
from vocabkit.errors import VocabkitError, quote

Template = Literal["plain", "completion", "chat"]
"""Format of turns as text.

plain: the image, then the answer and a newline, without the question, as LLaVA pretrains.
completion: the unchanged question, a space, and the answer: for LLMs that only continue text.
chat: the LLM's own chat template; without one, that of LLaVA 1.5 (`USER: … ASSISTANT: …`).
"""

IMAGE_ID = -200
"""Placeholder id of one visual token, as in LLaVA. No tokenizer has it."""
IGNORED = -100
"""Label of a token that does not count in the loss, the default of torch's cross_entropy."""

_PROBE = "question"
"""Text that a chat template shows if it takes text."""
_PLAIN_CHAT = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{ 'USER: ' + message['content'] | trim + ' ' }}"
    "{%- else -%}{{ 'ASSISTANT: ' + message['content'] | trim + (eos_token or '') }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)


@dataclass(frozen=True)
class Prompt:
    """Token ids of a sample, with `IMAGE_ID` for each visual token."""

    ids: list[int]
    labels: list[int]
    """The id of each token that counts in the caption loss, else `IGNORED`; the first token, which nothing predicts, is
    ignored."""


def parse_template(name: str) -> Template:
    """Return the template with this name. Raises VocabkitError: unknown."""
    found: dict[str, Template] = {each: each for each in get_args(Template)}
    if name not in found:
        raise VocabkitError(f"`template` {quote(name)}: choose plain, completion or chat")
    return found[name]


def check_question(question: str, template: Template) -> None:
    """Raise VocabkitError if a picture can't be asked about by `question`."""
    if question.count(PLACEHOLDER) != 1:
        raise VocabkitError(f"`question`: needs {PLACEHOLDER} exactly once, in place of the picture")
    if template == "plain" and question != PLACEHOLDER:
        raise VocabkitError("`question`: plain shows the picture alone; set `template` to completion or chat")


def encode_sample(
    tokenizer: Any, turns: Sequence[Turn], template: Template, image_tokens: int, *, longest: int
) -> Prompt:
    """Encode a whole sample, for training.

    Args:
        tokenizer: of transformers.
        image_tokens: visual tokens per image.
        longest: token ids to keep.

    Raises VocabkitError: an image or all answers are beyond `longest`.
    """
    prompt = _encode(tokenizer, _pieces(tokenizer, turns, template), image_tokens)
    if IMAGE_ID in prompt.ids[longest:]:
        raise VocabkitError(f"has an image after its first {longest} tokens")
    if all(label == IGNORED for label in prompt.labels[:longest]):
        raise VocabkitError(f"no answer in its first {longest} tokens")
    return Prompt(prompt.ids[:longest], prompt.labels[:longest])


def with_visual_tokens(prompt: Prompt, counts: Iterator[int]) -> Prompt:
    """Give each image of a prompt, encoded with one place, the next of `counts` as its number of visual tokens."""
    repeats = [next(counts) if i == IMAGE_ID else 1 for i in prompt.ids]
    return Prompt(*(np.repeat(row, repeats).tolist() for row in (prompt.ids, prompt.labels)))


def encode_question(tokenizer: Any, turns: Sequence[Turn], template: Template, image_tokens: int) -> list[int]:
    """Encode a sample without its last answer, for generation."""
    *pieces, (_, is_answer) = _pieces(tokenizer, turns, template)
    assert is_answer
    return _encode(tokenizer, pieces, image_tokens).ids


def _pieces(tokenizer: Any, turns: Sequence[Turn], template: Template) -> list[tuple[str, bool]]:
    """Split into pieces of text, each with whether it is an answer; the last one is."""
    if template == "plain":
        images = "".join(turn.question.count(PLACEHOLDER) * PLACEHOLDER for turn in turns)
        return [(images, False), ("\n".join(turn.answer for turn in turns) + "\n", True)]
    if template == "completion":
        pieces = []
        for number, turn in enumerate(turns):
            pieces += [("\n" * (number > 0) + turn.question, False), (f" {turn.answer}", True)]
        return pieces
    return _chat(tokenizer, turns)


def _chat(tokenizer: Any, turns: Sequence[Turn]) -> list[tuple[str, bool]]:
    pieces: list[tuple[str, bool]] = []
    messages: list[dict[str, Any]] = []
    before = ""
    template = tokenizer.chat_template or _PLAIN_CHAT

    def rendered(*, asks: bool) -> str:
        try:
            text: str = tokenizer.apply_chat_template(
                messages, chat_template=template, add_generation_prompt=asks, tokenize=False
            )
        except Exception as error:  # jinja2 and what the template does raise many kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise VocabkitError(
                f"the LLM's chat template fails ({quote(reason, 120)}); use template plain or completion"
            ) from error
        return text

    def content(text: str) -> Any:
        """As the template takes it: text, or its parts, as those that came with a processor."""
        return text if takes_text else [{"type": "text", "text": text}]

    messages.append({"role": "user", "content": _PROBE})
    try:
        takes_text = _PROBE in rendered(asks=False)
    except VocabkitError:  # as one of parts may, which the first turn will show
        takes_text = False
    messages.clear()

    for turn in turns:
        messages.append({"role": "user", "content": content(turn.question)})
        asked = rendered(asks=True)
        messages.append({"role": "assistant", "content": content(turn.answer)})
        answered = rendered(asks=False)
        if not (asked.startswith(before) and answered.startswith(asked)):
            raise VocabkitError(
                "the LLM's chat template rewrites earlier turns, so the place of answers is unknown; use template plain"
                " or completion"
            )
        pieces += [(asked[len(before) :], False), (answered[len(asked) :], True)]
        before = answered
    return pieces


def _encode(tokenizer: Any, pieces: list[tuple[str, bool]], image_tokens: int) -> Prompt:
    ids = _start(tokenizer, pieces[0][0])
    labels = [IGNORED] * len(ids)
    in_text = False  # whether the next part continues a text
    for text, is_answer in pieces:
        for number, part in enumerate(text.split(PLACEHOLDER) if not is_answer else [text]):
            if number:
                ids += [IMAGE_ID] * image_tokens
                labels += [IGNORED] * image_tokens
                in_text = False
            if not part:
                continue
            new = _ids(tokenizer, part, in_text=in_text)
            in_text = True
            ids += new
            labels += new if is_answer else [IGNORED] * len(new)
    labels[:1] = [IGNORED] * len(labels[:1])
    return Prompt(ids, labels)


def _ids(tokenizer: Any, text: str, *, in_text: bool) -> list[int]:
    """Return token ids of `text`; inside a text, without the space that SentencePiece puts before its first word."""
    bare: list[int] = tokenizer.encode(text, add_special_tokens=False)
    if not (in_text and tokenizer.convert_ids_to_tokens(bare[:1])[0].startswith("▁")):
        return bare
    line: list[int] = tokenizer.encode("\n", add_special_tokens=False)
    after: list[int] = tokenizer.encode("\n" + text, add_special_tokens=False)
    return after[len(line) :] if after[: len(line)] == line else bare


def _start(tokenizer: Any, text: str) -> list[int]:
    """Return the ids that the tokenizer puts before each text, such as BOS, unless the chat template wrote them."""
    bare: list[int] = tokenizer.encode("x", add_special_tokens=False)
    ids: list[int] = tokenizer.encode("x")
    before = ids[: next((at for at in range(len(ids)) if ids[at : at + len(bare)] == bare), 0)]
    return [] if tokenizer.encode(text, add_special_tokens=False)[: len(before)] == before else before
