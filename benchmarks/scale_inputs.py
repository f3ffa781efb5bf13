"""What benchmarks/scale.py measures: tokenizers of any number and size, captions without end, a wide checkpoint."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vocabkit.arrow.arrow_file import take
from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.snapshot import Provenance, write
from vocabkit.tokenizer.spelling import to_alphabet
from vocabkit.tokenizer.vocabulary import Kind, make_vocabulary

REAL = (
    "qwen2.5",
    "llama3",
    "mistral-tekken",
    "smollm2",
    "gemma3",
    "llama4",
    "mistral-v3",
    "qwen3",
    "mistral-v1",
    "qwen2",
)
"""Names of the catalog, the first ones unlike each other."""
LONGEST_PART = 8
"""Bytes of a token that becomes part of another one."""
COMMON = 0.8
"""Share of its tokens that a synthetic tokenizer has in common with the others of its size."""

LETTERS = [b" ", *(bytes([byte]) for byte in b"abcdefghijklmnopqrstuvwxyz.0"), "é".encode()[:1], "é".encode()[1:]]
"""Bytes that the tokens of a synthetic tokenizer are made of."""
VOCABULARY_WORDS = 50_000
NEW_WORDS = 0.01
"""Share of the words of the stream that stand there once only."""


# ---- tokenizers --------------------------------------------------------------------------------------------------


def tokenizers(folder: Path, count: int) -> list[str]:
    """Arguments for `count` tokenizers: those of `REAL`, then snapshots of variants of them in turn."""
    variants = [_variant(folder / f"variant{i}.arrow", REAL[i % len(REAL)], i) for i in range(len(REAL), count)]
    return [*REAL, *map(str, variants)][:count]


def tokens_of(argument: str) -> int:
    """Ids of a tokenizer."""
    return len(resolve(argument).vocabulary)


def _variant(path: Path, name: str, seed: int) -> Path:
    """A snapshot of a real vocabulary with other ids and 1% of its tokens changed to ones that no other has."""
    if not path.exists():
        vocabulary = resolve(name).vocabulary
        chosen = np.random.default_rng(seed)
        ids = chosen.permutation(len(vocabulary))
        tokens = take(vocabulary.tokens, ids).to_pylist()
        for i in chosen.choice(len(ids), len(ids) // 100, replace=False).tolist():
            tokens[i] = b"%d of %d" % (i, seed)
        kinds = np.full(len(ids), Kind.TEXT, np.uint8)
        variant = make_vocabulary(name=path.stem, source=path.name, tokens=tokens, kinds=kinds)
        write(path, variant, Provenance(file=path.name, sha256="0" * 64))
    return path


def synthetic_tokenizer(folder: Path, size: int, seed: int) -> Path:
    """A folder with the tokenizer.json of a byte-level BPE of `size` tokens, each of two earlier ones; ids shuffled."""
    merges = _merges(size - 256, seed)
    pieces = [*map(to_alphabet, (bytes([byte]) for byte in range(256))), *(left + right for left, right in merges)]
    ids = np.random.default_rng(seed).permutation(size).tolist()
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": step, "post_processor": None, "decoder": step,
        "model": {"type": "BPE", "vocab": dict(zip(pieces, ids, strict=True)), "merges": merges},
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    return folder


def _merges(count: int, seed: int) -> list[tuple[str, str]]:
    """Pairs of spellings that make `count` different tokens; the first part of them is that of every seed."""
    parts = list(map(to_alphabet, LETTERS))
    known, merges, chosen = set(parts), [], random.Random(0)
    while len(merges) < count:
        if len(merges) == int(COMMON * count):
            chosen = random.Random(seed)
        left, right = chosen.choice(parts), chosen.choice(parts)
        if (joined := left + right) not in known:
            known.add(joined)
            merges.append((left, right))
            if len(joined) <= LONGEST_PART:
                parts.append(joined)
    return merges


# ---- captions ----------------------------------------------------------------------------------------------------


def captions(size: int, seed: int = 0, block: int = 1 << 18) -> Iterator[bytes]:
    """`size` bytes of captions, one a line, in blocks: words in the frequencies of Zipf's law, and ever new ones."""
    chosen = np.random.default_rng(seed)
    tokens = (token.decode("utf-8", "ignore").strip() for token in resolve("qwen2.5").vocabulary.tokens.to_pylist())
    words = list(dict.fromkeys(word for word in tokens if len(word) > 1 and word.isalpha()))[:VOCABULARY_WORDS]
    ends = [*(f"{word} " for word in words), *(f"{word}.\n" for word in words)]
    frequency = np.cumsum(1 / (np.arange(len(words)) + 2.7))
    made = 0
    while made < size:
        picked = np.searchsorted(frequency, chosen.random(block) * frequency[-1])
        ending = (chosen.random(block) < 1 / 12) * len(words)  # 12 words a caption
        text = list(map(ends.__getitem__, (picked + ending).tolist()))
        for at in chosen.choice(block, int(NEW_WORDS * block), replace=False).tolist():
            text[at] = f"{words[at % len(words)]}{chosen.integers(1 << 40):x} "
        content = "".join(text).encode()[: size - made]
        made += len(content)
        yield content
