"""Index maps of the published LangBridge code become shared vocabularies or raise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from index_map_files import COUNTS, LLAMA_MAP, QWEN_MAP, RANKED_LLAMA_MAP, refusal, small, written
from tokenizer_files import added_token, bpe_json, read_json_tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from vocabkit.shared.align import align
from vocabkit.shared.audit import spellings
from vocabkit.shared.maps import best_alphabet, import_map
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.shared.verify import verify
from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def qwen() -> Vocabulary:
    return resolve("qwen2").vocabulary


@pytest.fixture(scope="module")
def llama() -> Vocabulary:
    return resolve("llama3").vocabulary


@pytest.fixture(scope="module")
def gemma() -> Vocabulary:
    return resolve("gemma3").vocabulary


def test_published_map_becomes_shared_vocabulary(tmp_path: Path, qwen: Vocabulary, llama: Vocabulary) -> None:
    shared = import_map(written(tmp_path, QWEN_MAP, "19200_Qwen.json"), qwen, [llama])
    assert shared.names == ["qwen2", "llama3"]
    assert shared.ids_for("qwen2").tolist() == list(QWEN_MAP.values())
    assert shared.ids_for("llama3").tolist() == list(LLAMA_MAP.values())
    assert shared.tokens[:3].to_pylist() == [b" the", b",", b" a"]
    assert (shared.selection.order, shared.selection.at_least) == ("map", 2)
    assert verify(shared, {"qwen2": qwen, "llama3": llama}).passed


def test_fingerprint_does_not_depend_on_name_of_file(tmp_path: Path, qwen: Vocabulary, llama: Vocabulary) -> None:
    one, other = (import_map(written(tmp_path, QWEN_MAP, name), qwen, [llama]) for name in ("a.json", "b.json"))
    assert one.fingerprint == other.fingerprint
    fewer = dict(list(QWEN_MAP.items())[:-1])
    assert import_map(written(tmp_path, fewer, "a.json"), qwen, [llama]).fingerprint != one.fingerprint


def test_imported_map_survives_its_file(tmp_path: Path, qwen: Vocabulary, llama: Vocabulary) -> None:
    shared = import_map(written(tmp_path, QWEN_MAP), qwen, [llama])
    shared.save(tmp_path / "shared.arrow")
    opened = open_shared(tmp_path / "shared.arrow")
    assert opened.fingerprint == shared.fingerprint
    assert opened.ids_for("llama3").tolist() == list(LLAMA_MAP.values())


def test_all_shared_tokens_of_two_real_tokenizers_round_trip(
    tmp_path: Path, qwen: Vocabulary, llama: Vocabulary
) -> None:
    aligned = align([qwen, llama])
    named = {token_id: spelling for spelling, token_id in spellings(qwen).items()}
    order = np.random.default_rng(0).permutation(len(aligned))
    content = {named[i]: i for i in aligned.ids_for("qwen2")[order].tolist()}
    shared = import_map(written(tmp_path, content), qwen, [llama])
    assert len(shared) == 109_566
    assert np.array_equal(shared.ids_for("llama3"), aligned.ids_for("llama3")[order])


@pytest.mark.parametrize("sister", [LLAMA_MAP, RANKED_LLAMA_MAP])
def test_map_published_for_other_llm_is_checked_too(
    tmp_path: Path, qwen: Vocabulary, llama: Vocabulary, sister: Any
) -> None:
    path, other = written(tmp_path, QWEN_MAP), written(tmp_path, sister, "other.json")
    alone = import_map(path, qwen, [llama])
    assert import_map(path, qwen, [llama], {"llama3": other}).fingerprint == alone.fingerprint


def test_sister_maps_of_another_order_size_or_llm_raise(tmp_path: Path, qwen: Vocabulary, llama: Vocabulary) -> None:
    path, rows = written(tmp_path, QWEN_MAP), list(LLAMA_MAP.items())
    swapped = written(tmp_path, dict([rows[0], rows[2], rows[1], *rows[3:]]), "swapped.json")
    message = refusal(import_map, path, qwen, [llama], {"llama3": swapped})
    assert "swapped.json: 2 of 40 rows differ from those of map.json: row 1 'Ġa' is b',' there; row 2" in message
    shorter = written(tmp_path, dict(rows[:-1]), "shorter.json")
    assert "39 rows, but map.json has 40" in refusal(import_map, path, qwen, [llama], {"llama3": shorter})
    assert "are not llama3's tokens" in refusal(import_map, path, qwen, [llama], {"llama3": path})
    assert "'llama' is not one of the others" in refusal(import_map, path, qwen, [llama], {"llama": swapped})


def test_map_of_another_llm_raises_with_its_first_wrong_rows(tmp_path: Path, qwen: Vocabulary) -> None:
    message = refusal(import_map, written(tmp_path, LLAMA_MAP), qwen)
    wrong = sum(QWEN_MAP[spelling] != LLAMA_MAP[spelling] for spelling in QWEN_MAP)
    assert f"{wrong} of 40 rows are not qwen2's tokens (spellings read as byte-level)" in message
    assert f"row 7 'ĠThe' id 578 is {qwen.token(578)!r}" in message
    assert message.count("row ") == 5
    assert f"and {wrong - 5} more" in message


def test_long_tokens_are_cut_in_messages(tmp_path: Path) -> None:
    long = small([b"x" * 57, b"x" * 58])
    message = refusal(import_map, written(tmp_path, {"a": 0, "b": 1}), long)
    assert f"row 0 'a' id 0 is b'{'x' * 57}'" in message
    assert f"row 1 'b' id 1 is b'{'x' * 57}…" in message


def test_non_text_ids_raise(tmp_path: Path, qwen: Vocabulary) -> None:
    content = {"<|endoftext|>": 151_643, "Ġthe": 279, "beyond": 151_646}
    message = refusal(import_map, written(tmp_path, content), qwen)
    assert "row 0 '<|endoftext|>' id 151643 is special b'<|endoftext|>'" in message
    assert "row 2 'beyond' id 151646 is beyond the last id 151645" in message
    holes = small([b"a", None, b""])
    message = refusal(import_map, written(tmp_path, {"a": 0, "": 2, "b": 1}), holes)
    assert "2 of 3 rows" in message
    assert "row 2 'b' id 1 is unused None" in message
    assert "1 of 1 rows" in refusal(import_map, written(tmp_path, {"": 2}), holes)


def test_corpus_counts_are_recognised(tmp_path: Path, qwen: Vocabulary) -> None:
    message = refusal(import_map, written(tmp_path, COUNTS), qwen)
    assert "holds corpus counts, not ids" in message
    assert "from 18429030 to 628887" in message
    assert "--rank-by" in message
    rare = written(tmp_path, dict.fromkeys(QWEN_MAP, 1))  # the end of the published file, ids that exist
    assert "holds corpus counts, not ids" in refusal(import_map, rare, qwen)


def test_counts_published_beside_a_map_are_kept(tmp_path: Path, qwen: Vocabulary, llama: Vocabulary) -> None:
    fewer = written(tmp_path, dict(list(QWEN_MAP.items())[::2]))
    counts = written(tmp_path, COUNTS, "sub_llava.json")
    shared = import_map(fewer, qwen, [llama], counts=counts)
    assert shared.counts is not None
    assert shared.counts.tolist() == list(COUNTS.values())[::2]
    total = sum(COUNTS.values())
    selection = shared.selection
    assert (selection.order, selection.corpus, selection.corpus_tokens) == ("map", "sub_llava.json", total)
    assert selection.mass_kept == shared.counts.sum() / total
    shared.save(tmp_path / "shared.arrow")
    assert open_shared(tmp_path / "shared.arrow").selection == selection
    without = import_map(fewer, qwen, [llama])
    assert without.counts is None
    assert shared.ids_for("qwen2").tolist() == without.ids_for("qwen2").tolist()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (dict(list(COUNTS.items())[2:]), "has no counts of 2 of the 40 rows of map.json: row 0 'Ġthe'; row 1 ','"),
        (QWEN_MAP, "holds ids of qwen2, not counts"),
        (LLAMA_MAP, "holds ids of llama3, not counts"),
        (RANKED_LLAMA_MAP, "holds ids of llama3, not counts"),
        ({"Ġthe": [3, 2]}, "'Ġthe' has a list or object for a count"),
        ({"Ġthe": "3" * 100}, f"'Ġthe' has \"{'3' * 59} for a count"),
        ({**COUNTS, ",": -1}, "',' has -1 for a count; counts are integers from 0"),
        (dict.fromkeys(COUNTS, 0), "its counts sum to 0"),
        (dict.fromkeys(COUNTS, 2**62), "its counts sum to 18446"),
        ([3, 1], "entry 0 of the list"),
    ],
)
def test_counts_of_something_else_raise(
    tmp_path: Path, qwen: Vocabulary, llama: Vocabulary, content: Any, words: str
) -> None:
    path, counts = written(tmp_path, QWEN_MAP), written(tmp_path, content, "counts.json")
    message = refusal(import_map, path, qwen, [llama], counts=counts)
    assert message.startswith(str(counts))
    assert words in message


def test_few_or_rising_values_are_not_taken_for_counts(tmp_path: Path, qwen: Vocabulary) -> None:
    for content in ({"Ġthe": 10**9, ",": 5}, {"Ġthe": 1, ",": 2, "Ġa": 3, "Ġof": 4, ".": 10**9}):
        assert "rows are not qwen2's tokens" in refusal(import_map, written(tmp_path, content), qwen)


def test_falling_ids_of_short_map_are_accepted(tmp_path: Path, qwen: Vocabulary) -> None:
    falling = dict(sorted(QWEN_MAP.items(), key=lambda row: -row[1]))
    assert len(import_map(written(tmp_path, falling), qwen)) == len(QWEN_MAP)


def test_tokenizer_that_lacks_rows_raises(tmp_path: Path, qwen: Vocabulary, gemma: Vocabulary) -> None:
    message = refusal(import_map, written(tmp_path, QWEN_MAP), qwen, [gemma])
    assert "3 of 40 rows are no tokens of gemma3" in message
    assert "row 20 '.ĊĊ' (b'.\\n\\n'); row 24 " in message
    assert "use fewer tokenizers: leave gemma3 out" in message


def test_tokenizer_given_twice_raises(tmp_path: Path, qwen: Vocabulary) -> None:
    assert "already" in refusal(import_map, written(tmp_path, QWEN_MAP), qwen, [qwen])


@pytest.mark.parametrize(
    ("spelling", "token_id", "owner", "token"),
    [  # rows from the ends of the published maps: single bytes and letters beyond ASCII
        ("İ", 236, "llama3", b"\x8e"),
        ("ı", 237, "llama3", b"\x8f"),
        ("itÃ©", 13109, "llama3", "ité".encode()),
        ("Ã¡rio", 20358, "llama3", "ário".encode()),
        ("Ã¼ÄŁ", 124958, "qwen2", "üğ".encode()),
        ("almÃ¶", 90756, "qwen2", "almö".encode()),
    ],
)
def test_byte_level_spellings_beyond_ascii(
    tmp_path: Path, spelling: str, token_id: int, owner: str, token: bytes
) -> None:
    shared = import_map(written(tmp_path, {spelling: token_id}), resolve(owner).vocabulary)
    assert shared.tokens.to_pylist() == [token]


def test_alphabet_is_found_by_testing_not_by_looks(gemma: Vocabulary, qwen: Vocabulary) -> None:
    g, q = {i: s for s, i in spellings(gemma).items()}, {i: s for s, i in spellings(qwen).items()}
    text = gemma.tokens.to_pylist()
    shared = align([qwen, gemma])
    rows = range(0, len(shared), 500)
    gemma_ids, qwen_ids = shared.ids_for("gemma3").tolist(), shared.ids_for("qwen2").tolist()
    assert best_alphabet([(q[qwen_ids[r]], qwen_ids[r]) for r in rows], qwen)[0] == "byte-level"
    assert best_alphabet([(q[qwen_ids[r]], gemma_ids[r]) for r in rows], gemma)[0] == "byte-level"
    assert best_alphabet([(g[gemma_ids[r]], gemma_ids[r]) for r in rows], gemma)[0] == "sentencepiece"
    assert best_alphabet([(g[gemma_ids[r]], qwen_ids[r]) for r in rows], qwen)[0] == "sentencepiece"
    plain = [(text[i].decode("utf-8", "replace"), i) for i in (gemma_ids[r] for r in rows)]
    assert best_alphabet(plain, gemma)[0] == "plain"
    assert best_alphabet([("the", 1782)], qwen)[0] == "plain"


def test_sentencepiece_map_of_gemma(tmp_path: Path, gemma: Vocabulary, qwen: Vocabulary) -> None:
    content = {"▁the": 506, "<0xA1>": 399, "▁▁": 138, "¡": 238_631}
    shared = import_map(written(tmp_path, content), gemma, [qwen])
    assert shared.tokens.to_pylist() == [b" the", b"\xa1", b"  ", "¡".encode()]
    assert verify(shared, {"gemma3": gemma, "qwen2": qwen}).passed


def test_alias_is_kept_since_adapter_learned_its_row(tmp_path: Path, gemma: Vocabulary) -> None:
    piece, alias = next((piece, aliases[0]) for piece, aliases in gemma.aliases().items())
    named = {i: s for s, i in spellings(gemma).items()}
    shared = import_map(written(tmp_path, {"▁the": 506, named[alias]: alias}), gemma)
    assert shared.ids_for("gemma3").tolist() == [506, alias]
    assert verify(shared, {"gemma3": gemma}).passed
    both = written(tmp_path, {named[alias]: alias, "▁the": 506, named[piece]: piece})
    message = refusal(import_map, both, gemma)
    assert f"rows 0 {named[alias]!r} (id {alias}) and 2 " in message
    assert "are the same bytes" in message


def test_map_keeps_the_model_piece_that_an_added_token_shadows(tmp_path: Path) -> None:
    content = bpe_json([*sorted(ByteLevel.alphabet()), "ĠĠ"], added=[added_token(257, "  ")])
    content["model"]["merges"] = ["Ġ Ġ"]
    owner = read_json_tokenizer(tmp_path, content)  # as GPT-NeoX has its runs of spaces
    assert owner.canonical[256] == 257
    shared = import_map(written(tmp_path, {"ĠĠ": 256, "a": int(owner.ids_of(pa.array([b"a"]))[0])}), owner)
    assert shared.ids_for(owner.name)[0] == 256
    verdict = verify(shared, {owner.name: owner})
    assert verdict.passed
    assert "hold an id of the right bytes that encode does not give" in verdict.notes[0]


def test_one_id_in_two_rows_raises(tmp_path: Path) -> None:
    path = written(tmp_path, {"▁a": 0, " a": 0, "▁b": 1, "<0x20>b": 1})
    assert "row 3 '<0x20>b' id 1 is b' b'" in refusal(import_map, path, small([b" a", b" b"]))
    path = written(tmp_path, {"▁a": 0, " a": 0})
    assert "rows 0 '▁a' (id 0) and 1 ' a' (id 0)" in refusal(import_map, path, small([b" a", b" b"]))
