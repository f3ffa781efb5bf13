"""Questions about scenes are answered right by an LLM that sees them, and wrong by one that sees others."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from oracle import stage
from small_world import World

from vocabkit.data.scenes import Scene, short_names
from vocabkit.evaluate.answers import Answers, Share, ask, names_all, ranked
from vocabkit.evaluate.losses import EvaluateOptions

NAMES = ("owl", "cat", "dog", "car", "hat", "key", "cup", "bell", "boat", "drum", "harp")
SCENES = [
    *(Scene("single", (name,)) for name in NAMES),
    *(Scene("count", ("owl",), count, "red") for count in (2, 3, 4, 5)),
    Scene("pair", ("cat", "dog"), None, "blue"),
]
"""Their answers are short enough to be written in full."""


def test_seeing_llm_answers_everything_right(world: World) -> None:
    found = ask(*stage(world, SCENES), EvaluateOptions(template="completion", batch=7))
    assert values(found) == {
        "named": 1, "recognised": 1, "name_chosen": 1, "yes_no": 1, "said_yes": 0.5, "yes_no_ranked": 1, "counted": 1,
    }  # fmt: skip
    assert {name: share.questions for name, share in shares(found).items()} == {
        "named": 16, "recognised": 16, "name_chosen": 11, "yes_no": 32, "said_yes": 32, "yes_no_ranked": 32,
        "counted": 4,
    }  # fmt: skip
    assert all((share.low, share.high) == (share.value, share.value) for share in shares(found).values())


def test_llm_shown_other_scenes_answers_wrong(world: World) -> None:
    others = [replace(scene, objects=(NAMES[(n + 1) % len(NAMES)],)) for n, scene in enumerate(SCENES[:11])]
    others += [replace(SCENES[11 + (n + 1) % 4], objects=("owl",)) for n in range(4)]
    found = values(ask(*stage(world, [*SCENES[:15]], sees=others), EvaluateOptions(template="completion")))
    assert (found["name_chosen"], found["counted"]) == (0, 0)
    assert found["named"] == 4 / 15  # owls are owls, however many
    assert found["yes_no"] < 0.7


def test_interval_resamples_pictures_not_questions(world: World) -> None:
    """The LLM sees cats where 23 owls are."""
    owl, cat = SCENES[:2]
    found = ask(*stage(world, [owl] * 59 + [cat], sees=[owl] * 36 + [cat] * 24), EvaluateOptions(template="completion"))
    named = found.named
    assert named is not None
    error = math.sqrt(named.value * (1 - named.value) / 60)
    assert (named.value, named.questions) == (37 / 60, 60)
    assert named.low == pytest.approx(named.value - 1.96 * error, abs=0.3 * error)
    assert named.high == pytest.approx(named.value + 1.96 * error, abs=0.3 * error)


def test_questions_about_one_picture_are_resampled_together(world: World) -> None:
    """An LLM that always says yes is right in half of the questions, whichever pictures are drawn."""
    found = ask(*stage(world, SCENES, yes=99.0), EvaluateOptions(template="completion"))
    assert found.yes_no == Share(0.5, 0.5, 0.5, questions=32)


@pytest.mark.parametrize(("yes", "right", "said"), [(99.0, 0.5, 1.0), (-99.0, 0.5, 0.0)])
def test_bias_towards_yes_or_no_shows_in_accuracy_but_not_in_ranking(
    world: World, yes: float, right: float, said: float
) -> None:
    found = values(ask(*stage(world, SCENES, yes=yes), EvaluateOptions(template="completion")))
    assert (found["yes_no"], found["said_yes"], found["yes_no_ranked"]) == (right, said, 1)


def test_plain_template_still_asks_for_yes_or_no(world: World) -> None:
    found = values(ask(*stage(world, SCENES), EvaluateOptions(template="plain")))
    assert (found["yes_no"], found["yes_no_ranked"]) == (1, 1)


def test_questions_that_were_not_asked_have_no_share(world: World) -> None:
    few = ask(*stage(world, SCENES[:3]), EvaluateOptions(template="completion"))
    assert values(few) == {"named": 1, "recognised": 1, "yes_no": 1, "said_yes": 0.5, "yes_no_ranked": 1}
    assert (few.name_chosen, few.counted) == (None, None)
    assert values(ask(*stage(world, SCENES[:1]), EvaluateOptions(template="completion"))) == {
        "named": 1,
        "recognised": 1,
    }


def test_scenes_are_asked_about_with_their_own_articles(world: World) -> None:
    things = {"milk": "milk", "hour": "an hour", "unit": "a unit", **{name: f"a {name}" for name in NAMES[1:8]}}
    scenes = [Scene("single", (name,), phrases=(thing,)) for name, thing in things.items()]
    found = values(ask(*stage(world, scenes), EvaluateOptions(template="completion")))
    assert found == {"named": 1, "recognised": 1, "name_chosen": 1, "yes_no": 1, "said_yes": 0.5, "yes_no_ranked": 1}


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"objects": []},
        {"objects": 5},
        {"objects": ["owl"], "kind": "mob"},
        {"objects": ["owl", "cat"], "kind": "single"},
        {"objects": ["owl"], "kind": "single", "phrases": ["an owl", "a cat"]},
        {"objects": ["owl"], "kind": "count", "count": 7},
        {"objects": ["sheep"], "kind": "count", "count": 2},
    ],
)
def test_only_scenes_with_features_are_asked_about(world: World, extra: dict[str, object]) -> None:
    llm, samples, features, adapter = stage(world, SCENES)
    stranger = replace(samples[0], extra=extra)
    del features["1"]
    found = ask(llm, [stranger, samples[1]], features, adapter, EvaluateOptions(template="completion"))
    assert found == Answers(*[None] * 6)


def test_one_seed_asks_the_same_questions(world: World) -> None:
    llm, samples, features, adapter = stage(world, SCENES, sees=list(reversed(SCENES)))
    one, two = (ask(llm, samples, features, adapter, EvaluateOptions(template="completion", seed=3)) for _ in range(2))
    assert one == two


def values(found: Answers) -> dict[str, float]:
    """Only the shares of the kinds of question that were asked."""
    return {name: share.value for name, share in shares(found).items()}


def shares(found: Answers) -> dict[str, Share]:
    return {name: share for name, share in vars(found).items() if isinstance(share, Share)}


# ---- reading captions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "scene", "right"),
    [
        (" an owl.", SCENES[0], True),
        ("An Owl on a red background", SCENES[0], True),
        ("a scowl.", SCENES[0], False),
        ("a cat. It looks like an owl.", SCENES[0], False),
        ("a cat\nan owl", SCENES[0], False),
        ("three owls on a red background.", SCENES[12], True),
        ("an owl.", SCENES[12], False),
        ("a dog and a cat on a blue background.", SCENES[15], True),
        ("a dog.", SCENES[15], False),
        ("", SCENES[0], False),
    ],
)
def test_caption_names_words_of_its_first_sentence(text: str, scene: Scene, right: bool) -> None:
    assert names_all(text, scene) == right


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("owl", []),
        ("red apple", ["apple"]),
        ("tiger face", ["face", "tiger"]),
        ("slice of pizza", ["slice", "pizza"]),
        ("cloud with rain", ["cloud", "rain"]),
    ],
)
def test_a_caption_may_call_a_drawing_by_the_noun_of_its_name(name: str, others: list[str]) -> None:
    assert short_names(name) == [name, *others]
    for called in short_names(name):
        assert names_all(f"a {called}.", Scene("single", (name,)), short_names)
    assert not names_all("a red tiger of rain.", Scene("single", ("red apple",)), short_names)


def test_captions_are_kept_beside_the_right_ones(world: World) -> None:
    found = ask(*stage(world, SCENES[:2]), EvaluateOptions(template="completion"))
    assert [(each.image, each.shows) for each in found.captions] == [("0", "an owl."), ("1", "a cat.")]
    assert all(each.says.startswith(each.shows) for each in found.captions)


def test_questions_and_captions_are_reported(world: World) -> None:
    steps: list[tuple[str, int, int | None]] = []
    options = EvaluateOptions(template="completion", batch=8)
    ask(*stage(world, SCENES), options, progress=lambda what, done, total: steps.append((what, done, total)))
    assert ("captions", 16, 16) in steps
    assert ("answers to choose from", 32, 32) in steps


def test_an_adapters_own_prompt_is_asked_for_captions(world: World) -> None:
    llm, samples, features, adapter = stage(world, SCENES, sees=SCENES)
    own = ask(llm, samples, features, adapter, EvaluateOptions(template="completion"))
    adapter.config = replace(adapter.config, prompt="Nothing of this kind: <image>")
    other = ask(llm, samples, features, adapter, EvaluateOptions(template="completion"))
    assert other.named != own.named
    assert (other.yes_no, other.counted) == (own.yes_no, own.counted)


def test_ranking_is_the_auc_with_ties_as_half() -> None:
    assert ranked(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1
    assert ranked(np.array([1.0]), np.array([2.0])) == 0
    assert ranked(np.array([1.0, 3.0]), np.array([2.0, 1.0])) == pytest.approx((0 + 0.5 + 1 + 1) / 4)
