"""Training recipe: everything that determines the outcome of a training, as plain data in a TOML file."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from vocabkit.data.samples import PLACEHOLDER
from vocabkit.errors import VocabkitError, did_you_mean, quote
from vocabkit.files.atomic import reading
from vocabkit.llm.prompts import Template

ADAPTER, STATE, METRICS, RECIPE, LLM_FOLDER = "adapter", "state.pt", "metrics.jsonl", "recipe.json", "llm"
"""Names in the output folder of a training."""
_VALUES = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple[str, ...]: 'a list of strings, as in ["a", "b"]',
    tuple[int, int]: "two whole numbers, as in [4, 4]",
}


@dataclass(frozen=True)
class Recipe:
    """How to train an adapter, alone or together with the LLM. Fields without a default are required."""

    data: tuple[str, ...]
    """LLaVA JSON or JSONL, tars, Parquet files, and Hugging Face datasets (folders or hub ids)."""
    llm: str
    """The LLM that reads the visual tokens: a model folder, a GGUF, a catalog model or a hub id."""

    images: str | None = None
    """Folder of the image paths in files of `data`; by default the folder of each file."""
    split: str = "train"
    """Dataset split."""
    image_column: str = "image"
    """Dataset column with an image or a list of them."""
    text_column: str = "text"
    """Dataset column with a caption, or a conversation in LLaVA's form."""
    features: str | None = None
    """Folder written by `vocabkit features`. Without it, `vision` computes features during training."""
    vision: str | None = None
    """Vision model: `efficientnet-lite0`, a folder or a hub id."""
    vision_layer: int = -2
    """Hidden layer of `vision` that the features are taken from, numbered as in transformers."""
    vision_pool: tuple[int, int] | None = None
    """Rows and columns to pool the patch grid to."""
    image_aspect_ratio: Literal["square", "pad"] | None = None
    """What becomes of pictures that are not square: square, what the vision model's image processor makes of them, or
    pad, padded to a square as LLaVA trains. By default that of `adapter` or `features`, else square. Given with an
    `adapter` that was trained with the other, it is trained for this one."""
    template: Template = "plain"
    """How question and answer become text."""
    max_tokens: int = 2048
    """Maximum tokens of a sample, visual tokens included; the rest is cut off."""

    connector: Literal["linear", "softmax", "mlp"] = "softmax"
    """Head of a new adapter, or the MLP baseline. The default is the head that other LLMs read best."""
    shared: str | None = None
    """Shared vocabulary of a new adapter, from `vocabkit build-shared`."""
    hidden_width: int = 1024
    """Hidden units of a new adapter's MLP."""
    temperature: float = 1.0
    """Divisor of the scores of a softmax head."""
    start_from_embeddings: bool = False
    """Whether a softmax head starts at the LLM's own embeddings."""
    start_from_labels: str | None = None
    """Text file with a name in each line. A softmax head starts at the scores that the vision model itself gives to
    them: the names of its classes in their order (data/imagenet-classes.txt for efficientnet-lite0) or, for a model
    with a text encoder, any names. With word_steps and epochs 0, the adapter is written without any training."""
    least_squares: bool = False
    """Whether an MLP starts at the least-squares map from a picture's mean patch to the mean embedding of its caption.
    With epochs 0 it is written without any training: a rival in closed form."""
    prompt: str | None = None
    """What to ask an LLM so that it reads the visual tokens as they are meant, with <image> in their place. The adapter
    carries it; `vocabkit infer --captions` asks it by default."""
    adapter: str | None = None
    """Adapter to continue from (stage 2), which may have been transferred, instead of a new one."""

    teacher: str | None = None
    """Another adapter for this LLM, to learn from: the caption loss is then the KL divergence of the LLM's next-token
    distributions in the answers from those with its visual tokens. The LLM stays frozen."""

    other_weights: bool = False
    """Accept an LLM that was tuned since `adapter` was made for it."""

    train_adapter: bool = True
    """Whether to train the adapter."""
    train_llm: Literal["no", "lora", "full"] = "no"
    """Whether to train the LLM (stage 2): no, LoRA weights on its linear layers, or all weights."""
    lora_rank: int = 16
    """Rank of the LoRA weights."""

    word_steps: int | None = None
    """Optimizer steps on the word loss alone, which needs no LLM, before the caption loss. By default 1,500 for a new
    softmax head, else 0."""
    word_batch: int = 128
    """`batch` for these steps."""
    word_learning_rate: float = 1e-3
    """`learning_rate` for these steps."""
    word_weight: float = 0.0
    """Weight of the word loss next to the caption loss."""
    word_entropy: float = 0.3
    """Weight of the entropy of a patch's coefficients in the word loss."""

    steps: int = 0
    """Optimizer steps on the caption loss; 0 for as many as `epochs` takes."""
    epochs: float = 1.0
    """Epochs over the data if `steps` is 0. If both are 0, only the word loss is trained."""
    batch: int = 32
    """Samples per step, over all processes."""
    micro_batch: int | None = None
    """Samples that one process handles at a time; by default its whole share."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW on the caption loss."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises; then it falls as a cosine."""
    max_gradient_norm: float = 1.0
    """Gradients are clipped to this norm."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the computation. Trained weights stay float32."""
    checkpoint_activations: bool = False
    """Whether to recompute the LLM's activations in the backward pass, to save memory."""
    seed: int = 0
    """Seed of new weights and the order of samples. The same recipe gives the same result."""

    checkpoint_every: int = 500
    """Steps between saves of the training state that an interrupted run resumes from."""
    keep_adapters: bool = False
    """Whether to keep the adapter of each save."""
    workers: int = 0
    """Processes that prepare batches ahead."""
    tracker: str | None = None
    """Experiment tracker that accelerate supports, such as tensorboard or wandb."""

    def __post_init__(self) -> None:
        positive = {"batch", "hidden_width", "lora_rank", "word_batch", "checkpoint_every", "temperature"}
        positive |= {"max_tokens", "learning_rate", "word_learning_rate", "max_gradient_norm"}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in positive and not 0 < value < math.inf:
                raise VocabkitError(f"{field.name} is {value}: must be positive")
            number = isinstance(value, int | float) and field.name != "vision_layer"
            if number and not value >= 0:
                raise VocabkitError(f"{field.name} is {value}: must not be negative")
            if value == math.inf:
                raise VocabkitError(f"{field.name} is {value}: must be finite")
        if not (self.steps or self.epochs or self.steps_on_words or self.start_from_labels or self.least_squares):
            raise VocabkitError("steps, epochs and word_steps are all 0: nothing to do")
        if self.warmup > 1:
            raise VocabkitError(f"warmup is {self.warmup}: must be a share of the steps, from 0 to 1")
        if self.prompt is not None and self.prompt.count(PLACEHOLDER) != 1:
            raise VocabkitError(f"prompt: needs {PLACEHOLDER} exactly once, in place of the picture")
        if not self.data:
            raise VocabkitError("data is empty; name a file in the LLaVA JSON format, or a dataset")
        if self.features is None and self.vision is None:
            raise VocabkitError("give features (of `vocabkit features`) or vision (a vision model)")
        if self.micro_batch is not None and not 0 < self.micro_batch <= self.batch:
            raise VocabkitError(f"micro_batch is {self.micro_batch}: must be between 1 and batch, {self.batch}")
        if (self.steps_on_words or self.word_weight) and self.connector != "softmax" and self.adapter is None:
            raise VocabkitError(f"the word loss needs a softmax head; the connector is {self.connector}")
        if (self.steps_on_words or self.word_weight) and not self.train_adapter:
            raise VocabkitError("the word loss trains the adapter; set train_adapter too")
        if self.steps_on_words and self.train_llm != "no":
            raise VocabkitError(
                f"word_steps do not train the LLM, but train_llm is {self.train_llm}; use two recipes in turn"
            )
        for start in ("start_from_embeddings", "start_from_labels"):
            if getattr(self, start) and (self.connector != "softmax" or self.adapter is not None):
                raise VocabkitError(f"{start} needs a new adapter with a softmax head")
        if self.least_squares and (self.connector != "mlp" or self.adapter is not None):
            raise VocabkitError("least_squares needs a new adapter whose connector is mlp")
        if self.start_from_embeddings and self.start_from_labels:
            raise VocabkitError("a head has one start: start_from_embeddings or start_from_labels")
        if self.teacher is not None and self.train_llm != "no":
            raise VocabkitError(f"a teacher needs the LLM as it is, but train_llm is {self.train_llm}; set it to no")
        if self.connector != "softmax" and self.temperature != 1.0:
            raise VocabkitError(f"temperature is {self.temperature}: must be 1 without a softmax head")
        if self.adapter is None and self.connector != "mlp" and self.shared is None:
            raise VocabkitError("a new adapter needs its shared vocabulary: shared = FILE of `vocabkit build-shared`")
        if not (self.train_adapter or self.train_llm != "no"):
            raise VocabkitError("nothing is trained: set train_adapter or train_llm")

    @property
    def steps_on_words(self) -> int:
        """`word_steps`, or its default."""
        if self.word_steps is not None:
            return self.word_steps
        return 1500 if self.connector == "softmax" and self.adapter is None else 0


