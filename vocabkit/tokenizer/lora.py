"""Folders of LoRA weights of peft: the LLM that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vocabkit.errors import VocabkitError
from vocabkit.files.atomic import reading
from vocabkit.hub import is_hub_id

LORA_CONFIG = "adapter_config.json"
"""Marks a folder of peft, which holds LoRA weights and not the LLM."""


def is_lora(path: Path) -> bool:
    """Whether a folder holds LoRA weights of peft, without their LLM."""
    return (path / LORA_CONFIG).is_file()


def lora_config(folder: Path) -> dict[str, Any]:
    """Read the config of LoRA weights. Raises VocabkitError: damaged."""
    file = folder / LORA_CONFIG
    with reading(file):
        try:
            config = json.loads(file.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise VocabkitError(f"{file}: damaged, not JSON") from error
    if not isinstance(config, dict):
        raise VocabkitError(f"{file}: not the config of LoRA weights")
    return config


def lora_base(folder: Path) -> str:
    """Return the LLM that LoRA weights name: a path, catalog model or hub id, with `NAME=` or not.

    Raises VocabkitError: they name none.
    """
    config = lora_config(folder)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        raise VocabkitError(f"{folder / LORA_CONFIG}: names no LLM that the LoRA weights belong to")
    if isinstance(revision, str) and revision and is_hub_id(base) and not Path(base).expanduser().exists():
        return f"{base}@{revision}"
    return base
