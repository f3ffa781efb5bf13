"""English for names of things."""

from __future__ import annotations

import pytest

from vocabkit.data.scenes import Scene, counted, drawings, plural, with_article


@pytest.mark.parametrize(
    "phrase",
    [
        "an owl",
        "a red apple",
        "an hourglass",
        "a house with garden",
        "a unicorn face",
        "an umbrella",
        "a european castle",
        "a one-piece swimsuit",
        "an onion",
        "an x-ray",
        "a t-shirt",
        "a dress",
        "an octopus",
        "a bus",
        "a night with stars",
        "a slice of pizza",
        "an ice cube",
        "a nest with eggs",
        "an éclair",
    ],
)
def test_article_follows_the_first_sound(phrase: str) -> None:
    article, _, name = phrase.partition(" ")
    assert with_article(name) == f"{article} {name}"


@pytest.mark.parametrize(
    "name", ["grapes", "french fries", "busts in silhouette", "flexed biceps", "bread", "curry and rice", "shaved ice"]
)
def test_plurals_and_mass_nouns_take_no_article(name: str) -> None:
    assert with_article(name).removeprefix("a ") == name
    assert with_article(name).startswith("a ") == (name == "curry and rice")  # its noun is curry


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owl", "owls"),
        ("red apple", "red apples"),
        ("bus", "buses"),
        ("torch", "torches"),
        ("toothbrush", "toothbrushes"),
        ("fax machine", "fax machines"),
        ("bento box", "bento boxes"),
        ("butterfly", "butterflies"),
        ("monkey", "monkeys"),
        ("potato", "potatoes"),
        ("kangaroo", "kangaroos"),
        ("octopus", "octopuses"),
        ("hero", "heroes"),
        ("grand piano", "grand pianos"),
        ("roof", "roofs"),
        ("café", "cafés"),
        ("potter's wheel", "potter's wheels"),
        ("tear-off calendar", "tear-off calendars"),
        ("diamond ring", "diamond rings"),
        ("garden shed", "garden sheds"),
        ("washing machine", "washing machines"),
    ],
)
def test_regular_plurals(name: str, expected: str) -> None:
    assert plural(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        *("mouse", "snowman", "tooth", "fish", "maple leaf", "grapes", "two hearts", "bread", "slice of pizza", "deer"),
        *("wolf", "timber-wolf", "book shelf", "midwife", "goose", "quiz", "stomach", "oasis", "aircraft", "trout"),
    ],
)
def test_names_without_regular_plural_give_none(name: str) -> None:
    assert plural(name) is None


@pytest.mark.parametrize(
    "name",
    [
        *("mushroom from japan", "bear that dances", "iron for ironing clothes", "bow on bow", "mother-in-law"),
        *("dog chasing cat", "cat sleeping", "fist raised", "door open", "runner up", "attorney general"),
    ],
)
def test_names_whose_noun_may_stand_before_their_last_word_have_no_plural(name: str) -> None:
    assert plural(name) is None


@pytest.mark.parametrize("name", ["ginger 'root'", "kids'", "सेब", "letter s"])
def test_names_that_english_endings_do_not_fit_have_no_plural(name: str) -> None:
    assert plural(name) is None


def test_answers_complete_the_question() -> None:
    assert Scene("single", ("red apple",)).answer == "a red apple."
    assert Scene("pair", ("owl", "red apple"), None, "blue").answer == "an owl and a red apple on a blue background."
    assert Scene("count", ("owl",), 3, "orange").answer == "three owls on an orange background."
    own = Scene("pair", ("useful tool", "milk"), None, "red", ("a useful tool", "milk"))
    assert own.answer == "a useful tool and milk on a red background."
    assert [counted("owl", count) for count in (2, 4, 5)] == ["two owls", "four owls", "five owls"]


def test_drawings_are_about_900_named_in_at_most_three_plain_words() -> None:
    names = list(drawings())
    assert 850 <= len(names) <= 1050
    assert all(name == name.lower() and name.replace("-", " ").replace(" ", "").isalpha() for name in names)
    assert max(len(name.split()) for name in names) == 3
    assert {"owl", "red apple", "see-no-evil monkey", "keyboard", "bow and arrow"} <= set(names)


def test_signs_letters_shapes_and_activities_are_excluded() -> None:
    unwanted = {"sign", "symbol", "circle", "square", "flag", "keycap", "button", "clock face", "arrows"}
    assert not [name for name in drawings() if any(f" {word} " in f" {name} " for word in unwanted)]
    assert not {"aries", "juggling", "foggy", "black heart suit", "no entry", "upwards arrow"} & set(drawings())


def test_phrases_about_drawings_are_distinct() -> None:
    phrases = [with_article(name) for name in drawings()]
    assert len(set(phrases)) == len(phrases)
    plurals = [plural(name) for name in drawings() if plural(name)]
    assert len(set(plurals)) == len(plurals) > 600
