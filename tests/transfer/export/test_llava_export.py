"""What an exported Llava checkpoint holds, for many kinds of LLMs and vision models, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from file_limit import files_of_at_most
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from small_models import (
    HIDDEN,
    VOCABULARY,
    WIDTH,
    llama,
    llm,
    loaded,
    loaded_llm,
    own_logits,
    projector,
    small_llm,
    visual_tokens,
)
from torch.testing import assert_close
from transformers import (
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    GPT2Config,
    PhiConfig,
    PreTrainedConfig,
)
from vision_models import PATCHES, clip, images, registers, siglip, whole_clip

from vocabkit.errors import VocabkitError
from vocabkit.transfer.export.llava import ExportedLlava, export_llava

HERE = Path(__file__).parent
PROMPT = "<image>\nWhat is it?"


@pytest.fixture
def vision(tmp_path: Path) -> Path:
    return clip(tmp_path / "vision")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return llm(tmp_path / "llm")


def tables(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, D) embedding table and head of an exported checkpoint, as they are on disk."""
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found["language_model.model.embed_tokens.weight"], found["language_model.lm_head.weight"]


def config_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


def assert_our_logits(out: ExportedLlava, vision: Path, llm: Path, **features: int) -> None:
    """The checkpoint computes what we compute on one image."""
    model, processor = loaded(out.folder)
    inputs = processor(text=PROMPT, images=images(1), return_tensors="pt")
    assert int((inputs["input_ids"] == out.image_token_id).sum()) == out.image_tokens
    visual = visual_tokens(vision, projector(), inputs["pixel_values"], **features)
    assert visual.shape == (1, out.image_tokens, WIDTH)
    with torch.no_grad():
        found = model(**inputs).logits[..., :VOCABULARY]
    assert_close(
        found, own_logits(loaded_llm(llm), inputs, visual, out.image_token_id)[..., :VOCABULARY], rtol=1e-4, atol=1e-5
    )


# ---- the LLM -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_tables_without_spare_rows_grow_by_their_mean_row(vision: Path, tmp_path: Path, tied: bool) -> None:
    source = llm(tmp_path / "llm", llama(tie_word_embeddings=tied))
    out = export_llava(projector(), vision, source, tmp_path / "out")
    assert (out.image_token_id, out.added_rows) == (VOCABULARY, 1)
    assert config_of(out.folder)["text_config"]["vocab_size"] == VOCABULARY + 1
    before = load_file(source / "model.safetensors")
    after = {key: tensor for file in out.folder.glob("*.safetensors") for key, tensor in load_file(file).items()}
    names = ["model.embed_tokens.weight"] if tied else ["model.embed_tokens.weight", "lm_head.weight"]
    for name in names:
        grown = after[f"language_model.{name}"]
        assert torch.equal(grown[:VOCABULARY], before[name])
        assert_close(grown[VOCABULARY:], before[name].mean(dim=0, keepdim=True))
    assert ("language_model.lm_head.weight" in after) is not tied
    assert_our_logits(out, vision, source)


def test_spare_row_is_used_if_there_is_one(vision: Path, tmp_path: Path) -> None:
    source = llm(tmp_path / "llm", llama(vocab_size=VOCABULARY + 6))
    out = export_llava(projector(), vision, source, tmp_path / "out")
    assert (out.image_token_id, out.added_rows) == (VOCABULARY, 0)
    before = load_file(source / "model.safetensors")["model.embed_tokens.weight"]
    embeddings, _ = tables(out.folder)
    assert embeddings.shape == before.shape
    others = torch.arange(VOCABULARY + 6) != VOCABULARY
    assert torch.equal(embeddings[others], before[others])
    assert_close(embeddings[VOCABULARY], before[:VOCABULARY].mean(dim=0))
    assert_our_logits(out, vision, source)


def test_own_image_token_keeps_its_row_and_is_never_generated(vision: Path, tmp_path: Path) -> None:
    source = llm(tmp_path / "llm", llama(vocab_size=VOCABULARY + 1), image_token=True)
    out = export_llava(projector(), vision, source, tmp_path / "out")
    assert (out.image_token_id, out.added_rows) == (VOCABULARY, 0)
    before = load_file(source / "model.safetensors")
    assert torch.equal(tables(out.folder)[0], before["model.embed_tokens.weight"])
    assert torch.equal(tables(out.folder)[1], before["lm_head.weight"])
    model, processor = loaded(out.folder)
    inputs = processor(text="abc", return_tensors="pt")
    with torch.no_grad():  # a head that wants the image token next
        hidden = model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
        model.lm_head.weight.zero_()[VOCABULARY] = hidden
        assert int(model(**inputs).logits[0, -1].argmax()) == VOCABULARY
    assert int(model.generate(**inputs, max_new_tokens=1, do_sample=False)[0, -1]) != VOCABULARY


