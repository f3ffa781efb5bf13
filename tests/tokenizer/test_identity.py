"""Token identity: the bytes that the library decodes, and the canonical id that it encodes to."""

from __future__ import annotations

import base64
import json
import struct
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor
from tokenizer_files import (
    added_token,
    bpe_json,
    gguf_file,
    gguf_tokenizer,
    protobuf,
    rank_file,
    sentencepiece_model,
    tekken_json,
    write_json,
)
from tokenizers import Tokenizer, models, pre_tokenizers

from vocabkit.errors import VocabkitError
from vocabkit.tokenizer.read import read
from vocabkit.tokenizer.segmentation import to_tokenizers
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

ALPHABET = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
"""The 256 pieces of a byte-level model."""
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPACES = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
FALLBACK, FUSE = {"type": "ByteFallback"}, {"type": "Fuse"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


def byte_level(pieces: Mapping[str, int], *added: dict[str, Any], merges: list[str] | None = None) -> dict[str, Any]:
    """A byte-level tokenizer.json with these pieces beside the alphabet."""
    content = bpe_json({**ALPHABET, **pieces}, added=list(added))
    content["model"]["merges"] = merges or []
    return content | {"pre_tokenizer": BYTE_LEVEL, "decoder": BYTE_LEVEL}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "decoders": list(steps)}


