"""The interpretation page in a browser: patches by mouse, by touch and by keys, and a slider over checkpoints."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from pages import HOSTILE, NAMES, PHONE, SPECIAL_ROW, Open, interpretation_file

pytest.importorskip("jinja2")
pytest.importorskip("PIL")

from PIL import Image

from vocabkit.report.html import interpretation
from vocabkit.report.layout import spelled

SIDE = 4
TELLING = 14
"""The patch whose nearest token names an object and has the largest id of those."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures in two LLMs, over three checkpoints."""
    return interpretation_file(tmp_path_factory.mktemp("interpretation"), side=SIDE)


def opened(visit: Open, file: Path, **options: Any) -> Any:
    """The page, once its patches are there."""
    page = visit(file, **options)
    page.wait_for_selector(".patch .side")
    return page


def tokens(page: Any, image: int = 0) -> list[str]:
    """Nearest and largest of each LLM, of the chosen patch of an image."""
    return page.locator(".patch").nth(image).locator(".token").all_text_contents()  # type: ignore[no-any-return]


def expected(patch: int, step: int) -> list[str]:
    """The same as `pages.interpretation_file` made it."""
    nearest = [spelled(HOSTILE[patch + step + rank]) for rank in range(5)]
    rows = [patch + step + rank + 1 for rank in range(5)]
    largest = [spelled(HOSTILE[row]) for row in rows if row != SPECIAL_ROW]
    return [*nearest, *largest] * len(NAMES)


def over(page: Any, row: int, column: int) -> tuple[float, float]:
    """Where on the screen a patch of the first image is."""
    grid = page.locator(".patches").first
    grid.scroll_into_view_if_needed()
    box = grid.bounding_box()
    return box["x"] + box["width"] * (column + 0.5) / SIDE, box["y"] + box["height"] * (row + 0.5) / SIDE


def test_mouse_shows_a_patch_in_each_llm(visit: Open, file: Path) -> None:
    page = opened(visit, file)
    page.mouse.move(*over(page, 0, 3))
    assert page.inner_text(".where >> nth=0") == "Patch in row 1, column 4"
    assert page.locator(".patch").first.locator("h3").all_inner_texts() == list(NAMES)
    assert tokens(page) == expected(3, step=2)
    assert tokens(page, image=1) == expected(TELLING, step=2), "another image stays as it was"


def test_tap_shows_a_patch(visit: Open, file: Path) -> None:
    page = opened(visit, file, size=PHONE)
    page.touchscreen.tap(*over(page, 1, 0))
    assert tokens(page) == expected(SIDE, step=2)


