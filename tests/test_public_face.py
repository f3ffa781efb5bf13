"""The public names: what `import vocabkit` offers, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vocabkit

LIGHT = ["VocabkitError", "__version__", "align", "explain", "load_tokenizer", "open_shared", "overlap"]
HEAVY = ["check_transfer", "infer", "load_adapter", "mix", "transfer"]


def printed(program: str) -> str:
    """What a fresh Python prints for `program`."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_dir_lists_exactly_the_public_names() -> None:
    assert dir(vocabkit) == sorted(vocabkit.__all__) == sorted(LIGHT + HEAVY)


@pytest.mark.parametrize("name", LIGHT)
def test_light_name_resolves(name: str) -> None:
    assert getattr(vocabkit, name)


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'alignn'"):
        vocabkit.alignn  # noqa: B018


def test_wrong_type_raises_type_error_with_what_was_expected(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from vocabkit.interpret.interpret import interpret
    from vocabkit.transfer.transfer import as_target

    rows: Any = torch.zeros(2, 3)
    adapter, picture = "data/smollm2-scenes.pt", "photo.jpg"
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: vocabkit.mix([1.0], rows, rows, head="linear"), "`hidden` is list; expected a tensor"),  # type: ignore[arg-type]
        (lambda: vocabkit.infer(adapter, picture, tmp_path), "`inputs` is str; expected a list"),
        (lambda: interpret(adapter, picture), "`pictures` is str; expected a list"),
        (lambda: vocabkit.transfer(adapter, 5), "`target` is int; expected a path"),  # type: ignore[arg-type]
        (lambda: as_target(None), "`target` is NoneType; expected a path"),  # type: ignore[arg-type]
    ]
    for call, says in wrong:
        with pytest.raises(TypeError, match=says):
            call()


def test_import_loads_no_library() -> None:
    program = "import sys; before = set(sys.modules); import vocabkit; print(*set(sys.modules) - before)"
    assert set(printed(program).split()) <= {"__future__", "vocabkit"}


def test_light_names_load_no_torch() -> None:
    program = f"import sys, vocabkit; [getattr(vocabkit, name) for name in {LIGHT}]; print('torch' in sys.modules)"
    assert printed(program) == "False"


STEPS = (
    "import vocabkit.transfer.transfer",
    "from vocabkit.transfer import fold",
    "from vocabkit import transfer, infer",
    "from vocabkit.infer.infer import InferOptions",
)


IN_ANY_ORDER = """
import itertools, os, torch, transformers
for order in itertools.permutations(STEPS, 2):
    if not os.fork():  # a process that has imported nothing of vocabkit, but what takes long
        exec("; ".join(order))
        import vocabkit
        print(vocabkit.transfer.__name__, callable(vocabkit.infer), flush=True)
        os._exit(0)
    os.wait()
"""


def test_functions_named_like_rooms_win_in_any_import_order() -> None:
    pytest.importorskip("torch")
    found = printed(f"STEPS = {STEPS}{IN_ANY_ORDER}").splitlines()
    assert found == ["transfer True"] * 12


def test_module_runs_as_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "vocabkit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"vocabkit {vocabkit.__version__}\n"