def fallback(pieces: list[str], *steps: dict[str, Any], added: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """A BPE with byte fallback and this decoder."""
    content = bpe_json(pieces, added=list(added)) | {"pre_tokenizer": None, "decoder": sequence(*steps)}
    content["model"] |= {"byte_fallback": True, "merges": []}
    return content


def unigram(pieces: list[tuple[str, float]]) -> dict[str, Any]:
    model = {"type": "Unigram", "unk_id": 0, "vocab": [list(piece) for piece in pieces], "byte_fallback": False}
    return {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": METASPACE, "decoder": METASPACE,
            "post_processor": None, "truncation": None, "padding": None, "model": model}  # fmt: skip


FILES: dict[str, dict[str, Any]] = {
    "added token over a piece": byte_level({"ĠĠ": 256}, added_token(257, "  "), merges=["Ġ Ġ"]),
    "piece outside the alphabet": byte_level({"日": 256, "æĹ": 257, "æĹ¥": 258}, merges=["æ Ĺ", "æĹ ¥"]),
    "added line break beside its byte": fallback(["<unk>", "<0x0A>", "▁", "a"], SPACES, FALLBACK, FUSE,
                                                 added=(added_token(4, "\n"),)),
    "byte piece in lower case": fallback(["<unk>", "<0x0a>", "<0x0A>", "▁", "a"], SPACES, FALLBACK, FUSE),
    "unigram piece twice": unigram([("<unk>", 0.0), ("▁a", -2.0), ("a", -1.0), ("b", -1.0), ("▁a", -1.5)]),
    "added id taken by a piece": byte_level({"Ġa": 256}, added_token(256, "<tool>")),
    "added id far beyond": byte_level({"Ġa": 256}, added_token(4000, "<a>"), added_token(9000, "<b>")),
    "added id of the model's piece": byte_level({"<pad>": 256}, added_token(400, "<pad>"), added_token(401, "<new>")),
    "fallback before spaces": fallback(["<unk>", "<0x41>", "▁", "a", "▁a"], FALLBACK, METASPACE),
    "spaces by a regular expression": fallback(["<unk>", "▁", "a", "▁a"],
                                               SPACES | {"pattern": {"Regex": "▁+"}}, FUSE),
    "a replacement that breaks a byte": fallback(["<unk>", "<0x41>", "a"],
                                                 SPACES | {"pattern": {"String": "x"}, "content": "y"}, FALLBACK, FUSE),
    "byte level and fuse": byte_level({"Ġa": 256}) | {"decoder": sequence(BYTE_LEVEL, FUSE)},
    "strip before fuse": fallback(["<unk>", "▁", "▁▁a", "a"], SPACES, FALLBACK,
                                  {"type": "Strip", "content": " ", "start": 1, "stop": 0}, FUSE),
    "regular expression after fallback": fallback(["<unk>", "<0x41>", "A", "b", "a"], FALLBACK,
                                                  SPACES | {"pattern": {"Regex": "[A-Z]"}, "content": "z"}, FUSE),
    "strip after fallback": fallback(["<unk>", "<0x20>", "▁a", "a"], SPACES, FALLBACK,
                                     {"type": "Strip", "content": " ", "start": 1, "stop": 0}),
    "fallback byte that a replacement deletes": fallback(["<unk>", "<0x20>", "▁", "a"], FALLBACK,
                                                         SPACES | {"pattern": {"String": " "}, "content": ""}, FUSE),
    "word pieces after fallback": fallback(["<unk>", "<0x41>", "##a", "a"], FALLBACK,
                                           {"type": "WordPiece", "prefix": "##", "cleanup": False}),
    "word pieces without a prefix": fallback(["a", "b"], {"type": "WordPiece", "prefix": "", "cleanup": False}),
    "long replacement": fallback(["a", "b"], SPACES | {"pattern": {"String": "b"}, "content": "b" * 40}, FUSE),
    "replacement of nothing": fallback(["a", "bc"], SPACES | {"pattern": {"String": ""}, "content": "x"}, FUSE),
    "replacement after byte level": byte_level({"Ġb": 256}) | {"decoder": sequence(
        BYTE_LEVEL, SPACES | {"pattern": {"String": "b"}, "content": "yy"})},
    "unescaped spaces": fallback(["<unk>", "<0x20>", "▁", "a"], SPACES, FALLBACK, FUSE),
    "unescaped spaces in normalised text": fallback(["<unk>", "<0x20>", "▁", "a"], SPACES, FALLBACK, FUSE)
                                           | {"normalizer": {"type": "NFC"}},
}  # fmt: skip
"""A file for each way in which ids, bytes and spellings come apart."""


def written(folder: Path, content: dict[str, Any], **beside: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "tokenizer.json", content)
    for name, each in beside.items():
        write_json(folder / f"{name}.json", each)
    return folder


def written_gguf(path: Path, pieces: list[str], types: list[int]) -> Path:
    path.write_bytes(gguf_file(gguf_tokenizer(list(zip(pieces, types, strict=True)), "gpt2")))
    return path


def assert_bytes_are_decoded(vocabulary: Vocabulary, library: Tokenizer) -> None:
    """Each text id contributes its bytes between two others, as the library decodes it."""
    text = library.encode("a", add_special_tokens=False).ids[-1]
    first, between = library.decode([text]), library.decode([text, text])
    after = between.removeprefix(first)
    tokens = vocabulary.tokens.to_pylist()
    ids = [i for i in np.flatnonzero(vocabulary.kinds <= Kind.BYTE).tolist() if tokens[i] is not None]
    found = library.decode_batch([[text, i, text] for i in ids], skip_special_tokens=False)
    wrong = [
        (i, tokens[i], shown)
        for i, shown in zip(ids, found, strict=True)
        if shown != first + tokens[i].decode("utf-8", "replace") + after
    ]
    assert not wrong[:5]


def assert_canonical_is_encoded(vocabulary: Vocabulary, library: Tokenizer) -> int:
    """Of ids with the same bytes, the canonical one is the only one that comes out of encode. Return the groups."""
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for token_id in np.flatnonzero(vocabulary.kinds <= Kind.BYTE).tolist():
        groups[vocabulary.token(token_id) or b""].append(token_id)
    seen = 0
    for token, ids in groups.items():
        if len(ids) < 2 or token.decode("utf-8", "replace").encode() != token:
            continue
        text = token.decode()
        encoded = {i for each in (text, f"a{text}", f"a{text}a") for i in library.encode(each).ids} & set(ids)
        assert encoded <= {int(vocabulary.canonical[ids[0]])}, (token, ids, encoded)
        seen += bool(encoded)
    return seen


@pytest.mark.parametrize("name", FILES)
def test_small_file_agrees_with_its_library(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path, FILES[name])
    vocabulary, library = read(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert len(vocabulary) == max(library.get_vocab().values()) + 1
    assert_bytes_are_decoded(vocabulary, library)
    assert_canonical_is_encoded(vocabulary, library)


@pytest.mark.parametrize("cleanup", [True, False])
def test_ctc_replaces_its_delimiter_after_cleanup_only(tmp_path: Path, cleanup: bool) -> None:
    decoder = {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": cleanup}
    folder = written(tmp_path, fallback(["a", "b|.", "|", "<pad>"]) | {"decoder": decoder})
    library, vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")), read(folder)
    assert [f"a{vocabulary.token(i).decode()}a" for i in (1, 2, 3)] == [library.decode([0, i, 0]) for i in (1, 2, 3)]


@pytest.mark.parametrize("before", [FUSE, BYTE_LEVEL], ids=["Fuse", "ByteLevel"])
@pytest.mark.parametrize("component", ["Metaspace", "BPEDecoder", "WordPiece", "ByteFallback"])
def test_component_that_needs_neighbours_is_refused(tmp_path: Path, component: str, before: dict[str, Any]) -> None:
    with pytest.raises(VocabkitError, match=f"'{component}' after Fuse"):
        read(written(tmp_path, fallback(["a", "<0x41>"], before, METASPACE | {"type": component})))


def test_invalid_regular_expression_raises(tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match="its decoder replaces '\\('"):
        read(written(tmp_path, fallback(["a"], SPACES | {"pattern": {"Regex": "("}})))


def test_replacement_that_fills_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match="puts 2000000 characters into"):
        read(written(tmp_path, fallback(["a" * 20], SPACES | {"pattern": {"String": "a"}, "content": "b" * 2_000_000})))


def test_replacements_that_fill_memory_together_are_refused(tmp_path: Path) -> None:
    doubling = SPACES | {"pattern": {"String": "a"}, "content": "aa"}
    with pytest.raises(VocabkitError, match="puts 2 characters into"):
        read(written(tmp_path, fallback(["a"], *[doubling] * 64)))


ESCAPING = {"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}  # fmt: skip


def normalized(token_id: int, content: str) -> dict[str, Any]:
    return added_token(token_id, content) | {"normalized": True}


def test_added_token_in_normalised_text_has_its_normal_form(tmp_path: Path) -> None:
    """Of uncased BERT with `COVID` added, which finds `covid` and brings its space as other words do."""
    pieces = ["the", "a", "covid"]
    content = bpe_json(pieces, {"type": "WordPiece", "prefix": "##", "cleanup": True}, [normalized(3, "COVID")])
    folder = written(tmp_path, content | {"normalizer": {"type": "Lowercase"}, "pre_tokenizer": None})
    vocabulary, library = read(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert vocabulary.token(2) == vocabulary.token(3) == b" covid"
    assert library.encode("COVID").ids == library.encode("covid").ids == [3]
    assert vocabulary.canonical[[2, 3]].tolist() == [3, 3]
    assert_bytes_are_decoded(vocabulary, library)


def test_added_line_break_behind_a_prepended_space_is_not_the_byte(tmp_path: Path) -> None:
    content = fallback(["<unk>", "<0x0A>", "▁", "a"], SPACES, FALLBACK, FUSE, added=(normalized(4, "\n"),))
    content["model"] |= {"unk_token": "<unk>", "merges": []}
    folder = written(tmp_path, content | {"normalizer": ESCAPING})
    vocabulary, library = read(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert library.encode("a\na").ids[2] == 1
    assert vocabulary.canonical[[1, 4]].tolist() == [1, 4]
    assert vocabulary.token(4) == b" \n"


@pytest.mark.parametrize("kind", ["BPE", "Unigram"])
def test_literal_space_is_not_canonical_where_spaces_are_escaped(tmp_path: Path, kind: str) -> None:
    pieces = ["<unk>", " a", "▁", "a", "▁a"]
    if kind == "BPE":
        content = fallback(pieces, SPACES, FUSE) | {"normalizer": ESCAPING}
        content["model"]["merges"] = ["▁ a"]
    else:
        content = unigram([(piece, -1.0) for piece in pieces])
    folder = written(tmp_path, content)
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a").ids == [4]
    assert read(folder).canonical.tolist() == [0, 4, 2, 3, 4]


@pytest.mark.parametrize("escape_whitespaces", [True, False])
@pytest.mark.parametrize("user_defined", [None, " a", "▁a"])
@pytest.mark.parametrize("two", [(" a", "▁a"), ("▁a", " a")])
def test_canonical_spelling_of_a_space_is_the_one_that_sentencepiece_makes(
    tmp_path: Path, two: tuple[str, str], user_defined: str | None, escape_whitespaces: bool
) -> None:
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("▁", 1), (" ", 1), ("a", 1)]
    pieces += [(piece, 4 if piece == user_defined else 1) for piece in two]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model(pieces, model_type=1, normalizer=[(3, 0), (5, int(escape_whitespaces))]))
    made = SentencePieceProcessor(model_file=str(path)).encode("a a")[-1]
    assert read(path).canonical[[6, 7]].tolist() == [made, made]


def test_literal_space_of_gguf_is_not_canonical(tmp_path: Path) -> None:
    pieces = [("<unk>", 2), (" a", 1), ("▁", 1), ("a", 1), ("▁a", 1)]
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_file(gguf_tokenizer(pieces, "llama")))
    assert read(path).canonical[[1, 4]].tolist() == [4, 4]


def test_added_token_spelled_in_alphabet_gives_way_to_literal_one(tmp_path: Path) -> None:
    content = byte_level({"ĠĠ": 256}, added_token(256, "ĠĠ"), added_token(257, "  "), merges=["Ġ Ġ"])
    folder = written(tmp_path, content)
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a  a").ids[1] == 257
    assert read(folder).canonical[[256, 257]].tolist() == [257, 257]


@pytest.mark.parametrize("name", list(FILES)[:5])
def test_encoded_id_of_equal_bytes_is_canonical(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path, FILES[name])
    assert assert_canonical_is_encoded(read(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))) > 0


@pytest.mark.parametrize("name", list(FILES)[5:8])
def test_ids_differing_from_file_are_noted(tmp_path: Path, name: str) -> None:
    assert "disagrees with itself" in read(written(tmp_path, FILES[name])).notes[0]


def test_added_token_spelled_in_alphabet_is_text_it_is_cut_from(tmp_path: Path) -> None:
    """DeepSeek adds `ü`, which a byte-level decoder takes for the byte FC. Encode gives it for the letter."""
    pieces = [*(piece for piece in ALPHABET if piece != "ü"), "Ã¼"]
    content = byte_level({}, added_token(256, "ü"))
    content["model"]["vocab"] = {piece: i for i, piece in enumerate(pieces)}
    vocabulary = read(written(tmp_path, content))
    assert vocabulary.token(256) == "ü".encode()
    assert vocabulary.canonical[[255, 256]].tolist() == [256, 256]


def test_gguf_and_tokenizer_json_agree_about_canonical_ids(tmp_path: Path) -> None:
    content = FILES["piece outside the alphabet"]
    from_json = read(written(tmp_path / "json", content))
    pieces = sorted(content["model"]["vocab"], key=content["model"]["vocab"].__getitem__)
    from_gguf = read(written_gguf(tmp_path / "model.gguf", pieces, [1] * len(pieces)))
    assert from_gguf.canonical.tolist() == from_json.canonical.tolist()
    assert from_gguf.canonical[256] == 258


# ---- kinds and roles, from all the files that decide them ---------------------------------------------------------

CONFIG = {"eos_token": "<end>", "additional_special_tokens": ["<user>"], "added_tokens_decoder": {
    "256": {"content": "<think>", "special": True}}}  # fmt: skip


@pytest.mark.parametrize(
    "beside",
    [
        {"tokenizer_config": CONFIG},
        {"special_tokens_map": {"eos_token": {"content": "<end>"}, "additional_special_tokens": ["<user>", "<think>"]}},
        {"tokenizer_config": CONFIG | {"eos_token": None}, "generation_config": {"eos_token_id": [257, 258]}},
    ],
    ids=["config", "map", "generation"],
)
def test_files_beside_tokenizer_make_tokens_special(tmp_path: Path, beside: dict[str, Any]) -> None:
    content = byte_level({"<think>": 256, "<end>": 257, "<user>": 258, "Ġa": 259})
    vocabulary = read(written(tmp_path, content, **beside))
    assert np.flatnonzero(vocabulary.kinds == Kind.SPECIAL).tolist() == [256, 257, 258]
    assert vocabulary.roles["eos"] == 257


def test_single_character_pad_token_stays_text(tmp_path: Path) -> None:
    as_json = read(written(tmp_path, byte_level({}), tokenizer_config={"pad_token": "!"}))
    pieces = [(piece, 1) for piece in sorted(ALPHABET, key=ALPHABET.__getitem__)]
    (tmp_path / "model.gguf").write_bytes(gguf_file(gguf_tokenizer(pieces, "gpt2", padding_token_id=ALPHABET["!"])))
    as_gguf = read(tmp_path / "model.gguf")
    for vocabulary in (as_json, as_gguf):
        assert vocabulary.kinds[ALPHABET["!"]] == Kind.TEXT
        assert "pad" not in vocabulary.roles


@pytest.mark.parametrize("spelling", ["<unused7>", "[PAD151936]", "<|reserved_special_token_3|>", "[unused12]"])
def test_reserved_spelling_is_unused_in_every_format(tmp_path: Path, spelling: str) -> None:
    as_text = read(written(tmp_path / "text", byte_level({spelling: 256})))
    as_added = read(written(tmp_path / "added", byte_level({}, added_token(256, spelling, special=True))))
    pieces = [*sorted(ALPHABET, key=ALPHABET.__getitem__), spelling]
    as_gguf = read(written_gguf(tmp_path / "model.gguf", pieces, [1] * 256 + [4]))
    assert as_text.kinds[256] == as_added.kinds[256] == as_gguf.kinds[256] == Kind.UNUSED
    assert as_text.fingerprint == as_added.fingerprint == as_gguf.fingerprint


@pytest.mark.parametrize("key", ["text_config", "llm_config", "language_config"])
def test_table_size_is_found_in_nested_configs(tmp_path: Path, key: str) -> None:
    vocabulary = read(written(tmp_path, byte_level({}), config={key: {"vocab_size": 300, "hidden_size": 8}}))
    assert (vocabulary.embedding_rows, vocabulary.width) == (300, 8)


def test_id_without_row_is_never_aligned(tmp_path: Path) -> None:
    vocabulary = read(written(tmp_path, byte_level({"Ġa": 256, "Ġb": 257}), config={"vocab_size": 257}))
    assert vocabulary.alignable[256]
    assert not vocabulary.alignable[257]


# ---- files and folders --------------------------------------------------------------------------------------------


def test_vocab_json_with_merges_is_read_as_tokenizer_json_of_same_model(tmp_path: Path) -> None:
    content = FILES["piece outside the alphabet"]
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(content["model"]["vocab"]), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\næ Ĺ\næĹ ¥\n", "utf-8")
    assert read(folder).fingerprint == read(written(tmp_path / "new", content)).fingerprint


def test_vocab_json_with_merges_is_cut_as_in_the_library(tmp_path: Path) -> None:
    pieces = [*sorted(ALPHABET), "ab", "bc", "abc", "Ġa", "Ġab"]
    write_json(tmp_path / "vocab.json", {piece: i for i, piece in enumerate(pieces)})
    (tmp_path / "merges.txt").write_text("#version: 0.2\nb c\na b\na bc\nĠ a\n", "utf-8")
    library = Tokenizer(models.BPE.from_file(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = to_tokenizers(read(tmp_path))
    for text in ("abc", "ab abd", " ab", "a1ab's"):
        assert tokenizer.encode(text).ids == library.encode(text).ids


def test_clips_word_end_is_space(tmp_path: Path) -> None:
    vocab = {piece: i for i, piece in enumerate([*ALPHABET, *(f"{piece}</w>" for piece in ALPHABET), "ab</w>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    assert read(tmp_path).token(vocab["ab</w>"]) == b"ab "


def test_vocab_txt_numbers_its_lines(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[unused0]\n[UNK]\nhello\n##s\na\u2028b\n!\n", "utf-8")
    vocabulary = read(tmp_path)
    assert vocabulary.tokens.to_pylist()[1:] == [b"[unused0]", b"[UNK]", b" hello", b"s", " a\u2028b".encode(), b"!"]
    assert vocabulary.roles == {"pad": 0, "unk": 2}


def test_repeated_piece_of_vocab_txt_has_its_last_id(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\nhello\n\nhello\n", "utf-8")
    assert read(tmp_path).tokens.to_pylist() == [b"[UNK]", None, None, b" hello"]


def test_gguf_and_vocab_txt_of_one_wordpiece_are_same_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\n[unused0]\nhello\n##s\n!\n##!\n", "utf-8")
    pieces = [("[UNK]", 3), ("▁[unused0]", 1), ("▁hello", 1), ("s", 1), ("▁!", 1), ("!", 1)]
    metadata = gguf_tokenizer(pieces, "bert", unknown_token_id=0)
    (tmp_path / "model.gguf").write_bytes(gguf_file(metadata))
    assert read(tmp_path / "model.gguf").fingerprint == read(tmp_path / "vocab.txt").fingerprint


def test_folder_with_two_rank_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tiktoken").write_text("YQ== 0\n", "utf-8")
    assert len(read(tmp_path)) == 1
    (tmp_path / "b.tiktoken").write_text("YQ== 0\n", "utf-8")
    with pytest.raises(VocabkitError, match=r"a.tiktoken, b.tiktoken are several tokenizers; name one of them"):
        read(tmp_path)


def test_empty_token_of_rank_file_contributes_nothing(tmp_path: Path) -> None:
    (tmp_path / "multilingual.tiktoken").write_text("YQ== 0\n= 1\n", "utf-8")
    vocabulary = read(tmp_path)
    assert vocabulary.tokens.to_pylist() == [b"a", b""]
    assert vocabulary.alignable.tolist() == [True, False]


def test_spm_model_is_tokenizer_of_folder(tmp_path: Path) -> None:
    """As DeBERTa-v2 names its SentencePiece model."""
    (tmp_path / "spm.model").write_bytes(sentencepiece_model([("<unk>", 2), ("▁a", 1)]))
    assert read(tmp_path).token(1) == b" a"


def test_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 17210195\n"
    (tmp_path / "tokenizer.json").write_text(pointer, "utf-8")
    with pytest.raises(VocabkitError, match="a pointer of Git LFS, not the file itself"):
        read(tmp_path)


def test_revision_in_hub_cache_is_named_after_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / "c1899de289a04d12100db370d81485cdf75e47ca"
    assert read(written(folder, byte_level({}))).name == "Qwen3-0.6B"


def test_token_declared_as_placeholder_does_not_start_it_too(tmp_path: Path) -> None:
    content = byte_level({}, added_token(256, "<img>", special=True), added_token(257, "</img>", special=True))
    assert read(written(tmp_path / "a", content)).roles == {"image_start": 256, "image_end": 257}
    declared = {"image_token": "<img>"}
    assert read(written(tmp_path / "b", content, tokenizer_config=declared)).roles == {"image": 256, "image_end": 257}


def test_model_beside_its_projector_is_tokenizer_of_folder(tmp_path: Path) -> None:
    written_gguf(tmp_path / "model-Q4.gguf", ["a", "b"], [1, 1])
    (tmp_path / "mmproj-model-f16.gguf").write_bytes(b"GGUF")
    assert len(read(tmp_path)) == 2


# ---- the same vocabulary from several formats, and formats with rules of their own --------------------------------


def test_gguf_and_tokenizer_json_of_one_vocabulary_agree_on_canonical_ids(tmp_path: Path) -> None:
    content = byte_level({"ĠĠ": 256, "日": 257, "æĹ": 258, "æĹ¥": 259}, added_token(260, "  "))
    content["model"]["merges"] = ["Ġ Ġ", "æ Ĺ", "æĹ ¥"]
    as_json = read(written(tmp_path, content))
    pieces = [*sorted(ALPHABET, key=ALPHABET.__getitem__), "ĠĠ", "日", "æĹ", "æĹ¥", "  "]
    merges = [("tokenizer.ggml.merges", ["Ġ Ġ", "æ Ĺ", "æĹ ¥"])]
    pairs = list(zip(pieces, [1] * 260 + [4], strict=True))
    (tmp_path / "model.gguf").write_bytes(gguf_file(gguf_tokenizer(pairs, "gpt2") | dict(merges)))
    as_gguf = read(tmp_path / "model.gguf")
    assert as_gguf.tokens == as_json.tokens
    assert as_gguf.canonical.tolist() == as_json.canonical.tolist()


@pytest.mark.parametrize("line", ["Y!Q== 1", "YQ==YQ== 1", "YQ 1", "YQ==", "YQ== 1 1", "YQ== 1_0", "YQ== one"])
def test_damaged_line_of_rank_file_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "tokenizer.tiktoken").write_text(f"Yg== 0\n\n{line}\n", "utf-8")
    with pytest.raises(VocabkitError, match=rf"line 3 is '{line}', expected base64 and a rank"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": {"default_vocab_size": 7}}, "2 ranks and '3' special tokens don't make a vocabulary of '7' ids"),
        ({"config": {"default_num_special_tokens": 5}}, "don't make a vocabulary of '5' ids"),
        ({"config": {"default_num_special_tokens": 20_000, "default_vocab_size": 20_002}}, "expected up to 16384"),
        ({"vocab": {0: {"rank": 1}}}, "rank '1' found where rank 0 is expected"),
        ({"special_tokens": {0: {"rank": 1}}}, "two special tokens have the same rank"),
    ],
    ids=["too few ranks", "no text", "many special tokens", "order of ranks", "rank twice"],
)
def test_tekken_that_contradicts_itself_raises(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    content = tekken_json([b"a", b"b"])
    for part, changed in changes.items():
        for key, value in changed.items():
            content[part][key] = {**content[part][key], **value} if isinstance(value, dict) else value
    with pytest.raises(VocabkitError, match=reason):
        read(write_json(tmp_path / "tekken.json", content))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (struct.pack("<I", 99), "value type 99"),
        (struct.pack("<IIQ", 9, 9, 1), "array of type 9"),
        (struct.pack("<IIQ", 9, 8, 1 << 23), "an array of 8388608 strings"),
        (struct.pack("<IIQ", 9, 4, 1 << 40), "reaches beyond the end"),
        (b"", "requires a buffer"),
    ],
)
def test_gguf_header_that_lies_raises(tmp_path: Path, value: bytes, reason: str) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 3) + b"key" + value)
    with pytest.raises(VocabkitError, match=rf"damaged or truncated GGUF header .*{reason}"):
        read(tmp_path / "model.gguf")


@pytest.mark.parametrize("tokens", [None, [], [1, 2], "a"])
def test_gguf_without_tokens_raises(tmp_path: Path, tokens: Any) -> None:
    metadata = gguf_tokenizer([("a", 1)]) | {"tokenizer.ggml.tokens": tokens}
    (tmp_path / "model.gguf").write_bytes(gguf_file({key: each for key, each in metadata.items() if each is not None}))
    with pytest.raises(VocabkitError, match=r"model\.gguf: GGUF without a tokenizer"):
        read(tmp_path / "model.gguf")


def test_unknown_gguf_tokenizer_model_raises(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(gguf_file(gguf_tokenizer([("a", 1)], "none")))
    with pytest.raises(VocabkitError, match=r"model\.gguf"):
        read(tmp_path / "model.gguf")


def test_sentencepiece_user_defined_piece_is_canonical_as_its_library_encodes(tmp_path: Path) -> None:
    sentencepiece: Any = pytest.importorskip("sentencepiece")
    path = tmp_path / "tokenizer.model"
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("▁", 1), ("a", 1), ("\n", 4)]
    pieces += [(f"<0x{byte:02X}>", 6) for byte in range(256)]
    path.write_bytes(sentencepiece_model(pieces))
    vocabulary = read(path)
    library = sentencepiece.SentencePieceProcessor(model_file=str(path))
    encoded = library.encode("a\na")
    canonical = {int(vocabulary.canonical[i]) for i in range(len(vocabulary)) if vocabulary.token(i) == b"\n"}
    assert canonical == {5}
    assert 5 in encoded


def test_xlm_roberta_ids_are_shifted_behind_fairseqs_special_tokens(tmp_path: Path) -> None:
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("▁a", 1), ("b", 1)]
    (tmp_path / "sentencepiece.bpe.model").write_bytes(sentencepiece_model(pieces, model_type=1))
    write_json(tmp_path / "config.json", {"model_type": "xlm-roberta"})
    vocabulary = read(tmp_path)
    assert vocabulary.tokens.to_pylist()[:6] == [b"<s>", b"<pad>", b"</s>", b"<unk>", b" a", b"b"]
    assert vocabulary.roles["pad"] == 1


@pytest.mark.parametrize(
    ("tokenizer_class", "before", "id_of_a", "after"),
    [
        ("LayoutXLMTokenizer", "<s> <pad> </s> <unk>", 4, ["<mask>"]),
        ("PLBartTokenizer", "<s> <pad> </s> <unk>", 4, []),
        ("SeamlessM4TTokenizer", "<pad> <unk> <s> </s>", 4, []),
        ("CamembertTokenizer", "<s>NOTUSED <pad> </s>NOTUSED <unk> <unk>NOTUSED <s> </s>", 7, ["<mask>"]),
        ("PegasusTokenizer", "<pad> </s> <mask_1> <mask_2> <unk_2>", 106, []),
        ("T5Tokenizer", "<unk> <s> </s>", 3, [f"<extra_id_{i}>" for i in reversed(range(100))]),
        ("LlamaTokenizer", "<unk> <s> </s>", 3, []),
    ],
)
def test_sentencepiece_ids_are_those_of_the_tokenizer_class(
    tmp_path: Path, tokenizer_class: str, before: str, id_of_a: int, after: list[str]
) -> None:
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("▁a", 1), ("b", 1)]
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(pieces, model_type=1))
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": tokenizer_class})
    vocabulary = read(tmp_path)
    tokens = vocabulary.tokens.to_pylist()
    assert tokens[: len(before.split())] == before.encode().split()
    assert tokens[id_of_a:] == [b" a", b"b", *map(str.encode, after)]
    assert (vocabulary.kinds[id_of_a + 2 :] == Kind.SPECIAL).all()


