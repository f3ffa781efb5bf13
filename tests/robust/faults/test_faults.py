"""A few kills per command; `python -m tests.robust.faults.harness` makes hundreds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMMANDS = (
    "build-shared", "import-map", "scenes", "features", "train", "import-adapter folder", "transfer",
    "export mmproj", "export llava", "validate", "infer", "overlap --html",
)  # fmt: skip
"""One of each way to write."""


@pytest.fixture(scope="module")
def reports() -> dict[str, Any]:
    """What happened to each command, by its name."""
    harness = Path(__file__).with_name("harness.py")
    done = subprocess.run(
        [sys.executable, harness, *COMMANDS, "--kills", "1", "--brief", "--json"],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {report["name"]: report for report in found}


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_command_leaves_old_or_complete_result_and_next_run_succeeds(reports: dict[str, Any], name: str) -> None:
    report = reports[name]
    assert report["problems"] == []
    assert report["kills"] == sum(report["found"].values()) == 2
    assert report["together"] == 1
