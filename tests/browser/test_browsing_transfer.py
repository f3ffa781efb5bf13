"""The transfer page in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import NAMES, Open, transfer_file

pytest.importorskip("jinja2")
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all there can be."""
    return transfer_file(tmp_path_factory.mktemp("transfer"))


def test_page_shows_coverage_proof_and_norms(visit: Open, file: Path) -> None:
    page = visit(file)
    text = page.inner_text("body")
    assert page.inner_text("h1") == f"{NAMES[0]} to {NAMES[1]}: not proven"
    for told in ("80 of 100", "97.0%", "0.5 to 3.4, median 1.2", "a softmax is not linear", "✗ beyond", "✓ within"):
        assert told in text
    assert page.locator("main b, main i b, main script").count() == 0


def test_share_of_yes_is_not_a_right_answer(visit: Open, file: Path) -> None:
    page = visit(file)
    table = page.locator("[aria-label='Right answers']")
    assert table.locator("tbody th").all_inner_texts() == [
        "names in full",
        "name of ten",
        "yes or no",
        "yes above no",
    ]
    said = "Whether an object is there was answered yes by transferred 50.0% of the time. Half is right."
    assert said in page.inner_text("main")


def test_figures_are_placed_by_their_axis(visit: Open, file: Path) -> None:
    page = visit(file)
    plot = page.locator(".plot").first
    middles = plot.locator(".dot").evaluate_all(
        "all => all.map(one => { const box = one.getBoundingClientRect(); return box.left + box.width / 2; })"
    )
    values = [float(text.split()[0]) for text in plot.locator(".value").all_inner_texts()]
    ticks = plot.locator(".axis span").evaluate_all(
        "all => all.map(one => { const box = one.getBoundingClientRect();"
        " return [Number(one.textContent), box.left + box.width / 2]; })"
    )
    (first, start), *_, (last, end) = ticks
    for value, middle in zip(values, middles, strict=True):
        assert middle == pytest.approx(start + (value - first) / (last - first) * (end - start), abs=1)


def test_intervals_contain_their_figures(visit: Open, file: Path) -> None:
    page = visit(file)
    boxes = page.locator(".plot .range, .plot .dot").evaluate_all(
        "all => all.map(one => { const box = one.getBoundingClientRect(); return [box.left, box.right]; })"
    )
    assert len(boxes) == 2 * 7
    for (low, high), (left, right) in zip(boxes[::2], boxes[1::2], strict=True):
        assert low < (left + right) / 2 < high
