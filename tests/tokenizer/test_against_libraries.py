"""Every id of every real tokenizer means the bytes that the tokenizer's own library decodes it to."""

from __future__ import annotations

import ast
import base64
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
import tiktoken
from tiktoken.load import load_tiktoken_bpe
from tokenizer_files import (
    BYTE,
    CONTROL,
    FALLBACK,
    FUSE,
    METASPACE,
    REAL,
    SAMPLE_CODES,
    SPACES,
    STRIP,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    library_alphabet,
    real,
    real_file,
    sequence,
)
from tokenizers import Tokenizer, decoders

from vocabkit.tokenizer.catalog import catalog, read_source
from vocabkit.tokenizer.read import read
from vocabkit.tokenizer.segmentation import to_tokenizers
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

pytestmark = pytest.mark.usefixtures("sources")


def assert_same(vocabulary: Vocabulary, expected: Sequence[bytes]) -> None:
    """Every id has the expected bytes (its spelling, where it is special or unused)."""
    found = vocabulary.tokens.to_pylist()
    assert len(found) == len(expected)
    wrong = [(i, *pair) for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1]]
    assert not wrong, f"{len(wrong)} ids differ, the first as id, ours, the library's: {wrong[:5]}"


def ids_of(vocabulary: Vocabulary, *kinds: Kind) -> list[int]:
    """Ids of these kinds."""
    return np.flatnonzero(np.isin(vocabulary.kinds, kinds)).tolist()


CHARACTERS = {byte: chr(code) for code in SAMPLE_CODES for byte in chr(code).encode()}
"""byte -> a character whose UTF-8 holds it; 13 bytes are in no character."""


def assert_bytes_complete_characters(byte_ids: dict[int, int], decode: Callable[[list[int]], str]) -> None:
    """The byte-fallback ids stand for their bytes: together they decode to the characters these bytes make."""
    assert len(byte_ids) == 256
    assert set(byte_ids) - set(CHARACTERS) == {0xC0, 0xC1, *range(0xF5, 0x100)}
    for character in CHARACTERS.values():
        assert decode([byte_ids[byte] for byte in character.encode()]) == character


# ---- tokenizers: byte-level BPE, WordPiece -----------------------------------------------------------------------


def test_byte_level_tokens_are_what_tokenizers_spells_and_decodes() -> None:
    vocabulary, library = real("deepseek"), Tokenizer.from_file(str(real_file("deepseek")))
    size = len(vocabulary)
    assert size == library.get_vocab_size()
    added = library.get_added_tokens_decoder()
    assert ids_of(vocabulary, Kind.SPECIAL, Kind.UNUSED) == sorted(i for i, token in added.items() if token.special)

    alphabet = library_alphabet()
    spellings = [library.id_to_token(i) for i in range(size)]
    assert_same(
        vocabulary,
        [
            spelling.encode() if i in added else bytes(alphabet[character] for character in spelling)
            for i, spelling in enumerate(spellings)
        ],
    )
    text = ids_of(vocabulary, Kind.TEXT)
    decoded = library.decode_batch([[i] for i in text], skip_special_tokens=False)
    ours = vocabulary.tokens.to_pylist()
    assert decoded == [ours[i].decode(errors="replace") for i in text]


def test_wordpiece_tokens_are_what_tokenizers_decodes_in_middle_of_text() -> None:
    vocabulary, library = real("minilm"), Tokenizer.from_file(str(real_file("minilm")))
    before = library.token_to_id("a")
    decoded = library.decode_batch([[before, i] for i in range(len(vocabulary))], skip_special_tokens=False)
    special = {i for i, token in library.get_added_tokens_decoder().items() if token.special}
    assert len(vocabulary) == library.get_vocab_size()
    assert set(ids_of(vocabulary, Kind.SPECIAL)) == special
    assert all(re.fullmatch(r"\[unused\d+\]", library.id_to_token(i)) for i in ids_of(vocabulary, Kind.UNUSED))
    assert_same(
        vocabulary,
        [
            (library.id_to_token(i) if i in special else text.removeprefix("a")).encode()
            for i, text in enumerate(decoded)
        ],
    )


# ---- tiktoken ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen", "llama3", "llama4"])
def test_ranks_are_what_tiktoken_decodes(name: str) -> None:
    ranks = load_tiktoken_bpe(str(real_file(name)))
    library = tiktoken.Encoding(name, pat_str=r".+", mergeable_ranks=ranks, special_tokens={})
    assert_same(real(name), [library.decode_single_token_bytes(i) for i in range(library.n_vocab)])


