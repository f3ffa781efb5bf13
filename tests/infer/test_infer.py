"""vocabkit infer: its results are those of the models, for any kind of input and after any interruption."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import Done, error_of, vocabkit_here
from infer_world import InferWorld, content, nested, table, visual_tokens
from safetensors import safe_open
from torch import Tensor
from torch.testing import assert_close

from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector, load_adapter
from vocabkit.data.partition import Partition
from vocabkit.data.pictures import load_image
from vocabkit.data.samples import PLACEHOLDER, Picture, Turn
from vocabkit.errors import VocabkitError
from vocabkit.infer import infer as library
from vocabkit.infer import result_files
from vocabkit.infer.result_files import ResultFolder, Results
from vocabkit.llm.load import load_llm
from vocabkit.llm.lvlm import LVLM, collate, write_answers
from vocabkit.llm.prompts import Prompt, encode_question
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.tokenizer.catalog import resolve
from vocabkit.transfer.transfer import open_target
from vocabkit.vision.encoder import VisionEncoder, open_vision
from vocabkit_cli.options import kept_shards

SCENES = Path(__file__).parents[2] / "data" / "smollm2-scenes.pt"
"""The shipped adapter, trained with SmolLM2 on scenes of OpenMoji drawings."""


@pytest.fixture(scope="session")
def encoder(world: InferWorld) -> VisionEncoder:
    return open_vision(str(world.small.vision))


def features(encoder: VisionEncoder, file: Path) -> Tensor:
    """(N, Dv)."""
    return encoder(encoder.pixels(load_image(Picture(file.name, file)))[None])[0]


def infer(folder: Path, *words: str | Path) -> Done:
    """Run the command, which must succeed."""
    done = vocabkit_here(folder, "infer", *words, "--out", "out", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def copies(world: InferWorld, tmp_path: Path) -> Path:
    """A copy of the twelve pictures, which tests may change."""
    (tmp_path / "pictures").mkdir()
    for file in world.pictures.glob("*.png"):
        shutil.copy(file, tmp_path / "pictures")
    return tmp_path


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of two pictures."""
    monkeypatch.setattr(result_files, "SHARD_PICTURES", 2)


# ---- visual tokens -----------------------------------------------------------------------------------------------


def test_visual_tokens_equal_adapter_of_encoder_features(
    world: InferWorld, encoder: VisionEncoder, tmp_path: Path
) -> None:
    files = [world.pictures / f"{number}.png" for number in (3, 0, 7)]
    done = infer(tmp_path, world.transferred, *files, "--batch", "2")
    assert done.stdout.startswith("out: results of 3 pictures; 0 were already there, 3 computed on cpu in float32, ")
    found, moved = visual_tokens(tmp_path / "out"), load_adapter(world.transferred)
    assert list(found) == table(tmp_path / "out")["image"].to_pylist() == [str(file) for file in files]
    for file in files:
        assert found[str(file)].shape == (16, 32)
        assert_close(found[str(file)], moved(features(encoder, file)).detach())


def test_untransferred_adapter_uses_embeddings_of_its_llm(
    world: InferWorld, encoder: VisionEncoder, tmp_path: Path
) -> None:
    file = world.pictures / "5.png"
    infer(tmp_path, world.langbridge, file, "--llm", world.small.one)
    lvlm = LVLM(load_llm(world.small.one), load_adapter(world.langbridge))
    expected = lvlm.visual_tokens(features(encoder, file)[None])[0].detach()
    assert_close(visual_tokens(tmp_path / "out")[str(file)], expected)
    refused = vocabkit_here(tmp_path, "infer", world.langbridge, file, "--out", "other")
    assert "give --llm as NAME=SOURCE" in error_of(refused)


def test_mlp_projector_needs_no_llm(world: InferWorld, encoder: VisionEncoder, tmp_path: Path) -> None:
    file = world.pictures / "5.png"
    infer(tmp_path, world.mlp, file)
    mlp = load_adapter(world.mlp)
    assert isinstance(mlp, MLPProjector)
    assert_close(visual_tokens(tmp_path / "out")[str(file)], mlp(features(encoder, file)).detach())
    refused = vocabkit_here(tmp_path, "infer", world.mlp, file, "--out", "other", "--llm", world.small.one)
    assert error_of(refused).startswith("--llm: only for captions; the adapter itself gives visual tokens of one")


@pytest.mark.parametrize("option", ["--question=<image> Is", "--template=chat"])
def test_prompt_is_for_captions(world: InferWorld, tmp_path: Path, option: str) -> None:
    refused = vocabkit_here(tmp_path, "infer", world.mlp, world.pictures / "5.png", "--out", "other", option)
    assert error_of(refused) == f"{option.partition('=')[0]}: only for captions; also give --captions"


def test_bfloat16_is_computed_and_stored(world: InferWorld, encoder: VisionEncoder, tmp_path: Path) -> None:
    file = world.pictures / "5.png"
    assert "in bfloat16" in infer(tmp_path, world.mlp, file, "--dtype", "bfloat16").stdout
    found, mlp = visual_tokens(tmp_path / "out")[str(file)], load_adapter(world.mlp)
    assert isinstance(mlp, MLPProjector)
    assert found.dtype == torch.bfloat16
    expected = mlp(features(encoder, file)).detach()
    assert (found.float() - expected).norm() < 0.02 * expected.norm()