def test_class_with_unknown_ids_raises(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model([("<unk>", 2), ("▁a", 1)]))
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "BarthezTokenizer"})
    with pytest.raises(VocabkitError, match="ids of a barthez tokenizer are not those of its pieces"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("file", "tokenizer_class"),
    [("source.spm", "MarianTokenizer"), ("source.spm", None), ("sentencepiece.bpe.model", "M2M100Tokenizer")],
)
def test_ids_of_a_vocab_json_beside_a_sentencepiece_model_count(
    tmp_path: Path, file: str, tokenizer_class: str | None
) -> None:
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("▁a", 1), ("b", 1)]
    (tmp_path / file).write_bytes(sentencepiece_model(pieces, model_type=1))
    write_json(tmp_path / "vocab.json", {"</s>": 0, "<unk>": 1, "b": 2, "▁a": 3, "<pad>": 4})
    if tokenizer_class:
        write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": tokenizer_class})
    vocabulary = read(tmp_path)
    assert vocabulary.tokens.to_pylist() == [b"</s>", b"<unk>", b"b", b" a", b"<pad>"]
    assert vocabulary.roles == {"eos": 0, "pad": 4, "unk": 1}


def test_sentencepiece_gives_added_tokens_the_ids_of_the_library(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model([("<unk>", 2), ("▁a", 1), ("b", 1)]))
    added = {"1": {"content": "<taken>"}, "400": {"content": "<far>", "special": True}}
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": added, "eos_token": "<end>"})
    vocabulary = read(tmp_path)
    assert vocabulary.tokens.to_pylist()[1:] == [b" a", b"b", b"<taken>", b"<far>", b"<end>"]
    assert vocabulary.roles["eos"] == 5
    assert [note.split(" of ")[0] for note in vocabulary.notes] == [
        "disagrees with itself about the ids",
        "lacks 1 special tokens that its config names, such as '<end>': transformers adds them, here with id 5",
    ]


