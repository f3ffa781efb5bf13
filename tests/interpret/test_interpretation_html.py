"""interpret --html: a page with the pictures and their readings."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import error_of, vocabkit_here
from PIL import Image
from single_minded import projecting, saying
from small_world import World

pytest.importorskip("jinja2")

from vocabkit.interpret.results import Interpretation
from vocabkit.report.html.interpretation import interpretation_page, picture_uri
from vocabkit.report.html.page import Origin


def page_of(world: World, folder: Path, *options: str) -> tuple[str, dict[str, Any]]:
    """A page of two pictures, and the data in it."""
    done = vocabkit_here(folder, "interpret", "adapter", world.data, "--limit", "2", "--html", "page.html", *options)
    assert done.returncode == 0, done.stderr
    page = (folder / "page.html").read_text("utf-8")
    packed = re.search(r'<script id="data"[^>]*>([^<]+)</script>', page)
    assert packed
    return page, json.loads(gzip.decompress(base64.b64decode(packed[1])))


def test_page_has_pictures_and_readings_in_both_llms(world: World, tmp_path: Path) -> None:
    saying(world, b"r").save_pretrained(tmp_path / "adapter")
    page, data = page_of(world, tmp_path, "--llm", world.one, "--llm", world.two)
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert [Image.open(io.BytesIO(base64.b64decode(each))).format for each in pictures] == ["JPEG", "JPEG"]
    assert data["llms"] == ["one", "two"]
    patches = data["grid"][0] * data["grid"][1]
    for reading in (series[0] for image in data["readings"] for series in image):
        nearest = [data["words"][word] for word in reading["nearest"]]
        assert len(nearest) == len(reading["cosines"]) == 5 * patches
        assert nearest[::5] == ["r"] * patches
        assert reading["cosines"][::5] == [1000] * patches
        assert [data["words"][word] for word in reading["rows"][::5]] == ["r"] * patches
        assert reading["coefficients"][::5] == [10_000] * patches


def test_page_of_an_mlp_has_no_coefficients(world: World, tmp_path: Path) -> None:
    projecting(world, b"g").save_pretrained(tmp_path / "adapter")
    page, data = page_of(world, tmp_path, "--llm", world.one)
    assert "an MLP projector" in page
    assert "largest coefficient" not in page
    assert [reading["rows"] for image in data["readings"] for series in image for reading in series] == [None, None]


def test_page_of_a_linear_head_has_raw_coefficients(world: World, tmp_path: Path) -> None:
    saying(world, b"r", "linear").save_pretrained(tmp_path / "adapter")
    page, data = page_of(world, tmp_path, "--llm", world.one)
    assert data["readings"][0][0][0]["coefficients"][0] == 1000.0
    assert data["readings"][0][0][0]["imageMass"] is None
    assert "entropy, nats" not in page


def test_page_names_pictures_that_are_left_out(world: World, tmp_path: Path) -> None:
    saying(world, b"r").save_pretrained(tmp_path / "adapter")
    page, _ = page_of(world, tmp_path, "--llm", world.one, "<i>.png")
    assert "<div>&lt;i&gt;.png: no such file</div>" in page


@pytest.mark.robust
def test_page_of_ten_scenes_in_two_llms_is_below_two_megabytes(shipped: Interpretation) -> None:
    page = interpretation_page(shipped, [picture_uri(image) for image in shipped.images], Origin("vocabkit", {}))
    assert page.count("data:image/jpeg") == 10
    assert len(page.encode()) < 2e6


def test_page_over_an_input_raises(world: World, tmp_path: Path) -> None:
    saying(world, b"r").save_pretrained(tmp_path / "adapter")
    problem = error_of(vocabkit_here(tmp_path, "interpret", "adapter", world.data, "--html", world.data))
    assert "is an input of this command" in problem
