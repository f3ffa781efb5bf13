"""All claims that a CPU can show in ten minutes, in one table: claim, ours, the peer or limit, the ratio, the goal.

Each script runs in a process of its own, with fewer rounds than by itself; what it prints besides goes to stderr. Not
here, because they take longer or need more than the tests do: train.py, serving.py, scale.py, gpu_suite.sh.
Run by `make benchmark`, or: python benchmarks/everything.py [--json FILE] [SCRIPT ...]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from claims import Claim, report

SCRIPTS = {
    "build_shared": ["--rounds", "3"],
    "ranking": ["--rounds", "1"],
    "mixing": ["--rounds", "3"],
    "transfer": ["--rows", "19200"],
    "interpretation": ["--rounds", "1"],
    "inference": ["--pictures", "64"],
}


def main() -> None:
    """Run the scripts, one after the other, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", choices=[*SCRIPTS, []], help=", ".join(SCRIPTS))
    parser.add_argument("--json", type=Path, help="also write the claims to this file")
    options = parser.parse_args()
    claims, failed, start = [], [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.scripts or SCRIPTS:
            file = Path(folder) / f"{name}.json"
            script = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *SCRIPTS[name]]
            print(f"{name} ...", file=sys.stderr, flush=True)
            if subprocess.run([*script, "--claims", str(file)], stdout=sys.stderr, check=False).returncode:
                failed.append(name)
            else:
                claims += [Claim(**each) for each in json.loads(file.read_text())]
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {load}, "
        f"{time.perf_counter() - start:,.0f} s"
    )
    report(claims, options.json)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
