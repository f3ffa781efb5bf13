"""How often a tokenizer's ids occur in texts: each distinct piece of the texts is cut only once, on all cores.

Most of the work is Python's, so several processes share it. Each counts the batches that it gets, in bounded memory;
counts of parts add up to those of the whole, because a piece is cut alone.
"""

from __future__ import annotations

import itertools
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from vocabkit.errors import VocabkitError
from vocabkit.tokenizer.segmentation import encode_batch, to_tokenizers
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PENDING_PIECES, PENDING_CHARACTERS = 1 << 18, 1 << 24
"""Distinct pieces, and their characters, to gather before the tokenizer cuts them."""
BATCH_TEXTS, BATCH_CHARACTERS = 4096, 1 << 20
"""Captions or pieces per batch: enough for the tokenizer to use all cores."""
ALONE = 1 << 24
"""Characters up to which one process is as fast: others take about a second to start."""


@dataclass(frozen=True)
class Cutter:
    """A tokenizer, and where texts may be cut before it without a change of their tokens."""

    tokenizer: Tokenizer
    name: str
    seam: re.Pattern[str]
    joint: str
    """What the rest of a text begins with after a seam."""


def make_cutter(vocabulary: Vocabulary) -> Cutter:
    """Make the cutter of a vocabulary.

    Raises VocabkitError: its source doesn't say how it cuts text.
    """
    tokenizer = to_tokenizers(vocabulary)
    return Cutter(tokenizer, vocabulary.name, *_seams(vocabulary, tokenizer))


def count_ids(cutter: Cutter, texts: Iterable[str], size: int) -> np.ndarray:
    """Count the ids of each text, cut alone and without special tokens: (size,) int64.

    Uses all cores if there are more than `ALONE` characters.

    Args:
        size: one more than the highest id.

    Raises VocabkitError: the tokenizer has no token for some character, and no unknown token.
    """
    texts = iter(texts)
    start, characters = [], 0
    for text in texts:
        start.append(text)
        characters += len(text)
        if characters > ALONE:
            break
    processes = _cores()
    texts = itertools.chain(start, texts)
    del start
    if characters <= ALONE or processes == 1:
        return _count(cutter, texts, size)
    return _count_in_processes(cutter, texts, size, processes)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count(cutter: Cutter, texts: Iterable[str], size: int) -> np.ndarray:
    counts = np.zeros(size, np.int64)
    for pieces in _pieces(texts, cutter.seam, cutter.joint):
        for batch in _batches(pieces):
            encodings = encode_batch(cutter.tokenizer, batch, cutter.name)
            lengths = [len(encoding) for encoding in encodings]
            ids = np.fromiter(itertools.chain.from_iterable(encoding.ids for encoding in encodings), np.int64)
            np.add.at(counts, ids, np.repeat([pieces[piece] for piece in batch], lengths))
    return counts


# ---- several processes -------------------------------------------------------------------------------------------


def _count_in_processes(cutter: Cutter, texts: Iterable[str], size: int, processes: int) -> np.ndarray:
    """As `_count`. A process reads its tokenizer and then batches of texts from a pipe, a line of JSON each.

    They are started anew rather than forked, as this process may have threads, and not by `multiprocessing`, which
    would import a caller's script once more.
    """
    tokenizer = cutter.tokenizer
    setup = msgspec.json.encode(
        [tokenizer.to_str(), tokenizer.encode_special_tokens, cutter.name, cutter.seam.pattern, cutter.joint, size]
    )
    batches: queue.Queue[bytes | None] = queue.Queue(maxsize=2 * processes)
    failed = threading.Event()
    environment = {"TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | environment)
        for _ in range(processes)
    ]
    with ThreadPoolExecutor(processes) as threads:
        found = [threads.submit(_feed, process, setup, batches, failed) for process in started]
        try:
            for batch in _batches(texts):
                if failed.is_set():
                    break
                batches.put(msgspec.json.encode(batch))
        except BaseException:
            for process in started:
                process.kill()
            raise
        finally:
            for _ in started:
                batches.put(None)
        counts: np.ndarray = np.sum([future.result() for future in found], axis=0)
        return counts


def _feed(
    process: subprocess.Popen[bytes], setup: bytes, batches: queue.Queue[bytes | None], failed: threading.Event
) -> np.ndarray:
    """Give batches to a process until there are no more, and return its counts."""
    batch: bytes | None = setup
    try:
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):  # the answer says why
                while batch is not None:
                    process.stdin.write(batch + b"\n")
                    batch = batches.get()
                process.stdin.close()
            answer = process.stdout.read()
        if process.returncode:
            reason = f"signal {-process.returncode}" if process.returncode < 0 else f"code {process.returncode}"
            raise VocabkitError(f"counting: a process ended early ({reason}): is there enough memory? Run this again")
        found: list[int] | str = msgspec.json.decode(answer)
        if isinstance(found, str):
            raise VocabkitError(found)
        return np.array(found, np.int64)
    finally:
        if batch is not None:
            failed.set()
        while batch is not None:  # take what is left, so that nobody waits for room in the queue
            batch = batches.get()


