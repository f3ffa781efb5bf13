"""Settings away from their defaults go the whole way: features, transfer, inference, validation, tuning and export."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import error_of, vocabkit_here
from infer_world import visual_tokens
from results import curve
from safetensors.torch import load_file, save_file
from small_adapters import randomised
from small_world import World
from torch import Tensor
from torch.testing import assert_close

from vocabkit.adapter.config import AdapterConfig
from vocabkit.adapter.model import LangBridgeAdapter, load_adapter
from vocabkit.data.llava import read_llava
from vocabkit.llm.load import load_llm
from vocabkit.llm.lvlm import caption_loss, collate
from vocabkit.llm.prompts import encode_sample
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.tokenizer.catalog import without_name
from vocabkit.vision.encoder import VisionEncoder, open_vision
from vocabkit.vision.features import cache_features

SCALE = 0.25
CASES: dict[str, dict[str, Any]] = {
    "class token": {"layer": -1, "keep_cls": True, "pool": None, "head": "linear", "dtype": torch.bfloat16},
    "pooled": {"layer": 1, "keep_cls": False, "pool": (2, 2), "head": "softmax", "dtype": torch.float16},
}
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 2e-3}


@dataclasses.dataclass(frozen=True)
class Moved:
    """An adapter with the settings of a case, before and after a transfer by the command."""

    folder: Path
    dtype: torch.dtype
    encoder: VisionEncoder
    before: LangBridgeAdapter
    after: LangBridgeAdapter
    two: str

    def expected(self, features: Tensor, order: np.ndarray | None = None) -> Tensor:
        """Eq. 2-3 and 6 in float64, written out; with the embedding rows in another order."""
        w = {name: tensor.double() for name, tensor in self.before.state_dict().items()}
        hidden = torch.nn.functional.gelu(
            features.to(self.dtype).double() @ w["linear_1.weight"].T + w["linear_1.bias"]
        )
        p = (hidden @ w["linear_2.weight"].T + w["linear_2.bias"]) @ w["head.weight"].T + w["head.bias"]
        if self.before.config.head == "softmax":
            p = (p / 0.5).softmax(dim=-1)
        table = load_llm(self.two).model.get_input_embeddings().weight.detach().double()
        rows = table[torch.from_numpy(self.after.shared.ids_for("two").astype(np.int64))]
        return SCALE * p @ (rows if order is None else rows[order])


@pytest.fixture(scope="module", params=CASES)
def moved(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> Moved:
    case, folder = CASES[request.param], tmp_path_factory.mktemp("settings")
    dtype = case["dtype"]
    two = folder / "two"
    two.mkdir()
    for file in Path(without_name(world.two)).iterdir():
        (two / file.name).write_bytes(file.read_bytes())
    tensors = load_file(two / "model.safetensors")
    halves = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    save_file(halves, two / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((two / "config.json").read_text())
    (two / "config.json").write_text(json.dumps({**config, "dtype": str(dtype).removeprefix("torch.")}))

    settings = {name: case[name] for name in ("layer", "keep_cls", "pool")}
    encoder, shared = open_vision(str(world.vision), **settings), open_shared(world.shared)
    pictures = [picture for sample in read_llava(world.data) for picture in sample.images]
    cache_features(encoder, pictures, folder / "features")
    own = AdapterConfig.of(
        shared, llm="one", vision_width=encoder.width, hidden_width=16, head=case["head"],
        temperature=0.5 if case["head"] == "softmax" else 1.0, vision_model=str(world.vision),
        vision_fingerprint=encoder.info["fingerprint"], **{f"vision_{name}": value for name, value in settings.items()},
    )  # fmt: skip
    before = randomised(LangBridgeAdapter(own, shared), seed=0)
    with torch.no_grad():
        for parameter in before.parameters():
            parameter *= 0.3
    before = before.to(dtype)
    before.save(folder / "before")
    done = vocabkit_here(folder, "transfer", "before", "--to", "two=two", "--scale", str(SCALE), "--out", "moved")
    assert done.returncode == 0, done.stderr
    after = load_adapter(folder / "moved")
    assert isinstance(after, LangBridgeAdapter)
    return Moved(folder, dtype, encoder, before, after, f"two={two}")


def test_transfer_keeps_them_and_is_proven(moved: Moved) -> None:
    assert moved.after.config.transfer is not None
    kept = dataclasses.replace(moved.after.config, transfer=None)
    assert kept == moved.before.config
    assert moved.after.scale == SCALE
    assert {tensor.dtype for tensor in moved.after.state_dict().values()} == {moved.dtype}
    done = vocabkit_here(moved.folder, "check", "moved", "before", "--to", "two=two", "--features", "features")
    assert done.returncode == 0, done.stdout + done.stderr


def test_inference_gives_the_tokens_of_the_equations(moved: Moved, world: World) -> None:
    picture = world.data.parent / "5.png"
    done = vocabkit_here(moved.folder, "infer", "moved", picture, "--out", "seen", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    (found,) = visual_tokens(moved.folder / "seen").values()
    (shown,) = [picture for sample in read_llava(world.data) for picture in sample.images if picture.key == "5.png"]
    expected = moved.expected(moved.encoder(moved.encoder.pixels_of(shown)[None])[0])
    error = (found.double() - expected).norm() / expected.norm()
    assert error < TOLERANCE[moved.dtype]


def losses(moved: Moved, world: World, order: np.ndarray | None = None) -> float:
    """Nats per answer token of all captions, from features computed here."""
    llm = load_llm(moved.two)
    samples = list(read_llava(world.data))
    prompts = [encode_sample(llm.tokenizer, s.turns, "completion", moved.encoder.tokens, longest=999) for s in samples]
    pixels = torch.stack([moved.encoder.pixels_of(sample.images[0]) for sample in samples])
    visual = moved.expected(moved.encoder(pixels), order)
    batch = collate(prompts, [])
    with torch.no_grad():
        return float(caption_loss(llm.model, batch, visual.to(moved.dtype)).sum()) / batch.answer_tokens


def test_validation_and_its_controls_see_those_tokens(moved: Moved, world: World) -> None:
    words = ("--llm", moved.two, "--template", "completion", "--device", "cpu", "--out", "v.json")
    done = vocabkit_here(moved.folder, "validate", world.data, "--features", "features", *words, "--adapter", "x=moved")
    assert done.returncode == 0, done.stderr
    written = json.loads((moved.folder / "v.json").read_text())
    assert written.pop("schema") == 1
    (result,) = written.values()
    found = {name: loss["value"] for name, loss in result["validation"]["caption_loss"].items()}
    order = np.random.default_rng(0).permutation(moved.after.config.rows)
    assert found["x"] == pytest.approx(losses(moved, world), rel=TOLERANCE[moved.dtype])
    assert found["x random vocabulary"] == pytest.approx(losses(moved, world, order), rel=TOLERANCE[moved.dtype])
    text = {"x as text"} if moved.before.config.head == "softmax" else set()
    assert found.keys() == {"blind", "x", "x shuffled", "x random vocabulary"} | text
    assert len({*found.values()}) == len(found)


def test_tuning_starts_from_those_tokens_and_keeps_the_settings(moved: Moved, world: World) -> None:
    fields = {"adapter": "moved", "llm": moved.two, "shared": None, "features": "features", "connector": None}
    recipe = world.write_recipe(
        moved.folder / "recipe.toml", **fields, hidden_width=None, steps=1, batch=12, learning_rate=1e-9
    )
    done = vocabkit_here(moved.folder, "train", recipe, "--out", "tuned")
    assert done.returncode == 0, done.stderr
    assert curve(moved.folder / "tuned")[0].item() == pytest.approx(losses(moved, world), rel=TOLERANCE[moved.dtype])
    tuned = load_adapter(moved.folder / "tuned/adapter")
    assert isinstance(tuned, LangBridgeAdapter)
    for name in ("vision_layer", "vision_keep_cls", "vision_pool", "head", "temperature"):
        assert getattr(tuned.config, name) == getattr(moved.before.config, name), name
    assert tuned.scale == SCALE


def test_exported_config_says_so_or_the_export_is_refused(moved: Moved, world: World) -> None:
    words = ("--as", "llava", "--llm", "two", "--vision", world.vision, "--out", "llava")
    done = vocabkit_here(moved.folder, "export", "moved", *words)
    if moved.before.config.head == "softmax":
        assert "takes patches pooled to 2x2" in error_of(done), "no distillation gets round that"
        return
    assert done.returncode == 0, done.stderr
    config = json.loads((moved.folder / "llava/config.json").read_text())
    assert (config["vision_feature_layer"], config["vision_feature_select_strategy"]) == (-1, "full")
    assert config["dtype"] == str(moved.dtype).removeprefix("torch.")
    vocabkit_here(moved.folder, "export", "moved", "--as", "projector", "--out", "projector.pt")
    projector, shown = load_adapter(moved.folder / "projector.pt"), torch.randn(3, moved.encoder.width)
    assert_close(
        projector(shown).double(), moved.expected(shown), rtol=TOLERANCE[moved.dtype], atol=TOLERANCE[moved.dtype]
    )
