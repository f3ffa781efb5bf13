"""Shared vocabularies of words: each tokenizer spells each word as its own library does in running text."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiktoken
from arrow_files import documented_fingerprint, forged, metadata_of, rewritten
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tiktoken.load import load_tiktoken_bpe
from tokenizer_files import real, real_file
from tokenizers import Tokenizer
from vocabularies import refusal, text_vocabulary

from vocabkit.errors import VocabkitError, VocabkitWarning
from vocabkit.shared.align_words import align_words
from vocabkit.shared.shared_vocabulary import SharedVocabulary, Spellings, open_shared, parse_shared, read_rows
from vocabkit.shared.verify import other_ids, verify
from vocabkit.shared.words import WordFinder, count_words, one_form_each, read_names, words_of
from vocabkit.tokenizer.load import load_tokenizer
from vocabkit.tokenizer.vocabulary import Vocabulary

WORDS = (
    "a", "the", "banjo", "hamsa", "sauropod", "sauropod's", "t-shirt", "Eiffel", "naïve", "Straße", "ĠĠ", "x▁y",
    "3.5", "2024", "<s>", "<|endoftext|>", "żółć", "हिन्दी", "中文", "😀x", "e\u0301", "don't",
)  # fmt: skip
NAMES = ("llama3", "deepseek", "mistral-v1")


@cache
def known(name: str) -> Vocabulary:
    """A vocabulary that says how it cuts text: Llama's own file does not."""
    return load_tokenizer(name) if name in ("llama3", "mistral-v3") else real(name)


