"""An LLM that says the truth about scenes, if it is shown them: what questions about scenes can be checked with.

A visual token is a one-hot vector that names the scene; the adapter takes it from features that are just that.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from small_world import World
from torch import Tensor, nn

from vocabkit.adapter.config import MLPConfig
from vocabkit.adapter.model import MLPProjector
from vocabkit.data.samples import Picture, Sample, Turn
from vocabkit.data.scenes import Scene
from vocabkit.llm.load import LLM, load_llm
from vocabkit.vision.tiles import Layout

IDS, END, TOKENS = 257, 256, 2
"""Of the small world's LLM one; visual tokens of an image."""


class Shown(dict[str, Tensor]):
    """Features by key."""

    def __init__(self, count: int) -> None:
        super().__init__({str(number): one_hot(number, count).expand(TOKENS, -1) for number in range(count)})
        self.tokens, self.width, self.folder = TOKENS, count, Path("shown")
        self.layouts: dict[str, Layout] = {}


class Stage(NamedTuple):
    """All that `ask` takes."""

    llm: LLM
    samples: list[Sample]
    features: Any
    adapter: MLPProjector


def stage(world: World, scenes: list[Scene], *, sees: list[Scene] | None = None, yes: float = 0.0) -> Stage:
    """Scenes, and an LLM that takes each for the one in the same place in `sees`.

    Args:
        yes: nats that it adds to the answer yes, whatever it sees.
    """
    llm = load_llm(world.one)
    count = len(scenes)
    model = Oracle(llm.tokenizer, sees or scenes, yes)
    adapter = MLPProjector(MLPConfig(count, count, IDS + count, "one"))
    with torch.no_grad():
        adapter.linear_1.weight.copy_(10 * torch.eye(count))
        adapter.linear_2.weight.copy_(torch.eye(IDS + count)[:, IDS:])
        adapter.linear_1.bias.zero_()
        adapter.linear_2.bias.zero_()
    samples = [
        Sample(
            id=str(number),
            images=(Picture(str(number), b""),),
            turns=(Turn("Image: <image>\nThis is", scene.answer),),
            extra=asdict(scene) | {"objects": list(scene.objects)},
        )
        for number, scene in enumerate(scenes)
    ]
    return Stage(LLM("oracle", llm.vocabulary, model, llm.tokenizer), samples, Shown(count), adapter)


class Oracle(nn.Module):
    """Goes on with the truth about the scene that it is shown."""

    device = torch.device("cpu")

    def __init__(self, tokenizer: Any, scenes: list[Scene], yes: float) -> None:
        super().__init__()
        self._tokenizer, self._scenes, self._yes = tokenizer, scenes, yes
        self._table = nn.Embedding.from_pretrained(torch.eye(IDS, IDS + len(scenes)))

    def get_input_embeddings(self) -> nn.Embedding:
        return self._table

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, use_cache: bool = False) -> Any:
        rows = [self._logits(row, mask) for row, mask in zip(inputs_embeds, attention_mask, strict=True)]
        return type("Output", (), {"logits": torch.stack(rows)})

    def generate(self, inputs_embeds: Tensor, attention_mask: Tensor, max_new_tokens: int, **_: Any) -> Tensor:
        new = torch.empty(len(inputs_embeds), 0, dtype=torch.long)
        for _step in range(max_new_tokens):
            embeds = torch.cat([inputs_embeds, self._table(new)], dim=1)
            mask = torch.cat([attention_mask, torch.ones_like(new, dtype=torch.bool)], dim=1)
            new = torch.cat([new, self(embeds, mask).logits[:, -1:].argmax(dim=-1)], dim=1)
        return new

    def _logits(self, row: Tensor, mask: Tensor) -> Tensor:
        found, ids = torch.zeros(len(row), IDS), row.argmax(dim=1).tolist()
        scene: Scene | None = None
        text: list[int] = []
        for at, token in enumerate(ids):
            if not mask[at]:
                continue
            if token >= IDS:
                scene = self._scenes[token - IDS]
            else:
                text.append(token)
            if scene is not None and (favoured := self._next(self._tokenizer.decode(text), scene)) is not None:
                found[at, favoured] += 20
            if self._tokenizer.decode(text).endswith("Answer: "):
                found[at, self._id("y")] += self._yes
        return found

    def _next(self, text: str, scene: Scene) -> int | None:
        question, asked, said = text.rpartition("Answer:")
        if asked:
            there = any(f"Is there {thing} in" in question for thing in scene.things)
            truth = " yes" if there else " no"
        else:
            _, asked, said = text.rpartition("This is")
            truth = f" {scene.answer}"
        if not asked or not truth.startswith(said):
            return None
        return self._id(truth[len(said)]) if len(said) < len(truth) else END

    def _id(self, letter: str) -> int:
        return int(self._tokenizer.encode(letter)[0])


def one_hot(number: int, count: int) -> Tensor:
    """(count,)."""
    return torch.eye(count)[number]
