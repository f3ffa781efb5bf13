"""Time and peak memory of a whole process, for the benchmarks beside it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_LAUNCHER = """
import os, sys, time
start = time.perf_counter()
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(pid, 0)
print(time.perf_counter() - start, usage.ru_maxrss)
sys.exit(status != 0)
"""


@dataclass(frozen=True)
class Cost:
    """Of one process."""

    seconds: float
    megabytes: float
    """Largest resident set, in millions of bytes."""


def cost(command: Sequence[str]) -> Cost:
    """Run `command`, started by a small process: a child's peak counts what its parent had."""
    done = subprocess.run([sys.executable, "-S", "-c", _LAUNCHER, *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[:6])} failed:\n{done.stderr}")
    seconds, kilobytes = done.stdout.splitlines()[-1].split()
    return Cost(float(seconds), int(kilobytes) * 1024 / 1e6)
