"""Words that name what an image shows."""

from __future__ import annotations

from vocabkit.interpret.results import as_word, object_words


def test_words_of_object_names_name_them() -> None:
    assert object_words(("red apple", "owl"), None) == ("apple", "owl", "red")


def test_inflected_forms_in_the_caption_name_objects() -> None:
    assert object_words(("owl",), "three owls on a red background.") == ("owl", "owls")


def test_unknown_objects_take_the_content_words_of_the_caption() -> None:
    assert object_words((), "This is a picture of an owl with two feathers.") == ("feathers", "owl")


def test_no_objects_or_caption_give_no_words() -> None:
    assert object_words((), None) == ()


def test_function_words_in_names_name_nothing() -> None:
    assert object_words(("face with tears of joy",), None) == ("face", "joy", "tears")


def test_names_in_other_scripts_are_words() -> None:
    assert object_words((), "una lechuza, сова и 42") == ("lechuza", "una", "сова")


def test_token_as_word_ignores_case_and_white_space() -> None:
    assert as_word(b" Owl") == "owl"
    assert as_word("Сова\n".encode()) == "сова"


def test_bytes_that_are_not_utf_8_are_no_word() -> None:
    assert as_word(b"\xf0\x9f") is None
