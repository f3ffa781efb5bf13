"""Collect what benchmarks/gpu_suite.sh measured: python benchmarks/gpu_results.py FOLDER OUT.

Writes OUT/<gpu>-<date>.json and prints by how much the validations on cuda and on cpu differ.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "triton", "transformers", "pyarrow")
LLMS = ("smollm2", "gemma3")
LIMIT = 2**-8
"""Relative difference of caption losses: the rounding of bfloat16."""


def main(folder: Path, out: Path) -> None:
    """Write the results."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"cpu {platform.machine()}"
    today = datetime.datetime.now(datetime.UTC).date()
    content: dict[str, Any] = {
        "device": device,
        "cores": os.cpu_count(),
        "date": str(today),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name)},
        **{name: found.get(name) for name in ("mixing", "inference")},
        "validation": {
            llm: compared(llm, found[f"{llm}-cpu"], found[f"{llm}-cuda"]) for llm in LLMS if both(llm, found)
        },
    }
    out.mkdir(exist_ok=True)
    file = out / f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}-{today}.json"
    file.write_text(json.dumps(content, indent=2) + "\n")
    print(f"written: {file}")


def both(llm: str, found: dict[str, Any]) -> bool:
    """Whether it was validated on both devices."""
    return {f"{llm}-cpu", f"{llm}-cuda"} <= found.keys()


def compared(llm: str, cpu: dict[str, Any], cuda: dict[str, Any]) -> dict[str, Any]:
    """The caption losses of both devices, and the largest relative difference."""
    (one,), (other,) = cpu.values(), cuda.values()
    losses = {
        shown: {"cpu": loss["value"], "cuda": other["validation"]["caption_loss"][shown]["value"]}
        for shown, loss in one["validation"]["caption_loss"].items()
    }
    largest = max(abs(loss["cuda"] / loss["cpu"] - 1) for loss in losses.values())
    for shown, loss in losses.items():
        print(f"{llm}, {shown}: {loss['cpu']:.5f} nats per token on cpu, {loss['cuda']:.5f} on cuda")
    verdict = "ok" if largest <= LIMIT else "MISSED"
    print(f"{llm}: largest relative difference {largest:.1e} (limit {LIMIT:.1e}: {verdict})")
    return {"caption_loss": losses, "largest_relative_difference": largest, "limit": LIMIT}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
