"""Files in place of a tokenizer.json, a tekken.json or an index map."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tokenizer_files import BYTE_LEVEL, added_token, bpe_json, tekken_json, unigram_json, wordpiece_json

ESCAPE = "\x1b[31mred\nline\x07\u202e"
"""Text that colours a terminal, breaks a line, rings and turns the direction of writing."""


def files() -> Iterator[tuple[str, bytes]]:
    """Name and content of every file."""
    yield from broken_json()
    yield from tokenizer_files()
    yield from tekken_files()
    yield from index_maps()


def broken_json() -> Iterator[tuple[str, bytes]]:
    """What is no JSON, or JSON of a kind that no tokenizer is."""
    content = json.dumps(bpe_json(["a", "b"])).encode()
    yield "spaces.json", b" \n\t "
    yield "truncated.json", content[: len(content) // 2]
    yield "two-documents.json", content + content
    yield "list.json", b'[{"model": {}}]'
    yield "another-kind.json", b'{"name": "left-pad", "version": "1.0.0", "dependencies": {}}'
    yield "nan.json", b'{"model": NaN}'
    yield "utf-16.json", b"\xff\xfe" + content.decode().encode("utf-16-le")
    yield "utf-16-without-bom.json", content.decode().encode("utf-16-le")
    yield "invalid-utf-8.json", content.replace(b'"a"', b'"\xff"')
    yield "invalid-utf-8-beside.json", content[:-1] + b', "x": "\xff"}'
    yield "overlong-utf-8.json", content.replace(b'"a"', b'"\xc0\x80"')
    yield "surrogate-utf-8.json", content.replace(b'"a"', b'"\xed\xa0\x80"')
    yield "surrogate.json", content.replace(b'"b"', rb'"\ud800"')
    yield "bom.json", b"\xef\xbb\xbf" + content
    yield "bom-twice.json", b"\xef\xbb\xbf\xef\xbb\xbf" + content
    yield "nul-before.json", b"\0" + content
    yield "nul-after.json", content + b"\0"
    yield "nul-inside.json", content.replace(b'"b"', b'"\0"')
    yield "nul-escaped.json", content.replace(b'"b"', rb'"\u0000"')
    yield "escape-raw.json", content.replace(b'"b"', b'"\x1b[31m"')
    yield "deep.json", b'{"model":' + b"[" * 50_000
    yield "deep-beside.json", content[:-1] + b', "x": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001
    yield "key-twice.json", content.replace(b'"b": 1', b'"a": 1')
    yield "model-twice.json", content[:-1] + b', "model": {"type": "BPE", "vocab": {"z": 0}, "merges": []}}'


def tokenizer_files() -> Iterator[tuple[str, bytes]]:
    """JSON that is nearly a tokenizer.json."""
    values: dict[str, Any] = {
        "negative": -1, "float": 1.5, "whole-float": 1.0, "exponent": 1e5, "bool": True, "text": "1", "null": None,
        "list": [1], "beyond": 1 << 24, "huge": 10**300,
    }  # fmt: skip
    cases: dict[str, Any] = {}
    for name, value in values.items():
        cases[f"id-{name}"] = bpe_json({"a": 0, "b": value})
        cases[f"added-id-{name}"] = bpe_json(["a"], added=[{**added_token(1, "b"), "id": value}])
    cases |= {
        "id-twice": bpe_json({"a": 0, ESCAPE: 0}),
        "added-id-twice": bpe_json(["a"], added=[added_token(1, "b"), added_token(1, ESCAPE)]),
        "added-without-content": bpe_json(["a"], added=[{"id": 1}]),
        "added-is-map": {**bpe_json(["a"]), "added_tokens": {"b": 1}},
        "added-escapes": bpe_json(["a"], added=[added_token(1, ESCAPE, special=True)]),
        "surrogate-added": bpe_json(["a"], added=[added_token(1, "\udfff", special=True)]),
        "model-is-list": {"model": []},
        "model-is-null": {"model": None},
        "vocab-is-missing": {"model": {"type": "BPE"}},
        "vocab-is-number": {"model": {"vocab": 5}},
        "vocab-is-empty": bpe_json([]),
        "vocab-of-nothing": bpe_json(["", "a"]),
        "merges-unknown": bpe_json(["a", "b"], merges=["a b"]),
        "merges-of-numbers": bpe_json(["a", "b"], merges=[1]),
        "unigram-without-scores": {**unigram_json([]), "model": {"type": "Unigram", "vocab": ["a", "b"]}},
        "unigram-piece-is-number": {**unigram_json([]), "model": {"type": "Unigram", "vocab": [[1, 0.0]]}},
        "unigram-score-beyond": {**unigram_json([]), "model": {"type": "Unigram", "vocab": [["a", -1e300]]}},
        "unigram-unk-beyond": unigram_json(["a"], unk_id=99),
        "decoder-unknown": bpe_json(["a"], {"type": ESCAPE}),
        "decoder-is-text": bpe_json(["a"], "ByteLevel"),  # type: ignore[arg-type]
        "decoder-without-type": bpe_json(["a"], {"kind": "ByteLevel"}),
        "decoder-of-numbers": bpe_json(["a"], replace(1, 2)),
        "decoder-that-explodes": bpe_json(["a" * 1000], replace("", "b" * 1000)),
        "pattern-broken": {**bpe_json(["a"]), "pre_tokenizer": split("(")},
        "pattern-explodes": {**bpe_json(["a"]), "pre_tokenizer": split("(a+)+$")},
        "metaspace-of-numbers": bpe_json(["a"], {"type": "Metaspace", "replacement": 1}),
        "prefix-is-number": wordpiece_json(["[UNK]", "a"], {"type": "WordPiece", "prefix": 1, "cleanup": True}),
        "normalizer-of-numbers": {**wordpiece_json(["a"]), "normalizer": {"type": "Sequence", "normalizers": [1]}},
    }  # fmt: skip
    for name, case in cases.items():
        yield f"{name}.json", json.dumps(case).encode()
    content = json.dumps({**bpe_json(["a"]), "pre_tokenizer": BYTE_LEVEL})
    yield "deep-decoder.json", deep(content, "decoder", "decoders", 400)
    yield "deeper-decoder.json", deep(content, "decoder", "decoders", 4000)
    yield "deep-pre-tokenizer.json", deep(content, "pre_tokenizer", "pretokenizers", 300)


def deep(content: str, part: str, key: str, levels: int) -> bytes:
    """`content` with the step of its decoder or pre-tokenizer inside so many sequences of one step."""
    step = json.dumps(BYTE_LEVEL)
    inside = f'{{"type": "Sequence", "{key}": [' * levels + step + "]}" * levels
    return content.replace(f'"{part}": {step}', f'"{part}": {inside}').encode()


def replace(old: Any, new: Any) -> dict[str, Any]:
    """A decoder that replaces text."""
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def split(pattern: str) -> dict[str, Any]:
    """A pre-tokenizer that cuts at a regular expression."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def tekken_files() -> Iterator[tuple[str, bytes]]:
    """Files in place of a tekken.json."""
    for name, key, value in [
        ("size-huge", "default_vocab_size", 10**18),
        ("size-negative", "default_vocab_size", -5),
        ("size-float", "default_vocab_size", 1e300),
        ("special-huge", "default_num_special_tokens", 10**18),
        ("special-negative", "default_num_special_tokens", -1),
        ("pattern-is-number", "pattern", 5),
        ("pattern-broken", "pattern", "("),
    ]:
        content = tekken_json([b"a", b"b"])
        content["config"][key] = value
        yield f"tekken-{name}.json", json.dumps(content).encode()
    many = tekken_json([b"a", b"b"])
    many["config"] |= {"default_vocab_size": 1_000_002, "default_num_special_tokens": 1_000_000}
    yield "tekken-special-many.json", json.dumps(many).encode()
    explodes = tekken_json([bytes([value]) for value in range(256)])
    explodes["config"]["pattern"] = r"(?:a+)+(?:a+)+$|(a|aa)+b"
    yield "tekken-pattern-explodes.json", json.dumps(explodes).encode()
    for name, part, at, key, value in [
        ("rank-twice", "vocab", 1, "rank", 0),
        ("not-base64", "vocab", 1, "token_bytes", "not base64!"),
        ("special-twice", "special_tokens", 1, "rank", 0),
        ("surrogate", "special_tokens", 1, "token_str", "\ud800"),
    ]:
        content = tekken_json([b"a", b"b"])
        content[part][at][key] = value
        yield f"tekken-{name}.json", json.dumps(content).encode()
    yield "tekken-truncated.json", json.dumps(tekken_json([b"a", b"b"])).encode()[:-40]


