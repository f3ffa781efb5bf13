"""`export --as hf`: transformers computes with the folder what `vocabkit infer` computes with its parts."""

from __future__ import annotations

import base64
import dataclasses
import gc
import json
import re
import shutil
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_requests import bad_files
from command_line import error_of, vocabkit_here
from moved_adapters import Kind, moved
from odd_pictures import LIKE_TRANSFORMERS, SIXTEEN_BIT_GREY
from PIL import Image
from safetensors.torch import load_file, save_file
from small_adapters import projector
from small_world import World
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from vision_models import clip, images

from vocabkit.adapter.config import Spelled
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.data.samples import Picture
from vocabkit.errors import VocabkitError
from vocabkit.llm.load import load_llm, quiet_transformers
from vocabkit.llm.lvlm import LVLM, collate, embed
from vocabkit.llm.prompts import IMAGE_ID, Prompt
from vocabkit.transfer.export.export import ExportOptions, export
from vocabkit.vision.encoder import VisionEncoder, encoder_of

KINDS = {
    "tokens, mix": Kind(),
    "tokens, mix, pooled, scale and temperature": Kind(pool=(2, 3), scale=0.25, temperature=0.5),
    "tokens, mix, first layer": Kind(layer=0),
    "tokens, mix, class token": Kind(keep_cls=True, layer=-1),
    "tokens, mix, class token and pooled": Kind(keep_cls=True, pool=(2, 2)),
    "tokens, mix, registers left out": Kind(vision="registers", layer=-1),
    "tokens, mix, a vision model at another size": Kind(vision="other size", layer=-1),
    "tokens, mix, padded pictures": Kind(vision="siglip", ratio="pad"),
    "tokens, spelled": Kind(visual_tokens=Spelled(0.0, positions=5), scale=2.0),
    "tokens, linear head, pooled": Kind(head="linear", pool=(1, 2)),
    "tokens, mix, EfficientNet": Kind(vision="efficientnet-lite0", pool=(3, 3)),
    "tokens, mix, EfficientNet, padded pictures": Kind(vision="efficientnet-lite0", ratio="pad"),
    "words, mix": Kind("words", temperature=2.0),
    "words, spelled": Kind("words", visual_tokens=Spelled(0.05), pool=(2, 2)),
    "words, spelled by place, more positions than patches": Kind(
        "words", visual_tokens=Spelled(0.0, "place", positions=23), temperature=0.1, scale=0.5
    ),
}
ONE = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
TWO = [{"type": "image"}, {"type": "text", "text": "Compare this with"}, {"type": "image"}]
PROMPTS = {"one image": [ONE], "several images": [TWO], "batch": [ONE, TWO, [{"type": "text", "text": "Hi"}]]}


