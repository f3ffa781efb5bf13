"""What the page computes: pictures in words, prompts, and answers as they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import error_of, vocabkit_here
from infer_world import table
from moved_adapters import Kind, moved, trained
from small_adapters import projector
from small_world import World

from vocabkit.adapter.config import Spelled
from vocabkit.adapter.words import READING
from vocabkit.app.talk import Talk, open_talk, question_of, see
from vocabkit.data.pictures import BrokenImage
from vocabkit.errors import VocabkitError
from vocabkit.transfer.transfer import transfer

KINDS = {
    "words": Kind("words", temperature=0.2),
    "tokens": Kind(pool=(2, 2)),
    "linear": Kind(head="linear", keep_cls=True),
}


@pytest.fixture(scope="module", params=KINDS)
def talk(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> Talk:
    """An adapter of each kind in front of both LLMs."""
    folder = tmp_path_factory.mktemp("talk")
    trained(world, KINDS[request.param], folder).save(folder / "adapter")
    talk = open_talk(folder / "adapter", [world.one, world.two])
    talk.load()
    assert [(partner.name, partner.state, partner.problem) for partner in talk.partners] == [
        ("one", "ready", ""),
        ("two", "ready", ""),
    ]
    return talk


def test_answers_are_those_of_infer_and_grow_token_by_token(talk: Talk, world: World, tmp_path: Path) -> None:
    file = world.data.parent / "1.png"
    seen = see(talk.adapter, talk.encoder, file.read_bytes())
    made = Spelled() if talk.adapter.shared.of_words else None
    for partner, llm in zip(talk.partners, (world.one, world.two), strict=True):
        told: list[str] = []
        assert partner.reader is not None
        answer, prompt, count = partner.reader.answer(seen, "", told.append)
        transfer(talk.adapter, llm, visual_tokens=made)[0].save(tmp_path / partner.name)
        out = f"seen-{partner.name}"
        done = vocabkit_here(
            tmp_path, "infer", partner.name, file, "--captions", "--llm", llm, "--out", out, "--device", "cpu"
        )
        assert done.returncode == 0, done.stderr
        assert table(tmp_path / out)["caption"].to_pylist() == [answer]
        assert told[-1] == answer
        assert answer
        assert all(answer.startswith(text.rstrip("\ufffd")[: len(answer)]) for text in told)
        assert count == (talk.encoder.tokens if made is None else made.positions)
        assert ("<image>" in prompt) == (made is None)


def test_answer_ends_where_it_is_told_to(talk: Talk, world: World) -> None:
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        if len(told) == 2:
            raise InterruptedError

    seen = see(talk.adapter, talk.encoder, (world.data.parent / "1.png").read_bytes())
    reader = talk.partners[0].reader
    assert reader is not None
    with pytest.raises(InterruptedError):
        reader.answer(seen, "", tell)
    assert len(told) == 2


def test_patches_and_heat_maps_are_coefficients(talk: Talk, world: World) -> None:
    seen = see(talk.adapter, talk.encoder, (world.data.parent / "2.png").read_bytes())
    rows, columns = talk.encoder.grid
    p = talk.adapter.coefficients(seen.features[0, -rows * columns :])  # (N, V)
    words = [token.as_py().decode("utf-8", "backslashreplace") for token in talk.adapter.shared.tokens]
    assert len(seen.patches) == rows * columns
    for patch, shares in zip(seen.patches, p, strict=True):
        assert [value for _, value in patch] == pytest.approx(
            shares.sort(descending=True).values[: len(patch)].tolist()
        )
    if talk.adapter.config.head == "linear":
        assert not seen.mapped
        assert not seen.words
        return
    assert [mass for _, mass, _ in seen.mapped] == pytest.approx(
        p.mean(0).sort(descending=True).values[:12].tolist()[: len(seen.mapped)]
    )
    for word, mass, shares in seen.mapped:
        assert torch.tensor(shares).mean().item() == pytest.approx(mass, abs=1e-6)
        if talk.adapter.shared.of_words:
            assert shares == pytest.approx(p[:, words.index(word)].tolist())


def test_transfer_is_proven(talk: Talk) -> None:
    for partner in talk.partners:
        proof = talk.prove(partner)
        assert proof is not None
        assert proof.passed
        assert proof.checks


def test_question_becomes_a_prompt_in_the_form_that_the_llm_knows(world: World, tmp_path: Path) -> None:
    words = moved(world, Kind("words", visual_tokens=Spelled()), tmp_path)
    tokens = moved(world, Kind(), tmp_path / "tokens")
    asked = "What is it?"
    assert question_of(asked, words, chats=False) == (f"{READING}\nQuestion: {asked}\nAnswer:", "completion")
    assert question_of(asked, tokens, chats=False) == (f"<image>\nQuestion: {asked}\nAnswer:", "completion")
    assert question_of(asked, tokens, chats=True) == (f"<image>\n{asked}", "chat")
    assert question_of("<image> twice <image>?", tokens, chats=True)[0].count("<image>") == 1
    assert question_of("", tokens, chats=True) == ("<image>", "plain")


def test_adapter_that_has_moved_speaks_to_its_llm_only(world: World, tmp_path: Path) -> None:
    moved(world, Kind("words", visual_tokens=Spelled()), tmp_path).save(tmp_path / "moved")
    talk = open_talk(tmp_path / "moved", [world.one, world.two, f"three={tmp_path / 'nothing'}"])
    talk.load()
    one, two, three = talk.partners
    assert (one.state, two.state, three.state) == ("failed", "ready", "failed")
    assert "two" in one.problem
    assert "not found" in three.problem
    assert talk.prove(two) is None


def test_broken_pictures_are_told_apart(talk: Talk) -> None:
    for content in (b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(50)):
        with pytest.raises(BrokenImage, match=r"^this file: "):
            see(talk.adapter, talk.encoder, content)


def test_what_can_t_be_opened_is_refused(world: World, tmp_path: Path) -> None:
    projector().save(tmp_path / "mlp")
    trained(world, Kind(), tmp_path).save(tmp_path / "adapter")
    with pytest.raises(VocabkitError, match="say no words; ask by `infer --captions`"):
        open_talk(tmp_path / "mlp", [world.one])
    with pytest.raises(VocabkitError, match="one is already given; rename one with NAME=SOURCE"):
        open_talk(tmp_path / "adapter", [world.one, world.one])
    assert "--port 1 of --host nowhere.invalid" in error_of(
        vocabkit_here(tmp_path, "app", "adapter", "--host", "nowhere.invalid", "--port", "1")
    )
