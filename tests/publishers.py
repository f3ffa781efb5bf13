"""How publishers' own libraries cut text: `tokenizers`, `tiktoken` and `sentencepiece` on the publishers' files."""

from __future__ import annotations

import ast
import base64
import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import sentencepiece
import tiktoken
from tiktoken.load import load_tiktoken_bpe
from tokenizer_files import SOURCES, protobuf, real_file
from tokenizers import Tokenizer, models, pre_tokenizers

Cut = Callable[[str], list[int]]


@dataclass(frozen=True)
class Publisher:
    """A tokenizer in its publisher's library."""

    encode: Cut
    """Token ids of a whole text, without special tokens around it."""
    encode_inside: Cut
    """Token ids of a text that stands inside a longer one."""
    encode_bytes: Callable[[bytes], list[int]] | None = None
    """Token ids of one word that need not be valid UTF-8."""


@cache
def publisher(name: str) -> Publisher:
    """The tokenizer of a snapshot, or of a file of `REAL`."""
    match name:
        case "deepseek" | "minilm":
            return _tokenizers(Tokenizer.from_file(str(real_file(name))))
        case "smollm2":
            return _tokenizers(_byte_level_gguf(real_file(name)))
        case "qwen2" | "qwen2.5" | "qwen3":
            pattern = _assigned("dashscope/tokenizers/qwen_tokenizer.py", "PAT_STR")
            return _tiktoken(load_tiktoken_bpe(str(real_file("qwen"))), pattern, "NFC")
        case "llama3" | "llama3.1":
            pattern = _assigned("llama_models/llama3/tokenizer.py", "pat_str")
            return _tiktoken(load_tiktoken_bpe(str(real_file("llama3"))), pattern)
        case "llama4":
            pattern = _assigned("llama_models/llama4/tokenizer.py", "O200K_PATTERN")
            return _tiktoken(load_tiktoken_bpe(str(real_file("llama4"))), pattern)
        case "mistral-tekken" | "tekken-240718" | "tekken-240911":
            return _tekken(real_file("tekken-240911" if name == "mistral-tekken" else name))
        case "gemma3":
            return _sentencepiece(_sentencepiece_gguf(real_file(name)))
        case _:
            return _sentencepiece(real_file(name).read_bytes())


def _assigned(path: str, name: str) -> str:
    """The text that a publisher's module assigns to `name`."""
    for node in ast.walk(ast.parse((SOURCES / path).read_text("utf-8"))):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return str(ast.literal_eval(node.value))
    raise AssertionError(f"{path} has no {name}")


def _tokenizers(library: Tokenizer) -> Publisher:
    library.no_truncation()
    library.no_padding()

    def encode(text: str) -> list[int]:
        return list(library.encode(text, add_special_tokens=False).ids)

    return Publisher(encode, encode)


def _tiktoken(ranks: dict[bytes, int], pattern: str, form: str | None = None, first: int = 0) -> Publisher:
    """`form`: the publisher normalizes text so before. `first`: the id of rank 0."""
    library = tiktoken.Encoding("publisher", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    def encode(text: str) -> list[int]:
        normal = unicodedata.normalize(form, text) if form else text  # type: ignore[arg-type]
        return [first + rank for rank in library.encode_ordinary(normal)]

    return Publisher(encode, encode, lambda word: [first + rank for rank in library._encode_single_piece(word)])


def _tekken(path: Path) -> Publisher:
    content = json.loads(path.read_text("utf-8"))
    config = content["config"]
    first = config["default_num_special_tokens"]
    entries = content["vocab"][: config["default_vocab_size"] - first]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in entries}
    return _tiktoken(ranks, config["pattern"], first=first)


def _sentencepiece(model: bytes) -> Publisher:
    whole = sentencepiece.SentencePieceProcessor(model_proto=model)
    # a later field of a protobuf message overrides an earlier one: add_dummy_prefix and remove_extra_whitespaces off
    inside = sentencepiece.SentencePieceProcessor(model_proto=model + protobuf((3, protobuf((3, 0), (4, 0)))))
    return Publisher(lambda text: list(whole.encode(text)), lambda text: list(inside.encode(text)))


def _gguf_fields(path: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(path)
    return {key.removeprefix("tokenizer.ggml."): field.contents() for key, field in reader.fields.items()}


def _byte_level_gguf(path: Path) -> Tokenizer:
    fields = _gguf_fields(path)
    vocab = {piece: i for i, piece in enumerate(fields["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in fields["merges"]]
    library = Tokenizer(models.BPE(vocab, merges))
    assert fields["pre"] == "smollm"
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return library


def _sentencepiece_gguf(path: Path) -> bytes:
    """The SentencePiece model that a GGUF was made of: pieces, scores, types, and no change of the text."""
    fields = _gguf_fields(path)
    low_line = [piece.replace(" ", "▁") for piece in fields["tokens"]]
    types = fields["token_type"]
    types[fields["unknown_token_id"]] = 2
    pieces = zip(low_line, fields["scores"], types, strict=True)
    own = [(1, protobuf((1, piece.encode()), (2, float(score)), (3, kind))) for piece, score, kind in pieces]
    trainer = protobuf((3, 2), (35, 1), *((40 + i, fields[f"{role}_token_id"]) for i, role in enumerate(["unknown", "bos", "eos", "padding"])))
    prefix = int(fields["add_space_prefix"])
    return protobuf(*own, (2, trainer), (3, protobuf((1, b"identity"), (3, prefix), (4, 0))))
