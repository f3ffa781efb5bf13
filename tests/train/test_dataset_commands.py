"""The commands take data sets of Hugging Face as they take files of LLaVA's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import error_of, vocabkit_here
from results import curve
from small_world import World

from vocabkit.train.train import train
from vocabkit.vision.features import open_features

COLUMNS = ("--split", "test", "--image-column", "photo", "--text-column", "talk")
IN_A_RECIPE = {"split": "test", "image_column": "photo", "text_column": "talk"}


@pytest.fixture(scope="module")
def dataset(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The pictures and conversations of the small world as a folder of Parquet."""
    records = json.loads(world.data.read_text())
    photos = [{"bytes": (world.data.parent / each["image"]).read_bytes(), "path": each["image"]} for each in records]
    folder = tmp_path_factory.mktemp("dataset")
    pq.write_table(
        pa.table({"photo": photos, "talk": [each["conversations"] for each in records]}), folder / "test.parquet"
    )
    return str(folder)


def made(folder: Path, *words: str | Path) -> dict[str, Any]:
    """Output of a command with --json."""
    done = vocabkit_here(folder, *words, "--json")
    assert done.returncode == 0, done.stderr
    printed = dict(json.loads(done.stdout))
    del printed["schema"]
    return printed


def test_dataset_gives_the_same_results_as_a_file_of_its_samples(world: World, dataset: str, tmp_path: Path) -> None:
    cached = made(tmp_path, "features", dataset, "--vision", world.vision, *COLUMNS[:4], "--out", "features")
    assert cached["report"]["computed"] + cached["report"]["equal"] == 12
    assert sorted(open_features(tmp_path / "features").keys) == sorted(f"test/{row}/0" for row in range(12))

    changes = {"data": (dataset,), "features": str(tmp_path / "features"), **IN_A_RECIPE}
    train(world.recipe(), tmp_path / "file")
    train(world.recipe(**changes), tmp_path / "dataset")
    assert curve(tmp_path / "dataset").tolist() == pytest.approx(curve(tmp_path / "file").tolist(), rel=1e-5)

    options = ("--llm", world.one, "--adapter", f"native={tmp_path / 'file' / 'adapter'}", "--template", "completion")
    (of_file,) = made(tmp_path, "validate", str(world.data), "--features", world.features, *options).values()
    (found,) = made(tmp_path, "validate", dataset, "--features", "features", *COLUMNS, *options).values()
    assert found["validation"]["samples"] == of_file["validation"]["samples"] == 12
    assert losses(found) == pytest.approx(losses(of_file), rel=1e-5)


def losses(result: dict[str, Any]) -> dict[str, float]:
    """One per object shown."""
    return {shown: loss["value"] for shown, loss in result["validation"]["caption_loss"].items()}


def test_dataset_pictures_are_read_while_training(world: World, dataset: str, tmp_path: Path) -> None:
    train(world.recipe(), tmp_path / "file")
    changes = {"data": (dataset,), "features": None, "vision": str(world.vision), "workers": 1, **IN_A_RECIPE}
    train(world.recipe(**changes), tmp_path / "dataset")
    assert curve(tmp_path / "dataset").tolist() == pytest.approx(curve(tmp_path / "file").tolist(), rel=1e-2)


def test_wrong_column_raises(world: World, dataset: str, tmp_path: Path) -> None:
    words = ("features", dataset, "--vision", world.vision, "--split", "test", "--out", "features")
    assert error_of(vocabkit_here(tmp_path, *words)).endswith(
        "no column 'image'; it has 'photo, talk': choose one of them as --image-column"
    )
    recipe = world.write_recipe(tmp_path / "recipe.toml", data=(dataset,), split="test", image_column="photo")
    problem = error_of(vocabkit_here(tmp_path, "train", recipe, "--out", "out"))
    lacking = "no column 'text'; it has 'photo, talk': choose one of them as `text_column`"
    assert problem == f"{dataset}: test, row 0: {lacking}"