def serve() -> None:
    """Count what comes in on standard input, and write the counts, or an error, to standard output."""
    from tokenizers import Tokenizer

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    lines = sys.stdin.buffer
    text, encode_special_tokens, name, seam, joint, size = msgspec.json.decode(lines.readline())
    tokenizer = Tokenizer.from_str(text)
    tokenizer.encode_special_tokens = encode_special_tokens
    texts = itertools.chain.from_iterable(msgspec.json.decode(line, type=list[str]) for line in lines)
    try:
        answer: Any = _count(Cutter(tokenizer, name, re.compile(seam), joint), texts, size).tolist()
    except VocabkitError as error:
        answer = str(error)
    sys.stdout.buffer.write(msgspec.json.encode(answer))


# ---- cutting each distinct piece only once -----------------------------------------------------------------------


def _pieces(texts: Iterable[str], seam: re.Pattern[str], joint: str) -> Iterator[Counter[str]]:
    """Yield the pieces of the texts, cut at `seam`, with their counts, in counters of bounded size."""
    starts: Counter[str] = Counter()
    rests: Counter[str] = Counter()
    size = 0
    for batch in _batches(texts):
        cut = [seam.split(text) for text in batch]
        starts.update([start for start, *_ in cut])
        rests.update(itertools.chain.from_iterable(rest for _, *rest in cut))
        size += sum(map(len, batch))
        is_full = len(starts) + len(rests) >= PENDING_PIECES
        if size >= PENDING_CHARACTERS:  # at most: most pieces were there before
            size = sum(map(len, itertools.chain(starts, rests)))
            is_full |= size >= PENDING_CHARACTERS // 2
        if is_full:
            yield _joined(starts, rests, joint)
            starts, rests, size = Counter(), Counter(), 0
    yield _joined(starts, rests, joint)


def _joined(starts: Counter[str], rests: Counter[str], joint: str) -> Counter[str]:
    starts.update({joint + rest: count for rest, count in rests.items()})
    return starts


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) >= BATCH_TEXTS or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


_NOWHERE = re.compile("(?!)")
_WORDS = ("a", "Zebra", "é", "e\u0301", "中文", "か", "เ", "ब्", "ع", "ʰ", "7", "2024", "½", "don't", "'s", "x.", "🐈")
_SIGNS = tuple(".,;:!?'\"“’…()[]{}<>/|\\-—_#&*+=%$@^~`\u0301\u200b\u200d\ufeff\ufffd\0")


def _seams(vocabulary: Vocabulary, tokenizer: Tokenizer) -> tuple[re.Pattern[str], str]:
    """The spaces at which a text may be cut without a change of its tokens, and what the rest then begins with: the
    space, or nothing where the tokenizer puts one before each text.

    A single space between two other characters is one, unless some token goes on over a space after such a character,
    or an added token begins or ends beside it. Samples show whether the tokenizer agrees; if not, there is none.
    """
    tokens = itertools.compress(vocabulary.tokens.to_pylist(), (vocabulary.kinds <= Kind.BYTE).tolist())
    text = b"\n".join(token or b"" for token in tokens).decode("utf-8", "surrogateescape")
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values() if not token.special]
    before = set(re.findall(r"\S(?= )", text)) | {content[-1:] for content in added}
    after = {content[:1] for content in added}
    if any("\ud800" <= character <= "\udfff" for character in before):
        return _NOWHERE, " "  # after part of a character
    # `▁` is a space to SentencePiece
    left, right = (rf"[^\s▁{''.join(map(re.escape, sorted(characters)))}]" for characters in (before, after))
    seam = re.compile(f" (?<={left} )(?={right})")

    samples = (*_WORDS, *_SIGNS)
    pairs = [pair for pair in itertools.product(samples, samples) if seam.search(" ".join(pair))]
    try:
        whole = _ids(tokenizer, [" ".join(pair) for pair in pairs], vocabulary.name)
        alone = _ids(tokenizer, samples, vocabulary.name)
        for joint in (" ", ""):
            rest = _ids(tokenizer, [joint + sample for sample in samples], vocabulary.name)
            if pairs and all(whole[f"{start} {end}"] == alone[start] + rest[joint + end] for start, end in pairs):
                return seam, joint
    except VocabkitError:
        pass  # no token for some sample: not every tokenizer has one for each character
    return _NOWHERE, " "


def _ids(tokenizer: Tokenizer, texts: Sequence[str], name: str) -> dict[str, list[int]]:
    return {text: encoding.ids for text, encoding in zip(texts, encode_batch(tokenizer, texts, name), strict=True)}
