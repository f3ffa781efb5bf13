"""The page of `vocabkit app` in a browser: a picture by every way, its words, and answers as they are written."""

from __future__ import annotations

import base64
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import DESKTOP, PHONE, Open

pytest.importorskip("jinja2")
pytest.importorskip("starlette")
pytest.importorskip("torch")

from moved_adapters import Kind, trained
from served_talk import served
from small_world import World, make_world

from vocabkit.app.talk import Reader, Seen, Talk, open_talk, see
from vocabkit.data.scene_files import held_out_scene

CONTRASTS = (Path(__file__).parent / "contrast.js").read_text()
DATA = Path(__file__).parents[2] / "data"
GIVEN = """
([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "picture.png", { type: "image/png" }));
  const event = name === "paste"
    ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
    : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("talking") / "world")


@pytest.fixture(scope="module")
def talk(small: World, tmp_path_factory: pytest.TempPathFactory) -> Talk:
    """An adapter over words in front of two LLMs, and of one with a hostile name that is not there."""
    folder = tmp_path_factory.mktemp("talk")
    adapter = trained(small, Kind("words", temperature=0.2), folder)
    adapter.config = dataclasses.replace(adapter.config, prompt="The <b>words</b> <image>: a")
    adapter.save(folder / "<i>adapter")
    talk = open_talk(folder / "<i>adapter", [small.one, small.two, "<b>three=/nowhere<i>"])
    talk.load()
    return talk


@pytest.fixture
def url(talk: Talk) -> Iterator[str]:
    with served(talk) as url:
        yield url


@pytest.fixture
def picture(small: World) -> Path:
    return small.data.parent / "1.png"


def choose(page: Any, picture: Path) -> None:
    """Choose a file, and wait for its words."""
    page.set_input_files("#file", picture)
    page.wait_for_selector("#look:not([hidden])")


def expected(talk: Talk, picture: Path, asked: str) -> list[str]:
    """What both LLMs answer."""
    seen = see(talk.adapter, talk.encoder, picture.read_bytes())
    readers = [partner.reader for partner in talk.partners[:2]]
    return [reader.answer(seen, asked, lambda text: None)[0] for reader in readers if reader is not None]


def answered(page: Any) -> list[str]:
    """The answers of the newest question, once they are there."""
    page.wait_for_selector(".turn:first-child:not([aria-busy]) .answers details")
    texts = page.locator(".turn:first-child .answer").evaluate_all("all => all.map((each) => each.textContent)")
    return [text.strip() for text in texts]


def test_picture_shows_its_words_and_where_they_come_from(visit: Open, url: str, talk: Talk, picture: Path) -> None:
    page = visit(url)
    choose(page, picture)
    seen = see(talk.adapter, talk.encoder, picture.read_bytes())
    labels = page.locator(".patches i").all_text_contents()
    assert labels == [patch[0][0].strip() for patch in seen.patches]
    grid = page.locator(".patches")
    grid.focus()
    for key in ("Home", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowUp", "ArrowRight"):
        page.keyboard.press(key)
    assert page.inner_text(".where") == "Patch in row 1, column 2"
    assert page.locator(".patch li").first.inner_text().split() == [
        seen.patches[1][0][0].strip(), f"{100 * seen.patches[1][0][1]:.1f}%",
    ]  # fmt: skip
    box = grid.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.9)
    assert page.inner_text(".where") == "Patch in row 4, column 4"
    word, _, shares = seen.mapped[0]
    page.locator("#mapped button").first.click()
    assert page.locator("#mapped button").first.get_attribute("aria-pressed") == "true"
    near = page.locator(".patches i").evaluate_all("all => all.map((i) => Number(i.style.getPropertyValue('--near')))")
    assert near == pytest.approx([share / max(shares) for share in shares], abs=2e-3)
    assert word.strip() in page.inner_text(".scale")


def test_answers_of_two_llms_are_written_side_by_side(visit: Open, url: str, talk: Talk, picture: Path) -> None:
    page = visit(url)
    assert page.locator("[name=own]").is_disabled()
    choose(page, picture)
    page.click("text=Caption it")
    assert answered(page) == expected(talk, picture, "")
    left, right = (page.locator(".answers > div").nth(number).bounding_box() for number in (0, 1))
    assert left["y"] == right["y"]
    assert left["x"] < right["x"]
    page.locator(".answers summary").first.click()
    assert page.inner_text(".answers pre").startswith("The <b>words</b> ")
    page.uncheck("#whom input >> nth=0")
    page.focus("textarea")
    page.keyboard.type("What is it?")
    page.keyboard.press("Enter")
    assert answered(page) == expected(talk, picture, "What is it?")[1:]
    assert page.locator(".turn h3").all_inner_texts() == ["What is it?", "The adapter's own prompt"]
    assert page.input_value("textarea") == ""


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_picture_is_pasted_or_dropped(visit: Open, url: str, picture: Path, way: str) -> None:
    page = visit(url)
    page.wait_for_load_state("networkidle")  # a user has seen the page before
    page.evaluate(GIVEN, [way, base64.b64encode(picture.read_bytes()).decode()])
    page.wait_for_selector("#look:not([hidden])")


def test_broken_picture_is_told_and_the_next_one_shown(visit: Open, url: str, picture: Path, tmp_path: Path) -> None:
    page = visit(url)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page.set_input_files("#file", tmp_path / "broken.png")
    page.wait_for_selector("#told:has-text('not an image')")
    choose(page, picture)
    assert page.inner_text("#told") == ""


def test_writing_is_seen_while_it_goes_on_and_can_be_stopped(
    visit: Open, url: str, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more, ended = threading.Event(), threading.Event()

    def answer(self: Reader, seen: Seen, asked: str, told: Any, most: int) -> Any:
        try:
            told("so far <b>so")
            more.wait(60)
            while True:
                told("so far <b>so good")
        finally:
            ended.set()

    monkeypatch.setattr(Reader, "answer", answer)
    page = visit(url)
    choose(page, picture)
    page.click("text=Caption it")
    page.wait_for_selector(".answer.writing:has-text('so far <b>so')")
    more.set()
    page.wait_for_selector(".answer:has-text('good')")
    page.click("text=Stop")
    page.wait_for_selector(".answers:has-text('stopped')")
    assert ended.wait(30)
    assert page.locator("[name=own]").is_enabled()


def test_hostile_names_are_text(visit: Open, url: str, talk: Talk) -> None:
    page = visit(url)
    page.wait_for_selector(".states .failed")
    assert "through <i>adapter" in page.inner_text("h1")
    assert page.inner_text(".states .failed").startswith("<b>three not loaded: ")
    page.click("#about summary")
    assert page.locator("h1 i, #about b, #about dd i, .states b b").count() == 0
    assert talk.fingerprints["adapter"] in page.inner_text("#about")
    page.locator("text=Prove the transfer").first.click()
    page.wait_for_selector("#about >> text=10 rows proven")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_has_contrast(visit: Open, url: str, picture: Path, size: tuple[int, int], scheme: str) -> None:
    page = visit(url, size, scheme)
    choose(page, picture)
    page.click("text=Caption it")
    answered(page)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    faint = page.evaluate(CONTRASTS)
    assert faint["measured"] > 50
    assert faint["below"] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    nameless = page.evaluate(
        "[...document.querySelectorAll('input, textarea, button, [tabindex], img:not([alt])')].filter(each =>"
        " !(each.labels?.length || each.ariaLabel || each.textContent.trim())).map(each => each.outerHTML)"
    )
    assert nameless == []


def test_gemma_names_what_a_drawn_scene_shows(visit: Open, sources: Path, tmp_path: Path) -> None:
    """A picture that training never had, and an LLM that never saw the adapter."""
    llm = f"gemma3={sources / 'gemma-3-270m-q4_k_m.gguf'}"
    talk = open_talk(DATA / "scenes-words.pt", [llm], max_new_tokens=16)
    loading = threading.Thread(target=talk.load)
    with served(talk) as url:
        page = visit(url)
        loading.start()
        page.wait_for_selector(".states .loading")
        held_out_scene(seed=0).save(tmp_path / "scene.png")
        choose(page, tmp_path / "scene.png")
        read = page.inner_text("#reads").removeprefix("As text: ").split(", ")
        loading.join()
        page.wait_for_selector(".states .ready")
        page.click("text=Caption it")
        (answer,) = answered(page)
        assert len([word for word in read if word in answer]) > 1