@dataclass(frozen=True)
class Served:
    """An adapter, its parts, and what transformers made of the exported folder."""

    folder: Path
    adapter: LangBridgeAdapter
    encoder: VisionEncoder
    lvlm: LVLM
    model: Any
    processor: Any

    def prompted(self, *contents: list[dict[str, str]]) -> Any:
        """What the processor makes of these user messages and as many pictures as they have image parts."""
        chats = [[{"role": "user", "content": content}] for content in contents]
        texts = [self.processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
        counts = [sum(part["type"] == "image" for part in content) for content in contents]
        pictures = iter(images(sum(counts)))
        nested = [[next(pictures) for _ in range(count)] for count in counts]
        return self.processor(text=texts, images=nested, padding=True, return_tensors="pt")

    @torch.no_grad()
    def own_logits(self, inputs: Any) -> Tensor:
        """(B, L, T): by the adapter and the LLM as `vocabkit infer` runs them, on the same pictures."""
        ids = inputs["input_ids"]
        ids = ids.masked_fill(ids == self.model.config.image_token_id, IMAGE_ID)
        pixels = torch.stack([self.encoder.pixels(picture) for picture in images(len(inputs["pixel_values"]))])
        visual = self.lvlm.visual_tokens(self.encoder(pixels))
        batch = collate([Prompt(row, row) for row in ids.tolist()], [])
        embedded = embed(self.lvlm.llm, batch.ids, visual)
        logits: Tensor = self.lvlm.llm(inputs_embeds=embedded, attention_mask=inputs["attention_mask"]).logits
        return logits


def served(world: World, kind: Kind, folder: Path) -> Served:
    adapter = moved(world, kind, folder)
    adapter.save(folder / "moved")
    with quiet_transformers():
        export(folder / "moved", "hf", folder / "out", ExportOptions(llm=world.two))
        lvlm = LVLM(load_llm(world.two), adapter)
        return Served(folder / "out", adapter, encoder_of(adapter), lvlm, *loaded(folder / "out"))


def loaded(folder: Path) -> tuple[Any, Any]:
    """By the auto classes alone."""
    with quiet_transformers():
        model: Any = AutoModelForImageTextToText.from_pretrained(folder)
        return model.eval(), AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module", params=KINDS)
def each(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> Served:
    return served(world, KINDS[request.param], tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def pooled(world: World, tmp_path_factory: pytest.TempPathFactory) -> Served:
    return served(world, Kind(pool=(2, 2), temperature=0.3), tmp_path_factory.mktemp("served"))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_logits_are_those_of_adapter_and_llm(each: Served, prompt: str) -> None:
    inputs = each.prompted(*PROMPTS[prompt])
    with torch.no_grad():
        found = each.model(**inputs).logits
    expected = each.own_logits(inputs)
    attended = inputs["attention_mask"].bool()
    assert_close(found[attended][:, : expected.shape[-1]], expected[attended], rtol=1e-4, atol=1e-4)


def test_each_image_has_the_visual_tokens_that_the_adapter_gives(each: Served) -> None:
    inputs = each.prompted(ONE)
    count = int((inputs["input_ids"] == each.model.config.image_token_id).sum())
    assert count == each.adapter.config.visual_tokens(each.encoder.tokens)
    assert count == each.processor.image_seq_length == each.model.config.image_seq_length


def test_logits_depend_on_the_picture(each: Served) -> None:
    inputs = each.prompted(ONE)
    with torch.no_grad():
        logits = each.model(**inputs).logits[0, -1]
        inputs["pixel_values"] = -inputs["pixel_values"].flip(-1)
        other = each.model(**inputs).logits[0, -1]
    assert (other - logits).abs().max() > 1e-4 * logits.abs().max()


def test_saved_again_it_is_the_same(each: Served, tmp_path: Path) -> None:
    with quiet_transformers():
        each.model.save_pretrained(tmp_path)
        each.processor.save_pretrained(tmp_path)
    model, processor = loaded(tmp_path)
    before, after = each.model.state_dict(), model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert model.config.to_dict() == {**each.model.config.to_dict(), "_name_or_path": str(tmp_path)}
    inputs = each.prompted(TWO)
    again = processor(
        text=[processor.apply_chat_template([{"role": "user", "content": TWO}], add_generation_prompt=True)],
        images=[images(2)],
        return_tensors="pt",
    )
    assert torch.equal(again["input_ids"], inputs["input_ids"])
    assert torch.equal(again["pixel_values"], inputs["pixel_values"])


def test_answers_are_the_captions_of_infer(pooled: Served, world: World, tmp_path: Path) -> None:
    pictures = [world.data.parent / f"{number}.png" for number in range(3)]
    done = vocabkit_here(
        pooled.folder.parent, "infer", "moved", *pictures, "--captions", "--llm", world.two, "--template", "chat",
        "--question", "<image>\nWhat?", "--max-new-tokens", "8", "--device", "cpu", "--out", tmp_path, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    captions = list(json.loads(done.stdout)["report"]["first_captions"].values())
    asks = pipeline("image-text-to-text", model=str(pooled.folder), device="cpu")
    answers = []
    for path in pictures:
        question = [{"type": "image", "url": str(path)}, {"type": "text", "text": "What?"}]
        settings = {"max_new_tokens": 8, "do_sample": False}
        said = asks(text=[{"role": "user", "content": question}], generate_kwargs=settings, return_full_text=False)
        answers.append(said[0]["generated_text"])
    assert [answer.strip() for answer in answers] == captions
    assert len(set(captions)) == 3


def test_batch_of_chats_is_generated_as_each_alone(pooled: Served) -> None:
    def answers(*contents: list[dict[str, str]]) -> list[str]:
        inputs = pooled.prompted(*contents)
        written = pooled.model.generate(**inputs, max_new_tokens=6, do_sample=False)
        texts: list[str] = pooled.processor.batch_decode(written[:, inputs["input_ids"].shape[1] :])
        return [text.replace("</s>", "") for text in texts]

    assert answers(TWO, [{"type": "text", "text": "Hi"}])[0] == answers(TWO)[0]


def test_training_reaches_adapter_and_llm_under_autocast(pooled: Served) -> None:
    model, _ = loaded(pooled.folder)
    model.train()
    inputs = pooled.prompted(ONE)
    with torch.autocast("cpu", torch.bfloat16):
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
    for part in ("multi_modal_projector.head.weight", "multi_modal_projector.linear_1.bias"):
        assert model.get_parameter(f"model.{part}").grad.abs().max() > 0
    assert model.model.language_model.embed_tokens.weight.grad.abs().max() > 0


def test_half_precision_of_the_llm_is_kept(pooled: Served) -> None:
    with quiet_transformers():
        model = AutoModelForImageTextToText.from_pretrained(pooled.folder, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}
    with torch.no_grad():
        logits = model(**pooled.prompted(ONE).to(torch.bfloat16)).logits.float()
        expected = pooled.model(**pooled.prompted(ONE)).logits
    assert (logits - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_half_precision_does_not_spoil_efficientnet(world: World, tmp_path: Path) -> None:
    ours = served(world, KINDS["tokens, mix, EfficientNet"], tmp_path)
    with quiet_transformers():
        model: Any = AutoModelForImageTextToText.from_pretrained(ours.folder, dtype=torch.bfloat16)
    assert {each.dtype for each in model.model.vision_tower.parameters()} == {torch.float32}
    assert {each.dtype for each in model.model.language_model.parameters()} == {torch.bfloat16}
    inputs = ours.prompted(ONE)
    with torch.no_grad():
        found, expected = (
            each.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0].float()
            for each in (model, ours.model)
        )
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_rows_and_head_are_in_memory_once(pooled: Served) -> None:
    def alive() -> int:
        gc.collect()
        tensors = [each for each in gc.get_objects() if type(each) in (Tensor, torch.nn.Parameter)]
        return sum(tuple(each.shape) in shapes for each in tensors)

    shapes = {tuple(pooled.adapter.embeddings.shape), tuple(pooled.adapter.head.weight.shape)}
    before = alive()
    model, _ = loaded(pooled.folder)
    with torch.no_grad():
        model(**pooled.prompted(ONE))
    assert alive() == before + 2


# ---- pictures of any origin --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*LIKE_TRANSFORMERS, *SIXTEEN_BIT_GREY])
def test_pixels_of_every_kind_of_picture_are_those_of_infer(pooled: Served, tmp_path: Path, name: str) -> None:
    content = (LIKE_TRANSFORMERS | SIXTEEN_BIT_GREY)[name]()
    (tmp_path / name).write_bytes(content)
    encoded = base64.b64encode(content).decode()
    given = [str(tmp_path / name), tmp_path / name, content, f"data:image/png;base64,{encoded}", encoded]
    with Image.open(tmp_path / name) as opened:
        pixels = pooled.processor(images=[*given, opened], text="<image>" * 6, return_tensors="pt")["pixel_values"]
    expected = pooled.encoder.pixels_of(Picture(name, content))
    assert all(torch.equal(each, expected) for each in pixels)


def test_image_processor_is_pillow_s(pooled: Served) -> None:
    assert type(pooled.processor.image_processor).__name__ == "CLIPImageProcessorPil"


def test_bad_pictures_are_named_by_their_number(pooled: Served) -> None:
    good = images(1)[0]
    for what, content in bad_files():
        with pytest.raises(VocabkitError, match=r"^picture 2: .*$") as raised:
            pooled.processor(images=[[good], [content, good]], text=["<image>", "<image><image>"])
        assert len(str(raised.value)) < 200, what


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("missing.png", "picture 1: 'missing.png' is neither a file, nor a URL, nor base64"),
        ("data:image/png;base64,@@", "is neither a file, nor a URL, nor base64"),
        ("http://127.0.0.1:9/x.png", "picture 1: can't be fetched from 'http://127.0.0.1:9/x.png'"),
        ("http://[", "picture 1: can't be fetched"),
        ("?" * 10_000, "is neither a file"),
    ],
    ids=lambda value: value[:30],
)
def test_source_that_is_no_picture_is_refused(pooled: Served, source: str, says: str) -> None:
    with pytest.raises(VocabkitError, match=re.escape(says)):
        pooled.processor(images=source, text="<image>")


@pytest.mark.parametrize("ratio", ["square", "pad"])
def test_long_picture_is_refused_before_it_fills_the_memory(pooled: Served, ratio: str) -> None:
    processor = deepcopy(pooled.processor)
    processor.image_processor.do_pad = ratio == "pad"
    with pytest.raises(VocabkitError, match=r"picture 1: has 60000 x 1 pixels, too long to be (resized|padded)"):
        processor(images=Image.new("RGB", (60_000, 1)), text="<image>")


def test_arrays_and_tensors_are_taken_as_they_are(pooled: Served) -> None:
    array = np.asarray(images(1)[0])
    expected = pooled.processor(images=images(1)[0], text="<image>", return_tensors="pt")["pixel_values"]
    for given in (array, torch.from_numpy(array.copy()).permute(2, 0, 1)):
        found = pooled.processor(images=given, text="<image>", return_tensors="pt")["pixel_values"]
        assert_close(found, expected)


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(pooled: Served, tmp_path: Path) -> Path:
    """The exported folder, to damage."""
    return Path(shutil.copytree(pooled.folder, tmp_path / "copy"))


def refused(folder: Path) -> str:
    """The one line that loading it ends with."""
    with pytest.raises(VocabkitError) as raised, quiet_transformers():
        AutoModelForImageTextToText.from_pretrained(folder)
    (line,) = str(raised.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("adapter",), None, "the adapter's settings are wrong"),
        (("adapter", "adapter", "head"), "sigmoid", "sigmoid"),
        (("adapter", "adapter", "temperature"), 0.0, "temperature 0.0: must be positive"),
        (("adapter", "scale"), -1.0, "scale -1.0: must be a positive number"),
        (("adapter", "adapter", "vision_pool"), [5, 1], "vision_grid [4, 4] and vision_pool [5, 1] do not go together"),
        (("adapter", "spelled"), {"positions": 7}, "image_seq_length 4 should be 7"),
        (("image_seq_length",), 16, "image_seq_length 16 should be 4"),
        (("vision_grid",), [4], "the adapter's settings are wrong"),
        (("adapter", "adapter", "vision_width"), 31, "vision model has width 32, but the adapter takes 31"),
        (("adapter", "target_width"), 31, "the LLM has width 32, but the adapter gives 31"),
        (("adapter", "adapter", "rows"), 255, "its tensors are damaged or not those of its config"),
        (("vision_feature_select_strategy",), "default", "vision_feature_select_strategy should be full"),
        (("vision_feature_layer",), 99, "vision_feature_layer 99 should be one of its"),
        (("image_token_index",), 10**6, "image_token_index 1000000 should be a token of the LLM"),
        (("text_config", "num_hidden_layers"), 1, "its config.json is not that of its weights"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(copy: Path, place: tuple[str, ...], value: Any, says: str) -> None:
    config = json.loads((copy / "config.json").read_text())
    inner = config
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (copy / "config.json").write_text(json.dumps(config))
    assert says in refused(copy)


def test_grid_of_another_vision_model_is_refused_when_it_runs(copy: Path, pooled: Served) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["vision_grid"] = [2, 2]
    (copy / "config.json").write_text(json.dumps(config))
    model, _ = loaded(copy)
    with torch.no_grad(), pytest.raises(VocabkitError, match=r"vision_grid \[2, 2\] is not that of the vision model"):
        model(**pooled.prompted(ONE))


def test_missing_tensors_are_refused(copy: Path) -> None:
    index = json.loads((copy / "model.safetensors.index.json").read_text())
    del index["weight_map"]["model.multi_modal_projector.embeddings"]
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    tensors = load_file(copy / "model-00001-of-00002.safetensors")
    del tensors["model.multi_modal_projector.embeddings"]
    save_file(tensors, copy / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    assert "its weights lack 'model.multi_modal_projector.embeddings', one of 1 missing" in refused(copy)


@pytest.mark.parametrize("number", [1, 2])
def test_truncated_weights_are_refused(copy: Path, number: int) -> None:
    file = copy / f"model-0000{number}-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "its tensors are damaged" in refused(copy)


def test_processor_without_number_of_tokens_is_refused(copy: Path) -> None:
    settings = json.loads((copy / "processor_config.json").read_text())
    del settings["image_seq_length"]
    (copy / "processor_config.json").write_text(json.dumps(settings))
    with pytest.raises(VocabkitError, match="image_seq_length is missing or not a number"):
        AutoProcessor.from_pretrained(copy)


def test_prompt_with_another_number_of_image_tokens_is_refused(pooled: Served) -> None:
    inputs = pooled.prompted(ONE)
    first = int((inputs["input_ids"][0] == pooled.model.config.image_token_id).nonzero()[0])
    for name in ("input_ids", "attention_mask"):
        inputs[name] = torch.cat([inputs[name][:, :first], inputs[name][:, first + 1 :]], dim=1)
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        pooled.model(**inputs)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "hf holds the LLM: give --llm"),
        (("--llm", "TWO", "--features", "x"), "nothing is distilled; leave --features and --data out"),
        (("--llm", "ONE"), "is it another LLM?"),
        (("--llm", "TWO", "--vision", "other"), "not the vision encoder that the adapter was trained with"),
    ],
    ids=str,
)
def test_command_refuses_what_does_not_belong(
    pooled: Served, world: World, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    clip(tmp_path / "other", num_hidden_layers=2)
    named = [{"ONE": world.one, "TWO": world.two}.get(word, word) for word in words]
    moved_folder = pooled.folder.parent / "moved"
    done = vocabkit_here(tmp_path, "export", moved_folder, "--as", "hf", "--out", "out", *named)
    assert says in error_of(done)
    assert not (tmp_path / "out").exists()


def test_command_refuses_adapters_that_were_not_moved_and_projectors(world: World, tmp_path: Path) -> None:
    projector().save(tmp_path / "mlp")
    done = vocabkit_here(tmp_path, "export", "mlp", "--as", "hf", "--out", "out", "--llm", world.two)
    assert "an MLP projector has no head; export llava" in error_of(done)
    adapter = moved(world, Kind(), tmp_path)
    shared = adapter.shared
    before = LangBridgeAdapter(dataclasses.replace(adapter.config, transfer=None), shared)
    before.save(tmp_path / "before")
    done = vocabkit_here(tmp_path, "export", "before", "--as", "hf", "--out", "out", "--llm", world.two)
    assert "the adapter was not transferred" in error_of(done)
