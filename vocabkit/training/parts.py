"""From a recipe to what is trained, on which batches."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from vocabkit.adapter import LangBridgeAdapter, MLPProjector
from vocabkit.adapter_config import AdapterConfig, MLPConfig
from vocabkit.data import Columns, Sample, samples_of
from vocabkit.errors import VocabkitError
from vocabkit.extras import needs_extra
from vocabkit.features import Features, open_features
from vocabkit.llms import LLM
from vocabkit.lvlm import LVLM, Connector, check_vision, load_connector
from vocabkit.shared import open_shared
from vocabkit.training.dataset import CaptionData, Images, count_words, plan
from vocabkit.training.loop import Phase
from vocabkit.training.objective import head_of
from vocabkit.training.recipe import Recipe
from vocabkit.vision import EncoderInfo, open_vision


def read_samples(recipe: Recipe, device: torch.device) -> tuple[list[Sample], Images, int]:
    """All samples whose images have features, where these come from, and how many were left out.

    Args:
        device: for a vision encoder, if there are no features.

    Raises VocabkitError: no data, no features, or none of them for any sample.
    """
    folder = None if recipe.images is None else Path(recipe.images)
    columns = Columns(recipe.split, recipe.image_column, recipe.text_column)
    samples = [sample for source in recipe.data for sample in samples_of(source, folder, columns)]
    if not samples:
        raise VocabkitError(f"{', '.join(recipe.data)}: no samples in it")
    if recipe.features is None:
        assert recipe.vision is not None
        vision = open_vision(recipe.vision, layer=recipe.vision_layer, pool=recipe.vision_pool, device=device)
        return samples, vision, 0
    features = open_features(Path(recipe.features))
    usable = [sample for sample in samples if all(picture.key in features for picture in sample.images)]
    if not usable:
        raise VocabkitError(f"{recipe.features}: has features of none of the {len(samples)} samples of the data")
    return usable, features, len(samples) - len(usable)


def open_connector(recipe: Recipe, images: Images, llm: LLM) -> Connector:
    """The adapter to go on from, or a new one, with weights of float32; trained or not, as the recipe says.

    Raises VocabkitError: not found, or for other features.
    """
    if recipe.adapter is None:
        connector = _new_connector(recipe, images, llm)
    else:
        connector = load_connector(recipe.adapter)
        check_vision(connector, _info(images), recipe.features or recipe.vision or "")
    for parameter in connector.parameters():
        parameter.data = parameter.data.float()  # steps of half precision would be lost
    return connector.requires_grad_(recipe.train_adapter)


def _new_connector(recipe: Recipe, images: Images, llm: LLM) -> Connector:
    info = _info(images)
    known: dict[str, Any] = {
        "llm": llm.vocabulary.name,
        "vision_width": info["width"],
        "hidden_width": recipe.hidden_width,
        "vision_model": info["name"],
        "vision_layer": info["layer"],
        "vision_keep_cls": info["keep_cls"],
        "vision_pool": info["pool"],
    }
    if recipe.connector == "mlp":
        return MLPProjector(MLPConfig(llm_width=llm.width, **known))
    assert recipe.shared is not None
    shared = open_shared(Path(recipe.shared))
    config = AdapterConfig.of(shared, head=recipe.connector, temperature=recipe.temperature, **known)
    adapter = LangBridgeAdapter(config, shared)
    if recipe.start_from_embeddings:
        adapter.initialise_from_embeddings(llm.rows(shared))
    return adapter


def _info(images: Images) -> EncoderInfo:
    return images.encoder if isinstance(images, Features) else images.info


def to_be_trained(model: Any, recipe: Recipe) -> Any:
    """The LLM with LoRA weights, or with all its own to be trained, or frozen."""
    if recipe.checkpoint_activations:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # its name in transformers 5.0
            model.gradient_checkpointing_enable({"use_reentrant": False})
    if recipe.train_llm == "lora":
        with needs_extra("train", "LoRA"):
            from peft import LoraConfig, get_peft_model
        config = LoraConfig(task_type="CAUSAL_LM", r=recipe.lora_rank, target_modules="all-linear")
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft about transformers
            return get_peft_model(model, config)
    return model.requires_grad_(recipe.train_llm == "full")


def plan_phases(
    recipe: Recipe, samples: list[Sample], images: Images, llm: LLM, lvlm: LVLM, accelerator: Accelerator
) -> list[tuple[Phase, CaptionData]]:
    """The stretches of steps, each with the batches of this process: first those on words alone, if any.

    Raises VocabkitError: a batch that can't be divided so, or the word loss for an adapter without a softmax head.
    """
    words, pictured = None, [sample for sample in samples if sample.images]
    if recipe.steps_on_words or recipe.word_weight:
        ids = head_of(lvlm).shared.look_up(llm.vocabulary)  # not of the LLM that the adapter began with
        words = count_words(pictured, llm.tokenizer, ids.tolist())
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
            chosen, images, llm.tokenizer, recipe.template, longest=recipe.max_tokens,
            words=words if phase.words else None, plan=batches,
        )  # fmt: skip
        found.append((phase, data))
    return found
