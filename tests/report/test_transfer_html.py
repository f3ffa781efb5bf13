"""check --html: a page with the proof and, on request, a validation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import Done, error_of, vocabkit_here
from hypothesis import given, settings
from hypothesis import strategies as st
from small_adapters import langbridge
from tiny_llms import random_rows, table_folder

pytest.importorskip("jinja2")

from vocabkit.evaluate.answers import Answers, Share
from vocabkit.evaluate.losses import Estimate
from vocabkit.evaluate.validate import Result, Validation
from vocabkit.report.as_json import write_json
from vocabkit.report.html.transfer import plot, read_validation

NAN = float("nan")
TO_LLAMA = ("--to", "llama3", "--weights", "llm")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter, an LLM's embedding table, and the adapter moved to it."""
    folder = tmp_path_factory.mktemp("moved")
    langbridge("softmax").save(folder / "adapter.pt")
    table_folder(folder / "llm", random_rows(128_256, 6))
    assert vocabkit_here(folder, "transfer", "adapter.pt", *TO_LLAMA, "--out", "moved").returncode == 0
    return folder


def result(*shares: Share | None, **figures: Estimate) -> Result:
    """A validation with these caption losses, and with answers, if any."""
    found = Validation("llama3", 10, 0, 4, "plain", figures, {"transferred": Estimate(NAN, NAN, NAN)}, {})
    return Result(found, {"transferred": Answers(*shares)} if shares else {})


def check(here: Path, *words: str | Path) -> Done:
    """`vocabkit check` of the moved adapter."""
    return vocabkit_here(here, "check", "moved", "adapter.pt", *TO_LLAMA, *words)


def test_page_has_proof_coverage_and_validation(here: Path, tmp_path: Path) -> None:
    losses = {"blind": Estimate(2.5, 2.4, 2.6), "transferred": Estimate(1.234, 1.2, 1.3)}
    write_json(tmp_path / "validation.json", {"held-out": result(**losses)})
    done = check(here, "--html", tmp_path / "page.html", "--validation", tmp_path / "validation.json")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text("utf-8")
    for told in ("proven</h1>", "64 of 64", "random features, as run", "llama3 on held-out", "1.234", "1.200 to 1.300"):
        assert told in page
    assert "Retention" not in page, "it was not finite"


def test_page_shows_answers_with_number_and_interval(here: Path, tmp_path: Path) -> None:
    share = Share(0.417, 0.3, 0.533, 60)
    found = result(share, None, None, None, None, None, blind=Estimate(2.5, 2.4, 2.6))
    write_json(tmp_path / "validation.json", {"held-out": found})
    done = check(here, "--html", tmp_path / "page.html", "--validation", tmp_path / "validation.json")
    assert done.returncode == 0, done.stderr
    (row,) = re.findall("<tr><th>names in full</th>.*", (tmp_path / "page.html").read_text("utf-8"))
    assert re.sub("<[^>]*>", " ", row).split() == ["names", "in", "full", "60", "0.0%", "41.7%", "30.0%", "to", "53.3%"]


def test_page_is_written_if_the_proof_fails(here: Path, tmp_path: Path) -> None:
    langbridge("softmax", seed=1).save(tmp_path / "other.pt")
    words = ("check", "moved", tmp_path / "other.pt", *TO_LLAMA, "--html", tmp_path / "page.html")
    assert vocabkit_here(here, *words).returncode == 1
    assert "not proven" in (tmp_path / "page.html").read_text("utf-8")


def test_validation_without_a_page_raises(here: Path, tmp_path: Path) -> None:
    assert error_of(check(here, "--validation", "x.json")) == "--validation is shown on a page: add --html FILE"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"a": 1}', '{"a": {"validation": {}}}', '{"results": {"t": {"m,none": 1}}}', "[" * 9999],
)
def test_other_files_as_validation_raise(here: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "validation.json"
    file.write_text(content)
    problem = error_of(check(here, "--html", tmp_path / "page.html", "--validation", file))
    assert problem.startswith(f"{file}: no")
    assert "validate --out" in problem
    assert not (tmp_path / "page.html").exists()


def test_validation_round_trips(tmp_path: Path) -> None:
    results = {"a": result(blind=Estimate(2.5, 2.4, 2.6)), "b": result(blind=Estimate(1.5, 1.4, 1.6))}
    write_json(tmp_path / "v.json", results)
    found = read_validation(tmp_path / "v.json")
    assert {name: each.validation.caption_loss for name, each in found.items()} == {
        name: each.validation.caption_loss for name, each in results.items()
    }
    assert json.loads((tmp_path / "v.json").read_text())["a"]["validation"]["retention"]["transferred"]["value"] is None
    assert found["a"].validation.retention == {}


FIGURES = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


@given(
    st.dictionaries(st.text(max_size=3), st.lists(FIGURES, min_size=3, max_size=3).map(sorted), min_size=1, max_size=5)
)
@settings(deadline=None, max_examples=200)
def test_plot_spans_all_figures_with_round_ticks(figures: dict[str, list[float]]) -> None:
    made = plot({name: Estimate(value, low, high) for name, (low, value, high) in figures.items()}, {"none": 0.0})
    (_, zero), *_ = made.lines
    for bar in made.bars:
        assert 0 < bar.low <= bar.place + 1e-6
        assert bar.place <= bar.low + bar.width + 1e-6 < 100
        assert (bar.place > zero) == (bar.estimate.value > 0) or abs(bar.place - zero) < 1e-6
    places = [place for _, place in made.ticks]
    assert 2 <= len(places) <= 6
    assert places == sorted(places)
    assert places[0] >= 0
    assert places[-1] <= 100
    assert len({label for label, _ in made.ticks}) == len(places)
