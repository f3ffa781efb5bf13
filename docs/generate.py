"""Write what docs take from the program itself: python docs/generate.py [--check].

docs/cli.md is made from `--help` and the class Recipe; docs/maintainers/dependencies.md from the metadata of installed
packages, and it stays unchanged where some are missing. In README.md and docs/*.md, each ```console block is
a transcript: its `$` lines are run one after the other, followed by what they print on stdout. Each page has its own
folder that looks like a clone of the repository after `make demo`: data/ and .sources/, and the files of docs/examples.
README.md shows what they print on stderr as well.

A ```console models block needs torch and the models in .sources/, and stays as it is where these are missing. Its
decimals depend on the processor: if nothing else in it has changed, it stays as it is, too.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from itertools import pairwise
from pathlib import Path
from typing import Any

import dependencies

from vocabkit.train.recipe import Recipe, value_of

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    **os.environ,
    "COLUMNS": "80",
    "NO_COLOR": "1",
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
}
_TRANSCRIPT = re.compile(r"^```console(?P<models> models)?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMANDS = """\
# Command line

Made from `--help` by `make docs`. Every command takes `-q`, for results and errors only, and `--json`.

With `--json`, stdout holds one JSON object. Its `schema` is 1, and rises when a field is renamed, removed or means
something else; new fields may come at any time. A refused command prints `{"schema": 1, "error": ...}`. Bytes are
`{"hex": ..., "text": ...}`, where text is null if they are not UTF-8; numbers that are not finite are null. `validate`
has the names of its data beside `schema`; `catalog` has its list in `entries`.
"""
_RECIPE = """\
## Fields of a recipe

What a TOML file for `vocabkit train` may hold, and `--set NAME=VALUE` may replace. See
[Training](training.md) for which of them matter. Made from `vocabkit.train.recipe.Recipe` by `make docs`."""
_PROGRESS = re.compile(r" s so far$|, about .* left$")
_DECIMAL = re.compile(r" *\d+(\.\d+e-\d+|\.\d+|e-\d+)")


def pages() -> dict[Path, str]:
    """Every generated page with the text it should have."""
    written = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    fresh = {page: with_transcripts(page) for page in written if page.name != "cli.md"}
    installed = ROOT / "docs/maintainers/dependencies.md"
    fresh[ROOT / "docs/cli.md"] = f"{command_reference()}\n{recipe_fields()}"
    with contextlib.suppress(PackageNotFoundError):
        fresh[installed] = dependencies.page()
    return fresh


def with_transcripts(page: Path) -> str:
    """The text of `page` with its transcripts run anew."""
    text = page.read_text("utf-8")
    if not _TRANSCRIPT.search(text):
        return text
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "docs/examples", folder, dirs_exist_ok=True)
        for name in ("data", ".sources"):
            (Path(folder) / name).symlink_to(ROOT / name)
        both = page.name == "README.md" and page.parent == ROOT
        return _TRANSCRIPT.sub(lambda block: _fresh(block, Path(folder), both=both), text)


def command_reference() -> str:
    """The first part of docs/cli.md: the help of every command."""
    sections = [_COMMANDS]
    for command in ["", *_commands()]:
        words = ["vocabkit", *command.split()]
        sections.append(f"## {' '.join(words)}\n\n```text\n{_output([*words, '--help'])}```\n")
    return "\n".join(sections)


def recipe_fields() -> str:
    """The last part of docs/cli.md: the fields of a recipe with their defaults."""
    (described,) = (
        node
        for node in ast.parse((ROOT / "vocabkit/train/recipe.py").read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == "Recipe"
    )
    meaning = {}
    for node, following in pairwise(described.body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = ast.get_docstring(ast.Module([following], [])) or ""
            meaning[node.target.id] = text.replace("\n", " ").replace("|", "\\|")
    rows = [
        f"| `{field.name}` | {value_of(field.name)} | {_default(field)} | {meaning.get(field.name, '')} |"
        for field in dataclasses.fields(Recipe)
    ]
    return "\n".join([_RECIPE, "", "| name | value | default | what it is |", "|---|---|---|---|", *rows, ""])


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "must be given"
    if field.default is None:
        return "none"
    return f"`{json.dumps(field.default)}`"


def _commands() -> Iterator[str]:
    listed = _output(["vocabkit", "--help"]).split("Vocabularies:\n")[1]  # the first group
    return (line.split()[0] for line in listed.splitlines() if re.match(r"  \S", line))


def _output(command: list[str]) -> str:
    return subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout


def has_models() -> bool:
    """Whether transcripts that need torch and the models in .sources/ can run here."""
    return importlib.util.find_spec("torch") is not None and (ROOT / ".sources/.complete").exists()


def _fresh(block: re.Match[str], folder: Path, *, both: bool) -> str:
    if not block["models"]:
        return f"```console\n{_run(block['text'], folder, both=both)}```"
    if not has_models():
        return block.group()
    printed = _run(block["text"], folder, both=both)
    same = _DECIMAL.sub("", printed) == _DECIMAL.sub("", block["text"])
    return block.group() if same else f"```console models\n{printed}```"


def _run(transcript: str, folder: Path, *, both: bool) -> str:
    """Run a transcript anew; `both` shows stderr as well, without progress."""
    lines = []
    for line in transcript.splitlines():
        if line.startswith("$ "):
            done = subprocess.run(
                ["sh", "-c", line[2:]], cwd=folder, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if both else subprocess.PIPE,
            )  # fmt: skip
            if done.returncode:
                sys.exit(f"{line}\nfailed: {done.stderr or done.stdout}")
            lines += [line, *(said.rstrip() for said in done.stdout.splitlines() if not _PROGRESS.search(said))]
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