def test_settings_record_the_grid_of_patches(world: InferWorld, tmp_path: Path) -> None:
    infer(tmp_path, world.mlp, world.pictures / "5.png", "--pool", "2x4")
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert (index["format"], index["settings"]["grid"], index["images"]) == ("inference/1", [2, 4], 1)
    (tokens,) = visual_tokens(tmp_path / "out").values()
    assert tokens.shape == (8, 24)


def test_features_follow_the_settings_of_the_training(world: InferWorld, tmp_path: Path) -> None:
    file, (mlp, pooled) = world.pictures / "5.png", (load_adapter(path) for path in (world.mlp, world.pooled))
    encoder = open_vision(str(world.small.vision), layer=-1, keep_cls=True, pool=(2, 2))
    expected = mlp(features(encoder, file)).detach()
    infer(tmp_path, world.pooled, file)
    (found,) = visual_tokens(tmp_path / "out").values()
    assert found.shape == (5, 24)
    assert_close(found, expected)
    assert_close(pooled(features(encoder, file)).detach(), expected)
    infer(tmp_path, world.pooled, file, "--pool", "2x2", "--keep-cls")  # the same again
    refused = vocabkit_here(tmp_path, "infer", world.pooled, file, "--out", "other", "--pool", "4x4")
    assert error_of(refused).endswith(
        "gives features with pool 4x4, but the adapter was trained with pool 2x2; use the same"
    )
    assert not (tmp_path / "other").exists()


def test_keep_cls_applies_if_the_adapter_does_not_say(world: InferWorld, tmp_path: Path) -> None:
    infer(tmp_path, world.mlp, world.pictures / "5.png", "--keep-cls")
    (tokens,) = visual_tokens(tmp_path / "out").values()
    assert tokens.shape == (17, 24)


# ---- the largest coefficients ------------------------------------------------------------------------------------


def test_top_writes_coefficients_tokens_and_ids(world: InferWorld, encoder: VisionEncoder, tmp_path: Path) -> None:
    files = [world.pictures / "1.png", world.pictures / "2.png"]
    infer(tmp_path, world.langbridge, *files, "--top", "3")
    found, adapter = table(tmp_path / "out"), load_adapter(world.langbridge)
    assert isinstance(adapter, LangBridgeAdapter)
    coefficients, rows = adapter.coefficients(torch.stack([features(encoder, f) for f in files])).topk(3)
    assert_close(nested(found["coefficient"]), coefficients.detach())
    assert torch.equal(nested(found["row"]), rows)
    shared = adapter.shared
    assert torch.equal(nested(found["token_id"]), torch.tensor(shared.ids_for("one").tolist())[rows])
    tokens = [token for image in found["token"].to_pylist() for patch in image for token in patch]
    assert tokens == [shared.tokens[row].as_py() for row in rows.flatten().tolist()]
    assert not visual_tokens(tmp_path / "out")


def test_top_of_transferred_adapter_writes_ids_of_the_target(world: InferWorld, tmp_path: Path) -> None:
    infer(tmp_path, world.transferred, world.pictures / "1.png", "--top", "2", "--visual-tokens")
    found = table(tmp_path / "out")
    shared = open_shared(world.small.shared)
    ids = torch.tensor(shared.ids_for("two").tolist())[nested(found["row"])]
    assert torch.equal(nested(found["token_id"]), ids)
    assert len(visual_tokens(tmp_path / "out")) == 1


def test_id_is_null_if_the_llm_lacks_the_token(tmp_path: Path) -> None:
    adapter = load_adapter(SCENES)
    assert isinstance(adapter, LangBridgeAdapter)
    shared = adapter.shared.extend(resolve("mistral-v1").vocabulary)
    rows = [int(shared.mask_for("mistral-v1").argmax()), int(shared.mask_for("mistral-v1").argmin())]
    tensors = {"coefficient": torch.tensor([[[0.5, 0.2]]]), "row": torch.tensor([[rows]], dtype=torch.int32)}
    folder = ResultFolder(tmp_path / "out", {}, picture_bytes=1, shared=shared, llm="mistral-v1")
    folder.write(0, Results(["a"], tensors, None), {})
    folder.finish(1, 1, {})
    (found,) = table(tmp_path / "out")["token_id"].to_pylist()
    assert found == [[int(shared.ids_with_gaps("mistral-v1")[rows[0]]), None]]


def test_top_of_mlp_projector_raises(world: InferWorld, tmp_path: Path) -> None:
    words = ("--out", "out", "--top")
    refused = vocabkit_here(tmp_path, "infer", world.mlp, world.pictures, *words, "3")
    assert error_of(refused).startswith("--top: an MLP projector has no coefficients")
    refused = vocabkit_here(tmp_path, "infer", world.transferred, world.pictures, *words, "3000")
    assert "--top 3000: must be from 1 to 256" in error_of(refused)


