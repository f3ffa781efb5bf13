"""Writes the files of this folder: python tests/hostile/make.py. They are kept, so that their bytes stay the same."""

from __future__ import annotations

import json
import pickle
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent.parent))

from tokenizer_files import (
    BYTE_LEVEL,
    NORMAL,
    UNKNOWN,
    added_token,
    bpe_json,
    gguf_file,
    gguf_tokenizer,
    protobuf,
    rank_file,
    sentencepiece_model,
    tekken_json,
    unigram_json,
    wordpiece_json,
)

from vocabkit.arrow_file import write_table

FOLDER = Path(__file__).parent
ESCAPE = "\x1b[31mred\nline\x07\u202e"
PIECES = [("<unk>", UNKNOWN), ("a", NORMAL)]


def files() -> Iterator[tuple[str, bytes]]:
    """Name and content of every file but the Arrow files."""
    yield "empty", b""
    yield "spaces.json", b" \n\t "
    yield "zip.bin", b"PK\x03\x04" + bytes(60)
    yield "picture.png", b"\x89PNG\r\n\x1a\n" + bytes(60)
    yield "pickle.model", pickle.dumps({"vocab": {"a": 0}, "merges": []})
    yield "pickle-old.model", pickle.dumps(["a", "b"], protocol=0)
    yield from json_files()
    yield from tekken_files()
    yield from rank_files()
    yield from sentencepiece_files()
    yield from gguf_files()


