"""vocabkit features, as users run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import error_of, vocabkit, vocabkit_here
from painted_pictures import llava_json, painted
from vision_models import VISION, clip

from vocabkit.vision.features import open_features


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a vision model, six pictures, and data about four and about three of them."""
    clip(tmp_path / "clip")
    painted(tmp_path / "images", 6)
    llava_json(tmp_path / "train.json", [f"{number}.png" for number in range(4)])
    llava_json(tmp_path / "test.json", [f"{number}.png" for number in (3, 4, 5)])
    return tmp_path


WORDS = ("features", "train.json", "test.json", "--images", "images", "--vision", "clip", "--out", "out")


def test_features_are_computed_once(folder: Path) -> None:
    done = vocabkit_here(folder, *WORDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "out: 6 pictures, 16 x 32 features of clip each; 0 were already there, 6 computed\n"
    assert len(open_features(folder / "out")) == 6
    assert "6 were already there, 0 computed" in vocabkit_here(folder, *WORDS).stdout


def test_options_reach_the_encoder(folder: Path) -> None:
    options = ("--layer", "-1", "--keep-cls", "--pool", "2x4", "--dtype", "float32")
    assert vocabkit_here(folder, *WORDS, *options).returncode == 0
    found = open_features(folder / "out").encoder
    assert (found["layer"], found["keep_cls"], found["pool"], found["dtype"]) == (-1, True, (2, 4), "float32")
    assert (found["tokens"], found["width"]) == (9, VISION)


def test_images_default_to_the_folder_of_the_data(folder: Path) -> None:
    llava_json(folder / "images" / "data.json", ["0.png"])
    words = ("features", "images/data.json", "--vision", "clip", "--out", "out")
    assert vocabkit_here(folder, *words).stdout.startswith("out: 1 picture, ")


def test_missing_and_broken_pictures_are_named_on_stderr(folder: Path) -> None:
    (folder / "images" / "1.png").write_bytes(b"no picture")
    (folder / "images" / "4.png").unlink()
    done = vocabkit_here(folder, *WORDS)
    assert done.returncode == 0
    assert done.stdout.startswith("out: 4 pictures")
    first, *named = done.stderr.splitlines()
    assert first == "2 of 6 pictures are missing or broken and were left out:"
    assert ["1.png" in named[0], "4.png" in named[1]] == [True, True]
    assert len(named) == 2


def test_json_has_report_and_encoder(folder: Path) -> None:
    (folder / "images" / "4.png").unlink()
    done = vocabkit_here(folder, *WORDS, "--json")
    found = json.loads(done.stdout)
    assert found["folder"] == "out"
    assert (found["encoder"]["width"], found["encoder"]["grid"]) == (VISION, [4, 4])
    assert (found["report"]["pictures"], found["report"]["computed"], found["report"]["broken"]) == (6, 5, 1)


def test_bad_input_raises_in_one_line(folder: Path) -> None:
    words = ("features", "train.json", "--images", "images", "--out", "out", "--vision")
    assert "--pool '4' is not of the form ROWSxCOLUMNS" in error_of(
        vocabkit_here(folder, *words, "clip", "--pool", "4")
    )
    assert "has 4x4 patches" in error_of(vocabkit_here(folder, *words, "clip", "--pool", "5x5"))
    assert "no config.json in it" in error_of(vocabkit_here(folder, *words, "images"))
    assert not (folder / "out").exists()
    assert vocabkit_here(folder, *words, "clip").returncode == 0
    assert "out: holds features of other settings (--layer -2, now -1)" in error_of(
        vocabkit_here(folder, *words, "clip", "--layer", "-1")
    )


def test_efficientnet_lite0_works_in_a_process_of_its_own(folder: Path) -> None:
    done = vocabkit(folder, *WORDS[:5], "--vision", "efficientnet-lite0", "--pool", "4x4", "--out", "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout
        == "out: 6 pictures, 16 x 1280 features of efficientnet-lite0 each; 0 were already there, 6 computed\n"
    )
