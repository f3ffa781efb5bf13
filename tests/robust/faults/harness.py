"""Kills every writing command, fills the disk under it, and runs two at once: python -m tests.robust.faults.harness.

A command is killed at random moments spread over its run time, and right before each change that it makes to files.
After that, what stands at its output is the previous result or a new one, byte for byte; the same command run again
leaves the result of a run that nobody disturbed, and no temporary files.
"""

from __future__ import annotations

import os

# before the first import of a library that starts threads
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "0",
}

import argparse
import itertools
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "support")]

from faults.attempts import Ended, attempt, finished, import_all, started
from faults.cases import CASES, Case, Content, is_litter, make_inputs

SHARES = (0.3, 0.0, 0.6, 0.9)
"""Free space of a full disk, as shares of what the result needs."""
COLUMNS = ("command", "seconds", "changes", "kills", "nothing", "old", "new", "part", "litter", "disk full", "at once",
           "problems")  # fmt: skip
APART = (0.0, 0.5)
"""Between the starts of two at once, as shares of the run time."""


@dataclass
class Report:
    """What happened to one command."""

    name: str
    seconds: float
    """Of a run that nobody disturbed, without imports."""
    steps: int
    """Changes to files in it."""
    kills: int = 0
    found: Counter[str] = field(default_factory=Counter)
    """What stood at the output after kills: nothing, old, new, or part of a result that can go on."""
    litter: int = 0
    """Kills that left temporary files."""
    full: int = 0
    """Times that the disk was full and the command said so."""
    together: int = 0
    """Pairs that ran at once."""
    problems: list[str] = field(default_factory=list)
    """What must not happen. Empty, if all is well."""


class Trial:
    """A command in folders of its own."""

    def __init__(self, case: Case, inputs: Path, folder: Path) -> None:
        """Run it undisturbed, to learn how long it takes and what comes out."""
        self.case, self._inputs, self._folder, self._number = case, inputs, folder, itertools.count()
        for _ in range(2):  # the second has nothing left to import
            here = self.place()
            ended = self.run(here)
            import_all(ended.modules)
        self.new = case.content(here / case.out)
        self.old = self._old()
        self.report = Report(case.name, ended.seconds, ended.steps)

    def _old(self) -> Content:
        if self.case.other is None:
            return {}
        here = self.place()
        self.run(here, self.case.other)
        return self.case.content(here / self.case.out)

    def place(self) -> Path:
        """A new folder with all inputs."""
        here = self._folder / str(next(self._number)) / "here"
        here.mkdir(parents=True)
        for file in self._inputs.iterdir():
            (here / file.name).symlink_to(file)
        return here

    def words(self, words: tuple[str, ...] | None = None, out: str | None = None) -> list[str]:
        """The command line."""
        return [word.format(out=out or self.case.out) for word in words or self.case.words]

    def run(self, here: Path, words: tuple[str, ...] | None = None) -> Ended:
        """Run it to its end. Raises AssertionError if it fails."""
        ended = attempt(self.words(words), here)
        assert ended.code == 0, f"{self.case.name}: {ended.stderr}"
        return ended

    def kill(self, *, after: float | None = None, at: int | None = None, with_old: bool) -> None:
        """Kill it once, look at what is left, and run it again."""
        here, report = self.place(), self.report
        out = here / self.case.out
        if with_old:
            _write(out, self.old)
        ended = attempt(self.words(), here, kill_after=after, kill_at=at)
        report.kills += 1
        moment = f"after {after:.3f} s" if at is None else f"at change {at}"
        left = self.case.content(out)
        report.litter += bool(litter(here))
        state = self._state(left, self.old if with_old else {})
        report.found[state] += 1
        if state == "damaged":
            self._problem(f"killed {moment}: {self._difference(left)}")
        if ended.code not in (0, -9):
            self._problem(f"killed {moment}: exit code {ended.code}: {ended.stderr}")
        self._again(here, out, f"killed {moment}, then run again")

    def _again(self, here: Path, out: Path, when: str) -> None:
        if self.case.other is None and not self.case.progress and self.case.content(out) == self.new:
            return  # a command that takes no place that is taken was done
        ended = attempt(self.words(out=str(out)), here)
        left = self.case.content(out)
        if ended.code != 0:
            self._problem(f"{when}: exit code {ended.code}: {ended.stderr}")
        elif left != self.new:
            self._problem(f"{when}: {self._difference(left)}")
        if remains := litter(out.parent):
            self._problem(f"{when}: {len(remains)} temporary files remain, such as {remains[0]}")

    def _state(self, left: Content, old: Content) -> str:
        if left == self.new:
            return "new"
        if left == old:
            return "old" if old else "nothing"
        fitting = all(file == self.new.get(name) for name, file in left.items())
        return "part" if not old and fitting and self.case.can_go_on else "damaged"

    def _difference(self, left: Content) -> str:
        names = sorted(name for name in left.keys() | self.new.keys() if left.get(name) != self.new.get(name))
        return f"{len(left)} files, {len(names)} other than in a new result, such as {names[0]!r}"

    def fill(self, share: float) -> None:
        """Run it on a disk with room for a share of the result, then with enough."""
        here = self.place()
        need, taken = _size(self.new), _size(self.old)
        with small_disk(here / "disk") as resize:
            out = here / "disk" / self.case.out
            resize(1 << 30)
            _write(out, self.old)
            resize(max(4096, taken + int(share * need)))
            ended = attempt(self.words(out=str(out)), here)
            left = self.case.content(out)
            state = self._state(left, self.old)
            if ended.code == 2 and ended.stderr.splitlines()[-1].startswith("error: "):
                self.report.full += 1
            elif not (ended.code == 0 and state == "new"):
                self._problem(f"disk full at {share:.0%}: exit code {ended.code}: {ended.stderr[-300:]}")
            if state not in ("old", "nothing", "part", "new"):
                self._problem(f"disk full at {share:.0%}: {self._difference(left)}")
            if remains := litter(out.parent):
                self._problem(f"disk full at {share:.0%}: temporary files remain, such as {remains[0]}")
            resize(1 << 30)
            self._again(here, out, f"disk full at {share:.0%}, then run with space")

    def two_at_once(self, apart: float) -> None:
        """Start it twice, a moment apart."""
        here = self.place()
        out = here / self.case.out
        first = started(self.words(), here)
        time.sleep(apart)
        both = [finished(child) for child in (first, started(self.words(), here))]
        self.report.together += 1
        codes = sorted(ended.code for ended in both)
        if codes not in ([0, 0], [0, 2]):
            self._problem(f"two at once: exit codes {codes}: {[ended.stderr for ended in both]}")
        if self.case.content(out) != self.new:
            self._problem(f"two at once: {self._difference(self.case.content(out))}")

    def _problem(self, text: str) -> None:
        self.report.problems.append(text.replace("\n", " | "))


