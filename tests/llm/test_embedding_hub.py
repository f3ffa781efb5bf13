"""Hub ids: the bytes of the embedding table alone are downloaded, once, and an interruption costs nothing twice."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest
import torch
from hub_children import Child, open_in_child
from hub_model import DIGEST, FILES, HEADER, SHARDED, SINGLE, SIZE, WEIGHT, cache, stored
from range_server import COMMIT, Hub

# ---- what is transferred -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_only_header_and_table_are_downloaded_once(file: str, elsewhere: bool, home: Path) -> None:
    with Hub(FILES[file], stored_elsewhere=elsewhere) as hub:
        first = open_in_child("owner/name", home, hub)
        assert first["rows"] == DIGEST
        assert first["source"] == f"owner/name@{COMMIT[:12]}"
        assert hub.bytes_sent(file) == HEADER + SIZE
        assert hub.gets("2.safetensors") == []
        assert first["progress"][0] == (0, SIZE)
        assert first["progress"][-1] == (SIZE, SIZE)
        assert [done for done, _ in first["progress"]] == sorted({done for done, _ in first["progress"]})
        hub.log.clear()
        again = open_in_child("owner/name", home, hub)
        assert again["rows"] == DIGEST
        assert again["progress"] == []
        assert hub.gets(file) == []
    assert [path.name for path in stored(home)] == ["embeddings.safetensors"]
    assert stored(home)[0].parent == home / "assets" / "vocabkit" / "owner--name" / COMMIT
    assert stored(home)[0].stat().st_size < SIZE + 200


def test_hub_table_has_the_models_multiplier(home: Path) -> None:
    config = json.dumps({"model_type": "gemma2", "dtype": "bfloat16"}).encode()
    scaled = WEIGHT * torch.tensor(8.0, dtype=torch.bfloat16)
    with Hub({**SINGLE, "config.json": config}) as hub:
        answer = open_in_child("owner/name", home, hub)
    assert answer["rows"] == hashlib.sha256(scaled.view(torch.uint8).numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("file", FILES)
def test_table_that_the_user_names_is_downloaded_beside_the_usual_one(file: str, home: Path) -> None:
    renamed = {name: data.replace(b"embed_tokens", b"secret_sauce") for name, data in FILES[file].items()}
    name = "model.secret_sauce.weight"
    with Hub(renamed) as hub:
        assert "no tensor is named like" in open_in_child("owner/name", home, hub)["error"]
        wrong = open_in_child("owner/name", home, hub, "secret_sauce")["error"]
        assert f"no tensor 'secret_sauce' in it; tensors of 4000 rows are '{name} (4000 x 64)'" in wrong
        hub.log.clear()
        assert open_in_child("owner/name", home, hub, name)["rows"] == DIGEST
        assert hub.gets("2.safetensors") == []
        hub.log.clear()
        assert open_in_child("owner/name", home, hub, name)["rows"] == DIGEST
        assert hub.gets(file) == []
    assert len(stored(home)) == 1


def test_cached_weights_need_no_download(home: Path) -> None:
    cache(home, SHARDED, "config.json", "model.safetensors.index.json", "1.safetensors")
    with Hub(SHARDED) as hub:
        answer = open_in_child("owner/name", home, hub)
        assert answer["rows"] == DIGEST
        assert hub.gets("1.safetensors") == []
    assert answer["source"] == f"owner/name@{COMMIT[:12]}/model.safetensors.index.json"
    assert stored(home) == []


def test_server_that_ignores_ranges_gives_the_same_table(home: Path) -> None:
    with Hub(SINGLE, ignores_ranges=True) as hub:
        answer = open_in_child("owner/name", home, hub)
    assert answer["rows"] == DIGEST


def test_revision_selects_its_own_table(home: Path) -> None:
    with Hub(SINGLE, revisions=("v1.0", COMMIT)) as hub:
        assert open_in_child("owner/name@v1.0", home, hub)["rows"] == DIGEST
        assert open_in_child(f"owner/name@{COMMIT}", home, hub)["rows"] == DIGEST
        error = open_in_child("owner/name@v2.0", home, hub)["error"]
    assert error == "owner/name@v2.0: no such revision; give a branch, a tag or a commit after the @"


# ---- tokens ------------------------------------------------------------------------------------------------------


def test_token_is_sent_to_the_hub_only(home: Path) -> None:
    token = "hf_secret_of_the_user"
    with Hub(SINGLE, stored_elsewhere=True) as hub:
        assert open_in_child("owner/name", home, hub, HF_TOKEN=token)["rows"] == DIGEST
        at_hub = {r.authorization for r in hub.log if r.server == "hub" and r.file in SINGLE}
        at_storage = {r.authorization for r in hub.log if r.server == "storage"}
    assert at_hub == {f"Bearer {token}"}
    assert at_storage == {None}


# ---- interruptions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", [False, True])
def test_download_resumes_where_the_connection_broke_off(elsewhere: bool, home: Path) -> None:
    with Hub(SINGLE, stored_elsewhere=elsewhere, cuts=[100, 100_000, 0, 200_000]) as hub:
        answer = open_in_child("owner/name", home, hub)
        assert answer["rows"] == DIGEST
        assert hub.bytes_sent("model.safetensors") == HEADER + SIZE
    assert answer["progress"][-1] == (SIZE, SIZE)


def test_failed_download_resumes_in_the_next_run(home: Path) -> None:
    with Hub(SINGLE, cuts=[HEADER, 300_000, *[0] * 9]) as hub:
        error = open_in_child("owner/name", home, hub)["error"]
        assert error.startswith(f"owner/name/model.safetensors: the connection broke off after 300000 of {SIZE} bytes")
        assert error.endswith("; run again to resume there")
        assert [path.name for path in stored(home)] == ["embeddings.incomplete"]
        hub.log.clear()
        answer = open_in_child("owner/name", home, hub)
        assert answer["rows"] == DIGEST
        assert answer["progress"][0] == (300_000, SIZE)
        assert hub.bytes_sent("model.safetensors") == HEADER + SIZE - 300_000
    assert [path.name for path in stored(home)] == ["embeddings.safetensors"]


def test_killed_download_resumes(home: Path) -> None:
    with Hub(SINGLE, cuts=[HEADER, 300_000, *[0] * 9]) as hub:
        child = Child("owner/name", home, hub)
        deadline = time.monotonic() + 60
        while len(hub.gets("model.safetensors")) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        child.kill()
        hub.cuts.clear()
        assert "embeddings.safetensors" not in [path.name for path in stored(home)]
        assert open_in_child("owner/name", home, hub)["rows"] == DIGEST
    assert [path.name for path in stored(home)] == ["embeddings.safetensors"]


def test_partial_download_of_another_table_is_discarded(home: Path) -> None:
    folder = home / "assets" / "vocabkit" / "owner--name" / COMMIT
    folder.mkdir(parents=True)
    (folder / "embeddings.incomplete").write_bytes(bytes(1000))
    with Hub(SINGLE) as hub:
        assert open_in_child("owner/name", home, hub)["rows"] == DIGEST


def test_two_processes_download_once(home: Path) -> None:
    with Hub(SINGLE) as hub:
        both = [Child("owner/name", home, hub) for _ in range(2)]
        assert [child.answer()["rows"] for child in both] == [DIGEST, DIGEST]
        assert hub.bytes_sent("model.safetensors") <= 2 * HEADER + SIZE


@pytest.mark.parametrize("damage", [-500, 500])
def test_cached_table_of_wrong_length_is_downloaded_again(damage: int, home: Path) -> None:
    with Hub(SINGLE) as hub:
        open_in_child("owner/name", home, hub)
        (file,) = stored(home)
        content = file.read_bytes()
        file.write_bytes(content[:damage] if damage < 0 else content + bytes(damage))
        assert open_in_child("owner/name", home, hub)["rows"] == DIGEST
