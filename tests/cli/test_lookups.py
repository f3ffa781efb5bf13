"""show, diff, map, catalog and check: what people look up, and what they are told when it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import vocabkit_here
from tokenizer_files import bpe_json, write_json

from vocabkit import VocabkitError
from vocabkit.shared.token_map import align_text
from vocabkit.tokenizer.catalog import near_names, resolve


def letters(folder: Path, *pieces: str) -> Path:
    folder.mkdir(exist_ok=True)
    return write_json(folder / "tokenizer.json", bpe_json(["a", "b", *pieces])).parent


def test_show_says_that_no_row_has_a_token(tmp_path: Path) -> None:
    shared = tmp_path / "shared.arrow"
    vocabkit_here(tmp_path, "build-shared", letters(tmp_path / "x", "c"), letters(tmp_path / "y", "d"), "--out", shared)
    found = vocabkit_here(tmp_path, "show", shared, "--token", "a")
    assert (found.returncode, "1 row found" in found.stdout) == (0, True)
    lacking = vocabkit_here(tmp_path, "show", shared, "--token", "c")
    assert (lacking.returncode, "0 rows found" in lacking.stdout) == (1, True)
    assert "no row has this token; `vocabkit explain 'c' TOKENIZER ...` says which tokenizers do" in lacking.stderr
    assert vocabkit_here(tmp_path, "show", shared, "--token", "c", "--json").returncode == 1


def test_diff_counts_one_id_as_one(tmp_path: Path) -> None:
    found = vocabkit_here(tmp_path, "diff", letters(tmp_path / "x"), letters(tmp_path / "y", "c"))
    assert "x: 2 ids; y: 3 ids\nall ids below 2 are equal\nadded: 1 id\n" in found.stdout
    (tmp_path / "z").mkdir()
    other = write_json(tmp_path / "z" / "tokenizer.json", bpe_json(["b", "a"])).parent
    assert "all ids below" not in vocabkit_here(tmp_path, "diff", tmp_path / "x", other).stdout


def test_check_says_that_a_tokenizer_changed_where_it_was(tmp_path: Path) -> None:
    vocabkit_here(tmp_path, "build-shared", letters(tmp_path / "x"), letters(tmp_path / "y"), "--out", "shared.arrow")
    letters(tmp_path / "x", "c")
    found = vocabkit_here(tmp_path, "check", "shared.arrow")
    assert found.returncode == 2
    assert "x was 'x', which has changed since; add --tokenizer 'x'=x" in found.stderr
    again = vocabkit_here(tmp_path, "check", "shared.arrow", "--tokenizer", "x=x")
    assert again.returncode == 0
    assert "another version of this tokenizer" in again.stdout


def test_catalog_is_searched(tmp_path: Path) -> None:
    found = vocabkit_here(tmp_path, "catalog", "llama3.2").stdout
    assert "llama3.2-3b" in found
    assert "qwen" not in found
    lacking = vocabkit_here(tmp_path, "catalog", "zzz")
    assert (lacking.returncode, "no catalog name contains 'zzz'" in lacking.stderr) == (2, True)


def test_family_that_no_package_ships_is_named_on_the_hub() -> None:
    assert near_names("deepseek-v3") == "on the hub as deepseek-ai/DeepSeek-V3"
    assert "did you mean llama3" in near_names("lama3")


@pytest.mark.parametrize(
    ("asked", "offered"),
    [
        ("unsloth/Qwen2.5-7B-Instruct-bnb-4bit", "the catalog has the tokenizer of Qwen/Qwen2.5-7B: qwen2.5-7b"),
        ("google/gemma-3-4b-it", "the catalog has the tokenizer of google/gemma-3-4b-pt: gemma3-4b"),
        ("Qwen/Qwen2.5-7B", "the catalog has its tokenizer: qwen2.5-7b"),
    ],
)
def test_unreachable_hub_offers_what_the_catalog_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, offered: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(VocabkitError, match=offered):
        resolve(asked)


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    folder = letters(tmp_path / "x")
    with pytest.raises(VocabkitError, match="`text` is not valid Unicode"):
        align_text("\ud800", folder, folder)
