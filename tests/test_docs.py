"""Commands, snippets, links and messages in README and docs match the program; `make check` runs the transcripts."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from vocabkit_cli.app import command_line

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
COMMANDS = command_line().commands

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, *languages: str) -> list[str]:
    """The code blocks of these languages."""
    pattern = rf"^```(?:{'|'.join(languages)})(?: models)?\n(.*?)^```$"
    return re.findall(pattern, page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
        names.add(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return names


def calls(page: Path) -> Iterator[list[str]]:
    """The words of each call of vocabkit in shell blocks and transcripts, from the command's name on."""
    typed = [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    for line in _logical_lines("\n".join([*blocks(page, "sh"), *typed])):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        for start, word in enumerate(words):
            if Path(word).name in ("vocabkit", "vocabkit_cli"):
                yield list(itertools.takewhile(lambda word: not set(word) <= set("();<>|&"), words[start + 1 :]))


def _logical_lines(text: str) -> Iterator[str]:
    """Lines as a shell reads them: without comments, and whole where they are continued or quoted."""
    line = ""
    for part in text.replace("\\\n", " ").splitlines():
        line += re.sub(r"(^|\s)#.*", "", part) + "\n"
        if line.count('"') % 2 == line.count("'") % 2 == 0:
            yield line
            line = ""


def test_readme_python_snippets_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    vocabkit = Path(sys.executable).parent / "vocabkit"
    subprocess.run([vocabkit, "build-shared", "qwen2", "llama3"], cwd=tmp_path, check=True)
    snippets = blocks(ROOT / "README.md", "python")
    assert snippets
    subprocess.run([sys.executable, "-c", "\n".join(snippets)], cwd=tmp_path, check=True)
    assert "sha256:" in capfd.readouterr().out


@needs_torch
@each_page
def test_python_snippets_import_existing_names(page: Path) -> None:
    for snippet in blocks(page, "python"):
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vocabkit"):
                module = importlib.import_module(node.module or "")
                assert not [name.name for name in node.names if not hasattr(module, name.name)]


@each_page
def test_commands_in_pages_parse(page: Path) -> None:
    for name, *arguments in calls(page):
        assert name in COMMANDS
        try:
            COMMANDS[name].make_context(name, arguments)
        except typer.Exit:  # --help
            continue
        except Exception as error:
            pytest.fail(f"vocabkit {shlex.join([name, *arguments])}: {error}")


@each_page
def test_commands_named_in_prose_exist(page: Path) -> None:
    named = re.findall(r"`vocabkit (?![a-z ]+ 1\\n)([a-z][a-z-]*)", prose(page))
    assert not [name for name in named if name not in COMMANDS]


def test_every_command_appears_in_a_guide() -> None:
    shown = {name for page in PAGES if page.name != "cli.md" for name, *_ in calls(page)}
    assert COMMANDS.keys() <= shown


@each_page
def test_links_between_pages_resolve(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose(page)):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_index_links_to_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w/-]+\.md)", (ROOT / "docs/README.md").read_text("utf-8")))
    assert {str(page.relative_to(ROOT / "docs")) for page in DOCS} - {"README.md"} <= linked


def test_users_have_at_most_fifteen_pages() -> None:
    assert len([page for page in DOCS if page.parent.name == "docs"]) <= 15


@needs_torch
@each_page
def test_recipes_in_pages_have_known_fields_only(page: Path) -> None:
    recipes = [tomllib.loads(block) for block in blocks(page, "toml")]
    from vocabkit.train.recipe import Recipe

    assert {name for recipe in recipes for name in recipe} <= {field.name for field in dataclasses.fields(Recipe)}


def test_troubleshooting_messages_exist_in_the_program() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    messages = [message for _, message in re.findall(r"^- (`+)(.+)\1$", page, re.MULTILINE)]
    assert len(messages) == page.count("\n- ")
    texts = "\n".join(_texts())
    assert not [message for message in messages if not any(re.search(form, texts) for form in _forms(message))]


def _forms(message: str) -> Iterator[str]:
    """Patterns of a message as the command line shows it, and as the library raises it, with parameters for options."""
    raised = re.sub(r"--([a-z][a-z-]*)", lambda option: f"`{option[1].replace('-', '_')}`", message)
    for form in (message, raised):
        yield ".*".join(map(re.escape, form.split("…")))


def _texts() -> Iterator[str]:
    """Each string in the code on a line of its own, with `…` for what is put into it."""
    for file in [*(ROOT / "vocabkit").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                yield "".join(map(str, parts)).replace("\n", " ")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value.replace("\n", " ")


def test_readme_begins_with_the_two_commands() -> None:
    commands = re.findall(r"^make \w+", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert commands[:2] == ["make demo", "make test"]
    assert "make test" in (ROOT / ".ci/run").read_text("utf-8")