@pytest.mark.parametrize("shard", ["5GB", 20_000])
def test_sharded_llm_keeps_its_shards(vision: Path, tmp_path: Path, shard: int | str) -> None:
    source = llm(tmp_path / "llm", shard=shard)
    count = len(list(source.glob("*.safetensors")))
    assert (count > 2) is (shard != "5GB")
    seen: list[tuple[int, int]] = []
    out = export_llava(projector(), vision, source, tmp_path / "out", progress=lambda _, *bytes_: seen.append(bytes_))
    assert len(list(out.folder.glob("*.safetensors"))) == count + 1
    total = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    assert len(seen) == count + 1
    assert (seen[0], seen[-1]) == ((0, total), (total, total))
    assert_our_logits(out, vision, source)


def test_torch_save_weights_are_read(vision: Path, small: Path, tmp_path: Path) -> None:
    for folder, name in ((small, "pytorch_model.bin"), (vision, "pytorch_model.bin")):
        weights = load_file(folder / "model.safetensors")
        torch.save(weights, tmp_path / name)
        (folder / "model.safetensors").unlink()
        shutil.move(tmp_path / name, folder / name)
    out = export_llava(projector(), vision, small, tmp_path / "out")
    assert_our_logits(out, vision, small)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_checkpoint_has_the_dtype_of_the_llm(vision: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    source = llm(tmp_path / "llm", dtype=dtype)
    out = export_llava(projector(), vision, source, tmp_path / "out")
    tensors = [tensor for file in out.folder.glob("*.safetensors") for tensor in load_file(file).values()]
    assert {tensor.dtype for tensor in tensors} == {dtype}
    config = config_of(out.folder)
    name = str(dtype).removeprefix("torch.")
    assert [config["dtype"], config["text_config"]["dtype"], config["vision_config"]["dtype"]] == [name] * 3


def test_config_of_the_llm_is_its_publishers(vision: Path, small: Path, tmp_path: Path) -> None:
    own = config_of(small) | {"rope_theta": 12345.0, "torch_dtype": "float32", "_name_or_path": "/home/someone/llm"}
    own["auto_map"] = {"AutoModel": "code.Model"}
    del own["rope_parameters"]
    (small / "config.json").write_text(json.dumps(own))
    out = export_llava(projector(), vision, small, tmp_path / "out")
    text = config_of(out.folder)["text_config"]
    assert (text["rope_theta"], text["torch_dtype"]) == (12345.0, "float32")
    assert text["architectures"] == ["LlamaForCausalLM"]
    assert not {"_name_or_path", "auto_map"} & text.keys()
    assert str(tmp_path) not in (out.folder / "config.json").read_text()
    assert_our_logits(out, vision, small)


def test_generation_stops_at_every_eos_id(vision: Path, small: Path, tmp_path: Path) -> None:
    own = {"eos_token_id": [3, 4], "temperature": 0.9, "top_p": 0.6, "suppress_tokens": [5]}
    (small / "generation_config.json").write_text(json.dumps(own))
    out = export_llava(projector(), vision, small, tmp_path / "out")
    found = json.loads((out.folder / "generation_config.json").read_text())
    assert found["eos_token_id"] == [3, 4, 257]
    assert found["suppress_tokens"] == [5, VOCABULARY]
    assert (found["temperature"], found["top_p"]) == (0.9, 0.6)
    assert found["pad_token_id"] == 257
    (small / "generation_config.json").unlink()
    again = export_llava(projector(), vision, small, tmp_path / "again")
    assert json.loads((again.folder / "generation_config.json").read_text())["eos_token_id"] == [257]


LIKE_NO_LLAVA: dict[str, Callable[[], PreTrainedConfig]] = {
    "gemma2": lambda: Gemma2Config(**small_llm(), final_logit_softcapping=30.0),
    "cohere": lambda: CohereConfig(**small_llm(), logit_scale=0.5),
    "phi": lambda: PhiConfig(**{key: value for key, value in small_llm().items() if key != "head_dim"}),
    "falcon_h1": lambda: FalconH1Config(**small_llm(), embedding_multiplier=2.0, mamba_d_ssm=32, mamba_n_heads=4),
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=1, n_head=4),
}


