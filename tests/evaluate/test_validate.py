"""A validation shows an LLM visual tokens from several sources and says what each is worth."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from command_line import Done, error_of, vocabkit_here
from rich.console import Console
from small_world import World, write_data

from vocabkit.adapter.config import AdapterConfig
from vocabkit.adapter.model import LangBridgeAdapter, load_adapter
from vocabkit.adapter.words import image_words
from vocabkit.data.llava import read_llava
from vocabkit.errors import VocabkitError
from vocabkit.evaluate.losses import Estimate, EvaluateOptions, measure, prepare
from vocabkit.evaluate.validate import (
    FileOptions,
    Result,
    Validation,
    derangement,
    mean_embedding,
    other_images,
    random_vocabulary,
    validate,
    validate_files,
)
from vocabkit.llm.load import load_llm
from vocabkit.llm.lvlm import LVLM
from vocabkit.report.adapters import validation_report
from vocabkit.shared.align_words import align_words
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.tokenizer.catalog import resolve
from vocabkit.train.train import train
from vocabkit.transfer.transfer import open_target, transfer
from vocabkit.vision.encoder import open_vision
from vocabkit.vision.features import open_features
from vocabkit_cli.show import SCHEMA


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters trained with LLM one and moved to two, and natives of two."""
    folder = tmp_path_factory.mktemp("trained")
    for name, changes in {
        "source": {},
        "source-mlp": {"connector": "mlp"},
        "native": {"llm": world.two},
        "mlp": {"llm": world.two, "connector": "mlp"},
    }.items():
        train(world.recipe(**changes, steps=30), folder / name)
    adapter = load_adapter(folder / "source" / "adapter")
    assert isinstance(adapter, LangBridgeAdapter)
    transfer(adapter, open_target(world.two))[0].save(folder / "transferred" / "adapter")
    return {name.name: name / "adapter" for name in folder.iterdir()}


def words(world: World, trained: dict[str, Path], *names: str) -> list[str | Path]:
    """Arguments of the command for LLM two."""
    plain: list[str | Path] = ["validate", world.data, "--llm", world.two, "--features", world.features]
    plain += ["--template", "completion"]
    return plain + [word for name in names for word in ("--adapter", f"{name}={trained[name]}")]


