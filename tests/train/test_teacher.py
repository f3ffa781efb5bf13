"""Learning from another adapter of the same LLM: the KL divergence of its next-token distributions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from results import curve, same_bits, weights
from small_world import World
from torch.nn import functional
from torch.testing import assert_close

from vocabkit.adapter.model import load_adapter
from vocabkit.data.llava import read_llava
from vocabkit.errors import VocabkitError
from vocabkit.llm.load import load_llm
from vocabkit.llm.lvlm import collate, embed, teacher_loss
from vocabkit.llm.prompts import IGNORED, encode_sample
from vocabkit.train.train import train
from vocabkit.transfer.transfer import transfer


@pytest.fixture(scope="module")
def teacher(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLP that was trained on captions with LLM one."""
    return train(mlp(world, steps=40), tmp_path_factory.mktemp("teacher") / "out").adapter


def mlp(world: World, **changes: Any) -> Any:
    return world.recipe(connector="mlp", shared=None, batch=12, learning_rate=0.02, **changes)


def test_loss_is_the_divergence_over_answer_tokens(world: World) -> None:
    llm = load_llm(world.one)
    samples = list(read_llava(world.data))[:3]
    batch = collate([encode_sample(llm.tokenizer, s.turns, "completion", 4, longest=99) for s in samples], [])
    one, two = torch.randn(2, 3, 4, 24, generator=torch.Generator().manual_seed(0)).unbind()
    logs = [
        llm.model(inputs_embeds=embed(llm.model, batch.ids, tokens), attention_mask=batch.mask).logits.log_softmax(-1)
        for tokens in (one, two)
    ]
    expected = (logs[1].exp() * (logs[1] - logs[0])).sum(dim=-1)[:, :-1]
    expected = (expected * (batch.labels[:, 1:] != IGNORED)).sum(dim=1)
    assert_close(teacher_loss(llm.model, batch, one, two), expected)
    assert_close(teacher_loss(llm.model, batch, two, two), torch.zeros(3))


def test_gradient_reaches_the_student_alone(world: World) -> None:
    llm = load_llm(world.one)
    sample = next(iter(read_llava(world.data)))
    batch = collate([encode_sample(llm.tokenizer, sample.turns, "completion", 4, longest=99)], [])
    one, two = (torch.randn(1, 4, 24, requires_grad=True) for _ in range(2))
    functional.softplus(teacher_loss(llm.model, batch, one, two)).sum().backward()
    assert one.grad is not None
    assert two.grad is None


def test_student_learns_what_the_teacher_does(world: World, teacher: Path, tmp_path: Path) -> None:
    train(mlp(world, teacher=str(teacher), steps=60, seed=1), tmp_path / "out")
    distances = curve(tmp_path / "out")
    assert distances[-1] < 0.1 * distances[0]


def test_teacher_itself_has_nothing_to_learn(world: World, teacher: Path, tmp_path: Path) -> None:
    train(mlp(world, teacher=str(teacher), adapter=str(teacher), steps=1), tmp_path / "out")
    assert curve(tmp_path / "out")[0] < 1e-5


def test_word_loss_stands_beside_it(world: World, teacher: Path, tmp_path: Path) -> None:
    found = train(
        world.recipe(connector="softmax", teacher=str(teacher), word_steps=2, word_weight=0.5, steps=2),
        tmp_path / "out",
    )
    assert found.caption_loss is not None
    assert len(curve(tmp_path / "out", "word_loss")) == 4


def test_stopped_training_resumes_to_the_same_bits(world: World, teacher: Path, tmp_path: Path) -> None:
    recipe = mlp(world, teacher=str(teacher), steps=6, seed=1, checkpoint_every=2)

    def stop(step: Any) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "out", on_step=stop)
    train(recipe, tmp_path / "out")
    train(recipe, tmp_path / "whole")
    assert same_bits(weights(tmp_path / "out"), weights(tmp_path / "whole"))


def test_projector_learns_from_an_adapter_that_was_moved(world: World, tmp_path: Path) -> None:
    """The other direction: a head that does not fold, and a projector that programs can hold."""
    head = train(world.recipe(connector="softmax", word_steps=30, word_batch=12, steps=1), tmp_path / "head").adapter
    transfer(head, world.two)[0].save(tmp_path / "moved")
    recipe = mlp(world, teacher=str(tmp_path / "moved"), llm=world.two, steps=40)
    train(recipe, tmp_path / "out")
    assert curve(tmp_path / "out")[-1] < 0.4 * curve(tmp_path / "out")[0]
    assert load_adapter(tmp_path / "out" / "adapter").llm == "two"
    with pytest.raises(VocabkitError, match="its tokenizer has other ids than two has"):
        train(mlp(world, teacher=str(tmp_path / "moved")), tmp_path / "other")
    with pytest.raises(VocabkitError, match="has no embedding rows to teach with; run `vocabkit transfer` first"):
        train(mlp(world, teacher=str(head)), tmp_path / "unmoved")


def test_llm_is_not_trained_beside_a_teacher(world: World, teacher: Path) -> None:
    with pytest.raises(VocabkitError, match="a teacher needs the LLM as it is, but train_llm is lora"):
        mlp(world, teacher=str(teacher), train_llm="lora")


def test_teacher_of_other_pictures_is_refused(world: World, teacher: Path, tmp_path: Path) -> None:
    other = load_adapter(teacher)
    other.config = type(other.config)(**vars(other.config) | {"vision_layer": -1})
    other.save(tmp_path / "other")
    with pytest.raises(VocabkitError, match="gives features with layer -2, but the adapter was trained with layer -1"):
        train(mlp(world, teacher=str(tmp_path / "other")), tmp_path / "out")
