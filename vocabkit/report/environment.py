"""Terminal report on installed versions and devices."""

from __future__ import annotations

from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vocabkit.llm.environment import HIDDEN_WIDTH, LLM_WIDTH, PATCHES, ROWS, Environment, Mixing


def environment_report(found: Environment) -> RenderableType:
    """Versions, devices, how `mix` computes typical sizes, and advice."""
    versions = _grid()
    versions.add_row("python", f"{found.python}, {found.machine}")
    for package, version in found.versions.items():
        versions.add_row(package, version or "not installed")
    parts: list[RenderableType] = [versions]
    if found.devices:
        devices = _grid()
        for device in found.devices:
            memory = "" if device.memory is None else f", {device.memory / 2**30:.0f} GiB"
            devices.add_row(device.name, f"{device.model}{memory}; {', '.join(device.dtypes)}")
        parts += [Text(), Text("devices", style="bold"), devices]
    for (device, dtype), calls in groupby(found.mixing, key=lambda call: (call.device, call.dtype)):
        table = _grid(columns=3)
        for call in calls:
            table.add_row(_name(call), call.choice.path, call.choice.reason)
        parts += [Text(), Text(f"mixing on {device} in {dtype}", style="bold"), table]
    if found.mixing:
        sizes = f"{PATCHES} patches per image, {ROWS:,} rows, hidden width {HIDDEN_WIDTH:,}, LLM width {LLM_WIDTH:,}"
        parts.append(Text(f"({sizes})", style="dim"))
    if found.advice:
        parts += [Text(), *map(Text, found.advice)]
    return Group(*parts)


def _name(call: Mixing) -> str:
    images = "1 image" if call.images == 1 else f"{call.images} images"
    return f"{call.head}, {images}" + ("" if call.top is None else f", top {call.top}")


def _grid(columns: int = 2) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(columns - 1):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table