def test_top_tokens_of_real_pictures_name_their_objects(tmp_path: Path) -> None:
    done = vocabkit_here(tmp_path, "scenes", "scenes", "--train", "20", "--held-out", "1", "--only", "train")
    assert done.returncode == 0, done.stderr
    infer(tmp_path, SCENES, "scenes/train.json", "--top", "10")
    records = {record["image"]: record for record in json.loads((tmp_path / "scenes" / "train.json").read_text())}
    found = table(tmp_path / "out")
    seen = {
        image: {token.decode(errors="replace").strip() for patch in patches for token in patch}
        for image, patches in zip(found["image"].to_pylist(), found["token"].to_pylist(), strict=True)
    }
    assert list(seen) == list(records)

    def named(shift: int) -> int:
        """Number of pictures whose tokens name an object of the picture `shift` places later."""
        others = list(records.values())[shift:] + list(records.values())[:shift]
        return sum(
            any(word in seen[image] for name in other["objects"] for word in name.split())
            for image, other in zip(seen, others, strict=True)
        )

    assert named(0) > max(named(shift) for shift in (3, 5, 7))


# ---- captions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["plain", "completion", "chat"])
def test_captions_equal_greedy_generation(
    world: InferWorld, encoder: VisionEncoder, tmp_path: Path, template: str
) -> None:
    question = PLACEHOLDER if template == "plain" else f"Image: {PLACEHOLDER}\nThis is"
    words = ("--captions", "--llm", world.small.two, "--template", template, "--question", question)
    files = [world.pictures / f"{number}.png" for number in range(3)]
    infer(tmp_path, world.transferred, *files, *words, "--max-new-tokens", "6")
    found = table(tmp_path / "out")["caption"].to_pylist()
    llm = load_llm(world.small.two)
    lvlm = LVLM(llm, load_adapter(world.transferred))
    ids = encode_question(llm.tokenizer, [Turn(question, "")], template, encoder.tokens)  # type: ignore[arg-type]
    for file, caption in zip(files, found, strict=True):
        batch = collate([Prompt(ids, [0] * len(ids))], [features(encoder, file)])
        written = lvlm.generate(batch, max_new_tokens=6, do_sample=False, pad_token_id=256)
        text = llm.tokenizer.decode(written[0], skip_special_tokens=True)
        assert caption == (text if template == "chat" else text.partition("\n")[0]).strip()


def test_captions_without_a_fitting_llm_raise(world: InferWorld, tmp_path: Path) -> None:
    words = ("infer", world.transferred, world.pictures, "--out", "out", "--captions")
    assert "give --llm as NAME=SOURCE" in error_of(vocabkit_here(tmp_path, *words))
    assert "other ids than two has" in error_of(vocabkit_here(tmp_path, *words, "--llm", world.small.one))
    words = (*words, "--llm", world.small.two)
    assert "needs <image> exactly once" in error_of(vocabkit_here(tmp_path, *words, "--question", "What?"))
    ignored = error_of(vocabkit_here(tmp_path, *words, "--question", "What is in <image>?", "--template", "plain"))
    assert ignored == "--question: plain shows the picture alone; set --template to completion or chat"
    assert "choose plain, completion or chat" in error_of(vocabkit_here(tmp_path, *words, "--template", "x"))


def test_the_adapters_own_prompt_is_the_default(world: InferWorld, tmp_path: Path) -> None:
    prompt = f"Words: {PLACEHOLDER}\nThese are"
    adapter = LangBridgeAdapter.from_pretrained(world.transferred)
    adapter.config = replace(adapter.config, prompt=prompt)
    adapter.save_pretrained(tmp_path / "prompted")
    words = ("--captions", "--llm", world.small.two, "--max-new-tokens", "6")
    files = [world.pictures / f"{number}.png" for number in range(3)]

    def captions(adapter: str | Path, *options: str) -> tuple[list[str], tuple[str, str]]:
        done = vocabkit_here(
            tmp_path, "infer", adapter, *files, *words, *options, "--out", f"out{len(options)}", "--json"
        )
        folder = json.loads(done.stdout)["folder"]
        asked = json.loads(done.stdout)["settings"]["captions"]
        written = table(tmp_path / folder)["caption"].to_pylist()
        shutil.rmtree(tmp_path / folder)
        return written, (asked["question"], asked["template"])

    own = captions(tmp_path / "prompted")
    assert own[1] == (prompt, "completion")
    assert own == captions(world.transferred, "--question", prompt)
    assert captions(tmp_path / "prompted", "--template", "chat")[1] == (prompt, "chat")
    alone = (PLACEHOLDER, "plain")
    assert captions(tmp_path / "prompted", "--question", PLACEHOLDER)[1] == alone
    assert captions(tmp_path / "prompted", "--template", "plain")[1] == alone
    assert captions(world.transferred)[1] == alone


# ---- pictures in tiles -------------------------------------------------------------------------------------------


def adapter_of_tiles(world: InferWorld, file: Path) -> LangBridgeAdapter:
    """The softmax adapter, as if it had been trained on tiles."""
    plain = load_adapter(world.langbridge)
    assert isinstance(plain, LangBridgeAdapter)
    sizes = ((28, 56), (56, 28), (56, 56))
    config = replace(plain.config, vision_aspect_ratio="anyres", vision_grid_pinpoints=sizes, newline_width=24)
    adapter = LangBridgeAdapter(config, plain.shared)
    adapter.load_state_dict(plain.state_dict() | {"image_newline": torch.linspace(-1, 1, 24)})
    adapter.save(file)
    return adapter.eval()


