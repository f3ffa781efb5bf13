"""vLLM on small models: the fields that its Llava loader reads (vllm/model_executor/models/llava.py of 0.32), and its
answers; wrong settings are refused.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from programs import in_vllm
from safetensors import safe_open
from small_adapters import randomised
from small_models import llama, llm, loaded, projector
from transformers import AutoModelForImageTextToText, AutoProcessor
from vision_models import VISION, clip, dinov2, siglip

import vocabkit.serving  # noqa: F401
from vocabkit.adapter.config import AdapterConfig
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.llm.load import quiet_transformers
from vocabkit.shared.align import align
from vocabkit.tokenizer.catalog import resolve
from vocabkit.transfer.export.export import ExportOptions, export
from vocabkit.transfer.export.llava import export_llava
from vocabkit.transfer.transfer import transfer

SCRIPT = Path(__file__).parents[2] / "docs/examples/vllm_answers.py"
QUESTION = "What?"


@pytest.fixture(params=["clip", "siglip"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    vision = {"clip": clip, "siglip": siglip}[request.param](tmp_path / "vision")
    text = llm(tmp_path / "llm", llama(head_dim=32))  # the narrowest heads that vLLM's attention on a CPU takes
    return export_llava(projector(), vision, text, tmp_path / "llava-mine").folder


def _read(file: Path) -> Any:
    return json.loads(file.read_text("utf-8"))


def test_the_config_has_what_the_loader_reads(checkpoint: Path) -> None:
    config = _read(checkpoint / "config.json")
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["model_type"] == "llava"
    assert config["vision_config"]["model_type"] in ("clip_vision_model", "siglip_vision_model")
    assert config["text_config"]["architectures"] == ["LlamaForCausalLM"]  # by it vLLM chooses the LLM
    assert config["image_token_index"] < config["text_config"]["vocab_size"]
    assert config["projector_hidden_act"] == "gelu"
    assert config["multimodal_projector_bias"] is True
    assert isinstance(config["vision_feature_layer"], int)


def test_the_processor_gives_as_many_image_tokens_and_pixels_as_the_loader_counts(checkpoint: Path) -> None:
    config, settings = _read(checkpoint / "config.json"), _read(checkpoint / "processor_config.json")
    vision = config["vision_config"]
    assert settings["processor_class"] == "LlavaProcessor"
    assert settings["patch_size"] == vision["patch_size"]
    assert settings["image_token"] == "<image>"  # what vLLM itself writes into a prompt for a picture
    assert settings["vision_feature_select_strategy"] == config["vision_feature_select_strategy"]
    class_tokens = int(vision["model_type"] == "clip_vision_model")
    left_out = int(config["vision_feature_select_strategy"] == "default")
    counted = (vision["image_size"] // vision["patch_size"]) ** 2 + class_tokens - left_out
    _, processor = loaded(checkpoint)
    inputs = processor(images=Image.new("RGB", (50, 20)), text="<image>", return_tensors="pt")
    assert int((inputs["input_ids"] == config["image_token_index"]).sum()) == counted
    assert inputs["pixel_values"].shape[2:] == (vision["image_size"],) * 2


def test_tensors_have_names_that_the_loader_takes(checkpoint: Path) -> None:
    index = _read(checkpoint / "model.safetensors.index.json")["weight_map"]
    parts = {"vision_tower", "multi_modal_projector", "language_model"}
    assert {name.split(".")[0] for name in index} == parts
    assert {name.split(".")[1] for name in index if name.startswith("language_model.")} == {"model", "lm_head"}
    for name, file in index.items():
        with safe_open(checkpoint / file, "pt") as tensors:
            assert name in tensors.keys()  # noqa: SIM118


@pytest.fixture
def any_head(tmp_path: Path) -> Path:
    """For vocabkit's plugin: a softmax head on pooled patches of a DINOv2, which vLLM's own Llava lacks."""
    text = llm(tmp_path / "llm", llama(head_dim=32))
    shared = align([resolve(f"small={text}").vocabulary, resolve("qwen2").vocabulary])
    vision = dinov2(tmp_path / "vision", pixels=42)
    config = AdapterConfig.of(
        shared, llm="qwen2", vision_width=VISION, hidden_width=16, head="softmax", temperature=0.3,
        vision_model=str(vision), vision_pool=(2, 2), vision_keep_cls=False,
    )  # fmt: skip
    adapter, _ = transfer(randomised(LangBridgeAdapter(config, shared), 0), f"small={text}", scale=2.0)
    export(adapter, "hf", tmp_path / "served", ExportOptions(llm=f"small={text}"))
    return tmp_path / "served"


def test_vllm_answers_as_transformers_does(checkpoint: Path) -> None:
    answers_agree(checkpoint, *loaded(checkpoint))


def test_vllm_with_the_plugin_answers_as_transformers_does_with_any_head(any_head: Path) -> None:
    with quiet_transformers():
        model: Any = AutoModelForImageTextToText.from_pretrained(any_head)
        answers_agree(any_head, model.eval(), AutoProcessor.from_pretrained(any_head))


def answers_agree(checkpoint: Path, model: Any, processor: Any) -> None:
    """Assert that vLLM's answers depend on the picture, and that its first tokens are as likely as in transformers."""
    pictures = {"red.png": Image.new("RGB", (40, 30), "red"), "rings.png": Image.radial_gradient("L").convert("RGB")}
    for name, picture in pictures.items():
        picture.save(checkpoint.parent / name)
    out = in_vllm(checkpoint.parent, SCRIPT, checkpoint, QUESTION, *pictures, "--dtype", "float32")
    red, rings = (json.loads(line) for line in out.splitlines() if line.startswith('{"file"'))
    assert red["answer"] != rings["answer"]
    for said, picture in zip((red, rings), pictures.values(), strict=True):
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True)
        inputs = processor(images=picture, text=text, return_tensors="pt")
        assert said["prompt_tokens"] == inputs["input_ids"].shape[1]
        with torch.no_grad():
            logprobs = model(**inputs).logits[0, -1].log_softmax(-1)
        for token, logprob in said["next"].items():
            assert logprob == pytest.approx(float(logprobs[int(token)]), abs=0.01)


LOAD = """
import json, sys
from vllm import LLM
for folder in sys.argv[1:]:
    try:
        LLM(folder, enforce_eager=True)
    except Exception as error:
        print("\\nREFUSED " + json.dumps([folder, str(error)]), flush=True)
"""


def test_wrong_settings_are_refused_at_load(any_head: Path) -> None:
    changes = {
        "scale": ("config.json", ("adapter", "scale"), -1.0, "scale -1.0: must be a positive number"),
        "pool": ("config.json", ("adapter", "adapter", "vision_pool"), [99, 1], "do not go together"),
        "length": ("config.json", ("image_seq_length",), 16, "image_seq_length 16 should be 4"),
        "processor": ("processor_config.json", ("image_seq_length",), 16, "image_seq_length 16, but config.json has 4"),
    }
    for name, (file, place, value, _) in changes.items():
        folder = Path(shutil.copytree(any_head, any_head.parent / name))
        settings = inner = _read(folder / file)
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        (folder / file).write_text(json.dumps(settings), "utf-8")
    out = in_vllm(any_head.parent, "-c", LOAD, *changes)
    said = dict(json.loads(line[8:]) for line in out.splitlines() if line.startswith("REFUSED "))
    for name, (*_, expected) in changes.items():
        assert expected in said[name]