@cache
def encoder(name: str) -> Callable[[str], list[int]]:
    """What the publisher's own library gives for a text, without special tokens."""
    if name == "llama3":
        pattern = "|".join(
            [
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{N}{1,3}",
                r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
            ]
        )  # fmt: skip
        ranks = load_tiktoken_bpe(str(real_file("llama3")))
        return tiktoken.Encoding("llama3", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode_ordinary
    if name == "mistral-v1":
        return SentencePieceProcessor(model_file=str(real_file(name))).encode
    library = Tokenizer.from_file(str(real_file(name)))
    library.encode_special_tokens = True
    return lambda text: library.encode(text, add_special_tokens=False).ids


def in_running_text(name: str, word: str) -> list[int]:
    """The ids of `word` behind another one."""
    before, both = encoder(name)("x"), encoder(name)(f"x {word}")
    assert both[: len(before)] == before
    return both[len(before) :]


@cache
def shared() -> SharedVocabulary:
    """The words of this file in three tokenizers of three kinds."""
    return align_words([known(name) for name in NAMES], dict.fromkeys(WORDS, 1), at_least=1)


# ---- spelling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_word_has_ids_that_library_gives_in_running_text_or_none_if_it_changes_the_word(name: str) -> None:
    for token, ids in zip(shared().tokens.to_pylist(), shared().spellings(name).lists(), strict=True):
        expected = in_running_text(name, token.decode().removeprefix(" "))
        decoded = b"".join(known(name).token(i) or b"" for i in expected)
        assert ids == (expected if decoded == token else [])
    assert shared().mask_for(name).sum() >= len(WORDS) - 2  # `▁` is a space to SentencePiece


@pytest.mark.parametrize("name", NAMES)
def test_ids_of_each_word_join_to_its_bytes(name: str) -> None:
    for token, ids in zip(shared().tokens.to_pylist(), shared().spellings(name).lists(), strict=True):
        assert not ids or b"".join(known(name).token(i) or b"" for i in ids) == token


def test_tokenizer_that_is_added_later_has_same_ids_as_one_of_the_set() -> None:
    counts = dict.fromkeys(WORDS, 1)
    without = align_words([known("llama3"), known("deepseek")], counts, at_least=1)
    late = without.extend(known("mistral-v1"))
    assert late.spellings("mistral-v1").lists() == shared().spellings("mistral-v1").lists()


def test_words_that_a_tokenizer_changes_are_left_out_unless_fewer_must_have_them() -> None:
    counts = {"eiffel": 3, "Eiffel": 2}
    pair = [known("minilm"), known("llama3")]  # the first lower-cases text
    assert list(align_words(pair, counts)) == [b" eiffel"]
    every = align_words(pair, counts, at_least=1)
    assert list(every) == [b" eiffel", b" Eiffel"]
    assert every.mask_for("minilm").tolist() == [True, False]
    assert every.selection.mass_kept == 1
    assert align_words(pair, counts).selection.mass_kept == 0.6


def test_id_without_row_in_embedding_table_spells_no_word() -> None:
    short = dataclasses.replace(known("llama3"), embedding_rows=1000)
    found = align_words([short, known("deepseek")], {"a": 1, "sauropod": 1}, at_least=1)
    assert found.mask_for("llama3").tolist() == [True, False]


def test_tokenizer_whose_source_does_not_say_how_it_cuts_text_raises() -> None:
    assert "does not say how text is cut" in refusal(
        align_words, [text_vocabulary("a", b" x"), known("llama3")], {"x": 1}
    )


# ---- words of a corpus -------------------------------------------------------------------------------------------


def test_words_stand_between_white_space_without_punctuation_at_their_ends() -> None:
    text = '"A harp,\n a t-shirt (blue)… and the sauropod\'s ☂ naïve\u00a0café -- हिन्दी!"'
    assert words_of(text) == ["A", "harp", "a", "t-shirt", "blue", "and", "the", "sauropod's", "naïve", "café", "हिन्दी"]


def test_words_that_differ_in_case_are_one_in_their_commonest_form(tmp_path: Path) -> None:
    """Most frequent first; of equal counts in the order of the captions."""
    file = tmp_path / "captions.txt"
    file.write_text("A zither in Paris.\nTHE\nA barn, a barn, Paris\nthe paris\n", "utf-8")
    expected = [("a", 3), ("Paris", 3), ("the", 2), ("barn", 2), ("zither", 1), ("in", 1)]
    assert list(count_words([file]).items()) == expected


def test_rows_are_most_frequent_words_with_their_counts(tmp_path: Path) -> None:
    file = tmp_path / "captions.txt"
    file.write_text("a harp and a barn\na harp\n", "utf-8")
    found = align_words([known("llama3"), known("deepseek")], [file], top=2)
    assert list(found) == [b" a", b" harp"]
    assert found.counts is not None
    assert found.counts.tolist() == [3, 2]
    assert (found.selection.order, found.selection.corpus) == ("count", "words of captions.txt")
    assert found.selection.mass_kept == 5 / 7
    assert "top 9: choose 1 to 4" in refusal(align_words, [known("llama3"), known("deepseek")], [file], top=9)


def test_beginning_of_a_list_of_words_is_kept_and_told(tmp_path: Path) -> None:
    file = captions_file(tmp_path, "the\nof\nand\na\n")
    with pytest.warns(VocabkitWarning, match="^`top` 2: nearly all of the 4 words occur equally often"):
        found = align_words([known("llama3"), known("deepseek")], [file], top=2)
    assert list(found) == [b" the", b" of"]
    with warnings.catch_warnings(action="error"):
        align_words([known("llama3"), known("deepseek")], [file], top=4)
        align_words([known("llama3"), known("deepseek")], [captions_file(tmp_path, "a harp and a barn\n")], top=1)


@pytest.mark.parametrize(
    "line",
    [
        "100.jpg#0\tA dog runs.",
        "100.jpg,A dog runs.",
        "the\t23135851162",
        "you 28787591",
        "the,23",
        "7 dogs",
        "dog\tbark",
    ],
)
def test_tables_that_are_read_as_captions_are_told(tmp_path: Path, line: str) -> None:
    file = captions_file(tmp_path, "word\n" + f"{line}\n" * 9)
    with pytest.warns(VocabkitWarning, match=r"captions\.txt: its captions are like rows of a table, such as '"):
        count_words([file])


def test_captions_may_hold_numbers_names_of_files_and_tabs(tmp_path: Path) -> None:
    lines = ["7 dogs", "a Boeing 747", "\tA cat.\t", "a sign: dog.jpg", "bark\tdog", "7", "7up"]
    with warnings.catch_warnings(action="error"):
        count_words([captions_file(tmp_path, "\n".join(lines))])


@pytest.mark.parametrize("content", ["... !\n", "\U0001f34e \u2764\ufe0f\n", "\0 \u200b \u00ad\n"])
def test_corpus_without_letters_and_digits_raises(tmp_path: Path, content: str) -> None:
    assert refusal(count_words, [captions_file(tmp_path, content)]).endswith("captions.txt: holds no words")


def captions_file(folder: Path, content: str) -> Path:
    (folder / "captions.txt").write_text(content, "utf-8")
    return folder / "captions.txt"


def test_emoji_are_no_words_and_do_not_count(tmp_path: Path) -> None:
    file = captions_file(tmp_path, "a \u2764\ufe0f apple \U0001f34e\n")
    found = align_words([known("llama3"), known("deepseek")], [file])
    assert list(found) == [b" a", b" apple"]
    assert (found.selection.corpus_tokens, found.selection.mass_kept) == (2, 1)


def test_control_characters_part_words_and_soft_hyphens_are_none() -> None:
    assert words_of("re\ad\0appl\x85e zero\u200bwidth soft\u00adhyphen") == [
        "re", "d", "appl", "e", "zero", "width", "softhyphen",
    ]  # fmt: skip


def test_words_are_one_whether_accents_are_composed_or_not(tmp_path: Path) -> None:
    file = captions_file(tmp_path, "a café, a cafe\u0301\n\u212b Å\n")
    assert count_words([file]) == {"a": 2, "café": 2, "Å": 2}
    assert WordFinder(["café", "cafe"]).rows("Cafe\u0301, cafe") == [0, 1]


def test_words_that_differ_in_more_than_case_are_several(tmp_path: Path) -> None:
    file = captions_file(tmp_path, "in Masse in Maße \ufb01sh fish\n")
    assert count_words([file]) == {"in": 2, "Masse": 1, "Maße": 1, "fish": 1, "\ufb01sh": 1}
    assert WordFinder(["Masse", "Maße"]).rows("MASSE, maße") == [0, 1]


def test_of_forms_as_frequent_as_each_other_the_one_in_lower_case_is_taken(tmp_path: Path) -> None:
    assert list(count_words([captions_file(tmp_path, "café CAFÉ\nThe BARN, the barn\n")])) == [
        "café", "the", "barn",
    ]  # fmt: skip
    assert one_form_each(["cat", "Cat", "cat", "sea lion", "Sea  Lion"]) == {"cat": "cat", "sea lion": "sea lion"}


def test_words_that_go_on_and_on_are_left_out_and_told(tmp_path: Path) -> None:
    file = captions_file(tmp_path, f"a {'ab' * 33} and {'c' * 64}\n")
    with pytest.warns(VocabkitWarning, match=r"^1 word of more than 64 characters left out, such as 'abab"):
        found = align_words([known("llama3"), known("deepseek")], [file])
    assert list(found) == [b" a", b" and", b" " + b"c" * 64]
    assert found.selection.mass_kept == 3 / 4


def test_clauses_of_a_script_without_spaces_are_told(tmp_path: Path) -> None:
    file = captions_file(tmp_path, "一只红色的苹果放在桌子上\n")
    with pytest.warns(
        VocabkitWarning, match=r"^words of more than 16 ids in smollm2: 1 of 1, such as '.*cut at spaces"
    ):
        align_words(["smollm2", "qwen2.5"], [file])


def test_tokenizers_that_cost_words_are_told_with_what_keeps_them() -> None:
    counts = {"Paris": 3, "a": 2, "Rome": 2, "Oslo": 1, "Bern": 1}
    with pytest.warns(VocabkitWarning) as told:
        align_words([known("llama3"), known("minilm")], counts)
    assert [str(each.message) for each in told] == [
        "4 of 5 words left out, which a tokenizer changes or lacks: minilm 4 ('Paris', 'Rome', 'Oslo', ...); "
        "`at_least` 1 keeps what 1 of the 2 can spell"
    ]


def test_words_are_found_in_any_case_and_phrases_before_their_words() -> None:
    finder = WordFinder(["a", "electric", "guitar", "electric guitar", "Paris"])
    assert finder.rows("An Electric guitar, a GUITAR; electric PARIS!") == [3, 0, 2, 1, 4]
    assert finder.rows("") == []


# ---- the table ---------------------------------------------------------------------------------------------------


def test_token_of_one_id_is_special_case_of_word() -> None:
    words, tokens = shared().only_with(*NAMES), known("llama3")
    single = np.flatnonzero(words.spellings("llama3").lengths == 1)
    ids = words.select(single).spellings("llama3").ids
    assert [tokens.token(i) for i in ids.tolist()] == list(words.select(single))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_selected_rows_keep_their_lists(data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(shared()) - 1), unique=True), label="rows")
    chosen = shared().select(rows)
    assert chosen.table.to_pylist() == [shared().table.to_pylist()[row] for row in rows]
    assert parse_shared(chosen.to_bytes(), "f").table.equals(chosen.table)


