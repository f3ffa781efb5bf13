"""Change the core a little, one place at a time, and see whether its tests notice: `make mutants`.

Each mutant is written into a copy of the package that comes first on the path, also for commands in processes of their
own. A process forked from one that has torch and transformers loaded runs the tests of the mutant's room that execute
the changed line, quick ones first, until one fails; with --everywhere, survivors meet the tests of the other rooms too.

Everything is kept in `.mutants/`: run it again to resume. A test module is recorded again when it, or a core file that
it runs, has changed; a survivor is tried again when its tests have. Commands that a test starts in an environment of
its own see no mutant.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import hashlib
import importlib
import json
import os
import resource
import runpy
import shutil
import signal
import sys
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest
from mutate import Mutant, draw, mutants, mutated

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".mutants"
PACKAGE = KEPT / "package"
JUDGED = Path(__file__).parent / "judged.toml"
CORE = (
    "tokenizer/*",
    "shared/*",
    "adapter/*",
    "adapter/mixing/*",
    "transfer/*",
    *(
        f"llm/{name}"
        for name in ("embeddings", "embedding_names", "language_model", "weight_files", "lora_rows", "lvlm")
    ),
    *(f"train/{name}" for name in ("objective", "word_loss", "loop", "dataset")),
    *(f"evaluate/{name}" for name in ("validate", "losses")),
)
ROOMS = ("transfer", "shared", "adapter", "tokenizer", "llm", "train", "evaluate")
OTHERS = (
    "cli",
    "tokenizer",
    "shared",
    "adapter",
    "llm",
    "transfer",
    "transfer/export",
    "train",
    "evaluate",
    "infer",
    "interpret",
)
"""Rooms of tests for what a room's own tests do not notice."""
HEAVY = (
    "accelerate", "datasets", "gguf", "hypothesis", "msgspec", "numpy", "peft", "PIL.Image", "pyarrow.compute",
    "pyarrow.parquet", "rich.progress", "safetensors.torch", "sentencepiece", "tiktoken", "tokenizers", "torch",
    "transformers.models.auto.modeling_auto", "transformers.models.clip.modeling_clip", "typer",
    "transformers.models.llama.modeling_llama", "transformers.models.qwen2.modeling_qwen2", "huggingface_hub",
)  # fmt: skip
OPTIONS = (
    "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:anyio",
    "-m", "not robust", "--hypothesis-seed=0", "-W", "ignore::pytest.PytestAssertRewriteWarning",
)  # fmt: skip
RECORDING = 900
"""Seconds for one test module with coverage."""
MEMORY = 16 << 30


