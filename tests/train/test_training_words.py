"""An adapter over words, from training to captions, with LLMs that spell every word byte by byte."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from small_models import byte_tokenizer
from small_world import World, make_world
from vision_models import whole_clip

from vocabkit.adapter.card import hf_card
from vocabkit.adapter.config import AdapterConfig, Spelled
from vocabkit.adapter.model import LangBridgeAdapter, load_adapter
from vocabkit.arrow.arrow_file import read_table
from vocabkit.data.llava import read_llava
from vocabkit.errors import VocabkitError, VocabkitWarning
from vocabkit.evaluate.validate import FileOptions, validate_files
from vocabkit.infer.infer import infer
from vocabkit.interpret.interpret import interpret
from vocabkit.llm.load import load_llm
from vocabkit.llm.lvlm import LVLM
from vocabkit.shared.align_words import align_words
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.tokenizer.catalog import resolve
from vocabkit.train.train import train
from vocabkit.transfer.check import check_transfer
from vocabkit.transfer.transfer import transfer
from vocabkit.vision.encoder import open_vision
from vocabkit.vision.features import cache_features, open_features
from vocabkit.vision.labels import label_scores


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The small world with the words of its captions as rows."""
    small = make_world(tmp_path_factory.mktemp("words") / "world")
    shared = small.shared.with_name("words.arrow")
    align_words([resolve(small.one).vocabulary, resolve(small.two).vocabulary], [small.data]).save(shared)
    return dataclasses.replace(small, shared=shared)


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter trained on the words alone."""
    recipe = world.recipe(connector="softmax", word_steps=60, word_batch=12, word_learning_rate=0.02, steps=1)
    return train(recipe, tmp_path_factory.mktemp("trained") / "out").adapter


@pytest.fixture(scope="module")
def moved(world: World, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, moved to the other LLM."""
    folder = tmp_path_factory.mktemp("moved") / "two"
    result, _ = transfer(trained, world.two)
    result.save_pretrained(folder)
    return folder


def test_rows_are_words_of_captions(world: World) -> None:
    assert list(open_shared(world.shared)) == [b" a", b" thing", b" red", b" green", b" blue", b" white"]


def test_head_learns_which_word_a_picture_shows(world: World, trained: Path) -> None:
    adapter = load_adapter(trained)
    assert isinstance(adapter, LangBridgeAdapter)
    features = open_features(world.features)
    for sample in read_llava(world.data):
        colour = sample.turns[0].answer.split()[1]
        mass = adapter.coefficients(features[sample.images[0].key].float()).mean(dim=0)[2:]
        assert adapter.shared[2 + int(mass.argmax())] == f" {colour}".encode()


def test_captions_that_teach_the_word_loss_nothing_are_told(world: World, tmp_path: Path) -> None:
    records = json.loads(world.data.read_text())
    for sample, answer in ((2, "zzzq qqqx"), (5, "!")):
        records[sample]["conversations"][1]["value"] = answer
    settings = {"connector": "softmax", "word_steps": 1, "steps": 1}
    some = world.data.with_name("some.json")
    some.write_text(json.dumps(records))
    with pytest.warns(VocabkitWarning, match="2 of 12 captions have no word of the shared vocabulary"):
        assert train(world.recipe(**settings, data=(str(some),)), tmp_path / "some").without_words == 2
    assert train(world.recipe(**settings), tmp_path / "all").without_words == 0
    assert train(world.recipe(**settings | {"word_steps": 0}), tmp_path / "captions").without_words is None
    for record in records:
        record["conversations"][1]["value"] = "ein rotes Ding"
    none = world.data.with_name("none.json")
    none.write_text(json.dumps(records))
    with pytest.raises(VocabkitError, match="none of the 12 captions has a word of the shared vocabulary"):
        train(world.recipe(**settings, data=(str(none),)), tmp_path / "none")
    for record in records:
        record["conversations"][1]["value"] = "a red thing"
    same = world.data.with_name("same.json")
    same.write_text(json.dumps(records))
    with pytest.warns(VocabkitWarning, match="all captions have the same words of the shared vocabulary"):
        train(world.recipe(**settings, data=(str(same),)), tmp_path / "same")


def test_prompt_of_the_recipe_goes_with_the_adapter(world: World, trained: Path, tmp_path: Path) -> None:
    prompt = "The words <image>:"
    recipe = world.recipe(connector="softmax", adapter=str(trained), shared=None, prompt=prompt, steps=1)
    again = train(recipe, tmp_path / "again").adapter
    moved, _ = transfer(again, world.two)
    moved.save_pretrained(tmp_path / "moved")
    config = load_adapter(tmp_path / "moved").config
    assert isinstance(config, AdapterConfig)
    assert config.prompt == prompt
    assert f"`{prompt}`" in hf_card(config, "exported")
    assert f"`{prompt}`" in (tmp_path / "moved" / "README.md").read_text()
    assert load_adapter(trained).config.prompt is None