@given(st.lists(st.lists(st.integers(0, 2**31 - 1))), st.data())
def test_lists_are_kept_flat_and_read_back(lists: list[list[int]], data: st.DataObject) -> None:
    found = Spellings.of(lists)
    assert found.lists() == lists
    assert found.lengths.tolist() == list(map(len, lists))
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1)) if lists else st.just([]))
    assert found.take(np.array(rows, np.int64)).lists() == [lists[row] for row in rows]


def test_ids_of_one_each_are_refused_for_words_and_gaps_for_all() -> None:
    assert "take spellings('llama3')" in refusal(shared().ids_with_gaps, "llama3")
    assert "mistral-v1 lacks" in refusal(shared().spellings_for, "mistral-v1")


def test_file_has_format_2_opens_again_and_its_fingerprint_is_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "words.arrow"
    shared().save(path)
    opened = open_shared(path)
    assert opened.of_words
    assert metadata_of(path.read_bytes())["vocabkit.format"] == "shared-vocabulary/2"
    assert opened.table.equals(shared().table)
    assert parse_shared(forged(shared()), "f").fingerprint == opened.fingerprint
    assert parse_shared(rewritten(path.read_bytes(), rows_per_batch=3), "f").fingerprint == opened.fingerprint
    assert read_rows(opened, [0])[0].ids["llama3"] == in_running_text("llama3", "a")


