"""How tests run other programs."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PYTHON = "ECOSYSTEM_PYTHON"
"""The environment variable with the Python that has these programs."""
VLLM = "VLLM_PYTHON"
"""The one with the Python that has vLLM."""
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else it takes one core, whatever else runs there
}


def in_ecosystem(folder: Path, *words: str | Path, text: str | None = None) -> str:
    """Run Python with these words in `folder`, offline, with `text` as its input; returns what it prints."""
    return _printed(os.environ[PYTHON], folder, words, {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}, text)


def in_vllm(folder: Path, *words: str | Path) -> str:
    """The same with vLLM's Python."""
    return _printed(os.environ[VLLM], folder, words, SETTINGS, None)


def _printed(
    python: str, folder: Path, words: tuple[str | Path, ...], settings: dict[str, str], text: str | None
) -> str:
    done = subprocess.run(
        [python, *words],
        cwd=folder,
        env={**os.environ, **settings},
        input=text or "",
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@contextmanager
def vllm_serve(model: Path, *options: str) -> Iterator[str]:
    """Run `vllm serve` on a free port of this machine; yields its address, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [Path(os.environ[VLLM]).parent / "vllm", "serve", model, "--enforce-eager", "--dtype", "float32"]
    where = ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048", "--max-num-seqs", "4"]
    log = model.parent / f"vllm-{port}.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [*command, *where, *options], env={**os.environ, **SETTINGS}, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 900
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None, log.read_text("utf-8", "replace")[-5000:]
            assert time.monotonic() < deadline
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
        assert server.poll() is None, log.read_text("utf-8", "replace")[-5000:]
    finally:
        server.terminate()
        server.wait(60)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=10) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
