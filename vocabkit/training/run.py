"""From a recipe to a trained adapter."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from vocabkit.adapter import LangBridgeAdapter, MLPProjector, load_adapter
from vocabkit.adapter_config import AdapterConfig, MLPConfig
from vocabkit.data import Sample, read_llava
from vocabkit.errors import VocabkitError
from vocabkit.features import Features, open_features
from vocabkit.llms import LLM, load_llm
from vocabkit.lvlm import LVLM, Connector
from vocabkit.shared import open_shared
from vocabkit.training.dataset import CaptionData, Images, count_words, plan
from vocabkit.training.loop import Phase, Settings, State, Step, run
from vocabkit.training.objective import Objective, head_of
from vocabkit.training.recipe import Recipe
from vocabkit.vision import open_vision

ADAPTER, STATE, METRICS, RECIPE, LLM_FOLDER = "adapter", "state.pt", "metrics.jsonl", "recipe.json", "llm"
"""What a training writes into its folder."""


@dataclass(frozen=True)
class Trained:
    """What came out."""

    folder: Path
    adapter: Path
    llm: Path | None
    """The tuned LLM, or its LoRA weights."""
    steps: int
    samples: int
    left_out: int
    """Samples without features."""
    caption_loss: float | None
    """Nats per answer token, mean of the last tenth of the steps."""


def train(recipe: Recipe, out: Path, *, progress: Callable[[Step], None] = lambda step: None) -> Trained:
    """Train by `recipe` into the folder `out`; where a training by the same recipe was stopped there, go on with it.

    Start it with `accelerate launch` for many processes. `out` then holds `adapter/`, `metrics.jsonl` (a line per
    step), `recipe.json`, `state.pt` and, if the LLM was trained, `llm/`.

    Raises VocabkitError: parts that do not fit together, a damaged state, a loss that is not finite.
    """
    accelerator = _accelerator(recipe, out)
    out.mkdir(parents=True, exist_ok=True)
    samples, images, left_out = read_samples(recipe)
    llm = load_llm(
        recipe.llm, torch.bfloat16 if recipe.precision == "bfloat16" and recipe.train_llm == "no" else torch.float32
    )
    torch.manual_seed(recipe.seed)
    connector = _connector(recipe, images, llm).train()
    connector.requires_grad_(recipe.train_adapter)
    llm = dataclasses.replace(llm, model=_with_training(llm.model, recipe))
    lvlm = LVLM(llm, connector)
    objective = Objective(lvlm, images)
    phases = _phases(recipe, samples, images, llm, lvlm, accelerator)
    settings = Settings(
        recipe.weight_decay,
        recipe.warmup,
        recipe.max_gradient_norm,
        recipe.seed,
        recipe.checkpoint_every,
        recipe.workers,
    )
    state = State(out / STATE, dataclasses.asdict(recipe))
    done = state.read()
    metrics = _Metrics(accelerator, out / METRICS, done["step"] if done else 0)
    if accelerator.is_main_process:
        (out / RECIPE).write_text(json.dumps(dataclasses.asdict(recipe), indent=2) + "\n", "utf-8")

    def step(measured: Step) -> None:
        metrics.add(measured)
        progress(measured)

    def saved(number: int) -> None:
        if recipe.keep_adapters:
            save_adapter(accelerator, objective, out / f"step-{number:06d}" / ADAPTER)

    run(accelerator, objective, phases, settings, state, saved=saved, progress=step)
    save_adapter(accelerator, objective, out / ADAPTER)
    tuned = None if recipe.train_llm == "no" else _save_llm(accelerator, lvlm, llm, out / LLM_FOLDER)
    accelerator.end_training()
    steps = sum(phase.steps for phase, _ in phases)
    return Trained(out, out / ADAPTER, tuned, steps, len(samples), left_out, metrics.last_loss())


def read_samples(recipe: Recipe) -> tuple[list[Sample], Images, int]:
    """All samples whose images have features, where these come from, and how many were left out.

    Raises VocabkitError: no data, no features, or none of them for any sample.
    """
    folder = None if recipe.images is None else Path(recipe.images)
    samples = [sample for file in recipe.data for sample in read_llava(Path(file), folder)]
    if recipe.features is None:
        assert recipe.vision is not None
        return samples, open_vision(recipe.vision, layer=recipe.vision_layer, pool=recipe.vision_pool), 0
    features = open_features(Path(recipe.features))
    usable = [sample for sample in samples if all(picture.key in features for picture in sample.images)]
    if not usable:
        raise VocabkitError(f"{recipe.features}: has features of none of the {len(samples)} samples of the data")
    return usable, features, len(samples) - len(usable)


def save_adapter(accelerator: Accelerator, objective: Objective, folder: Path) -> None:
    """Write the adapter as it is, by the first of all processes; sharded weights are gathered from all."""
    connector = objective.lvlm.connector
    if accelerator.is_main_process:
        folder.parent.mkdir(parents=True, exist_ok=True)
        connector.save(folder)
    accelerator.wait_for_everyone()


def _accelerator(recipe: Recipe, out: Path) -> Accelerator:
    return Accelerator(
        mixed_precision="bf16" if recipe.precision == "bfloat16" else "no",
        log_with=recipe.tracker,
        project_dir=out if recipe.tracker else None,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def _connector(recipe: Recipe, images: Images, llm: LLM) -> Connector:
    """The adapter to go on from, or a new one."""
    if recipe.adapter is not None:
        return load_adapter(recipe.adapter)
    info = images.encoder if isinstance(images, Features) else images.info
    if recipe.connector == "mlp":
        sizes = (images.width, recipe.hidden_width, llm.width)
        return MLPProjector(MLPConfig(*sizes, llm.vocabulary.name, info["name"], info["layer"]))
    assert recipe.shared is not None
    shared = open_shared(Path(recipe.shared))
    config = AdapterConfig.of(
        shared,
        llm=llm.vocabulary.name,
        vision_width=images.width,
        hidden_width=recipe.hidden_width,
        head=recipe.connector,
        temperature=recipe.temperature,
        vision_model=info["name"],
        vision_layer=info["layer"],
    )
    adapter = LangBridgeAdapter(config, shared)
    if recipe.start_from_embeddings:
        adapter.initialise_from_embeddings(llm.rows(shared))
    return adapter


def _with_training(model: Any, recipe: Recipe) -> Any:
    """The LLM with LoRA weights, or with all its own to be trained, or frozen."""
    if recipe.train_llm == "lora":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(task_type="CAUSAL_LM", r=recipe.lora_rank, target_modules="all-linear")
        return get_peft_model(model, config)
    return model.requires_grad_(recipe.train_llm == "full")


def _phases(
    recipe: Recipe, samples: list[Sample], images: Images, llm: LLM, lvlm: LVLM, accelerator: Accelerator
) -> list[tuple[Phase, CaptionData]]:
    words = None
    if recipe.word_steps or recipe.word_weight:
        adapter = head_of(lvlm)
        words = count_words(samples, llm.tokenizer, adapter.shared.ids_for(adapter.config.llm).tolist())
    steps = recipe.steps or math.ceil(recipe.epochs * len(samples) / recipe.batch)
    phases = [
        (Phase("words", recipe.word_steps, recipe.word_learning_rate, caption=0.0, words=1.0), recipe.word_batch, None),
        (Phase("captions", steps, recipe.learning_rate, 1.0, recipe.word_weight), recipe.batch, recipe.micro_batch),
    ]
    found = []
    for number, (phase, batch, micro) in enumerate(phases):
        share = max(1, batch // accelerator.num_processes)
        batches = plan(
            len(samples),
            batch,
            phase.steps,
            recipe.seed + number,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
            micro=micro or share,
        )
        data = CaptionData(
            samples, images, llm.tokenizer, recipe.template, longest=recipe.max_tokens,
            words=words if phase.words else None, plan=batches,
        )  # fmt: skip
        found.append((phase, data))
    return found


def _save_llm(accelerator: Accelerator, lvlm: LVLM, llm: LLM, folder: Path) -> Path:
    if accelerator.is_main_process:
        lvlm.llm.save_pretrained(folder)
        llm.tokenizer.save_pretrained(folder)
    accelerator.wait_for_everyone()
    return folder


class _Metrics:
    """metrics.jsonl, of the main process, and the tracker."""

    def __init__(self, accelerator: Accelerator, path: Path, done: int) -> None:
        """Go on after step `done`: what a stopped training wrote beyond it is dropped."""
        self._accelerator, self._path = accelerator, path
        self._losses: list[float] = []
        if accelerator.log_with:
            accelerator.init_trackers("vocabkit")
        if accelerator.is_main_process:
            kept = path.read_text("utf-8").splitlines(keepends=True)[:done] if path.exists() else []
            path.write_text("".join(kept), "utf-8")
            self._losses = [loss for line in kept if (loss := json.loads(line)["caption_loss"]) is not None]

    def add(self, measured: Step) -> None:
        values = dataclasses.asdict(measured)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        self._accelerator.log({k: v for k, v in values.items() if isinstance(v, int | float)}, step=measured.step)
        if measured.caption_loss is not None:
            self._losses.append(measured.caption_loss)

    def last_loss(self) -> float | None:
        last = self._losses[-max(1, len(self._losses) // 10) :]
        return sum(last) / len(last) if last else None