@pytest.mark.parametrize("ids", [[[5], []], [[5], [128_255, 1 << 30]], [[5], [None]]], ids=["empty", "beyond", "null"])
def test_lists_that_vocabkit_never_writes_are_refused(ids: list[list[int | None]]) -> None:
    two = align_words([known("llama3"), known("deepseek")], {"a": 1, "sauropod": 1})
    table = two.table.set_column(3, "id:llama3", pa.array(ids, pa.list_(pa.int32())))
    assert "column id:llama3 has" in refusal(parse_shared, forged(two, table), "f")


def test_lists_are_refused_in_format_1() -> None:
    two = align_words([known("llama3"), known("deepseek")], {"a": 1})
    content = rewritten(two.to_bytes(), {"vocabkit.format": "shared-vocabulary/1"})
    assert "columns" in refusal(parse_shared, content, "f")


# ---- verify ------------------------------------------------------------------------------------------------------


def test_every_row_is_right_in_every_tokenizer() -> None:
    verdict = verify(shared(), {name: known(name) for name in NAMES})
    assert verdict.problems == ()
    assert verdict.notes == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda ids: [*ids, 5], "but the file has [{ids}, 5]"),
        (lambda ids: ids[::-1], "but the file has [{reverse}]"),
        (lambda _: None, "but the file has none"),
    ],
    ids=["one more", "another order", "null"],
)
def test_wrong_list_is_named_with_what_encode_gives(change: Callable[[list[int]], list[int] | None], says: str) -> None:
    pair = {name: known(name) for name in ("llama3", "deepseek")}
    right = align_words(list(pair.values()), {"a": 1, "sauropod": 1})
    ids = right.spellings("llama3").lists()
    column = pa.array([ids[0], change(ids[1])], pa.list_(pa.int32()))
    wrong = dataclasses.replace(right, table=right.table.set_column(3, "id:llama3", column))
    text = says.format(ids=str(ids[1])[1:-1], reverse=str(ids[1][::-1])[1:-1])
    assert verify(wrong, pair).problems == (f"llama3: row 1 is b' sauropod', for which encode gives {ids[1]}, {text}",)
    assert other_ids(right, "llama3", pair["llama3"]) is None
    told = other_ids(wrong, "llama3", pair["llama3"])
    if column[1].is_valid:
        assert told is not None
        assert told.endswith("for 1 of 2 tokens, the first is ' sauropod'")
    else:
        assert told is None, "a row that the column lacks has no other ids"


def test_pieces_of_right_bytes_that_encode_does_not_give_are_wrong() -> None:
    pair = {name: known(name) for name in ("llama3", "deepseek")}
    right = align_words(list(pair.values()), {"sauropod": 1})
    ids_of = {token: i for i, token in enumerate(known("llama3").tokens.to_pylist())}
    letters = [ids_of[bytes([byte])] for byte in b" sauropod"]
    column = pa.array([letters], pa.list_(pa.int32()))
    spelled_out = dataclasses.replace(right, table=right.table.set_column(3, "id:llama3", column))
    assert len(verify(spelled_out, pair).problems) == 1
    assert other_ids(spelled_out, "llama3", pair["llama3"]) is None, "they join to the word"
    assert documented_fingerprint(spelled_out.table) != documented_fingerprint(right.table)


