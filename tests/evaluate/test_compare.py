"""vocabkit compare: connectors in rows, metrics in columns, each figure relative to the first row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import error_of, vocabkit, vocabkit_here

from vocabkit.errors import VocabkitError
from vocabkit.evaluate.compare import Metric, compare, read_results


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def lmms(**tasks: dict[str, Any]) -> dict[str, Any]:
    """A results file as lmms-eval writes it."""
    return {"results": tasks, "group_subtasks": {}, "configs": {"x": {"metric,none": 5}}, "n-shot": {"gqa": 0}}


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def ours(**losses: float) -> dict[str, Any]:
    """Results as `vocabkit validate --out` writes them."""
    validation = {
        "llm": "two",
        "caption_loss": {name: estimate(loss) for name, loss in losses.items()},
        "retention": {},
    }
    answers = {
        name: {"named": estimate(loss / 10) | {"questions": 60}, "name_chosen": None}
        for name, loss in losses.items()
        if name != "blind"
    }
    return {"rendering": {"validation": validation, "answers": answers}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with lmms-eval results of two connectors, and one vocabkit file of three."""
    gqa = {"alias": "gqa", "exact_match,none": 0.5, "exact_match_stderr,none": 0.01, "n": True}
    mme = {"mme_perception_score,none": 1500.0, "mme_cognition_score,strict": 300, "submission,none": None}
    written(tmp_path / "mlp.json", lmms(gqa=gqa, mme=mme))
    written(tmp_path / "bridge.json", lmms(gqa=gqa | {"exact_match,none": 0.505}, pope={"f1,none": 0.86}))
    written(tmp_path / "ours.json", ours(blind=6.0, transferred=4.0, native=3.0))
    return tmp_path


def test_lmms_eval_results_are_read_without_standard_errors(folder: Path) -> None:
    assert read_results(folder / "mlp.json", "any") == {
        "gqa exact_match": 0.5, "mme mme_perception_score": 1500.0, "mme mme_cognition_score strict": 300.0,
    }  # fmt: skip


def test_validation_results_are_those_of_the_named_connector(folder: Path) -> None:
    assert read_results(folder / "ours.json", "transferred") == {"rendering loss": 4.0, "rendering named": 0.4}
    assert read_results(folder / "ours.json", "blind") == {"rendering loss": 6.0}


def test_changes_are_relative_to_the_first_file(folder: Path) -> None:
    found = compare({"MLP": folder / "mlp.json", "LangBridge": folder / "bridge.json"})
    assert list(found.connectors) == ["MLP", "LangBridge"]
    assert found.metrics[0] == "gqa exact_match"
    assert found.connectors["MLP"]["gqa exact_match"] == Metric(0.5, None)
    assert found.connectors["LangBridge"]["gqa exact_match"].change == pytest.approx(0.01)
    assert found.connectors["LangBridge"]["pope f1"] == Metric(0.86, None)
    assert set(found.metrics) == {metric for figures in found.connectors.values() for metric in figures}


def test_change_from_zero_is_undefined_and_from_below_zero_keeps_its_sign(tmp_path: Path) -> None:
    one = written(tmp_path / "one.json", lmms(a={"zero,none": 0, "below,none": -2.0}))
    two = written(tmp_path / "two.json", lmms(a={"zero,none": 1, "below,none": -1.0}))
    found = compare({"one": one, "two": two}).connectors["two"]
    assert (found["a zero"].change, found["a below"].change) == (None, 0.5)


def test_table_is_laid_out_like_the_papers(folder: Path) -> None:
    done = vocabkit_here(folder, "compare", "MLP=mlp.json", "LangBridge=bridge.json")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    assert any(line[:2] == ["MLP", "0.5"] for line in lines)
    assert any(line[:3] == ["LangBridge", "0.505", "(+1.00%)"] for line in lines)
    assert all(len(line) <= 120 for line in done.stdout.splitlines())


def test_one_validation_file_gives_several_rows(folder: Path) -> None:
    done = vocabkit_here(folder, "compare", "native=ours.json", "transferred=ours.json", "blind=ours.json")
    assert [line.split() for line in done.stdout.splitlines()][-3:] == [
        ["native", "3", "0.3"],
        ["transferred", "4", "(+33.33%)", "0.4", "(+33.33%)"],
        ["blind", "6", "(+100.00%)", "-"],
    ]


def test_json_has_the_same_figures(folder: Path) -> None:
    found = json.loads(vocabkit_here(folder, "compare", "native=ours.json", "blind=ours.json", "--json").stdout)
    assert found["metrics"] == ["rendering loss", "rendering named"]
    assert found["connectors"]["blind"] == {"rendering loss": {"value": 6.0, "change": 1.0}}


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    written(tmp_path / "x.json", lmms(**{"\x1b[31mred": {"\x07bell,none": 1.0}}))
    done = vocabkit_here(tmp_path, "compare", "\x1bone=x.json", "two=x.json")
    assert done.returncode == 0
    assert done.stdout.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mlp.json"], "result 'mlp.json' is not of the form NAME=VALUE"),
        (["a=mlp.json", "a=mlp.json"], "result 'a=mlp.json' names 'a' a second time"),
        (["a=nowhere.json"], "nowhere.json: no such file"),
        (["a=text.json"], "text.json: not JSON"),
        (["a=deep.json"], "deep.json: not JSON"),
        (["a=list.json"], "list.json: no results of `vocabkit validate` or lmms-eval in it"),
        (["a=empty.json"], "empty.json: no results of"),
        (["mlp=ours.json"], "ours.json: 'mlp' is not among its results: 'blind, transferred, native'"),
        (["a=mlp.json", "native=ours.json"], "ours.json: no metric in common with mlp.json: here 'rendering loss, "),
    ],
)
def test_incomparable_files_raise(folder: Path, words: list[str], message: str) -> None:
    (folder / "text.json").write_bytes(b"\xff{")
    (folder / "deep.json").write_text("[" * 100_000)
    written(folder / "list.json", [1, {"results": 5}])
    written(folder / "empty.json", lmms(task={"alias": "task", "score,none": "N/A"}) | {"x": {"validation": []}})
    assert message in error_of(vocabkit_here(folder, "compare", *words))


def test_nothing_to_compare_raises() -> None:
    with pytest.raises(VocabkitError, match="nothing to compare"):
        compare({})


def test_compare_imports_no_torch(folder: Path) -> None:
    (folder / "torch.py").write_text("raise SystemExit('torch was imported')")
    done = vocabkit(folder, "compare", "native=ours.json", "blind=ours.json", PYTHONPATH=str(folder))
    assert (done.returncode, done.stderr) == (0, "")
