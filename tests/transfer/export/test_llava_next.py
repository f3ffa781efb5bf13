"""Pictures in tiles: inference and an exported LlavaNext checkpoint give what transformers' LlavaNext computes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import vocabkit_here
from PIL import Image
from safetensors import safe_open
from small_models import HIDDEN, WIDTH, llm
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from transformers import AutoProcessor, LlavaNextForConditionalGeneration
from vision_models import PIXELS, VISION, clip, seeded, siglip

from vocabkit.adapter.config import MLPConfig
from vocabkit.adapter.model import MLPProjector, load_adapter
from vocabkit.errors import VocabkitError
from vocabkit.evaluate.validate import other_images
from vocabkit.infer import infer
from vocabkit.llm.load import quiet_transformers
from vocabkit.transfer.export.export import ExportOptions, export
from vocabkit.vision.encoder import open_vision

SIZES = (
    (PIXELS, 2 * PIXELS),
    (2 * PIXELS, PIXELS),
    (2 * PIXELS, 2 * PIXELS),
    (3 * PIXELS, PIXELS),
    (PIXELS, 3 * PIXELS),
)
PICTURES = [(60, 40), (40, 60), (50, 50), (90, 20), (20, 90), (28, 28), (300, 110), (13, 97), (56, 28), (31, 29)]
"""Widths and heights."""
CHAT = [{"role": "user", "content": [{"type": "image"}]}]


def adapter_of_tiles(vision: Path) -> MLPProjector:
    config = MLPConfig(
        vision_width=VISION, hidden_width=HIDDEN, llm_width=WIDTH, llm="small", vision_model=str(vision),
        vision_aspect_ratio="anyres", vision_grid_pinpoints=SIZES,
    )  # fmt: skip
    module: MLPProjector = seeded(MLPProjector, config)
    assert module.image_newline is not None
    module.image_newline.copy_(torch.linspace(-1, 1, WIDTH))
    return module.eval()


@pytest.fixture(scope="module", params=[clip, siglip])
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vision/, llm/, adapter.pt, pictures/ and llava/, the exported checkpoint."""
    folder = tmp_path_factory.mktemp("next")
    adapter_of_tiles(request.param(folder / "vision")).save(folder / "adapter.pt")
    llm(folder / "llm")
    (folder / "pictures").mkdir()
    random = np.random.default_rng(0)
    for width, height in PICTURES:
        picture = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        picture.save(folder / "pictures" / f"{width}x{height}.png")
    options = ExportOptions(llm=str(folder / "llm"), vision=str(folder / "vision"))
    export(folder / "adapter.pt", "llava-next", folder / "llava", options)
    return folder


@pytest.fixture(scope="module")
def served(here: Path) -> dict[str, Tensor]:
    """(N, D) visual tokens of the exported checkpoint by picture."""
    with quiet_transformers():
        model: Any = LlavaNextForConditionalGeneration.from_pretrained(here / "llava")
        processor: Any = AutoProcessor.from_pretrained(here / "llava")
    text = processor.apply_chat_template(CHAT)
    found = {}
    for file in sorted((here / "pictures").iterdir()):
        inputs = processor(text=text, images=Image.open(file), return_tensors="pt")
        with torch.no_grad():
            features = model.eval().get_image_features(inputs["pixel_values"], inputs["image_sizes"])
            (found[file.name],) = features.pooler_output
        assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == len(found[file.name])
    return found