@pytest.fixture(scope="module")
def whole(world: World, trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    """A validation of everything by the command, with its JSON file."""
    out = tmp_path_factory.mktemp("whole") / "results.json"
    more = ["--rival", trained["source-mlp"], "--rival-llm", world.one, "--answers", "--out", out, "--json"]
    return vocabkit_here(out.parent, *words(world, trained, "transferred", "native", "mlp"), *more), out


# ---- the whole of it ---------------------------------------------------------------------------------------------


def test_command_measures_every_condition(whole: tuple[Done, Path]) -> None:
    done, out = whole
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == json.loads(out.read_text())
    assert json.loads(done.stdout)["schema"] == SCHEMA
    found = json.loads(done.stdout)["data"]["validation"]
    assert list(found["caption_loss"]) == [
        "blind", "transferred", "transferred shuffled", "transferred random vocabulary", "native", "native shuffled",
        "native random vocabulary", "mlp", "mlp shuffled", "ridge", "procrustes",
    ]  # fmt: skip
    assert (found["llm"], found["samples"], found["left_out"], found["visual_tokens"]) == ("two", 12, 0, 16)
    assert all(each["low"] <= each["value"] <= each["high"] for each in found["caption_loss"].values())


def test_native_adapter_beats_blind(whole: tuple[Done, Path]) -> None:
    loss = {name: each["value"] for name, each in validation(whole)["caption_loss"].items()}
    assert loss["native"] < loss["blind"]
    assert loss["mlp"] < loss["blind"]


def test_retention_is_relative_to_native_and_to_mlp(whole: tuple[Done, Path]) -> None:
    found = validation(whole)
    loss = {name: each["value"] for name, each in found["caption_loss"].items()}
    assert set(found["retention"]) == set(loss) - {"blind", "native"}
    assert set(found["of_mlp"]) == set(loss) - {"blind", "mlp"}
    for name, each in found["retention"].items():
        assert each["value"] == pytest.approx((loss["blind"] - loss[name]) / (loss["blind"] - loss["native"]))
    assert found["of_mlp"]["native"]["value"] == pytest.approx(1 / found["retention"]["mlp"]["value"])


def validation(whole: tuple[Done, Path]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(whole[1].read_text())["data"]["validation"]
    return found


def test_every_adapter_is_asked(whole: tuple[Done, Path]) -> None:
    answers = json.loads(whole[1].read_text())["data"]["answers"]
    assert list(answers) == ["transferred", "native", "mlp"]
    for each in answers.values():
        assert 0 <= each["yes_no"]["low"] <= each["yes_no"]["value"] <= each["yes_no"]["high"] <= 1
        assert (each["named"]["questions"], each["yes_no"]["questions"], each["counted"]) == (12, 24, None)


def test_report_fits_the_width_and_matches_the_json(world: World, trained: dict[str, Path], tmp_path: Path) -> None:
    done = vocabkit_here(tmp_path, *words(world, trained, "native"), "--limit", "8", "--batch", "3", "--out", "r.json")
    lines = done.stdout.splitlines()
    assert lines[0] == "two on data: 8 samples, 16 visual tokens"
    assert lines[-1] == "written: r.json"
    assert any(line.startswith("native  ") for line in lines[-3:-1])  # a long verdict is wrapped
    loss = json.loads((tmp_path / "r.json").read_text())["data"]["validation"]["caption_loss"]["native"]["value"]
    assert any(line.split()[:2] == ["native", f"{loss:.3f}"] for line in lines)


def test_yes_ratio_is_separate_from_accuracy(whole: tuple[Done, Path]) -> None:
    found, lines = shown(whole)
    start = next(number for number, line in enumerate(lines) if line.startswith("right answers"))
    labels = [line[:15].strip() for line in lines[start:]]
    assert labels[1:5] == ["names in full", "names by noun", "yes or no", "yes above no"]
    start = lines.index("half is right") + 1
    said = [answers.said_yes for answers in found.answers.values()]
    assert [word for word in lines[start + 1].split() if "." in word] == [
        f"{share.value:.1%}" for share in said if share
    ]


def shown(whole: tuple[Done, Path]) -> tuple[Result, list[str]]:
    """The results, and the lines that report them."""
    found = msgspec.convert(json.loads(whole[1].read_text())["data"], Result)
    written = io.StringIO()
    Console(file=written, width=80).print(validation_report("data", found))
    return found, written.getvalue().splitlines()


def test_report_has_intervals_and_question_counts(whole: tuple[Done, Path]) -> None:
    found, lines = shown(whole)
    shares = [answers.yes_no for answers in found.answers.values()]
    cells = [f"{share.value:.1%} ({100 * share.low:.0f} to {share.high:.0%})" for share in shares if share]
    assert len(cells) == 3
    line = next(line for line in lines if line.startswith("yes or no  "))
    assert re.split("  +", line) == ["yes or no", "24", *cells]
    assert "by chance  yes or no 50%, yes above no 50%" in lines


def test_questions_that_tell_nothing_have_no_row(whole: tuple[Done, Path]) -> None:
    found, lines = shown(whole)
    assert not any(line.startswith("count of four") for line in lines)  # nothing to count in this data
    one = next(iter(found.answers.values()))
    always = dataclasses.replace(one, said_yes=dataclasses.replace(one.said_yes, value=1.0, low=1.0, high=1.0))
    written = io.StringIO()
    report = validation_report("data", dataclasses.replace(found, answers={"one": always}))
    Console(file=written, width=80).print(report)
    assert "yes or no " not in written.getvalue().split("asked yes or no")[0]
    assert "it always says yes" in " ".join(written.getvalue().split())


def test_report_shows_captions_beside_the_right_ones(whole: tuple[Done, Path]) -> None:
    found, lines = shown(whole)
    for name, answers in found.answers.items():
        start = lines.index(f"first pictures, {name}")
        first = answers.captions[0]
        assert lines[start + 1].split() == ["shows", *first.shows.split()]
        assert lines[start + 2].split()[:2] == ["two", "says"]
        assert len(answers.captions) == found.validation.samples


def test_controls_follow_their_adapter(whole: tuple[Done, Path]) -> None:
    found, lines = shown(whole)
    start = next(number for number, line in enumerate(lines) if line.startswith("blind"))
    labels = [line[:19].rstrip() for line in lines[start : start + len(found.validation.caption_loss)]]
    assert labels == [
        "blind", "transferred", "  shuffled", "  random vocabulary", "native", "  shuffled", "  random vocabulary",
        "mlp", "  shuffled", "ridge", "procrustes",
    ]  # fmt: skip


def test_gains_are_differences_of_the_losses(whole: tuple[Done, Path]) -> None:
    found = validation(whole)
    loss = {name: each["value"] for name, each in found["caption_loss"].items()}
    assert list(found["gain"]) == ["transferred", "native", "mlp"]
    assert found["gain"]["native"]["value"] == pytest.approx(loss["blind"] - loss["native"])
    of_picture = found["gain_of_picture"]
    assert list(of_picture) == ["transferred", "native", "mlp"]
    for name, each in of_picture.items():
        assert each["value"] == pytest.approx(loss[f"{name} shuffled"] - loss[name])


def test_results_do_not_depend_on_adapter_order(world: World, trained: dict[str, Path]) -> None:
    samples, features = list(read_llava(world.data)), open_features(world.features)
    adapters = {name: load_adapter(trained[name]) for name in ("transferred", "native", "mlp")}
    one, other = (
        validate(load_llm(world.two), samples, features, order, EvaluateOptions(template="completion"))
        for order in (adapters, dict(reversed(adapters.items())))
    )
    assert one == other
    assert lines_of(one)[-3:] == lines_of(other)[:-4:-1]


def lines_of(found: Validation) -> list[str]:
    """The report, with its verdict on one line."""
    console = Console(width=200, file=io.StringIO())
    console.print(validation_report("data", Result(found, {})))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("names", [("blind",), ("a", "a shuffled"), ("a random vocabulary", "a")])
def test_duplicate_condition_name_raises(world: World, trained: dict[str, Path], names: tuple[str, ...]) -> None:
    adapters = dict.fromkeys(names, load_adapter(trained["native"]))
    samples, features = list(read_llava(world.data)), open_features(world.features)
    with pytest.raises(VocabkitError, match=r"two conditions are called '.*'; give the adapter another name"):
        validate(load_llm(world.two), samples, features, adapters, EvaluateOptions(template="completion"))


@pytest.mark.parametrize(
    ("gain", "of_picture", "says"),
    [
        ((0.5, 0.4, 0.6), (0.3, 0.2, 0.4), "0.50 nats better than blind, 80% of what native gains, 0.30 better than"),
        ((0.5, 0.4, 0.6), (0.1, -0.1, 0.3), "no better than with the tokens of other pictures: it only knows the form"),
        ((0.5, -0.1, 1.1), (0.3, 0.2, 0.4), "not certainly better than blind"),
        ((-0.5, -0.6, -0.4), (0.3, 0.2, 0.4), "worse than blind"),
    ],
)
def test_report_ends_with_a_verdict(
    gain: tuple[float, float, float], of_picture: tuple[float, float, float], says: str
) -> None:
    found = Validation(
        "llm", 9, 0, 4, "plain", {"blind": Estimate(3, 2, 4), "moved": Estimate(2, 1, 3)},
        retention={"moved": Estimate(0.8, 0.7, 0.9)}, of_mlp={}, gain={"moved": Estimate(*gain)},
        gain_of_picture={"moved": Estimate(*of_picture)},
    )  # fmt: skip
    last = lines_of(found)[-1]
    assert last.startswith("moved  ")
    assert says in last


def test_few_pictures_give_no_intervals_and_no_verdict(world: World, trained: dict[str, Path]) -> None:
    llm, features, samples = load_llm(world.two), open_features(world.features), list(read_llava(world.data))
    adapters, options = {"native": load_adapter(trained["native"])}, EvaluateOptions(template="completion")
    for few, pictures in ((samples[:1] * 9, 1), (samples[:7] * 2, 7)):
        found = validate(llm, few, features, adapters, options)
        assert found.pictures == pictures
        lines = lines_of(found)
        assert any("too few (fewer than 8) for intervals and a verdict" in line for line in lines)
        assert ("not shuffled: there is no other picture to show" in lines) == (pictures == 1)
        assert not re.search(r"\d to |95%|than blind", " ".join(lines))
    assert "better than blind" in lines_of(validate(llm, samples[:8], features, adapters, options))[-1]


def test_data_and_features_are_read_before_the_llm_is_loaded(
    world: World, trained: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "gone.json").write_text(world.data.read_text().replace(".png", ".jpg"))
    options, seen = FileOptions(features=world.features, device="cpu"), list[str]()
    for file, problem in (("empty", "no samples"), ("gone", "none of 12 samples can be used; the first, 0: no feat")):
        data = [str(world.data), str(tmp_path / f"{file}.json")]
        with pytest.raises(VocabkitError, match=rf"{file}\.json: {problem}"):
            validate_files(
                data, world.two, {"x": str(trained["native"])}, options, progress=lambda *s: seen.append(s[0])
            )
    assert seen == []


@pytest.mark.parametrize("name", ["native", "mlp"])
def test_share_of_a_gain_needs_a_gain(world: World, trained: dict[str, Path], name: str) -> None:
    """Of two losses, each above blind, the larger one would be the better share."""
    llm = load_llm(world.two)
    samples, features = list(read_llava(world.data)), open_features(world.features)
    worse = load_adapter(trained["mlp"])
    torch.nn.init.normal_(worse.linear_2.bias, std=10)
    adapters = {"moved": load_adapter(trained["transferred"]), name: worse}
    found = validate(llm, samples, features, adapters, EvaluateOptions(template="completion"))
    assert found.caption_loss[name].value > found.caption_loss["blind"].value
    assert (found.retention, found.of_mlp) == ({}, {})
    assert f"no share of the gain of {name}, which is not certainly better than blind" in lines_of(found)


def test_control_has_a_name_of_its_own(world: World, trained: dict[str, Path]) -> None:
    samples, features = list(read_llava(world.data)), open_features(world.features)
    moved = load_adapter(trained["transferred"])
    for adapters in ({"words": moved, "words as text": moved}, {"words as text": moved, "words": moved}):
        with pytest.raises(VocabkitError, match="two conditions are called 'words as text'"):
            validate(load_llm(world.two), samples, features, adapters, EvaluateOptions(template="completion"))


def test_results_feed_the_comparison(whole: tuple[Done, Path]) -> None:
    done = vocabkit_here(whole[1].parent, "compare", "mlp=results.json", "transferred=results.json", "--json")
    found = json.loads(done.stdout)["connectors"]
    loss = {name: each["value"] for name, each in validation(whole)["caption_loss"].items()}
    assert found["mlp"]["data loss"]["value"] == loss["mlp"]
    assert found["transferred"]["data loss"]["change"] == pytest.approx(loss["transferred"] / loss["mlp"] - 1)


def test_files_with_equal_names_are_told_apart(world: World, trained: dict[str, Path], tmp_path: Path) -> None:
    write_data(tmp_path / "data.json")
    found = vocabkit_here(tmp_path, *words(world, trained), "data.json", "--json")
    assert list(json.loads(found.stdout)) == ["schema", str(world.data), "data.json"]


def test_samples_without_features_are_counted(world: World, tmp_path: Path) -> None:
    write_data(tmp_path / "data.json", repeats=4)
    samples = list(read_llava(tmp_path / "data.json"))
    found = validate(
        load_llm(world.one), samples, open_features(world.features), {}, EvaluateOptions(template="completion")
    )
    assert (found.samples, found.left_out, found.pictures) == (12, 4, 12)
    assert found.first_left_out == "12: no features of 12.png"
    assert "4 samples left out; the first, 12: no features of 12.png" in lines_of(found)
    assert list(found.caption_loss) == ["blind"]


# ---- the conditions ----------------------------------------------------------------------------------------------


def test_blind_token_is_the_mean_embedding_of_the_tokenizers_ids(world: World) -> None:
    llm = load_llm(world.one)
    table = llm.model.get_input_embeddings().weight
    torch.testing.assert_close(mean_embedding(llm), table[: len(llm.vocabulary)].mean(dim=0))


@pytest.mark.parametrize("count", [2, 3, 10, 1001])
@pytest.mark.parametrize("seed", [0, 1])
def test_derangement_leaves_nothing_in_place(count: int, seed: int) -> None:
    found = derangement(count, seed)
    assert sorted(found.tolist()) == list(range(count))
    assert (found != np.arange(count)).all()


def test_shuffled_shows_other_images_even_if_samples_share_one() -> None:
    keys = ["a", "b", "a", "c", "b", "a"]
    others = other_images(keys, seed=0)
    assert others is not None
    assert all(keys[other] != key for key, other in zip(keys, others.tolist(), strict=True))
    assert other_images(["a", "a"], seed=0) is None


def test_random_vocabulary_permutes_embedding_rows_only(world: World, trained: dict[str, Path]) -> None:
    llm, adapter = load_llm(world.one), load_adapter(trained["source"])
    assert isinstance(adapter, LangBridgeAdapter)
    held, _ = prepare(llm, list(read_llava(world.data)), open_features(world.features), "completion")
    tokens = torch.stack(list(random_vocabulary(LVLM(llm, adapter), held, seed=0)(torch.arange(3))))
    features = torch.stack([held.features[key].float() for key in held.keys[:3]])
    rows = llm.rows(adapter.shared)
    permuted = rows[torch.from_numpy(np.random.default_rng(0).permutation(len(rows)))]
    expected = adapter.coefficients(features) @ permuted
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(tokens, adapter(features, rows))


def test_features_move_to_the_device_of_the_rows(
    world: World, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = load_llm(world.one)
    held, _ = prepare(llm, list(read_llava(world.data)), open_features(world.features), "completion")
    lvlm = LVLM(llm, load_adapter(trained["source"])).to("meta")
    monkeypatch.setattr(LangBridgeAdapter, "forward", lambda self, features, rows: features)
    assert {tokens.device.type for tokens in random_vocabulary(lvlm, held, seed=0)(torch.arange(3))} == {"meta"}


def test_loss_equals_that_of_the_visual_tokens_for_each_kind_of_adapter(world: World, trained: dict[str, Path]) -> None:
    """A transferred adapter and the untransferred one read by LLM two give the same losses."""
    llm, features = load_llm(world.two), open_features(world.features)
    samples = list(read_llava(world.data))
    moved, _ = transfer(load_adapter(trained["source"]), open_target(world.two))  # type: ignore[arg-type]
    both = {"transferred": moved, "as it is": load_adapter(trained["source"])}
    found = validate(llm, samples, features, both, EvaluateOptions(template="completion")).caption_loss
    assert found["transferred"].value == pytest.approx(found["as it is"].value, rel=1e-5)
    held, _ = prepare(llm, samples, features, "completion")
    own = measure(llm, held, lambda numbers: held.visual_tokens(moved, numbers, None))
    assert found["transferred"].value == pytest.approx(own.mean, rel=1e-5)


# ---- pictures without features -----------------------------------------------------------------------------------


def validation_of_pictures(folder: Path, world: World, adapter: Path, *more: str) -> dict[str, Any]:
    """A validation with LLM one of the pictures themselves."""
    done = vocabkit_here(
        folder, "validate", world.data, "--llm", world.one, "--adapter", f"x={adapter}", "--template", "completion",
        "--device", "cpu", "--json", *more,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["data"]
    return found


def test_pictures_give_the_losses_of_their_features(world: World, trained: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(world.data.parent, tmp_path / "there")
    here = dataclasses.replace(world, data=tmp_path / "there" / "data.json")
    (tmp_path / "there" / "5.png").write_bytes(b"broken")
    (tmp_path / "there" / "features").rename(tmp_path / "unused")
    computed = validation_of_pictures(tmp_path, here, trained["source"])["validation"]
    assert (computed["samples"], computed["left_out"], computed["visual_tokens"]) == (11, 1, 16)
    samples = [sample for sample in read_llava(here.data) if sample.id != "5"]
    adapters = {"x": load_adapter(trained["source"])}
    cached = validate(
        load_llm(world.one), samples, open_features(world.features), adapters, EvaluateOptions(template="completion")
    )
    for name, loss in cached.caption_loss.items():
        assert computed["caption_loss"][name]["value"] == pytest.approx(loss.value, rel=1e-3)  # float16 in the cache


def test_softmax_adapter_of_tiles_is_measured_and_asked(world: World, tmp_path: Path) -> None:
    shared, vision = open_shared(world.shared), open_vision(str(world.vision))
    config = AdapterConfig.of(
        shared, head="softmax", vision_width=vision.width, hidden_width=16, llm="one", vision_model=str(world.vision),
        vision_aspect_ratio="anyres", vision_grid_pinpoints=((28, 56), (56, 28)), newline_width=24,
    )  # fmt: skip
    adapter = LangBridgeAdapter(config, shared)
    assert adapter.image_newline is not None
    torch.nn.init.normal_(adapter.image_newline)
    adapter.save(tmp_path / "tiles")
    found = validation_of_pictures(tmp_path, world, tmp_path / "tiles", "--answers", "--limit", "8", "--batch", "3")
    assert list(found["validation"]["caption_loss"]) == ["blind", "x", "x as text", "x shuffled", "x random vocabulary"]
    assert found["answers"]["x"]["yes_no"]["questions"] == 16
    assert found["validation"]["visual_tokens"] == 16 + 16 + 4  # whole, in one tile, a newline for each of its rows


def test_without_features_or_adapter_raises(world: World, trained: dict[str, Path], tmp_path: Path) -> None:
    plain = ("validate", world.data, "--llm", world.one)
    assert "give --features, or an --adapter with whose vision" in error_of(vocabkit_here(tmp_path, *plain))
    both = ("--features", world.features, "--vision", world.vision)
    assert "--vision computes the pictures that --features has already" in error_of(
        vocabkit_here(tmp_path, *plain, *both)
    )


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--adapter", "x"], "--adapter 'x' is not of the form NAME=VALUE"),
        (["--adapter", "x=nowhere"], "nowhere: no such file or folder, and no hub id"),
        (["--template", "haiku"], "--template 'haiku': choose plain, completion or chat"),
        (["--features", "nowhere"], "nowhere"),
        (["--llm", "nowhere"], "nowhere"),
        (["--device", "abacus"], "--device 'abacus': can't be used here"),
        (["--out", "missing/results.json"], "missing/results.json: no folder "),
        (
            ["--rival", "MLP"],
            "--rival (an MLP) and --rival-llm (the LLM that it was trained with) must be given together",
        ),
        (["--rival-llm", "ONE"], "must be given together"),
        (["--rival", "SOURCE", "--rival-llm", "ONE"], "not an MLP projector; --rival takes an MLP that was trained"),
        (["--rival", "MLP", "--rival-llm", "ONE"], "--rival needs an --adapter with a shared vocabulary"),
        (
            ["--rival", "MLP", "--rival-llm", "TWO", "--adapter", "a=NATIVE"],
            "its embeddings have width 32, but the adapter gives visual tokens of width 24 for one",
        ),
        (
            ["--rival", "MLP", "--rival-llm", "one=PATH", "--adapter", "a=NATIVE"],
            "its tokenizer has other ids than one has in the shared vocabulary",
        ),
        (
            ["--rival", "MLP", "--rival-llm", "three=PATH", "--adapter", "a=NATIVE"],
            "three is not in this shared vocabulary; it holds one, two",
        ),
        (["nowhere.json"], "nowhere.json: no such file"),
        (["--images", "nowhere"], "nowhere: no such folder"),
        (["--adapter", "x=MLP"], "visual tokens of width 24 for one"),
    ],
)
def test_mismatched_input_raises(
    world: World, trained: dict[str, Path], tmp_path: Path, more: list[str], message: str
) -> None:
    names = {"ONE": world.one, "TWO": world.two, "MLP": str(trained["source-mlp"]), "SOURCE": str(trained["source"])}
    names |= {"NATIVE": str(trained["native"]), "PATH": world.two.partition("=")[2]}
    for name, path in names.items():
        more = [word.replace(name, path) for word in more]
    assert message in error_of(vocabkit_here(tmp_path, *words(world, trained), *more))
    assert list(tmp_path.iterdir()) == []


def test_adapter_for_other_features_raises(world: World, trained: dict[str, Path], tmp_path: Path) -> None:
    features = open_features(world.features)
    features.encoder["width"] = 5
    samples = list(read_llava(world.data))
    with pytest.raises(VocabkitError, match=r"gives features of width 5, but the adapter takes 32; use"):
        validate(
            load_llm(world.two),
            samples,
            features,
            {"native": load_adapter(trained["native"])},
            EvaluateOptions(template="plain"),
        )


def test_unusable_samples_raise(world: World, tmp_path: Path) -> None:
    records = json.loads(world.data.read_text())
    for record in records:
        record["image"] = "x" + record["image"]
    (tmp_path / "data.json").write_text(json.dumps(records))
    samples = list(read_llava(tmp_path / "data.json"))
    with pytest.raises(VocabkitError, match=r"none of 12 samples can be used; the first, 0: no features of x0.png"):
        validate(load_llm(world.one), samples, open_features(world.features), {}, EvaluateOptions(template="plain"))


def test_progress_names_the_file_and_the_condition(world: World, trained: dict[str, Path]) -> None:
    seen: list[tuple[str, int, int | None]] = []
    options = FileOptions(features=str(world.features), template="completion", limit=2, device="cpu")
    adapters = {"x": str(trained["transferred"])}
    validate_files([str(world.data)], world.two, adapters, options, progress=lambda *step: seen.append(step))
    conditions = ("blind", "x", "x shuffled", "x random vocabulary")
    loading = (f"loading {world.two}", 0, None)
    assert seen == [loading, *((f"data: {condition}", 2, 2) for condition in conditions)]


def test_words_as_text_are_a_control_of_softmax_heads(world: World, tmp_path: Path) -> None:
    shared = tmp_path / "words.arrow"
    align_words([resolve(world.one).vocabulary, resolve(world.two).vocabulary], [world.data]).save(shared)
    recipe = world.recipe(connector="softmax", shared=str(shared), word_steps=20, word_batch=12, epochs=0, steps=0)
    adapter = load_adapter(train(recipe, tmp_path / "out").adapter)
    assert isinstance(adapter, LangBridgeAdapter)
    llm, features, samples = load_llm(world.one), open_features(world.features), list(read_llava(world.data))
    found = validate(llm, samples, features, {"head": adapter}, EvaluateOptions(template="completion"))
    assert list(found.caption_loss) == ["blind", "head", "head as text", "head shuffled", "head random vocabulary"]
    nats, count = 0.0, 0
    for sample in samples:
        words = ", ".join(word.text for word in image_words(adapter, features[sample.images[0].key].float()))
        (turn,) = sample.turns
        asked, answer = (
            llm.tokenizer.encode(text, add_special_tokens=False)
            for text in (turn.question.replace("<image>", words), f" {turn.answer}")
        )
        ids = torch.tensor([asked + answer])
        scores = llm.model(ids).logits[0, len(asked) - 1 : -1].log_softmax(dim=-1)  # (A, V)
        nats -= float(scores.gather(1, ids[0, len(asked) :, None]).sum())
        count += len(answer)
    assert found.caption_loss["head as text"].value == pytest.approx(nats / count, rel=1e-4)
    plain = validate(llm, samples, features, {"head": adapter}, EvaluateOptions(template="plain"))
    assert "head as text" not in plain.caption_loss
