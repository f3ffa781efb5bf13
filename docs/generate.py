"""Write what docs take from the program itself: python docs/generate.py [--check].

docs/cli.md is made from `--help`. In README.md and docs/*.md, each ```console block is a transcript: its `$` lines are
run one after the other, and what they print on stdout follows them. Each page has a folder of its own that looks like a
clone of the repository after `make demo`: data/ and .sources/, and beside them the files of docs/examples.

A ```console models block needs torch and the models in .sources/, and stays as it is where these are missing. Its
decimals depend on the processor: if nothing else in it has changed, it stays as it is, too.
"""

from __future__ import annotations

import importlib.util
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
_TRANSCRIPT = re.compile(r"^```console(?P<models> models)?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_DECIMAL = re.compile(r" *\d+(\.\d+e-\d+|\.\d+|e-\d+)")


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
        for name in ("data", ".sources"):
            (Path(folder) / name).symlink_to(ROOT / name)
        return _TRANSCRIPT.sub(lambda block: _fresh(block, Path(folder)), text)


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


def has_models() -> bool:
    """Whether transcripts that need torch and the models in .sources/ can run here."""
    return importlib.util.find_spec("torch") is not None and (ROOT / ".sources/.complete").exists()


def _fresh(block: re.Match[str], folder: Path) -> str:
    if not block["models"]:
        return f"```console\n{_run(block['text'], folder)}```"
    if not has_models():
        return block.group()
    printed = _run(block["text"], folder)
    same = _DECIMAL.sub("", printed) == _DECIMAL.sub("", block["text"])
    return block.group() if same else f"```console models\n{printed}```"


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
