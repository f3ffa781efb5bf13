"""Files and folders are written whole or not at all, and file errors are one clear line."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from vocabularies import refusal, text_vocabulary

from vocabkit.errors import VocabkitError
from vocabkit.files.atomic import check_replaceable, check_writable, new_folder, reading, replacing, write_atomically
from vocabkit.shared.align import align
from vocabkit.shared.token_map import token_map

OLD, NEW = b"old" * 1000, b"new" * 2000


def writes(content: bytes) -> Callable[[BinaryIO], None]:
    """A writer of `content`."""
    return lambda file: None if file.write(content) == len(content) else pytest.fail("a part was written")


def fails(error: BaseException) -> Callable[[BinaryIO], None]:
    """A writer that gets half of the way."""

    def write(file: BinaryIO) -> None:
        file.write(NEW[:3000])
        raise error

    return write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the old content."""
    path = tmp_path / "out.arrow"
    path.write_bytes(OLD)
    return path


# ---- what is written ---------------------------------------------------------------------------------------------


def test_new_file_is_written_and_old_one_replaced(path: Path) -> None:
    write_atomically(path, writes(NEW))
    write_atomically(path.with_name("other"), writes(OLD))
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == {"out.arrow": NEW, "other": OLD}


def test_reader_that_has_old_file_open_keeps_reading_it(path: Path) -> None:
    with path.open("rb") as file:
        write_atomically(path, writes(NEW))
        assert file.read() == OLD


def test_name_as_long_as_file_system_allows_is_written(tmp_path: Path) -> None:
    for name in ("n" * 255, "é" * 127, "😀" * 63):
        write_atomically(tmp_path / name, writes(NEW))
        assert (tmp_path / name).read_bytes() == NEW


