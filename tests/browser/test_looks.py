"""Properties of all pages: contrast in light and dark, a phone's width, no requests."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pages import DESKTOP, PHONE, Open, interpretation_file, overlap_file, transfer_file

pytest.importorskip("jinja2")
pytest.importorskip("torch")
pytest.importorskip("PIL")

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

MAKERS = {"overlap": overlap_file, "transfer": transfer_file, "interpretation": interpretation_file}
SHADOW = 16
"""Pixels of the shadow at the edge of a table, and of what covers it at the end."""
CONTRASTS = (Path(__file__).parent / "contrast.js").read_text()


@pytest.fixture(scope="module", params=MAKERS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each page."""
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(visit: Open, file: Path, size: tuple[int, int], scheme: str) -> None:
    page = visit(file, size, scheme)
    page.wait_for_timeout(300)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    faint = page.evaluate(CONTRASTS)
    assert faint["measured"] > 50
    assert faint["below"] == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 3 * 128) == (scheme == "dark")


def test_phone_scrolls_only_vertically(visit: Open, file: Path) -> None:
    page = visit(file, PHONE)
    page.wait_for_timeout(300)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('p, td, th, li, label, dd')].map("
        "each => parseFloat(getComputedStyle(each).fontSize)))"
    )
    assert smallest >= 13


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_scrollable_table_has_a_shadow_at_its_edge(visit: Open, file: Path, scheme: str) -> None:
    page = visit(file, PHONE, scheme)
    page.wait_for_timeout(300)
    for table in page.locator(".wide:visible").all():
        more = table.evaluate("each => each.scrollWidth - each.clientWidth")
        assert (edge(table) != paper(page)) == (more > SHADOW)
        table.evaluate("each => each.scrollLeft = each.scrollWidth")
        assert edge(table) == paper(page)


def edge(table: Locator) -> tuple[int, ...]:
    """The most common colour just before the right edge."""
    shot = Image.open(io.BytesIO(table.screenshot())).convert("RGB")
    return max(shot.crop((shot.width - 4, 0, shot.width - 3, shot.height)).getcolors())[1]


def paper(page: Page) -> tuple[int, ...]:
    """The colour of the page."""
    return tuple(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))))


def test_headings_controls_and_pictures_have_names(visit: Open, file: Path) -> None:
    page = visit(file)
    page.wait_for_timeout(300)
    assert page.locator("h1").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"
    nameless = page.evaluate(
        "[...document.querySelectorAll('input, select, [role=region], [role=img], [tabindex], img')].filter(each =>"
        " !(each.labels?.length || each.ariaLabel || each.alt || each.getAttribute('aria-labelledby')))"
        ".map(each => each.outerHTML.slice(0, 200))"
    )
    assert nameless == []
    dangling = page.evaluate(
        "[...document.querySelectorAll('[aria-labelledby]')].filter("
        "each => !document.getElementById(each.getAttribute('aria-labelledby'))).length"
    )
    assert dangling == 0


def test_content_security_policy_forbids_what_the_page_does_not_need(browser: Browser, file: Path) -> None:
    page = browser.new_page()
    page.goto(file.as_uri())
    outcome = page.evaluate(
        "() => new Promise(done => {"
        " document.addEventListener('securitypolicyviolation', event => done(event.effectiveDirective));"
        " const script = document.createElement('script'); script.textContent = 'window.evil = true';"
        " document.body.append(script); setTimeout(() => done('nothing'), 500); })"
    )
    assert outcome.startswith("script-src")
    assert page.evaluate("window.evil") is None
    page.close()


def test_same_report_gives_the_same_page(file: Path, tmp_path: Path) -> None:
    again = MAKERS[file.stem](tmp_path)
    assert again.read_bytes() == file.read_bytes()
