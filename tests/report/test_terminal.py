"""Terminal reports on vocabularies: complete, within the width, and with tokens escaped."""

from __future__ import annotations

import dataclasses
import io
from functools import cache
from typing import Any

import numpy as np
import pytest
from index_map_files import small
from rich.cells import cell_len
from rich.console import Console, RenderableType

from vocabkit.report.vocabularies import audit_report, catalog_table, explanation, overlap_report
from vocabkit.shared.audit import audit
from vocabkit.shared.explain import explain
from vocabkit.shared.overlap import Overlap, Unreachable, overlap
from vocabkit.tokenizer.catalog import catalog, resolve
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

REAL = ["qwen2", "llama3", "gemma3", "smollm2", "mistral-tekken", "mistral-v1"]
HOSTILE = [
    b"\x1b[31mred", b"[red]", b"[/red]", b"[/]", b":smile:", "\u202eabc".encode(), "\u200b".encode(),
    "שלום".encode(), b"\n\n\n", b"\r", b"\x07\x08", b"\xff\xfe", "\u009b31m".encode(), b"\\", b"'", b" " * 90,
    ("漢" * 60).encode(), b"\xed\xa0\x80", "\u0301".encode(), b"<script>", b"", b"x" * 300,
]  # fmt: skip


def shown(renderable: RenderableType, width: int = 80, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, **options)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@cache
def vocabularies(count: int) -> list[Vocabulary]:
    return [resolve(name).vocabulary for name in REAL[:count]]


@cache
def measured(count: int) -> Overlap:
    return overlap(vocabularies(count), examples=6)


@pytest.fixture
def hostile() -> list[Vocabulary]:
    special = [b"<eos\x1b[2J>", b"<\xff[bold]>"]
    kinds = [Kind.TEXT] * len(HOSTILE) + [Kind.SPECIAL] * 2
    roles = {"eos": len(HOSTILE)}
    first = small([*HOSTILE, *special], kinds, name="a[red]", roles=roles, notes=("[b]lossy\x1b[1m\n",))
    return [first, small([b"x", b"[red]"], name="b" * 90), small([b"x"], name="b" * 89 + "c")]


def rows(text: str, title: str) -> dict[str, list[str]]:
    """The rows of one section: label -> cells."""
    block = text.split(f"\n{title} ", 1)[1].split("\n\n", 1)[0]
    return {line.split("  ")[0]: line.split("  ", 1)[1].split() for line in block.splitlines()[1:]}


# ---- layout ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_overlap_keeps_to_the_width_without_trailing_spaces(count: int, width: int) -> None:
    text = shown(overlap_report(measured(count)), width)
    for line in text.splitlines():
        assert cell_len(line) <= width, line
        assert line == line.rstrip(), line


def test_six_tokenizers_fit_side_by_side_in_80_columns() -> None:
    text = shown(overlap_report(measured(6)))
    for title in ("tokenizer", "coverage", "script", "length in bytes"):
        assert [line.split()[0] for line in text.splitlines() if line.startswith(f"{title} ")] == [title.split()[0]]


def test_many_tokenizers_are_all_shown() -> None:
    many = [small([b"a", bytes([98 + i])], name=f"tokenizer-{i}") for i in range(50)]
    text = shown(overlap_report(overlap(many, examples=0)))
    assert max(map(len, text.splitlines())) <= 80
    for vocabulary in many:
        assert text.count(vocabulary.name) >= 3  # a row in each matrix


def test_pipe_gets_no_colour_codes() -> None:
    found = measured(2)
    assert "\x1b" not in shown(overlap_report(found))
    assert "\x1b[1m" in shown(overlap_report(found), force_terminal=True, color_system="standard")


def test_explanation_and_audit_keep_to_the_width() -> None:
    long = explain(b"The quick [red] fox jumps over the lazy dog, and over it again", vocabularies(3))
    translated = audit([(i, i) for i in range(2000)], *vocabularies(2), examples=30)
    for renderable in (explanation(long), audit_report(translated), catalog_table(list(catalog().values()))):
        assert max(map(cell_len, shown(renderable).splitlines())) <= 80


# ---- harmless ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("count", [2, 3])
def test_hostile_tokens_and_names_are_escaped(hostile: list[Vocabulary], count: int, width: int) -> None:
    some = hostile[:count]
    pairs = [(i, 0) for i in range(len(HOSTILE))] + [(9999, 3)]
    renderables = [
        overlap_report(overlap(some, examples=50)),
        audit_report(audit(pairs, *hostile[:2], examples=50)),
        *(explanation(explain(token, some)) for token in HOSTILE if token),
    ]
    for renderable in renderables:
        text = shown(renderable, width)
        for character in text:
            assert character.isprintable() or character in "\n\u200e"


def test_markup_in_names_is_shown_verbatim(hostile: list[Vocabulary]) -> None:
    text = shown(overlap_report(overlap(hostile[:2], examples=50)))
    for token in ("'[/red]'", "'[/]'", "':smile:'", r"'\x1b[31mred'", r"'\u202eabc'", r"'\n\n\n'", "<�[bold]>"):
        assert token in text
    assert "a[red]" in text
    assert r"[b]lossy\x1b[1m\n" in text


