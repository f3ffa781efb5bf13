"""Installed versions and devices, and how `mix` will use them. Works without torch, and says what is missing."""

from __future__ import annotations

import importlib.util
import platform
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from vocabkit.adapter.mixing.choice import Choice

PACKAGES = ("vocabkit", "torch", "triton", "transformers", "accelerate", "safetensors", "tokenizers", "pyarrow")
PATCHES, ROWS, HIDDEN_WIDTH, LLM_WIDTH = 576, 109_566, 1024, 4096
"""Patches of an image at 336 pixels, tokens that Qwen2.5 and LLaMA3 share, and common widths."""
_CALLS: tuple[tuple[Literal["linear", "softmax"], int, int | None], ...] = (
    ("linear", 1, None),
    ("linear", 32, None),
    ("softmax", 1, None),
    ("softmax", 32, None),
    ("softmax", 32, 64),
)
"""Head, images, and coefficients kept (None for all)."""


@dataclass(frozen=True)
class Device:
    """A device that torch can compute on."""

    name: str
    """torch's name for it: cpu, cuda:0."""
    model: str
    memory: int | None
    """In bytes; None for the CPU."""
    dtypes: list[str]
    """The dtypes that it supports in hardware."""


@dataclass(frozen=True)
class Mixing:
    """A call of `mix` at a typical size, and its path."""

    device: str
    dtype: str
    head: str
    images: int
    top: int | None
    choice: Choice


@dataclass(frozen=True)
class Environment:
    """Versions, devices and the paths of `mix`."""

    python: str
    machine: str
    versions: dict[str, str | None]
    """By package; None if not installed."""
    devices: list[Device] = field(default_factory=list)
    mixing: list[Mixing] = field(default_factory=list)
    """For images of 576 patches, 109,566 rows, hidden width 1,024 and LLM width 4,096."""
    advice: list[str] = field(default_factory=list)
    """What to install or set, and why."""


def environment() -> Environment:
    """Describe versions, devices, and the path of `mix` for typical sizes on the fastest device."""
    machine = f"{platform.system()} {platform.machine()}"
    versions = {package: _version(package) for package in PACKAGES}
    if importlib.util.find_spec("torch") is None:
        advice = ["torch is not installed; the commands about adapters need it: pip install 'vocabkit[adapter]'"]
        return Environment(platform.python_version(), machine, versions, advice=advice)
    devices = _devices()
    return Environment(
        platform.python_version(), machine, versions, devices, _mixing(devices[-1]), _advice(devices, versions)
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[Device]:
    """List the CPU, then GPUs with the first one last, which is the one that commands take."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    model = f"{threads} thread{'s' * (threads != 1)}, {capability}"
    found = [Device("cpu", model, None, ["float32", "float64", "bfloat16"])]
    for index in reversed(range(torch.cuda.device_count() if torch.cuda.is_available() else 0)):
        properties = torch.cuda.get_device_properties(index)
        dtypes = ["float32", "float64", "float16"]
        if (properties.major, properties.minor) >= (8, 0) or torch.version.hip:
            dtypes.append("bfloat16")
        found.append(Device(f"cuda:{index}", properties.name, properties.total_memory, dtypes))
    return found


def _mixing(device: Device) -> list[Mixing]:
    import torch

    from vocabkit.adapter.mixing.choice import choose

    def call(head: Literal["linear", "softmax"], images: int, top: int | None, dtype: torch.dtype) -> Mixing:
        choice = choose(
            head,
            images * PATCHES,
            ROWS,
            HIDDEN_WIDTH,
            LLM_WIDTH,
            hidden=dtype,
            embeddings=dtype,
            device=torch.device(device.name),
            top=top,
        )
        return Mixing(device.name, str(dtype).removeprefix("torch."), head, images, top, choice)

    dtypes = (torch.float32, torch.bfloat16)
    return [call(head, images, top, dtype) for dtype in dtypes for head, images, top in _CALLS]


def _advice(devices: list[Device], versions: dict[str, str | None]) -> list[str]:
    import torch

    advice = []
    if len(devices) == 1:
        built = "is built without CUDA" if torch.version.cuda is None else "finds no GPU; check nvidia-smi"
        advice.append(f"no GPU: everything runs on the CPU (torch {torch.__version__} {built})")
    else:
        if versions["triton"] is None:
            advice.append("triton is not installed; softmax heads are slower without it: pip install triton")
        advice += [
            f"{device.name} ({device.model}) has no bfloat16 in hardware; float32 is the faster choice"
            for device in devices[1:]
            if "bfloat16" not in device.dtypes
        ]
    return advice
