"""What held-out scenes have in common with train, and what not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabkit.data.scene_files import places
from vocabkit.data.scenes import BACKGROUNDS, COUNTS, FEWEST, Scene, drawings, plan_scenes, plural
from vocabkit.errors import VocabkitError

NAMES = tuple(drawings())
PLANS = st.builds(
    lambda names, train, held_out, seed: plan_scenes(NAMES[:names], train=train, held_out=held_out, seed=seed),
    st.sampled_from([80, len(NAMES)]),  # with few, train has many of the pairs there are
    st.integers(50, 800),
    st.integers(1, 50),
    st.integers(),
)
several = settings(deadline=None, max_examples=25)


def names(scenes: Iterable[Scene]) -> set[str]:
    return {name for scene in scenes for name in scene.objects}


def pairs(scenes: Iterable[Scene]) -> set[frozenset[str]]:
    return {frozenset(scene.objects) for scene in scenes if scene.kind == "pair"}


@given(PLANS)
@several
def test_renderings_are_scenes_of_train(plan: dict[str, list[Scene]]) -> None:
    assert not Counter(plan["rendering"]) - Counter(plan["train"])


@given(PLANS)
@several
def test_combinations_are_new_pairs_of_known_drawings_on_new_backgrounds(plan: dict[str, list[Scene]]) -> None:
    train, combination = plan["train"], plan["combination"]
    assert {scene.kind for scene in combination} == {"pair"}
    assert names(combination) <= names(train)
    assert not pairs(combination) & pairs(train)
    assert len(pairs(combination)) == len(combination)
    stood = {(name, scene.background) for scene in train for name in scene.objects}
    assert not [scene for scene in combination for name in scene.objects if (name, scene.background) in stood]


@given(PLANS)
@several
def test_new_drawings_are_in_no_other_split(plan: dict[str, list[Scene]]) -> None:
    others = [scene for split, scenes in plan.items() if split != "drawing" for scene in scenes]
    assert not names(plan["drawing"]) & names(others)


@given(PLANS)
@several
def test_scenes_match_their_kind(plan: dict[str, list[Scene]]) -> None:
    for scene in (scene for scenes in plan.values() for scene in scenes):
        assert len(set(scene.objects)) == len(scene.objects) == (2 if scene.kind == "pair" else 1)
        assert set(scene.objects) <= set(NAMES)
        assert (scene.count in COUNTS) if scene.kind == "count" else scene.count is None
        assert scene.kind != "count" or plural(scene.objects[0])
        assert (scene.background is None) if scene.kind == "single" else scene.background in BACKGROUNDS


@given(st.integers(50, 400), st.integers(1, 40), st.integers())
@several
def test_sizes_and_seed_determine_the_plan(train: int, held_out: int, seed: int) -> None:
    plan = plan_scenes(NAMES, train=train, held_out=held_out, seed=seed)
    sizes = {"train": train, "rendering": held_out, "combination": held_out, "drawing": held_out}
    assert {name: len(scenes) for name, scenes in plan.items()} == sizes
    assert plan_scenes(NAMES[::-1], train=train, held_out=held_out, seed=seed) == plan
    assert plan_scenes(NAMES, train=train, held_out=held_out, seed=seed + 1) != plan


def test_train_balances_drawings() -> None:
    plan = plan_scenes(NAMES, train=12_000, held_out=500, seed=0)
    assert names(plan["train"]) | names(plan["drawing"]) == set(NAMES)
    for kind, spread in (("single", 1), ("pair", 2), ("count", 1)):
        shown = Counter(name for scene in plan["train"] if scene.kind == kind for name in scene.objects)
        assert max(shown.values()) - min(shown.values()) <= spread
    for scenes in (plan["train"], plan["drawing"]):
        kinds = Counter(scene.kind for scene in scenes)
        assert {kind: count / len(scenes) for kind, count in kinds.items()} == {
            "single": 0.4,
            "pair": 0.4,
            "count": 0.2,
        }


def test_too_many_held_out_scenes_raise() -> None:
    with pytest.raises(VocabkitError, match="101 held-out scenes of 100 in train; hold out fewer"):
        plan_scenes(NAMES, train=100, held_out=101, seed=0)
    with pytest.raises(VocabkitError, match=r"400 held-out scenes, but train leaves only \d+ pairs of \d+ things; add"):
        plan_scenes(NAMES[::23], train=400, held_out=400, seed=0)


def test_fewest_things_make_scenes_and_fewer_raise() -> None:
    assert all(plan_scenes(NAMES[:FEWEST], train=20, held_out=2, seed=0).values())
    with pytest.raises(VocabkitError, match=r"^things: scenes need 15 things or more, and it has 14; add things$"):
        plan_scenes(NAMES[: FEWEST - 1], train=20, held_out=2, seed=0, source="things")


def test_things_of_which_a_split_can_count_none_raise() -> None:
    with pytest.raises(
        VocabkitError, match=r"none of the 18 things of a split has a regular plural, such as [a-t] mouse"
    ):
        plan_scenes([f"{'abcdefghijklmnopqrst'[n]} mouse" for n in range(20)], train=20, held_out=2, seed=0)


@given(PLANS, st.integers())
@several
def test_places_are_inside_and_do_not_overlap(plan: dict[str, list[Scene]], seed: int) -> None:
    rng = random.Random(seed)
    for scene in plan["train"]:
        found = places(scene, rng)
        assert len(found) == len(scene.objects) * (scene.count or 1)
        for place in found:
            assert min(place.left, place.top) >= 0
            assert max(place.left, place.top) + place.side <= 1
        for number, a in enumerate(found):
            for b in found[:number]:
                beside = a.left + a.side <= b.left or b.left + b.side <= a.left
                assert beside or a.top + a.side <= b.top or b.top + b.side <= a.top
        if scene.kind == "pair":
            left, right = found
            assert left.left + left.side <= 1 / 2 <= right.left
