"""Where matching tokens by their spelling goes wrong. Each test says what happens without its rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizer_files import (
    BYTE,
    BYTE_LEVEL,
    CONTROL,
    FALLBACK,
    FUSE,
    METASPACE,
    NORMAL,
    SPACES,
    STRIP,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    added_token,
    alphabet_spelling,
    bpe_json,
    gguf_file,
    gguf_tokenizer,
    rank_file,
    read_json_tokenizer,
    real,
    real_file,
    sentencepiece_model,
    sequence,
    unigram_json,
    wordpiece_json,
    write_json,
)
from tokenizers import Tokenizer

from vocabkit.errors import VocabkitError
from vocabkit.shared.align import align
from vocabkit.tokenizer.catalog import catalog, read_source
from vocabkit.tokenizer.read import read
from vocabkit.tokenizer.snapshot import Provenance
from vocabkit.tokenizer.snapshot import write as write_snapshot
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

SENTENCEPIECE = sequence(SPACES, FALLBACK, FUSE, STRIP)


def tokens(vocabulary: Vocabulary) -> list[bytes | None]:
    """Bytes of all ids."""
    return vocabulary.tokens.to_pylist()


# ---- 1: a spelling is not the bytes ------------------------------------------------------------------------------


def test_1_equal_spelling_in_two_alphabets_is_not_same_token(tmp_path: Path) -> None:
    """Without inverting the byte alphabet, the byte A1 would match the letter `¡`, which is C2 A1."""
    byte_level = read_json_tokenizer(tmp_path, bpe_json(["¡", "Â¡", "a"]))
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model([("<unk>", UNKNOWN), ("¡", NORMAL), ("a", NORMAL)]))
    pieces = read(tmp_path / "tokenizer.model")
    assert tokens(byte_level)[:2] == [b"\xa1", b"\xc2\xa1"]
    shared = align([byte_level, pieces])
    assert {bytes(token): (a, b) for token, a, b in zip(*shared_columns(shared), strict=True)} == {
        b"\xc2\xa1": (1, 1),
        b"a": (2, 2),
    }


def shared_columns(shared) -> tuple[list[bytes], list[int], list[int]]:  # type: ignore[no-untyped-def]
    """Tokens and the ids in both tokenizers."""
    first, second = shared.names
    return shared.tokens.to_pylist(), shared.ids_for(first).tolist(), shared.ids_for(second).tolist()


@pytest.mark.usefixtures("sources")
def test_1_real_one_byte_tokens_are_bytes_in_one_tokenizer_and_letters_in_other() -> None:
    """Without inverting the alphabet, Qwen's 128 lone bytes would pass for Gemma's Latin-1 letters."""
    qwen, gemma = set(tokens(real("qwen"))), set(tokens(real("gemma3")))
    for code in (0xA1, 0xE9, 0xFF):
        assert bytes([code]) in qwen
        assert chr(code).encode() in gemma


# ---- 2: the alphabet stands in the file --------------------------------------------------------------------------


def test_2_decoder_decides_alphabet_not_spelling(tmp_path: Path) -> None:
    """Guessed from the `Ġ`, this vocabulary would be byte-level; its decoder says that `Ġ` is a Maltese letter."""
    vocabulary = read_json_tokenizer(tmp_path, bpe_json(["Ġ", "Ġorġ", "▁Ġ"], METASPACE))
    assert tokens(vocabulary) == ["Ġ".encode(), "Ġorġ".encode(), " Ġ".encode()]


def test_2_pre_tokenizer_decides_alphabet_without_decoder(tmp_path: Path) -> None:
    """Without this rule a file that has no decoder could only be guessed."""
    content = bpe_json(["Ġa", "é"], decoder=None)
    byte_level = read_json_tokenizer(tmp_path, {**content, "pre_tokenizer": BYTE_LEVEL})
    assert tokens(byte_level) == [b" a", b"\xe9"]
    split = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]}
    assert tokens(read_json_tokenizer(tmp_path, {**content, "pre_tokenizer": split})) == [b" a", b"\xe9"]
    for byte_fallback, line_break in ((True, b"\n"), (False, b"<0x0A>")):
        content = bpe_json(["▁a", "é", "<0x0A>"], decoder=None, byte_fallback=byte_fallback)
        metaspace = read_json_tokenizer(tmp_path, {**content, "pre_tokenizer": METASPACE})
        assert tokens(metaspace) == [b" a", "é".encode(), line_break]


def test_2_undetermined_alphabet_raises(tmp_path: Path) -> None:
    """Without this, a guess would give wrong bytes for every token."""
    with pytest.raises(VocabkitError, match=r"tokenizer\.json: has no decoder"):
        read_json_tokenizer(tmp_path, bpe_json(["Ġa"], decoder=None))


def test_2_unknown_decoder_raises(tmp_path: Path) -> None:
    """Without this, its tokens would be read with the rules of another decoder."""
    with pytest.raises(VocabkitError, match=r"'Reverse', which says nothing about a single token"):
        read_json_tokenizer(tmp_path, bpe_json(["a"], {"type": "Reverse"}))


def test_2_byte_level_pieces_outside_alphabet_are_literal(tmp_path: Path) -> None:
    """`tokenizers` decodes such a piece as its own UTF-8; character by character, half of it would be dropped."""
    content = bpe_json(["日本", "é日", "Ġ"])
    vocabulary = read_json_tokenizer(tmp_path, content)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokens(vocabulary) == ["日本".encode(), "é日".encode(), b" "]
    assert [library.decode([i]) for i in range(3)] == ["日本", "é日", " "]


# ---- 3: SentencePiece spaces and bytes ---------------------------------------------------------------------------


def test_3_every_low_line_is_space(tmp_path: Path) -> None:
    """With only the first one replaced, `▁of▁the` would keep a character that no text holds."""
    pieces = ["▁of▁the", "▁▁", "a▁"]
    assert tokens(read_json_tokenizer(tmp_path, bpe_json(pieces, SENTENCEPIECE))) == [b" of the", b"  ", b"a "]
    assert tokens(read_json_tokenizer(tmp_path, unigram_json(pieces))) == [b" of the", b"  ", b"a "]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model([(piece, NORMAL) for piece in pieces]))
    assert tokens(read(path)) == [b" of the", b"  ", b"a "]


def test_3_sentencepiece_decodes_low_lines_even_where_it_does_not_write_them(tmp_path: Path) -> None:
    """`escape_whitespaces` is about encoding; read as about decoding, these tokens would lose their spaces."""
    import sentencepiece

    pieces = [("<unk>", UNKNOWN), ("a", NORMAL), ("▁b", NORMAL)]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model(pieces, normalizer=[(5, 0)]))
    library = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert library.decode([1, 2]) == "a b"
    assert tokens(read(path))[2] == b" b"


def test_3_byte_spelling_is_byte_only_with_byte_fallback(tmp_path: Path) -> None:
    """Without looking at the decoder, a piece that spells `<0x0A>` would become a line break."""
    with_bytes = read_json_tokenizer(tmp_path, bpe_json(["<0x0A>", "\n"], SENTENCEPIECE))
    assert (tokens(with_bytes), with_bytes.kinds.tolist()) == ([b"\n", b"\n"], [Kind.BYTE, Kind.TEXT])
    without = read_json_tokenizer(tmp_path, bpe_json(["<0x0A>", "\n"], METASPACE))
    assert (tokens(without), without.kinds.tolist()) == ([b"<0x0A>", b"\n"], [Kind.TEXT, Kind.TEXT])


def test_3_type_of_piece_tells_bytes_in_sentencepiece_and_gguf(tmp_path: Path) -> None:
    """Without looking at the type, an ordinary piece spelled `<0x41>` would become an A."""
    pieces = [("<unk>", UNKNOWN), ("<0x41>", NORMAL), ("<0x42>", BYTE)]
    (tmp_path / "m.gguf").write_bytes(gguf_file(gguf_tokenizer(pieces)))
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
    for file in ("m.gguf", "tokenizer.model"):
        vocabulary = read(tmp_path / file)
        assert tokens(vocabulary)[1:] == [b"<0x41>", b"B"]
        assert vocabulary.kinds.tolist() == [Kind.SPECIAL, Kind.TEXT, Kind.BYTE]


# ---- 4: several ids for the same bytes ---------------------------------------------------------------------------


def test_4_piece_precedes_byte_piece_of_same_bytes(tmp_path: Path) -> None:
    """With "the last one wins" or "the first one wins", the byte-fallback id would stand for a common token."""
    for order in (["<0x09>", "\t"], ["\t", "<0x09>"]):
        vocabulary = read_json_tokenizer(tmp_path, bpe_json(order, SENTENCEPIECE))
        piece, byte = order.index("\t"), order.index("<0x09>")
        assert vocabulary.canonical.tolist() == [piece, piece]
        assert vocabulary.aliases() == {piece: [byte]}


def test_4_user_defined_piece_precedes_byte_piece(tmp_path: Path) -> None:
    """Taken for a token added on top, Gemma's line break would give way to `<0x0A>`, which no text is cut into."""
    pieces = [("<unk>", UNKNOWN), ("<0x0A>", BYTE), ("\n", USER_DEFINED)]
    (tmp_path / "m.gguf").write_bytes(gguf_file(gguf_tokenizer(pieces)))
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
    for file in ("m.gguf", "tokenizer.model"):
        assert read(tmp_path / file).aliases() == {2: [1]}


