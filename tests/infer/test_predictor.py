"""Predictor: batches of a table get the columns that `vocabkit infer` writes, whatever form their pictures have."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from infer_world import InferWorld, table, visual_tokens
from PIL import Image
from test_infer import adapter_of_tiles, infer

from vocabkit.errors import VocabkitError
from vocabkit.infer.predictor import Predictor

ALL = {"top": 2, "words": True, "visual_tokens": True, "device": "cpu"}


@pytest.fixture(scope="module")
def predictor(world: InferWorld) -> Predictor:
    return Predictor(world.transferred, **ALL)


def contents(world: InferWorld, *numbers: int) -> list[bytes]:
    return [(world.pictures / f"{number}.png").read_bytes() for number in numbers]


def test_columns_are_those_that_infer_writes(world: InferWorld, predictor: Predictor, tmp_path: Path) -> None:
    infer(tmp_path, world.transferred, world.pictures, "--top", "2", "--words", "--visual-tokens")
    rows, tokens = table(tmp_path / "out").to_pylist(), visual_tokens(tmp_path / "out")
    found = predictor({"image": [Path(row["image"]).read_bytes() for row in rows]})
    assert found.keys() - {"error", "visual_tokens"} == rows[0].keys() - {"image"}
    assert found["error"] == [""] * 12
    for at, row in enumerate(rows):
        assert {name: values[at] for name, values in found.items() if name in row} | {"image": row["image"]} == row
        assert torch.equal(torch.from_numpy(found["visual_tokens"][at]), tokens[row["image"]])


def test_captions_and_prompt_embeds_of_an_adapter_that_was_not_moved(world: InferWorld, tmp_path: Path) -> None:
    words = ("--captions", "--prompt-embeds", "--max-new-tokens", "3", "--llm", world.small.one)
    infer(tmp_path, world.langbridge, world.pictures, *words)
    rows = table(tmp_path / "out").to_pylist()
    made = Predictor(
        world.langbridge, captions=True, prompt_embeds=True, max_new_tokens=3, llm=world.small.one, device="cpu"
    )
    found = made({"image": [Path(row["image"]).read_bytes() for row in rows]})
    assert found["caption"] == [row["caption"] for row in rows]
    assert found["prompt_embeds"] == [row["prompt_embeds"] for row in rows]


def test_each_picture_in_tiles_has_its_own_tokens(world: InferWorld, tmp_path: Path) -> None:
    adapter_of_tiles(world, tmp_path / "tiles.pt")
    made = Predictor(tmp_path / "tiles.pt", llm=world.small.one, device="cpu")
    wide = Image.open(world.pictures / "3.png").resize((90, 30))
    both = made({"image": [*contents(world, 3), wide]})["visual_tokens"]
    assert len(both[0]) != len(both[1])
    assert torch.allclose(torch.from_numpy(both[1]), torch.from_numpy(made({"image": [wide]})["visual_tokens"][0]))


@pytest.mark.parametrize("kind", ["dict", "pillow", "pixels", "file"])
def test_pictures_in_any_form_are_the_same(world: InferWorld, predictor: Predictor, kind: str) -> None:
    file = world.pictures / "7.png"
    opened = Image.open(file)
    forms: dict[str, Any] = {
        "dict": {"bytes": file.read_bytes(), "path": "elsewhere.png"},
        "pillow": opened,
        "pixels": np.asarray(opened.convert("RGB")),
        "file": "7.png",
    }
    made = predictor if kind != "file" else Predictor(world.transferred, images=world.pictures, **ALL)
    expected = predictor({"image": [file.read_bytes()]})
    found = made({"image": [forms[kind]]})
    assert found["error"] == [""]
    assert np.array_equal(found["visual_tokens"][0], expected["visual_tokens"][0])


def test_grey_pixels_of_8_and_16_bits_and_transparent_ones_follow_the_rules_of_files(
    predictor: Predictor, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    pixels = [
        random.integers(0, 256, (20, 30), np.uint8),
        random.integers(0, 2**16, (20, 30), np.uint16),
        random.integers(0, 256, (20, 30, 4), np.uint8),
    ]
    files = []
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(tmp_path / f"{number}.png")
        files.append((tmp_path / f"{number}.png").read_bytes())
    of_files, of_pixels = predictor({"image": files}), predictor({"image": [pixels[0][..., None], *pixels[1:]]})
    assert of_pixels["error"] == [""] * 3
    assert np.array_equal(of_files["visual_tokens"], of_pixels["visual_tokens"])


def test_broken_pictures_keep_their_rows(world: InferWorld, predictor: Predictor) -> None:
    (good,) = contents(world, 3)
    broken: dict[str, Any] = {
        "not an image in any of": b"nothing",
        "broken image (": good[:60],
        "row 2: is null": None,
        "image '/etc/hostname' is not in the table; name the folder": {"bytes": None, "path": "/etc/hostname"},
        "an image is float, expected bytes": 0.5,
        "pixels are float32, 4 x 4": np.zeros((4, 4), np.float32),
        "pixels are uint8, 4 x 4 x 7": np.zeros((4, 4, 7), np.uint8),
    }
    found = predictor({"image": [*broken.values(), good]})
    assert all(reason in told for reason, told in zip(broken, found["error"], strict=False))
    assert found["error"][-1] == ""
    for name in found.keys() - {"error"}:
        if name == "visual_tokens":  # a column of tensors has no nulls
            assert {each.shape for each in found[name]} == {(16, 32)}
            assert [bool(each.any()) for each in found[name]] == [False] * len(broken) + [True]
            continue
        assert found[name][:-1] == [None] * len(broken)
        assert found[name][-1] is not None
    assert predictor({"image": [b"nothing"]}).keys() == found.keys()


def test_other_columns_of_a_plain_batch_are_kept(world: InferWorld, predictor: Predictor) -> None:
    found = predictor({"image": contents(world, 3, 4), "id": np.array([7, 8])})
    assert found["id"].tolist() == [7, 8]
    assert "image" not in found


def test_wrong_batches_raise(world: InferWorld, predictor: Predictor) -> None:
    with pytest.raises(VocabkitError, match="no column 'image' in the batch; it has 'photo'"):
        predictor({"photo": []})
    with pytest.raises(VocabkitError, match="column 'words' is in the data already; rename it first"):
        predictor({"image": contents(world, 3), "words": ["mine"]})
    with pytest.raises(
        TypeError, match=r"a batch is Table; .*batch_format='numpy' in Ray, with_format\(None\) in datasets"
    ):
        predictor(pa.table({"image": contents(world, 3)}))  # type: ignore[arg-type]
    (content,) = contents(world, 3)
    for single in (content, "3.png", {"bytes": content, "path": None}, Image.new("RGB", (4, 4)), None):
        with pytest.raises(
            TypeError, match="column 'image' is a single picture; expected a batch: map with batched=True"
        ):
            predictor({"image": single})
    with pytest.raises(VocabkitError, match="`partition`, `split`: not for batches"):
        Predictor(world.transferred, split="test")


def test_only_arguments_are_pickled(world: InferWorld, predictor: Predictor) -> None:
    predictor({"image": contents(world, 3)})
    pickled = pickle.dumps(predictor)
    assert len(pickled) < 10_000
    again = pickle.loads(pickled)({"image": contents(world, 3)})
    assert np.array_equal(again["visual_tokens"], predictor({"image": contents(world, 3)})["visual_tokens"])


def test_datasets_map_adds_the_columns_and_knows_them_again(world: InferWorld, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    shutil.copytree(world.transferred, tmp_path / "moved")
    images = [{"bytes": content, "path": None} for content in [*contents(world, 3, 4, 5), b"nothing"]]
    stored = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=["a", "b"])})
    data = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 1, 0]}, features=stored)
    predictor = Predictor(tmp_path / "moved", **ALL)
    found = data.map(predictor, batched=True, batch_size=2)
    assert found.features["label"] == stored["label"]
    assert found["image"][:] == images
    assert [bool(each) for each in found["error"]] == [False, False, False, True]
    expected = Predictor(tmp_path / "moved", **ALL)({"image": contents(world, 3, 4, 5)})
    assert found["words"][:3] == expected["words"]
    assert np.allclose(found["visual_tokens"][:3], expected["visual_tokens"], atol=1e-5)
    # decoded by datasets
    opened = data.select(range(3)).cast_column("image", datasets.Image())
    assert opened.map(predictor, batched=True)["words"][:] == expected["words"]
    # the cache of datasets: the same arguments are the same call, another adapter in its place is not
    again = data.map(Predictor(tmp_path / "moved", **ALL), batched=True, batch_size=2)
    assert again._fingerprint == found._fingerprint
    (tmp_path / "moved" / "adapter.pt").touch()
    later = data.map(Predictor(tmp_path / "moved", **ALL), batched=True, batch_size=2)
    assert later._fingerprint != found._fingerprint
