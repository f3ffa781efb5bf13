"""Hub ids that can't be read: one clear line, and nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hub_children import open_in_child
from hub_model import CONFIG, DIGEST, SHARD, SHARDED, SINGLE, cache, index, stored
from range_server import COMMIT, Hub
from safetensors.torch import save
from table_files import NAME

# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "no such repository on the Hugging Face hub; if it is private"),
        (401, {"X-Error-Code": "RepoNotFound"}, "no such repository on the Hugging Face hub; if it is private"),
        (403, {"X-Error-Code": "GatedRepo"}, "accept its terms at https://huggingface.co/owner/name, then run"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "answers 401; if it is gated"),
        (403, {}, "answers 403; if it is gated, accept its terms at https://huggingface.co/owner/name"),
        (404, {}, "answers 404; check the name and HF_ENDPOINT"),
        (501, {}, "answers 501; try again later"),
    ],
)
def test_hub_refusal_raises_in_one_line(status: int, headers: dict[str, str], says: str, home: Path) -> None:
    with Hub(SINGLE, refuses=headers, status=status) as hub:
        error = open_in_child("owner/name", home, hub)["error"]
    assert error.startswith("owner/name: ")
    assert says in error
    assert "\n" not in error
    assert stored(home) == []


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"README.md": b"#"}, "no config.json with model.safetensors in this repository; download what it has"),
        ({"config.json": CONFIG, "model.gguf": b"GGUF"}, "no config.json with model.safetensors in this repository"),
        ({**SHARDED, "1.safetensors": b"\x05"}, "1.safetensors: has 1 bytes, but should have 8"),
        ({**SINGLE, "model.safetensors": b"\xff" * 99}, "model.safetensors: not a safetensors file"),
        ({**SINGLE, "model.safetensors": save({"x": torch.ones(3)})}, "no tensor is named like the embedding table"),
        ({**SINGLE, "model.safetensors": save({NAME: torch.ones(3)})}, "has shape '[3]', expected a matrix"),
        ({**SINGLE, "config.json": b"{}"}, "no model_type in it"),
        (
            {**SHARDED, "model.safetensors.index.json": index({NAME: "../../other/1.safetensors"})},
            "puts 'model.embed_tokens.weight' into '../../other/1.safetensors', not a file beside it",
        ),
    ],
)  # fmt: skip
def test_malformed_repository_raises(files: dict[str, bytes], says: str, home: Path) -> None:
    with Hub(files) as hub:
        error = open_in_child("owner/name", home, hub)["error"]
    assert says in error
    assert "\n" not in error
    assert stored(home) == []


def test_truncated_hub_file_raises(home: Path) -> None:
    with Hub(SINGLE, truncates=True) as hub:
        error = open_in_child("owner/name", home, hub)["error"]
    assert f"has {len(SHARD) // 2} bytes, but should have" in error
    assert "embeddings.safetensors" not in [path.name for path in stored(home)]


def test_storage_refusal_raises_in_one_line(home: Path) -> None:
    with Hub(SINGLE, stored_elsewhere=True, storage_status=403) as hub:
        error = open_in_child("owner/name", home, hub)["error"]
    assert "the Hugging Face hub answers 403" in error


def test_full_disk_raises_in_one_line(home: Path) -> None:
    home.mkdir()
    (home / "assets").write_text("a file where a folder should be")
    with Hub(SINGLE) as hub:
        error = open_in_child("owner/name", home, hub)["error"]
    assert "\n" not in error
    assert "assets" in error


# ---- offline -----------------------------------------------------------------------------------------------------


def test_cached_table_is_read_offline(home: Path) -> None:
    with Hub(SINGLE) as hub:
        open_in_child("owner/name", home, hub)
        hub.log.clear()
        for argument in ("owner/name", f"owner/name@{COMMIT}"):
            assert open_in_child(argument, home, hub, HF_HUB_OFFLINE="1")["rows"] == DIGEST
        assert hub.log == []


@pytest.mark.parametrize("cached", [(), ("config.json",), ("config.json", "model.safetensors.index.json")])
def test_uncached_table_offline_raises(cached: tuple[str, ...], home: Path) -> None:
    cache(home, SHARDED, *cached)
    with Hub(SINGLE) as hub:
        error = open_in_child("owner/name", home, hub, HF_HUB_OFFLINE="1")["error"]
        assert hub.log == []
    assert "can't reach the Hugging Face hub and it is not in the cache" in error


def test_no_network_raises_like_offline(home: Path) -> None:
    with Hub(SINGLE) as hub:
        open_in_child("owner/name", home, hub)
    answer = open_in_child("owner/name", home, HF_ENDPOINT="http://127.0.0.1:9")
    assert answer["rows"] == DIGEST