# ---- names of a list beside the words of captions ------------------------------------------------------------------


def test_names_are_rows_after_the_words_of_captions(tmp_path: Path) -> None:
    captions, names = tmp_path / "captions.txt", tmp_path / "names.txt"
    captions.write_text("a Banjo and a banjo\n")
    names.write_text("sea lion\nBANJO\n sea  lion.\n")
    shared = align_words([known("llama3"), known("deepseek")], [captions], names=read_names(names))
    assert list(shared) == [b" a", b" banjo", b" and", b" sea lion"]
    assert shared.counts is not None
    assert shared.counts.tolist() == [2, 2, 1, 0]
    alone = align_words([known("llama3"), known("deepseek")], [], names=read_names(names))
    assert list(alone) == [b" sea lion", b" BANJO"]
    assert alone.selection.corpus is None


def test_names_are_rows_whatever_number_of_words_is_kept(tmp_path: Path) -> None:
    file = captions_file(tmp_path, "a harp and a barn and a banjo\n")
    shared = align_words([known("llama3"), known("deepseek")], [file], top=2, names=["sea lion", "harp", "A"])
    assert list(shared) == [b" a", b" and", b" harp", b" sea lion"]
    assert shared.selection.mass_kept == 6 / 8


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "line 1 has no name in it"),
        (b"cat\n\ndog\n", r"line 2 has no name in it; leave it out, .* \(blank lines may stand at the end only\)"),
        (b"!\n", "line 1 has no name in it"),
        (b"cat\ntench, Tinca tinca\n", "line 2 has ',' in it; give one name in a line, such as tench"),
        (b"0\tcat\n", r"line 1 has '\\t' in it"),
        (b"cat\nc\0t\n", r"line 2 has '\\x00' in it"),
        (b"\xff\n", "not UTF-8 text"),
        (b"cat\ngreat_white_shark\n", "line 2, 'great_white_shark', has '_' in it; write spaces"),
        (b"n01440764 tench\n", "line 1, 'n01440764 tench', has the number of a synset in it"),
        (b"/a/airfield 0\n", "line 1, '/a/airfield 0', begins with '/', as paths do; give the name alone"),
        (b"# classes\ncat\n", "line 1, '# classes', begins with '#', as comments do; leave it out"),
    ],
)
def test_lists_with_lines_without_one_name_raise(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(VocabkitError, match=rf"names\.txt: {says}"):
        read_names(tmp_path / "names.txt")


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        (["1: person", "2: bicycle"], "begin"),
        (["001.Ovenbird", "002.Mallard"], "begin"),
        (["0 person", "1 bicycle", "12 stop sign"], "begin"),
        (["airfield 0", "alley 1"], "end"),
    ],
)
def test_numbers_of_lines_are_told(tmp_path: Path, lines: list[str], where: str) -> None:
    (tmp_path / "names.txt").write_text("\n".join(lines))
    with pytest.warns(VocabkitWarning, match=f"nearly all lines {where} with a number, such as '{lines[0]}'"):
        read_names(tmp_path / "names.txt")


@pytest.mark.parametrize("names", [["7up", "2 wheeler", "Boeing 747", "AT&T", "o'clock", "AC/DC"], ["Boeing 747"]])
def test_names_with_digits_and_signs_are_names(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "names.txt").write_text("\n".join(names))
    with warnings.catch_warnings(action="error"):
        assert read_names(tmp_path / "names.txt") == names


@pytest.mark.parametrize("ending", ["csv", "JSON", "jsonl", "parquet"])
def test_tables_are_no_lists_of_names(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"names.{ending}").write_text("cat\n")
    assert refusal(read_names, tmp_path / f"names.{ending}").endswith(
        f"names.{ending}: names are read from plain text, one name in a line, such as tench"
    )


def test_lists_may_have_a_byte_order_mark_and_blank_lines_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("\ufeffcat\r\n sea\u00a0lion\t\r\n\n\n".encode())
    assert read_names(tmp_path / "names.txt") == ["cat", "sea lion"]
