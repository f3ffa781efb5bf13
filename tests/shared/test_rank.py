"""Counting tokens over a caption corpus, and ranking shared tokens by it."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from caption_files import CAPTIONS, FORMATS, write_text
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tiktoken.load import load_tiktoken_bpe
from tokenizer_files import (
    BYTE_LEVEL,
    added_token,
    bpe_json,
    every,
    library_alphabet,
    read_json_tokenizer,
    real,
    real_file,
    unigram_json,
)
from tokenizers import Tokenizer
from vocabularies import text_vocabulary

from vocabkit.errors import VocabkitError
from vocabkit.shared import pieces
from vocabkit.shared.align import align
from vocabkit.shared.corpus import LONGEST
from vocabkit.shared.rank import count_tokens, rank
from vocabkit.shared.shared_vocabulary import SharedVocabulary, open_shared
from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.segmentation import to_tokenizers
from vocabkit.tokenizer.vocabulary import Vocabulary

LLAMA3_PATTERN = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
]  # fmt: skip
"""The pre-tokenizer in llama_models/llama3/tokenizer.py."""


@pytest.fixture(scope="module")
def smollm() -> Vocabulary:
    return resolve("smollm2").vocabulary


@pytest.fixture(scope="module")
def llama() -> Vocabulary:
    return resolve("llama3").vocabulary


@pytest.fixture(scope="module")
def shared(smollm: Vocabulary, llama: Vocabulary) -> SharedVocabulary:
    return align([smollm, llama])


def by_id(counts: np.ndarray) -> dict[int, int]:
    return {int(i): int(counts[i]) for i in np.flatnonzero(counts)}


def occurrences(vocabulary: Vocabulary, cut: Iterable[Sequence[int]]) -> dict[int, int]:
    """How often each canonical id stands in captions that were cut elsewhere."""
    return dict(Counter(int(vocabulary.canonical[i]) for ids in cut for i in ids))


# ---- counting ----------------------------------------------------------------------------------------------------


def tiktoken_of_llama3() -> Callable[[str], list[int]]:
    ranks = load_tiktoken_bpe(str(real_file("llama3")))
    pattern = "|".join(LLAMA3_PATTERN)
    return tiktoken.Encoding("llama3", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode


def sentencepiece_of_mistral() -> Callable[[str], list[int]]:
    return SentencePieceProcessor(model_file=str(real_file("mistral-v1"))).encode


def tokenizers_of_deepseek() -> Callable[[str], list[int]]:
    library = Tokenizer.from_file(str(real_file("deepseek")))
    library.encode_special_tokens = True
    return lambda text: library.encode(text, add_special_tokens=False).ids


@pytest.mark.usefixtures("sources")
@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("llama3", tiktoken_of_llama3),
        ("mistral-v1", sentencepiece_of_mistral),
        ("deepseek", tokenizers_of_deepseek),
    ],
    ids=["llama3", "mistral-v1", "deepseek"],
)
def test_counts_are_those_of_publishers_own_library(
    tmp_path: Path, name: str, library: Callable[[], Callable[[str], list[int]]]
) -> None:
    vocabulary = real(name) if name == "deepseek" else resolve(name).vocabulary
    write_text(tmp_path / "captions.txt")
    counts = count_tokens(vocabulary, [tmp_path / "captions.txt"])
    assert by_id(counts) == occurrences(vocabulary, map(library(), CAPTIONS))


def lines_of_tokens(vocabulary: Vocabulary, count: int) -> list[str]:
    """Lines of random tokens of the vocabulary, special ones too, beside spaces of all kinds and odd characters."""
    chosen = random.Random(0)
    tokens = [(token or b"").decode("utf-8", "ignore") for token in vocabulary.tokens.to_pylist()]
    odd = ["▁", "\u0301", "\u200b", "\u200d", "\u00a0", "\u3000", "\t", "  ", "é", "ﾞ", "🐈", "'s", ">", "]", "</"]
    lines = []
    for _ in range(count):
        parts = [chosen.choice(["", " ", " ", "  "]) + chosen.choice(chosen.choice((tokens, odd))) for _ in range(15)]
        lines.append("".join(parts).replace("\n", " ").replace("\r", " ").replace("<image>", ""))
    return [line for line in lines if line.strip()]


@pytest.mark.usefixtures("sources")
@pytest.mark.parametrize(
    "name",
    [every(name) for name in ("qwen2.5", "gemma3", "smollm2", "mistral-v1", "deepseek", "minilm", "kyoto-unigram")],
)
def test_token_counts_wherever_whole_caption_cut_alone_has_it(tmp_path: Path, name: str) -> None:
    vocabulary = real(name) if name in ("deepseek", "minilm", "kyoto-unigram") else resolve(name).vocabulary
    lines = lines_of_tokens(vocabulary, 1500)
    (tmp_path / "lines.txt").write_bytes("\n".join(lines).encode())
    cut = to_tokenizers(vocabulary).encode_batch(lines, add_special_tokens=False)
    counts = count_tokens(vocabulary, [tmp_path / "lines.txt"])
    assert by_id(counts) == occurrences(vocabulary, (encoding.ids for encoding in cut))


def test_tokens_that_reach_across_words_are_counted(tmp_path: Path) -> None:
    bytes_alone = sorted(library_alphabet())
    content = bpe_json([*bytes_alone, "Ġb", "aĠb"], merges=[["Ġ", "b"], ["a", "Ġb"]])
    content["pre_tokenizer"] = {**BYTE_LEVEL, "use_regex": False}
    vocabulary = read_json_tokenizer(tmp_path, content)
    (tmp_path / "a.txt").write_text("a b b b\nb b a b")
    values = vocabulary.tokens.to_pylist()
    counts = by_id(count_tokens(vocabulary, [tmp_path / "a.txt"]))
    assert {values[i]: count for i, count in counts.items()} == {b"a b": 2, b" b": 3, b"b": 1, b" ": 1}


def test_text_that_spells_special_token_counts_as_text(tmp_path: Path, smollm: Vocabulary) -> None:
    (tmp_path / "a.txt").write_text("<|im_end|> and a <|endoftext|>")
    counts = count_tokens(smollm, [tmp_path / "a.txt"])
    assert counts[list(smollm.roles.values())].sum() == 0
    assert counts[smollm.tokens.to_pylist().index(b"im")] == 1


def test_aliases_count_for_canonical_id(tmp_path: Path) -> None:
    content = bpe_json(["a", "Ġ", "Ġa"], added=[added_token(3, " a")]) | {"pre_tokenizer": BYTE_LEVEL}
    vocabulary = read_json_tokenizer(tmp_path, content)
    assert vocabulary.aliases() == {3: [2]}
    (tmp_path / "a.txt").write_text("a a a")
    assert to_tokenizers(vocabulary).encode("a a a").ids == [0, 3, 3]
    assert count_tokens(vocabulary, [tmp_path / "a.txt"]).tolist() == [1, 0, 0, 2]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_same_counts(tmp_path: Path, smollm: Vocabulary, name: str) -> None:
    FORMATS[name](tmp_path / name, CAPTIONS)
    cut = to_tokenizers(smollm).encode_batch(CAPTIONS, add_special_tokens=False)
    assert by_id(count_tokens(smollm, [tmp_path / name])) == occurrences(smollm, (encoding.ids for encoding in cut))


@pytest.mark.parametrize("pending", [(1, 1), (3, 1 << 20), (1 << 20, 100)])
def test_counts_do_not_depend_on_how_much_is_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm: Vocabulary, pending: tuple[int, int]
) -> None:
    write_text(tmp_path / "a.txt", CAPTIONS * 3)
    expected = count_tokens(smollm, [tmp_path / "a.txt"])
    monkeypatch.setattr(pieces, "PENDING_PIECES", pending[0])
    monkeypatch.setattr(pieces, "PENDING_CHARACTERS", pending[1])
    monkeypatch.setattr(pieces, "BATCH_TEXTS", 2)
    assert np.array_equal(count_tokens(smollm, [tmp_path / "a.txt"]), expected)


@pytest.fixture(scope="module")
def cutter(smollm: Vocabulary) -> pieces.Cutter:
    return pieces.make_cutter(smollm)


@settings(max_examples=50, deadline=None)
@given(
    files=st.lists(
        st.lists(st.sampled_from(CAPTIONS) | st.text(st.characters(codec="utf-8")), max_size=5), min_size=1, max_size=4
    )
)
def test_counts_of_files_add_up(cutter: pieces.Cutter, files: list[list[str]]) -> None:
    size = cutter.tokenizer.get_vocab_size()
    parts = [pieces.count_ids(cutter, texts, size) for texts in files]
    together = pieces.count_ids(cutter, (text for texts in files for text in texts), size)
    assert np.array_equal(together, np.sum(parts, axis=0))


@pytest.fixture
def _three_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "ALONE", 100)
    monkeypatch.setattr(pieces, "BATCH_TEXTS", 2)
    monkeypatch.setattr(pieces, "_cores", lambda: 3)


@pytest.mark.usefixtures("_three_processes")
def test_counts_of_several_processes_are_those_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm: Vocabulary
) -> None:
    for name in "abc":
        write_text(tmp_path / f"{name}.txt", CAPTIONS * 5)
    write_text(tmp_path / "d.txt", ["<|im_start|>", "half a\u2028line"])
    several = count_tokens(smollm, [tmp_path])
    monkeypatch.setattr(pieces, "ALONE", 1 << 20)
    assert np.array_equal(several, count_tokens(smollm, [tmp_path]))


@pytest.mark.usefixtures("_three_processes")
def test_what_a_process_cannot_cut_is_an_error_of_all(tmp_path: Path) -> None:
    vocabulary = read_json_tokenizer(tmp_path, unigram_json(["a", "b"]))
    write_text(tmp_path / "a.txt", ["ab"] * 1000 + ["z"] + ["ab"] * 20_000)
    with pytest.raises(VocabkitError, match="can't cut a text"):
        count_tokens(vocabulary, [tmp_path / "a.txt"])


@pytest.mark.usefixtures("_three_processes")
def test_killed_process_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm: Vocabulary) -> None:
    write_text(tmp_path / "a.txt", CAPTIONS * 1000)
    monkeypatch.setattr(pieces.sys, "executable", "/bin/false")
    with pytest.raises(VocabkitError, match="a process ended early"):
        count_tokens(smollm, [tmp_path / "a.txt"])


@pytest.mark.parametrize("name", ["smollm2", "mistral-v1"])
def test_long_line_counts_as_if_it_were_whole(tmp_path: Path, name: str) -> None:
    vocabulary = resolve(name).vocabulary
    sentence = "The <b> bold </b> brown fox, 42 years old, jumps  over the lazy dog's tail."
    long = " ".join([sentence] * (3 * LONGEST // len(sentence)))
    (tmp_path / "a.txt").write_text(long)
    whole = to_tokenizers(vocabulary).encode(long, add_special_tokens=False)
    assert by_id(count_tokens(vocabulary, [tmp_path / "a.txt"])) == occurrences(vocabulary, [whole.ids])


def test_corpus_without_captions_raises(tmp_path: Path, smollm: Vocabulary) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    for paths in ([tmp_path / "empty.txt"], []):
        with pytest.raises(VocabkitError, match="holds no captions"):
            count_tokens(smollm, paths)


def test_tokenizer_needs_token_for_each_character_of_corpus_only(tmp_path: Path) -> None:
    vocabulary = read_json_tokenizer(tmp_path, unigram_json(["a", "b"]))
    (tmp_path / "a.txt").write_text("ab\nb\na\nb")
    assert count_tokens(vocabulary, [tmp_path / "a.txt"]).tolist() == [2, 3]
    (tmp_path / "a.txt").write_text("a\nz")
    with pytest.raises(VocabkitError, match="can't cut a text"):
        count_tokens(vocabulary, [tmp_path / "a.txt"])


# ---- ranking -----------------------------------------------------------------------------------------------------


def test_rows_are_sorted_by_frequency_and_ties_keep_order(
    tmp_path: Path, smollm: Vocabulary, shared: SharedVocabulary
) -> None:
    (tmp_path / "a.txt").write_text("the the the cat cat dog")
    ranked = rank(shared, smollm, [tmp_path / "a.txt"])
    assert len(ranked) == len(shared)
    assert ranked.tokens[:5].to_pylist() == [b" the", b" cat", b"the", b" dog", b"!"]
    counts = ranked.counts
    assert counts is not None
    assert counts[:5].tolist() == [2, 2, 1, 1, 0]
    rest = ranked.ids_for("smollm2")[4:]
    assert np.array_equal(rest, np.sort(rest))


def test_top_keeps_most_frequent_and_records_mass(tmp_path: Path, smollm: Vocabulary, shared: SharedVocabulary) -> None:
    (tmp_path / "a.jsonl").write_text('{"alt": "the the the cat cat dog"}')
    ranked = rank(shared, smollm, [tmp_path / "a.jsonl"], top=2, text_column="alt")
    assert ranked.tokens.to_pylist() == [b" the", b" cat"]
    assert ranked.selection.order == "count"
    assert ranked.selection.corpus == "a.jsonl (alt), counted with smollm2"
    assert (ranked.selection.corpus_tokens, ranked.selection.mass_kept) == (6, 4 / 6)
    ranked.save(tmp_path / "ranked.arrow")
    opened = open_shared(tmp_path / "ranked.arrow")
    assert opened.fingerprint == ranked.fingerprint
    assert opened.selection == ranked.selection
    assert opened.counts is not None
    assert opened.counts.tolist() == [2, 2]


def test_corpus_whose_name_is_not_unicode_can_be_recorded(
    tmp_path: Path, smollm: Vocabulary, shared: SharedVocabulary
) -> None:
    path = tmp_path / "caf\udce9.txt"
    path.write_text("the cat")
    ranked = rank(shared, smollm, [path], top=1)
    ranked.save(tmp_path / "ranked.arrow")
    assert open_shared(tmp_path / "ranked.arrow").selection == ranked.selection


def test_special_roles_stay_after_ranked_rows(tmp_path: Path, smollm: Vocabulary, llama: Vocabulary) -> None:
    (tmp_path / "a.txt").write_text("the cat<|im_end|>")
    ranked = rank(align([smollm, llama], special_roles=True), smollm, [tmp_path / "a.txt"], top=2)
    assert len(ranked) == 2 + len(ranked.roles)
    assert sorted(ranked.roles.values()) == list(range(2, len(ranked)))
    assert ranked.ids_for("llama3")[ranked.roles["turn_end"]] == llama.roles["turn_end"]
    assert ranked.counts is not None
    assert ranked.counts[2:].sum() == 0


def test_rows_of_union_that_counter_lacks_count_nothing(tmp_path: Path) -> None:
    counter = dataclasses.replace(read_json_tokenizer(tmp_path, bpe_json(["a", "b"], added=[])), name="counter")
    (tmp_path / "a.txt").write_text("a\nb\nb\n")
    union = rank(align([counter, text_vocabulary("other", b"b", b"c")], at_least=1), counter, [tmp_path / "a.txt"])
    assert union.tokens.to_pylist() == [b"b", b"a", b"c"]
    assert union.counts is not None
    assert union.counts.tolist() == [2, 1, 0]  # the counter's last id, b, is in the corpus; c has no id at all
    assert union.selection.mass_kept == 1


def test_progress_counts_the_bytes_of_the_corpus(tmp_path: Path, smollm: Vocabulary, shared: SharedVocabulary) -> None:
    seen: list[tuple[str, int, int]] = []
    (tmp_path / "a.txt").write_text("the cat\n" * 9)
    rank(shared, smollm, [tmp_path / "a.txt"], progress=lambda *counted: seen.append(counted))
    assert seen[-1] == ("counting with smollm2", 72, 72)


def test_invalid_top_raises(tmp_path: Path, smollm: Vocabulary, shared: SharedVocabulary) -> None:
    for top in (0, -1, len(shared) + 1):
        with pytest.raises(VocabkitError, match=f"top {top}: choose 1 to {len(shared)}, "):
            rank(shared, smollm, [tmp_path / "a.txt"], top=top)


def test_counter_outside_tokenizers_raises(tmp_path: Path, shared: SharedVocabulary) -> None:
    (tmp_path / "a.txt").write_text("the cat")
    with pytest.raises(VocabkitError, match="gemma3 is not in this shared vocabulary"):
        rank(shared, resolve("gemma3").vocabulary, [tmp_path / "a.txt"])
    with pytest.raises(VocabkitError, match="smollm2: not the tokenizer of this name"):
        rank(shared, resolve("smollm2=mistral-v1").vocabulary, [tmp_path / "a.txt"])


RANK = """
import sys
from pathlib import Path
from vocabkit.shared.align import align
from vocabkit.tokenizer.catalog import resolve
from vocabkit.shared.rank import rank
corpus, out = map(Path, sys.argv[1:])
both = [resolve(name).vocabulary for name in ("smollm2", "mistral-v1")]
rank(align(both), both[0], [corpus], top=500).save(out)
"""


def test_two_processes_rank_to_same_bytes(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt")
    for seed in ("1", "2"):
        command = [sys.executable, "-c", RANK, str(tmp_path / "a.txt"), str(tmp_path / f"{seed}.arrow")]
        subprocess.run(command, check=True, env={"PYTHONHASHSEED": seed})
    assert (tmp_path / "1.arrow").read_bytes() == (tmp_path / "2.arrow").read_bytes()
