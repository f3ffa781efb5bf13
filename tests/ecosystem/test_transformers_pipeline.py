"""An exported checkpoint in transformers' own pipeline."""

from __future__ import annotations

import json
from pathlib import Path

from programs import in_ecosystem
from vision_models import images

CODE = """
import json
from transformers import pipeline
asked = [{"role": "user", "content": [{"type": "image", "url": "photo.png"}, {"type": "text", "text": "What?"}]}]
answers = pipeline("image-text-to-text", model="llava-mine", device="cpu")
print(json.dumps(answers(text=asked, max_new_tokens=6, return_full_text=False, generate_kwargs={"do_sample": False})))
"""


def test_the_pipeline_image_text_to_text_answers(small: Path) -> None:
    images(1)[0].save(small / "photo.png")
    (answer,) = json.loads(in_ecosystem(small, "-c", CODE).splitlines()[-1])
    assert isinstance(answer["generated_text"], str)
    assert answer["generated_text"]
    assert "What?" not in answer["generated_text"]
