"""Run a command in two CPU processes, and compare what it trained with one process's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from results import curve, metrics, weights
from torch.testing import assert_close

HERE = Path(__file__).parent
FSDP2 = HERE.parents[1] / "docs" / "examples" / "fsdp2.yaml"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = (
    "-m", "accelerate.commands.launch", "--config_file", FSDP2, "--num_processes", "2", "--main_process_port", "0",
)  # fmt: skip


def run(launcher: tuple[str | Path, ...], kind: str, *words: str | Path) -> None:
    """Run `vocabkit WORDS` in two CPU processes over gloo."""
    done = subprocess.run(
        [sys.executable, *launcher, HERE / "launched.py", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    processes = sorted(re.findall(rf"process \d of \d: {kind}", done.stdout))  # lines of two may run together
    assert processes == [f"process 0 of 2: {kind}", f"process 1 of 2: {kind}"]


def assert_same_training(one: Path, two: Path) -> None:
    """Both runs have equal metrics and weights, up to rounding."""
    assert len(metrics(one)) == len(metrics(two))
    for name in ("caption_loss", "word_loss", "gradient_norm", "learning_rate"):
        assert_close(curve(two, name), curve(one, name), rtol=2e-4, atol=1e-6)
    expected = weights(one)
    assert weights(two).keys() == expected.keys()
    for name, tensor in weights(two).items():
        assert_close(tensor, expected[name], rtol=1e-2, atol=1e-3)
