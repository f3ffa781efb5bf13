"""Devices that are not there, and memory that is too small, end in one line with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import error_of, vocabkit_here
from infer_world import InferWorld

from vocabkit.errors import VocabkitError
from vocabkit.llm.devices import fitting_memory, open_device


def commands(world: InferWorld) -> dict[str, list[str | Path]]:
    """Every command with a device option, without it."""
    small = world.small
    plain = [small.data, "--llm", small.two, "--features", small.features]
    return {
        "infer": ["infer", world.mlp, world.pictures, "--out", "out"],
        "validate": ["validate", *plain, "--adapter", f"transferred={world.transferred}"],
        "transfer": [
            "transfer",
            world.langbridge,
            "--to",
            small.two,
            "--scale",
            "captions",
            "--data",
            small.data,
            "--features",
            small.features,
            "--out",
            "out",
        ],
    }


@pytest.mark.parametrize("command", ["infer", "validate", "transfer"])
def test_missing_device_raises_before_any_work(world: InferWorld, tmp_path: Path, command: str) -> None:
    names = ["toaster"] if torch.cuda.is_available() else ["toaster", "cuda", "cuda:1"]
    for name in names:
        problem = error_of(vocabkit_here(tmp_path, *commands(world)[command], "--device", name))
        assert problem.startswith(f"--device '{name}': can't be used here (")
        assert problem.endswith("use auto or cpu")
    assert not (tmp_path / "out").exists()


def test_auto_device_prefers_a_gpu() -> None:
    assert open_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert open_device("cpu").type == "cpu"


@pytest.mark.parametrize(("batch", "advice"), [(32, "use `batch` 16"), (1, "use a smaller model")])
def test_out_of_memory_suggests_a_smaller_batch(batch: int, advice: str) -> None:
    with pytest.raises(VocabkitError, match=f"out of memory with `batch` {batch}; {advice}"), fitting_memory(batch):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_torch_errors_pass_through() -> None:
    with pytest.raises(RuntimeError, match="must match"), fitting_memory(2):
        torch.ones(2) + torch.ones(3)