@pytest.mark.usefixtures("sources")
def test_4_gemma_has_110_pieces_that_are_also_bytes() -> None:
    """Without aliases, 110 tokens of Gemma would be two rows, or the wrong one of two."""
    vocabulary = real("gemma3")
    aliases = np.flatnonzero(vocabulary.canonical != np.arange(len(vocabulary)))
    assert len(aliases) == 110
    assert set(vocabulary.kinds[aliases]) == {Kind.BYTE}
    assert set(vocabulary.kinds[vocabulary.canonical[aliases]]) == {Kind.TEXT}
    assert [vocabulary.token(i) for i in aliases] == [vocabulary.token(i) for i in vocabulary.canonical[aliases]]


# ---- 5: added tokens lie over the vocabulary ---------------------------------------------------------------------


def test_5_added_token_never_takes_id_of_piece(tmp_path: Path) -> None:
    """`tokenizers` gives it the next free id, whatever the file says; the piece keeps its own."""
    content = bpe_json({"old": 0, "a": 1}, added=[added_token(0, "new")])
    assert tokens(read_json_tokenizer(tmp_path, content)) == [b"old", b"a", b"new"]


def test_5_added_tokens_that_are_not_special_are_text(tmp_path: Path) -> None:
    """Taken for special, `<tool_call>` or Gemma's runs of spaces would never be shared."""
    added = [added_token(1, "<tool_call>"), added_token(2, "<end>", special=True)]
    vocabulary = read_json_tokenizer(tmp_path, bpe_json({"a": 0}, added=added))
    assert vocabulary.kinds.tolist() == [Kind.TEXT, Kind.TEXT, Kind.SPECIAL]
    assert vocabulary.alignable.tolist() == [True, True, False]