def test_tokens_top_and_captions_of_tiles(world: InferWorld, tmp_path: Path) -> None:
    adapter = adapter_of_tiles(world, tmp_path / "tiles.pt")
    words = ("tiles.pt", world.pictures, "--llm", world.small.one, "--visual-tokens", "--top", "2", "--captions")
    words = (*words, "--max-new-tokens", "3")
    infer(tmp_path, *words, "--batch", "5")
    llm = load_llm(world.small.one)
    rows = llm.rows(adapter.shared)
    encoder = open_vision(
        str(world.small.vision), image_aspect_ratio="anyres", grid_pinpoints=adapter.config.vision_grid_pinpoints
    )
    shown = table(tmp_path / "out").to_pylist()
    with safe_open(tmp_path / "out" / "00000.safetensors", "pt") as file:
        parts = file.get_tensor("visual_tokens").split(file.get_tensor("lengths").tolist())
    assert len(parts) == len(shown) == 12
    for row, found in zip(shown, parts, strict=True):
        tiles = encoder.tiles_of(Picture("a", Path(row["image"])))
        features = tiles.layout.remaining(encoder(tiles.pixels))
        with torch.no_grad():
            expected = tiles.layout.with_newlines(adapter(features, rows), adapter.image_newline)
        assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert len(found) == tiles.layout.tokens
        assert_close(torch.tensor(row["coefficient"]), adapter.top_coefficients(features, 2)[0], rtol=1e-3, atol=1e-5)
        ids = encode_question(llm.tokenizer, [Turn(PLACEHOLDER, "")], "plain", len(found))
        assert [row["caption"]] == write_answers(llm, [ids], found[None], template="plain", max_new_tokens=3)
    assert "12 were already there, 0 computed" in infer(tmp_path, *words, "--batch", "5").stdout


def test_commands_without_tiles_refuse_an_adapter_of_them(world: InferWorld, tmp_path: Path) -> None:
    adapter_of_tiles(world, tmp_path / "tiles.pt")
    one = ("--llm", world.small.one)
    recipe = world.small.write_recipe(tmp_path / "recipe.toml", adapter="tiles.pt", shared=None, steps=1)
    held = ("--features", str(world.small.features), "--adapter", "tiles=tiles.pt")
    for says, words in {
        "which only infer, validate and export compute; import its projector with --image-aspect-ratio pad": (
            "interpret", "tiles.pt", str(world.pictures / "5.png"), *one
        ),
        "which train does not compute; import its projector": ("train", str(recipe), "--out", "trained"),
        "which only infer, export, and validate without --features compute; import its projector": (
            "validate", str(world.small.data), *one, *held
        ),
    }.items():  # fmt: skip
        assert says in error_of(vocabkit_here(tmp_path, *words))


def test_newline_of_one_llm_is_shown_to_no_other(world: InferWorld, tmp_path: Path) -> None:
    """Not even if the adapter fits both: its V_shared has a column of each, and a table may be as wide."""
    adapter_of_tiles(world, tmp_path / "tiles.pt")
    message = error_of(
        vocabkit_here(tmp_path, "infer", "tiles.pt", world.pictures, "--llm", world.small.two, "--out", "out")
    )
    assert "image_newline, a vector of one that means nothing to two; to use its projector for the whole" in message


# ---- inputs ------------------------------------------------------------------------------------------------------


def test_llava_json_folders_and_files_are_read_once_each(world: InferWorld, copies: Path) -> None:
    below = copies / "pictures" / "a" / "b"
    below.mkdir(parents=True)
    (copies / "pictures" / "0.png").rename(below / "X.PNG")
    (copies / "pictures" / "notes.txt").write_text("no picture")
    llava, folder = str(world.small.data), sorted(file for file in (copies / "pictures").rglob("*.[pP]*"))
    infer(copies, world.mlp, llava, "pictures", "pictures/3.png")
    names = table(copies / "out")["image"].to_pylist()
    assert names == [f"{n}.png" for n in range(12)] + [str(file.relative_to(copies)) for file in folder]


def test_hugging_face_dataset_is_an_input(world: InferWorld, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    images = [{"bytes": (world.pictures / f"{number}.png").read_bytes(), "path": None} for number in (4, 5)]
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table({"photo": images}), tmp_path / "set" / "test.parquet")
    infer(tmp_path, world.mlp, "set", "--split", "test", "--image-column", "photo")
    found = visual_tokens(tmp_path / "out")
    assert list(found) == ["test/0/0", "test/1/0"]
    infer(tmp_path / "set", world.mlp, world.pictures / "4.png", world.pictures / "5.png")
    for one, other in zip(found.values(), visual_tokens(tmp_path / "set" / "out").values(), strict=True):
        assert torch.equal(one, other)


