"""A picture of any kind has the same visual tokens in features, in inference and in an exported checkpoint."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from infer_world import visual_tokens
from odd_pictures import LIKE_TRANSFORMERS, SIXTEEN_BIT_GREY
from PIL import Image, ImageOps
from small_models import llm, loaded, projector
from torch import Tensor
from torch.testing import assert_close
from vision_models import clip, siglip

from vocabkit.data.pictures import load_image
from vocabkit.data.samples import Picture
from vocabkit.infer import infer
from vocabkit.transfer.export.llava import export_llava
from vocabkit.vision.encoder import open_vision
from vocabkit.vision.features import cache_features, open_features

KINDS = {**LIKE_TRANSFORMERS, **SIXTEEN_BIT_GREY}
OPAQUE = [name for name in LIKE_TRANSFORMERS if not any(word in name for word in ("alpha", "rgba", "key"))]
CHAT = [{"role": "user", "content": [{"type": "image"}]}]


@dataclass(frozen=True)
class Offline:
    """Visual tokens by file name, and the exported checkpoint."""

    folder: Path
    features: Mapping[str, Tensor]
    inferred: Mapping[str, Tensor]
    model: Any
    processor: Any

    def served(self, picture: Any) -> Tensor:
        """(N, D): the visual tokens of the exported checkpoint."""
        text = self.processor.apply_chat_template(CHAT)
        inputs = self.processor(text=text, images=picture, return_tensors="pt")
        with torch.no_grad():
            found: Tensor = self.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
        return found


@pytest.fixture(scope="module", params=[(clip, "square"), (siglip, "pad")], ids=["clip, square", "siglip, pad"])
def offline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Offline:
    make_vision, ratio = request.param
    here = tmp_path_factory.mktemp("offline")
    (here / "pictures").mkdir()
    for name, make in KINDS.items():
        (here / "pictures" / name).write_bytes(make())
    vision = make_vision(here / "vision")
    adapter = projector()
    adapter.config = replace(adapter.config, vision_model=str(vision), vision_aspect_ratio=ratio)
    adapter.save(here / "adapter.pt")
    pictures = [Picture(name, here / "pictures" / name) for name in KINDS]
    encoder = open_vision(str(vision), image_aspect_ratio=ratio)
    cache_features(encoder, pictures, here / "features", dtype=torch.float32)
    cached = open_features(here / "features")
    with torch.no_grad():
        features = {name: adapter(cached[name]) for name in KINDS}
    infer.infer(here / "adapter.pt", [here / "pictures"], here / "inferred", device="cpu")
    inferred = {Path(key).name: tokens for key, tokens in visual_tokens(here / "inferred").items()}
    out = export_llava(adapter, vision, llm(here / "llm"), here / "llava")
    return Offline(here / "pictures", features, inferred, *loaded(out.folder))


@pytest.mark.parametrize("name", KINDS)
def test_features_and_inference_agree(offline: Offline, name: str) -> None:
    assert_close(offline.inferred[name], offline.features[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LIKE_TRANSFORMERS)
def test_an_exported_checkpoint_agrees_on_the_upright_picture_as_it_is(offline: Offline, name: str) -> None:
    with Image.open(offline.folder / name) as picture:
        served = offline.served(ImageOps.exif_transpose(picture))
    assert_close(served, offline.features[name], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # transformers closes no animation
@pytest.mark.parametrize("name", OPAQUE)
def test_an_exported_checkpoint_agrees_on_the_path_of_an_opaque_picture(offline: Offline, name: str) -> None:
    assert_close(offline.served(str(offline.folder / name)), offline.features[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_an_exported_checkpoint_agrees_on_what_load_image_gives(offline: Offline, name: str) -> None:
    picture = load_image(Picture(name, offline.folder / name))
    assert_close(offline.served(picture), offline.features[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SIXTEEN_BIT_GREY)
def test_transformers_alone_clips_16_bit_greys(offline: Offline, name: str) -> None:
    content = (offline.folder / name).read_bytes()
    difference = offline.served(Image.open(io.BytesIO(content))) - offline.features[name]
    assert difference.abs().max() > 0.01
