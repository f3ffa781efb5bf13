"""What a training writes: adapters, an LLM, and metrics."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from vocabkit.catalog import without_name
from vocabkit.files import new_folder, write_text
from vocabkit.llms import LLM
from vocabkit.lvlm import Connector
from vocabkit.model_folders import quiet_transformers
from vocabkit.training.loop import Step
from vocabkit.training.state import whole_tensors


def save_adapter(accelerator: Accelerator, connector: Connector, folder: Path) -> None:
    """Write the adapter as it is, by the first of all processes; sharded weights are gathered from all."""
    tensors = whole_tensors(connector)
    if accelerator.is_main_process:
        folder.parent.mkdir(parents=True, exist_ok=True)
        type(connector).from_parts(folder, connector.config, tensors, connector.shared).save(folder)
    accelerator.wait_for_everyone()


def save_llm(accelerator: Accelerator, llm: LLM, source: str, folder: Path) -> Path:
    """Write the LLM as `load_llm` reads it, or its LoRA weights and where the LLM is that they belong to."""
    tensors = whole_tensors(llm.model)
    if accelerator.is_main_process:
        options = {}
        if hasattr(llm.model, "peft_config"):
            llm.model.peft_config["default"].base_model_name_or_path = without_name(source)
            options = {"save_embedding_layers": False}
        shutil.rmtree(folder, ignore_errors=True)
        with new_folder(folder) as temporary, quiet_transformers():
            llm.model.save_pretrained(temporary, state_dict=tensors, **options)
            llm.tokenizer.save_pretrained(temporary)
    accelerator.wait_for_everyone()
    return folder


class Metrics:
    """metrics.jsonl, of the main process, and the tracker."""

    def __init__(self, accelerator: Accelerator, path: Path, done: int) -> None:
        """Go on after step `done`: what a stopped training wrote beyond it is dropped."""
        self._accelerator, self._path = accelerator, path
        self._losses: dict[str, list[float]] = {"caption_loss": [], "word_loss": []}
        self.last: dict[str, Any] = {}
        if accelerator.log_with:
            accelerator.init_trackers("vocabkit")
        if accelerator.is_main_process:
            kept = path.read_text("utf-8").splitlines(keepends=True)[:done] if path.exists() else []
            write_text(path, "".join(kept))
            for line in kept:
                self._remember(json.loads(line))

    def add(self, measured: Step) -> None:
        """Of the next step."""
        values = dataclasses.asdict(measured)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        self._accelerator.log({k: v for k, v in values.items() if isinstance(v, int | float)}, step=measured.step)
        self._remember(values)

    def _remember(self, values: dict[str, Any]) -> None:
        self.last = values
        for name, losses in self._losses.items():
            if values[name] is not None:
                losses.append(values[name])

    def last_loss(self, name: str) -> float | None:
        """The mean of caption_loss or word_loss over the last tenth of the steps that had one."""
        losses = self._losses[name]
        last = losses[-max(1, len(losses) // 10) :]
        return sum(last) / len(last) if last else None
