"""data/: every shipped snapshot is reproducible, names its source and ships with its licence."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pyarrow as pa
import pytest

from vocabkit.tokenizer import snapshot
from vocabkit.tokenizer.catalog import catalog, read_source, resolve, snapshot_path

DATA = snapshot_path("x").parent
LICENSES = DATA / "licenses"
NOTICE = (DATA / "NOTICE.md").read_text("utf-8")
SNAPSHOTS = sorted({entry.snapshot for entry in catalog().values()})


def metadata(name: str) -> dict[str, str]:
    """Schema metadata of a shipped snapshot."""
    schema = pa.ipc.open_file(snapshot_path(name)).schema
    return {key.decode(): value.decode() for key, value in schema.metadata.items()}


def licence_files(name: str) -> list[str]:
    """Texts that NOTICE.md's table links for a snapshot."""
    rows = [row for row in NOTICE.splitlines() if row.startswith("|") and f"`{name}`" in row]
    links = [re.search(r"\(licenses/([\w.-]+\.txt)\)", row) for row in rows]
    return [(LICENSES / link[1]).read_text("utf-8") for link in links if link]


def test_catalog_uses_every_snapshot_that_is_shipped() -> None:
    assert sorted(path.stem for path in DATA.glob("*.arrow")) == SNAPSHOTS


@pytest.mark.robust
@pytest.mark.parametrize("name", SNAPSHOTS)
def test_snapshot_made_again_from_its_source_is_same_to_byte(name: str, sources: Path, tmp_path: Path) -> None:
    entry = catalog()[name]
    vocabulary = read_source(entry, sources / entry.provenance.file)
    snapshot.write(tmp_path / "again.arrow", vocabulary, entry.provenance)
    assert (tmp_path / "again.arrow").read_bytes() == snapshot_path(name).read_bytes()


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_shipped_snapshot_passes_checks_that_catalog_skips(name: str) -> None:
    assert snapshot.read(snapshot_path(name)).fingerprint == resolve(name).vocabulary.fingerprint


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_snapshot_says_where_it_comes_from(name: str) -> None:
    entry, found = catalog()[name], json.loads(metadata(name)["vocabkit.provenance"])
    assert found == {
        "file": entry.provenance.file,
        "sha256": entry.provenance.sha256,
        "package": entry.provenance.package,
        "version": entry.provenance.version,
        "licence": entry.provenance.licence,
    }
    assert all(found.values())
    assert "Converted by vocabkit" in metadata(name)["vocabkit.notice"]
    pinned = (Path(__file__).parents[1] / "sources.txt").read_text("utf-8")
    assert f"{found['package']}=={found['version']} " in pinned


def test_snapshot_holds_no_size_of_one_model(sources: Path) -> None:
    made = [resolve(name).vocabulary for name in SNAPSHOTS]
    made.append(read_source(catalog()["smollm2"], sources / catalog()["smollm2"].provenance.file))
    for vocabulary in made:
        assert (vocabulary.embedding_rows, vocabulary.width) == (None, None)


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_licence_of_snapshot_is_shipped_and_noted(name: str) -> None:
    licence = catalog()[name].provenance.licence
    title = {"Apache-2.0": "Apache License"}.get(licence or "", licence)
    texts = licence_files(name)
    assert texts
    assert title is not None
    assert any(title.casefold() in text.casefold() for text in texts)


@pytest.mark.parametrize("file", sorted(path.name for path in LICENSES.glob("LLAMA-*.txt")))
def test_what_llama_licence_asks_for_is_in_notice(file: str) -> None:
    text = (LICENSES / file).read_text("utf-8")
    attribution = re.search(r"within a “Notice” text file distributed as a part of such copies: “([^”]+)”", text)
    built_with = re.search(r"prominently display “([^”]+)”", text)
    policy = re.search(r"Acceptable Use Policy for the Llama Materials \(available at (\S+)\)", text)
    assert attribution
    assert built_with
    assert policy
    assert f"\n- {attribution[1]}\n" in NOTICE
    assert f"**{built_with[1]}**" in NOTICE
    assert f"]({policy[1]})" in NOTICE
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    assert built_with[1] in readme


def test_what_gemma_terms_ask_for_is_in_notice() -> None:
    text = (LICENSES / "GEMMA.txt").read_text("utf-8")
    asked = re.search(r'contains the following notice:\s+"([^"]+)"', text)
    assert asked
    assert f"\n{asked[1]}\n" in NOTICE
    assert "use restrictions in section 3.2" in NOTICE
    assert "https://ai.google.dev/gemma/prohibited_use_policy" in NOTICE
    assert "modified" in next(row for row in NOTICE.splitlines() if "`gemma3`" in row)


def test_wheel_holds_snapshots_their_licences_and_notice() -> None:
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["vocabkit_data"]
    shipped = {path for pattern in patterns for path in DATA.glob(pattern)}
    assert shipped >= {*DATA.glob("*.arrow"), *LICENSES.iterdir(), DATA / "NOTICE.md"}
    root = Path(__file__).parents[2]
    licences = {path for pattern in settings["project"]["license-files"] for path in root.glob(pattern)}
    assert licences >= {*(root / "data" / "licenses").iterdir(), root / "data" / "NOTICE.md", root / "LICENSE"}
