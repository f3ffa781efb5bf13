"""Commands in a pseudo-terminal of 80 columns and in a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
from pathlib import Path

import pytest
import torch
from command_line import PROGRAM, TIMEOUT, vocabkit_here
from rich.cells import cell_len
from small_world import make_world

from vocabkit.adapter.config import AdapterConfig
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.transfer.transfer import open_target, transfer

COLUMNS = 80
CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COMMANDS = {
    "overlap": "overlap qwen2 llama3",
    "overlap of three": "overlap qwen2.5 llama3 smollm2",
    "explain": "explain 年 qwen2 llama3",
    "catalog": "catalog",
    "transfer": "transfer adapter --to two=world/two --overwrite --out moved",
    "check-transfer": "check moved adapter --to two=world/two",
    "interpret": "interpret adapter world/data.json --llm one=world/one --llm two=world/two --limit 2",
    "validate": "validate world/data.json --llm two=world/two --features world/features --template completion "
    "--adapter transferred=moved",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where commands run, with an adapter that tells pictures apart and its transfer to another LLM."""
    folder = tmp_path_factory.mktemp("terminal")
    world = make_world(folder / "world")
    shared = open_shared(world.shared)
    config = AdapterConfig.of(
        shared, llm="one", vision_width=32, hidden_width=16, head="softmax", vision_model=str(world.vision),
        vision_layer=-2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = LangBridgeAdapter(config, shared)
        torch.nn.init.normal_(adapter.head.weight, std=3)
    adapter.save(folder / "adapter")
    transfer(adapter, open_target(world.two))[0].save(folder / "moved")
    return folder


def in_terminal(folder: Path, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command whose streams are two terminals of 80 columns."""
    ends = [pty.openpty() for _ in range(2)]
    for _, program_end in ends:
        fcntl.ioctl(program_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    running = subprocess.Popen(
        [PROGRAM, *words],
        cwd=folder,
        env={**environment, "TERM": "xterm-256color"},
        stdin=ends[0][1],
        stdout=ends[0][1],
        stderr=ends[1][1],
    )
    written = [bytearray(), bytearray()]
    for _, program_end in ends:
        os.close(program_end)
    open_ends = {own_end: text for (own_end, _), text in zip(ends, written, strict=True)}
    while open_ends:
        for own_end in select.select(list(open_ends), [], [], TIMEOUT)[0]:
            try:
                open_ends[own_end] += os.read(own_end, 65536)
            except OSError:  # how a pseudo-terminal ends
                del open_ends[own_end]
                os.close(own_end)
    out, err = (text.decode().replace("\r\n", "\n") for text in written)
    return running.wait(TIMEOUT), out, err


@pytest.mark.parametrize("command", COMMANDS)
def test_lines_fit_the_terminal_and_a_pipe_gets_the_same_text(folder: Path, command: str) -> None:
    code, out, err = in_terminal(folder, *COMMANDS[command].split())
    assert code == 0, err
    for line in CODE.sub("", out).splitlines():
        assert cell_len(line) <= COLUMNS, line
    assert "\x1b[1m" in out

    piped = vocabkit_here(folder, *COMMANDS[command].split())
    assert piped.returncode == 0
    assert "\x1b" not in piped.stdout + piped.stderr
    assert piped.stdout == CODE.sub("", out)


@pytest.mark.parametrize("command", COMMANDS)
def test_json_in_a_terminal_is_one_document(folder: Path, command: str) -> None:
    code, out, _ = in_terminal(folder, *COMMANDS[command].split(), "--json")
    assert code == 0
    assert "\x1b" not in out
    assert json.loads(out)


def test_long_error_breaks_between_words(folder: Path) -> None:
    words = ("compare", f"a={'x' * 90}.json")
    code, _, stderr = in_terminal(folder, *words)
    lines = CODE.sub("", stderr).replace("\r", "").splitlines()
    assert code == 2
    assert lines[0].startswith("error:")
    assert " ".join(map(str.strip, lines)) == vocabkit_here(folder, *words).stderr.rstrip()
    assert all(cell_len(line) <= COLUMNS for line in lines if "xxx" not in line)
    assert sum("xxx" in line for line in lines) == 1
