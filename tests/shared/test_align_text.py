"""Where the tokens of two tokenizers meet in one text."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vocabularies import refusal, text_vocabulary

from vocabkit.shared.token_map import align_text
from vocabkit.tokenizer.catalog import resolve

load = cache(lambda name: resolve(name).vocabulary)


def test_meetings_are_where_tokens_of_both_end() -> None:
    found = align_text("Ein Häuschen", "llama3", "smollm2")
    text = found.text.encode()
    ours = [text[start:end] for start, end in found.offsets_a]
    theirs = [text[start:end] for start, end in found.offsets_b]
    for meeting in found.meetings:
        stretch = text[slice(*meeting.bytes)]
        assert b"".join(ours[slice(*meeting.tokens_a)]) == b"".join(theirs[slice(*meeting.tokens_b)]) == stretch
    assert len(found.meetings) > 1


@pytest.mark.parametrize("names", [("mistral-v1", "llama3"), ("llama3", "mistral-v3")])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
@settings(deadline=None, max_examples=40)
def test_meetings_cover_the_text_and_are_the_smallest(names: tuple[str, str], text: str) -> None:
    vocabularies = [load(name) for name in names]
    found = align_text(text, *vocabularies)
    size = len(text.encode())
    assert [start for start, _ in (m.bytes for m in found.meetings)] == [
        0, *(m.bytes[1] for m in found.meetings[:-1])
    ][: len(found.meetings)]  # fmt: skip
    assert (found.meetings[-1].bytes[1] if found.meetings else 0) == size
    both = {end for _, end in found.offsets_a} & {end for _, end in found.offsets_b} - {0}
    assert [m.bytes[1] for m in found.meetings] == sorted(both)
    for vocabulary, ids, offsets in zip(
        vocabularies, (found.ids_a, found.ids_b), (found.offsets_a, found.offsets_b), strict=True
    ):
        for token_id, (start, end) in zip(ids, offsets, strict=True):
            assert (vocabulary.token(token_id) or b"").endswith(text.encode()[start:end])
        assert all(before[1] == after[0] for before, after in itertools.pairwise(offsets))


def test_tokenizer_that_changes_the_text_raises() -> None:
    assert "changes this text" in refusal(align_text, "e\u0301", "qwen2.5", "llama3")


def test_tokenizer_without_rules_raises() -> None:
    assert "does not say how text is cut" in refusal(align_text, "a", text_vocabulary("a", b"a"), "llama3")
