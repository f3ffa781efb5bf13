"""Phrases of a corpus: words that follow each other more often than by chance become one row."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import error_of, vocabkit_here
from vocabularies import refusal

from vocabkit.shared.align_words import align_words
from vocabkit.shared.phrases import LEAST, count_phrases
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.shared.words import count_words

CAPTIONS = [
    "A teddy bear and a dog.",
    "a brown bear on a tree",
    "A slice of pizza, a Teddy Bear",
    "a dog and a tree and a Christmas star",
    "a New York taxi and a dog",
]
FILLER = [f"a {number}st and a {number}nd on a {number}rd" for number in range(10)]
"""Captions whose words stand beside common ones only."""


def corpus(folder: Path, captions: list[str]) -> Path:
    file = folder / "captions.txt"
    file.write_text("\n".join(captions) + "\n", "utf-8")
    return file


def counted(file: Path) -> dict[str, int]:
    return count_phrases([file], count_words([file]))


def test_words_that_belong_together_are_phrases_in_their_commonest_form(tmp_path: Path) -> None:
    found = counted(corpus(tmp_path, CAPTIONS * LEAST + FILLER * 5 * LEAST))
    phrases = [(text, count) for text, count in found.items() if " " in text]
    assert phrases == [
        ("teddy bear", 10), ("brown bear", 5), ("slice of pizza", 5), ("Christmas star", 5), ("New York taxi", 5),
    ]  # fmt: skip


def test_words_count_only_outside_of_phrases(tmp_path: Path) -> None:
    found = counted(corpus(tmp_path, [*CAPTIONS * LEAST, "a bear"] + FILLER * 5 * LEAST))
    assert found["bear"] == 1
    assert "teddy" not in found
    assert found["dog"] == 15


def test_rare_phrases_and_neighbours_of_common_words_stay_words(tmp_path: Path) -> None:
    rare = counted(corpus(tmp_path, CAPTIONS * (LEAST - 1) + FILLER * 5 * LEAST))
    assert [text for text in rare if " " in text] == ["teddy bear"]
    same = ["the dog sleeps", "the cat sleeps"] * 20
    assert [text for text in counted(corpus(tmp_path, same)) if " " in text] == []


def test_punctuation_ends_a_phrase(tmp_path: Path) -> None:
    apart = [caption.replace("teddy bear", "teddy, bear").replace("Teddy Bear", "Teddy (bear)") for caption in CAPTIONS]
    assert "teddy bear" not in counted(corpus(tmp_path, apart * LEAST + FILLER * 5 * LEAST))


def test_a_pipe_cannot_be_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("-")):
        assert refusal(count_phrases, [path], {}) == (
            f"{path}: phrases need captions that can be read again; give a file or a folder"
        )


@pytest.mark.parametrize("name", ["llama3", "mistral-tekken"])
def test_a_phrase_is_spelled_as_in_running_text(tmp_path: Path, name: str) -> None:
    file = corpus(tmp_path, CAPTIONS * LEAST + FILLER * 5 * LEAST)
    shared = align_words([name, "qwen2"], [file], phrases=True)
    row = list(shared).index(b" teddy bear")
    one, two = (align_words([name, "qwen2"], {word: 1}).spellings(name).lists()[0] for word in ("teddy", "bear"))
    assert shared.spellings(name).lists()[row] == [*one, *two]
    assert shared.selection.corpus == "words and phrases of captions.txt"


def test_command_makes_rows_of_phrases(tmp_path: Path) -> None:
    file = corpus(tmp_path, CAPTIONS * LEAST + FILLER * 5 * LEAST)
    words = ("build-shared", "llama3", "qwen2", "--phrases", "--out", "out.arrow")
    done = vocabkit_here(tmp_path, *words, "--words", file)
    assert done.stdout.startswith("out.arrow: ")
    assert " words and phrases, " in done.stdout
    assert b" slice of pizza" in list(open_shared(tmp_path / "out.arrow"))
    assert error_of(vocabkit_here(tmp_path, *words)) == "--phrases needs captions: add --words FILE"
