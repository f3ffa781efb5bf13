"""interpret: with adapters built to say one token, and with the shipped adapter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from single_minded import VISION, projecting, saying
from tables import CountedRows, table
from vocabularies import text_vocabulary

from vocabkit.adapter.config import AdapterConfig, Head
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.errors import VocabkitError, VocabkitWarning
from vocabkit.interpret.interpret import interpret, interpret_features
from vocabkit.interpret.results import ImageInfo, Interpretation, Reading
from vocabkit.report.as_json import to_json
from vocabkit.shared.align import align
from vocabkit.train.train import train
from vocabkit.transfer.transfer import Target, open_target, transfer

if TYPE_CHECKING:
    from small_world import World


@pytest.mark.parametrize("head", ["softmax", "linear"])
def test_visual_token_of_one_token_reads_as_it_in_every_llm(world: World, tmp_path: Path, head: Head) -> None:
    saying(world, b"q", head).save(tmp_path / "adapter")
    found = interpret(str(tmp_path / "adapter"), [world.data], llms=[world.two, world.one], limit=3, top=4)

    assert found.llms == ("one", "two")  # its own first
    assert found.head == head
    assert len(found.readings) == 3 * 2
    for reading in found.readings:
        assert reading.nearest.shape == reading.cosines.shape == (found.grid[0] * found.grid[1], 4)
        assert {found.tokens[reading.llm][token].token for token in reading.nearest[:, 0].tolist()} == {b"q"}
        np.testing.assert_allclose(reading.cosines[:, 0], 1, atol=1e-6)
        assert (np.diff(reading.cosines) <= 0).all()
        assert reading.rows is not None
        assert {found.rows[reading.llm][row] for row in reading.rows[:, 0].tolist()} == {b"q"}
        if head == "softmax":
            assert reading.image_rows is not None
            assert reading.image_mass is not None
            assert found.rows[reading.llm][int(reading.image_rows[0])] == b"q"
            assert reading.image_mass[0] == pytest.approx(1)
        assert found.tokens[reading.llm][int(reading.image_nearest[0])].token == b"q"
        assert reading.image_cosines[0] == pytest.approx(1)
    own, other = (found.reading(0, name, "adapter").nearest[0, 0] for name in found.llms)
    assert own != other  # the same bytes by another id


def test_mlp_has_nearest_tokens_but_no_coefficients(world: World, tmp_path: Path) -> None:
    projecting(world, b"z").save(tmp_path / "mlp.pt")
    found = interpret(str(tmp_path / "mlp.pt"), [world.data], llms=[world.one], limit=1)

    (reading,) = found.readings
    assert {found.tokens["one"][token].token for token in reading.nearest[:, 0].tolist()} == {b"z"}
    assert reading.rows is reading.coefficients is reading.entropy is reading.image_rows is reading.image_mass is None
    assert found.head is None
    (entry,) = found.development
    assert entry.mean_entropy is entry.named_by_head is None
    assert found.rows == {"one": {}}


def test_transferred_adapter_reads_in_words_of_its_target(world: World, tmp_path: Path) -> None:
    moved, _ = transfer(saying(world, b"k"), open_target(world.two))
    moved.save(tmp_path / "moved")
    found = interpret(str(tmp_path / "moved"), [world.data], llms=[world.two], limit=1)
    assert {found.tokens["two"][token].token for token in found.readings[0].nearest[:, 0].tolist()} == {b"k"}
    with pytest.raises(
        VocabkitError, match=r"one/model.safetensors: its tokenizer has other ids than two has .* is it another LLM"
    ):
        interpret(str(tmp_path / "moved"), [world.data], llms=[world.one], limit=1)
    with pytest.raises(VocabkitError, match=r"moved: its visual tokens are for one LLM, two: give that `llm` alone"):
        interpret(str(tmp_path / "moved"), [world.data], llms=[world.one, world.two], limit=1)


@pytest.mark.robust
def test_shipped_adapter_names_objects_in_words_of_an_unseen_llm(shipped: Interpretation) -> None:
    assert shipped.vocabularies["gemma3"] > 200_000
    for entry in shipped.development:
        assert entry.named is not None
        assert entry.named > 0.15
        assert entry.mean_best_cosine > 0.5


def test_named_is_the_share_of_patches_that_name_an_object(shipped: Interpretation) -> None:
    def named(reading: Reading, of: int) -> list[bool]:
        texts = {token: known.token.decode(errors="replace") for token, known in shipped.tokens[reading.llm].items()}
        words = shipped.images[of].words
        return [any(texts[token].strip().lower() in words for token in patch) for patch in reading.nearest.tolist()]

    for entry in shipped.development:
        readings = [reading for reading in shipped.readings if reading.llm == entry.llm]
        for reading in readings:
            assert reading.names_object is not None
            assert reading.names_object.tolist() == named(reading, reading.image)
        found = [value for reading in readings for value in named(reading, reading.image)]
        assert entry.named == pytest.approx(sum(found) / len(found))
        others = [value for reading in readings for value in named(reading, (reading.image + 1) % 10)]
        assert sum(others) < sum(found)


def test_best_cosine_and_entropy_are_means_over_all_patches(shipped: Interpretation) -> None:
    for entry in shipped.development:
        readings = [reading for reading in shipped.readings if reading.llm == entry.llm]
        best = np.concatenate([reading.cosines[:, 0] for reading in readings])
        assert entry.mean_best_cosine == pytest.approx(best.mean(), abs=1e-6)
        entropies = np.concatenate([reading.entropy for reading in readings if reading.entropy is not None])
        assert entry.mean_entropy == pytest.approx(entropies.mean(), abs=1e-6)
        assert (entropies >= 0).all()


def test_default_llm_is_the_adapters_own(world: World, tmp_path: Path) -> None:
    """Its LLM is called `one` here, a name that no catalog has."""
    saying(world, b"q").save(tmp_path / "adapter")
    with pytest.raises(VocabkitError, match="are for one, whose words are searched: add `llm` one=SOURCE"):
        interpret(str(tmp_path / "adapter"), [world.data])


def test_checkpoints_precede_the_adapter_in_order_of_training(world: World, tmp_path: Path) -> None:
    for step, letter in (("step-000010", b"b"), ("step-000002", b"a"), ("adapter", b"c")):
        saying(world, letter).save(tmp_path / "run" / step / ("adapter" if step != "adapter" else ""))
    found = interpret(
        str(tmp_path / "run/adapter"), [world.data], llms=[world.one], limit=2, checkpoints=tmp_path / "run"
    )
    assert found.checkpoints == ("step 2", "step 10", "adapter")
    said = [found.tokens["one"][int(found.reading(1, "one", label).nearest[0, 0])].token for label in found.checkpoints]
    assert said == [b"a", b"b", b"c"]
    assert [entry.checkpoint for entry in found.development] == list(found.checkpoints)


def test_word_loss_raises_cosine_and_lowers_entropy_over_checkpoints(world: World, tmp_path: Path) -> None:
    recipe = world.recipe(
        connector="softmax", word_steps=60, word_batch=4, word_learning_rate=0.003, word_entropy=0.5, steps=None,
        epochs=0, checkpoint_every=20, keep_adapters=True,
    )  # fmt: skip
    train(recipe, tmp_path / "run")
    found = interpret(
        str(tmp_path / "run/adapter"), [world.data], llms=[world.one], limit=4, checkpoints=tmp_path / "run"
    )
    assert found.checkpoints[:2] == ("step 20", "step 40")
    assert found.checkpoints[-1] == "adapter"
    early, later, last = found.development[:3]
    assert early.mean_entropy > later.mean_entropy > last.mean_entropy
    assert early.mean_best_cosine < later.mean_best_cosine < last.mean_best_cosine


def test_embedding_rows_are_read_once_for_all_checkpoints(world: World, tmp_path: Path) -> None:
    target = open_target(world.two)
    table = replace(target.embeddings, stored=CountedRows(target.embeddings.stored))
    picture = ImageInfo("a.png", tmp_path, (9, 9), (0, 0, 1, 1), None, (), ())
    features = torch.randn(1, 4, VISION, generator=torch.Generator().manual_seed(0))

    def read(*letters: bytes) -> tuple[int, list[bytes]]:
        table.stored.read = 0
        series = {letter.decode(): saying(world, letter) for letter in letters}
        found = interpret_features(series, replace(target, embeddings=table), [picture], features, 1)
        return table.stored.read, [found.tokens[int(each.nearest[0, 0])].token for each in found.readings]

    assert read(b"a", b"b", b"c") == (read(b"a")[0], [b"a", b"b", b"c"])


def test_all_checkpoints_drop_the_rows_that_the_llm_lacks(tmp_path: Path) -> None:
    """Heads with a single row."""
    own, second = (text_vocabulary(name, b"a", b"b", b"c") for name in ("own", "second"))
    other = text_vocabulary("other", b"c", b"d")
    shared = align([own, second])
    series = {}
    for label in ("early", "late"):
        adapter = LangBridgeAdapter(AdapterConfig.of(shared, llm="own", vision_width=2, hidden_width=3), shared)
        adapter.requires_grad_(False).head.bias.fill_(1 if label == "early" else 2)
        adapter.head.weight.zero_()
        series[label] = adapter
    rows = torch.tensor([[1.0, 0], [0, 1]])
    image = ImageInfo("a.png", tmp_path, (9, 9), (0, 0, 1, 1), None, (), ())
    with pytest.warns(VocabkitWarning, match="other lacks 2 of the adapter's 3 rows, which are left out"):
        found = interpret_features(series, Target(other, table(rows)), [image], torch.zeros(1, 1, 2), 5)
    assert [each.coefficients.tolist() for each in found.readings if each.coefficients is not None] == [[[1]], [[2]]]
    assert found.rows == {0: b"c"}


def test_pictures_without_data_are_interpreted(world: World, tmp_path: Path) -> None:
    saying(world, b"q").save(tmp_path / "adapter")
    picture = world.data.parent / "0.png"
    found = interpret(str(tmp_path / "adapter"), [picture, picture], llms=[world.one])
    (image,) = found.images
    assert (image.path, image.size, image.caption, image.words) == (picture, (30, 30), None, ())
    assert found.readings[0].names_object is None
    assert found.development[0].named is None


def test_caption_and_objects_of_the_data_are_kept(world: World, tmp_path: Path) -> None:
    saying(world, b"q").save(tmp_path / "adapter")
    first = interpret(str(tmp_path / "adapter"), [world.data], llms=[world.one], limit=1).images[0]
    assert (first.key, first.caption, first.objects) == ("0.png", "a red thing.", ("red",))


def test_caption_of_an_llm_is_found_by_the_key_or_the_path_of_a_picture(world: World, tmp_path: Path) -> None:
    saying(world, b"q").save(tmp_path / "adapter")
    options: dict[str, Any] = {"llms": [world.one], "limit": 2}
    plain = interpret(str(tmp_path / "adapter"), [world.data], **options).images
    written = {plain[0].key: "by key", str(plain[1].path): "by path"}
    found = interpret(str(tmp_path / "adapter"), [world.data], **options, written=written).images
    assert [image.written for image in found] == ["by key", "by path"]


def test_interpretation_converts_to_json(world: World, tmp_path: Path) -> None:
    saying(world, b"q").save(tmp_path / "adapter")
    found = json.loads(to_json(interpret(str(tmp_path / "adapter"), [world.data], llms=[world.one], limit=1)))
    token = str(found["readings"][0]["nearest"][0][0])
    assert found["tokens"]["one"][token] == {"token": {"hex": "71", "text": "q"}, "kind": "text"}


def test_patches_are_pooled_as_in_training_without_class_tokens(world: World, tmp_path: Path) -> None:
    adapter = saying(world, b"q")
    adapter.config = replace(adapter.config, vision_keep_cls=True, vision_pool=(2, 2))
    adapter.save(tmp_path / "adapter")
    found = interpret(str(tmp_path / "adapter"), [world.data], llms=[world.one], limit=1)
    assert found.grid == (2, 2)
    assert found.readings[0].nearest.shape[0] == 4
    with pytest.raises(VocabkitError, match="with pool 3x3, but the adapter was trained with pool 2x2"):
        interpret(str(tmp_path / "adapter"), [world.data], llms=[world.one], pool=(3, 3))


def test_broken_and_missing_pictures_are_left_out_and_named(world: World, tmp_path: Path) -> None:
    saying(world, b"q").save(tmp_path / "adapter")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (5000, 1)).save(tmp_path / "thin.png")
    good = [world.data.parent / f"{number}.png" for number in range(9)]
    some = [tmp_path / "broken.png", *good, tmp_path / "thin.png", tmp_path / "absent.png"]
    found = interpret(str(tmp_path / "adapter"), some, llms=[world.one])
    assert [image.path for image in found.images] == good
    assert [problem.partition(": ")[0] for problem in found.broken] == [
        str(tmp_path / name) for name in ("broken.png", "thin.png", "absent.png")
    ]
    alone = interpret(str(tmp_path / "adapter"), good, llms=[world.one])
    for one, other in zip(found.readings, alone.readings, strict=True):
        np.testing.assert_allclose(one.cosines, other.cosines, atol=1e-6)


def test_mismatched_parts_raise(world: World, tmp_path: Path) -> None:
    good, mlp = tmp_path / "good", tmp_path / "run" / "step-000001" / "adapter"
    saying(world, b"q").save(good)
    projecting(world, b"q").save(mlp)
    (tmp_path / "none").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no picture")

    def refused(match: str, pictures: list[Path], **options: Any) -> None:
        with pytest.raises(VocabkitError, match=match):
            interpret(str(good), pictures, **{"llms": [world.one], **options})

    refused("no step-.*/adapter in it", [world.data], checkpoints=tmp_path / "none")
    refused("step-000001.*not the same type", [world.data], checkpoints=tmp_path / "run")
    refused("`llm` .*: one is already given", [world.data], llms=[world.one, world.one])
    refused("features of width 1280, but the adapter takes 32", [world.data], vision="efficientnet-lite0")
    refused("none of 1 pictures can be used; the first: .*broken.png: not an image", [tmp_path / "broken.png"])
    refused("no such file", [tmp_path / "absent.json"])
    refused("`top` 0: must be at least 1", [world.data], top=0)
