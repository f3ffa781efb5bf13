"""`infer --words`: the words of a picture as text, and as ids where visual tokens are spelled out."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch
from command_line import error_of, vocabkit_here
from infer_world import InferWorld, table, visual_tokens
from moved_adapters import Kind, moved

from vocabkit.adapter.config import Spelled
from vocabkit.adapter.model import load_adapter
from vocabkit.adapter.words import READING, Word, image_words, words_of_rows
from vocabkit.data.pictures import load_image
from vocabkit.data.samples import Picture
from vocabkit.shared.align import align
from vocabkit.shared.shared_vocabulary import SharedVocabulary
from vocabkit.tokenizer.catalog import resolve
from vocabkit.vision.encoder import encoder_of

SCENES = Path(__file__).parents[2] / "data" / "smollm2-scenes.pt"


def over(*tokens: bytes) -> SharedVocabulary:
    """Rows that are these tokens, which Qwen2 and LLaMA3 share."""
    shared = align([resolve("qwen2").vocabulary, resolve("llama3").vocabulary])
    return shared.select([shared.row_of(token) for token in tokens])


def texts(words: list[Word]) -> list[str]:
    return [word.text for word in words]


def test_pieces_are_glued_to_the_word_whose_patches_they_share() -> None:
    shared = over(b" ban", b"jo", b" sw", b"ord", b" red")
    p = torch.tensor([[0.4, 0.5, 0.0, 0.0, 0.1], [0.0, 0.0, 0.5, 0.4, 0.1]])
    assert texts(words_of_rows([4, 0, 3, 2, 1], p, shared)) == ["red", "banjo", "sword"]


def test_capitals_begin_words_and_the_same_word_is_told_once() -> None:
    shared = over(b"Red", b" Red", b" ban", b"jo")
    p = torch.tensor([[0.3, 0.4, 0.2, 0.1]])
    assert words_of_rows([1, 0, 2, 3], p, shared) == [
        Word("Red", pytest.approx(0.4)),
        Word("banjo", pytest.approx(0.2)),
    ]


def test_tokens_of_scripts_without_spaces_stay_apart() -> None:
    shared = over("中国".encode(), "人".encode(), b" red")
    p = torch.tensor([[0.5, 0.3, 0.2]])
    assert texts(words_of_rows([0, 1, 2], p, shared)) == ["中国", "人", "red"]


def test_pieces_alone_are_still_text() -> None:
    assert texts(words_of_rows([1, 0], torch.tensor([[0.2, 0.8]]), over(b"jo", b"ban"))) == ["banjo"]


@pytest.fixture(scope="module")
def spelled(world: InferWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `moved`, whose visual tokens are words in order, for LLM two."""
    here = tmp_path_factory.mktemp("spelled")
    kind = Kind("words", visual_tokens=Spelled(0.05, positions=20), temperature=0.2)
    moved(world.small, kind, here).save(here / "moved")
    return here


