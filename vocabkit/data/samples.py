"""Samples: one training example each, whatever file it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import msgspec

from vocabkit.errors import VocabkitError, quote
from vocabkit.files.records import is_text

if TYPE_CHECKING:
    from PIL.Image import Image

Source: TypeAlias = "Path | bytes | Callable[[], bytes | Image]"
"""Of a picture: the file, its content, or a function that reads it or gives the opened image."""
PLACEHOLDER = "<image>"
"""Placeholder of one image in a question, as in LLaVA's files."""


class Turn(NamedTuple):
    """A question, with placeholders, and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Picture:
    """An image that has not been opened yet."""

    key: str
    """Its identity within a dataset, the same in every run."""
    source: Source


@dataclass(frozen=True)
class Sample:
    """A conversation about images, or about text only."""

    id: str
    images: tuple[Picture, ...]
    """In the order of their placeholders."""
    turns: tuple[Turn, ...]
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Other fields of its record."""

    @property
    def problem(self) -> str | None:
        """Why it can't be used, though its pictures can: a placeholder for each image and a text are expected."""
        if not self.turns:
            return "no question with an answer in the conversation"
        places = sum(turn.question.count(PLACEHOLDER) for turn in self.turns)
        if places != len(self.images):
            return f"{places} {PLACEHOLDER} in the questions, but {len(self.images)} images; expected one for each"
        return None if any(turn.answer.strip() for turn in self.turns) else "no text in its caption or answers"


class _Said(msgspec.Struct, rename={"who": "from"}):
    who: Literal["human", "gpt"]
    value: str


def parse_turns(conversation: object) -> tuple[Turn, ...]:
    """Parse a conversation in LLaVA's form, a list of {"from": "human" or "gpt", "value": text}.

    As in LLaVA's `preprocess_v1`, an answer before the first question is dropped; so is an unanswered last question,
    which has nothing to learn.

    Raises VocabkitError: not of this form, roles that do not alternate, or half a surrogate pair in a text.
    """
    try:
        said = msgspec.convert(conversation, list[_Said])
    except msgspec.ValidationError as error:
        raise VocabkitError(f"not a conversation between human and gpt ({quote(str(error), 120)})") from error
    if said and said[0].who == "gpt":
        said = said[1:]
    for number, each in enumerate(said):
        if each.who != ("human", "gpt")[number % 2]:
            raise VocabkitError(f"{each.who} speaks twice in a row; expected human and gpt in turn")
        if not is_text(each.value):
            raise VocabkitError("half a surrogate pair in the conversation, which is not text")
    return tuple(Turn(human.value, gpt.value) for human, gpt in zip(said[::2], said[1::2], strict=False))
