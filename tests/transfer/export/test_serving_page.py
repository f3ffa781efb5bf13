"""The code in docs/serving.md runs."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from small_models import llm, projector
from vision_models import clip, images

from vocabkit.llm.load import quiet_transformers
from vocabkit.transfer.export.llava import export_llava

PAGE = Path(__file__).parents[3] / "docs/serving.md"


def test_checkpoint_answers_as_the_page_shows(smollm: Path, tmp_path: Path) -> None:
    export_llava(projector(576), clip(tmp_path / "clip"), smollm, tmp_path / "llava-mine")
    images(1)[0].save(tmp_path / "photo.jpg")
    shown = run(tmp_path, code())
    assert shown.strip()
    assert "What is in the picture" not in shown


def test_prompt_of_the_page_has_one_bos(tmp_path: Path) -> None:
    template = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    export_llava(
        projector(),
        clip(tmp_path / "clip"),
        llm(tmp_path / "llm", template=template, bos=True),
        tmp_path / "llava-mine",
    )
    images(1)[0].save(tmp_path / "photo.jpg")
    shown = run(tmp_path, code() + '\nprint(inputs["input_ids"][0].tolist().count(256))')
    assert shown.splitlines()[-1] == "1"


def code() -> str:
    """That of the page which asks the checkpoint."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return next(block for block in blocks if "LlavaForConditionalGeneration" in block)


def run(folder: Path, code: str) -> str:
    """What it prints, run in `folder`."""
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as out, quiet_transformers():
        exec(compile(code, PAGE, "exec"), {})
    return out.getvalue()