def test_arrow_keys_move_and_stop_at_the_edge(visit: Open, file: Path) -> None:
    page = opened(visit, file)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className === 'patches'"):
            break
    for key in ("Home", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    assert page.inner_text(".where >> nth=0") == "Patch in row 1, column 1"
    page.keyboard.press("ArrowLeft")
    assert tokens(page) == expected(0, step=2)
    page.keyboard.press("End")
    page.keyboard.press("ArrowDown")
    assert tokens(page) == expected(2 * SIDE - 1, step=2)
    assert page.locator(".patches i.chosen").count() == 2, "one of each image"


def test_slider_moves_through_the_checkpoints(visit: Open, file: Path) -> None:
    page = opened(visit, file)
    page.focus("[name=checkpoint]")
    for step in (1, 0):
        page.keyboard.press("ArrowLeft")
        assert page.inner_text("#shown") == f"step {step + 1}00"
        assert tokens(page, 0) == tokens(page, 1) == expected(TELLING, step)


def test_values_are_beside_their_tokens(visit: Open, file: Path) -> None:
    page = opened(visit, file)
    assert page.locator(".patch").first.locator(".value").all_inner_texts()[:10] == [
        "0.900", "0.700", "0.500", "0.300", "0.100", "50.0%", "25.0%", "12.5%", "6.25%", "3.12%",
    ]  # fmt: skip


def test_pictures_show_the_nearest_token_of_each_patch(visit: Open, file: Path) -> None:
    page = opened(visit, file)
    grid = page.locator(".patches").first
    words = [spelled(HOSTILE[patch + 2]) for patch in range(SIDE * SIDE)]
    assert grid.locator(".token").all_text_contents() == [
        word.removeprefix(" ") if word.strip() else word for word in words
    ]
    page.select_option("[name=layer]", "names")
    assert grid.locator(".token").count() == 0
    assert grid.locator("i.names").count() == SIDE * SIDE // 2


def test_page_is_titled_by_adapter_and_llms_and_begins_with_the_most_telling_patch(visit: Open, file: Path) -> None:
    page = opened(visit, file)
    title = f"<b>adapter</b> in the words of {NAMES[0]} and {NAMES[1]}"
    assert page.inner_text("h1") == page.title() == title
    assert page.inner_text(".where >> nth=0") == f"Patch in row {TELLING // SIDE + 1}, column {TELLING % SIDE + 1}"
    assert page.inner_text(".written") == "<b>writer</b> wrote an <i>owl</i>"


def test_heat_map_has_a_scale_and_lets_the_picture_through(visit: Open, file: Path) -> None:
    page = opened(visit, file)
    scale = page.locator(".scale").first
    assert not scale.is_visible()
    page.select_option("[name=layer]", "cosine")
    assert scale.locator("output").all_inner_texts() == ["0.900", "0.900"]
    assert scale.is_visible()
    alphas = page.evaluate(
        "[...document.querySelectorAll('.patches i')].map(each => "
        "Number(getComputedStyle(each).backgroundColor.match(/[\\d.]+/g)[3] ?? 1))"
    )
    assert max(alphas) < 0.6


def test_grid_covers_the_seen_part(visit: Open, file: Path) -> None:
    page = opened(visit, file)
    picture = page.locator(".frame img").nth(1).bounding_box()
    grid = page.locator(".patches").nth(1).bounding_box()
    assert grid["x"] - picture["x"] == pytest.approx(0.1 * picture["width"], abs=1)
    assert grid["width"] == pytest.approx(0.8 * picture["width"], abs=1)
    assert grid["height"] == pytest.approx(picture["height"], abs=1)


def test_row_of_a_special_token_is_labelled(visit: Open, file: Path) -> None:
    page = opened(visit, file)
    page.mouse.move(*over(page, SIDE - 1, SIDE - 1))
    items = page.locator(".patch").first.locator("ol").nth(1).locator("li").all_inner_texts()
    assert [at for at, item in enumerate(items) if "(a special token)" in item] == [SPECIAL_ROW - SIDE**2 - 2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_coinciding_curves_are_all_visible(visit: Open, tmp_path: Path, scheme: str) -> None:
    names = ("one", "two", "three")
    page = opened(visit, interpretation_file(tmp_path, llms=names), scheme=scheme)
    assert page.locator(".series").all_inner_texts()[:3] == ["one, solid", "two, dashed", "three, dotted"]
    curve = page.locator(".curve svg").first
    lines = curve.locator("polyline")
    assert len({line.get_attribute("points") for line in lines.all()}) == 1
    shot = Image.open(io.BytesIO(curve.screenshot())).convert("RGB")
    seen = {"rgb({}, {}, {})".format(*colour): count for count, colour in shot.getcolors(shot.width * shot.height)}
    for colour in lines.evaluate_all("all => all.map(one => getComputedStyle(one).stroke)"):
        assert seen.get(colour, 0) > 20


def test_one_checkpoint_has_no_slider(visit: Open, tmp_path: Path) -> None:
    page = opened(visit, interpretation_file(tmp_path, images=1, llms=NAMES[:1], checkpoints=1))
    assert page.locator("[name=checkpoint], [name=llm]").count() == 0
    assert page.locator(".patch h3").all_inner_texts() == [NAMES[0]]


def test_ten_pictures_of_576_patches_take_less_than_two_megabytes(tmp_path: Path) -> None:
    file = interpretation_file(tmp_path, side=24, images=10)
    assert file.stat().st_size < 2e6


def test_large_page_has_fewer_tokens_per_patch(visit: Open, tmp_path: Path) -> None:
    with mock.patch.object(interpretation, "_IMAGE_BYTES", 1000):
        page = opened(visit, interpretation_file(tmp_path, side=SIDE))
    assert "1 of 5 tokens per patch" in page.inner_text("main")
    page.mouse.move(*over(page, 0, 3))
    assert tokens(page) == expected(3, step=2)[::5]