def test_5_added_run_of_spaces_is_spaces(tmp_path: Path) -> None:
    """`tokenizers` puts added tokens through the decoder too; taken literally, this one would be two low lines."""
    content = bpe_json({"▁": 0, "▁▁": 1, "a": 2}, SENTENCEPIECE, [added_token(1, "▁▁")])
    vocabulary = read_json_tokenizer(tmp_path, content)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokens(vocabulary)[1] == b"  "
    assert library.decode([2, 1, 2]) == "a  a"


@pytest.mark.usefixtures("sources")
def test_5_user_defined_runs_of_spaces_of_gemma_are_spaces() -> None:
    """Taken for special or literally, Gemma would have no token for an indentation."""
    vocabulary = real("gemma3")
    runs = {value: i for i, value in enumerate(tokens(vocabulary)) if value and not value.strip(b" ")}
    assert {b" " * n for n in range(1, 32)} <= set(runs)
    assert {int(vocabulary.kinds[i]) for i in runs.values()} == {Kind.TEXT}


def test_5_added_token_comes_before_piece_of_same_bytes(tmp_path: Path) -> None:
    """It is cut out of the text before the model sees it, so the row of the piece is untrained."""
    content = bpe_json({"Ġa": 0}, added=[added_token(1, " a")])
    vocabulary = read_json_tokenizer(tmp_path, content)
    assert tokens(vocabulary) == [b" a", b" a"]
    assert vocabulary.canonical.tolist() == [1, 1]


