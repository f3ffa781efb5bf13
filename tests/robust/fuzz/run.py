"""Coverage-guided fuzzing: python -m tests.robust.fuzz.run READER ... --minutes 10. Needs `pip install atheris`.

Each reader runs in a process of its own, with a limit on its address space and a watch on its time. An input that ends
in anything but a value or one line of refusal is kept under findings/, and the process is started again.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "support")]

from fuzz.readers import CORPUS, READERS

FINDINGS = Path("findings")
LONGEST_INPUT = 1 << 15
MEMORY = Path("/dev/shm")


def fuzz(reader: str, seconds: float) -> Iterator[tuple[str, Path | None]]:
    """What went wrong, and the input with which it did, each kind once; at the end how many inputs were tried."""
    end, tried, seen = time.monotonic() + seconds, 0, set[str]()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as temporary:
        folder = Path(temporary)
        (folder / "corpus").mkdir()
        while (left := int(end - time.monotonic())) > 0:
            done = _start(reader, folder, left)
            tried += max((int(count) for count in re.findall(r"^#(\d+)\t", done.stderr, re.MULTILINE)), default=0)
            if done.returncode == 0:
                break
            finding, inputs = folder / "finding", sorted(folder.glob("input-*"))
            what = finding.read_text() if finding.exists() else f"the process ended: {_last_words(done)}"
            finding.unlink(missing_ok=True)
            kind = re.sub(r"\d+", "N", what)[:120]
            if kind not in seen:
                seen.add(kind)
                yield what, _kept(reader, len(seen), inputs[0]) if inputs else None
            for file in inputs:
                file.unlink()
            if not inputs:  # it can't even start
                break
    yield f"{tried:,} inputs in {seconds:.0f} s, {len(seen)} findings", None


def _start(reader: str, folder: Path, seconds: int) -> subprocess.CompletedProcess[str]:
    options = [f"-max_total_time={seconds}", "-timeout=20", f"-max_len={LONGEST_INPUT}", "-rss_limit_mb=0"]
    words = [f"-artifact_prefix={folder}/input-", *options, folder / "corpus", CORPUS / reader]
    shutil.rmtree(folder / "input", ignore_errors=True)
    script = Path(__file__).with_name("target.py")
    return subprocess.run(
        [sys.executable, script, reader, folder, *words],
        capture_output=True, text=True, errors="replace", timeout=seconds + 120, check=False,
    )  # fmt: skip


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if "Error" in line or "ERROR" in line]
    return f"{done.returncode} {' | '.join(lines[-3:])}"


def _kept(reader: str, number: int, file: Path) -> Path:
    FINDINGS.mkdir(exist_ok=True)
    return Path(shutil.copyfile(file, FINDINGS / f"{reader}-{number}-{READERS[reader].file}"))


def main() -> int:
    """Exit code 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", choices=[*READERS, []], metavar="READER", help=", ".join(READERS))
    parser.add_argument("--minutes", type=float, default=10.0, help="for each reader")
    arguments = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is missing: pip install atheris")
    found = 0
    for reader in arguments.readers or READERS:
        for what, file in fuzz(reader, 60 * arguments.minutes):
            print(f"{reader}: {what}" + (f" ({file})" if file else ""), flush=True)
            found += file is not None or what.startswith("the process ended")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
