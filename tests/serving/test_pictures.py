"""`vocabkit.serving.words` and `prompt_embeds`: what a picture becomes for the server of a text-only LLM."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
import torch
from moved_adapters import Kind, moved
from small_adapters import projector
from small_world import World
from torch import Tensor

import vocabkit.serving
from vocabkit.adapter.config import Spelled
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.adapter.words import image_words
from vocabkit.data.pictures import load_image
from vocabkit.data.samples import Picture
from vocabkit.errors import VocabkitError
from vocabkit.vision.encoder import encoder_of

KINDS = {
    "tokens, mix": Kind(scale=0.5, pool=(2, 2)),
    "words, spelled": Kind("words", visual_tokens=Spelled(0.05, positions=7), temperature=0.2),
}


@pytest.fixture(scope="module", params=KINDS)
def adapter(
    request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory
) -> LangBridgeAdapter:
    return moved(world, KINDS[request.param], tmp_path_factory.mktemp("adapter"))


def features(adapter: LangBridgeAdapter, file: Path) -> Tensor:
    """(N, Dv)."""
    encoder = encoder_of(adapter)
    return encoder(encoder.pixels(load_image(Picture("x", file)))[None])[0]


def test_prompt_embeds_are_the_visual_tokens_of_each_picture(adapter: LangBridgeAdapter, world: World) -> None:
    files = [world.data.parent / "0.png", world.data.parent / "1.png"]
    parts = vocabkit.serving.prompt_embeds(adapter, files)
    assert [part["type"] for part in parts] == ["prompt_embeds"] * 2
    for part, file in zip(parts, files, strict=True):
        found = torch.load(io.BytesIO(base64.b64decode(part["data"])), weights_only=True)
        assert torch.equal(found, adapter(features(adapter, file)).detach())
        assert not found.requires_grad
    assert parts[0] != parts[1]


def test_folder_and_content_of_a_file_give_the_same(adapter: LangBridgeAdapter, world: World, tmp_path: Path) -> None:
    file = world.data.parent / "2.png"
    adapter.save(tmp_path / "moved")
    expected = vocabkit.serving.prompt_embeds(adapter, [str(file)])
    assert vocabkit.serving.prompt_embeds(tmp_path / "moved", [file.read_bytes()]) == expected
    assert vocabkit.serving.prompt_embeds(adapter, [file], encoder=encoder_of(adapter)) == expected


def test_words_are_those_of_the_adapter(adapter: LangBridgeAdapter, world: World) -> None:
    file = world.data.parent / "3.png"
    assert vocabkit.serving.words(adapter, [file]) == [image_words(adapter, features(adapter, file))]


def test_broken_picture_is_named(adapter: LangBridgeAdapter, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(VocabkitError, match=r"broken\.png: not an image"):
        vocabkit.serving.words(adapter, [tmp_path / "broken.png"])
    with pytest.raises(VocabkitError, match="picture 1: not an image"):
        vocabkit.serving.prompt_embeds(adapter, [b"no picture"])


def test_one_path_is_not_a_list(adapter: LangBridgeAdapter) -> None:
    with pytest.raises(TypeError, match="`pictures` is str; expected a list"):
        vocabkit.serving.words(adapter, "photo.jpg")


def test_adapters_that_can_t_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match="words are chosen by a softmax head"):
        vocabkit.serving.words(projector(), [])
    scenes = Path(__file__).parents[2] / "data/smollm2-scenes.pt"
    with pytest.raises(VocabkitError, match="the adapter was not transferred"):
        vocabkit.serving.prompt_embeds(scenes, [])