# ---- complete ----------------------------------------------------------------------------------------------------


def test_two_tokenizers_are_shown_with_the_share_of_each() -> None:
    found = measured(2)
    text = shown(overlap_report(found))
    assert text.startswith(f"{found.shared_by_all:,} tokens shared by qwen2 and llama3, 64.4% of all that they have\n")
    assert rows(text, "tokenizer")["distinct tokens"] == ["151,643", "128,000", "109,566", "72.3%", "85.6%"]
    script = {row.label: row for row in found.by_script}["Han"]
    numbers = [f"{number:,}" for number in (*script.distinct, script.shared_by_all)]
    assert rows(text, "script")["Han"][:3] == numbers
    assert "coverage" not in text


def test_three_tokenizers_are_shown_as_matrices() -> None:
    found = measured(3)
    text = shown(overlap_report(found))
    assert rows(text, "shared")["llama3"] == [f"{found.shared[1, 0]:,}", "·", f"{found.shared[1, 2]:,}"]
    of_all = found.shared_by_all / found.shared[2, 2]
    shares = [f"{share:.1%}" for share in (found.coverage[2, 0], found.coverage[2, 1])]
    assert rows(text, "coverage")["gemma3"] == [*shares, "·", f"{of_all:.1%}"]
    assert rows(text, "Jaccard")["qwen2"][0] == "·"


def test_breakdown_by_script_adds_up() -> None:
    found = measured(3)
    shares = rows(shown(overlap_report(found)), "script")
    totals = np.sum([[int(cell.replace(",", "")) for cell in cells] for cells in shares.values()], axis=0)
    assert totals.tolist() == [*(s.distinct for s in found.tokenizers), found.shared_by_all]


def test_lacking_tokens_are_shown_with_own_pieces() -> None:
    text = shown(overlap_report(measured(2)))
    assert "qwen2 lacks 18,434 tokens that llama3 has; it spells them\n" in text
    assert "  '00'    '0' '0'\n" in text


def test_counts_are_shown_without_examples() -> None:
    text = shown(overlap_report(overlap(vocabularies(3), examples=0)))
    assert "qwen2 lacks 9,833 tokens that all the others have\n" in text
    assert "gemma3  and 110 more" in text


def test_roles_show_missing_tokens_and_tokens_without_a_role() -> None:
    text = shown(overlap_report(overlap([resolve(name).vocabulary for name in ("llama3", "smollm2")])))
    roles = rows(text, "role")
    assert roles["pad"][0] == "-"
    assert roles["header_start"] == ["<|start_header_id|>", "128006", "-"]
    without = text.split("special tokens without a role, never aligned\n")[1]
    assert "smollm2  <repo_name> <reponame>" in without
    assert "and 6 more" in without


def test_corpus_and_reachability_are_shown_on_request() -> None:
    some = [resolve(name).vocabulary for name in ("smollm2-135m", "mistral-v1")]
    counts = {v.name: np.ones(len(v), np.int64) for v in some}
    found = overlap(some, examples=1, counts=counts, reachability=True)
    text = shown(overlap_report(found))
    assert rows(text, "tokenizer")["corpus in shared"] == [
        f"{summary.mass_shared_by_all:.1%}" for summary in found.tokenizers
    ]
    assert "smollm2-135m produces all of its text tokens" in text
    first = dataclasses.replace(found.tokenizers[0], unreachable=Unreachable(1_234, 56, ()))
    some_never = dataclasses.replace(found, tokenizers=(first, *found.tokenizers[1:]))
    assert "smollm2-135m never produces 1,234 of its text tokens (56 of them shared)" in shown(
        overlap_report(some_never)
    )
    three = overlap([*some, small([b"a"])], counts={**counts, "small": np.ones(1, np.int64)})
    assert rows(shown(overlap_report(three)), "mass")["smollm2-135m"][0] == "·"


def test_explanation_shows_ids_pieces_and_hints() -> None:
    text = shown(explanation(explain("Ġthe".encode(), vocabularies(3))))
    assert text.startswith("'Ġthe'\n  bytes  c4 a0 74 68 65\n")
    assert "  gemma3  -  2 tokens: 'Ġ' 245237, 'the' 1437\n" in text
    assert "read as a byte-level spelling: ' the', found in qwen2, llama3, gemma3" in text


def test_audit_shows_verdicts_and_examples() -> None:
    source, target = (
        small([b"a", b"\xa1", b"c"], name="source"),
        small(["¡".encode(), b"a", b"c", b"\xa1"], name="target"),
    )
    text = shown(audit_report(audit([(0, 1), (1, 0)], source, target)))
    assert text.startswith("2 pairs of source and target\n")
    verdicts = rows(text, "verdict")
    assert verdicts["right"] == ["1", "50.0%", "of", "the", "pairs"]
    assert verdicts["missed"] == ["1", "33.3%", "of", "3", "tokens", "of", "the", "same", "bytes"]
    assert r"  '\xa1' 1  '¡' 0 (other bytes), right: 3" in text
    assert "  'c' 2  right: 2" in text
