"""`vocabkit export --as llava`: options, notes and errors."""

from __future__ import annotations

import json
import warnings
from contextlib import chdir
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from command_line import Done, error_of, vocabkit_here
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from small_models import HIDDEN, VOCABULARY, WIDTH, byte_tokenizer, llama, llm, loaded, loaded_llm
from vision_models import PATCHES, VISION, clip, registers

from vocabkit.adapter.config import AdapterConfig
from vocabkit.adapter.model import LangBridgeAdapter, load_adapter
from vocabkit.llm.load import load_llm, quiet_transformers
from vocabkit.shared.align import align
from vocabkit.tokenizer.catalog import resolve
from vocabkit.transfer.transfer import transfer

ROWS = 64


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with an adapter over single characters, a vision model and an LLM with a token for each byte."""
    clip(tmp_path / "vision")
    llm(tmp_path / "llm")
    write_adapter(tmp_path)
    return tmp_path


def write_adapter(folder: Path, **recorded: Any) -> None:
    """adapter.pt, which records this about its features, and the same moved to the LLM, moved.pt."""
    shared = align([resolve("qwen2").vocabulary, resolve("llama3").vocabulary]).select(range(ROWS))
    config = AdapterConfig.of(shared, llm="qwen2", vision_width=VISION, **{"hidden_width": HIDDEN} | recorded)
    adapter = LangBridgeAdapter(config, shared)
    adapter.save(folder / "adapter.pt")
    transfer(adapter, str(folder / "llm"))[0].save(folder / "moved.pt")


def export(here: Path, *words: str) -> Done:
    """Run the command with these words besides."""
    llm = () if "mmproj" in words else ("--llm", "llm")
    fixed = ("export", "moved.pt", "--as", "llava", *llm, "--vision", "vision", "--out", "out")
    return vocabkit_here(here, *fixed, *words)


def config_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


@pytest.mark.parametrize(
    ("words", "tokens", "strategy"), [((), PATCHES, "default"), (("--keep-cls",), PATCHES + 1, "full")], ids=str
)
def test_class_token_is_dropped_unless_kept(here: Path, words: tuple[str, ...], tokens: int, strategy: str) -> None:
    done = export(here, *words)
    assert done.returncode == 0, done.stderr
    config = config_of(here / "out")
    assert (config["image_seq_length"], config["vision_feature_select_strategy"]) == (tokens, strategy)


def test_damaged_gguf_raises(here: Path) -> None:
    with safe_open(here / "llm/model.safetensors", "numpy") as file:
        rows = file.get_tensor("model.embed_tokens.weight")
    assert rows.shape == (VOCABULARY, WIDTH)
    writer = gguf.GGUFWriter(here / "rows-only.gguf", "unheard-of")
    writer.add_tensor("token_embd.weight", rows.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    done = export(here, "--llm", "rows-only.gguf")
    assert done.stderr.splitlines()[-1].startswith("error: rows-only.gguf: ")
    assert (done.returncode, (here / "out").exists()) == (2, False)


# ---- the features of its training --------------------------------------------------------------------------------


def test_recorded_keep_cls_is_exported(here: Path) -> None:
    write_adapter(here, vision_keep_cls=True)
    done = export(here)
    assert done.returncode == 0, done.stderr
    assert config_of(here / "out")["vision_feature_select_strategy"] == "full"


@pytest.mark.parametrize(("recorded", "words"), [("pad", ()), (None, ("--image-aspect-ratio", "pad"))])
def test_padding_is_exported(here: Path, recorded: str | None, words: tuple[str, ...]) -> None:
    write_adapter(here, vision_aspect_ratio=recorded)
    done = export(here, *words)
    assert done.returncode == 0, done.stderr
    settings = json.loads((here / "out" / "preprocessor_config.json").read_text())
    assert (settings["image_processor_type"], settings["do_pad"]) == ("LlavaImageProcessor", True)


@pytest.mark.parametrize(("recorded", "words"), [("pad", ()), ("square", ("--image-aspect-ratio", "pad"))])
def test_mmproj_takes_adapters_of_padded_pictures_or_others_on_request(
    here: Path, recorded: str, words: tuple[str, ...]
) -> None:
    write_adapter(here, vision_aspect_ratio=recorded)
    done = export(here, "--as", "mmproj", "--out", "x.gguf", *words)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("recorded", "words", "says"),
    [
        ({"vision_keep_cls": False, "vision_pool": (2, 2)}, (), "takes patches pooled to 2x2, but a Llava checkpoint"),
        ({"vision_keep_cls": False}, ("--keep-cls",), "was trained without class tokens; leave --keep-cls out"),
        ({"vision_keep_cls": True}, ("--as", "mmproj", "--out", "x.gguf"), "class tokens, which llama.cpp leaves"),
        (
            {"vision_keep_cls": False, "vision_pool": (2, 2)},
            ("--as", "mmproj", "--out", "x.gguf"),
            "but llama.cpp has no pooling; export projector",
        ),
        # with several obstacles, the one that no other option or form gets round
        ({"head": "softmax", "hidden_width": WIDTH + 1}, (), "a softmax head does not fold"),
        (
            {"head": "softmax", "vision_keep_cls": False, "vision_pool": (2, 2)},
            ("--as", "mmproj", "--out", "x.gguf"),
            "takes patches pooled to 2x2, but llama.cpp has no pooling",
        ),
        ({"hidden_width": WIDTH + 1, "vision_pool": (2, 2)}, (), "takes patches pooled to 2x2, but a Llava checkpoint"),
        ({"vision_aspect_ratio": "pad"}, ("--image-aspect-ratio", "square"), "trained with image_aspect_ratio pad"),
        (
            {"vision_aspect_ratio": "square"},
            ("--as", "mmproj", "--out", "x.gguf"),
            "llama.cpp pads every picture to a square, but the adapter was trained with image_aspect_ratio square",
        ),
    ],
)
def test_unsupported_features_raise_before_the_work(
    here: Path, recorded: dict[str, Any], words: tuple[str, ...], says: str
) -> None:
    write_adapter(here, **recorded)
    (here / "llm/model.safetensors").unlink()
    assert says in error_of(export(here, *words))
    assert not (here / "out").exists()


def test_unsupported_vision_model_raises_before_the_llm_is_read(here: Path) -> None:
    projector(here)
    registers(here / "vision")
    (here / "llm.gguf").write_bytes(b"GGUF, or not")
    words = ("export", "projector", "--as", "llava", "--llm", "llm.gguf", "--vision", "vision", "--out", "out")
    done = vocabkit_here(here, *words)
    assert "has 5 tokens before its patches, but Llava leaves out only one" in error_of(done)
    assert "dequantising" not in done.stderr


def projector(here: Path) -> None:
    words = ("export", "moved.pt", "--as", "projector", "--out", "projector")
    assert vocabkit_here(here, *words).returncode == 0


# ---- LoRA --------------------------------------------------------------------------------------------------------


def test_lora_weights_are_merged_into_the_exported_llm(here: Path) -> None:
    projector(here)
    lora(here / "lora", "mine=llm")
    words = ("export", "projector", "--as", "llava", "--llm", "mine=lora", "--vision", "vision", "--out", "out")
    done = vocabkit_here(here, *words)
    assert done.returncode == 0, done.stderr
    found = dict(loaded(here / "out")[0].model.language_model.named_parameters())
    with chdir(here):
        expected = dict(load_llm("mine=lora").model.model.named_parameters())
    changed = "layers.0.mlp.up_proj.weight"
    for name in (changed, "layers.1.self_attn.q_proj.weight", "norm.weight"):
        assert torch.equal(found[name], expected[name])
    assert not torch.equal(found[changed], loaded_llm(here / "llm").model.get_parameter(changed))


def test_adapter_moves_to_trained_embeddings_of_lora_weights_as_they_are_exported(here: Path) -> None:
    lora(here / "lora", "mine=llm", modules_to_save=["embed_tokens"])
    done = vocabkit_here(here, "transfer", "adapter.pt", "--to", "mine=lora", "--out", "tuned.pt")
    assert done.returncode == 0, done.stderr
    assert "258 embedding rows of llm/model.safetensors with lora" in done.stderr
    assert vocabkit_here(here, "check", "tuned.pt", "adapter.pt", "--to", "mine=lora").returncode == 0
    assert vocabkit_here(here, "check", "tuned.pt", "adapter.pt", "--to", "mine=llm").returncode == 1
    words = ("--as", "llava", "--llm", "mine=lora", "--vision", "vision", "--out", "out")
    assert "mine=lora" in error_of(vocabkit_here(here, "export", "moved.pt", *words))  # moved to the table from before
    done = vocabkit_here(here, "export", "tuned.pt", *words)
    assert done.returncode == 0, done.stderr
    tuned = load_adapter(here / "tuned.pt")
    table = loaded(here / "out")[0].get_input_embeddings().weight
    assert tuned.shared is not None
    ids = torch.from_numpy(tuned.shared.look_up(resolve("mine=" + str(here / "llm")).vocabulary)).long()
    assert torch.equal(tuned.embeddings, table[ids])


def test_output_layer_that_lora_weights_untie_is_exported_and_counted(here: Path) -> None:
    llm(here / "tied", llama(tie_word_embeddings=True))
    (here / "llm").rename(here / "untied")
    (here / "tied").rename(here / "llm")
    lora(here / "plain", "mine=llm")
    lora(here / "lora", "mine=llm", modules_to_save=["embed_tokens"])
    sizes = {}
    for name in ("plain", "lora"):
        moved = vocabkit_here(here, "transfer", "adapter.pt", "--to", f"mine={name}", "--out", f"{name}.pt")
        assert moved.returncode == 0, moved.stderr
        words = ("--as", "llava", "--llm", f"mine={name}", "--vision", "vision", "--out", f"{name}-out", "--json")
        done = vocabkit_here(here, "export", f"{name}.pt", *words)
        assert done.returncode == 0, done.stderr
        sizes[name] = json.loads(done.stdout)["bytes"]
    assert sizes["lora"] - sizes["plain"] == VOCABULARY * WIDTH * 4
    model = loaded(here / "lora-out")[0]
    base = loaded_llm(here / "llm").get_input_embeddings().weight
    assert torch.equal(model.get_output_embeddings().weight[:VOCABULARY], base)
    assert not torch.equal(model.get_input_embeddings().weight[:VOCABULARY], base)


def test_adapter_moves_to_lora_weights_that_leave_the_embeddings_as_they_are(here: Path) -> None:
    lora(here / "lora", "mine=llm")
    for source in ("llm", "lora"):
        done = vocabkit_here(here, "transfer", "adapter.pt", "--to", f"mine={source}", "--out", f"{source}.pt")
        assert done.returncode == 0, done.stderr
    assert torch.equal(load_adapter(here / "llm.pt").embeddings, load_adapter(here / "lora.pt").embeddings)


@pytest.mark.parametrize("names", [{"a": "a"}, {"a": "b", "b": "x=a"}], ids=["itself", "each other"])
def test_lora_weights_naming_themselves_as_base_raise(here: Path, names: dict[str, str]) -> None:
    projector(here)
    for folder, base in names.items():
        (here / folder).mkdir()
        (here / folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    words = ("export", "projector", "--as", "llava", "--llm", "mine=a", "--vision", "vision", "--out", "out")
    last = list(names)[-1]
    assert error_of(vocabkit_here(here, *words)) == (
        f"{last}/adapter_config.json: names a, LoRA weights that lead back here; name the LLM itself in it"
    )
    assert not (here / "out").exists()


def lora(folder: Path, base: str, **options: Any) -> None:
    """Random LoRA weights for the LLM beside `folder`, saved as `vocabkit train` saves them."""
    with quiet_transformers(), warnings.catch_warnings(action="ignore"):  # peft about it, and tied layers
        config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", init_lora_weights=False, **options)
        model = get_peft_model(loaded_llm(folder.parent / "llm"), config)
        if options:
            torch.nn.init.normal_(model.get_input_embeddings().weight)
        model.peft_config["default"].base_model_name_or_path = base
        model.save_pretrained(folder, save_embedding_layers=False)
    byte_tokenizer().save_pretrained(folder)