def test_tars_parquet_and_urls_are_inputs(world: InferWorld, tmp_path: Path) -> None:
    import fsspec

    files = [world.pictures / f"{number}.png" for number in range(8)]
    for shard in range(2):
        with tarfile.open(tmp_path / f"shard-{shard}.tar", "w") as writer:
            for file in files[2 * shard : 2 * shard + 2]:
                writer.add(file, file.name)
    pq.write_table(pa.table({"photo": [file.read_bytes() for file in files[4:6]]}), tmp_path / "a.parquet")
    memory = fsspec.filesystem("memory")
    for file in files[6:]:
        memory.put_file(str(file), f"/inputs/{file.name}")
    sources = ("shard-{0..1}.tar", "*.parquet", "memory://inputs", "--image-column", "photo")
    infer(tmp_path, world.mlp, *sources)
    found = visual_tokens(tmp_path / "out")
    assert list(found) == [
        "shard-0.tar/0.png", "shard-0.tar/1.png", "shard-1.tar/2.png", "shard-1.tar/3.png", "a.parquet/0/0",
        "a.parquet/1/0", "memory:///inputs/6.png", "memory:///inputs/7.png",
    ]  # fmt: skip
    assert "8 were already there, 0 computed" in infer(tmp_path, world.mlp, *sources).stdout
    (tmp_path / "files").mkdir()
    infer(tmp_path / "files", world.mlp, *files)
    for one, other in zip(found.values(), visual_tokens(tmp_path / "files" / "out").values(), strict=True):
        assert torch.equal(one, other)


