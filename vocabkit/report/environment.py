"""Terminal report on installed versions and devices."""

from __future__ import annotations

from itertools import groupby

from rich.console import Group, RenderableType
from rich.text import Text

from vocabkit.llm.environment import HIDDEN_WIDTH, LLM_WIDTH, PATCHES, ROWS, Environment, Mixing
from vocabkit.report.layout import Listing


def environment_report(found: Environment, *, everything: bool = False) -> RenderableType:
    """What works here, and advice; with `everything`, all versions and how `mix` computes typical sizes."""
    versions = found.versions
    models = ("torch", "transformers")
    lacking = [package for package in models if versions[package] is None]
    ready = {
        "tokenizers": "ready",
        "adapters": f"not ready: no {' and no '.join(lacking)}" if lacking
        else "ready: " + ", ".join(f"{package} {versions[package]}" for package in models),
    }  # fmt: skip
    devices = {
        device.name: f"{device.model}{_memory(device.memory)}; {', '.join(device.dtypes)}" for device in found.devices
    }
    parts: list[RenderableType] = [
        Text(f"vocabkit {versions['vocabkit']}, Python {found.python}, {found.machine}", style="bold"),
        _listing({**ready, **devices}),
        *(Text(line, style="yellow") for line in found.advice),
    ]
    if not everything:
        return Group(*parts)
    others = {package: version or "not installed" for package, version in versions.items() if package != "vocabkit"}
    parts += [Text(), Text("versions", style="bold"), _listing(others)]
    for (device, dtype), calls in groupby(found.mixing, key=lambda call: (call.device, call.dtype)):
        rows = {_name(call): f"{call.choice.path}: {call.choice.reason}" for call in calls}
        parts += [Text(), Text(f"mixing on {device} in {dtype}", style="bold"), _listing(rows)]
    if found.mixing:
        sizes = f"{PATCHES} patches per image, {ROWS:,} rows, hidden width {HIDDEN_WIDTH:,}, LLM width {LLM_WIDTH:,}"
        parts.append(Text(f"({sizes})", style="dim"))
    return Group(*parts)


def _memory(size: int | None) -> str:
    return "" if size is None else f", {size / 2**30:.0f} GiB"


def _name(call: Mixing) -> str:
    images = "1 image" if call.images == 1 else f"{call.images} images"
    return f"{call.head}, {images}" + ("" if call.top is None else f", top {call.top}")


def _listing(rows: dict[str, str]) -> Listing:
    return Listing([(label, words.split()) for label, words in rows.items()])
