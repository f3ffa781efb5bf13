"""The wheel as users install it: with what it requires and nothing else, on each Python at hand."""

from __future__ import annotations

import shutil
import site
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from environments import attempt, python_of, run
from page import program

EXTRAS = {
    "pip install 'vocabkit[adapter]'": [
        "features pictures.json --out features --vision clip",
        "train recipe.toml --out trained",
        "import mm_projector.bin --shared shared.arrow --llm qwen2 --out imported",
        "transfer adapter.pt --to smollm2",
        "check moved adapter.pt --to smollm2",
        "export moved --as projector --features features --out distilled",
        "export projector --as projector --out exported",
        "infer adapter.pt pictures --out inferred",
        "validate pictures.json --llm smollm2 --features features --adapter mine=adapter.pt",
        "interpret adapter.pt pictures --llm smollm2",
    ],
    "pip install 'vocabkit[offline]'": ["scenes scenes"],
    "pip install 'vocabkit[report]'": ["overlap qwen2 llama3 --html overlap.html"],
}
"""What to install, and the commands that ask for it."""
IMPORT_ALL = """
import importlib, pkgutil
import vocabkit, vocabkit_cli
from vocabkit.errors import VocabkitError
lacking = set()
for package in (vocabkit, vocabkit_cli):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".", onerror=lambda name: None):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            lacking.add(error.name.partition(".")[0])
        except VocabkitError as error:
            assert "pip install 'vocabkit[" in str(error)
print(*sorted(lacking))
"""


def command(python: Path) -> Path:
    """The program `vocabkit` of an environment."""
    return python.parent / "vocabkit"


def test_its_requirements_are_met_and_nothing_heavy_is_among_them(installed: Path) -> None:
    run(installed, "-m", "pip", "check")
    listed = run(installed, "-m", "pip", "list", "--format", "freeze").stdout
    assert {line.partition("==")[0].lower() for line in listed.splitlines()}.isdisjoint(
        {"torch", "transformers", "safetensors", "pandas", "pillow", "jinja2"}
    )


def test_it_imports_without_a_warning(installed: Path, tmp_path: Path) -> None:
    run(installed, "-W", "error", "-c", "import vocabkit, vocabkit_cli.app", cwd=tmp_path)


def test_every_module_imports_without_a_warning_or_lacks_an_extra(installed: Path, tmp_path: Path) -> None:
    lacking = run(installed, "-W", "error", "-c", IMPORT_ALL, cwd=tmp_path).stdout.split()
    assert set(lacking) <= {"PIL", "accelerate", "gguf", "safetensors", "torch", "transformers"}


def test_the_commands_about_tokenizers_work(installed: Path, tmp_path: Path) -> None:
    def vocabkit(*words: str) -> str:
        return run(command(installed), *words, cwd=tmp_path).stdout

    assert vocabkit("--help").startswith("Usage: vocabkit")
    built = vocabkit("build-shared", "qwen2", "llama3")
    rows = built.split()[1]
    assert vocabkit("check", "qwen2-llama3.arrow") == (
        f"qwen2-llama3.arrow: all {rows} rows are right in qwen2, llama3\n"
    )
    assert f"{rows} tokens shared by qwen2 and llama3" in vocabkit("overlap", "qwen2", "llama3")
    assert "shared: one token" in vocabkit("explain", " the", "qwen2", "llama3")
    assert "'vocabkit[adapter]'" in vocabkit("doctor")
    assert "qwen2" in vocabkit("catalog")


@pytest.mark.parametrize(("advice", "words"), [(a, words) for a, lines in EXTRAS.items() for words in lines])
def test_a_command_that_needs_an_extra_says_which(installed: Path, tmp_path: Path, advice: str, words: str) -> None:
    shutil.copy(ROOT / "docs/examples/recipes/scenes.toml", tmp_path / "recipe.toml")
    done = attempt(command(installed), *words.split(), cwd=tmp_path)
    assert done.returncode == 2, done
    *notes, problem = done.stderr.splitlines()
    assert problem.startswith("error: ")
    assert problem.endswith(advice)
    assert not any(note.startswith(("error", "Traceback", " ")) for note in notes)
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.toml"}


def test_programs_that_use_it_pass_a_strict_type_checker(wheel: Path, tmp_path: Path) -> None:
    """All sessions of docs/python.md as one program, where only the wheel knows the types of vocabkit."""
    python = python_of(tmp_path / "environment", sys.executable, "--no-deps", wheel)
    (packages,) = (tmp_path / "environment").glob("lib/*/site-packages")
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    (tmp_path / "right.py").write_text(program())
    (tmp_path / "wrong.py").write_text("from vocabkit.shared.shared_vocabulary import open_shared\nopen_shared(1)\n")
    mypy = ["-m", "mypy", "--strict", "--python-executable", str(python)]
    run(sys.executable, *mypy, "right.py", cwd=tmp_path)
    assert (
        '"open_shared" has incompatible type "int"' in attempt(sys.executable, *mypy, "wrong.py", cwd=tmp_path).stdout
    )
