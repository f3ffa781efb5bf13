"""An exported checkpoint in transformers' own pipeline."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from programs import in_ecosystem

CODE = """
import json
from transformers import pipeline
model = pipeline("image-text-to-text", model="llava-mine", device="cpu")
said = []
for name in ("red.png", "rings.png"):
    asked = [{"role": "user", "content": [{"type": "image", "url": name}, {"type": "text", "text": "What?"}]}]
    settings = {"max_new_tokens": 12, "generate_kwargs": {"do_sample": False}}
    said += model(text=asked, return_full_text=False, **settings)
print(json.dumps([answer["generated_text"] for answer in said]))
"""


def test_the_pipeline_image_text_to_text_answers_by_what_the_picture_shows(small: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(small / "red.png")
    Image.radial_gradient("L").convert("RGB").save(small / "rings.png")
    red, rings = json.loads(in_ecosystem(small, "-c", CODE).splitlines()[-1])
    assert red
    assert rings
    assert red != rings
    assert "What?" not in red