def evaluated(path: str, *names: str) -> dict[str, Any]:
    """Values that a publisher's module gives to `names`, without importing what the module needs."""
    tree = ast.parse((real_file("qwen").parents[2] / path).read_text("utf-8"))
    values: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in names:
            exec(compile(ast.Module([node], []), path, "exec"), values)
        if isinstance(node, ast.Assign) and (target := ast.unparse(node.targets[0])) in names:
            values[target] = eval(compile(ast.Expression(node.value), path, "eval"), values)
    return values


def special_spellings(vocabulary: Vocabulary, first: int) -> list[str]:
    """Spellings of all ids from `first`."""
    return [value.decode() for value in vocabulary.tokens.to_pylist()[first:]]


def test_special_tokens_of_llama4_are_those_of_its_publisher() -> None:
    module = "llama_models/llama4/tokenizer.py"
    parts = ("LLAMA4_TEXT_POST_TRAIN_SPECIAL_TOKENS", "LLAMA4_VISION_SPECIAL_TOKENS", "LLAMA4_REASONING_SPECIAL_TOKENS")
    values = evaluated(module, "get_reserved_special_tokens", "BASIC_SPECIAL_TOKENS", *parts)
    listed = values["BASIC_SPECIAL_TOKENS"] + [token for part in parts for token in values[part]]
    reserved = [f"<|reserved_special_token_{i}|>" for i in range(2048 - len(listed))]
    vocabulary = read_source(catalog()["llama4"], real_file("llama4"))
    assert special_spellings(vocabulary, 200_000) == listed + reserved
    assert not np.any(vocabulary.kinds[200_000:] <= Kind.BYTE)


def test_special_tokens_of_llama3_are_those_of_its_publisher() -> None:
    """The publisher's code names two ids that its tokenizer.json on the hub keeps reserved."""
    tree = ast.parse((real_file("llama3").parent / "tokenizer.py").read_text("utf-8"))
    listed = next(
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List) and "begin_of" in ast.unparse(node.value)
    )
    ours = special_spellings(read_source(catalog()["llama3.1"], real_file("llama3")), 128_000)
    assert len(ours) == 256
    differing = [pair for pair in zip(listed, ours, strict=False) if pair[0] != pair[1]]
    assert differing == [
        ("<|step_id|>", "<|reserved_special_token_2|>"),
        ("<|image|>", "<|reserved_special_token_3|>"),
    ]


# ---- tekken ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tekken-240718", "tekken-240911"])
def test_tekken_ids_are_special_tokens_and_then_what_tiktoken_decodes(name: str) -> None:
    content = json.loads(real_file(name).read_text("utf-8"))
    config = content["config"]
    n_special = config["default_num_special_tokens"]
    n_ranks = config["default_vocab_size"] - n_special
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in content["vocab"][:n_ranks]}
    library = tiktoken.Encoding(name, pat_str=config["pattern"], mergeable_ranks=ranks, special_tokens={})
    text = [library.decode_single_token_bytes(rank) for rank in range(n_ranks)]
    named = mistral_special_tokens()
    special = [named[i] if i < len(named) else f"<SPECIAL_{i}>" for i in range(n_special)]
    assert_same(real(name), [spelling.encode() for spelling in special] + text)
    assert ids_of(real(name), Kind.TEXT) == list(range(n_special, n_special + n_ranks))


