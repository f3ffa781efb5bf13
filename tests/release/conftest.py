"""The distributions that `make release` made. Without them, only what needs no network is collected."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from environments import python_of, pythons

DIST = "RELEASE_FOLDER"
"""Environment variable with the folder that holds sdist and wheel."""
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PYTHONS = pythons() if DIST in os.environ else {}
collect_ignore = [] if DIST in os.environ else ["test_distributions.py", "test_installed.py"]


@pytest.fixture(scope="session")
def sdist() -> Path:
    """The sdist."""
    return _only("vocabkit-*.tar.gz")


@pytest.fixture(scope="session")
def wheel() -> Path:
    """The wheel."""
    return _only("vocabkit-*.whl")


@pytest.fixture(scope="session", params=PYTHONS)
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and what it requires, and nothing else; for each Python."""
    folder = tmp_path_factory.mktemp("installed") / request.param
    return python_of(folder, PYTHONS[request.param], "--constraint", ROOT / "constraints.txt", wheel)


def _only(pattern: str) -> Path:
    (found,) = Path(os.environ[DIST]).resolve().glob(pattern)
    return found