@pytest.mark.parametrize("family", LIKE_NO_LLAVA)
def test_llm_that_llava_would_not_reproduce_raises(vision: Path, tmp_path: Path, family: str) -> None:
    source = llm(tmp_path / "llm", LIKE_NO_LLAVA[family]())
    with pytest.raises(VocabkitError, match=rf"{source}: a {family} .*Llava checkpoint; export mmproj"):
        export_llava(projector(), vision, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_gemma2_without_soft_capping_is_accepted(vision: Path, tmp_path: Path) -> None:
    config = Gemma2Config(**small_llm() | {"tie_word_embeddings": True}, final_logit_softcapping=None)
    source = llm(tmp_path / "llm", config)
    out = export_llava(projector(), vision, source, tmp_path / "out")
    assert_our_logits(out, vision, source)


# ---- the vision model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_features_of_any_layer_are_exported(vision: Path, small: Path, tmp_path: Path, layer: int) -> None:
    out = export_llava(projector(), vision, small, tmp_path / "out", feature_layer=layer)
    assert config_of(out.folder)["vision_feature_layer"] == layer
    assert out.image_tokens == PATCHES
    assert_our_logits(out, vision, small, layer=layer)


def test_class_token_can_be_kept(vision: Path, small: Path, tmp_path: Path) -> None:
    out = export_llava(projector(), vision, small, tmp_path / "out", keep_cls=True)
    assert out.image_tokens == config_of(out.folder)["image_seq_length"] == PATCHES + 1
    assert_our_logits(out, vision, small, first=0)


def test_siglip_has_no_class_token(small: Path, tmp_path: Path) -> None:
    source = siglip(tmp_path / "siglip")
    out = export_llava(projector(), source, small, tmp_path / "out")
    assert out.image_tokens == PATCHES
    assert_our_logits(out, source, small, first=0)


def test_text_half_of_a_clip_is_left_out(small: Path, tmp_path: Path) -> None:
    source = whole_clip(tmp_path / "whole")
    out = export_llava(projector(), source, small, tmp_path / "out")
    assert_our_logits(out, source, small)
    names = {name for file in out.folder.glob("*.safetensors") for name in load_file(file)}
    assert all(
        name.startswith(("language_model.model.", "language_model.lm_head.", "multi_modal_projector."))
        for name in names
        if not name.startswith("vision_tower.vision_model.")
    )
    assert not [name for name in names if "text_model" in name or "logit_scale" in name]


def test_buffers_in_old_checkpoints_are_left_out(vision: Path, small: Path, tmp_path: Path) -> None:
    weights = load_file(vision / "model.safetensors")
    weights["embeddings.position_ids"] = torch.arange(PATCHES + 1)[None]
    save_file(weights, vision / "model.safetensors", metadata={"format": "pt"})
    out = export_llava(projector(), vision, small, tmp_path / "out")
    names = [name for file in out.folder.glob("*.safetensors") for name in load_file(file)]
    assert any("position_embedding" in name for name in names)
    assert not any("position_ids" in name for name in names)


def test_vision_model_with_registers_needs_keep_cls(small: Path, tmp_path: Path) -> None:
    source = registers(tmp_path / "dino")
    with pytest.raises(VocabkitError, match="has 5 tokens before its patches, but Llava leaves out only one"):
        export_llava(projector(), source, small, tmp_path / "out")
    out = export_llava(projector(), source, small, tmp_path / "out", keep_cls=True)
    assert out.image_tokens == PATCHES + 5
    model, processor = loaded(out.folder)
    inputs = processor(text=PROMPT, images=images(1), return_tensors="pt")
    assert model(**inputs).logits.isfinite().all()


# ---- files -------------------------------------------------------------------------------------------------------


def test_folder_has_the_files_that_readers_look_for(vision: Path, small: Path, tmp_path: Path) -> None:
    out = export_llava(projector(), vision, small, tmp_path / "out")
    names = {file.name for file in out.folder.iterdir()}
    assert names == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors", "model.safetensors.index.json", "preprocessor_config.json",
        "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert {oct(file.stat().st_mode) for file in out.folder.iterdir()} == {
        oct((out.folder / "README.md").stat().st_mode)
    }
    assert out.padded_units == WIDTH - HIDDEN