def test_moved_adapter_is_proven_and_reads_captions(world: World, trained: Path, moved: Path) -> None:
    assert check_transfer(moved, trained, world.two).passed
    found = validate_files([str(world.data)], world.two, {"moved": str(moved)}, FileOptions(features=world.features))
    assert set(found["data"].validation.gain) == {"moved"}


def test_adapter_before_transfer_gives_llm_the_same_visual_tokens_as_after(
    world: World, trained: Path, moved: Path
) -> None:
    llm = load_llm(world.two)
    cached = open_features(world.features)
    features = torch.stack([cached[sample.images[0].key].float() for sample in read_llava(world.data)])
    before, after = LVLM(llm, load_adapter(trained)), LVLM(llm, load_adapter(moved))
    assert torch.equal(before.visual_tokens(features), after.visual_tokens(features))


def test_embeddings_that_are_trained_carry_gradients_through_words(world: World, trained: Path) -> None:
    llm = load_llm(world.one)
    llm.model.requires_grad_(True)
    lvlm = LVLM(llm, load_adapter(trained))
    features = open_features(world.features)
    visual = lvlm.visual_tokens(torch.stack([features[sample.images[0].key] for sample in read_llava(world.data)]))
    visual.sum().backward()
    gradient = llm.model.get_input_embeddings().weight.grad
    used = sorted(set(lvlm.connector.shared.spellings("one").ids.tolist()))
    assert gradient.any(dim=1).nonzero().flatten().tolist() == used


def test_infer_lists_ids_of_each_word(world: World, moved: Path, tmp_path: Path) -> None:
    infer(moved, [world.data], tmp_path / "seen", top=2, captions=True, llm=world.two, max_new_tokens=2)
    table, _ = read_table(tmp_path / "seen/00000.arrow", "inference")
    first = table.to_pylist()[0]
    shared = load_adapter(moved).shared
    for row, token, ids in zip(first["row"][0], first["token"][0], first["token_id"][0], strict=True):
        assert token == shared[row]
        assert ids == shared.spellings("two").lists()[row]
    assert pa.types.is_list(table.schema.field("token_id").type.value_type.value_type)


def test_interpret_tells_that_an_llm_is_shown_something_else(world: World, spelled: Path) -> None:
    with pytest.warns(VocabkitWarning, match="an LLM is shown its words spelled out; here is what each patch adds"):
        interpret(spelled, [world.data.parent / "0.png"], llms=[world.two])


@pytest.mark.parametrize("llm", ["one", "two"])
def test_interpret_reads_pictures_in_words(world: World, trained: Path, llm: str) -> None:
    found = interpret(trained, [world.data], llms=[getattr(world, llm)], top=2, limit=4)
    assert set(found.rows[llm].values()) <= set(open_shared(world.shared))
    assert found.development[0].named_by_head is not None


def test_start_from_embeddings_and_stage_2_take_words(world: World, trained: Path, tmp_path: Path) -> None:
    recipe = world.recipe(connector="softmax", start_from_embeddings=True, steps=1)
    assert train(recipe, tmp_path / "start").steps == 1
    recipe = world.recipe(
        connector=None, hidden_width=None, shared=None, adapter=str(trained), llm=world.two, word_weight=0.1, steps=1
    )
    assert train(recipe, tmp_path / "more").word_loss is not None


# ---- spelled out -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spelled(world: World, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter moved to the other LLM, its words spelled out in twelve positions."""
    folder = tmp_path_factory.mktemp("spelled") / "two"
    result, _ = transfer(trained, world.two, visual_tokens=Spelled(threshold=0.1, positions=12))
    result.save_pretrained(folder)
    return folder


def test_llm_reads_spelled_words_as_it_reads_text(world: World, spelled: Path) -> None:
    llm, connector = load_llm(world.two), load_adapter(spelled)
    sample = next(read_llava(world.data))
    features = open_features(world.features)[sample.images[0].key].float()
    visual = LVLM(llm, connector).visual_tokens(features[None])[0]
    table = llm.model.get_input_embeddings().weight
    ids = [(table == token).all(dim=1).nonzero().flatten()[0].item() for token in visual]
    text = llm.tokenizer.decode(ids)
    colour = sample.turns[0].answer.split()[1]
    assert len(ids) == 12
    assert text.startswith(f" {colour}")


def test_validate_counts_positions_and_compares_with_the_shortest_blind(
    world: World, moved: Path, spelled: Path
) -> None:
    options = FileOptions(features=world.features)
    found = validate_files([str(world.data)], world.two, {"spelled": str(spelled)}, options, answers=True)["data"]
    assert found.validation.visual_tokens == 12
    assert "spelled random vocabulary" in found.validation.caption_loss
    adapters = {"spelled": str(spelled), "moved": str(moved)}
    both = validate_files([str(world.data)], world.two, adapters, options)["data"].validation
    alone = validate_files([str(world.data)], world.two, {"moved": str(moved)}, options)["data"].validation
    assert both.visual_tokens == 12 < alone.visual_tokens
    assert both.caption_loss["blind"] == found.validation.caption_loss["blind"] != alone.caption_loss["blind"]
    assert both.caption_loss["moved"] == alone.caption_loss["moved"]


