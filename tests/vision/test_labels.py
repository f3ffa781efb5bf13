"""Scores that vision models give to names: ImageNet's classifier, and the text encoders of CLIP and SigLIP."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import byte_tokenizer
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import CLIPModel, PreTrainedTokenizerFast, SiglipModel
from vision_models import siglip, whole_clip, whole_siglip

from vocabkit.errors import VocabkitError
from vocabkit.shared.words import read_names
from vocabkit.vision.efficientnet_lite import EfficientNetLite
from vocabkit.vision.labels import PROMPT, head_scores, label_scores

CLASSES = Path(__file__).parents[2] / "data/imagenet-classes.txt"
NAMES = ["cat", "red apple", "harp"]


def test_scores_of_efficientnet_are_its_own() -> None:
    model = EfficientNetLite()
    model.module.eval()
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    names = read_names(CLASSES)
    with torch.no_grad():
        patches = model.states(pixels)
        weight, bias = label_scores("efficientnet-lite0", None, names, patches[0])
        torch.testing.assert_close((patches @ weight.T + bias).mean(dim=1), model.module(pixels))
    assert [names[number] for number in (0, 1, 7, 999)] == ["tench", "goldfish", "rooster", "toilet paper"]
    with pytest.raises(VocabkitError, match=r"^my\.txt: has 3 names, but efficientnet-lite0 1,000 classes; name each"):
        label_scores("efficientnet-lite0", None, NAMES, patches[0], file="my.txt")


@pytest.fixture(scope="module", params=[whole_clip, whole_siglip])
def with_text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP or SigLIP of random weights with a tokenizer."""
    folder = request.param(tmp_path_factory.mktemp("text") / "model")
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    found = byte_tokenizer()
    found.pad_token = "</s>"
    return found


@torch.no_grad()
def own_scores(folder: Path, patches: Tensor) -> Tensor:
    """(n, L) the model's scaled similarities, each patch as if it were the whole picture."""
    if "siglip" in (folder / "config.json").read_text():
        model = SiglipModel.from_pretrained(folder)
        seen = model.vision_model.head(model.vision_model.post_layernorm(patches)[:, None])
    else:
        model = CLIPModel.from_pretrained(folder)
        seen = model.visual_projection(model.vision_model.post_layernorm(patches))
    length = model.config.text_config.max_position_embeddings
    texts = [
        model.get_text_features(
            **tokenizer()(PROMPT.format(name), padding="max_length", max_length=length, return_tensors="pt")
        ).pooler_output[0]
        for name in NAMES
    ]
    return cosine_similarity(seen[:, None], torch.stack(texts)[None], dim=-1) * model.logit_scale.exp()


def test_text_encoder_scores_names(with_text: Path) -> None:
    patches = torch.randn(400, 32, generator=torch.Generator().manual_seed(1))
    weight, bias = label_scores(str(with_text), -1, NAMES, patches[:300])
    expected = own_scores(with_text, patches[300:])
    found = patches[300:] @ weight.T + bias  # (100, L)
    together = torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1]
    assert together > 0.9
    assert (found.argmax(dim=1) == expected.argmax(dim=1)).float().mean() > 0.8


def test_features_of_another_layer_raise(with_text: Path) -> None:
    with pytest.raises(VocabkitError, match=r"take features of layer -1, not -2"):
        label_scores(str(with_text), -2, NAMES, torch.randn(9, 32))


def test_a_vision_model_without_text_raises(tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match="has neither names of classes nor a text encoder"):
        label_scores(str(siglip(tmp_path / "model")), -1, NAMES, torch.randn(9, 32))


def test_rows_without_a_name_weigh_little_and_names_of_one_row_are_averaged() -> None:
    weight, bias = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), torch.tensor([0.0, 2.0, 4.0])
    rows, offsets = head_scores(weight, bias, [1, 1, 3], 5)
    scores = rows @ torch.tensor([2.0, 1.0]) + offsets
    named = torch.tensor([(2 + 8) / 2, 9.0])  # the mean of the first two names, and the third
    torch.testing.assert_close(scores[[1, 3]] - scores[1], named - named[0])
    torch.testing.assert_close(scores[[0, 2, 4]], torch.tensor(5.0).log().neg().expand(3))
    _, none = head_scores(weight, bias, [0, None, None], 2)
    assert none[1] < none[0]
