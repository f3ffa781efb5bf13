"""The overlap page in a browser: every token can be found, and is shown as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import vocabkit_here
from pages import HOSTILE, NAMES, PHONE, Open, overlap_file, overlap_page_of, written
from vocabularies import text_vocabulary

pytest.importorskip("jinja2")

from vocabkit.report.html.overlap import TokenTable, token_table
from vocabkit.report.html.page import token
from vocabkit.report.layout import spelled
from vocabkit.tokenizer.catalog import catalog, resolve


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small hostile tokenizers."""
    return overlap_file(tmp_path_factory.mktemp("overlap"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real tokenizers, by the command."""
    folder = tmp_path_factory.mktemp("real")
    done = vocabkit_here(folder, "overlap", "qwen2", "llama3", "--html", "page.html")
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("written: page.html\n")
    return folder / "page.html"


def found(page: object) -> str:
    """What the table says of the search, once it is done."""
    page.wait_for_selector("#rows tr, #found:text('no token')")  # type: ignore[attr-defined]
    return page.inner_text("#found")  # type: ignore[attr-defined, no-any-return]


def test_search_covers_whole_real_tokenizers(visit: Open, real: Path) -> None:
    page = visit(real)
    assert page.inner_text("h1") == "qwen2 and llama3 share 109,566 tokens"
    assert found(page) == "50 of 170,077 tokens"
    page.fill("[name=text]", "id:279")
    rows = page.locator("#rows tr").all_inner_texts()
    assert [" the", "279", "279"] in [row.split("\t") for row in rows]
    page.fill("[name=text]", "ELEPHANT")
    assert {"elephant"} == {cell.strip().lower()[:8] for cell in page.locator("#rows .token").all_text_contents()}


@pytest.mark.parametrize(("sort", "count"), [("shared", "109,566"), ("only:0", "42,077"), ("only:1", "18,434")])
def test_filters_count_like_the_report(visit: Open, real: Path, sort: str, count: str) -> None:
    page = visit(real)
    page.select_option("[name=filter]", sort)
    assert found(page) == f"50 of {count} tokens"
    label = page.inner_text(f"option[value='{sort}']")
    assert f"({count})" in label


def test_aliases_are_beside_their_id(visit: Open, small: Path) -> None:
    page = visit(small)
    page.select_option("[name=filter]", "aliased")
    assert found(page) == "1 token"
    assert page.inner_text("#rows tr").split("\t")[1] == f"{HOSTILE.index(b' a')} = {len(HOSTILE) + 200}"


def test_hostile_tokens_and_names_are_text(visit: Open, small: Path) -> None:
    page = visit(small)
    found(page)
    assert page.locator("h1 b, #rows b, #rows img, #rows script, main script").count() == 0
    assert NAMES[0] in page.inner_text("h1")
    shown = page.locator("#rows .token").all_text_contents()
    assert shown[:3] == [spelled(each) for each in HOSTILE[:3]]
    assert page.title() == f"Overlap of {NAMES[0]}, {NAMES[1]}"


def test_invisible_characters_and_direction_stay_inside_a_token(visit: Open, small: Path) -> None:
    page = visit(small)
    found(page)
    page.click("#more")
    shown = page.locator("#rows .token").all_text_contents()
    assert {r"\x00", r"\u200b", r"\u202eevil", r"\ufeff", r"\xff", r"\n", r"\u0301", r"\xa0"} <= {
        each.replace("\\u00a0", r"\xa0") for each in shown
    }
    assert all(character.isprintable() for each in shown for character in each)
    isolation = page.locator("#rows .token").evaluate_all("all => all.map(one => getComputedStyle(one).unicodeBidi)")
    assert set(isolation) == {"isolate"}
    assert page.locator("#rows .space").first.bounding_box()["width"] > 3


def test_table_shows_tokens_like_the_text(visit: Open, small: Path) -> None:
    page = visit(small)
    for value in HOSTILE:
        same = page.evaluate(
            "([spelled, html]) => { const box = document.createElement('template'); box.innerHTML = html;"
            " return showToken(spelled).outerHTML === box.content.firstChild.outerHTML; }",
            [spelled(value), str(token(value))],
        )
        assert same, value


def test_more_rows_come_on_demand(visit: Open, small: Path) -> None:
    page = visit(small)
    assert found(page).startswith("50 of ")
    page.click("#more")
    assert page.locator("#rows tr").count() == 100
    assert page.inner_text("#found").startswith("100 of ")
    page.fill("[name=text]", "word19")
    assert page.inner_text("#found") == "11 tokens"
    assert page.locator("#more").is_hidden()
    page.fill("[name=text]", "not there")
    assert page.inner_text("#found") == "no token"


def test_escapes_find_invisible_characters(visit: Open, small: Path) -> None:
    page = visit(small)
    found(page)
    page.fill("[name=text]", r"\u200b")
    assert page.locator("#rows .token").all_text_contents() == [r"\u200b"]


def test_page_works_by_keyboard(visit: Open, small: Path) -> None:
    page = visit(small)
    found(page)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name === 'text'"):
            break
    page.keyboard.type("only here")
    assert page.locator("#rows .token").all_text_contents() == ["only here"]
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert page.input_value("[name=filter]") == "shared"
    assert page.inner_text("#found") == "no token"


def test_a_wide_table_scrolls_by_keys(visit: Open, small: Path) -> None:
    page = visit(small, PHONE)
    page.locator(".wide").first.evaluate(
        "each => { window.scrolled = new Promise(done => each.addEventListener('scroll', () => done(each.scrollLeft),"
        " { once: true })); each.focus(); }"
    )
    page.keyboard.press("ArrowRight")
    assert page.evaluate("window.scrolled") > 0


def test_table_is_ordered_by_id_text_or_length(visit: Open, tmp_path: Path) -> None:
    pair = [text_vocabulary("a", b"pear", b"fig", b"a long one"), text_vocabulary("b", b"apple", b"fig", b"pear")]
    page = visit(written(tmp_path / "page.html", overlap_page_of(pair)))
    orders = {"0": "pear fig a␣long␣one apple", "1": "apple fig pear a␣long␣one", "text": "a␣long␣one apple fig pear"}
    for value, wanted in {**orders, "length": "a␣long␣one apple pear fig"}.items():
        page.select_option("[name=order]", value)
        shown = page.locator("#rows .token").all_text_contents()
        assert " ".join(token.replace(" ", "␣") for token in shown) == wanted


def test_found_tokens_are_downloaded_as_csv(visit: Open, tmp_path: Path) -> None:
    pair = [text_vocabulary("a", b'a "quoted", token', b"fig"), text_vocabulary("b", b"fig", b"pear")]
    page = visit(written(tmp_path / "page.html", overlap_page_of(pair)))
    page.fill("[name=text]", "i")
    with page.expect_download() as started:
        page.click("#download")
    assert started.value.suggested_filename == "tokens.csv"
    assert started.value.path().read_bytes() == b'token,"a","b"\r\n"fig",1,0\r\n'
    page.fill("[name=text]", "quoted")
    with page.expect_download() as started:
        page.click("#download")
    assert b'"a ""quoted"", token",0,\r\n' in started.value.path().read_bytes()


def test_page_of_the_largest_tokenizers_has_every_token(visit: Open, tmp_path: Path) -> None:
    every = {entry.snapshot: resolve(name).vocabulary for name, entry in catalog().items()}
    pair = sorted(every.values(), key=len)[-2:]
    table = token_table(pair)
    page = visit(written(tmp_path / "page.html", overlap_page_of(pair)))
    assert f"of {len(table.tokens):,} tokens" in found(page)
    for row in np.random.default_rng(0).choice(len(table.tokens), 10, replace=False).tolist():
        at = int(table.ids[:, row].argmax())
        own = [_cell(table, at, row) for at in range(2)]
        page.fill("[name=text]", f"id:{table.ids[at, row]}")
        rows = [text.split("\t") for text in page.locator("#rows tr").all_inner_texts()]
        shown = page.locator("#rows .token").all_text_contents()
        cells = rows[shown.index(spelled(table.tokens[row]))][1:]
        assert [cell.split(" = ")[0] for cell in cells] == own


def _cell(table: TokenTable, at: int, row: int) -> str:
    """What the table says of a token in one tokenizer: its id, how it spells the token, or that it lacks it."""
    pieces = table.pieces[at].get(row, [b"\xe2\x80\x93"])
    return str(table.ids[at, row]) if table.ids[at, row] >= 0 else " ".join(piece.decode() for piece in pieces)


def test_table_says_how_a_tokenizer_spells_a_token_that_it_lacks(visit: Open, real: Path) -> None:
    page = visit(real)
    page.select_option("[name=filter]", "only:1")
    page.fill("[name=text]", "201")
    found(page)
    cells = page.locator("#rows tr").first.locator("td")
    assert cells.nth(1).locator(".token").all_text_contents() == ["2", "0", "1"]
    assert cells.nth(2).inner_text().isdecimal()