def litter(folder: Path) -> list[str]:
    """Temporary files in `folder` and below; the inputs, which are links, are left aside."""
    return sorted(name for name in (str(f.relative_to(folder)) for f in folder.rglob("*")) if is_litter(name))


def _write(out: Path, files: Content) -> None:
    for name, file in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(file)


def _size(files: Content) -> int:
    return sum(-(-len(file) // 4096) * 4096 for file in files.values())


@contextmanager
def small_disk(folder: Path) -> Iterator[object]:
    """A tmpfs, and how to change its size in bytes. Raises PermissionError where one may not mount."""
    folder.mkdir()

    def mount(*options: str) -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", *options, "none", folder], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PermissionError(f"can't mount a tmpfs: {done.stderr.strip()}")

    mount("-o", "size=1m")
    try:
        yield lambda size: mount("-o", f"remount,size={size}")
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def examine(case: Case, inputs: Path, folder: Path, kills: int, *, disk: bool, brief: bool) -> Report:
    """Everything that can happen to one command."""
    trial, chance = Trial(case, inputs, folder), random.Random(case.name)
    with_old = case.other is not None
    for number in range(kills):
        trial.kill(after=chance.uniform(0, 1.1 * trial.report.seconds), with_old=with_old and number % 2 == 0)
    steps = range(trial.report.steps)
    for at in chance.sample(steps, 1) if brief else steps:
        trial.kill(at=at, with_old=with_old)
    for share in SHARES[: 1 if brief else None] if disk else ():
        trial.fill(share)
    for part in APART[: 1 if brief else None]:
        trial.two_at_once(part * trial.report.seconds)
    return trial.report


def main() -> int:
    """Exit code 1 if anything happened that must not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="COMMAND", help=", ".join(case.name for case in CASES))
    parser.add_argument("--kills", type=int, default=200, help="at random moments, for each command")
    parser.add_argument("--brief", action="store_true", help="only a few of everything else")
    parser.add_argument("--json", action="store_true", help="a line of JSON per command")
    arguments = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _in_a_child(lambda: make_inputs(folder / "inputs"))
        disk = can_mount(folder)
        if not arguments.json:
            print(f"| {' | '.join(COLUMNS)} |")
            print("|---" + "|---:" * (len(COLUMNS) - 1) + "|")
        for number, case in enumerate(CASES):
            if not arguments.cases or case.name in arguments.cases:
                place = folder / str(number)
                report = examine(case, folder / "inputs", place, arguments.kills, disk=disk, brief=arguments.brief)
                shutil.rmtree(place)
                bad += bool(report.problems)
                print(json.dumps(vars(report)) if arguments.json else row(report, disk=disk), flush=True)
    return int(bad > 0)


def row(report: Report, *, disk: bool) -> str:
    """A line of the table, and a line per problem."""
    found = [str(report.found[state]) for state in ("nothing", "old", "new", "part")]
    figures = [f"{report.seconds:.2f}", str(report.steps), str(report.kills), *found, str(report.litter)]
    figures += [str(report.full) if disk else "-", str(report.together), str(len(report.problems))]
    return "\n  ".join([f"| {' | '.join([report.name, *figures])} |", *report.problems])


def can_mount(folder: Path) -> bool:
    """True if this process may mount a small disk."""
    try:
        with small_disk(folder / "disk"):
            return True
    except (PermissionError, FileNotFoundError):
        return False


def _in_a_child(work: object) -> None:
    """In a process of its own, whose threads end with it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()  # type: ignore[operator]
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


if __name__ == "__main__":
    sys.exit(main())
