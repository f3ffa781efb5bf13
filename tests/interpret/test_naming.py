"""Which words name what an image shows."""

from __future__ import annotations

from vocabkit.interpret.results import as_word, object_words


def test_the_words_of_known_objects_name_them() -> None:
    assert object_words(("red apple", "owl"), None) == ("apple", "owl", "red")


def test_the_forms_that_a_caption_gives_them_do_too() -> None:
    assert object_words(("owl",), "three owls on a red background.") == ("owl", "owls")


def test_without_objects_the_words_of_the_caption_name_them_but_not_those_of_its_form() -> None:
    assert object_words((), "This is a picture of an owl with two feathers.") == ("feathers", "owl")


def test_of_an_image_of_which_nothing_is_known_nothing_is_named() -> None:
    assert object_words((), None) == ()


def test_parts_of_names_that_only_shape_them_name_nothing() -> None:
    assert object_words(("face with tears of joy",), None) == ("face", "joy", "tears")


def test_names_in_other_scripts_are_words() -> None:
    assert object_words((), "una lechuza, сова и 42") == ("lechuza", "una", "сова")


def test_a_token_is_compared_without_case_and_white_space() -> None:
    assert as_word(b" Owl") == "owl"
    assert as_word("Сова\n".encode()) == "сова"


def test_bytes_that_are_no_text_are_no_word() -> None:
    assert as_word(b"\xf0\x9f") is None