def test_words_shares_prompt_and_ids_are_those_of_the_adapter(world: InferWorld, spelled: Path, tmp_path: Path) -> None:
    done = vocabkit_here(
        tmp_path, "infer", spelled / "moved", world.pictures, "--words", "--out", "out", "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    adapter = load_adapter(spelled / "moved")
    encoder, two = encoder_of(adapter), resolve(world.small.two).vocabulary
    rows = table(tmp_path / "out").to_pylist()
    assert len(rows) == 12
    for row in rows:
        pixels = encoder.pixels(load_image(Picture(row["image"], Path(row["image"]))))
        features = encoder(pixels[None])[0]
        words = image_words(adapter, features)
        assert row["words"] == texts(words)
        assert row["share"] == pytest.approx([word.share for word in words], abs=1e-6)
        assert row["prompt"] == READING.replace("<image>", ", ".join(row["words"]))
        spoken = b"".join(b" " + word.encode() + b"," for word in row["words"])
        said = b"".join(two.token(i) for i in row["visual_ids"])
        assert len(row["visual_ids"]) == 20
        assert said == (spoken * 20)[: len(said)]
    assert len({row["prompt"] for row in rows}) > 1


def test_they_are_printed_with_the_prompt(world: InferWorld, spelled: Path, tmp_path: Path) -> None:
    words = ("infer", spelled / "moved", world.pictures / "1.png", "--words", "--device", "cpu", "--out")
    done = vocabkit_here(tmp_path, *words, "out")
    (row,) = table(tmp_path / "out").to_pylist()
    assert f"1.png: {', '.join(row['words'])}\n" in done.stdout
    assert READING in done.stdout
    found = json.loads(vocabkit_here(tmp_path, *words, "again", "--json").stdout)
    (shown,) = found["report"]["first_words"].values()
    assert [word["text"] for word in shown] == row["words"]
    assert found["report"]["reading"] == READING


def test_adapter_s_own_prompt_is_told(world: InferWorld, spelled: Path, tmp_path: Path) -> None:
    adapter = load_adapter(spelled / "moved")
    adapter.config = dataclasses.replace(adapter.config, prompt="Picture:\nThe words <image>: a")
    adapter.save(tmp_path / "own")
    words = ("infer", "own", world.pictures / "1.png", "--words", "--device", "cpu", "--out", "out")
    done = vocabkit_here(tmp_path, *words)
    (row,) = table(tmp_path / "out").to_pylist()
    assert row["prompt"] == f"Picture:\nThe words {', '.join(row['words'])}: a"
    assert "in place of <image>:\n  Picture:\n  The words <image>: a\n" in done.stdout


def test_words_of_the_shipped_adapter_name_what_drawings_show(tmp_path: Path) -> None:
    done = vocabkit_here(tmp_path, "scenes", "scenes", "--train", "20", "--held-out", "1", "--only", "train")
    assert done.returncode == 0, done.stderr
    done = vocabkit_here(tmp_path, "infer", SCENES, "scenes/train.json", "--words", "--out", "out", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "scenes/train.json").read_text())
    words = [set(row["words"]) for row in table(tmp_path / "out").to_pylist()]

    def named(shift: int) -> int:
        """Objects whose words are all among those of the picture `shift` places later."""
        others = words[shift:] + words[:shift]
        return sum(
            set(name.split()) <= seen
            for record, seen in zip(records, others, strict=True)
            for name in record["objects"]
        )

    assert named(0) > 5 * (named(1) + 1)


def test_without_the_option_results_are_as_before(world: InferWorld, spelled: Path, tmp_path: Path) -> None:
    vocabkit_here(tmp_path, "infer", spelled / "moved", world.pictures / "1.png", "--out", "out", "--device", "cpu")
    assert table(tmp_path / "out").column_names == ["image"]
    assert "words" not in json.loads((tmp_path / "out/index.json").read_text())["settings"]


@pytest.mark.parametrize("adapter", ["mlp", "linear"])
def test_adapters_without_shares_are_refused(world: InferWorld, tmp_path: Path, adapter: str) -> None:
    moved(world.small, Kind(head="linear"), tmp_path).save(tmp_path / "linear")
    source = world.mlp if adapter == "mlp" else tmp_path / "linear"
    done = vocabkit_here(tmp_path, "infer", source, world.pictures, "--words", "--out", "out")
    assert error_of(done) == (
        "words are chosen by a softmax head; this adapter has none, so its visual tokens say no words"
    )
    assert not (tmp_path / "out").exists()


# ---- prompt embeddings -------------------------------------------------------------------------------------------


def test_prompt_embeds_are_the_visual_tokens(world: InferWorld, tmp_path: Path) -> None:
    asks = ("infer", world.transferred, world.pictures, "--device", "cpu", "--batch", "5", "--out")
    assert vocabkit_here(tmp_path, *asks, "tokens").returncode == 0
    assert vocabkit_here(tmp_path, *asks, "parts", "--prompt-embeds").returncode == 0
    expected = visual_tokens(tmp_path / "tokens")
    rows = table(tmp_path / "parts").to_pylist()
    assert [row["image"] for row in rows] == list(expected)
    for row in rows:
        found = torch.load(io.BytesIO(base64.b64decode(row["prompt_embeds"])), weights_only=True)
        assert torch.equal(found, expected[row["image"]])
        assert found.untyped_storage().nbytes() == found.nbytes
    assert not list((tmp_path / "parts").glob("*.safetensors"))


def test_prompt_embeds_of_an_adapter_that_was_not_moved_need_an_llm(world: InferWorld, tmp_path: Path) -> None:
    done = vocabkit_here(tmp_path, "infer", world.langbridge, world.pictures, "--prompt-embeds", "--out", "out")
    assert "give --llm as NAME=SOURCE, or transfer the adapter first" in error_of(done)