def index_maps() -> Iterator[tuple[str, bytes]]:
    """Files in place of a map {spelling: id}, or of a list of {spelling: [id, rank]}, for a tokenizer with a, b."""
    texts = {
        "no-rows": "{}",
        "no-entries": "[]",
        "number": "5",
        "nan": '{"a": NaN}',
        "infinity": '{"a": -Infinity}',
        "key-twice": '{"a": 0, "a": 1}',
        "id-exponent": '{"a": 1e5}',
        "id-whole-float": '{"a": 0.0}',
        "id-bool": '{"a": false}',
        "id-null": '{"a": null}',
        "id-text": '{"a": "0"}',
        "id-object": '{"a": {"b": 0}}',
        "id-negative": '{"a": -1}',
        "id-beyond": '{"a": 9223372036854775808}',
        "id-of-digits": '{"a": ' + "9" * 5000 + "}",
        "id-unknown": '{"a": 0, "b": 2147483648}',
        "id-of-another": '{"b": 0, "a": 1}',
        "same-id": '{"a": 0, "b": 0}',
        "empty-key": '{"": 0}',
        "escapes": json.dumps({ESCAPE: 0}),
        "surrogate": r'{"\ud800": 0}',
        "list-of-lists": '[["a", 0]]',
        "list-without-rank": '[{"a": 0}]',
        "list-of-two": '[{"a": [0, 0], "b": [1, 1]}]',
        "rank-twice": '[{"a": [0, 0]}, {"b": [1, 0]}]',
        "rank-beyond": '[{"a": [0, 1000000000000]}]',
        "rank-bool": '[{"a": [0, false]}]',
        "deep": '{"a":' * 20_000,
        "truncated": '{"a": 0, "b"',
    }
    for name, text in texts.items():
        yield f"map-{name}.json", text.encode()
    yield "map-invalid-utf-8.json", b'{"\xff": 0}'
    yield "map-nul.json", b'{"a": 0}\0'
