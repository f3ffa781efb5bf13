"""A small Llava that somebody trained, as a folder in the layout of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_world import World

from vocabkit.train.train import train
from vocabkit.transfer.export.export import ExportOptions, export


@pytest.fixture(scope="session")
def projector(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLP of LLM one that learned the captions of coloured pictures."""
    recipe = world.recipe(connector="mlp", shared=None, steps=80, learning_rate=0.02, batch=12, template="plain")
    return train(recipe, tmp_path_factory.mktemp("mlp") / "out").adapter


@pytest.fixture(scope="session")
def llava(world: World, projector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its LLM and its vision model."""
    folder = tmp_path_factory.mktemp("llava") / "llava"
    export(projector, "llava", folder, ExportOptions(llm=world.one, vision=str(world.vision)))
    return folder
