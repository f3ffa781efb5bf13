"""sdist and wheel: the same bytes each time, nothing missing, nothing else in them."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from distributions import ROOT, build, build_wheel_from_tree

PLACES = {"vocabkit": "vocabkit", "cli": "vocabkit_cli", "data": "vocabkit_data"}
"""Folder of the repository to package."""
MADE = {"PKG-INFO", "setup.cfg"}
"""What an sdist has beside the repository's files."""


def committed() -> set[str]:
    """Each file of the commit."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return set(listed.removesuffix("\0").split("\0"))


def test_a_second_build_gives_the_same_bytes(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    again_sdist, again_wheel = build(tmp_path)
    assert again_sdist.read_bytes() == sdist.read_bytes()
    assert again_wheel.read_bytes() == wheel.read_bytes()


def test_the_wheel_is_the_same_with_and_without_an_sdist_between(wheel: Path, tmp_path: Path) -> None:
    assert build_wheel_from_tree(tmp_path).read_bytes() == wheel.read_bytes()


def test_the_sdist_is_the_whole_repository(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        paths = [PurePosixPath(member.name) for member in archive if member.isfile()]
    files = {str(PurePosixPath(*path.parts[1:])) for path in paths}
    assert {file for file in files if not file.startswith("vocabkit.egg-info/")} - MADE == committed()


def test_the_wheel_is_the_packages_with_all_their_files(wheel: Path) -> None:
    folders = {PurePosixPath(file): PLACES.get(file.partition("/")[0]) for file in committed()}
    expected = {str(PurePosixPath(package, *file.parts[1:])) for file, package in folders.items() if package}
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
    assert {file for file in files if ".dist-info/" not in file} == expected


def test_licences_and_notice_go_with_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        licences = {file.partition(".dist-info/licenses/")[2] for file in archive.namelist()} - {""}
    asked_for = {file for file in committed() if file.startswith("data/licenses/")}
    assert licences == {"LICENSE", "data/NOTICE.md", *asked_for}
