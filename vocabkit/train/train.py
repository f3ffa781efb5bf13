"""Train an adapter from a recipe, alone or together with the LLM."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs
from torch.distributed.fsdp import MixedPrecisionPolicy

from vocabkit.adapter.config import AdapterConfig, AspectRatio, MLPConfig, with_llm
from vocabkit.adapter.model import Adapter, LangBridgeAdapter, MLPProjector, load_adapter
from vocabkit.adapter.partners import WHOLE, EncoderInfo, check_encoder, check_llm, llm_info
from vocabkit.data.samples import Sample
from vocabkit.data.sources import Columns, samples_of
from vocabkit.errors import VocabkitError, needs_extra, quote, warn
from vocabkit.files.atomic import claiming, make_folder, new_folder, write_text
from vocabkit.files.progress import Progress, no_progress
from vocabkit.llm.load import LLM, load_llm, quiet_transformers
from vocabkit.llm.lvlm import LVLM
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.shared.words import read_names
from vocabkit.tokenizer.catalog import without_name
from vocabkit.train.dataset import CaptionData, Images, SampleWords, plan
from vocabkit.train.loop import Phase, State, Step, run, whole_tensors
from vocabkit.train.objective import Objective, head_of
from vocabkit.train.recipe import ADAPTER, LLM_FOLDER, METRICS, RECIPE, STATE, Recipe
from vocabkit.train.starts import rows_of_names, start_from_captions, start_from_labels
from vocabkit.vision.encoder import open_vision
from vocabkit.vision.features import Features, open_features

NAMED = 5
"""Reasons for skipping samples that a result lists."""


@dataclass(frozen=True)
class Trained:
    """The result of a training."""

    folder: Path
    adapter: Path
    llm: Path | None
    """The tuned LLM, or its LoRA weights."""
    steps: int
    samples: int
    left_out: int
    """Samples without features, without a text, or with another number of images than of `<image>`."""
    skipped: int
    """How often an unusable sample was skipped; the same sample counts each time."""
    first_skipped: tuple[str, ...]
    """The first few distinct reasons that the main process met in this run."""
    caption_loss: float | None
    """Nats per answer token of the training data, with a teacher the KL divergence from it: mean over the last tenth of
    the steps with a caption loss."""
    word_loss: float | None
    """Nats per image: mean over the last tenth of the steps with a word loss."""
    without_words: int | None = None
    """Captions without a row of the shared vocabulary, which teach the word loss nothing; None without a word loss."""
    first_left_out: str | None = None
    """The first sample that was left out, and why."""
    names: int | None = None
    """Names in `start_from_labels`, if the head started there."""
    names_found: int | None = None
    """Those of them that are rows of the shared vocabulary."""


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    on_step: Callable[[Step], None] = lambda step: None,
    progress: Progress = no_progress,
) -> Trained:
    """Train as `recipe` says, into the folder `out`. Safe to kill; the next run with the same recipe resumes.

    Start it with `accelerate launch` for several processes. Afterwards, `out` holds `adapter/`, `metrics.jsonl` (a line
    per step), `recipe.json`, `state.pt` and, if the LLM was trained, `llm/`.

    Args:
        on_step: called on the main process after each step.
        progress: reports what is read and loaded before the first step.

    Raises:
        VocabkitError: parts that do not fit together, a damaged state, a training from another recipe in `out`, one
            that is still running there, or a loss that is not finite.
    """
    out = Path(out)
    check_recipe(recipe)
    accelerator = _accelerator(recipe, out)
    make_folder(out)
    with claiming(out) if accelerator.is_main_process else nullcontext():
        return _train(accelerator, recipe, out, on_step, progress)


def _train(
    accelerator: Accelerator, recipe: Recipe, out: Path, on_step: Callable[[Step], None], progress: Progress
) -> Trained:
    # a permission decides whether a training runs, not its outcome
    settings = {name: value for name, value in dataclasses.asdict(recipe).items() if name != "other_weights"}
    state = State(out / STATE, settings)
    saved = state.read()
    progress(f"reading {', '.join(recipe.data)}", 0, None)
    samples, images, left_out, first_left_out = _read_samples(recipe, accelerator.device)
    progress(f"loading {recipe.llm}", 0, None)
    keeps_bits = recipe.precision == "float32" or recipe.train_llm == "full"
    llm = load_llm(recipe.llm, torch.float32 if keeps_bits else torch.bfloat16)
    torch.manual_seed(recipe.seed)
    connector = _open_connector(recipe, samples, images, llm)
    inputs = _inputs(recipe, samples, images, connector)
    if saved is not None:
        state.check_inputs(saved, inputs)
    llm = dataclasses.replace(llm, model=_trainable(llm.model, recipe))
    spelled = isinstance(connector, LangBridgeAdapter) and connector.config.spelled is not None
    if spelled and recipe.train_adapter and (recipe.steps or recipe.epochs):
        raise VocabkitError(
            "visual tokens that are spelled out have no gradient for the caption loss: set train_adapter to false, or "
            "run `vocabkit transfer --visual-tokens mix`, train the adapter, and spell them out afterwards"
        )
    lvlm = LVLM(llm, connector, other_weights=recipe.other_weights)
    connector.config = dataclasses.replace(
        with_llm(connector.config, llm.vocabulary.name, llm_info(llm.table())),
        vision_fingerprint=_info(images)["fingerprint"],
    )
    teacher = None if recipe.teacher is None else _open_teacher(recipe, images, llm, connector).to(accelerator.device)
    objective = Objective(lvlm, images, teacher=teacher, entropy=recipe.word_entropy)
    words = _sample_words(recipe, samples, llm, lvlm)
    phases = _plan_phases(recipe, samples, images, llm, lvlm, words, accelerator)
    named = []
    if recipe.start_from_labels is not None:
        named = rows_of_names(read_names(recipe.start_from_labels), head_of(lvlm).shared)
    metrics = _Metrics(accelerator, out / METRICS, saved.step if saved else 0)
    if accelerator.is_main_process:
        write_text(out / RECIPE, json.dumps(dataclasses.asdict(recipe), indent=2) + "\n")
    weights = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(weights, lr=0.0, weight_decay=recipe.weight_decay)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # no successor of broadcast_buffers yet
        model, optimizer = accelerator.prepare(objective, adamw)
    if saved is not None:
        state.restore(saved, model, adamw)
    reasons: dict[str, None] = {}  # in order, each once
    for step, skipped in run(accelerator, model, optimizer, phases, recipe, saved):
        reasons |= dict.fromkeys(skipped[: NAMED - len(reasons)] if len(reasons) < NAMED else ())
        if accelerator.is_main_process:
            metrics.add(step)
            on_step(step)
        if step.step % recipe.checkpoint_every == 0 or step.step == step.steps:
            if recipe.keep_adapters:  # before the state: a run that resumes from it does not write this adapter again
                _save_adapter(accelerator, connector, llm, out / f"step-{step.step:06d}" / ADAPTER)
            state.save(accelerator, model, adamw, step.step, step.skipped, inputs)
            accelerator.wait_for_everyone()
    _save_adapter(accelerator, connector, llm, out / ADAPTER)
    tuned = None if recipe.train_llm == "no" else _save_llm(accelerator, llm, recipe.llm, out / LLM_FOLDER)
    accelerator.end_training()
    return Trained(
        out,
        out / ADAPTER,
        tuned,
        steps=sum(phase.steps for phase, _ in phases),
        samples=len(samples),
        left_out=left_out,
        skipped=metrics.last.get("skipped", 0),
        first_skipped=tuple(reasons),
        caption_loss=metrics.last_loss("caption_loss"),
        word_loss=metrics.last_loss("word_loss"),
        without_words=None if words is None else words.without,
        first_left_out=first_left_out,
        names=len(named) or None,
        names_found=len(named) - named.count(None) if named else None,
    )


def check_recipe(recipe: Recipe) -> None:
    """Raise VocabkitError, before anything is loaded: a batch that can't be divided, a tracker that is not installed,
    or a file of labels that is missing or no such list.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    captions = recipe.steps or recipe.epochs, recipe.batch, recipe.micro_batch
    for steps, batch, micro in (captions, (recipe.steps_on_words, recipe.word_batch, None)):
        if steps:
            plan(1, batch, 0, 0, process=0, processes=processes, micro=micro or max(1, batch // processes))
    if recipe.tracker is not None and recipe.tracker not in get_available_trackers():
        names = ", ".join(sorted(map(str, get_available_trackers()))) or "none"
        raise VocabkitError(f"tracker {quote(recipe.tracker)} is not installed; installed are: {names}")
    if recipe.start_from_labels is not None:
        read_names(recipe.start_from_labels)


def _accelerator(recipe: Recipe, out: Path) -> Accelerator:
    AcceleratorState._reset_state()  # otherwise the precision of an earlier training in this process remains
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.precision == "bfloat16" else "no",
        log_with=recipe.tracker,
        project_dir=out if recipe.tracker else None,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and (plugin.fsdp_version != 2 or plugin.cpu_ram_efficient_loading):
        raise VocabkitError(
            "FSDP needs fsdp_version: 2 and fsdp_cpu_ram_efficient_loading: false; see docs/examples/fsdp2.yaml"
        )
    if plugin is not None and recipe.precision == "bfloat16":  # accelerate's own policy would round the losses
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return accelerator


def _read_samples(recipe: Recipe, device: torch.device) -> tuple[list[Sample], Images, int, str | None]:
    """Return the usable samples whose images have features, the source of these, how many were left out, and why the
    first of them was.

    Args:
        device: device of the vision encoder, if there is no cache of features.

    Raises:
        VocabkitError: no data, no features, or no features for any sample.
    """
    folder = None if recipe.images is None else Path(recipe.images)
    columns = Columns(recipe.split, recipe.image_column, recipe.text_column)
    samples = [sample for source in recipe.data for sample in samples_of(source, folder, columns)]
    if not samples:
        raise VocabkitError(f"{', '.join(recipe.data)}: no samples in it")
    matched = [sample for sample in samples if sample.problem is None]
    first = next((f"{sample.id}: {sample.problem}" for sample in samples if sample.problem), None)
    if not matched:
        raise VocabkitError(f"none of the {len(samples)} samples can be used; the first, {first}")
    if recipe.features is None:
        assert recipe.vision is not None
        vision = open_vision(
            recipe.vision,
            layer=recipe.vision_layer,
            pool=recipe.vision_pool,
            image_aspect_ratio=_aspect_ratio(recipe),
            device=device,
        )
        return matched, vision, len(samples) - len(matched), first
    features = open_features(Path(recipe.features))
    stored = features.encoder.get("image_aspect_ratio", "square")
    if recipe.image_aspect_ratio not in (None, stored):
        raise VocabkitError(
            f"{recipe.features}: made with image_aspect_ratio {stored}, but the recipe says "
            f"{recipe.image_aspect_ratio}; compute them again, or change the recipe"
        )
    usable = [sample for sample in matched if all(picture.key in features for picture in sample.images)]
    if not usable:
        raise VocabkitError(f"{recipe.features}: has no features of any of the {len(samples)} samples in the data")
    if first is None and len(usable) < len(matched):
        lacking = next(sample for sample in matched if any(picture.key not in features for picture in sample.images))
        first = f"{lacking.id}: no features of its picture"
    return usable, features, len(samples) - len(usable), first


def _aspect_ratio(recipe: Recipe) -> AspectRatio:
    """What the recipe says, else what the adapter was trained with."""
    if recipe.image_aspect_ratio is None and recipe.adapter is not None:
        return _not_of_tiles(load_adapter(recipe.adapter)).config.vision_aspect_ratio or "square"
    return recipe.image_aspect_ratio or "square"


def _not_of_tiles(connector: Adapter) -> Adapter:
    """Return it. Raises VocabkitError: it takes tiles of pictures, which training does not compute."""
    if connector.config.vision_aspect_ratio == "anyres":
        raise VocabkitError(
            f"the adapter was trained on tiles of pictures (image_aspect_ratio anyres), which train does not compute; "
            f"{WHOLE}"
        )
    return connector


def _open_connector(recipe: Recipe, samples: Sequence[Sample], images: Images, llm: LLM) -> Adapter:
    """The adapter to continue from, or a new one, with float32 weights, trainable as the recipe says.

    Raises:
        VocabkitError: not found, or made for other features.
    """
    if recipe.adapter is None:
        connector = _new_connector(recipe, samples, images, llm)
    else:
        connector = _not_of_tiles(load_adapter(recipe.adapter))
        if recipe.image_aspect_ratio is not None:  # it may be trained for another one
            connector.config = dataclasses.replace(connector.config, vision_aspect_ratio=recipe.image_aspect_ratio)
        check_encoder(connector.config, _info(images), recipe.features or recipe.vision or "")
    if recipe.prompt is not None:
        connector.config = dataclasses.replace(connector.config, prompt=recipe.prompt)
    for parameter in connector.parameters():
        parameter.data = parameter.data.float()  # small updates would be lost in half precision
    return connector.requires_grad_(recipe.train_adapter)


def _inputs(recipe: Recipe, samples: Sequence[Sample], images: Images, connector: Adapter) -> dict[str, str]:
    """Digests of what the training reads, by the field of the recipe that names it, except for the LLM and pixels.

    Args:
        connector: before its first step.
    """
    said = hashlib.sha256()
    for sample in samples:
        said.update(repr((sample.id, [picture.key for picture in sample.images], sample.turns)).encode())
    found = {"data": said.hexdigest(), "features" if recipe.features else "vision": _info(images)["fingerprint"]}
    if recipe.shared is not None and connector.shared is not None:
        found["shared"] = connector.shared.fingerprint
    if recipe.start_from_labels is not None:
        found["start_from_labels"] = hashlib.sha256(repr(read_names(recipe.start_from_labels)).encode()).hexdigest()
    if recipe.adapter is not None:
        found["adapter"] = connector.fingerprint(names=False)
    if recipe.teacher is not None:
        found["teacher"] = load_adapter(recipe.teacher).fingerprint(names=False)
    return found


def _open_teacher(recipe: Recipe, images: Images, llm: LLM, student: Adapter) -> Adapter:
    """The adapter to learn from.

    Raises:
        VocabkitError: not found, made for other features or another LLM, or with another number of visual tokens.
    """
    assert recipe.teacher is not None
    teacher = _not_of_tiles(load_adapter(recipe.teacher)).requires_grad_(False)
    if teacher.llm_width is None:
        raise VocabkitError(f"{recipe.teacher}: has no embedding rows to teach with; run `vocabkit transfer` first")
    check_encoder(teacher.config, _info(images), recipe.features or recipe.vision or "")
    rows = getattr(teacher, "embeddings", None)
    check_llm(teacher.config, teacher.shared, llm.table(), rows=rows, other_weights=recipe.other_weights)
    gives, shown = (each.config.visual_tokens(images.tokens) for each in (teacher, student))
    if gives != shown:
        raise VocabkitError(f"{recipe.teacher}: gives {gives} visual tokens of a picture, but the adapter {shown}")
    return teacher


def _new_connector(recipe: Recipe, samples: Sequence[Sample], images: Images, llm: LLM) -> Adapter:
    info = _info(images)
    known: dict[str, Any] = {
        "llm": llm.vocabulary.name,
        "vision_width": info["width"],
        "hidden_width": recipe.hidden_width,
        "vision_model": info["name"],
        "vision_layer": info["layer"],
        "vision_keep_cls": info["keep_cls"],
        "vision_pool": info["pool"],
        "vision_aspect_ratio": info.get("image_aspect_ratio", "square"),
        "vision_fingerprint": info["fingerprint"],
        "llm_info": llm_info(llm.table()),
    }
    if recipe.connector == "mlp":
        projector = MLPProjector(MLPConfig(llm_width=llm.width, **known))
        if recipe.least_squares:
            start_from_captions(projector, samples, images, llm)
        return projector
    assert recipe.shared is not None
    shared = open_shared(Path(recipe.shared))
    config = AdapterConfig.of(shared, head=recipe.connector, temperature=recipe.temperature, **known)
    adapter = LangBridgeAdapter(config, shared)
    if recipe.start_from_embeddings:
        adapter.initialise_from_embeddings(llm.rows(shared).detach())
    if recipe.start_from_labels is not None:
        start_from_labels(adapter, recipe.start_from_labels, samples, images)
    return adapter


def _info(images: Images) -> EncoderInfo:
    return images.encoder if isinstance(images, Features) else images.info


def _trainable(model: Any, recipe: Recipe) -> Any:
    """Return the LLM with LoRA weights, fully trainable, or frozen."""
    if recipe.checkpoint_activations:
        with warnings.catch_warnings(
            action="ignore", category=FutureWarning
        ):  # a deprecated name, which transformers 5.0 needs
            model.gradient_checkpointing_enable({"use_reentrant": False})
    if recipe.train_llm == "lora":
        with needs_extra("train", "LoRA"):
            from peft import LoraConfig, get_peft_model
        config = LoraConfig(task_type="CAUSAL_LM", r=recipe.lora_rank, target_modules="all-linear")
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft uses deprecated transformers API
            return get_peft_model(model, config)
    return model.requires_grad_(recipe.train_llm == "full")


def _sample_words(recipe: Recipe, samples: list[Sample], llm: LLM, lvlm: LVLM) -> SampleWords | None:
    """The words of captions of pictures, for the word loss; None without one.

    Raises VocabkitError: an adapter without a softmax head, or no caption with a word of its vocabulary.
    """
    if not (recipe.steps_on_words or recipe.word_weight):
        return None
    pictured = [sample for sample in samples if sample.images]
    shared = head_of(lvlm).shared
    words = SampleWords(pictured, shared, llm)
    if words.without:
        warn(
            f"{words.without:,} of {len(pictured):,} captions have no {'word' if shared.of_words else 'token'} of the "
            "shared vocabulary, and teach the word loss nothing"
        )
    if not words.tell_apart:
        what = "words" if shared.of_words else "tokens"
        warn(f"all captions have the same {what} of the shared vocabulary, which teach the word loss nothing")
    return words


def _plan_phases(
    recipe: Recipe,
    samples: list[Sample],
    images: Images,
    llm: LLM,
    lvlm: LVLM,
    words: SampleWords | None,
    accelerator: Accelerator,
) -> list[tuple[Phase, CaptionData]]:
    """Return the phases, each with the batches of this process. The steps on words alone, if any, come first.

    Raises VocabkitError: a batch that can't be divided.
    """
    pictured = [sample for sample in samples if sample.images]
    steps = recipe.steps or math.ceil(recipe.epochs * len(samples) / recipe.batch)
    first = Phase("words", recipe.steps_on_words, recipe.word_learning_rate, caption=0.0, words=1.0)
    second = Phase("captions", steps, recipe.learning_rate, caption=1.0, words=recipe.word_weight)
    phases = [(first, pictured, recipe.word_batch, None), (second, samples, recipe.batch, recipe.micro_batch)]
    found = []
    for number, (phase, chosen, batch, micro) in enumerate(phases):
        if not phase.steps:
            continue
        share = max(1, batch // accelerator.num_processes)
        batches = plan(
            len(chosen),
            batch,
            phase.steps,
            recipe.seed + number,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
            micro=micro or share,
        )
        data = CaptionData(
            chosen, images, llm.tokenizer, recipe.template, longest=recipe.max_tokens, plan=batches,
            visual_tokens=lvlm.connector.config.visual_tokens(images.tokens), words=words if phase.words else None,
        )  # fmt: skip
        found.append((phase, data))
    return found


def _save_adapter(accelerator: Accelerator, connector: Adapter, llm: LLM, folder: Path) -> None:
    """Write the adapter on the main process; sharded weights are gathered from all."""
    tensors = whole_tensors(connector)
    embedding = llm.model.get_input_embeddings()
    rows = whole_tensors(embedding).get("weight") if embedding.weight.requires_grad else None  # tuned together with it
    if accelerator.is_main_process:
        if rows is not None:
            tuned = dataclasses.replace(llm.table(), read=lambda ids: rows[torch.from_numpy(ids)])
            connector.config = with_llm(connector.config, llm.vocabulary.name, llm_info(tuned))
        folder.parent.mkdir(parents=True, exist_ok=True)
        type(connector).from_parts(folder, connector.config, tensors, connector.shared).save(folder)
    accelerator.wait_for_everyone()


def _save_llm(accelerator: Accelerator, llm: LLM, source: str, folder: Path) -> Path:
    """Write the LLM as `load_llm` reads it, or its LoRA weights and the source of their LLM."""
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


class _Metrics:
    """metrics.jsonl, written by the main process, and the tracker."""

    def __init__(self, accelerator: Accelerator, path: Path, done: int) -> None:
        """Continue after step `done`: lines that an interrupted run wrote beyond it are dropped."""
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
        """Record the next step."""
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
        """Return the mean of caption_loss or word_loss over the last tenth of the steps that have it."""
        losses = self._losses[name]
        last = losses[-max(1, len(losses) // 10) :]
        return sum(last) / len(last) if last else None
