"""The sdist and the wheel of a commit, the same bytes each time: python tests/release/distributions.py FOLDER.

They are made of what git has, not of what lies around; two builds of a commit are equal wherever zlib is the same.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

from environments import python_of, run

ROOT = Path(__file__).parents[2]


def build(out: Path, commit: str = "HEAD") -> tuple[Path, Path]:
    """Write sdist and wheel of `commit` to `out`. The wheel is made out of the sdist."""
    os.umask(0o022)  # a wheel keeps the modes of files
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        python = _tools(work)
        sdist = _build(python, checked_out(commit, work / "tree"), "--sdist", out, commit)
        _normalise(sdist, _committed(commit))
        (unpacked,) = _unpacked(sdist.read_bytes(), work / "sdist").iterdir()
        return sdist, _build(python, unpacked, "--wheel", out, commit)


def build_wheel_from_tree(out: Path, commit: str = "HEAD") -> Path:
    """Write the wheel of `commit` without an sdist between."""
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        python = _tools(work)
        return _build(python, checked_out(commit, work / "tree"), "--wheel", out, commit)


def checked_out(commit: str, folder: Path) -> Path:
    """`folder` with the files of `commit`, all as old as the commit."""
    archive = subprocess.run(["git", "archive", "--format=tar", commit], cwd=ROOT, check=True, capture_output=True)
    return _unpacked(archive.stdout, folder)


def _tools(folder: Path) -> Path:
    return python_of(folder / "tools", sys.executable, "--requirement", Path(__file__).parent / "requirements.txt")


def _build(python: Path, source: Path, kind: str, out: Path, commit: str) -> Path:
    before = set(out.glob("*"))
    epoch = {"SOURCE_DATE_EPOCH": str(_committed(commit))}
    run(python, "-m", "build", "--no-isolation", kind, "--outdir", out.resolve(), source, cwd=source.parent, **epoch)
    (built,) = set(out.glob("*")) - before
    return built


def _committed(commit: str) -> int:
    """When, in seconds since 1970."""
    command = ["git", "log", "-1", "--format=%ct", commit]
    return int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def _unpacked(content: bytes, folder: Path) -> Path:
    with tarfile.open(fileobj=BytesIO(content)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _normalise(sdist: Path, time: int) -> None:
    """Rewrite an sdist without what depends on who made it and when: setuptools keeps the clock out of wheels only."""
    content = BytesIO()
    with (
        tarfile.open(sdist) as given,
        gzip.GzipFile("", "wb", fileobj=content, mtime=time) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as written,
    ):
        for member in sorted(given, key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = time, 0, 0, "", ""
            member.pax_headers = {}
            written.addfile(member, given.extractfile(member) if member.isfile() else None)
    sdist.write_bytes(content.getvalue())


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("vocabkit-*.whl"), *out.glob("vocabkit-*.tar.gz")]:
        old.unlink()
    for built in build(out):
        print(built)
