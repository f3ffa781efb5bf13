"""The code in docs/serving.md runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from small_models import projector
from vision_models import clip, images

from vocabkit.export.llava import export_llava

PAGE = Path(__file__).parents[3] / "docs/serving.md"


def test_the_checkpoint_answers_as_the_page_shows(smollm: Path, tmp_path: Path) -> None:
    export_llava(projector(576), clip(tmp_path / "clip"), smollm, tmp_path / "llava-mine")
    images(1)[0].save(tmp_path / "photo.jpg")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    code = next(block for block in blocks if "LlavaForConditionalGeneration" in block)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    assert "What is in the picture" not in done.stdout
