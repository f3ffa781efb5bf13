"""A checkpoint is described without torch, and without running what it holds."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
import torch
from small_adapters import langbridge
from tiny_llms import target

from vocabkit.adapter.description import describe
from vocabkit.adapter.model import LangBridgeAdapter, load_adapter
from vocabkit.errors import VocabkitError
from vocabkit.transfer.transfer import transfer


@pytest.mark.parametrize("layout", ["adapter", "adapter.pt"])
@pytest.mark.parametrize("adapter", [langbridge("linear"), langbridge("softmax", temperature=0.5)])
def test_description_is_config_and_vocabulary_of_the_loaded_adapter(
    tmp_path: Path, layout: str, adapter: LangBridgeAdapter
) -> None:
    adapter.save(tmp_path / layout)
    found, loaded = describe(tmp_path / layout), LangBridgeAdapter.from_pretrained(tmp_path / layout)
    assert found.config == loaded.config
    assert found.shared.fingerprint == loaded.shared.fingerprint


def test_transferred_adapter_is_described(tmp_path: Path) -> None:
    moved, _ = transfer(langbridge(), target(tmp_path / "llm", "llama3"))
    moved.save(tmp_path / "moved.pt")
    assert describe(tmp_path / "moved.pt").config == moved.config


def test_misspelled_file_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in a folder is named like a repository of an owner."""
    (tmp_path / "data").mkdir()
    langbridge().save(tmp_path / "data/scenes.pt")
    monkeypatch.chdir(tmp_path)
    for read in (describe, load_adapter):
        with pytest.raises(VocabkitError) as caught:
            read("data/scene.pt")
        assert str(caught.value) == "data/scene.pt: no such file; did you mean scenes.pt?"


class _Runs:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {shlex.quote(os.environ['TOUCHED'])}",)


class UntypedStorage:
    """Not that of torch."""


@pytest.mark.parametrize("value", [_Runs(), torch.float32, UntypedStorage], ids=["code", "of torch", "named alike"])
def test_pickle_with_more_than_tensors_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    """It could run code."""
    monkeypatch.setenv("TOUCHED", str(tmp_path / "touched"))
    torch.save({"config": "{}", "tensors": {"a": value}}, tmp_path / "adapter.pt")
    with pytest.raises(VocabkitError, match=r"adapter\.pt: damaged, or not an adapter of vocabkit"):
        describe(tmp_path / "adapter.pt")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "content",
    [{"a": torch.zeros(2)}, {"config": "{}", "shared_vocabulary": "text"}, {"config": 3}, torch.zeros(3), [1, 2]],
)
def test_other_file_of_torch_save_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "adapter.pt")
    with pytest.raises(VocabkitError, match=r"adapter\.pt: (damaged, or )?not an adapter"):
        describe(tmp_path / "adapter.pt")


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    langbridge().save(tmp_path / "adapter.pt")
    content = (tmp_path / "adapter.pt").read_bytes()
    (tmp_path / "adapter.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(VocabkitError, match="damaged"):
        describe(tmp_path / "adapter.pt")