def json_files() -> Iterator[tuple[str, bytes]]:
    """Files in place of a tokenizer.json."""
    content = json.dumps(bpe_json(["a", "b"])).encode()
    yield "truncated.json", content[: len(content) // 2]
    yield "two-documents.json", content + content
    yield "list.json", b'[{"model": {}}]'
    yield "another-kind.json", b'{"name": "left-pad", "version": "1.0.0", "dependencies": {}}'
    yield "nan.json", b'{"model": NaN}'
    yield "utf-16.json", content.decode().encode("utf-16")
    yield "invalid-utf-8.json", content.replace(b'"a"', b'"\xff"')
    yield "deep.json", b'{"model":' + b"[" * 50_000
    yield "deep-decoder.json", deep_decoder()
    values: dict[str, Any] = {
        "negative": -1, "float": 1.5, "bool": True, "text": "1", "null": None, "list": [1], "beyond": 1 << 24,
        "huge": 10**300,
    }  # fmt: skip
    for name, value in values.items():
        yield f"id-{name}.json", json.dumps(bpe_json({"a": 0, "b": value})).encode()
        yield f"added-id-{name}.json", json.dumps(bpe_json(["a"], added=[{**added_token(1, "b"), "id": value}])).encode()
    cases: dict[str, Any] = {
        "id-twice": bpe_json({"a": 0, ESCAPE: 0}),
        "added-id-twice": bpe_json(["a"], added=[added_token(1, "b"), added_token(1, ESCAPE)]),
        "added-without-content": bpe_json(["a"], added=[{"id": 1}]),
        "added-is-map": {**bpe_json(["a"]), "added_tokens": {"b": 1}},
        "model-is-list": {"model": []},
        "model-is-null": {"model": None},
        "vocab-is-missing": {"model": {"type": "BPE"}},
        "vocab-is-number": {"model": {"vocab": 5}},
        "vocab-is-empty": bpe_json([]),
        "unigram-without-scores": {**unigram_json([]), "model": {"type": "Unigram", "vocab": ["a", "b"]}},
        "unigram-piece-is-number": {**unigram_json([]), "model": {"type": "Unigram", "vocab": [[1, 0.0]]}},
        "decoder-unknown": bpe_json(["a"], {"type": ESCAPE}),
        "decoder-is-text": bpe_json(["a"], "ByteLevel"),  # type: ignore[arg-type]
        "decoder-without-type": bpe_json(["a"], {"kind": "ByteLevel"}),
        "decoder-of-numbers": bpe_json(["a"], {"type": "Replace", "pattern": {"String": 1}, "content": 2}),
        "decoder-that-explodes": bpe_json(["a" * 1000], {"type": "Replace", "pattern": {"String": ""}, "content": "b" * 1000}),
        "metaspace-of-numbers": bpe_json(["a"], {"type": "Metaspace", "replacement": 1}),
        "prefix-is-number": wordpiece_json(["[UNK]", "a"], {"type": "WordPiece", "prefix": 1, "cleanup": True}),
        "normalizer-of-numbers": {**wordpiece_json(["a"]), "normalizer": {"type": "Sequence", "normalizers": [1]}},
    }
    for name, case in cases.items():
        yield f"{name}.json", json.dumps(case).encode()
    surrogate = json.dumps(bpe_json(["a", "b"])).replace('"b"', r'"\ud800"')
    yield "surrogate.json", surrogate.encode()
    added = json.dumps(bpe_json(["a"], added=[added_token(1, "b", special=True)])).replace('"b"', r'"\udfff"')
    yield "surrogate-added.json", added.encode()


def deep_decoder() -> bytes:
    """A decoder of 400 sequences, one inside the other."""
    decoder = BYTE_LEVEL
    for _ in range(400):
        decoder = {"type": "Sequence", "decoders": [decoder]}
    return json.dumps(bpe_json(["a"], decoder)).encode()


def tekken_files() -> Iterator[tuple[str, bytes]]:
    """Files in place of a tekken.json."""
    for name, key, value in [
        ("size-huge", "default_vocab_size", 10**18),
        ("size-negative", "default_vocab_size", -5),
        ("size-float", "default_vocab_size", 1e300),
        ("special-huge", "default_num_special_tokens", 10**18),
        ("special-negative", "default_num_special_tokens", -1),
        ("pattern-is-number", "pattern", 5),
    ]:
        content = tekken_json([b"a", b"b"])
        content["config"][key] = value
        yield f"tekken-{name}.json", json.dumps(content).encode()
    content = tekken_json([b"a", b"b"])
    content["vocab"][1]["rank"] = 0
    yield "tekken-rank-twice.json", json.dumps(content).encode()
    content = tekken_json([b"a", b"b"])
    content["vocab"][1]["token_bytes"] = "not base64!"
    yield "tekken-not-base64.json", json.dumps(content).encode()
    content = tekken_json([b"a", b"b"])
    content["special_tokens"][1]["rank"] = 0
    yield "tekken-special-twice.json", json.dumps(content).encode()
    content = json.dumps(tekken_json([b"a"])).replace('"<s>"', r'"\ud800"').encode()
    yield "tekken-surrogate.json", content
    yield "tekken-truncated.json", json.dumps(tekken_json([b"a", b"b"])).encode()[:-40]


def rank_files() -> Iterator[tuple[str, bytes]]:
    """Files in place of a tiktoken rank file."""
    good = rank_file([b"a", b"b"])
    yield "ranks-not-base64.tiktoken", good + b"b@d= 2\n"
    yield "ranks-bad-padding.tiktoken", good + b"Yg 2\n"
    yield "ranks-escapes.tiktoken", good + ESCAPE.replace("\n", "").encode() + b" 2\n"
    yield "ranks-truncated.tiktoken", good + b"Yw=="
    yield "ranks-negative.tiktoken", good + b"Yw== -1\n"
    yield "ranks-float.tiktoken", good + b"Yw== 2.0\n"
    yield "ranks-underscore.tiktoken", good + b"Yw== 1_0\n"
    yield "ranks-twice.tiktoken", good + b"Yw== 1\n"
    yield "ranks-huge.tiktoken", good + b"Yw== 99999999999999999999\n"
    yield "ranks-very-huge.tiktoken", good + b"Yw== " + b"9" * 4000 + b"\n"


def sentencepiece_files() -> Iterator[tuple[str, bytes]]:
    """Files in place of a SentencePiece model."""
    good = sentencepiece_model(PIECES)
    yield "pieces-truncated.model", good[:10]
    yield "pieces-declared-huge.model", b"\n\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(50)
    yield "pieces-endless-varint.model", b"\n" + b"\xff" * 50
    yield "pieces-group.model", good + b"\x0b\x0c"
    yield "pieces-none.model", protobuf((2, protobuf((3, 2))))
    yield "pieces-word-model.model", sentencepiece_model(PIECES, model_type=3)
    yield "pieces-invalid-utf-8.model", protobuf((1, protobuf((1, b"\xff\xfe"), (2, 0.0))))
    yield "pieces-score-is-text.model", protobuf((1, protobuf((1, b"a"), (2, b"much"), (3, b"normal"))))
    yield "pieces-type-is-text.model", protobuf((1, protobuf((1, b"a"), (3, b"normal"))))
    yield "pieces-trainer-is-text.model", protobuf((1, protobuf((1, b"a"))), (2, protobuf((3, b"bpe"))))
    yield "pieces-charsmap-is-number.model", protobuf((1, protobuf((1, b"a"))), (3, protobuf((2, 7))))


def gguf_files() -> Iterator[tuple[str, bytes]]:
    """Files in place of a GGUF model."""
    metadata = gguf_tokenizer(PIECES)
    good = gguf_file(metadata)
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    key = struct.pack("<Q", 21) + b"tokenizer.ggml.tokens"
    endless = struct.pack("<Q", (1 << 64) - 1)
    yield "magic-only.gguf", b"GGUF"
    yield "truncated.gguf", good[:-20]
    yield "version.gguf", b"GGUF" + struct.pack("<IQQ", 99, 0, 0)
    yield "big-endian.gguf", b"GGUF" + struct.pack(">IQQ", 3, 0, 0)
    yield "endless-metadata.gguf", b"GGUF" + struct.pack("<I", 3) + bytes(8) + endless
    yield "endless-tensors.gguf", b"GGUF" + struct.pack("<I", 3) + endless + bytes(8)
    yield "endless-key.gguf", start + endless
    yield "endless-text.gguf", start + key + struct.pack("<I", 8) + endless
    yield "endless-texts.gguf", start + key + struct.pack("<II", 9, 8) + endless
    yield "endless-numbers.gguf", start + key + struct.pack("<II", 9, 4) + endless
    yield "many-texts.gguf", start + key + struct.pack("<IIQ", 9, 8, 1 << 23)
    yield "nested-arrays.gguf", start + key + struct.pack("<IIQ", 9, 9, 1) * 300
    yield "type-unknown.gguf", start + key + struct.pack("<I", 77)
    yield "dimensions.gguf", b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t" + struct.pack("<I", 1 << 31)
    yield "no-tokenizer.gguf", gguf_file({"general.architecture": "clip"})
    yield "invalid-utf-8.gguf", good.replace(b"<unk>", b"<\xff\xfe\xfd>")
    cases: dict[str, Any] = {
        "tokens-are-numbers": {"tokens": [1, 2]},
        "tokens-are-text": {"tokens": "ab"},
        "model-is-list": {"model": [1, 2]},
        "model-unknown": {"model": ESCAPE},
        "types-too-few": {"token_type": [1]},
        "types-are-number": {"token_type": 1},
        "types-are-texts": {"token_type": ["normal", "normal"]},
    }
    for name, changes in cases.items():
        changed = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
        yield f"{name}.gguf", gguf_file({**metadata, **changed})


def write_arrow_files(folder: Path) -> None:
    """Files in place of a snapshot, with good checksums but wrong content."""
    numbers = pa.table({"x": [1, 2, 3]})
    with pa.ipc.new_file(folder / "another-program.arrow", numbers.schema) as writer:
        writer.write_table(numbers)
    (folder / "magic-only.arrow").write_bytes(b"ARROW1\0\0")
    (folder / "garbage.arrow").write_bytes(b"ARROW1\0\0" + bytes(range(256)) + b"ARROW1")
    metadata = {
        "format": "vocabulary/1", "name": "x", "fingerprint": "sha256:0", "roles": "{}", "notes": "[]", "rules": "null",
        "model": '{"embedding_rows":null,"width":null}', "provenance": '{"file":"f","sha256":"0"}',
    }  # fmt: skip
    columns: dict[str, pa.Array] = {
        "token": pa.array([b"a", b"b"], pa.binary()),
        "kind": pa.array([0, 0], pa.uint8()),
        "alias_of": pa.array([None, 0], pa.int32()),
    }
    bad_metadata = {
        "newer": {"format": "vocabulary/2"},
        "other-kind": {"format": "shared-vocabulary/1"},
        "version-escapes": {"format": "vocabulary/" + ESCAPE},
        "fingerprint": {},
        "roles-list": {"roles": "[1]"},
        "roles-text": {"roles": '{"bos":"a"}'},
        "roles-outside": {"roles": '{"bos":99}'},
        "roles-surrogate": {"roles": r'{"\ud800":0}'},
        "notes-null": {"notes": "null"},
        "notes-numbers": {"notes": "[1]"},
        "model-list": {"model": "[]"},
        "model-empty": {"model": "{}"},
        "rows-text": {"model": '{"embedding_rows":"many","width":null}'},
        "provenance-list": {"provenance": "[]"},
        "provenance-other": {"provenance": '{"colour":"red"}'},
        "not-json": {"roles": "{"},
    }
    for name, changes in bad_metadata.items():
        write_table(folder / f"snapshot-{name}.arrow", pa.table(columns), {**metadata, **changes}, None)
    bad_columns: dict[str, dict[str, pa.Array]] = {
        "kind-null": {"kind": pa.array([0, None], pa.uint8())},
        "kind-unknown": {"kind": pa.array([0, 9], pa.uint8())},
        "alias-outside": {"alias_of": pa.array([None, 99], pa.int32())},
        "alias-negative": {"alias_of": pa.array([None, -7], pa.int32())},
        "alias-wrong-type": {"alias_of": pa.array([None, 0], pa.int64())},
        "tokens-text": {"token": pa.array(["a", "b"])},
    }
    for name, changed in bad_columns.items():
        write_table(folder / f"snapshot-{name}.arrow", pa.table({**columns, **changed}), metadata, None)
    write_table(folder / "snapshot-no-kinds.arrow", pa.table({"token": columns["token"]}), metadata, None)
    empty = pa.table({name: column.slice(0, 0) for name, column in columns.items()})
    write_table(folder / "snapshot-empty.arrow", empty, metadata, None)


if __name__ == "__main__":
    for old in FOLDER.iterdir():
        if old.name not in ("make.py", "__pycache__"):
            old.unlink()
    for file_name, file_content in files():
        (FOLDER / file_name).write_bytes(file_content)
    write_arrow_files(FOLDER)