def test_name_that_is_not_utf_8_is_escaped(world: InferWorld, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    shutil.copy(world.pictures / "1.png", tmp_path / os.fsdecode(b"pictures/\xff.png"))
    infer(tmp_path, world.mlp, "pictures")
    assert list(visual_tokens(tmp_path / "out")) == ["pictures/\\udcff.png"]


def test_missing_input_raises(world: InferWorld, tmp_path: Path) -> None:
    refused = vocabkit_here(tmp_path, "infer", world.mlp, "nothing here", "--out", "out")
    assert error_of(refused).startswith("nothing here: no such file or folder, and no hub id of a dataset")
    llava = tmp_path / "data.json"
    shutil.copy(world.small.data, llava)
    words = (world.mlp, llava, world.small.data, "--images", world.pictures, "--out", "out")
    assert vocabkit_here(tmp_path, "infer", *words).returncode == 0
    for file in world.pictures.glob("*.png"):
        shutil.copy(file, tmp_path)
    refused = vocabkit_here(tmp_path, "infer", world.mlp, llava, world.small.data, "--out", "out")
    assert "'0.png' is the key of two pictures" in error_of(refused)


# ---- broken pictures ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_shards")
def test_broken_pictures_are_left_out_and_tried_again(world: InferWorld, copies: Path) -> None:
    infer(copies, world.mlp, "pictures")
    whole = content(copies / "out")
    shutil.rmtree(copies / "out")
    good = {}
    for name in ("4.png", "5.png", "7.png"):  # in the order of names, 4 and 5 are a shard, 7 is half of one
        file = copies / "pictures" / name
        good[file] = file.read_bytes()
        file.write_bytes(good[file][:50])
    done = infer(copies, world.mlp, "pictures")
    first, *named = done.stderr.splitlines()
    assert first == "3 of 12 pictures are missing or broken and were left out:"
    assert [name in line for name, line in zip(("4.png", "5.png", "7.png"), named, strict=True)] == [True] * 3
    assert len(table(copies / "out")) == len(visual_tokens(copies / "out")) == 9
    again = infer(copies, world.mlp, "pictures")
    assert "9 were already there, 0 computed" in again.stdout
    assert again.stderr == done.stderr
    for file, image in good.items():
        file.write_bytes(image)
    assert "8 were already there, 4 computed" in infer(copies, world.mlp, "pictures").stdout
    assert content(copies / "out") == whole


def test_no_usable_picture_raises(world: InferWorld, tmp_path: Path) -> None:
    refused = vocabkit_here(tmp_path, "infer", world.mlp, "gone.png", "--out", "out")
    assert error_of(refused) == "none of 1 pictures can be used; the first: gone.png: no such file"
    assert not (tmp_path / "out").exists()  # the next run may have other pictures
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("of the user")
    vocabkit_here(tmp_path, "infer", world.mlp, "gone.png", "--out", "out")
    assert content(tmp_path / "out") == {"notes.txt": b"of the user"}


# ---- results by URL ----------------------------------------------------------------------------------------------


def stored(folder: str) -> dict[str, bytes]:
    """Name -> content of the files in a folder of fsspec's memory."""
    import fsspec

    system = fsspec.filesystem("memory")
    return {Path(file).name: system.cat_file(file) for file in system.find(f"/{folder}")}


@pytest.mark.usefixtures("small_shards")
def test_results_in_an_object_store_are_those_on_a_disk_and_resume(
    world: InferWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vocabkit.data.urls import RemoteFolder

    infer(tmp_path, world.mlp, world.pictures)
    expected, write, written = content(tmp_path / "out"), RemoteFolder.write, list[str]()

    def fails(self: RemoteFolder, name: str, content: bytes) -> None:
        if len(written) == 5:
            raise VocabkitError("the network is down")
        if content:  # an empty file tries whether the store can be written to
            written.append(name)
        write(self, name, content)

    def run(**options: Any) -> library.Report:
        return library.infer(world.mlp, [world.pictures], "memory://results/seen", device="cpu", **options).report

    monkeypatch.setattr(RemoteFolder, "write", fails)
    with pytest.raises(VocabkitError, match="the network is down"):
        run()
    assert stored("results/seen") == {name: expected[name] for name in written}
    monkeypatch.setattr(RemoteFolder, "write", write)
    report = run()
    assert (report.pictures, report.present, report.computed) == (12, 4, 8)
    assert stored("results/seen") == expected
    assert run().computed == 0
    with pytest.raises(VocabkitError, match="memory://results/seen: holds results of other settings"):
        run(dtype="bfloat16")
    with pytest.raises(VocabkitError, match="none of 1 pictures can be used"):
        library.infer(world.mlp, ["gone.png"], "memory://results/none", device="cpu")
    assert stored("results/none") == {}
    assert not Path("memory:").exists()


def test_command_refuses_to_write_into_its_own_memory(world: InferWorld, tmp_path: Path) -> None:
    refused = vocabkit_here(tmp_path, "infer", world.mlp, world.pictures, "--out", "memory://results/lost")
    assert error_of(refused).startswith("--out memory://results/lost: is lost when this command ends; name a folder")


@pytest.mark.parametrize("url", ["sftp://host/seen", "https://host/seen"])
def test_store_that_may_keep_half_a_file_is_refused(world: InferWorld, tmp_path: Path, url: str) -> None:
    refused = vocabkit_here(tmp_path, "infer", world.mlp, world.pictures, "--out", url)
    kind = url.partition(":")[0]
    assert error_of(refused).startswith(
        f"{url}: files can't be written whole to {kind}://; write to a folder, or to s3"
    )


# ---- interruptions -----------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from vocabkit.infer import result_files
from vocabkit.infer.infer import infer
result_files.SHARD_PICTURES = 2
def killed(what, done, total):
    if done >= 8:
        os.kill(os.getpid(), signal.SIGKILL)
infer({adapter!r}, ["pictures"], "out", top=3, visual_tokens=True, batch=2, progress=killed, device="cpu")
"""


@pytest.mark.robust
@pytest.mark.usefixtures("small_shards")
def test_killed_run_resumes_to_the_same_bytes(world: InferWorld, copies: Path) -> None:
    words = (world.transferred, "pictures", "--top", "3", "--visual-tokens", "--batch", "2")
    infer(copies, *words)
    whole = content(copies / "out")
    shutil.rmtree(copies / "out")
    code = KILLED.format(adapter=str(world.transferred))
    done = subprocess.run([sys.executable, "-c", code], cwd=copies, check=False, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    left = content(copies / "out")
    assert 2 <= sum(name.endswith(".arrow") for name in left) < 6
    assert "index.json" not in left
    resumed = infer(copies, *words).stdout
    assert "0 were already there" not in resumed
    assert content(copies / "out") == whole
    assert "12 were already there, 0 computed" in infer(copies, *words).stdout


@pytest.mark.usefixtures("small_shards")
def test_other_settings_or_pictures_raise_and_change_nothing(world: InferWorld, copies: Path) -> None:
    infer(copies, world.mlp, "pictures")
    before = content(copies / "out")

    def refused(*words: str | Path) -> str:
        return error_of(vocabkit_here(copies, "infer", *words, "--out", "out", "--device", "cpu"))

    assert (
        'out: holds results of other settings (another LLM, or an adapter for another one: "one", now "two"'
        in refused(world.transferred, "pictures")
    )
    assert '(--dtype "float32", now "bfloat16"); choose another' in refused(
        world.mlp, "pictures", "--dtype", "bfloat16"
    )
    assert "holds results of other pictures" in refused(world.mlp, world.pictures)
    assert "holds results of other pictures" in refused(world.mlp, "pictures/0.png", "pictures/1.png")
    assert content(copies / "out") == before


@pytest.mark.parametrize("command", ["infer", "features"])
def test_input_that_is_found_missing_later_leaves_no_folder(world: InferWorld, copies: Path, command: str) -> None:
    words = [command, world.mlp] if command == "infer" else [command, "--vision", world.small.vision]
    assert "no such file" in error_of(vocabkit_here(copies, *words, "nowhere.tar", "--out", "later"))
    assert not (copies / "later").exists()


def test_damaged_shard_raises(world: InferWorld, copies: Path) -> None:
    infer(copies, world.mlp, "pictures")
    file = copies / "out" / "00000.arrow"
    file.write_bytes(file.read_bytes()[:-40])
    refused = vocabkit_here(copies, "infer", world.mlp, "pictures", "--out", "out")
    assert error_of(refused).endswith("; remove it and run the same command again")
    file.write_bytes(b"")
    refused = vocabkit_here(copies, "infer", world.mlp, "pictures", "--out", "out")
    assert error_of(refused).endswith("; remove it and run the same command again")
    file.unlink()
    infer(copies, world.mlp, "pictures")


# ---- pictures that are others now ----------------------------------------------------------------------------------


def tar_of(file: Path, pictures: Sequence[Path]) -> Path:
    file.parent.mkdir()
    with tarfile.open(file, "w") as writer:
        for number, picture in enumerate(pictures):
            writer.add(picture, f"{number}.png")
    return file


def parquet_of(file: Path, pictures: Sequence[Path]) -> Path:
    file.parent.mkdir()
    pq.write_table(pa.table({"image": [picture.read_bytes() for picture in pictures]}), file)
    return file


@pytest.mark.parametrize(("write", "name"), [(tar_of, "shard-000.tar"), (parquet_of, "train-00000-of-00001.parquet")])
@pytest.mark.parametrize("parts", [(), ("1/2", "2/2")])
@pytest.mark.usefixtures("small_shards")
def test_file_of_the_same_name_never_gets_the_results_of_another(
    world: InferWorld, tmp_path: Path, write: Callable[[Path, Sequence[Path]], Path], name: str, parts: tuple[str, ...]
) -> None:
    """Keys are NAME.tar/FILE or NAME.parquet/ROW/0, whatever the folder."""
    files = [world.pictures / f"{number}.png" for number in range(12)]
    one, other = write(tmp_path / "v1" / name, files[:4]), write(tmp_path / "v2" / name, files[4:8])
    first, second = [("--partition", part) for part in parts] or [(), ()]
    infer(tmp_path, world.mlp, one, *first)
    before = content(tmp_path / "out")
    refused = error_of(vocabkit_here(tmp_path, "infer", world.mlp, other, *second, "--out", "out", "--device", "cpu"))
    assert "out: holds results of another picture as " in refused
    assert content(tmp_path / "out") == before
    infer(tmp_path, world.mlp, one, *second)
    both = error_of(vocabkit_here(tmp_path, "infer", world.mlp, one, other, "--out", "both", "--device", "cpu"))
    assert both.endswith("is the key of two pictures; give them in two runs, each with an --out of its own")


@pytest.mark.parametrize("changed", range(0, 12, 5))
@pytest.mark.usefixtures("small_shards")
def test_changed_picture_is_noticed(world: InferWorld, copies: Path, changed: int) -> None:
    infer(copies, world.mlp, "pictures")
    shutil.copy(copies / "pictures" / "3.png", copies / "pictures" / f"{changed}.png")
    refused = error_of(vocabkit_here(copies, "infer", world.mlp, "pictures", "--out", "out", "--device", "cpu"))
    assert refused.startswith(f"out: holds results of another picture as 'pictures/{changed}.png'; choose another")


@pytest.mark.usefixtures("small_shards")
def test_pictures_that_are_gone_and_results_of_earlier_versions_are_taken_as_they_are(
    world: InferWorld, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ResultFolder.write
    monkeypatch.setattr(
        ResultFolder, "write", lambda self, number, results, broken, _: write(self, number, results, broken)
    )
    listed = [f"pictures/{number}.png" for number in range(12)]
    infer(copies, world.mlp, *listed)
    monkeypatch.undo()
    monkeypatch.setattr(result_files, "SHARD_PICTURES", 2)
    shutil.copy(copies / "pictures" / "3.png", copies / "pictures" / "0.png")
    assert "12 were already there" in infer(copies, world.mlp, *listed).stdout
    shutil.rmtree(copies / "out")
    infer(copies, world.mlp, *listed)
    (copies / "pictures" / "0.png").unlink()
    assert "12 were already there" in infer(copies, world.mlp, *listed).stdout


@pytest.mark.usefixtures("small_shards")
def test_shard_without_its_visual_tokens_is_computed_again(world: InferWorld, copies: Path) -> None:
    infer(copies, world.mlp, "pictures")
    whole = content(copies / "out")
    (copies / "out" / "00001.safetensors").unlink()
    assert "10 were already there, 2 computed" in infer(copies, world.mlp, "pictures").stdout
    assert content(copies / "out") == whole


def test_index_of_the_user_or_of_features_is_never_replaced(world: InferWorld, copies: Path) -> None:
    (copies / "mine").mkdir()
    (copies / "mine" / "index.json").write_text('{"name": "mine"}')
    words = ("pictures", "--device", "cpu", "--out")
    for out in ("mine", world.small.features):
        refused = vocabkit_here(copies, "infer", world.mlp, *words, out)
        assert "that is not of results; choose another folder" in error_of(refused)
    infer(copies, world.mlp, "pictures")
    llava, vision = ("features", world.small.data, "--images", world.pictures), ("--vision", world.small.vision)
    for out in ("mine", "out"):
        refused = vocabkit_here(copies, *llava, *vision, "--out", out)
        assert "that is not of features; choose another folder" in error_of(refused)
    assert content(copies / "mine") == {"index.json": b'{"name": "mine"}'}


# ---- parts, each by a process of its own -------------------------------------------------------------------------


@pytest.mark.usefixtures("small_shards")
def test_parts_make_the_folder_of_a_single_run_in_any_order(world: InferWorld, copies: Path) -> None:
    (copies / "pictures" / "4.png").write_bytes(b"broken")
    words = (world.transferred, "pictures", "--top", "3", "--visual-tokens", "--batch", "2")
    infer(copies, *words)
    whole = content(copies / "out")
    shutil.rmtree(copies / "out")
    assert "results of 4 pictures" in infer(copies, *words, "--partition", "3/3").stdout
    first = infer(copies, *words, "--partition", "1/3")
    assert "results of 7 pictures; 4 were already there, 3 computed" in first.stdout
    assert "4 pictures are of other parts, and not there yet" in first.stderr
    assert not (copies / "out" / "index.json").exists()
    again = infer(copies, *words, "--partition", "1/3", "--json")
    assert json.loads(again.stdout)["report"]["left"] == 4
    last = infer(copies, *words, "--partition", "2/3")
    assert "other parts" not in last.stderr
    assert content(copies / "out") == whole
    assert "11 were already there, 0 computed" in infer(copies, *words).stdout


@pytest.mark.usefixtures("small_shards")
def test_each_process_of_a_launcher_takes_its_part(
    world: InferWorld, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, left in (("0", 6), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        report = json.loads(infer(copies, world.mlp, "pictures", "--json").stdout)["report"]
        assert (report["computed"], report["left"]) == (6, left)


@pytest.mark.usefixtures("small_shards")
def test_part_that_ends_while_another_one_computes_is_seen(
    world: InferWorld, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(part: str) -> library.Report:
        options = {"device": "cpu", "partition": Partition.parse(part)}
        return library.infer(world.mlp, [copies / "pictures"], copies / "out", **options).report

    real = library._batches

    def slow(*given: Any) -> Iterator[Any]:
        yield from real(*given)
        monkeypatch.setattr(library, "_batches", real)
        run("2/2")

    monkeypatch.setattr(library, "_batches", slow)
    report = run("1/2")
    assert (report.present, report.computed, report.left) == (6, 6, 0)
    assert (copies / "out" / "index.json").exists()


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_part_that_does_not_exist_raises(world: InferWorld, tmp_path: Path, part: str) -> None:
    refused = vocabkit_here(tmp_path, "infer", world.mlp, world.pictures, "--out", "out", f"--partition={part}")
    assert error_of(refused).startswith("--partition ")
    assert not (tmp_path / "out").exists()


def test_rank_that_does_not_exist_raises(world: InferWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = vocabkit_here(tmp_path, "infer", world.mlp, world.pictures, "--out", "out")
    assert error_of(refused).startswith("RANK=5, WORLD_SIZE=2: ranks are below WORLD_SIZE")


def test_interruption_before_the_first_shard_keeps_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert kept_shards(str(out)) == "nothing was written"
    out.mkdir()
    assert kept_shards(str(out)) == "nothing was written"
    (out / "00000.arrow").touch()
    assert kept_shards(str(out)) == f"{out} keeps what is done; the same command resumes"
    assert kept_shards("s3://bucket/seen") == "s3://bucket/seen keeps what is done; the same command resumes"


# ---- reports -----------------------------------------------------------------------------------------------------


def test_json_has_settings_counts_and_profile(world: InferWorld, copies: Path) -> None:
    (copies / "pictures" / "3.png").unlink()
    (copies / "pictures" / "3.png").write_text("x")
    found = json.loads(infer(copies, world.transferred, "pictures", "--json").stdout)
    assert (found["folder"], found["device"], found["settings"]["grid"]) == ("out", "cpu", [4, 4])
    report = found["report"]
    assert (report["pictures"], report["computed"], report["broken"]) == (12, 11, 1)
    shares = report["profile"]["shares"]
    assert set(shares) == {"waiting for pictures", "vision encoder", "adapter", "writing"}
    assert 0 < sum(shares.values()) <= 1
    assert report["profile"]["busy"] is None


def test_profile_lists_all_stages(world: InferWorld, tmp_path: Path) -> None:
    words = (world.transferred, world.pictures, "--captions", "--llm", world.small.two, "--max-new-tokens", "3")
    *_, title, waiting, vision, adapter, llm, writing = infer(tmp_path, *words, "--profile").stdout.splitlines()
    assert title.endswith("s of wall time:")
    stages = [line.split("%  ")[1] for line in (waiting, vision, adapter, llm, writing)]
    assert stages == ["waiting for pictures", "vision encoder", "adapter", "LLM", "writing"]


def test_vision_encoder_that_is_gone_is_named_with_the_option(world: InferWorld, tmp_path: Path) -> None:
    adapter = load_adapter(world.mlp)
    adapter.config = replace(adapter.config, vision_model=str(tmp_path / "gone"))
    adapter.save(tmp_path / "adapter.pt")
    refused = vocabkit_here(tmp_path, "infer", "adapter.pt", world.pictures, "--out", "out")
    assert error_of(refused).endswith(
        "gone: no such path, and no valid hub id (owner/name); the projector was trained with it: if it has moved, "
        "name it with --vision"
    )
    infer(tmp_path, "adapter.pt", world.pictures / "5.png", "--vision", world.small.vision)


def test_other_vision_encoder_raises(world: InferWorld, tmp_path: Path) -> None:
    words = ("infer", world.mlp, world.pictures, "--out", "out", "--vision", "efficientnet-lite0")
    assert "gives features of width 1280, but the projector takes 32" in error_of(vocabkit_here(tmp_path, *words))


def test_llm_with_other_ids_raises(world: InferWorld, tmp_path: Path) -> None:
    words = ("infer", world.langbridge, world.pictures, "--out", "out", "--llm")
    source = world.small.two.partition("=")[2]
    assert "is it another LLM?" in error_of(vocabkit_here(tmp_path, *words, f"one={source}"))
    assert "columns of one, two, none of three" in error_of(vocabkit_here(tmp_path, *words, f"three={source}"))
    assert open_target(world.small.two).vocabulary.name == "two"


def test_invalid_options_raise(world: InferWorld, tmp_path: Path) -> None:
    for problem, options in {
        "`batch` 0: must be at least 1": {"batch": 0},
        "`dtype` float16: must be auto, float32 or bfloat16": {"dtype": "float16"},
    }.items():
        with pytest.raises(VocabkitError, match=problem):
            library.infer(world.mlp, [world.pictures], tmp_path / "out", **options)
    with pytest.raises(TypeError, match="colour"):
        library.infer(world.mlp, [world.pictures], tmp_path / "out", colour=True)
    assert not (tmp_path / "out").exists()
