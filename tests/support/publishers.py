"""How publishers' own libraries cut text: `tokenizers`, `tiktoken` and `sentencepiece` on the publishers' files."""

from __future__ import annotations

import ast
import base64
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
import tiktoken
from tiktoken.load import load_tiktoken_bpe
from tokenizer_files import SOURCES, protobuf, real_file
from tokenizers import Tokenizer, models, pre_tokenizers

from vocabkit.tokenizer.gguf import read_header

Cut = Callable[[str], list[int]]


@dataclass(frozen=True)
class Publisher:
    """A tokenizer in its publisher's library."""

    encode: Cut
    """Token ids of a whole text, without special tokens around it."""
    encode_inside: Cut
    """Token ids of a text that stands inside a longer one."""
    encode_bytes: Callable[[bytes], list[int]] | None = None
    """Token ids of one word that need not be valid UTF-8, for byte-level tokenizers of `tiktoken`."""


@cache
def publisher(name: str) -> Publisher:
    """The tokenizer of a snapshot, or of a file of `REAL`."""
    match name:
        case "deepseek" | "minilm":
            return _tokenizers(Tokenizer.from_file(str(real_file(name))))
        case "smollm2":
            return _tokenizers(_byte_level_gguf(real_file(name)))
        case "qwen" | "qwen2" | "qwen2.5" | "qwen3":
            pattern = _assigned("dashscope/tokenizers/qwen_tokenizer.py", "PAT_STR")
            return _tiktoken(load_tiktoken_bpe(str(real_file("qwen"))), pattern, "NFC")
        case "llama3" | "llama3.1":
            pattern = _assigned("llama_models/llama3/tokenizer.py", "pat_str")
            return _tiktoken(load_tiktoken_bpe(str(real_file("llama3"))), pattern)
        case "llama4":
            pattern = _assigned("llama_models/llama4/tokenizer.py", "O200K_PATTERN")
            return _tiktoken(load_tiktoken_bpe(str(real_file("llama4"))), pattern)
        case "mistral-tekken" | "tekken-240718" | "tekken-240911":
            return tekken(real_file("tekken-240911" if name == "mistral-tekken" else name))
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
    library.encode_special_tokens = True  # text that spells a special token is text

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


def tekken(path: Path) -> Publisher:
    """The tokenizer of a tekken.json."""
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
    collapses = whole.normalize("a  b") == whole.normalize("a b")

    def encode_inside(text: str) -> list[int]:
        return list(inside.encode(re.sub(" +", " ", text) if collapses else text))

    return Publisher(lambda text: list(whole.encode(text)), encode_inside)


def _byte_level_gguf(path: Path) -> Tokenizer:
    reader = gguf.GGUFReader(path)
    pieces, merges, name = (reader.fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "merges", "pre"))
    assert name == "smollm"
    vocab = {piece: i for i, piece in enumerate(pieces)}
    library = Tokenizer(models.BPE(vocab, [tuple(merge.split(" ")) for merge in merges]))
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return library


def _sentencepiece_gguf(path: Path) -> bytes:
    """The SentencePiece model that a GGUF was made of: pieces, scores, types, and no change of the text.

    The `gguf` package takes ten seconds for 262,144 pieces. tests/readers compares what it reads with our reader, but
    for the scores, which are searched for here.
    """
    header, _ = read_header(path)
    fields = {key.removeprefix("tokenizer.ggml."): value for key, value in header.items()}
    with path.open("rb") as file:
        start = file.read(20_000_000)
    at = start.index(b"tokenizer.ggml.scores") + len("tokenizer.ggml.scores") + 16  # array, float32, length
    scores = np.frombuffer(start, "<f4", len(fields["tokens"]), at).tolist()
    low_line = [piece.replace(" ", "▁") for piece in fields["tokens"]]
    types = fields["token_type"].tolist()
    types[fields["unknown_token_id"]] = 2
    own = b"".join(
        protobuf((1, protobuf((1, piece.encode()), (2, score), (3, piece_type))))
        for piece, score, piece_type in zip(low_line, scores, types, strict=True)
    )
    roles = ("unknown", "bos", "eos", "padding")
    trainer = protobuf((3, 2), (35, 1), *((40 + i, fields[f"{role}_token_id"]) for i, role in enumerate(roles)))
    prefix = int(fields["add_space_prefix"])
    return own + protobuf((2, trainer), (3, protobuf((1, b"identity"), (3, prefix), (4, 0))))
