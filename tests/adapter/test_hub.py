"""The hub: what is pushed there comes back from there to the bit, at any of its revisions."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small_adapters import assert_same_state, langbridge, projector
from tiny_llms import target
from writable_hub import WritableHub

from vocabkit.adapter.checkpoint import CARD, CONFIG, FOLDER_FILES, SHARED, WEIGHTS
from vocabkit.adapter.model import LangBridgeAdapter, load_adapter
from vocabkit.errors import VocabkitError
from vocabkit.transfer.transfer import transfer

TOKEN = "hf_of_the_owner"
PUSH_AND_LOAD = """
import json, sys
from vocabkit.errors import VocabkitError
from vocabkit.transfer.transfer import transfer
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.adapter.model import load_adapter
pushed = []
for step, name, argument in json.loads(sys.argv[1]):
    try:
        if step == "push":
            pushed.append(load_adapter(argument).push_to_hub(name).rpartition("/")[2])
            print(pushed[-1])
        else:
            load_adapter(name.format(*pushed)).save(argument)
            print("saved")
    except VocabkitError as error:
        print(error)
"""


@dataclass
class Client:
    """Fresh processes that use a hub as theirs: huggingface_hub reads its settings when it is imported."""

    hub: WritableHub
    home: Path

    def run(self, *command: str, **environment: str) -> str:
        """What it prints."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        settings = {"HF_HOME": str(self.home), "HF_ENDPOINT": self.hub.url, "HF_TOKEN": TOKEN}
        settings |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
        done = subprocess.run(
            [sys.executable, "-W", "error::UserWarning", *command],
            env=kept | settings,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.stdout + done.stderr

    def do(self, *steps: tuple[str, str, Path], **environment: str) -> list[str]:
        """("push", repository, checkpoint) and ("load", hub id, where to save it): commit, saved or refusal of each."""
        script = json.dumps([(step, name, str(path)) for step, name, path in steps])
        return self.run("-c", PUSH_AND_LOAD, script, **environment).splitlines()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """Of a hub of its own."""
    with WritableHub(TOKEN) as hub:
        yield Client(hub, tmp_path / "home")


def test_pushed_adapter_loads_with_the_same_weights(client: Client, tmp_path: Path) -> None:
    adapters: dict[str, Any] = {"linear": langbridge(), "softmax": langbridge("softmax"), "mlp": projector()}
    for name, adapter in adapters.items():
        adapter.save(tmp_path / f"{name}.pt")
    steps = [("push", f"someone/{name}", tmp_path / f"{name}.pt") for name in adapters]
    loads = [("load", f"someone/{name}", tmp_path / f"again-{name}") for name in adapters]
    commits = client.do(*steps, *loads)
    assert commits[3:] == ["saved"] * 3
    for commit, (name, adapter) in zip(commits[:3], adapters.items(), strict=True):
        assert_same_state(load_adapter(tmp_path / f"again-{name}"), adapter)
        repository = client.hub.repositories[f"someone/{name}"]
        adapter.save(tmp_path / name)
        assert repository.commits == {commit: {f.name: f.read_bytes() for f in (tmp_path / name).iterdir()}}


def test_large_files_are_uploaded_to_lfs(client: Client, tmp_path: Path) -> None:
    langbridge().save(tmp_path / "adapter")
    client.do(("push", "someone/adapter", tmp_path / "adapter"))
    assert client.hub.repositories["someone/adapter"].sent_in_commits == {CARD, CONFIG}
    stored = {hashlib.sha256((tmp_path / "adapter" / name).read_bytes()).hexdigest() for name in (WEIGHTS, SHARED)}
    assert client.hub.storage.keys() == stored


def test_revision_selects_its_own_weights(client: Client, tmp_path: Path) -> None:
    old, new = langbridge(seed=1), langbridge(seed=2)
    old.save(tmp_path / "old")
    new.save(tmp_path / "new")
    name = "someone/adapter"
    first, second = client.do(*(("push", name, tmp_path / which) for which in ("old", "new")))
    client.hub.repositories[name].revisions["v1"] = first
    revisions = {"v1": old, first: old, second: new, "main": new}
    found = client.do(
        *(("load", f"{name}@{revision}", tmp_path / f"at-{revision}") for revision in revisions),
        ("load", name, tmp_path / "at-none"),
        ("load", f"{name}@v2", tmp_path / "never"),
    )
    assert found[:-1] == ["saved"] * 5
    assert found[-1] == f"{name}@v2: no such revision; give a branch, a tag or a commit after the @"
    for revision, adapter in {**revisions, "none": new}.items():
        assert_same_state(load_adapter(tmp_path / f"at-{revision}"), adapter)


def test_download_takes_only_checkpoint_files_and_then_works_offline(client: Client, tmp_path: Path) -> None:
    langbridge().save(tmp_path / "adapter")
    (commit,) = client.do(("push", "someone/adapter", tmp_path / "adapter"))
    client.hub.repositories["someone/adapter"].commits[commit]["optimizer.bin"] = b"large"
    load = ("load", f"someone/adapter@{commit}", tmp_path / "again")
    assert "cache" in client.do(load, HF_HUB_OFFLINE="1")[0]
    assert client.do(load) == ["saved"]
    assert client.do(load, HF_HUB_OFFLINE="1") == ["saved"]
    (snapshot,) = client.home.glob("hub/models--someone--adapter/snapshots/*")
    assert {path.name for path in snapshot.iterdir()} == set(FOLDER_FILES)


def test_transfer_accepts_a_hub_adapter_at_a_revision(client: Client, tmp_path: Path) -> None:
    old, new = langbridge(seed=1), langbridge(seed=2)
    old.save(tmp_path / "old")
    new.save(tmp_path / "new")
    first, _ = client.do(*(("push", "someone/adapter", tmp_path / which) for which in ("old", "new")))
    llama3 = target(tmp_path / "llm", "llama3")
    words = ["transfer", f"someone/adapter@{first}", "--to", "llama3", "--weights", str(tmp_path / "llm")]
    client.run("-m", "vocabkit_cli", *words, "--out", str(tmp_path / "moved"))
    assert_same_state(
        LangBridgeAdapter.from_pretrained(tmp_path / "moved", kind="transferred"), transfer(old, llama3)[0]
    )


def test_refused_push_raises_in_one_line(client: Client, tmp_path: Path) -> None:
    langbridge().save(tmp_path / "adapter")
    (answer,) = client.do(("push", "someone/adapter", tmp_path / "adapter"), HF_TOKEN="hf_of_someone_else")
    assert answer.startswith("someone/adapter: ")
    assert "`hf auth login`" in answer
    assert client.hub.repositories == {}


def test_two_revisions_raise() -> None:
    with pytest.raises(VocabkitError, match="someone/adapter@v1: names one revision and `revision` another"):
        LangBridgeAdapter.from_pretrained("someone/adapter@v1", revision="v2")
