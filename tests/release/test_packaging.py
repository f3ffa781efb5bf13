"""pyproject.toml and MANIFEST.in against the tree: nothing that was added is left out of a release."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FOLDERS = {"vocabkit": "vocabkit", "vocabkit_cli": "cli", "vocabkit_data": "data"}
LIGHT = [
    "vocabkit",
    "vocabkit_cli.app",
    "vocabkit.shared.align",
    "vocabkit.report.vocabularies",
    "vocabkit.llm.environment",
]


def tree(folder: str) -> set[Path]:
    """Files of a folder, without what tools leave in it."""
    files = {path for path in (ROOT / folder).rglob("*") if path.is_file()}
    return {path for path in files if "__pycache__" not in path.parts and path.suffix not in (".tmp", ".pyc")}


def test_every_folder_with_python_code_is_a_package() -> None:
    found = set()
    for package, folder in FOLDERS.items():
        for parent in {path.parent for path in tree(folder) if path.suffix == ".py"}:
            found.add(".".join([package, *parent.relative_to(ROOT / folder).parts]))
    assert sorted(found) == sorted(PROJECT["tool"]["setuptools"]["packages"])


def test_every_other_file_of_a_package_is_package_data() -> None:
    shipped = set()
    for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items():
        name, _, rest = package.partition(".")
        home = ROOT.joinpath(FOLDERS[name], *rest.split(".") if rest else ())
        shipped |= {path for pattern in patterns for path in home.glob(pattern)}
    others = {path for folder in FOLDERS.values() for path in tree(folder) if path.suffix != ".py"}
    assert shipped == others


def test_every_extra_that_the_program_names_exists() -> None:
    texts = [path.read_text("utf-8") for path in (*tree("vocabkit"), *tree("cli")) if path.suffix == ".py"]
    called = {extra for text in texts for extra in re.findall(r'needs_extra\("(\w+)"', text)}
    told = {
        extra for text in texts for group in re.findall(r"vocabkit\[([\w,]+)\]'", text) for extra in group.split(",")
    }
    assert called | told <= PROJECT["project"]["optional-dependencies"].keys()
    assert called


@pytest.mark.parametrize("module", LIGHT)
def test_it_imports_without_a_warning(module: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import {module}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