def mistral_special_tokens() -> list[str]:
    """The default special tokens of Tekkenizer, from the source text of mistral_common."""
    package = real_file("tekken-240911").parents[1]
    enum = ast.parse((package / "tokens/tokenizers/base.py").read_text("utf-8"))
    spelled = {
        ast.unparse(node.targets[0]): node.value.value
        for definition in ast.walk(enum)
        if isinstance(definition, ast.ClassDef) and definition.name == "SpecialTokens"
        for node in definition.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    source = ast.parse((package / "tokens/tokenizers/tekken.py").read_text("utf-8"))
    table = next(
        node.value
        for node in ast.walk(source)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DEPRECATED_SPECIAL_TOKENS"
    )
    assert isinstance(table, ast.Tuple)
    entries = [{k.arg: k.value for k in call.keywords} for call in table.elts if isinstance(call, ast.Call)]
    assert [ast.literal_eval(entry["rank"]) for entry in entries] == list(range(len(entries)))
    return [spelled[ast.unparse(entry["token_str"]).removeprefix("SpecialTokens.")] for entry in entries]


# ---- SentencePiece -----------------------------------------------------------------------------------------------


def sentencepiece_tokens(library: sentencepiece.SentencePieceProcessor) -> list[bytes]:
    """What each piece adds to a text that stands before it; the spelling of special and unused pieces."""
    size = library.vocab_size()
    before = next(i for i in range(size) if library.decode([i]) == "a")
    text = library.decode([[before, i] for i in range(size)])
    expected: list[bytes] = []
    for i in range(size):
        if library.is_control(i) or library.is_unknown(i) or library.is_unused(i):
            expected.append(library.id_to_piece(i).encode())
        elif library.is_byte(i):
            expected.append(bytes([int(library.id_to_piece(i)[3:5], 16)]))
        else:
            expected.append(text[i].removeprefix("a").encode())
    return expected


@pytest.mark.parametrize("name", [name for name, file in REAL.items() if ".model" in file and "llama" not in file])
def test_pieces_are_what_sentencepiece_decodes_in_middle_of_text(name: str) -> None:
    library = sentencepiece.SentencePieceProcessor(model_file=str(real_file(name)))
    vocabulary = real(name)
    assert_same(vocabulary, sentencepiece_tokens(library))
    assert_kinds_are_those_of_sentencepiece(vocabulary, library)


def assert_kinds_are_those_of_sentencepiece(
    vocabulary: Vocabulary, library: sentencepiece.SentencePieceProcessor
) -> None:
    """Special pieces, byte pieces, and the characters that these make, as `sentencepiece` has them."""
    every = range(library.vocab_size())
    assert ids_of(vocabulary, Kind.BYTE) == [i for i in every if library.is_byte(i)]
    assert ids_of(vocabulary, Kind.SPECIAL, Kind.UNUSED) == [
        i for i in every if library.is_control(i) or library.is_unknown(i) or library.is_unused(i)
    ]
    byte_ids = {vocabulary.tokens[i].as_py()[0]: i for i in ids_of(vocabulary, Kind.BYTE)}
    if byte_ids:
        assert_bytes_complete_characters(byte_ids, library.decode)


@pytest.fixture(scope="module")
def unigram_with_bytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Unigram model with byte fallback and symbols of the user, trained by `sentencepiece`."""
    words = [value.decode() for value in real("botchan-bpe").tokens.to_pylist()[3:]]
    lines = [" ".join(words[i : i + 60]) for i in range(0, 900, 20)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=600,
        byte_fallback=True,
        user_defined_symbols=["<sep>", "▁▁"],
        control_symbols=["<c>"],
        pad_id=3,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("unigram") / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


def test_unigram_with_byte_fallback_is_what_sentencepiece_decodes(unigram_with_bytes: Path) -> None:
    library = sentencepiece.SentencePieceProcessor(model_file=str(unigram_with_bytes))
    vocabulary = read(unigram_with_bytes)
    assert_same(vocabulary, sentencepiece_tokens(library))
    assert_kinds_are_those_of_sentencepiece(vocabulary, library)


# ---- tokenizer.json in the style of SentencePiece ----------------------------------------------------------------


def as_tokenizer_json(vocabulary: Vocabulary, decoder: dict[str, Any], path: Path) -> Path:
    """A tokenizer.json with the pieces and rules of `vocabulary`, as converters write it for its family."""
    content = json.loads(to_tokenizers(vocabulary).to_str())
    path.write_text(json.dumps({**content, "decoder": decoder}), "utf-8")
    return path


def tokenizers_tokens(library: Tokenizer, vocabulary: Vocabulary) -> list[bytes]:
    """What each id adds to a text that stands before it, by `tokenizers`."""
    before = library.token_to_id("a")
    every = list(range(library.get_vocab_size()))
    text = library.decode_batch([[before, i] for i in every], skip_special_tokens=False)
    special = {i for i, token in library.get_added_tokens_decoder().items() if token.special}
    special |= {library.token_to_id("<unk>")}
    byte_like = set(ids_of(vocabulary, Kind.BYTE))
    return [
        library.id_to_token(i).encode()
        if i in special
        else bytes([int(library.id_to_token(i)[3:5], 16)])
        if i in byte_like
        else text[i].removeprefix("a").encode()
        for i in every
    ]


LLAMA_DECODER = sequence(SPACES, FALLBACK, FUSE, STRIP)


@pytest.mark.parametrize(
    ("name", "decoder"),
    [("mistral-v3", LLAMA_DECODER), ("botchan-bpe", METASPACE), ("kyoto-unigram", METASPACE)],
)
def test_converted_sentencepiece_is_what_tokenizers_decodes(name: str, decoder: dict[str, Any], tmp_path: Path) -> None:
    path = as_tokenizer_json(real(name), decoder, tmp_path / "tokenizer.json")
    vocabulary, library = read(path), Tokenizer.from_file(str(path))
    assert_same(vocabulary, tokenizers_tokens(library, vocabulary))
    byte_ids = {vocabulary.tokens[i].as_py()[0]: i for i in ids_of(vocabulary, Kind.BYTE)}
    assert len(byte_ids) == (256 if name == "mistral-v3" else 0)
    if byte_ids:
        before = library.token_to_id("a")
        assert_bytes_complete_characters(byte_ids, lambda ids: library.decode([before, *ids]).removeprefix("a"))


def test_converted_unigram_with_byte_fallback_is_what_tokenizers_decodes(
    unigram_with_bytes: Path, tmp_path: Path
) -> None:
    path = as_tokenizer_json(read(unigram_with_bytes), LLAMA_DECODER, tmp_path / "tokenizer.json")
    vocabulary, library = read(path), Tokenizer.from_file(str(path))
    assert_same(vocabulary, tokenizers_tokens(library, vocabulary))
    assert len(ids_of(vocabulary, Kind.BYTE)) == 256


# ---- GGUF --------------------------------------------------------------------------------------------------------


def gguf_pieces(name: str) -> tuple[list[str], list[int], tuple[int, int]]:
    """Spellings, types, and (width, rows) of the embedding table, by the `gguf` package."""
    library = gguf.GGUFReader(real_file(name))
    field = library.fields["tokenizer.ggml.tokens"]
    pieces = [bytes(field.parts[i]).decode() for i in field.data]
    types = library.fields["tokenizer.ggml.token_type"].contents()
    table = next(tensor for tensor in library.tensors if tensor.name == "token_embd.weight")
    return pieces, types, (int(table.shape[0]), int(table.shape[1]))


def assert_header(vocabulary: Vocabulary, types: Sequence[int], table: tuple[int, int]) -> None:
    """Kinds and the size of the embedding table are those of the file."""
    assert (vocabulary.width, vocabulary.embedding_rows) == table
    assert ids_of(vocabulary, Kind.BYTE) == [i for i, kind in enumerate(types) if kind == BYTE]
    hidden = [i for i, kind in enumerate(types) if kind in (UNKNOWN, CONTROL, UNUSED)]
    assert ids_of(vocabulary, Kind.SPECIAL, Kind.UNUSED) == hidden


def decode_each(decoder: decoders.Decoder, pieces: Iterable[str]) -> list[str]:
    """Each piece decoded after an `a`, without it."""
    return [decoder.decode(["a", piece]).removeprefix("a") for piece in pieces]


def test_gguf_of_sentencepiece_kind_is_what_tokenizers_decodes() -> None:
    pieces, types, table = gguf_pieces("gemma3")
    vocabulary = real("gemma3")
    assert_header(vocabulary, types, table)
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    decoded = decode_each(decoder, pieces)
    assert_same(
        vocabulary,
        [
            piece.encode()
            if kind in (UNKNOWN, CONTROL, UNUSED)
            else bytes([int(piece[3:5], 16)])
            if kind == BYTE
            else text.encode()
            for piece, kind, text in zip(pieces, types, decoded, strict=True)
        ],
    )
    byte_ids = {vocabulary.tokens[i].as_py()[0]: i for i in ids_of(vocabulary, Kind.BYTE)}
    assert_bytes_complete_characters(byte_ids, lambda ids: decoder.decode([pieces[i] for i in ids]))


def test_gguf_of_byte_level_kind_is_what_tokenizers_spells_and_decodes() -> None:
    pieces, types, table = gguf_pieces("smollm2")
    vocabulary = real("smollm2")
    assert_header(vocabulary, types, table)
    alphabet = library_alphabet()
    as_they_are = (UNKNOWN, CONTROL, UNUSED, USER_DEFINED)
    expected = [
        piece.encode() if kind in as_they_are else bytes(alphabet[character] for character in piece)
        for piece, kind in zip(pieces, types, strict=True)
    ]
    assert_same(vocabulary, expected)
    decoded = [decoders.ByteLevel().decode([piece]) for piece in pieces]
    assert decoded == [value.decode(errors="replace") for value in expected]