def test_visual_tokens_of_the_exported_checkpoint_equal_those_of_inference(
    here: Path, served: dict[str, Tensor], tmp_path: Path
) -> None:
    infer.infer(here / "adapter.pt", [here / "pictures"], tmp_path / "seen", device="cpu", batch=3)
    lengths, joined = [], []
    names = []
    for file in sorted((tmp_path / "seen").glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            names += json.loads(opened.metadata()["vocabkit"])["images"]
            lengths += opened.get_tensor("lengths").tolist()
            joined.append(opened.get_tensor("visual_tokens"))
    parts = torch.cat(joined).split(lengths)
    ours = {Path(name).name: part for name, part in zip(names, parts, strict=True)}
    assert len(ours) == len(PICTURES)
    assert len({len(tokens) for tokens in ours.values()}) > 4
    for name, tokens in ours.items():
        assert_close(tokens, served[name], rtol=1e-4, atol=1e-4)


def test_losses_of_validate_equal_those_of_the_exported_checkpoint(here: Path, tmp_path: Path) -> None:
    names = ["60x40.png", "90x20.png", "28x28.png", "13x97.png"]
    asked, answers = "Image: {}\nIt shows", [f" noise{number * 'x'}" for number in range(len(names))]
    records = [
        {
            "image": name,
            "conversations": [{"from": "human", "value": asked.format("<image>")}, {"from": "gpt", "value": a[1:]}],
        }
        for name, a in zip(names, answers, strict=True)
    ]
    (tmp_path / "data.json").write_text(json.dumps(records))
    done = vocabkit_here(
        tmp_path, "validate", "data.json", "--images", here / "pictures", "--llm", f"small={here / 'llm'}", "--adapter",
        f"x={here / 'adapter.pt'}", "--template", "completion", "--batch", "3", "--device", "cpu", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["data"]["validation"]
    with quiet_transformers():
        model: Any = LlavaNextForConditionalGeneration.from_pretrained(here / "llava").eval()
        processor: Any = AutoProcessor.from_pretrained(here / "llava")

    def loss(pictures: list[str]) -> float:
        nats, tokens, seen = 0.0, 0, []
        for name, answer in zip(pictures, answers, strict=True):
            image = Image.open(here / "pictures" / name)
            inputs = processor(text=asked.format("<image>") + answer, images=image, return_tensors="pt")
            with torch.no_grad():
                logits = model(**inputs).logits[0, -len(answer) - 1 : -1]  # a token is a byte
            logits = logits[:, : model.config.image_token_id]  # the LLM alone can't say <image>
            nats += float(cross_entropy(logits, inputs["input_ids"][0, -len(answer) :], reduction="sum"))
            tokens += len(answer)
            seen.append(int((inputs["input_ids"] == model.config.image_token_id).sum()))
        assert found["visual_tokens"] == pytest.approx(sum(seen) / len(seen), abs=0.05)
        return nats / tokens

    others = other_images(names, 0)
    assert others is not None
    losses = {name: each["value"] for name, each in found["caption_loss"].items()}
    assert losses["x"] == pytest.approx(loss(names), rel=1e-5)
    assert losses["x shuffled"] == pytest.approx(loss([names[i] for i in others.tolist()]), rel=1e-5)
    assert losses["x"] != pytest.approx(losses["x shuffled"], rel=1e-4)


def test_checkpoint_generates(here: Path) -> None:
    with quiet_transformers():
        model: Any = LlavaNextForConditionalGeneration.from_pretrained(here / "llava")
        processor: Any = AutoProcessor.from_pretrained(here / "llava")
    pictures = [Image.open(here / "pictures" / name) for name in ("60x40.png", "20x90.png")]
    texts = [processor.apply_chat_template(CHAT, add_generation_prompt=True)] * 2
    inputs = processor(text=texts, images=pictures, padding=True, return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[0] == 2


def test_an_adapter_of_tiles_keeps_its_newline_in_files(here: Path, tmp_path: Path) -> None:
    adapter = load_adapter(here / "adapter.pt")
    adapter.save(tmp_path / "folder")
    again = load_adapter(tmp_path / "folder")
    assert again.config == adapter.config
    assert torch.equal(again.image_newline, torch.linspace(-1, 1, WIDTH))


@pytest.mark.parametrize(
    ("form", "words"),
    [("llava", "which a Llava checkpoint has not; export llava-next"), ("mmproj", "which llama.cpp has not")],
)
def test_forms_without_tiles_raise(here: Path, tmp_path: Path, form: Any, words: str) -> None:
    options = ExportOptions(vision=str(here / "vision"), llm=str(here / "llm") if form == "llava" else None)
    with pytest.raises(VocabkitError, match=words):
        export(here / "adapter.pt", form, tmp_path / ("out" if form == "llava" else "out.gguf"), options)


def test_llava_next_of_whole_pictures_raises(here: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(
        load_adapter(here / "adapter.pt").config, vision_aspect_ratio="pad", vision_grid_pinpoints=None
    )
    options = ExportOptions(vision=str(here / "vision"), llm=str(here / "llm"))
    with pytest.raises(VocabkitError, match=r"shows pictures in tiles, but the adapter was trained with .* pad"):
        export(MLPProjector(config), "llava-next", tmp_path / "out", options)


def test_sizes_that_tiles_do_not_fill_raise(here: Path) -> None:
    with pytest.raises(VocabkitError, match="has 30 x 28 pixels, which tiles of 28 x 28 do not fill"):
        open_vision(str(here / "vision"), image_aspect_ratio="anyres", grid_pinpoints=((30, 28),))
