"""One module per file format, each with `read(path, name) -> Vocabulary`. `read` here picks the module."""

from __future__ import annotations

from pathlib import Path

from vocabkit.errors import VocabkitError
from vocabkit.files.atomic import reading
from vocabkit.tokenizer.vocabulary import Vocabulary

FOLDER_FILES = ("tokenizer.json", "tekken.json", "tokenizer.model", "qwen.tiktoken", "original/tokenizer.model")
"""What is looked for in a folder, first found is taken."""


def read(path: Path, name: str | None = None) -> Vocabulary:
    """Read any tokenizer file, or the tokenizer of a model folder. The format is told from the content.

    Raises VocabkitError: nothing there, or no format fits.
    """
    if path.is_dir():
        return read(tokenizer_file(path), name or path.resolve().name)
    with reading(path), path.open("rb") as file:
        if path.stat().st_size == 0:  # or a file of /proc, which may never end
            raise VocabkitError(f"{path}: empty file")
        head = file.read(4096)
    if head.startswith(b"GGUF"):
        from vocabkit.tokenizer import gguf

        return gguf.read(path, name)
    if head.startswith(b"ARROW1"):
        from vocabkit.tokenizer import snapshot

        return snapshot.read(path, name)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        from vocabkit.tokenizer import tiktoken, tokenizer_json

        reader = tiktoken.read_tekken if b'"default_num_special_tokens"' in head else tokenizer_json.read
        return reader(path, name)
    if _looks_like_ranks(head):
        from vocabkit.tokenizer import tiktoken

        return tiktoken.read(path, name)
    if head[:1] == b"\n":  # field 1 of a ModelProto, length-delimited
        from vocabkit.tokenizer import sentencepiece

        return sentencepiece.read(path, name)
    raise VocabkitError(
        f"{path}: not a tokenizer file; vocabkit reads tokenizer.json, tekken.json, tiktoken ranks, SentencePiece "
        ".model, GGUF and its own snapshots"
    )


def tokenizer_file(folder: Path) -> Path:
    """The tokenizer file of a model folder. Raises VocabkitError if it has none, or several GGUF files."""
    for candidate in FOLDER_FILES:
        if (folder / candidate).is_file():
            return folder / candidate
    models = sorted(folder.glob("*.gguf"))
    if len(models) == 1:
        return models[0]
    found = f"{len(models)} GGUF files; name one of them" if models else f"none of {', '.join(FOLDER_FILES)}, *.gguf"
    raise VocabkitError(f"{folder}: no tokenizer in this folder: {found}")


def holds_tokenizer(folder: Path) -> bool:
    """Whether a model folder has a tokenizer file, or GGUF files."""
    return any((folder / file).is_file() for file in FOLDER_FILES) or any(folder.glob("*.gguf"))


def _looks_like_ranks(head: bytes) -> bool:
    line = head.split(b"\n", 1)[0].split()
    return len(line) == 2 and line[1].isdigit() and line[0].isascii()