# ---- files that decide together, as transformers lets them ---------------------------------------------------------


@pytest.mark.parametrize(
    ("beside", "eos", "special"),
    [
        ({"tokenizer_config": {"eos_token": "<a>"}, "special_tokens_map": {"eos_token": "<b>"}}, 257, [257]),
        (
            {
                "tokenizer_config": {"added_tokens_decoder": {"256": {"content": "<a>", "special": False}}},
                "special_tokens_map": {"eos_token": "<b>"},
                "added_tokens": {"<b>": 257},
            },
            None,
            [],
        ),
        (
            {"tokenizer_config": {"eos_token": "<a>"}, "config": {"bos_token_id": 258, "eos_token_id": 257}},
            256,
            [256, 257],
        ),
        ({"tokenizer_config": {"model_specific_special_tokens": {"eos_token": "<b>"}}}, 257, [257]),
        ({"tokenizer_config": {"extra_special_tokens": {"own_token": "<a>"}, "eos_token": "<b>"}}, 257, [256, 257]),
    ],
    ids=["map over config", "decoder alone", "ids of a stale config", "specific tokens", "tokens without a role"],
)
def test_files_override_each_other_as_in_transformers(
    tmp_path: Path, beside: dict[str, Any], eos: int | None, special: list[int]
) -> None:
    content = byte_level({"<a>": 256, "<b>": 257, "Ġa": 258})
    vocabulary = read(written(tmp_path, content, **beside))
    assert vocabulary.roles.get("eos") == eos
    assert np.flatnonzero(vocabulary.kinds == Kind.SPECIAL).tolist() == special


