"""Other programs, in an environment of their own: `make ecosystem`. Without it, none of these tests is collected."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from programs import PYTHON

collect_ignore_glob = [] if PYTHON in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `clip`, `llm`, a `projector` between them, and the exported checkpoint `llava-mine`."""
    from small_models import llm, projector
    from vision_models import clip

    from vocabkit.transfer.export.llava import export_llava

    folder = tmp_path_factory.mktemp("ecosystem")
    between = projector()
    between.save(folder / "projector")
    export_llava(between, clip(folder / "clip"), llm(folder / "llm"), folder / "llava-mine")
    return folder
