"""docs/examples/ask_in_words.py and ask_vllm.py with a client in place of openai's: a conversation, and mistakes.

With openai's own client and real servers they run in tests/ecosystem.
"""

from __future__ import annotations

import io
import runpy
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from moved_adapters import Kind, moved, trained
from small_adapters import projector
from small_world import World

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
Ask = Callable[..., tuple[int, list[str], list[str]]]


class Terminal(io.StringIO):
    """What a user types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs an example with these words and standard input; returns its exit code and the lines that it prints."""

    def answer(messages: list[dict[str, Any]], **options: Any) -> Any:
        said = SimpleNamespace(content=f"to {messages[-1]['content']}")
        return SimpleNamespace(choices=[SimpleNamespace(message=said)])

    client = SimpleNamespace(
        models=SimpleNamespace(list=lambda: SimpleNamespace(data=[SimpleNamespace(id="llm")])),
        chat=SimpleNamespace(completions=SimpleNamespace(create=answer)),
    )
    openai = SimpleNamespace(OpenAI=lambda **options: client, OpenAIError=type("OpenAIError", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "openai", openai)  # type: ignore[arg-type]

    def run(name: str, *words: str | Path, typed: str = "") -> tuple[int, list[str], list[str]]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        monkeypatch.setattr(sys, "stdin", Terminal(typed))
        code: Any = 0
        try:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        told = capsys.readouterr()
        return code, told.out.splitlines(), told.err.splitlines()

    return run


def test_conversation_goes_on_at_a_terminal_and_leaves_blank_lines_out(ask: Ask, world: World, tmp_path: Path) -> None:
    trained(world, Kind("words"), tmp_path).save(tmp_path / "adapter")
    typed = "\nWhich colour?\n   \nWhere?"
    found = ask("ask_in_words.py", tmp_path / "adapter", world.data.parent / "1.png", "What?", typed=typed)
    assert found == (0, ["to What?", "to Which colour?", "to Where?"], [])


def test_mistakes_are_a_line_each(ask: Ask, world: World, tmp_path: Path) -> None:
    picture = world.data.parent / "1.png"
    projector().save(tmp_path / "mlp")
    moved(world, Kind("words"), tmp_path).save(tmp_path / "moved")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for adapter, file, problem in (
        ("nothing", picture, "no such file or folder"),
        ("mlp", picture, "this adapter has none"),
        ("moved", tmp_path / "broken.png", "broken.png: not an image"),
    ):
        code, out, (said,) = ask("ask_in_words.py", tmp_path / adapter, file, "What?")
        assert (code, out) == (2, [])
        assert said.startswith("error: ")
        assert problem in said


@pytest.mark.parametrize("path", ["/v1", "/v1/", ""])
def test_server_that_is_down_or_not_vllm_is_a_line(ask: Ask, path: str) -> None:
    down = ask("ask_vllm.py", "moved", "1.png", "What?", "--base-url", f"http://127.0.0.1:1{path}")
    assert down[:2] == (2, [])
    assert down[2] == [
        "error: http://127.0.0.1:1/version: <urlopen error [Errno 111] Connection refused>; is this a vLLM server?"
    ]
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:  # answers 501 to everything
        threading.Thread(target=other.handle_request).start()
        code, out, told = ask(
            "ask_vllm.py", "moved", "1.png", "What?", "--base-url", f"http://127.0.0.1:{other.server_port}{path}"
        )
    assert (code, out) == (2, [])
    assert "/version: HTTP Error 501" in told[-1], "after the other server's own log"
    assert "Traceback" not in "".join(told)