def test_card_describes_a_transformers_model(vision: Path, small: Path, tmp_path: Path) -> None:
    module = projector()
    module.config = dataclasses.replace(module.config, vision_model=str(vision))
    out = export_llava(module, vision, small, tmp_path / "out")
    card = ModelCard.load(out.folder / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "image-text-to-text")
    for file in out.folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()


def test_config_has_the_names_of_transformers_4(vision: Path, small: Path, tmp_path: Path) -> None:
    out = export_llava(projector(), vision, small, tmp_path / "out")
    processor = json.loads((out.folder / "preprocessor_config.json").read_text())
    tokenizer = json.loads((out.folder / "tokenizer_config.json").read_text())
    assert processor["image_processor_type"] == "CLIPImageProcessor"
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["model_input_names"] == ["input_ids", "attention_mask"]
    assert not {"extra_special_tokens", "local_files_only", "is_local", "backend"} & tokenizer.keys()


def test_interrupted_export_leaves_nothing(vision: Path, small: Path, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_llava(projector(), vision, small, tmp_path / "out", progress=interrupt)
    assert not list(tmp_path.glob("out")) + list(tmp_path.glob(".*"))


def test_killed_export_leaves_no_folder_and_can_be_repeated(vision: Path, small: Path, tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
sys.path[:0] = {[str(HERE.parents[1] / "support")]!r}
from small_models import projector
from vocabkit.transfer.export.llava import export_llava
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
export_llava(projector(), Path({str(vision)!r}), Path({str(small)!r}), Path({str(tmp_path / "out")!r}), progress=kill)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == -9
    assert not (tmp_path / "out").exists()
    export_llava(projector(), vision, small, tmp_path / "out")


def test_full_disk_raises(vision: Path, small: Path, tmp_path: Path) -> None:
    with files_of_at_most(150_000), pytest.raises(VocabkitError) as caught:
        export_llava(projector(), vision, small, tmp_path / "out")
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'out'}: can't write here")
    assert said.isprintable()
    assert not list(tmp_path.glob("out")) + list(tmp_path.glob(".*"))


def test_export_prints_nothing(
    vision: Path, small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        export_llava(projector(), vision, small, tmp_path / "out")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


# ---- what is refused ---------------------------------------------------------------------------------------------


def edit(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config_of(folder) | changes))


def drop(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


BROKEN: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "no llm": (lambda v, m: (m / "config.json").unlink(), r"llm: no config\.json in it"),
    "no vision model": (lambda v, m: (v / "config.json").unlink(), r"vision: no config\.json in it"),
    "config is no json": (lambda v, m: (m / "config.json").write_text("{"), "llm: transformers can't read its config"),
    "unknown family": (lambda v, m: edit(m, model_type="nonsense"), "llm: transformers can't read its config"),
    "no causal llm": (
        lambda v, m: shutil.copy(v / "config.json", m),
        "llm: transformers can't build it as a causal LLM",
    ),
    "multimodal": (lambda v, m: edit(m, model_type="llava", text_config={}), "llm: is a multimodal model already"),
    "quantised": (lambda v, m: edit(m, quantization_config={"quant_method": "gptq", "bits": 4}), "llm: .* quantised"),
    "no vision transformer": (
        lambda v, m: shutil.copy(m / "config.json", v),
        "vision: a llama has no fixed image_size",
    ),
    "no weights": (lambda v, m: (m / "model.safetensors").unlink(), "llm: not a model folder"),
    "no vision weights": (lambda v, m: (v / "model.safetensors").unlink(), "vision: not a model folder"),
    "truncated llm": (lambda v, m: truncate(m / "model.safetensors"), "model.safetensors: damaged"),
    "truncated vision": (lambda v, m: truncate(v / "model.safetensors"), "model.safetensors: damaged"),
    "lacks a tensor": (lambda v, m: drop(m, "model.norm.weight"), "llm: its weights lack .*norm.weight"),
    "lacks a vision tensor": (
        lambda v, m: drop(v, "pre_layrnorm.bias"),
        "vision: its weights lack .*pre_layrnorm.bias",
    ),
    "wrong shape": (lambda v, m: edit(m, intermediate_size=80), "llm: its tensors do not fit its config"),
    "no tokenizer": (lambda v, m: [f.unlink() for f in m.glob("tok*")], "llm: transformers can't load its tokenizer"),
    "broken tokenizer": (lambda v, m: truncate(m / "tokenizer.json"), "llm: transformers can't load its tokenizer"),
    "no image processor": (lambda v, m: (v / "preprocessor_config.json").unlink(), "vision: no image processor in it"),
    "generation config": (
        lambda v, m: (m / "generation_config.json").write_text("{"),
        "generation_config.json: not JSON",
    ),
}


@pytest.mark.parametrize("way", BROKEN)
def test_broken_model_raises(vision: Path, small: Path, tmp_path: Path, way: str) -> None:
    breaks, words = BROKEN[way]
    breaks(vision, small)
    with pytest.raises(VocabkitError, match=words) as caught:
        export_llava(projector(), vision, small, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out")) + list(tmp_path.glob(".*"))


def test_missing_shard_raises(vision: Path, tmp_path: Path) -> None:
    source = llm(tmp_path / "llm", shard=20_000)
    index = source / "model.safetensors.index.json"
    file = sorted(source.glob("*.safetensors"))[1]
    shutil.move(file, tmp_path / file.name)
    with pytest.raises(VocabkitError, match=rf"{file.name} is missing, which {index.name} names"):
        export_llava(projector(), vision, source, tmp_path / "out")
    index.write_text(index.read_text().replace(file.name, f"../{file.name}"))
    with pytest.raises(VocabkitError, match="not a file beside it"):
        export_llava(projector(), vision, source, tmp_path / "out")


def test_pickle_that_runs_code_raises(vision: Path, small: Path, tmp_path: Path) -> None:
    (small / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Path("/etc")}, small / "pytorch_model.bin")
    with pytest.raises(VocabkitError, match=r"pytorch_model\.bin: damaged, or holds more than plain tensors"):
        export_llava(projector(), vision, small, tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "entry"),
    [
        ("llm/config.json", "AutoConfig"),
        ("llm/tokenizer_config.json", "AutoTokenizer"),
        ("vision/preprocessor_config.json", "AutoImageProcessor"),
    ],
)
def test_remote_code_is_never_run(vision: Path, small: Path, tmp_path: Path, file: str, entry: str) -> None:
    settings = json.loads((tmp_path / file).read_text())
    for key in ("model_type", "tokenizer_class", "image_processor_type"):
        settings[key] = "TheirOwn" if key in settings else None
    target: Any = "code.TheirOwn" if entry != "AutoTokenizer" else ["code.TheirOwn", "code.TheirOwn"]
    (tmp_path / file).write_text(json.dumps(settings | {"auto_map": {entry: target}}))
    (tmp_path / file).with_name("code.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    with contextlib.suppress(VocabkitError):
        export_llava(projector(), vision, small, tmp_path / "out")
    assert not (tmp_path / "run").exists()


def test_mismatched_widths_raise(vision: Path, small: Path, tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match=r"llm: has width 48, but the adapter gives visual tokens of width 50"):
        export_llava(projector(50), vision, small, tmp_path / "out")
    with pytest.raises(VocabkitError, match=r"has 64 units, more than the LLM's width 48"):
        export_llava(projector(hidden=64), vision, small, tmp_path / "out")
    with pytest.raises(VocabkitError, match=r"other: its features have width 40, but the adapter takes 32"):
        export_llava(projector(), clip(tmp_path / "other", hidden_size=40), small, tmp_path / "out")


def test_layer_that_the_vision_model_lacks_raises(vision: Path, small: Path, tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match="has 4 hidden states, so there is no layer -5"):
        export_llava(projector(), vision, small, tmp_path / "out", feature_layer=-5)


def test_image_processor_for_another_size_raises(small: Path, tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match=r"makes images of 42 x 42 pixels.*the model takes 28 x 28"):
        export_llava(projector(), clip(tmp_path / "other", pixels=42), small, tmp_path / "out")


def test_numbers_beyond_the_dtype_of_the_llm_raise(vision: Path, tmp_path: Path) -> None:
    source, large = llm(tmp_path / "llm", dtype=torch.float16), projector()
    with torch.no_grad():
        large.linear_2.bias += 1e6
    with pytest.raises(VocabkitError, match=r"linear_2\.bias.* reaches 1e\+06, which overflows torch\.float16"):
        export_llava(large, vision, source, tmp_path / "out")


def test_existing_folder_is_not_replaced(vision: Path, small: Path, tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match="vision: already exists"):
        export_llava(projector(), vision, small, vision)
    assert (vision / "preprocessor_config.json").exists()
