"""A field that a tokenizer file leaves out means what it means to the publisher's library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizer_files import (
    BYTE_PIECES,
    CONTROL,
    METASPACE,
    NORMAL,
    UNKNOWN,
    bpe_json,
    gguf_file,
    gguf_tokenizer,
    protobuf,
    read_json_tokenizer,
    sentencepiece_model,
    unigram_json,
    wordpiece_json,
)
from tokenizers import Tokenizer

from vocabkit.tokenizer.read import read
from vocabkit.tokenizer.segmentation import load_rules, to_tokenizers
from vocabkit.tokenizer.segmenter import Segmenter
from vocabkit.tokenizer.vocabulary import Kind

TEXTS = ["a b", " a", "a  b", "a ", "  a", "", "ab", "c"]
PIECES = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
PIECES += [(piece, NORMAL) for piece in ("▁", "a", "b", "▁a", "▁▁", "ab", "▁ab")]

# ---- SentencePiece -----------------------------------------------------------------------------------------------

LEFT_OUT = {"remove_extra_whitespaces": 4, "add_dummy_prefix": 3, "escape_whitespaces": 5}


@pytest.mark.parametrize("given", [(), *((field,) for field in LEFT_OUT)], ids=str)
@pytest.mark.parametrize("model_type", [None, 1, 2])
def test_sentencepiece_model_without_fields_is_cut_as_by_its_library(
    tmp_path: Path, model_type: int | None, given: tuple[str, ...]
) -> None:
    own = [
        (1, protobuf((1, piece.encode()), (2, -float(i)), *([] if kind == NORMAL else [(3, kind)])))
        for i, (piece, kind) in enumerate(PIECES)
    ]
    trainer = protobuf(*([] if model_type is None else [(3, model_type)]))
    normalizer = protobuf((1, b"identity"), *((LEFT_OUT[field], 0) for field in given))
    path = tmp_path / "tokenizer.model"
    # without any, the message that holds these fields is left out too
    path.write_bytes(protobuf(*own, (2, trainer), *([(3, normalizer)] if given else [])))
    library, vocabulary = SentencePieceProcessor(model_file=str(path)), read(path)
    tokenizer = to_tokenizers(vocabulary)
    if "escape_whitespaces" not in given:  # decoding turns low lines into spaces whatever it says; see the pitfalls
        for text in TEXTS:
            assert tokenizer.encode(text, add_special_tokens=False).ids == library.encode(text), text
    assert dict(vocabulary.roles) == {"unk": library.unk_id(), "bos": library.bos_id(), "eos": library.eos_id()}
    assert library.pad_id() == -1
    assert [vocabulary.kinds[i] == Kind.TEXT for i in range(len(PIECES))] == [kind == NORMAL for _, kind in PIECES]


# ---- GGUF --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "fields", "expected"),
    [
        ("llama", {}, ["▁a", "▁▁", "b"]),
        ("llama", {"add_space_prefix": False}, ["a", "▁▁", "b"]),
        ("t5", {}, ["a", "▁▁", "b"]),
        ("t5", {"add_space_prefix": True}, ["▁a", "▁▁", "b"]),
        ("t5", {"remove_extra_whitespaces": True}, ["a", "▁", "b"]),
    ],
)
def test_gguf_without_fields_is_cut_as_by_llama_cpp(
    tmp_path: Path, model: str, fields: dict[str, Any], expected: list[str]
) -> None:
    """Of its models, only `llama` puts a space before the text unless the file says otherwise; none trims it."""
    scores = [0, 0, 0, -9, -8, -8, -4, -2, -9, -9, *[-20] * 256]
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_file(gguf_tokenizer([*PIECES, *BYTE_PIECES], model, scores=scores, **fields)))
    assert to_tokenizers(read(path)).encode("a  b", add_special_tokens=False).tokens == expected


def test_gguf_without_types_of_tokens_has_text_only(tmp_path: Path) -> None:
    metadata = gguf_tokenizer([("a", NORMAL), ("<unk>", NORMAL), ("▁b", NORMAL)])
    del metadata["tokenizer.ggml.token_type"]
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_file(metadata))
    vocabulary = read(path)
    assert vocabulary.tokens.to_pylist() == [b"a", b"<unk>", b" b"]
    assert (vocabulary.kinds == Kind.TEXT).all()
    assert not vocabulary.roles


# ---- tokenizer.json ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        bpe_json(["a", "<other>"], unk_token="<other>"),
        unigram_json(["a", "<other>"], unk_id=1),
        wordpiece_json(["a", "<other>"]),
        {**bpe_json([], None), "model": {"type": "WordLevel", "vocab": {"a": 0, "<other>": 1}, "unk_token": "<other>"}},
    ],
    ids=["BPE", "Unigram", "WordPiece", "WordLevel"],
)
def test_unknown_token_that_only_the_model_names_is_special(tmp_path: Path, content: dict[str, Any]) -> None:
    if content["model"].get("type") == "WordPiece":
        content["model"]["unk_token"] = "<other>"
    library = Tokenizer.from_str(json.dumps(content))
    assert library.encode("z").ids == [1]
    vocabulary = read_json_tokenizer(tmp_path, content)
    assert [Kind(kind) for kind in vocabulary.kinds] == [Kind.TEXT, Kind.SPECIAL]
    assert vocabulary.roles == {"unk": 1}


@pytest.mark.parametrize("unk_id", [None, 1, -1])
def test_unigram_without_an_unknown_piece_has_no_such_role(tmp_path: Path, unk_id: int | None) -> None:
    assert not read_json_tokenizer(tmp_path, unigram_json(["a"], unk_id=unk_id)).roles


@pytest.mark.parametrize("model", ["BPE", "Unigram"])
def test_model_without_type_or_options_is_that_of_the_library(tmp_path: Path, model: str) -> None:
    build = {"BPE": bpe_json, "Unigram": unigram_json}[model]
    content = build(["▁", "a", "▁a", "b"], METASPACE) | {"pre_tokenizer": METASPACE}
    del content["model"]["type"], content["added_tokens"]
    content["model"] |= {} if model == "Unigram" else {"merges": [["▁", "a"]]}
    library = Tokenizer.from_str(json.dumps(content))
    vocabulary = read_json_tokenizer(tmp_path, content)
    rules, tokenizer = load_rules(vocabulary), to_tokenizers(vocabulary)
    assert rules is not None
    assert rules.model == model.lower()
    for text in ("a", "ab", "b a", " a"):
        assert tokenizer.encode(text).tokens == library.encode(text).tokens
    assert Segmenter(vocabulary).ids(b" ab") == library.encode(" ab").ids


def test_sentencepiece_model_that_rewrites_decoded_text_says_so(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model(PIECES))
    assert read(path).notes == ()
    path.write_bytes(sentencepiece_model(PIECES) + protobuf((5, protobuf((2, b"rules")))))
    (note,) = read(path).notes
    assert "denormaliser" in note