# ---- 6: equal spelling is not equal role -------------------------------------------------------------------------


def test_6_text_spelled_like_special_token_is_text(tmp_path: Path) -> None:
    """Matched by spelling, an HTML tag of one tokenizer would become the start of text of the other."""
    html = read_json_tokenizer(tmp_path, bpe_json(["<s>", "</s>", "a"]))
    control = read_json_tokenizer(tmp_path, bpe_json({"a": 0}, added=[added_token(1, "<s>", special=True)]))
    assert dict(html.roles) == {}
    assert dict(control.roles) == {"bos": 1}
    shared = align([html, renamed(control)], special_roles=True)
    assert shared_columns(shared) == ([b"a"], [2], [0])


def renamed(vocabulary: Vocabulary) -> Vocabulary:
    """The same vocabulary under another name."""
    import dataclasses

    return dataclasses.replace(vocabulary, name="other")


@pytest.mark.usefixtures("sources")
def test_6_qwen_has_html_tags_and_no_bos() -> None:
    """Matched by spelling, Qwen's `<s>` would meet the bos of Mistral and Gemma's `<s>` would meet both."""
    qwen, mistral = real("qwen"), real("mistral-v1")
    tag = tokens(qwen).index(b"<s>")
    assert qwen.kinds[tag] == Kind.TEXT
    assert mistral.kinds[mistral.roles["bos"]] == Kind.SPECIAL
    assert mistral.token(mistral.roles["bos"]) == b"<s>"
    assert b"<s>" not in align([qwen, mistral]).tokens.to_pylist()


def test_6_declared_role_overrides_spelling(tmp_path: Path) -> None:
    """By spelling alone, `<s>` would be the bos of a tokenizer that says it starts with `<start>`."""
    added = [added_token(1, "<s>", special=True), added_token(2, "<start>", special=True)]
    write_json(tmp_path / "tokenizer_config.json", {"bos_token": {"content": "<start>"}, "eos_token": "<s>"})
    vocabulary = read_json_tokenizer(tmp_path, bpe_json({"a": 0}, added=added))
    assert dict(vocabulary.roles) == {"bos": 2, "eos": 1}


# ---- 7: tokens that are part of a character ----------------------------------------------------------------------


def test_7_parts_of_characters_keep_their_bytes(tmp_path: Path) -> None:
    """Compared as decoded text, all of these would be the same U+FFFD."""
    parts = [b"\xe6", b"\x97", b"\xe6\x97", b"\xf0\x9f", b"\x98\x80"]
    vocabulary = read_json_tokenizer(tmp_path, bpe_json([alphabet_spelling(part) for part in parts]))
    assert tokens(vocabulary) == parts
    assert vocabulary.aliases() == {}


@pytest.mark.usefixtures("sources")
@pytest.mark.parametrize(("name", "count"), [("qwen", 1448), ("llama3", 1352)])
def test_7_real_tokenizers_have_over_thousand_parts_of_characters(name: str, count: int) -> None:
    """Compared as decoded text, these tokens would be one."""
    parts = [value for value in tokens(real(name)) if value and value.decode(errors="ignore").encode() != value]
    assert len(parts) == count
    assert len(set(parts)) == count


# ---- 8: four sizes -----------------------------------------------------------------------------------------------


def test_8_holes_in_ids_are_unused_and_never_aligned(tmp_path: Path) -> None:
    """With ids counted instead of read, every token after the hole would have the wrong row."""
    vocabulary = read_json_tokenizer(tmp_path, bpe_json({"a": 0, "b": 5}))
    assert tokens(vocabulary) == [b"a", None, None, None, None, b"b"]
    assert vocabulary.kinds.tolist() == [Kind.TEXT, *[Kind.UNUSED] * 4, Kind.TEXT]
    assert np.flatnonzero(vocabulary.alignable).tolist() == [0, 5]