@pytest.mark.parametrize("spelling", ["<|im_end|>", "☃"])
def test_token_that_only_the_config_names_is_special_and_gets_the_next_id(tmp_path: Path, spelling: str) -> None:
    vocabulary = read(written(tmp_path, byte_level({"Ġa": 256}), tokenizer_config={"eos_token": spelling}))
    assert (vocabulary.token(257), vocabulary.roles["eos"]) == (spelling.encode(), 257)
    assert vocabulary.kinds[257] == Kind.SPECIAL


@pytest.mark.parametrize("special", [True, False])
def test_config_decides_whether_an_added_token_is_special(tmp_path: Path, special: bool) -> None:
    content = byte_level({}, added_token(256, "<think>", special=not special))
    config = {"added_tokens_decoder": {"256": {"content": "<think>", "special": special}}}
    vocabulary = read(written(tmp_path, content, tokenizer_config=config))
    assert vocabulary.kinds[256] == (Kind.SPECIAL if special else Kind.TEXT)


def test_appended_tokens_are_added_in_the_order_of_their_ids(tmp_path: Path) -> None:
    vocabulary = read(written(tmp_path, byte_level({}), added_tokens={"<b>": 257, "<a>": 256}))
    assert (vocabulary.token(256), vocabulary.token(257), vocabulary.notes) == (b"<a>", b"<b>", ())


