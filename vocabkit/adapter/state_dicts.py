"""State dicts as trainers leave them: nested in a checkpoint, under the names of wrappers, sharded or quantised."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

_NESTED = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which Lightning, plain training loops and DeepSpeed keep the state dict in a checkpoint."""
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
"""Modules around a module: DataParallel, torch.compile, FSDP, activation checkpointing, Lightning."""
_PEFT = ["base_model", "model"]
"""What peft puts before every name."""


def unwrapped(content: Any) -> Any:
    """Return the state dict in a checkpoint such as {"state_dict": ...}, or `content` itself."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _NESTED if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def own_name(key: str) -> str:
    """Return the name of a tensor in the bare model: without wrappers, and without peft's `modules_to_save.NAME`."""
    parts = [part for part in key.split(".") if part not in _WRAPPERS]
    while parts[:2] == _PEFT:
        parts = parts[2:]
    if "modules_to_save" in parts[:-1]:
        at = parts.index("modules_to_save")
        del parts[at : min(at + 2, len(parts) - 1)]  # a saved adapter has no name
    return ".".join(parts)


def why_unusable(key: str, shape: Sequence[int], dtype: str, names: Collection[str]) -> str | None:
    """Say why tensor `key` is not a plain weight: emptied by ZeRO-3 or quantised by bitsandbytes; None if it is.

    Args:
        dtype: as torch or safetensors write it: `torch.uint8`, `U8`.
        names: all names in the file: bitsandbytes keeps the scales of a weight under further names.
    """
    if list(shape) == [0]:
        return (
            "is empty: saved under DeepSpeed ZeRO-3, each process with its part; run the zero_to_fp32.py beside the "
            "checkpoint and give what it writes"
        )
    advice = "save the model with 16-bit weights, and give that"
    if dtype in ("torch.uint8", "U8") and (f"{key}.quant_map" in names or list(shape[1:]) == [1]):
        return f"is quantised to 4 bits by bitsandbytes; {advice}"
    if dtype in ("torch.int8", "I8") and f"{key.removesuffix('weight')}SCB" in names:
        return f"is quantised to 8 bits by bitsandbytes; {advice}"
    return None
