"""A projector that imitates a transferred softmax head: how close it comes, what it says of itself, where it can go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from command_line import error_of, vocabkit_here
from small_adapters import assert_same_state, normal, randomised
from small_world import World, make_world
from torch.testing import assert_close

from vocabkit.adapter.config import AdapterConfig, Head
from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector, load_adapter
from vocabkit.errors import VocabkitError
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.transfer.distill import distil
from vocabkit.transfer.export.export import ExportOptions, export
from vocabkit.transfer.transfer import open_target, transfer
from vocabkit.vision.feature_files import FeatureInfo, FeatureWriter
from vocabkit.vision.features import Features, open_features


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("distillation") / "world")


@pytest.fixture(scope="module")
def features(world: World) -> Features:
    return open_features(world.features)


def moved(
    world: World, head: Head = "softmax", *, seed: int = 0, size: float = 1.0, hidden: int = 16
) -> LangBridgeAdapter:
    """A random adapter of LLM one, with weights of this size, moved to LLM two, which is 32 wide."""
    shared, width = open_shared(world.shared), open_features(world.features).width
    config = AdapterConfig.of(shared, llm="one", vision_width=width, hidden_width=hidden, head=head, vision_layer=-2)
    adapter = randomised(LangBridgeAdapter(config, shared), seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter *= size
    return transfer(adapter, open_target(world.two))[0]


@pytest.fixture(scope="module")
def many(features: Features, tmp_path_factory: pytest.TempPathFactory) -> Features:
    """Random features of 200 pictures, as of the same vision model, and the last of them under ten names."""
    folder = tmp_path_factory.mktemp("many")
    rows = normal(200, features.tokens, features.width).half()
    writer = FeatureWriter(folder, FeatureInfo(**features.encoder))
    writer.add({str(n): row for n, row in enumerate(rows)}, {f"{n}.png": str(min(n, 199)) for n in range(210)}, {})
    writer.write_rest()
    writer.finish()
    return open_features(folder)


# ---- the fit -----------------------------------------------------------------------------------------------------


def test_projector_imitates_the_adapter_on_held_out_pictures(world: World, many: Features) -> None:
    projector, report = distil(moved(world, size=0.2), many, steps=150)
    assert (report.pictures, report.held_out, report.llm) == (180, 20, "two")
    assert report.relative_error < 0.5
    assert projector.linear_1.weight.isfinite().all()


def test_linear_head_wider_than_the_llm_is_imitated(world: World, many: Features) -> None:
    projector, report = distil(moved(world, "linear", hidden=48), many, steps=150)
    assert projector.config.hidden_width == 32
    assert report.relative_error < 0.1
    assert report.warning is None


def test_projector_is_as_wide_as_wanted_where_the_format_allows(world: World, many: Features, tmp_path: Path) -> None:
    adapter = moved(world)
    assert distil(adapter, many, hidden_width=48, steps=1)[0].config.hidden_width == 48
    chosen = ExportOptions(features=world.features, hidden_width=48, steps=1)
    export(adapter, "projector", tmp_path / "wide", chosen)
    assert load_adapter(tmp_path / "wide").linear_1.weight.shape == (48, many.width)
    with pytest.raises(VocabkitError, match="the hidden layer has 48 units, more than the LLM's width 32"):
        export(adapter, "mm_projector", tmp_path / "mm_projector.bin", chosen)
    with pytest.raises(VocabkitError, match="`hidden_width` is of a distilled projector: give `features`"):
        export(adapter, "projector", tmp_path / "none", ExportOptions(hidden_width=48))


def test_rarely_varying_feature_does_not_dominate(world: World, many: Features, tmp_path: Path) -> None:
    """Encoders that end in a ReLU have features that are 0 but in a few pictures."""
    writer = FeatureWriter(tmp_path, FeatureInfo(**many.encoder))
    rows = {f"{n}.png": many[f"{n}.png"].clone() for n in range(200)}
    for row in rows.values():
        row[:, 0] = 0
    torch.manual_seed(0)
    writer.add(rows, {name: name for name in rows}, {})
    writer.write_rest()
    writer.finish()
    cache = open_features(tmp_path)
    projector, report = distil(moved(world, size=0.2), cache, steps=1)
    assert report.relative_error < 1
    shown = cache["0.png"].float()
    other = shown.clone()
    other[:, 0] = 1
    with torch.no_grad():
        change = projector(other) - projector(shown)
        assert change.norm() < 10 * projector(shown).norm()


def test_features_of_any_size_are_imitated(world: World, many: Features, tmp_path: Path) -> None:
    sizes = torch.linspace(0.2, 4.0, many.width)
    writer = FeatureWriter(tmp_path, FeatureInfo(**many.encoder))
    writer.add(
        {f"{n}.png": (many[f"{n}.png"] * sizes + 1).half() for n in range(60)},
        {f"{n}.png": f"{n}.png" for n in range(60)},
        {},
    )
    writer.write_rest()
    writer.finish()
    _, report = distil(moved(world, "linear", size=0.2, hidden=48), open_features(tmp_path), steps=30)
    assert report.relative_error < 0.1


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_any_number_of_steps_works(world: World, features: Features, steps: int) -> None:
    assert distil(moved(world), features, steps=steps)[0].linear_2.weight.isfinite().all()


def test_error_is_measured_on_held_out_pictures(world: World, features: Features) -> None:
    """Relative to that of the mean token of the three others, whichever they are."""
    adapter = moved(world)
    projector, report = distil(adapter, features, steps=3)
    assert (report.pictures, report.held_out) == (3, 1)
    shown = torch.stack(list({features[key].data_ptr(): features[key].float() for key in features.keys}.values()))
    with torch.no_grad():
        wanted, found = adapter(shown).double(), projector(shown).double()
    errors = []
    for number in range(len(shown)):
        others = [other for other in range(len(shown)) if other != number]
        mean = wanted[others].mean(dim=(0, 1))
        errors.append(float((found - wanted)[number].square().sum() / (wanted[number] - mean).square().sum()))
    assert min(abs(error / report.relative_error - 1) for error in errors) < 0.05  # the mean is that of a sample


def test_equal_pictures_count_once(world: World, many: Features) -> None:
    assert len(many) == 210
    _, report = distil(moved(world), many, steps=1)
    assert report.pictures + report.held_out == 200


def test_keys_select_pictures(world: World, features: Features) -> None:
    _, report = distil(moved(world), features, keys=["0.png", "1.png"], steps=1)
    assert (report.pictures, report.held_out) == (1, 1)


def test_seed_determines_the_projector_and_leaves_the_random_state_alone(world: World, features: Features) -> None:
    adapter, before = moved(world), torch.get_rng_state()
    first, second, other = (distil(adapter, features, steps=3, seed=seed)[0] for seed in (1, 1, 2))
    assert_same_state(first, second)
    assert not torch.equal(first.linear_1.weight, other.linear_1.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_steps_are_counted(world: World, features: Features) -> None:
    seen: list[tuple[str, int, int]] = []
    distil(moved(world), features, steps=3, progress=lambda *counted: seen.append(counted))
    assert seen == [("start", 1, 1), ("steps", 1, 3), ("steps", 2, 3), ("steps", 3, 3)]


# ---- what it is --------------------------------------------------------------------------------------------------


def test_projector_is_as_wide_as_the_llm_and_records_its_source(
    world: World, features: Features, tmp_path: Path
) -> None:
    adapter = moved(world)
    projector, report = distil(adapter, features, steps=2)
    projector.save(tmp_path / "projector")
    loaded = MLPProjector.from_pretrained(tmp_path / "projector")
    config, source = loaded.config, loaded.config.distilled_from
    assert (config.llm, config.hidden_width, config.llm_width, config.vision_layer) == ("two", 32, 32, -2)
    assert loaded.linear_2.weight.dtype == adapter.embeddings.dtype
    assert source is not None
    assert (source.fingerprint, source.llm) == (adapter.fingerprint(), "one")
    assert source.relative_error == report.relative_error
    card = (tmp_path / "projector/README.md").read_text("utf-8")
    assert source.fingerprint in card
    assert "`one`" in card


def test_fingerprint_covers_weights_and_config(world: World, tmp_path: Path) -> None:
    adapter = moved(world)
    adapter.save(tmp_path / "a.pt")
    loaded, other = LangBridgeAdapter.from_pretrained(tmp_path / "a.pt", kind="transferred"), moved(world, seed=1)
    found = [one.fingerprint() for one in (adapter, loaded, other)]
    assert found[0] == found[1] != found[2]


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [16, 32])
def test_linear_head_that_folds_raises(world: World, features: Features, hidden: int) -> None:
    with pytest.raises(VocabkitError, match="no more than the LLM's width 32, folds exactly"):
        distil(moved(world, "linear", hidden=hidden), features)


def test_features_of_another_width_raise(world: World, features: Features) -> None:
    shared = open_shared(world.shared)
    config = AdapterConfig.of(shared, llm="one", vision_width=features.width + 1, hidden_width=4, head="softmax")
    wider, _ = transfer(LangBridgeAdapter(config, shared), open_target(world.two))
    with pytest.raises(VocabkitError, match="use the vision model that it was trained with"):
        distil(wider, features)


def test_one_picture_raises(world: World, features: Features) -> None:
    with pytest.raises(VocabkitError, match="1 distinct pictures to fit a projector on"):
        distil(moved(world), features, keys=["0.png", "4.png"])


def test_constant_visual_tokens_raise(world: World, features: Features) -> None:
    adapter = moved(world)
    with torch.no_grad():
        adapter.head.weight.zero_()
        adapter.head.bias.zero_()
    with pytest.raises(VocabkitError, match="gives all patches the same visual token"):
        distil(adapter, features, steps=1)


# ---- export --features -------------------------------------------------------------------------------------------

DISTIL = ("export", "moved", "--as", "projector")


def test_distilled_projector_can_be_validated_and_exported(world: World, tmp_path: Path) -> None:
    moved(world).save(tmp_path / "moved")
    cache = ("--features", world.features)
    done = vocabkit_here(
        tmp_path, *DISTIL, *cache, "--data", world.data, "--steps", "5", "--out", "projector", "--json"
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["config"]["distilled_from"]["relative_error"] == said["report"]["relative_error"]
    named = ("--adapter", "softmax=moved", "--adapter", "distilled=projector")
    done = vocabkit_here(tmp_path, "validate", world.data, "--llm", world.two, *cache, *named, "--json")
    assert done.returncode == 0, done.stderr
    losses = json.loads(done.stdout)["data"]["validation"]["caption_loss"]
    assert {"blind", "softmax", "distilled"} <= losses.keys()

    vision = ("--vision", world.vision)
    padded = (*vision, "--image-aspect-ratio", "pad")  # as llama.cpp does to every picture
    named = {"llava": "out-llava", "mmproj": "out.gguf", "mm_projector": "out.bin"}
    for form, words in {"llava": (*vision, "--llm", world.two), "mmproj": padded, "mm_projector": ()}.items():
        done = vocabkit_here(tmp_path, "export", "projector", "--as", form, "--out", named[form], *words)
        assert done.returncode == 0, done.stderr
    projector = MLPProjector.from_pretrained(tmp_path / "projector")
    published: dict[str, Any] = torch.load(tmp_path / "out.bin", weights_only=True)
    assert_close(published["model.mm_projector.2.weight"], projector.linear_2.weight)
    llava = safetensors.torch.load_file(tmp_path / "out-llava/model-00001-of-00002.safetensors")
    assert_close(llava["multi_modal_projector.linear_2.weight"], projector.linear_2.weight)
    assert "distilled" in (tmp_path / "out-llava/README.md").read_text("utf-8")


def test_projector_no_better_than_the_mean_token_warns(world: World, tmp_path: Path) -> None:
    """Three pictures of noise tell nothing of a fourth."""
    moved(world).save(tmp_path / "moved")
    words = (*DISTIL, "--features", world.features, "--steps", "1", "--json", "--out", "projector.pt")
    done = vocabkit_here(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["report"]["relative_error"] > 1
    assert said["warning"].startswith("relative error ")
    assert f"warning: {said['warning']}" in done.stderr.splitlines()


@pytest.mark.parametrize(
    ("out", "problem"),
    [
        ("moved", "exists and is not an MLP projector"),
        ("projector.gguf", "is a folder, or one file named *.pt"),
        ("missing/projector.pt", "missing"),
    ],
)
def test_invalid_destination_raises_before_the_work(world: World, tmp_path: Path, out: str, problem: str) -> None:
    moved(world).save(tmp_path / "moved")
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    refused = vocabkit_here(tmp_path, *DISTIL, "--features", world.features, "--out", out)
    assert problem in error_of(refused)
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_export_equals_that_of_the_transferred_adapter(world: World, tmp_path: Path) -> None:
    moved(world, "linear").save(tmp_path / "moved")
    done = vocabkit_here(tmp_path, "export", "moved", "--as", "mm_projector", "--out", "one.bin")
    assert done.returncode == 0, done.stderr
    assert torch.load(tmp_path / "one.bin", weights_only=True)


def test_export_records_the_aspect_ratio_of_the_features_where_the_adapter_does_not(
    world: World, tmp_path: Path
) -> None:
    adapter = moved(world)
    assert adapter.config.vision_aspect_ratio is None
    done = export(adapter, "projector", tmp_path / "out", ExportOptions(features=world.features, steps=1))
    assert done.config.vision_aspect_ratio == "square"
    assert load_adapter(tmp_path / "out").config.vision_aspect_ratio == "square"
