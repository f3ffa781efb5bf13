"""A recipe is read from TOML, and whatever is wrong with it is one line that names the file and the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import error_of, vocabkit_here

from vocabkit.errors import VocabkitError
from vocabkit.train.recipe import Recipe, read_recipe

SOUND = {"data": '["a.json"]', "llm": '"smollm2"', "features": '"features"', "shared": '"shared.arrow"'}


def written(folder: Path, **fields: str) -> Path:
    """A recipe file; a field that is empty is left out."""
    path = folder / "recipe.toml"
    path.write_text("\n".join(f"{name} = {value}" for name, value in (SOUND | fields).items() if value))
    return path


def test_a_file_is_a_recipe(tmp_path: Path) -> None:
    path = written(tmp_path, vision_pool="[4, 4]", steps="30", learning_rate="1", connector='"softmax"')
    assert read_recipe(path) == Recipe(
        data=("a.json",), llm="smollm2", features="features", shared="shared.arrow", vision_pool=(4, 4), steps=30,
        learning_rate=1.0, connector="softmax",
    )  # fmt: skip


def test_new_adapter_gets_a_softmax_head_and_word_steps() -> None:
    plain: dict[str, Any] = {"data": ("a.json",), "llm": "smollm2", "features": "features", "shared": "shared.arrow"}
    assert (Recipe(**plain).connector, Recipe(**plain).steps_on_words) == ("softmax", 1500)
    assert Recipe(**plain, word_steps=7).steps_on_words == 7
    assert Recipe(**plain, connector="linear").steps_on_words == 0
    assert Recipe(**plain, connector="mlp").steps_on_words == 0
    assert Recipe(**plain, adapter="trained").steps_on_words == 0
    assert Recipe(**plain, adapter="trained", train_adapter=False, train_llm="lora").steps_on_words == 0


def test_settings_override_the_file(tmp_path: Path) -> None:
    settings = ["steps=5", "llm=gemma3=/models/gemma", 'data=["b.json", "c.json"]', "train_adapter=true", "warmup=0.5"]
    found = read_recipe(written(tmp_path, steps="30"), settings)
    assert (found.steps, found.llm, found.data) == (5, "gemma3=/models/gemma", ("b.json", "c.json"))
    assert (found.train_adapter, found.warmup) == (True, 0.5)


def test_setting_adds_a_missing_field(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, llm=""), ["llm=qwen2"]).llm == "qwen2"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": '"many"'}, 'steps is "many": must be a whole number'),
        ({"steps": "1.5"}, "steps is 1.5: must be a whole number"),
        ({"steps": "-1"}, "steps is -1: must not be negative"),
        ({"steps": "true"}, "steps is true: must be a whole number"),
        ({"data": '"a.json"'}, 'data is "a.json": must be a list of strings, as in ["a", "b"]'),
        ({"data": "[]"}, "data is empty"),
        ({"data": "[1]"}, 'data is [1]: must be a list of strings, as in ["a", "b"]'),
        ({"llm": ""}, "missing required field `llm`; add it to the file or `settings`"),
        ({"learning_rat": "1"}, "unknown field 'learning_rat'; did you mean learning_rate or "),
        ({"learning_rate": "0.0"}, "learning_rate is 0.0: must be positive"),
        ({"learning_rate": "nan"}, "learning_rate is nan: must be positive"),
        ({"learning_rate": "inf"}, "learning_rate is inf: must be positive"),
        ({"weight_decay": "nan"}, "weight_decay is nan: must not be negative"),
        ({"weight_decay": "inf"}, "weight_decay is inf: must be finite"),
        ({"warmup": "1.5"}, "warmup is 1.5: must be a share of the steps, from 0 to 1"),
        ({"batch": "0"}, "batch is 0: must be positive"),
        ({"epochs": "-1"}, "epochs is -1.0: must not be negative"),
        (
            {"steps": "0", "epochs": "0", "word_steps": "0"},
            "steps, epochs and word_steps are all 0: nothing to do",
        ),
        ({"max_tokens": "0"}, "max_tokens is 0: must be positive"),
        ({"checkpoint_every": "0"}, "checkpoint_every is 0: must be positive"),
        ({"micro_batch": "64"}, "micro_batch is 64: must be between 1 and batch, 32"),
        ({"micro_batch": "0"}, "micro_batch is 0: must be between 1 and batch, 32"),
        ({"connector": '"convolution"'}, 'connector is "convolution": must be linear, softmax or mlp'),
        ({"template": '"haiku"'}, 'template is "haiku": must be plain, completion or chat'),
        ({"precision": '"float16"'}, 'precision is "float16": must be float32 or bfloat16'),
        ({"train_llm": '"some"'}, 'train_llm is "some": must be no, lora or full'),
        ({"vision_pool": "[4]"}, "vision_pool is [4]: must be two whole numbers, as in [4, 4]"),
        ({"features": ""}, "give features (of `vocabkit features`) or vision (a vision model)"),
        ({"shared": ""}, "a new adapter needs its shared vocabulary"),
        ({"word_steps": "5", "connector": '"linear"'}, "the word loss needs a softmax head; the connector is linear"),
        ({"word_weight": "0.5", "connector": '"mlp"'}, "the word loss needs a softmax head; the connector is mlp"),
        ({"word_steps": "5", "connector": '"softmax"', "train_llm": '"full"'}, "word_steps do not train the LLM"),
        (
            {"word_steps": "5", "connector": '"softmax"', "train_llm": '"full"', "train_adapter": "false"},
            "the word loss trains the adapter",
        ),
        ({"word_steps": "-1"}, "word_steps is -1: must not be negative"),
        ({"temperature": "2.0", "connector": '"linear"'}, "temperature is 2.0: must be 1 without a softmax head"),
        (
            {"start_from_embeddings": "true", "connector": '"mlp"'},
            "start_from_embeddings needs a new adapter with a softmax head",
        ),
        (
            {"start_from_labels": '"names.txt"', "connector": '"linear"'},
            "start_from_labels needs a new adapter with a softmax head",
        ),
        (
            {"start_from_embeddings": "true", "start_from_labels": '"names.txt"', "connector": '"softmax"'},
            "a head has one start: start_from_embeddings or start_from_labels",
        ),
        (
            {"least_squares": "true", "connector": '"softmax"'},
            "least_squares needs a new adapter whose connector is mlp",
        ),
        ({"train_adapter": "false", "word_steps": "0"}, "nothing is trained: set train_adapter or train_llm"),
        ({"seed": "-1"}, "seed is -1: must not be negative"),
        ({"prompt": '"What is this?"'}, "prompt: needs <image> exactly once, in place of the picture"),
    ],
)
def test_invalid_field_raises(tmp_path: Path, fields: dict[str, str], message: str) -> None:
    path = written(tmp_path, **fields)
    with pytest.raises(VocabkitError) as caught:
        read_recipe(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"steps", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        (b"steps = 1\nsteps = 2", "not TOML"),
        (b"'\\u001b[31m' = 1", "unknown field"),
        (b'llm = "\\u001b[31m"\ndata = ["a"]\nsteps = "\\u001b"', "must be a whole number"),
    ],
)
def test_invalid_recipe_raises(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "recipe.toml").write_bytes(content)
    with pytest.raises(VocabkitError, match=r"recipe.toml: ") as caught:
        read_recipe(tmp_path / "recipe.toml")
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps", "--set 'steps': must be NAME=VALUE"),
        ("stpes=5", "--set 'stpes=5': unknown field 'stpes'; did you mean steps"),
        ("colour=5", "--set 'colour=5': unknown field 'colour'; names are adapter, batch, "),
        ("=5", "--set '=5': unknown field ''; names are adapter, batch, "),
        ("steps=five", '--set: steps is "five": must be a whole number'),
        ("steps=-5", "--set: steps is -5: must not be negative"),
        ("connector=softmx", '--set: connector is "softmx": must be linear, softmax or mlp'),
        ("precision=bf16", '--set: precision is "bf16": must be float32 or bfloat16'),
        ("data=x.json", '--set: data is "x.json": must be a list of strings, as in ["a", "b"]'),
    ],
)
def test_invalid_setting_raises(tmp_path: Path, setting: str, message: str) -> None:
    path = written(tmp_path)
    assert message in error_of(vocabkit_here(tmp_path, "train", path, "--out", "out", "--set", setting))
    assert not (tmp_path / "out").exists()


def test_missing_recipe_raises(tmp_path: Path) -> None:
    assert error_of(vocabkit_here(tmp_path, "train", "recipe.toml", "--out", "out")) == "recipe.toml: no such file"


def test_recipes_in_the_docs_are_valid() -> None:
    recipes = list((Path(__file__).parents[2] / "docs" / "examples").glob("recipes/*.toml"))
    assert {path.stem for path in recipes} >= {"langbridge-stage1", "langbridge-stage2", "scenes"}
    for path in recipes:
        assert read_recipe(path).data
