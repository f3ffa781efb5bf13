"""HTML pages as files: atomic, reproducible, and without torch."""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from command_line import TIMEOUT, error_of, vocabkit_here
from hypothesis import assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("jinja2")

from vocabularies import Drawn, groups, text_vocabulary

from vocabkit.report.html.overlap import filters, table_data, token_table
from vocabkit.report.html.page import pack, token
from vocabkit.report.layout import spelled
from vocabkit.shared.explain import parse_token
from vocabkit.tokenizer.load import load_tokenizer

WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MISSING}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from vocabkit_cli.__main__ import run
run()
"""


def run_without(missing: set[str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`vocabkit WORDS` where these packages are not installed."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.replace("{MISSING}", repr(missing)), *words],
        cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip


def test_html_writes_a_page_beside_the_report(tmp_path: Path) -> None:
    plain = vocabkit_here(tmp_path, "overlap", "smollm2", "mistral-v1", "--json")
    done = vocabkit_here(tmp_path, "overlap", "smollm2", "mistral-v1", "--json", "--html", "page.html")
    assert done.returncode == 0
    assert done.stdout == plain.stdout
    assert done.stderr == plain.stderr + "written: page.html\n"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    first = (tmp_path / "page.html").read_bytes()
    vocabkit_here(tmp_path, "overlap", "smollm2", "mistral-v1", "--json", "--html", "page.html")
    assert (tmp_path / "page.html").read_bytes() == first
    text = re.sub(r"</?span[^>]*>", "", first.decode())
    assert re.search(
        rf"vocabkit {version('vocabkit')} on [\d-]+ by <code>vocabkit overlap smollm2 mistral-v1 --json", text
    )
    assert load_tokenizer("smollm2").fingerprint in first.decode()


def test_unwritable_page_raises(tmp_path: Path) -> None:
    problem = error_of(vocabkit_here(tmp_path, "overlap", "smollm2", "qwen2", "--html", "no/page.html"))
    assert problem.startswith("no/page.html: no folder")


def test_page_over_an_input_raises(tmp_path: Path) -> None:
    text_file = tmp_path / "captions.txt"
    text_file.write_text("a dog")
    words = ("overlap", "smollm2", "qwen2", "--corpus", "captions.txt", "--html", "captions.txt")
    assert "is an input of this command" in error_of(vocabkit_here(tmp_path, *words))
    assert text_file.read_text() == "a dog"


def test_missing_jinja2_raises_before_the_work(tmp_path: Path) -> None:
    done = run_without({"jinja2"}, tmp_path, "overlap", "smollm2", "qwen2", "--html", "page.html")
    assert error_of(done) == "an HTML page needs jinja2: pip install 'vocabkit[report]'"
    assert run_without({"jinja2"}, tmp_path, "overlap", "smollm2", "qwen2").returncode == 0


def test_overlap_page_imports_no_torch(tmp_path: Path) -> None:
    missing = {"torch", "transformers", "safetensors", "PIL", "playwright", "matplotlib"}
    done = run_without(missing, tmp_path, "overlap", "smollm2", "mistral-v1", "--html", "page.html")
    assert done.returncode == 0, done.stderr


@given(
    st.binary(min_size=1, max_size=12)
    | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).map(str.encode)
)
@settings(deadline=None, max_examples=300)
def test_spelling_is_visible_and_parses_back(value: bytes) -> None:
    assume(not value.startswith(b"id:"))
    shown = spelled(value)
    assert shown.isprintable()
    assert parse_token(shown, text_vocabulary("v", b"a")) == value


@given(st.binary(max_size=12))
@settings(deadline=None, max_examples=300)
def test_token_as_html_has_its_spelling_as_text(value: bytes) -> None:
    html = token(value)
    assert html.striptags() == " ".join(spelled(value).split())
    assert html.count("<") == html.count(">")


def test_packed_data_is_base64() -> None:
    data = {"words": ["</script>", "\u2028", "é"]}
    packed = pack(data)
    assert packed == pack(data)
    assert json.loads(gzip.decompress(base64.b64decode(packed, validate=True))) == data


@given(groups())
@settings(deadline=None, max_examples=60)
def test_table_has_every_token_with_ids_and_aliases(group: list[Drawn]) -> None:
    vocabularies = [drawn.vocabulary for drawn in group]
    table = token_table(vocabularies)
    data = table_data(table)
    for at, drawn in enumerate(group):
        ids, last = {}, -1
        for row, step in enumerate(data["ids"][at]):
            last += step
            if step:
                ids[table.tokens[row]] = last
        assert ids == drawn.ids()
        others = drawn.vocabulary.aliases()
        alignable = set(drawn.ids().values())
        assert {ids[table.tokens[row]]: more for row, more in table.aliases[at].items()} == {
            canonical: more for canonical, more in others.items() if canonical in alignable
        }
    counts = {key: count for key, _, count in filters(table)}
    assert counts["all"] == len(table.tokens) >= counts["shared"] >= 1
