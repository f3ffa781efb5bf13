"""What a training learns, what it leaves as it was, and what it writes."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import vocabkit_here
from peft import AutoPeftModelForCausalLM
from PIL import Image
from results import curve, metrics, same_bits, weights
from small_world import World, write_data
from torch import Tensor
from torch.testing import assert_close

from vocabkit.adapter.config import vision_of
from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector, load_adapter
from vocabkit.data.llava import read_llava
from vocabkit.errors import VocabkitError
from vocabkit.llm.load import load_llm
from vocabkit.llm.lvlm import LVLM
from vocabkit.train.loop import Phase, Step, learning_rate
from vocabkit.train.recipe import Recipe
from vocabkit.train.train import Trained, train
from vocabkit.transfer.transfer import open_target, transfer
from vocabkit.vision.encoder import open_vision
from vocabkit.vision.features import cache_features

WORDS = {"connector": "softmax", "word_steps": 4, "word_batch": 4}


@pytest.fixture(scope="module")
def linear(world: World, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A linear head, trained by the plain recipe."""
    return train(world.recipe(), tmp_path_factory.mktemp("linear") / "out")


def llm_tensors(source: str) -> dict[str, Tensor]:
    return dict(load_llm(source).model.named_parameters())


# ---- learning ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{}, {"connector": "softmax"}, {"connector": "mlp"}, {**WORDS, "word_weight": 0.5}],
    ids=["linear", "softmax", "mlp", "words"],
)
def test_caption_loss_falls(world: World, tmp_path: Path, changes: dict[str, Any]) -> None:
    trained = train(world.recipe(**changes, steps=30), tmp_path)
    losses = curve(tmp_path)
    assert len(losses) == 30
    assert losses[-3:].mean() < 0.9 * losses[:3].mean()
    assert trained.caption_loss == pytest.approx(losses[-3:].mean().item())


def test_word_steps_come_before_caption_steps(world: World, tmp_path: Path) -> None:
    train(world.recipe(**WORDS | {"word_steps": 30, "word_learning_rate": 0.02, "word_entropy": 0.0}), tmp_path)
    assert [line["phase"] for line in metrics(tmp_path)] == ["words"] * 30 + ["captions"] * 8
    losses = curve(tmp_path, "word_loss")
    assert len(losses) == 30
    assert losses[-3:].mean() < 0.9 * losses[:3].mean()


@pytest.mark.parametrize("moved", [False, True], ids=["adapter", "transferred"])
def test_word_loss_is_the_same_for_every_llm_with_the_tokens(world: World, tmp_path: Path, moved: bool) -> None:
    """The two LLMs have other ids for the same bytes, and so for the same words of a caption."""
    words: dict[str, Any] = WORDS | {"word_steps": 1, "word_learning_rate": 1e-12, "steps": 0, "epochs": 0}
    first = train(world.recipe(**words), tmp_path / "first")
    adapter = first.adapter
    if moved:
        trained = load_adapter(adapter)
        assert isinstance(trained, LangBridgeAdapter)
        adapter = tmp_path / "moved"
        transfer(trained, open_target(world.two))[0].save(adapter)
    train(world.recipe(**words, llm=world.two, adapter=str(adapter)), tmp_path / "second")
    assert_close(curve(tmp_path / "second", "word_loss"), curve(tmp_path / "first", "word_loss"))


def test_saved_adapter_has_the_final_loss(world: World, linear: Trained, tmp_path: Path) -> None:
    """Losses of an adapter, measured by training it with a negligible learning rate."""
    again = world.recipe(adapter=str(linear.adapter), learning_rate=1e-12, steps=3, batch=12)
    train(again, tmp_path)
    assert curve(tmp_path)[0] < curve(linear.folder)[0]
    assert_close(curve(tmp_path), curve(tmp_path)[:1].expand(3))


@pytest.mark.parametrize("changes", [{}, {"connector": "mlp"}, WORDS], ids=["linear", "mlp", "words"])
def test_weights_are_bit_equal_for_one_seed_and_differ_for_another(
    world: World, tmp_path: Path, changes: dict[str, Any]
) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        train(world.recipe(**changes, seed=seed), tmp_path / name)
    assert same_bits(weights(tmp_path / "one"), weights(tmp_path / "two"))
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two")
    assert not same_bits(weights(tmp_path / "one"), weights(tmp_path / "three"))


def test_micro_batches_change_only_rounding(world: World, linear: Trained, tmp_path: Path) -> None:
    train(world.recipe(micro_batch=1), tmp_path)
    assert_close(curve(tmp_path), curve(linear.folder), rtol=1e-4, atol=0)