def test_sentencepiece_model_tells_the_ids_of_its_special_pieces(tmp_path: Path) -> None:
    pieces = [("[B]", 3), ("[E]", 3), ("[U]", 2), ("▁a", 1)]
    named = [(40, 2), (41, 0), (42, 1), (43, -1), (45, b"[U]"), (46, b"[B]"), (47, b"[E]")]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model(pieces) + protobuf((2, protobuf((3, 2), *named))))
    library = SentencePieceProcessor(model_file=str(path))
    expected = {"bos": library.bos_id(), "eos": library.eos_id(), "unk": library.unk_id()}
    assert read(path).roles == expected == {"bos": 0, "eos": 1, "unk": 2}


def test_text_alone_in_added_tokens_decoder_is_a_token_of_text(tmp_path: Path) -> None:
    config = {"added_tokens_decoder": {"256": "<think>", "257": 7, "258": {"content": 7}}}
    vocabulary = read(written(tmp_path, byte_level({}), tokenizer_config=config))
    assert (len(vocabulary), vocabulary.token(256), vocabulary.kinds[256]) == (257, b"<think>", Kind.TEXT)


def test_added_tokens_are_numbered_from_the_number_of_pieces(tmp_path: Path) -> None:
    content = byte_level({"<p>": 5000}, added_token(5000, "<p>"), added_token(5001, "<q>"))
    path = written(tmp_path, content)
    library: Any = pytest.importorskip("tokenizers").Tokenizer.from_file(str(path / "tokenizer.json"))
    vocabulary = read(path)
    assert library.token_to_id("<q>") == 257
    assert vocabulary.token(257) == b"<q>"


