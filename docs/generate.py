"""Write what docs take from the program itself: python docs/generate.py [--check].

docs/cli.md is made from `--help`. In README.md and docs/*.md, each ```console block is a transcript: its `$` lines are
run one after the other, in one empty folder per page, and what they print on stdout follows them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    **os.environ,
    "COLUMNS": "80",
    "NO_COLOR": "1",
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
}
_TRANSCRIPT = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)


def pages() -> dict[Path, str]:
    """Every generated page with the text it should have."""
    written = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    fresh = {page: with_transcripts(page) for page in written if page.name != "cli.md"}
    return {ROOT / "docs/cli.md": command_reference(), **fresh}


def with_transcripts(page: Path) -> str:
    """The text of `page` with its transcripts run anew."""
    text = page.read_text("utf-8")
    if not _TRANSCRIPT.search(text):
        return text
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "docs/examples", folder, dirs_exist_ok=True)
        return _TRANSCRIPT.sub(lambda block: _run(block.group(), Path(folder)), text)


def command_reference() -> str:
    """docs/cli.md: the help of every command."""
    sections = ["# Command line\n\nMade from `--help` by `make docs`.\n"]
    for command in ["", *_commands()]:
        words = ["vocabkit", *command.split()]
        sections.append(f"## {' '.join(words)}\n\n```text\n{_output([*words, '--help'])}```\n")
    return "\n".join(sections)


def _commands() -> Iterator[str]:
    listed = _output(["vocabkit", "--help"]).split("Commands:\n")[1]
    return (line.split()[0] for line in listed.splitlines() if re.match(r"  \S", line))


def _output(command: list[str]) -> str:
    return subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout


def _run(transcript: str, folder: Path) -> str:
    lines = []
    for line in transcript.splitlines():
        if line.startswith("$ "):
            done = subprocess.run(["sh", "-c", line[2:]], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{line}\nfailed: {done.stderr}")
            lines += [line, *(printed.rstrip() for printed in done.stdout.splitlines())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the pages that differ, or with --check name them and fail."""
    stale = {page: text for page, text in pages().items() if not page.exists() or page.read_text("utf-8") != text}
    if "--check" in sys.argv and stale:
        sys.exit(f"{', '.join(str(page.relative_to(ROOT)) for page in stale)}: out of date; run `make docs`")
    for page, text in stale.items():
        page.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