def test_loader_processes_change_nothing(world: World, linear: Trained, tmp_path: Path) -> None:
    train(world.recipe(workers=1), tmp_path)
    assert same_bits(weights(tmp_path), weights(linear.folder))


def test_bfloat16_ends_close_to_float32_with_weights_of_float32(world: World, linear: Trained, tmp_path: Path) -> None:
    train(world.recipe(precision="bfloat16"), tmp_path)
    assert_close(curve(tmp_path), curve(linear.folder), rtol=0.05, atol=0)
    assert {tensor.dtype for tensor in weights(tmp_path).values()} == {torch.float32}


def test_learning_rate_warms_up_then_follows_a_cosine() -> None:
    rates = [learning_rate(Phase("", 100, 2.0, 1.0, 0.0), step, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01


# ---- what is trained ---------------------------------------------------------------------------------------------


def test_frozen_llm_is_neither_changed_nor_saved(world: World, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in Path(world.one.removeprefix("one=")).iterdir()}
    trained = train(world.recipe(connector="softmax", start_from_embeddings=True), tmp_path)
    assert trained.llm is None
    assert {file.name: file.read_bytes() for file in Path(world.one.removeprefix("one=")).iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "metrics.jsonl", "recipe.json", "state.pt"}
    assert (tmp_path / "state.pt").stat().st_size < 4 * sum(t.nbytes for t in weights(tmp_path).values())


@pytest.mark.parametrize("train_adapter", [True, False])
@pytest.mark.parametrize("train_llm", ["lora", "full"])
def test_trained_llm_changes_and_loads(
    world: World, linear: Trained, tmp_path: Path, train_llm: str, train_adapter: bool
) -> None:
    recipe = world.recipe(
        adapter=str(linear.adapter), train_llm=train_llm, train_adapter=train_adapter, lora_rank=4, steps=6, batch=12
    )
    trained = train(recipe, tmp_path)
    assert curve(tmp_path)[-1] < curve(tmp_path)[0]
    assert same_bits(weights(tmp_path), weights(linear.folder)) != train_adapter
    tuned, old = llm_tensors(f"one={trained.llm}"), llm_tensors(world.one)
    assert tuned.keys() == old.keys()
    assert not torch.equal(tuned["model.layers.0.mlp.up_proj.weight"], old["model.layers.0.mlp.up_proj.weight"])
    table = "model.embed_tokens.weight"
    assert torch.equal(tuned[table], old[table]) == (train_llm == "lora")


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # peft about transformers
def test_peft_loads_saved_lora_weights(world: World, linear: Trained, tmp_path: Path) -> None:
    trained = train(world.recipe(adapter=str(linear.adapter), train_llm="lora", lora_rank=4, steps=1), tmp_path)
    tuned = AutoPeftModelForCausalLM.from_pretrained(trained.llm).merge_and_unload().state_dict()
    for name, tensor in llm_tensors(f"one={trained.llm}").items():
        assert_close(tuned[name], tensor)


@pytest.mark.parametrize("train_llm", ["lora", "full"])
def test_saved_llm_continues_at_the_same_loss(world: World, linear: Trained, tmp_path: Path, train_llm: str) -> None:
    trained = train(
        world.recipe(adapter=str(linear.adapter), train_llm=train_llm, lora_rank=4, steps=20, batch=12), tmp_path / "a"
    )
    again = world.recipe(llm=f"one={trained.llm}", adapter=str(trained.adapter), learning_rate=1e-12, batch=12, steps=1)
    train(again, tmp_path / "b")
    assert curve(tmp_path / "b")[0] < curve(tmp_path / "a")[-1] * 1.02


def test_visual_tokens_use_embeddings_as_trained_so_far(world: World, linear: Trained) -> None:
    llm = load_llm(world.one)
    llm.model.requires_grad_(True)
    adapter = load_adapter(linear.adapter)
    lvlm = LVLM(llm, adapter)
    features = torch.randn(1, 3, adapter.config.vision_width)
    before = lvlm.visual_tokens(features)
    with torch.no_grad():
        llm.model.get_input_embeddings().weight.mul_(2)
    assert_close(lvlm.visual_tokens(features), 2 * before)


def test_transferred_adapter_is_tuned_with_its_target_llm(world: World, linear: Trained, tmp_path: Path) -> None:
    adapter = load_adapter(linear.adapter)
    assert isinstance(adapter, LangBridgeAdapter)
    target = open_target(world.two)
    transferred, _ = transfer(adapter, target)
    transferred.to(torch.bfloat16).save(tmp_path / "transferred")
    train(world.recipe(llm=world.two, adapter=str(tmp_path / "transferred"), steps=20), tmp_path / "out")
    losses = curve(tmp_path / "out")
    assert losses[-3:].mean() < losses[:3].mean()
    found = weights(tmp_path / "out")
    assert found["adapter.head.weight"].dtype == torch.float32
    assert torch.equal(found["embeddings"], transferred.embeddings)


def test_mlp_has_no_shared_vocabulary(world: World, tmp_path: Path) -> None:
    trained = train(world.recipe(connector="mlp", shared=None), tmp_path)
    adapter = load_adapter(trained.adapter)
    assert isinstance(adapter, MLPProjector)
    assert (adapter.config.llm, adapter.config.vision_layer) == ("one", -2)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("cached", [True, False])
def test_adapter_records_its_features_and_rejects_others(world: World, tmp_path: Path, kind: str, cached: bool) -> None:
    vision = str(world.vision)
    if cached:
        encoder = open_vision(vision, layer=-1, keep_cls=True, pool=(2, 2))
        pictures = [picture for sample in read_llava(world.data) for picture in sample.images]
        cache_features(encoder, pictures, tmp_path / "features")
        source: dict[str, Any] = {"features": str(tmp_path / "features")}
    else:
        source = {"features": None, "vision": vision, "vision_layer": -1, "vision_pool": (2, 2)}
    trained = train(world.recipe(connector=kind, steps=1, **source), tmp_path / "out")
    config = load_adapter(trained.adapter).config
    assert vision_of(config) == {
        "vision_model": vision, "vision_layer": -1, "vision_keep_cls": cached, "vision_pool": (2, 2),
        "vision_aspect_ratio": "square",
        "vision_fingerprint": open_vision(vision).info["fingerprint"],
    }  # fmt: skip
    train(world.recipe(connector=kind, steps=1, adapter=str(trained.adapter), **source), tmp_path / "again")
    with pytest.raises(VocabkitError, match="gives features with layer -2, but the adapter was trained with layer -1"):
        train(world.recipe(connector=kind, steps=1, adapter=str(trained.adapter)), tmp_path / "other")


def test_adapter_keeps_its_aspect_ratio_unless_the_recipe_names_another(world: World, tmp_path: Path) -> None:
    direct: dict[str, Any] = {"features": None, "vision": str(world.vision), "steps": 1}
    padded = train(world.recipe(**direct, image_aspect_ratio="pad"), tmp_path / "pad").adapter
    assert load_adapter(padded).config.vision_aspect_ratio == "pad"
    same = train(world.recipe(**direct, adapter=str(padded)), tmp_path / "same").adapter
    assert load_adapter(same).config.vision_aspect_ratio == "pad"
    with pytest.raises(VocabkitError, match=r"image_aspect_ratio square, but the adapter was trained with .* pad"):
        train(world.recipe(adapter=str(padded), steps=1), tmp_path / "other")  # on features of square pictures
    square = train(world.recipe(**direct, adapter=str(padded), image_aspect_ratio="square"), tmp_path / "square")
    assert load_adapter(square.adapter).config.vision_aspect_ratio == "square"


@pytest.mark.parametrize("cached", [True, False])
def test_samples_without_an_image_token_are_counted_and_left_out(world: World, tmp_path: Path, cached: bool) -> None:
    records = json.loads(world.data.read_text())
    for record in records[:2]:
        record["conversations"][0]["value"] = "Say what you see."
    (tmp_path / "data.json").write_text(json.dumps(records))
    changes: dict[str, Any] = {"data": (str(tmp_path / "data.json"),), "images": str(world.data.parent), "steps": 1}
    source = {} if cached else {"features": None, "vision": str(world.vision)}
    trained = train(world.recipe(**changes, **source), tmp_path / "out")
    assert (trained.samples, trained.left_out, trained.skipped) == (10, 2, 0)
    assert str(trained.first_left_out).startswith("0: 0 <image> in the questions, but 1 images")
    (tmp_path / "data.json").write_text(json.dumps(records[:2]))
    with pytest.raises(VocabkitError, match="none of the 2 samples can be used; the first, 0: 0 <image> in the quest"):
        train(world.recipe(**changes, **source), tmp_path / "none")


def test_features_of_another_aspect_ratio_raise(world: World, tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match="features: made with image_aspect_ratio square, but the recipe says pad"):
        train(world.recipe(image_aspect_ratio="pad"), tmp_path / "out")


def test_text_only_samples_train_mixed_or_alone(world: World, tmp_path: Path) -> None:
    records = json.loads(world.data.read_text())
    for record in records[::2]:
        del record["image"]
        record["conversations"][0]["value"] = "Say"
    (tmp_path / "data.json").write_text(json.dumps(records))
    changes: dict[str, Any] = {"data": (str(tmp_path / "data.json"),), "images": str(world.data.parent), "batch": 1}
    for number, more in enumerate([{}, WORDS | {"word_weight": 0.1}]):
        train(world.recipe(**changes, **more, steps=12), tmp_path / str(number))
        assert len(curve(tmp_path / str(number))) == 12
    changes["data"] = (str(tmp_path / "texts.json"),)
    (tmp_path / "texts.json").write_text(json.dumps(records[::2]))
    train(world.recipe(**changes), tmp_path / "texts")
    assert (curve(tmp_path / "texts", "gradient_norm") == 0).all()


# ---- pictures that can't be used ---------------------------------------------------------------------------------


def test_broken_pictures_are_skipped_counted_and_named(world: World, tmp_path: Path) -> None:
    write_data(tmp_path / "data.json")
    (tmp_path / "3.png").write_bytes(b"no picture")
    (tmp_path / "7.png").unlink()
    recipe = world.recipe(
        data=(str(tmp_path / "data.json"),), features=None, vision=str(world.vision), steps=6, checkpoint_every=2
    )
    trained = train(recipe, tmp_path / "out")
    assert (trained.samples, trained.left_out) == (12, 0)
    counts = [line["skipped"] for line in metrics(tmp_path / "out")]
    assert counts[2] == 2  # in an epoch of three steps
    assert counts[-1] == trained.skipped == 4
    assert {reason.partition(":")[0] for reason in trained.first_skipped} == {"3", "7"}
    assert any("3.png: not an image" in reason for reason in trained.first_skipped)


def test_overlong_picture_is_skipped_and_named_as_in_a_cache(world: World, tmp_path: Path) -> None:
    write_data(tmp_path / "data.json")
    Image.new("RGB", (1, 5000)).save(tmp_path / "3.png")
    data = (str(tmp_path / "data.json"),)
    trained = train(world.recipe(data=data, features=None, vision=str(world.vision), steps=3), tmp_path / "out")
    assert trained.first_skipped == ("3: 3.png: has 1 x 5000 pixels, too long to be resized",)


def test_command_lists_skipped_samples(world: World, tmp_path: Path) -> None:
    write_data(tmp_path / "data.json", repeats=1)
    (tmp_path / "2.png").write_bytes(b"")
    recipe = world.write_recipe(tmp_path / "recipe.toml", data=["data.json"], features=None, vision=str(world.vision))
    done = vocabkit_here(tmp_path, "train", recipe, "--out", "out", "--set", "steps=2")
    assert done.returncode == 0, done
    _, count, reason = done.stderr.splitlines()
    assert count == "unusable samples were skipped 2 times:"
    assert reason.startswith("  2: 2.png: not an image in any of BMP")


def test_sample_skipped_twice_in_a_batch_counts_twice_and_is_named_once(world: World, tmp_path: Path) -> None:
    write_data(tmp_path / "data.json", repeats=1)
    (tmp_path / "2.png").unlink()
    data = (str(tmp_path / "data.json"),)
    recipe = world.recipe(data=data, features=None, vision=str(world.vision), batch=8, steps=1)
    trained = train(recipe, tmp_path / "out")
    assert trained.skipped == 2
    assert [reason.partition(":")[0] for reason in trained.first_skipped] == ["2"]


def test_pixels_train_like_cached_features(world: World, tmp_path: Path) -> None:
    train(world.recipe(), tmp_path / "cached")
    train(world.recipe(features=None, vision=str(world.vision)), tmp_path / "pixels")
    assert_close(curve(tmp_path / "pixels"), curve(tmp_path / "cached"), rtol=0.01, atol=0)


def test_samples_without_features_are_left_out(world: World, tmp_path: Path) -> None:
    write_data(tmp_path / "data.json", repeats=4)
    trained = train(world.recipe(data=(str(tmp_path / "data.json"),), steps=1), tmp_path / "out")
    assert (trained.samples, trained.left_out, trained.skipped) == (12, 4, 0)
    assert trained.first_left_out == "12: no features of its picture"


def test_no_usable_sample_raises_with_a_reason(world: World, tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match=r"none of the 12 samples can be used; .* an image after its first 3"):
        train(world.recipe(max_tokens=3), tmp_path)


# ---- what is written ---------------------------------------------------------------------------------------------


def test_each_step_writes_a_line_of_json(world: World, tmp_path: Path) -> None:
    seen: list[Step] = []
    train(world.recipe(**WORDS), tmp_path, on_step=seen.append)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [Step(**line) for line in lines] == seen
    assert [(line["step"], line["steps"]) for line in lines] == [(number, 12) for number in range(1, 13)]
    assert all((line["caption_loss"] is None) == (line["phase"] == "words") for line in lines)
    assert all((line["word_loss"] is None) == (line["phase"] == "captions") for line in lines)
    assert all(line["samples_per_second"] > 0 and line["gradient_norm"] > 0 for line in lines)


def test_recipe_is_saved_beside_the_adapter(world: World, linear: Trained) -> None:
    content = json.loads((linear.folder / "recipe.json").read_text())
    assert Recipe(**content | {"data": tuple(content["data"])}) == world.recipe()


def test_all_saved_adapters_are_kept_on_request(world: World, tmp_path: Path) -> None:
    train(world.recipe(keep_adapters=True, checkpoint_every=3), tmp_path)
    kept = sorted(tmp_path.glob("step-*"))
    assert [path.name for path in kept] == ["step-000003", "step-000006", "step-000008"]
    assert same_bits(weights(kept[-1]), weights(tmp_path))
    assert not same_bits(weights(kept[0]), weights(kept[1]))


@pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="tensorboard is not installed")
def test_tracker_gets_the_same_figures(world: World, tmp_path: Path) -> None:
    train(world.recipe(tracker="tensorboard"), tmp_path)
    assert list(tmp_path.rglob("events.out.tfevents.*"))


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tracker": "abacus"}, "tracker 'abacus' is not installed"),
        ({"batch": 6, "micro_batch": 4}, "a batch of 6 can't be divided into micro-batches of 4 on 1 process"),
        ({"learning_rate": 1e30}, "not finite in step . of captions; lower the learning"),
        ({"shared": None, "adapter": "missing"}, "missing: no such file or folder, and no hub id"),
        ({"llm": "elsewhere="}, "elsewhere is not in this shared vocabulary; it holds one, two"),
        ({"llm": "two="}, "its tokenizer has other ids than two has in the shared vocabulary"),
    ],
)
def test_untrainable_recipe_raises(world: World, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    if "llm" in changes:
        changes = {"llm": changes["llm"] + world.one.removeprefix("one=")}
    with pytest.raises(VocabkitError, match=message) as caught:
        train(world.recipe(**changes), tmp_path / "out")
    assert str(caught.value).isprintable()
    assert not (tmp_path / "out" / "adapter").exists()


def test_adapter_for_other_features_or_another_llm_raises(world: World, linear: Trained, tmp_path: Path) -> None:
    narrow = world.recipe(adapter=str(linear.adapter), features=None, vision="efficientnet-lite0")
    with pytest.raises(
        VocabkitError, match="efficientnet-lite0: gives features of width 1280, but the adapter takes 32; use"
    ):
        train(narrow, tmp_path / "a")
    trained = train(world.recipe(connector="mlp", steps=1), tmp_path / "b")
    with pytest.raises(
        VocabkitError, match=r"its embeddings have width 32, but the adapter gives visual tokens of width 24"
    ):
        train(replace(world.recipe(llm=world.two), adapter=str(trained.adapter)), tmp_path / "c")


def test_command_reports_the_result(world: World, linear: Trained, tmp_path: Path) -> None:
    recipe = world.write_recipe(tmp_path / "recipe.toml")
    done = vocabkit_here(tmp_path, "train", recipe, "--out", "one", "--set", "steps=2")
    assert done.returncode == 0, done
    assert done.stdout.startswith("one/adapter: 2 steps on 12 samples\n  caption loss in training ")
    last = metrics(tmp_path / "one")[-1]["caption_loss"]
    assert f" {last:.3f} nats per token, mean of the last tenth of its steps\n" in done.stdout
    words = ("--set", f"adapter={linear.adapter}", "--set", "steps=1", "--set", "train_llm=lora", "--json")
    done = vocabkit_here(tmp_path, "train", recipe, "--out", "two", *words)
    found = json.loads(done.stdout)
    assert (found["adapter"], found["llm"], found["steps"]) == ("two/adapter", "two/llm", 1)