@pytest.mark.parametrize(
    "config",
    [
        {"text_config": {"hidden_size": 8}, "vocab_size": 257},
        {"decoder": {"vocab_size": 257, "hidden_size": 8}},
        {"llm_cfg": {"vocab_size": 257}, "hidden_size": 8},
        {"text_config": {"vocab_size": 257, "hidden_size": 8}, "vocab_size": 300, "hidden_size": 9},
    ],
)
def test_sizes_may_be_in_a_nested_config_or_around_it(tmp_path: Path, config: dict[str, Any]) -> None:
    vocabulary = read(written(tmp_path, byte_level({"Ġa": 256, "Ġb": 257}), config=config))
    assert (vocabulary.embedding_rows, vocabulary.width) == (257, 8)
    assert not vocabulary.alignable[257]


def test_rank_file_takes_its_special_tokens_from_the_config_beside_it(tmp_path: Path) -> None:
    ranks = "".join(f"{base64.b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256))
    (tmp_path / "tiktoken.model").write_text(ranks, "ascii")
    added = {"256": {"content": "[BOS]", "special": True}, "258": {"content": "[EOS]", "special": True}}
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": added, "eos_token": "[EOS]"})
    vocabulary = read(tmp_path)
    assert (vocabulary.token(256), vocabulary.token(258)) == (b"[BOS]", b"[EOS]")
    assert vocabulary.roles["eos"] == 258


def test_rank_file_takes_its_sizes_from_the_config_and_added_tokens_fill_holes(tmp_path: Path) -> None:
    ranks = [*((bytes([byte]), byte) for byte in range(256)), (b" a", 256), (b"ab", 258)]
    lines = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks)
    (tmp_path / "tiktoken.model").write_text(lines, "ascii")
    write_json(tmp_path / "config.json", {"vocab_size": 258, "hidden_size": 8})
    write_json(
        tmp_path / "tokenizer_config.json", {"added_tokens_decoder": {"257": {"content": "<h>", "special": True}}}
    )
    vocabulary = read(tmp_path)
    assert (vocabulary.embedding_rows, vocabulary.width) == (258, 8)
    assert (vocabulary.token(257), vocabulary.kinds[257]) == (b"<h>", Kind.SPECIAL)
    assert not vocabulary.alignable[258]