def test_8_embedding_rows_are_not_number_of_ids(tmp_path: Path) -> None:
    """Taken for one number, padding rows would pass for tokens, or a token for a row that is not there."""
    write_json(tmp_path / "config.json", {"vocab_size": 8, "hidden_size": 4})
    padded = read_json_tokenizer(tmp_path, bpe_json(["a", "b"]))
    assert (len(padded), padded.embedding_rows, padded.width) == (2, 8, 4)
    write_json(tmp_path / "config.json", {"text_config": {"vocab_size": 2, "hidden_size": 4}})
    beyond = read_json_tokenizer(tmp_path, bpe_json(["a", "b"], added=[added_token(2, "<image>", special=True)]))
    assert (len(beyond), beyond.embedding_rows) == (3, 2)


def test_8_gguf_tells_rows_of_its_table(tmp_path: Path) -> None:
    """Taken from the number of tokens, the rows would be wrong for a padded table."""
    path = tmp_path / "model.gguf"
    for alignment in ({}, {"general.alignment": 1}):
        metadata = gguf_tokenizer([("a", NORMAL)]) | alignment
        path.write_bytes(gguf_file(metadata, {"blk.0": [2, 2], "token_embd.weight": [16, 32]}))
        vocabulary = read(path)
        assert (len(vocabulary), vocabulary.width, vocabulary.embedding_rows) == (1, 16, 32)
    path.write_bytes(gguf_file(gguf_tokenizer([("a", NORMAL)]), {"token_embd.weight": [512]}))
    assert (read(path).width, read(path).embedding_rows) == (None, None)


@pytest.mark.usefixtures("sources")
def test_8_special_tokens_of_qwen_follow_its_ranks_without_filling_its_table() -> None:
    """With the ranks taken for the whole, `<|im_end|>` would be missing; with the table, 150 rows would be too many."""
    vocabulary = read_source(catalog()["qwen2"], real_file("qwen"))
    assert (len(real("qwen")), len(vocabulary), catalog()["qwen2-7b"].embedding_rows) == (151643, 151646, 152064)
    assert vocabulary.token(151645) == b"<|im_end|>"


def test_8_tekken_holds_more_ranks_than_ids(tmp_path: Path) -> None:
    """With all ranks counted, the vocabulary would have ids that the model has no row for."""
    from tokenizer_files import tekken_json

    content = tekken_json([b"a", b"b", b"c"])
    content["config"]["default_vocab_size"] -= 1
    assert tokens(read(write_json(tmp_path / "tekken.json", content)))[3:] == [b"a", b"b"]


# ---- 10: order ---------------------------------------------------------------------------------------------------


def test_10_files_do_not_depend_on_order_of_vocabulary(tmp_path: Path) -> None:
    """Written in the order of a hash map, a snapshot of the same tokenizer would differ from run to run."""
    written = []
    for order in (["a", "b", "c"], ["c", "a", "b"]):
        content = bpe_json({piece: "abc".index(piece) for piece in order}, added=[])
        vocabulary = read_json_tokenizer(tmp_path, content)
        write_snapshot(tmp_path / "snapshot.arrow", vocabulary, Provenance("tokenizer.json", "0" * 64))
        written.append((tmp_path / "snapshot.arrow").read_bytes())
    assert written[0] == written[1]


# ---- 11: WordPiece -----------------------------------------------------------------------------------------------


def test_11_bare_word_brings_its_space_and_continuation_does_not(tmp_path: Path) -> None:
    """Compared as spelled, `ing` would match the end of a word and `##ing` nothing."""
    vocabulary = read_json_tokenizer(tmp_path, wordpiece_json(["[UNK]", "ing", "##ing", "#", "##"]))
    assert tokens(vocabulary)[1:] == [b" ing", b"ing", b" #", b""]
    assert vocabulary.alignable.tolist() == [False, True, True, True, False]


def test_11_punctuation_has_no_space_before_it_where_decoder_cleans_up(tmp_path: Path) -> None:
    """Without clean-up, `.` would be a space and a full stop, which is not what its tokenizer decodes."""
    pieces = ["[UNK]", ".", "?", "!", ",", "'", "n't", "'m", "'s", "'ve", "'re", "##.", "do"]
    for cleanup in (True, False):
        content = wordpiece_json(pieces, {"type": "WordPiece", "prefix": "##", "cleanup": cleanup})
        vocabulary = read_json_tokenizer(tmp_path, content)
        library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        decoded = [library.decode([12, i], skip_special_tokens=False)[2:].encode() for i in range(1, 13)]
        assert tokens(vocabulary)[1:] == decoded
        assert tokens(vocabulary)[1] == (b"." if cleanup else b" .")