def test_infer_writes_spelled_visual_tokens_and_captions(world: World, spelled: Path, tmp_path: Path) -> None:
    options = {"captions": True, "visual_tokens": True, "llm": world.two, "max_new_tokens": 2}
    infer(spelled, [world.data], tmp_path / "seen", **options)
    tensors = load_file(tmp_path / "seen/00000.safetensors")["visual_tokens"]
    assert tensors.shape == (12, 12, 32)
    rows = set(map(tuple, load_adapter(spelled).embeddings.tolist()))
    assert set(map(tuple, tensors.flatten(0, 1).tolist())) <= rows


def test_interpret_reads_mix_of_each_patch(world: World, moved: Path, spelled: Path) -> None:
    mixed, hard = (interpret(path, [world.data], llms=[world.two], top=2, limit=2) for path in (moved, spelled))
    for one, two in zip(mixed.readings, hard.readings, strict=True):
        assert (one.nearest == two.nearest).all()


def test_stage_2_trains_llm_on_spelled_tokens_but_not_the_adapter(world: World, spelled: Path, tmp_path: Path) -> None:
    changes = {"connector": None, "hidden_width": None, "shared": None, "llm": world.two, "adapter": str(spelled)}
    recipe = world.recipe(**changes, steps=1, train_llm="full", train_adapter=False)
    assert train(recipe, tmp_path / "llm").caption_loss is not None
    with pytest.raises(VocabkitError, match="spelled out have no gradient"):
        train(world.recipe(**changes, steps=1), tmp_path / "adapter")
    words_alone = world.recipe(**changes, word_steps=1, word_weight=0.0, steps=None, epochs=0)
    assert train(words_alone, tmp_path / "words").word_loss is not None


def test_head_starts_from_the_labels_of_the_vision_model(world: World, tmp_path: Path) -> None:
    """Without a step; names that are no rows are left out."""
    vision = whole_clip(tmp_path / "clip")
    byte_tokenizer().save_pretrained(vision)  # without a padding token
    pictures = [picture for sample in read_llava(world.data) for picture in sample.images]
    encoder = open_vision(str(vision), layer=-1)
    cache_features(encoder, pictures, tmp_path / "features")
    names = tmp_path / "names.txt"
    names.write_text("red\nxylophone\nblue\n")
    settings = {
        "connector": "softmax",
        "features": str(tmp_path / "features"),
        "hidden_width": 64,
        "epochs": 0,
        "steps": 0,
    }
    recipe = world.recipe(**settings, start_from_labels=str(names))
    trained = train(recipe, tmp_path / "out")
    assert (trained.steps, trained.names_found, trained.names) == (0, 2, 3)
    adapter = load_adapter(trained.adapter)
    assert isinstance(adapter, LangBridgeAdapter)
    patches = torch.cat([open_features(tmp_path / "features")[picture.key] for picture in pictures]).float()
    weight, bias = label_scores(str(vision), -1, ["red", "xylophone", "blue"], patches)
    red, blue = (list(adapter.shared).index(word) for word in (b" red", b" blue"))
    scores = adapter.coefficients(patches).log()
    expected = patches @ (weight[0] - weight[2]) + bias[0] - bias[2]
    torch.testing.assert_close(scores[:, red] - scores[:, blue], expected, rtol=1e-3, atol=1e-3)
    for few, found in (("xylophone\n", "none"), ("xylophone\nred\n", "only one")):
        names.write_text(few)
        with pytest.raises(VocabkitError, match=rf"{found} of its names is a row of the shared vocabulary; build that"):
            train(recipe, tmp_path / "again")


def test_mlp_in_closed_form_gives_the_mean_embedding_of_captions(world: World, tmp_path: Path) -> None:
    recipe = world.recipe(connector="mlp", shared=None, hidden_width=64, least_squares=True, steps=0, epochs=0)
    trained = train(recipe, tmp_path / "out")
    assert trained.steps == 0
    llm, features, mlp = load_llm(world.one), open_features(world.features), load_adapter(trained.adapter)
    table = llm.model.get_input_embeddings().weight
    samples = list(read_llava(world.data))
    tokens = [llm.tokenizer.encode(f" {sample.turns[0].answer}", add_special_tokens=False) for sample in samples]
    captions = torch.stack([table[ids].mean(dim=0) for ids in tokens])
    patches = torch.stack([features[sample.images[0].key].float().mean(dim=0) for sample in samples])
    own = torch.cdist(mlp(patches), captions)  # (S, S)
    same = torch.tensor([[a.turns == b.turns for b in samples] for a in samples])
    assert own[same].max() < own[~same].min()