def test_added_token_of_rank_file_comes_before_rank_of_same_bytes(tmp_path: Path) -> None:
    """It is cut out of the text first."""
    (tmp_path / "tiktoken.model").write_bytes(rank_file([b"a", b"b", b"ab"]))
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": {"3": {"content": "ab", "special": False}}})
    assert read(tmp_path).canonical.tolist() == [0, 1, 3, 3]


def test_bracketed_pieces_that_no_merge_makes_are_special(tmp_path: Path) -> None:
    pieces = ["<s>", "<pad>", *ALPHABET, "s>", "<t>", "</s>", "Ġ\u2028"]
    write_json(tmp_path / "vocab.json", {piece: i for i, piece in enumerate(pieces)})
    (tmp_path / "merges.txt").write_text("#version: 0.2\ns >\n< s>\n", "utf-8")
    vocabulary = read(tmp_path)
    special = [vocabulary.token(i) for i in np.flatnonzero(vocabulary.kinds == Kind.SPECIAL).tolist()]
    assert special == [b"<pad>", b"</s>"], "a merge makes <s>, and <t> has no role"


def test_vocab_json_with_an_id_out_of_range_raises(tmp_path: Path) -> None:
    write_json(tmp_path / "vocab.json", {"Ġ": 0, "</s>": 10**15})
    (tmp_path / "merges.txt").touch()
    with pytest.raises(VocabkitError, match="id '1000000000000000' with 2 tokens"):
        read(tmp_path)


def test_vocab_json_that_is_not_byte_level_raises(tmp_path: Path) -> None:
    write_json(tmp_path / "vocab.json", {"<unk>": 0, "wörld": 1, "a</w>": 2})
    with pytest.raises(VocabkitError, match="not those of a byte-level BPE"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("model", "piece", "expected"),
    [("rwkv", "\\x0a\\xe4", b"\n\xe4"), ("rwkv", "a\\n", b"a\n"), ("plamo2", "<0x0A>", b"\n")],
)
def test_gguf_models_spell_bytes_in_their_own_way(tmp_path: Path, model: str, piece: str, expected: bytes) -> None:
    piece_type = 6 if piece.startswith("<0x") else 1
    content = gguf_tokenizer([("<s>", 3), (piece, piece_type)], model)
    (tmp_path / "model.gguf").write_bytes(gguf_file(content))
    assert read(tmp_path / "model.gguf").token(1) == expected