@pytest.mark.usefixtures("sources")
def test_11_tokenizer_that_lower_cases_says_so(tmp_path: Path) -> None:
    """Without the note, a user would look for capital letters that the tokenizer can't produce."""
    assert any("lower-case" in note for note in real("minilm").notes)
    plain = read_json_tokenizer(tmp_path, wordpiece_json(["[UNK]", "a"]))
    assert plain.notes == ()
    for normalizer in (
        {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True},
        {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]},
    ):
        lossy = read_json_tokenizer(tmp_path, wordpiece_json(["[UNK]", "a"], normalizer=normalizer))
        assert len(lossy.notes) == 1


def test_11_wordpiece_without_decoder_follows_its_model(tmp_path: Path) -> None:
    """Without this, the file could not be read although its model tells all."""
    vocabulary = read_json_tokenizer(tmp_path, wordpiece_json(["[UNK]", "a", "##b", "."], decoder=None))
    assert tokens(vocabulary)[1:] == [b" a", b"b", b" ."]


# ---- 12: Unigram -------------------------------------------------------------------------------------------------


def test_12_unigram_vocabulary_is_list_with_scores(tmp_path: Path) -> None:
    """Read as a map, it would fail, or take scores for ids."""
    content = unigram_json(["<unk>", "▁a", "b"], unk_id=0)
    vocabulary = read_json_tokenizer(tmp_path, content)
    assert tokens(vocabulary) == [b"<unk>", b" a", b"b"]
    assert vocabulary.kinds.tolist() == [Kind.SPECIAL, Kind.TEXT, Kind.TEXT]
    assert dict(vocabulary.roles) == {"unk": 0}


def test_12_repeated_unigram_piece_is_read(tmp_path: Path) -> None:
    """Read into a map, the first of two equal pieces would vanish and leave a hole."""
    vocabulary = read_json_tokenizer(tmp_path, unigram_json(["a", "a", "b"]))
    assert tokens(vocabulary) == [b"a", b"a", b"b"]
    assert vocabulary.aliases() == {1: [0]}


# ---- what each format says about a piece -------------------------------------------------------------------------


def test_piece_type_decides_kind(tmp_path: Path) -> None:
    """In SentencePiece and in GGUF alike; what the file calls unused is never aligned."""
    pieces = [
        ("<unk>", UNKNOWN), ("<s>", CONTROL), ("<reserved_1>", CONTROL), ("▁x", USER_DEFINED), ("y", UNUSED),
        ("<0x7A>", BYTE), ("▁w", NORMAL),
    ]  # fmt: skip
    expected = [Kind.SPECIAL, Kind.SPECIAL, Kind.UNUSED, Kind.TEXT, Kind.UNUSED, Kind.BYTE, Kind.TEXT]
    (tmp_path / "m.gguf").write_bytes(gguf_file(gguf_tokenizer(pieces)))
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
    for file in ("m.gguf", "tokenizer.model"):
        vocabulary = read(tmp_path / file)
        assert vocabulary.kinds.tolist() == expected
        assert tokens(vocabulary) == [b"<unk>", b"<s>", b"<reserved_1>", b" x", b"y", b"z", b" w"]


def test_user_defined_tokens_of_byte_level_gguf_are_literal(tmp_path: Path) -> None:
    """The converter writes them as text; put through the byte alphabet, `é` would be the byte E9."""
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_file(gguf_tokenizer([("é", NORMAL), ("é", USER_DEFINED)], model="gpt2")))
    assert tokens(read(path)) == [b"\xe9", "é".encode()]


def test_rank_lines_may_be_unordered_or_empty(tmp_path: Path) -> None:
    """The rank is the id, not the number of the line."""
    lines = rank_file([b"a", b"b", b"\xff"]).split(b"\n")
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"\n".join([lines[2], lines[0], b"", lines[1]]))
    assert tokens(read(path)) == [b"a", b"b", b"\xff"]
