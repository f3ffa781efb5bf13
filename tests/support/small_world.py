"""Two tiny LLMs with the same bytes under different ids, coloured pictures and their captions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast
from vision_models import clip

from vocabkit.data.llava import read_llava
from vocabkit.llm.load import quiet_transformers
from vocabkit.shared.align import align
from vocabkit.tokenizer.catalog import resolve
from vocabkit.train.recipe import Recipe
from vocabkit.vision.encoder import open_vision
from vocabkit.vision.features import cache_features

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "white": (250, 250, 250)}


@dataclass(frozen=True)
class World:
    """Paths of the files of a small world."""

    one: str
    """The first LLM, as NAME=PATH."""
    two: str
    """The second, of another width."""
    shared: Path
    data: Path
    features: Path
    vision: Path

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Return recipe fields of a short training with LLM one: a linear head, or a softmax head on captions alone."""
        plain = {
            "data": (str(self.data),), "llm": self.one, "features": str(self.features), "shared": str(self.shared),
            "template": "completion", "connector": "linear", "hidden_width": 16, "steps": 8, "batch": 4,
            "learning_rate": 0.01,
        }  # fmt: skip
        if changes.get("connector") == "softmax":
            plain["word_steps"] = 0
        return {name: value for name, value in (plain | changes).items() if value is not None}

    def recipe(self, **changes: Any) -> Recipe:
        """Return these settings as a recipe."""
        return Recipe(**self.settings(**changes))

    def write_recipe(self, path: Path, **changes: Any) -> Path:
        """Write these settings as a recipe file."""
        lines = [f"{name} = {json.dumps(value)}" for name, value in self.settings(**changes).items()]
        path.write_text("\n".join(lines))
        return path


def make_world(folder: Path) -> World:
    """Make the small world in `folder`."""
    folder.mkdir()
    one, two = f"one={write_llm(folder / 'one', 24)}", f"two={write_llm(folder / 'two', 32, backwards=True)}"
    shared, data = folder / "shared.arrow", folder / "data.json"
    align([resolve(one).vocabulary, resolve(two).vocabulary]).save(shared)
    write_data(data)
    vision = clip(folder / "vision")
    pictures = [picture for sample in read_llava(data) for picture in sample.images]
    cache_features(open_vision(str(vision)), pictures, folder / "features")
    return World(one, two, shared, data, folder / "features", vision)


def write_data(path: Path, repeats: int = 3) -> None:
    """Write captioned pictures with records like those of `vocabkit scenes`."""
    records = []
    for number in range(repeats * len(COLOURS)):
        name = list(COLOURS)[number % len(COLOURS)]
        file = f"{number}.png"
        Image.new("RGB", (30 + number, 30), COLOURS[name]).save(path.parent / file)
        turns = [
            {"from": "human", "value": "Image: <image>\nThis is"},
            {"from": "gpt", "value": f"a {name} thing."},
        ]
        extra = {"kind": "single", "objects": [name], "count": None, "background": None}
        records.append({"id": str(number), "image": file, "conversations": turns, **extra})
    path.write_text(json.dumps(records))


def write_llm(folder: Path, width: int, *, backwards: bool = False, seed: int = 0) -> Path:
    """Write an LLM with a token for each byte, in the order of their letters or `backwards`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=backwards)
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    config = LlamaConfig(
        vocab_size=257, hidden_size=width, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=None, eos_token_id=256, tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(), quiet_transformers():
        torch.manual_seed(width + seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    return folder
