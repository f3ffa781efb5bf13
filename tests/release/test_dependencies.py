"""docs/maintainers/dependencies.md and data/NOTICE.md: what comes with vocabkit, and under which licence."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs"))

import dependencies  # noqa: E402

PAGE = (ROOT / "docs/maintainers/dependencies.md").read_text("utf-8")
ROWS = {
    name: (version, licence)
    for name, version, licence in re.findall(r"^\| ([\w-]+) \| (\d\S*) \| (.+?) \|", PAGE, re.M)
}


def test_the_page_lists_the_packages_of_constraints_txt_in_their_versions() -> None:
    assert {name: version for name, (version, _) in ROWS.items()} == dependencies.pinned()


@pytest.mark.parametrize("package", ROWS)
def test_the_licence_of_a_package_is_what_it_states(package: str) -> None:
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        pytest.skip("not installed")
    assert ROWS[package][1] == dependencies.licence(package)


def test_the_notice_names_every_file_of_data() -> None:
    notice = (ROOT / "data/NOTICE.md").read_text("utf-8")
    rows = "\n".join(line for line in notice.splitlines() if line.startswith("|"))
    named = {name for cell in re.findall(r"`([^`]+)`", rows) for name in (cell, f"{cell}.arrow")}
    files = {path for path in (ROOT / "data").iterdir() if path.is_file()}
    assert {path.name for path in files} <= named
    assert set(re.findall(r"\(licenses/([\w.-]+)\)", rows)) <= {
        path.name for path in (ROOT / "data/licenses").iterdir()
    }