def read_recipe(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read the recipe in a TOML file; `settings`, each NAME=VALUE, replace its fields.

    Raises:
        VocabkitError: missing, not TOML, an unknown name, or a value of the wrong type.
    """
    path = Path(path)
    with reading(path):
        try:
            content = tomllib.loads(path.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise VocabkitError(f"{path}: not TOML ({quote(str(error), 120)})") from error
    return make_recipe(content, settings, path)


def make_recipe(content: Mapping[str, Any], settings: Sequence[str], where: str | Path) -> Recipe:
    """Return the recipe with these fields; `settings`, each NAME=VALUE, replace them.

    Args:
        where: they come from, for messages.

    Raises:
        VocabkitError: an unknown name, or a value of the wrong type.
    """
    known = {field.name for field in dataclasses.fields(Recipe)}
    given = dict(_setting(text, known) for text in settings)
    content = {**content, **given}
    if unknown := sorted(content.keys() - known):
        raise VocabkitError(f"{where}: unknown field {quote(unknown[0])}; {_near(unknown[0], known)}")
    try:
        return msgspec.convert(content, type=Recipe)
    except msgspec.ValidationError as error:
        problem = str(error.__cause__ or _misfit(content, str(error)))
        place = "`settings`" if problem.partition(" ")[0] in given else where
        raise VocabkitError(f"{place}: {problem}") from error


def value_of(name: str) -> str:
    """Describe the type of a recipe's field, for messages and docs/cli.md."""
    hint = get_type_hints(Recipe)[name]
    if get_origin(hint) in (Union, UnionType):  # with None, which TOML does not have
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        *most, last = map(str, get_args(hint))
        return f"{', '.join(most)} or {last}"
    return _VALUES[hint]


def _misfit(content: Mapping[str, Any], problem: str) -> str:
    """Say what is wrong with the field that msgspec names as `$.name`, or which one is missing."""
    place = re.search(r"`\$\.(\w+)", problem)
    if place is None:
        return f"{problem}; add it to the file or `settings`"
    name = place[1]
    value = quote(json.dumps(content[name], default=str), 60)[1:-1]
    return f"{name} is {value}: must be {value_of(name)}"


def _near(name: str, known: set[str]) -> str:
    return did_you_mean(name, sorted(known), f"names are {', '.join(sorted(known))}")


def _setting(text: str, known: set[str]) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise VocabkitError(f"`settings` {quote(text)}: must be NAME=VALUE")
    if name not in known:
        raise VocabkitError(f"`settings` {quote(text)}: unknown field {quote(name)}; {_near(name, known)}")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value  # text needs no quotes