def test_permissions_follow_umask_and_those_of_old_file_stay(path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write_atomically(path.with_name("fresh"), writes(NEW))
    finally:
        os.umask(previous)
    assert path.with_name("fresh").stat().st_mode & 0o777 == 0o640
    path.chmod(0o600)
    write_atomically(path, writes(NEW))
    assert path.stat().st_mode & 0o777 == 0o600


def test_symbolic_link_keeps_pointing_to_replaced_file(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "folder"
    elsewhere.mkdir()
    link, dangling = elsewhere / "link", elsewhere / "dangling"
    link.symlink_to(path)
    dangling.symlink_to("../later")
    for place in (link, dangling):
        write_atomically(place, writes(NEW))
        assert place.is_symlink()
        assert place.read_bytes() == NEW
    assert path.read_bytes() == (tmp_path / "later").read_bytes() == NEW
    assert sorted(elsewhere.iterdir()) == [dangling, link]


def test_writers_at_same_time_leave_one_whole_file(path: Path) -> None:
    def keep_writing(content: bytes) -> None:
        for _ in range(20):
            write_atomically(path, writes(content))

    threads = [threading.Thread(target=keep_writing, args=(content,)) for content in (OLD, NEW)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert path.read_bytes() in (OLD, NEW)
    assert path.read_bytes() in (OLD, NEW)
    assert list(path.parent.iterdir()) == [path]


# ---- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [VocabkitError("bad input"), KeyboardInterrupt(), MemoryError(), ValueError("bug")])
def test_writer_error_propagates_and_changes_nothing(path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        write_atomically(path, fails(error))
    assert caught.value is error
    assert path.read_bytes() == OLD
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["os.fsync", "shutil.copymode", "pathlib.Path.replace"])
def test_step_that_fails_changes_nothing(path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(step, fail)
    message = refusal(write_atomically, path, writes(NEW))
    assert message.startswith(f"{path}: can't write here (Input/output error); nothing was changed")
    assert path.read_bytes() == OLD
    assert list(path.parent.iterdir()) == [path]


def test_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none" / "out.arrow"
    assert f"{path}: no folder {tmp_path / 'none'}" in refusal(write_atomically, path, writes(NEW))
    (tmp_path / "none").write_bytes(b"a file")
    assert f"{path}: no folder {tmp_path / 'none'}" in refusal(write_atomically, path, writes(NEW))


def test_folder_or_pipe_raises_and_is_left_alone(tmp_path: Path) -> None:
    folder, pipe, link = tmp_path / "folder", tmp_path / "pipe", tmp_path / "link"
    folder.mkdir()
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    assert "is a folder; choose another name" in refusal(write_atomically, folder, writes(NEW))
    for place in (pipe, link):
        assert "is not a regular file; choose another name" in refusal(write_atomically, place, writes(NEW))
    assert pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == [folder, link, pipe]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 256 KB; skips where this user can't mount one."""
    disk = folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small tmpfs: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def test_full_disk_changes_nothing_and_next_write_works(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        path = disk / "out.arrow"
        write_atomically(path, writes(OLD))
        message = refusal(write_atomically, path, writes(bytes(1 << 20)))
        assert message.startswith(f"{path}: can't write here (No space left on device); nothing was changed")
        assert path.read_bytes() == OLD
        assert "No space left" in refusal(write_folder, disk / "folder", bytes(1 << 20))
        assert list(disk.iterdir()) == [path]
        write_atomically(path, writes(NEW))
        assert path.read_bytes() == NEW


def test_read_only_file_system_raises(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        path = disk / "out.arrow"
        path.write_bytes(OLD)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert f"{path}: the folder {disk} is read-only" in refusal(write_atomically, path, writes(NEW))
        assert "can't write here (Read-only file system)" in refusal(write_folder, disk / "folder", NEW)
        assert path.read_bytes() == OLD


# ---- killed ------------------------------------------------------------------------------------------------------

KILL = "os.kill(os.getpid(), signal.SIGKILL)"
MOMENTS = {
    "before the file is there": f"with replacing(path): {KILL}",
    "half way": f"write_atomically(path, lambda file: (file.write(bytes(9000)), file.flush(), {KILL}))",
    "before it is on disk": f"os.fsync = lambda _: {KILL}; write_atomically(path, lambda file: file.write(NEW))",
    "before it is renamed": f"Path.replace = lambda *_: {KILL}; write_atomically(path, lambda file: file.write(NEW))",
}


def run_killed(code: str, path: Path) -> None:
    """Run `code` in a process that kills itself."""
    imports = "import os, signal, sys; from pathlib import Path; from vocabkit.files.atomic import *"
    program = f"{imports}\npath, NEW = Path(sys.argv[1]), bytes(9000)\n{code}"
    assert subprocess.run([sys.executable, "-c", program, path], check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("moment", MOMENTS)
def test_process_killed_at_any_step_leaves_old_file_and_next_write_works(path: Path, moment: str) -> None:
    run_killed(MOMENTS[moment], path)
    assert path.read_bytes() == OLD
    assert_only_hidden_leftovers(path)
    write_atomically(path, writes(NEW))
    assert path.read_bytes() == NEW
    assert list(path.parent.iterdir()) == [path]


def test_process_killed_after_rename_leaves_new_file(path: Path) -> None:
    run_killed(f"shutil.rmtree = lambda *_, **__: {KILL}; write_atomically(path, lambda file: file.write(NEW))", path)
    assert path.read_bytes() == bytes(9000)
    assert_only_hidden_leftovers(path)
    write_atomically(path, writes(NEW))
    assert list(path.parent.iterdir()) == [path]


def test_leftovers_of_killed_process_are_removed_unless_in_use(path: Path) -> None:
    for name in ("old", "older"):
        (path.parent / f".vocabkit-{name}.tmp").mkdir()
        (path.parent / f".vocabkit-{name}.tmp" / "new").write_bytes(NEW)
    (path.parent / ".vocabkit-oldest.tmp").write_bytes(NEW)
    with replacing(path) as temporary, new_folder(path.with_name("folder")) as folder:
        temporary.write_bytes(NEW)
        write_atomically(path.with_name("other"), writes(OLD))
        assert sorted(path.parent.glob(".vocabkit-*")) == sorted([temporary.parent, folder])
    assert path.read_bytes() == NEW
    assert sorted(file.name for file in path.parent.iterdir()) == ["folder", "other", "out.arrow"]


WRITE_ON = """
import sys
from pathlib import Path
from vocabkit.files.atomic import write_atomically
path, number = Path(sys.argv[1]), 0
while True:
    number = (number + 1) % 256
    write_atomically(path, lambda file: file.write(bytes([number]) * 2_000_000))
    print(flush=True)
"""


def test_process_killed_at_thirty_random_moments_always_leaves_whole_file(path: Path) -> None:
    chance = random.Random(0)
    for _ in range(30):
        with subprocess.Popen([sys.executable, "-c", WRITE_ON, path], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()  # it has written once
            time.sleep(chance.uniform(0, 0.02))
            process.kill()
        content = path.read_bytes()
        assert len(content) == 2_000_000
        assert len(set(content)) == 1
    assert_only_hidden_leftovers(path)
    write_atomically(path, writes(NEW))
    assert path.read_bytes() == NEW
    assert list(path.parent.iterdir()) == [path]


def assert_only_hidden_leftovers(path: Path) -> None:
    """What is there beside `path` can't be taken for a result."""
    assert list(path.parent.glob("*.arrow")) == [path]
    others = [file.name for file in path.parent.iterdir() if file != path]
    assert all(name.startswith(".vocabkit-") and name.endswith(".tmp") for name in others)


# ---- folders -----------------------------------------------------------------------------------------------------


def write_folder(path: Path, content: bytes) -> None:
    """A folder of two files."""
    with new_folder(path) as folder:
        (folder / "a").write_bytes(content)
        (folder / "b").write_bytes(content)


def test_folder_appears_whole_with_usual_permissions(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").write_bytes(NEW)
        assert not (tmp_path / "out").exists()
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "out" / "a").read_bytes() == NEW
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out", tmp_path / "usual"]


def test_existing_folder_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("empty", "link"):
        assert "already exists; choose another name" in refusal(write_folder, tmp_path / name, NEW)
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("error", [VocabkitError("bad input"), KeyboardInterrupt(), ValueError("bug")])
def test_error_leaves_no_folder(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), new_folder(tmp_path / "out"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_folder_below_missing_folder_raises(tmp_path: Path) -> None:
    assert "none, so can't write here; make it" in refusal(write_folder, tmp_path / "none" / "out", NEW)


def test_process_killed_in_folder_leaves_none(tmp_path: Path) -> None:
    run_killed(f"with new_folder(path) as folder: (folder / 'a').write_bytes(NEW); {KILL}", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_folder(tmp_path / "out", NEW)
    assert (tmp_path / "out" / "b").read_bytes() == NEW


# ---- temporary names and reading ---------------------------------------------------------------------------------


def test_temporary_file_can_be_written_by_name(path: Path) -> None:
    with replacing(path) as temporary:
        shutil.copy(sys.executable, temporary)
        assert path.read_bytes() == OLD
    assert path.read_bytes() == Path(sys.executable).read_bytes()


def test_block_writing_nothing_raises_and_changes_nothing(path: Path) -> None:
    with pytest.raises(VocabkitError, match="can't write here"), replacing(path):
        pass
    assert path.read_bytes() == OLD


def test_foreseeable_error_raises_before_writing(path: Path) -> None:
    check_writable(path)
    check_writable(path.with_name("new"))
    assert list(path.parent.iterdir()) == [path]
    assert "is a folder" in refusal(check_writable, path.parent)
    assert "no folder" in refusal(check_writable, path / "out")


def read(path: Path) -> bytes:
    """The content of a file."""
    with reading(path):
        return path.read_bytes()


def test_missing_file_folder_and_pipe_raise_on_reading(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(read, tmp_path / "none") == f"{tmp_path}/none: no such file"
    assert refusal(read, tmp_path) == f"{tmp_path}: is a folder, expected a file"
    assert "is a pipe or device" in refusal(read, tmp_path / "pipe")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied"), "can't read (Permission denied)"),
        (OSError("truncated stream"), "can't read (truncated stream)"),
    ],
)
def test_errors_of_reading_are_one_line_that_names_file(path: Path, error: OSError, says: str) -> None:
    with pytest.raises(VocabkitError) as caught, reading(path):
        raise error
    assert str(caught.value) == f"{path}: {says}"


# ---- what a command may replace ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["map.json", "map.csv", "map.parquet", "shared.arrow"])
def test_own_file_is_replaceable(tmp_path: Path, name: str) -> None:
    pair = [text_vocabulary("one", b"a", b"b"), text_vocabulary("two", b"b", b"c")]
    path = tmp_path / name
    if name.endswith(".arrow"):
        align(pair).save(path)
    else:
        token_map(*pair).save(path)
    check_replaceable(path)


@pytest.mark.parametrize(
    "content",
    [b"notes\n", b'{"source": "mine"}', b"ARROW1\x00\x00", b"<!doctype html>\n<html>", b"PAR1", b"{}", b"\x93NUMPY"],
)
def test_file_of_the_user_is_not_replaceable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(VocabkitError, match=r"notes\.txt: exists, and vocabkit did not write it"):
        check_replaceable(path)
    assert path.read_bytes() == content


def test_missing_and_empty_files_are_replaceable(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "new")
    (tmp_path / "empty").touch()
    check_replaceable(tmp_path / "empty")
