"""vocabkit doctor: what there is to compute with, with and without torch."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from vocabkit_cli.__main__ import run; run()"
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")


def doctor(*options: str, program: str | None = None) -> str:
    start = ["-m", "vocabkit_cli"] if program is None else ["-c", program]
    done = subprocess.run([sys.executable, *start, "doctor", *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_environment_without_torch_says_what_to_install() -> None:
    shown = doctor(program=WITHOUT_TORCH)
    assert "torch is not installed" in " ".join(shown.split())
    assert "pip install 'vocabkit[adapter]'" in " ".join(shown.split())
    found = json.loads(doctor("--json", program=WITHOUT_TORCH))
    assert found["devices"] == found["mixing"] == []
    assert found["versions"]["vocabkit"]


@needs_torch
def test_environment_names_devices_and_paths_with_reasons() -> None:
    found = json.loads(doctor("--json"))
    assert found["devices"][0]["name"] == "cpu"
    assert {"float32", "bfloat16"} <= set(found["devices"][0]["dtypes"])
    paths = {call["choice"]["path"] for call in found["mixing"]}
    assert paths == {"unfused", "fused", "streamed", "top"}
    assert all(len(call["choice"]["reason"]) > 20 for call in found["mixing"])


@needs_torch
def test_the_report_holds_versions_paths_and_advice() -> None:
    short, shown = doctor(), doctor("--all")
    assert shown.startswith(short)
    assert "adapters    ready: torch" in short
    for words in ("pyarrow", "mixing on", "streamed", "top 64"):
        assert words not in short
        assert words in shown
