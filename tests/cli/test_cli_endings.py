"""How commands exit: into pipes and terminals, on full disks, on Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import pytest
from command_line import PROGRAM, TIMEOUT, error_of, vocabkit, vocabkit_here

from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.tokenizer.catalog import snapshot_path
from vocabkit_cli.show import _Lines

BUILD = ["build-shared", "smollm2", "mistral-v3"]
ADAPTER = str(Path(__file__).parents[2] / "data/smollm2-scenes.pt")
SHOWING = [["catalog"], ["catalog", "--json"]]


# ---- pipes and terminals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", SHOWING, ids=" ".join)
def test_only_a_terminal_gets_colour_codes(tmp_path: Path, words: list[str]) -> None:
    piped = vocabkit(tmp_path, *words, TERM="xterm-256color").stdout
    assert "\x1b" not in piped
    shown = in_terminal(tmp_path, words)
    assert ("\x1b[1m" in shown) == (words[-1] != "--json")
    assert [line for line in piped.splitlines() if line.strip() and line.split()[0] not in shown] == []


def test_error_is_red_in_a_terminal_and_json_where_json_is_asked_for(tmp_path: Path) -> None:
    words = ["explain", "x", "qwen2", "lama3"]
    assert in_terminal(tmp_path, words, "stderr", code=2).endswith("you mean llama3 or llama3.3 or llama3.2?\r\n")
    assert "\x1b[31merror:\x1b[0m 'lama3' not found" in in_terminal(tmp_path, words, "stderr", code=2)
    asked = vocabkit_here(tmp_path, *words, "--json")
    assert json.loads(asked.stdout)["error"] == error_of(asked)


def in_terminal(
    folder: Path,
    words: Sequence[str],
    stream: str = "stdout",
    code: int = 0,
    program: Sequence[str | Path] = (PROGRAM,),
) -> str:
    """Return what a command writes to a stream that is a terminal."""
    ours, its = pty.openpty()
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: its}
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    process = subprocess.Popen([*program, *words], cwd=folder, env=environment, **streams)
    os.close(its)
    shown = b""
    with contextlib.suppress(OSError):  # end of file on a pseudo-terminal
        while block := os.read(ours, 65536):
            shown += block
    os.close(ours)
    assert process.wait(TIMEOUT) == code
    return shown.decode()


def test_progress_shows_a_name_with_markup_literally(tmp_path: Path) -> None:
    name = "[/b][red]{x}{task.id!z}"
    (tmp_path / "captions.txt").write_text("a dog on a mat\n" * 9)
    words = ["overlap", f"{name}=smollm2", "qwen2", "--corpus", "captions.txt", "--json"]
    shown = in_terminal(tmp_path, words, stream="stderr")
    assert f"counting with {name} " in shown
    assert "135/135" in shown  # bytes


def test_long_step_without_a_terminal_says_now_and_then_how_far_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = _Lines(seconds=0.01)
    for done in (100, 500):  # resumed at 100
        lines.show("pictures", done, 1000, "loss 2.5")
    began = time.monotonic()
    while not (said := capsys.readouterr().err):
        assert time.monotonic() < began + TIMEOUT
        time.sleep(0.01)
    lines.ended.set()
    assert re.match(r"pictures: 500/1,000, [\d,.]+( [MG])?/s, about [01] s left, loss 2.5\n", said)
    assert lines.line(time.monotonic() + 1e6).startswith("pictures: 500/1,000, 0.0/min, about ")


def test_long_step_that_reports_nothing_says_how_long_it_takes() -> None:
    lines = _Lines(seconds=TIMEOUT)
    assert lines.line(time.monotonic() + 42.3) == "loading: 42 s so far"
    lines.show("pictures", 0, 1000)
    assert lines.line(time.monotonic() + 42.3) == "pictures: 0 of 1,000, 42 s so far"
    lines.ended.set()  # or its thread speaks in a later test


def test_command_shows_at_once_that_it_loads(tmp_path: Path) -> None:
    program = """