def main() -> None:
    """Record what tests run, try the sampled mutants, and print the survivors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="files of the core; default: all")
    parser.add_argument("--sample", type=int, default=400, help="number of mutants, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(  # ten seconds leave out tests with whole tokenizers and models, which alone run some lines
        "--budget", type=float, default=30, help="seconds of tests, as recorded, that a mutant survives"
    )
    parser.add_argument("--everywhere", action="store_true", help="also run the tests of other rooms")
    options = parser.parse_args()
    os.chdir(ROOT)
    warm_up()
    files = options.files or sorted({path for each in CORE for path in Path("vocabkit").glob(f"{each}.py")})
    found = [(file, mutant) for file in files for mutant in mutants(file.read_text())]
    found.sort(key=lambda pair: draw(f"{pair[0]} {pair[1].name}", options.seed))
    sample = sorted(found[: options.sample], key=lambda pair: ROOMS.index(pair[0].parts[1]))
    verdicts = [judge(file, mutant, options) for file, mutant in sample]
    gc.unfreeze()
    show(verdicts)


def digest(*paths: Path) -> str:
    """Digest of what the files hold."""
    return hashlib.sha256(b"\0".join(path.read_bytes() if path.exists() else b"" for path in paths)).hexdigest()[:16]


# ---- tests in a forked process -----------------------------------------------------------------------------------


def warm_up() -> None:
    """Load what every child needs, but nothing of vocabkit."""
    runpy.run_path("tests/conftest.py")  # sets the environment that torch and triton read when they are imported
    os.environ["PYTHONPATH"] = str(PACKAGE)
    sys.path.insert(0, str(PACKAGE))
    shutil.rmtree(PACKAGE, ignore_errors=True)
    shutil.copytree("vocabkit", PACKAGE / "vocabkit", ignore=shutil.ignore_patterns("__pycache__"))
    (PACKAGE / "vocabkit_cli").symlink_to(ROOT / "cli")
    (PACKAGE / "vocabkit_data").symlink_to(ROOT / "data")
    for name in HEAVY:
        importlib.import_module(name)
    assert "vocabkit" not in sys.modules
    gc.freeze()  # children share the memory


def run_tests(tests: list[str], plugin: object, limit: float, done: Callable[[], None] = lambda: None) -> int | None:
    """Run tests in a forked process: the exit code of pytest, or None where it took longer than `limit` seconds."""
    scratch = KEPT / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    child = os.fork()
    if not child:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        log = os.open(KEPT / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(scratch / "hypothesis")
        code = 99
        try:
            code = int(pytest.main([*OPTIONS, f"--basetemp={scratch / 'tmp'}", *tests], plugins=[plugin]))
            done()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    end = time.monotonic() + limit
    code: int | None = None
    while code is None and time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if ended else None
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and the commands that it started
    if code is None:
        os.waitpid(child, 0)
    return code


class Recorder:
    """Plugin: the lines of the core that each test runs, the processor time that it takes, and who starts processes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self.starters: set[str] = set()
        self.coverage = coverage.Coverage(data_file=None, source=[str(PACKAGE / "vocabkit")], config_file=False)

    def pytest_sessionstart(self) -> None:
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.coverage.switch_context(item.nodeid)
        begin = os.times()
        try:
            return (yield)
        finally:
            end = os.times()
            self.seconds[item.nodeid] = sum(end[:4]) - sum(begin[:4])
            if sum(end[2:4]) > sum(begin[2:4]):
                self.starters.add(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.failed.add(report.nodeid)

    def write(self, path: Path, module: Path) -> None:
        """Write what was recorded; lines as the bits of a number."""
        self.coverage.stop()
        data = self.coverage.get_data()
        lines: dict[str, dict[str, int]] = {}
        for file in data.measured_files():
            name = str(Path(file).relative_to(PACKAGE))
            for line, tests in (data.contexts_by_lineno(file)).items():
                for test in tests:
                    if test and test not in self.failed:
                        of_file = lines.setdefault(name, {})
                        of_file[test] = of_file.get(test, 0) | 1 << line
        path.parent.mkdir(exist_ok=True)
        wanted = {
            "digest": digest(module, *map(Path, sorted(lines))),
            "seconds": self.seconds,
            "failed": sorted(self.failed),
            "starters": sorted(self.starters - self.failed),
            "lines": {name: {test: hex(bits) for test, bits in tests.items()} for name, tests in lines.items()},
        }
        path.write_text(json.dumps(wanted))


@functools.cache
def record(module: Path) -> dict[str, Any]:
    """Return what the tests of a module run, recorded now if the record is missing or stale."""
    path = KEPT / "records" / f"{'-'.join(module.with_suffix('').parts[1:])}.json"
    if path.exists():
        known: dict[str, Any] = json.loads(path.read_text())
        if known["digest"] == digest(module, *map(Path, sorted(known["lines"]))):
            return known
        path.unlink()
    recorder, begin = Recorder(), time.monotonic()
    code = run_tests([str(module), "--maxfail=1000"], recorder, RECORDING, lambda: recorder.write(path, module))
    made: dict[str, Any] = {"digest": "", "seconds": {}, "failed": ["all of it"], "starters": [], "lines": {}}
    if path.exists():
        made = json.loads(path.read_text())
    left_out = f"; left out, as they fail here: {', '.join(made['failed'])}" if made["failed"] else ""
    print(f"recorded {module} in {time.monotonic() - begin:.0f} s, exit code {code}{left_out}", flush=True)
    return made


# ---- mutants -----------------------------------------------------------------------------------------------------


def covering(file: Path, mutant: Mutant, rooms: Iterable[str], budget: float) -> tuple[list[str], float]:
    """The tests that run the line (or else the function, or else the file), as pytest is given them; their seconds.

    A function that no test runs here may be run by processes that tests start.
    """
    records = [record(path) for room in rooms for path in sorted(Path("tests", room).glob("test_*.py"))]
    masks = [-1]
    if mutant.function is not None:  # other lines run when a module is imported, in whichever test comes first
        first, last = mutant.function
        masks = [1 << mutant.line, (1 << last + 1) - (1 << first), -1]
    for mask in masks:
        found = [
            (max(recorded["seconds"][test], 0.01), test)
            for recorded in records
            for test, bits in recorded["lines"].get(str(file), {}).items()
            if int(bits, 16) & mask
        ]
        if found:
            break
    if mutant.function is not None and mask == -1:
        starters = [(recorded["seconds"][test], test) for recorded in records for test in recorded["starters"]]
        found = starters or found
    chosen, costs, total = [], Counter[str](), 0.0
    for seconds, test in sorted(found):
        if not chosen or total + seconds <= budget:
            chosen.append(test)
            costs[test.partition("::")[0]] += seconds
            total += seconds
    chosen.sort(key=lambda test: costs[test.partition("::")[0]])
    return chosen, total


class Killer:
    """Plugin: writes down what failed first."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            (KEPT / "killer").write_text(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            (KEPT / "killer").write_text(f"import of {report.nodeid}")


def judge(file: Path, mutant: Mutant, options: argparse.Namespace) -> dict[str, Any]:
    """Return the verdict on a mutant."""
    verdict = attempt(file, mutant, [file.parts[1]], options.budget)
    if verdict["verdict"] == "survived" and options.everywhere:
        return attempt(file, mutant, [room for room in OTHERS if room != file.parts[1]], options.budget)
    return verdict


def attempt(file: Path, mutant: Mutant, rooms: list[str], budget: float) -> dict[str, Any]:
    """Return the verdict of some rooms' tests: that of an earlier run, unless it survived and tests have changed."""
    path, name = KEPT / "verdicts.jsonl", f"{file} {mutant.name}"
    tests, seconds = covering(file, mutant, rooms, budget)
    shown = digest(file, *sorted({Path(test.partition("::")[0]) for test in tests})) + f" {len(tests)}"
    for line in path.read_text().splitlines() if path.exists() else ():
        known: dict[str, Any] = json.loads(line)
        if known["name"] == name and (known["verdict"] == "killed" or known["shown"] == shown):
            return known
    begin, target, killer = time.monotonic(), PACKAGE / file, KEPT / "killer"
    killer.unlink(missing_ok=True)
    original = target.read_text()
    try:
        put(target, mutated(original, mutant.number))
        code = run_tests(tests, Killer(), 10 * seconds + 60) if tests else 0
    finally:
        put(target, original)
    if killer.exists():
        by = killer.read_text()
    elif code is None or code < 0:
        by = "time" if code is None else f"signal {-code}"
    else:
        by = ""
        assert code == 0, f"{name}: pytest ended with {code}, see {KEPT / 'log'}"
    verdict = {
        "name": name,
        "line": mutant.line,
        "verdict": "killed" if by else "survived",
        "by": by,
        "tests": len(tests),
        "seconds": round(time.monotonic() - begin, 1),
        "shown": shown,
    }
    with path.open("a") as out:
        out.write(json.dumps(verdict, ensure_ascii=False) + "\n")
    print(f"{verdict['verdict']:8} {verdict['seconds']:5.1f} s  {file}:{mutant.line}  {mutant.name}", flush=True)
    return verdict


_stamps = iter(range(1_000_000_000, 2_000_000_000))


def put(path: Path, source: str) -> None:
    """Write a source file with a time that no cached bytecode has."""
    path.write_text(source)
    stamp = next(_stamps)
    os.utime(path, (stamp, stamp))


def show(verdicts: list[dict[str, Any]]) -> None:
    """Print the survivors with what was judged of them, and the rate."""
    judged = {each["mutant"]: each for each in tomllib.loads(JUDGED.read_text())["judged"]}
    survivors = [each for each in verdicts if each["verdict"] == "survived"]
    print(f"\n{'lines':24}survivors")
    equal = 0
    for each in survivors:
        file, _, what = each["name"].partition(" ")
        why = judged.get(each["name"], {}).get("equivalent", "")
        equal += bool(why)
        tests = "no test runs it" if not each["tests"] else f"{each['tests']} tests"
        print(f"{file}:{each['line']}  {what}\n    {f'equivalent: {why}' if why else f'OPEN, {tests}'}")
    killed, all_ = len(verdicts) - len(survivors), len(verdicts)
    rate = killed / max(all_ - equal, 1)
    print(f"\n{all_} mutants: {killed} killed, {equal} equivalent, {len(survivors) - equal} open; {rate:.1%} killed")


if __name__ == "__main__":
    main()
