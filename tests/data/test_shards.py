"""shards: a folder of files with equal settings, each whole, the index last."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors import safe_open

from vocabkit.data.shards import INDEX, ShardFolder
from vocabkit.errors import VocabkitError


def test_tensors_carry_their_header(tmp_path: Path) -> None:
    ShardFolder(tmp_path / "out", "results", {}, "inference/1").write_tensors("0", {"x": torch.ones(2)}, '{"a": 1}')
    with safe_open(tmp_path / "out" / "0.safetensors", "pt") as opened:
        assert opened.metadata() == {"vocabkit": '{"a": 1}'}
        assert opened.get_tensor("x").tolist() == [1, 1]


def test_index_comes_last_and_failed_writes_leave_nothing(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path, "results", {}, "inference/1")
    folder.write_table("0", pa.table({"x": [1]}), {"format": "inference/1"})
    assert [file.name for file in tmp_path.iterdir()] == ["0.arrow"]
    (tmp_path / "1.safetensors").mkdir()
    with pytest.raises(VocabkitError, match=r"1\.safetensors: is a folder"):
        folder.write_tensors("1", {"x": torch.ones(2)}, "{}")
    folder.finish(b"{}")
    assert (tmp_path / INDEX).read_bytes() == b"{}"
    assert not list(tmp_path.glob(".vocabkit-*"))


def test_equal_settings_pass_whatever_their_type(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path, "features", {"pool": (2, 2), "layer": -2}, "x/1")
    folder.check({"pool": [2, 2], "layer": -2, "name": "moved"})
    with pytest.raises(VocabkitError, match=r"other settings \(`pool` \[2, 3\], now \[2, 2\]\)"):
        folder.check({"pool": [2, 3], "layer": -2, "name": "moved"})


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            {"pool": None, "layer": -2},
            r"features of other settings \(`pool` none, now \[2, 2\]\); choose another folder",
        ),
        ({"pool": [2, 2]}, "`layer` none, now -2"),
        ({"pool": "x" * 1000, "layer": -2}, '`pool` "x{78}…, now'),
        ({"pool": "a\nb", "layer": -2}, r'`pool` "a\\nb", now'),
        ({}, r"`pool` none, now \[2, 2\]; `layer` none, now -2"),
    ],
)
def test_other_settings_raise_in_one_line(tmp_path: Path, found: dict[str, object], message: str) -> None:
    folder = ShardFolder(tmp_path, "features", json.loads('{"pool": [2, 2], "layer": -2}'), "x/1")
    with pytest.raises(VocabkitError, match=message) as caught:
        folder.check(found)
    assert "\n" not in str(caught.value)


def test_fingerprints_and_switches_are_told_in_words(tmp_path: Path) -> None:
    asked = {"question": "What?", "template": "plain"}
    settings = {"adapter": "a", "llm": "x", "vision": "v", "words": False, "captions": asked, "per_shard": 4}
    folder = ShardFolder(tmp_path, "results", settings, "inference/1")

    def told(**found: object) -> str:
        with pytest.raises(VocabkitError) as caught:
            folder.check({**settings, **found})
        return str(caught.value).split("(")[1].split(")")[0]

    assert told(adapter="b") == "another adapter, or other weights of its LLM"
    assert told(adapter="b", llm="y", per_shard=2) == 'another LLM, or an adapter for another one: "y", now "x"'
    assert told(vision="w", words=True) == "another vision model; with `words`, now without"
    assert told(captions=None, adapter="b") == "without `captions`, now with"
    assert told(captions={**asked, "question": "Who?"}) == '`question` "Who?", now "What?"'
    assert told(per_shard=2) == "`per_shard` 2, now 4"


@pytest.mark.parametrize("content", [b'{"name": "my package"}', b"[1, 2]", b"notes", b'{"format": "x/1"}', b""])
def test_index_of_something_else_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / INDEX).write_bytes(content)
    with pytest.raises(VocabkitError, match=r"has an index\.json.* that is not of results; choose another folder"):
        ShardFolder(tmp_path, "results", {}, "inference/1")
    assert (tmp_path / INDEX).read_bytes() == content
    (tmp_path / INDEX).write_text('{"format": "inference/1"}')
    ShardFolder(tmp_path, "results", {}, "inference/1")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("simplecache::s3://bucket/seen", "a chain of stores can't be written to; give the last one alone"),
        ("s3://", r"names no bucket; give one and a folder in it, such as s3://bucket/seen"),
        ("file:///tmp/seen", "give the path itself, /tmp/seen"),
        ("sftp://host/seen", "files can't be written whole to sftp://"),
    ],
)
def test_url_that_shards_can_not_be_written_to_is_refused(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(VocabkitError, match=f"{url}: {message}"):
        ShardFolder(url, "results", {}, "inference/1")


def test_store_is_written_to_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this shows whether there is such a bucket, and whether it takes what this user writes."""

    def refuses(*given: object, **settings: object) -> None:
        raise PermissionError("Access Denied")

    ShardFolder("memory://shards/open", "results", {}, "inference/1")
    assert not fsspec.filesystem("memory").find("/shards/open")
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuses)
    with pytest.raises(VocabkitError, match=r"memory://shards/closed: can't write here \('Access Denied'\)"):
        ShardFolder("memory://shards/closed", "results", {}, "inference/1")


def test_file_in_place_of_the_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VocabkitError, match="file: is a file; name a folder"):
        ShardFolder(tmp_path / "file", "results", {}, "inference/1")