import sys
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch is imported", file=sys.stderr)
sys.meta_path.insert(0, Slow())
from vocabkit_cli.__main__ import run
run()
"""
    words = ["infer", ADAPTER, "nowhere.png", "--out", "seen"]
    shown = in_terminal(tmp_path, words, "stderr", code=2, program=[sys.executable, "-c", program])
    assert "loading" in shown.split("torch is imported")[0]


def test_quiet_leaves_results_and_errors(tmp_path: Path) -> None:
    told, quiet = (vocabkit_here(tmp_path, "overlap", "smollm2", "mistral-v3", *more) for more in ([], ["-q"]))
    assert told.stderr
    assert (quiet.stdout, quiet.stderr) == (told.stdout, "")
    assert "lama3" in error_of(vocabkit_here(tmp_path, "overlap", "qwen2", "lama3", "--quiet"))
    assert in_terminal(tmp_path, ["overlap", "smollm2", "mistral-v3", "-q"], "stderr") == ""


def test_a_path_is_never_broken_within_a_word(tmp_path: Path) -> None:
    name = "a-name-that-is-longer-than-the-terminal-is-wide-" * 2 + ".arrow"
    shown = in_terminal(tmp_path, ["build-shared", "smollm2", "mistral-v3", "--out", name])
    assert f"{name}:" in shown.split()
    assert shared_fingerprint(tmp_path / name) in shown.split()
    assert all(len(line) <= 80 for line in shown.splitlines() if name not in line)


def shared_fingerprint(path: Path) -> str:
    return open_shared(path).fingerprint


@pytest.mark.parametrize("words", [["--help"], *SHOWING, [*BUILD, "--out", "x.arrow"]], ids=" ".join)
def test_closed_pipe_ends_the_command_quietly(tmp_path: Path, words: list[str]) -> None:
    process = subprocess.Popen(
        [PROGRAM, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    notes = process.stderr.read()
    process.stderr.close()
    assert process.wait(TIMEOUT) == 1
    assert not any(line.startswith(("error", "Traceback", "Exception", " ")) for line in notes.splitlines())


def test_report_can_be_piped_into_head(tmp_path: Path) -> None:
    command = f"'{PROGRAM}' overlap smollm2 mistral-v3 | head -1"
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=TIMEOUT
    )
    assert " tokens shared by smollm2 and mistral-v3" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--help"], *SHOWING], ids=" ".join)
def test_stdout_on_a_full_disk_is_one_error_line(tmp_path: Path, words: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [PROGRAM, *words], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: output: No space left on device"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--help"], *SHOWING], ids=" ".join)
def test_closed_stdout_or_stderr_is_tolerated(tmp_path: Path, words: list[str]) -> None:
    printed = vocabkit(tmp_path, *words).stdout
    for closing, remains in [("2>&-", printed), (">&-", "")]:
        command = ["sh", "-c", f'COLUMNS=80 "$@" {closing}', "sh", PROGRAM, *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        assert (done.returncode, done.stdout) == (0, remains)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_unencodable_characters_are_escaped_and_json_stays_utf_8(tmp_path: Path, encoding: str) -> None:
    environment = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    text = vocabkit(tmp_path, "explain", "年", "smollm2", "qwen2", **environment)
    assert text.returncode == 0, text.stderr
    assert text.stdout.startswith("'年'" if encoding == "utf-8" else r"'\u5e74'")
    value = vocabkit(tmp_path, "explain", "年", "smollm2", "qwen2", "--json", **environment)
    assert json.loads(value.stdout)["token"]["text"] == "年"


def test_odd_file_name_prints_on_one_line(tmp_path: Path) -> None:
    name = "caf\udce9\x1b[31mred\nline"
    shutil.copy(snapshot_path("smollm2"), tmp_path / f"{name}.arrow")
    for words in (
        ["build-shared", f"{name}.arrow", "mistral-v3", "--out", f"{name}.shared"],
        ["check", f"{name}.shared"],
        ["overlap", f"{name}.arrow", "mistral-v3"],
    ):
        done = vocabkit_here(tmp_path, *words)
        assert done.returncode == 0, done.stderr
        assert ascii(name)[1:-1] in done.stdout + done.stderr
        assert all(line.isprintable() for line in (done.stdout + done.stderr).splitlines())


def test_unreachable_hub_is_reported_once_not_per_attempt(tmp_path: Path) -> None:
    program = "import sys, time\ntime.sleep = lambda seconds: None\nfrom vocabkit_cli.__main__ import run\nrun()"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program, "overlap", "nobody/here", "smollm2"], env=environment, cwd=tmp_path,
        capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert "can't be reached as a Hugging Face hub" in error_of(done)
    assert len(done.stderr.splitlines()) == 1


def test_version_is_that_of_the_package(tmp_path: Path) -> None:
    assert vocabkit(tmp_path, "--version").stdout == f"vocabkit {version('vocabkit')}\n"


# ---- disks -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a small tmpfs; skip the test where this user may not."""
    disk = folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small tmpfs: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def test_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    with small_disk(tmp_path, "256k") as disk:
        old = b"ARROW1, vocabkit.format"  # as of an earlier run
        (disk / "x.arrow").write_bytes(old)
        message = error_of(vocabkit_here(tmp_path, *BUILD, "--out", disk / "x.arrow", "--overwrite"))
        assert "x.arrow: can't write here (No space left on device); nothing was changed" in message
        assert (disk / "x.arrow").read_bytes() == old
        assert [path.name for path in disk.iterdir()] == ["x.arrow"]


def test_read_only_disk_is_refused_before_the_work(tmp_path: Path) -> None:
    with small_disk(tmp_path, "256k") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        message = error_of(vocabkit_here(tmp_path, *BUILD, "--out", disk / "x.arrow"))
        assert message == f"{disk}/x.arrow: the folder {disk} is read-only; choose another place"


def test_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser may write everywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "is read-only" in error_of(vocabkit_here(tmp_path, *BUILD, "--out", "locked/x.arrow"))


# ---- Ctrl-C, and two at once --------------------------------------------------------------------------------------


def _heeds_ctrl_c() -> None:
    """Restore the default handler: a background process, as these tests may be, ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a command and wait until it reports its first tokenizer."""
    process = subprocess.Popen(
        [PROGRAM, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heeds_ctrl_c,
    )
    assert process.stderr is not None
    assert process.stderr.readline() != ""
    return process


@pytest.mark.parametrize(
    "words", [["build-shared", "qwen2", "gemma3", "llama4"], ["overlap", "qwen2", "gemma3"]], ids=" ".join
)
def test_ctrl_c_exits_with_130_and_leaves_nothing(tmp_path: Path, words: list[str]) -> None:
    process = started(tmp_path, *words)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "error" not in err
    assert err.splitlines()[-1] == "interrupted; nothing was written"
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_loading_is_quiet(tmp_path: Path) -> None:
    program = """
import sys
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
from vocabkit_cli.__main__ import run
run()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_concurrent_builds_of_one_file_leave_one_complete_file(tmp_path: Path) -> None:
    quiet, build = subprocess.DEVNULL, [PROGRAM, *BUILD, "--overwrite", "--out", "x.arrow"]
    processes = [
        subprocess.Popen([*build, *option], cwd=tmp_path, stdout=quiet, stderr=quiet)
        for option in ([], ["--union"], [], ["--union"])
    ]
    assert [process.wait(TIMEOUT) for process in processes] == [0, 0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["x.arrow"]
    assert vocabkit(tmp_path, "check", "x.arrow").returncode == 0
