"""Read any tokenizer file: one module per format, chosen by content."""

from __future__ import annotations

import re
from pathlib import Path

from vocabkit.errors import VocabkitError
from vocabkit.files.atomic import reading
from vocabkit.tokenizer.vocabulary import Vocabulary

FOLDER_FILES = (
    "tokenizer.json", "tekken.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    "sentencepiece.model", "spm.model", "source.spm", "tiktoken.model", "qwen.tiktoken", "original/tokenizer.model",
    "vocab.json", "vocab.txt",
)  # fmt: skip
"""Files to look for in a folder or repository; the first one found is read."""
BESIDE = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json", "config.json",
    "merges.txt",
)  # fmt: skip
"""Files that are also read if beside one of these (see `files_beside`)."""
_RANKS = "*.tiktoken"
"""More names of rank files, in folders only."""

_PART = re.compile(r"-(\d{5})-of-\d{5}\.gguf$")


def read(path: str | Path, name: str | None = None) -> Vocabulary:
    """Read any tokenizer file, or the tokenizer of a model folder. The format is detected from the content.

    Raises VocabkitError: not found, or of an unknown format.
    """
    path = Path(path)
    if path.is_dir():
        return read(tokenizer_file(path), name or _folder_name(path))
    with reading(path), path.open("rb") as file:
        if path.stat().st_size == 0:  # or a file of /proc, which may never end
            raise VocabkitError(f"{path}: empty file")
        head = file.read(4096)
    if head.startswith(b"version https://git-lfs"):
        raise VocabkitError(f"{path}: a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`")
    if head.startswith(b"GGUF"):
        from vocabkit.tokenizer import gguf

        return gguf.read(path, name)
    if head.startswith(b"ARROW1"):
        from vocabkit.tokenizer import snapshot

        return snapshot.read(path, name)
    if path.name == "vocab.txt":
        from vocabkit.tokenizer import vocab_files

        return vocab_files.read_vocab_txt(path, name)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        from vocabkit.tokenizer import tiktoken, tokenizer_json

        if b'"default_num_special_tokens"' in head:
            return tiktoken.read_tekken(path, name)
        if path.name == "vocab.json":
            from vocabkit.tokenizer import vocab_files

            return vocab_files.read_vocab_json(path, name)
        return tokenizer_json.read(path, name)
    if _looks_like_ranks(head):
        from vocabkit.tokenizer import tiktoken

        return tiktoken.read(path, name)
    if head[:1] == b"\n":  # field 1 of a ModelProto, length-delimited
        from vocabkit.tokenizer import sentencepiece

        return sentencepiece.read(path, name)
    raise VocabkitError(
        f"{path}: not a tokenizer file; vocabkit reads tokenizer.json, vocab.json with merges.txt, vocab.txt, "
        "tekken.json, tiktoken ranks, SentencePiece .model, GGUF and its own snapshots"
    )


def files_beside(file: str) -> tuple[str, ...]:
    """Names of the files that are also read if they are beside `file`, one of `FOLDER_FILES`."""
    if file == "tekken.json":
        return ()
    return (*BESIDE, "vocab.json") if file.endswith((".model", ".spm")) else BESIDE


def tokenizer_file(folder: Path) -> Path:
    """Return the tokenizer file of a model folder. Raises VocabkitError: none, or several rank files or GGUF models."""
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    if len(ranks := sorted(folder.glob(_RANKS))) > 1:
        raise VocabkitError(
            f"{folder}: {', '.join(rank.name for rank in ranks)} are several tokenizers; name one of them"
        )
    if ranks:
        return ranks[0]
    models = _gguf_models(folder)
    if len(models) == 1:
        return models[0]
    found_instead = (
        f"{len(models)} GGUF files; name one of them"
        if models
        else f"none of {', '.join(FOLDER_FILES)}, {_RANKS}, *.gguf"
    )
    raise VocabkitError(f"{folder}: no tokenizer in this folder: {found_instead}")


def _folder_name(folder: Path) -> str:
    """The folder's name; of a revision in the cache of huggingface_hub, whose name is a hash, the repository's."""
    resolved = folder.resolve()
    cache = resolved.parents[1].name if len(resolved.parents) > 1 and resolved.parent.name == "snapshots" else ""
    return cache.split("--")[-1] if cache.startswith("models--") else resolved.name


def holds_tokenizer(folder: Path) -> bool:
    """Whether a model folder has a tokenizer file, or GGUF models."""
    named = any((folder / name).is_file() for name in FOLDER_FILES)
    return named or any(folder.glob(_RANKS)) or bool(_gguf_models(folder))


def _gguf_models(folder: Path) -> list[Path]:
    """Return GGUF files of language models: no projectors, and only the first part of a split model."""
    files = [file for file in sorted(folder.glob("*.gguf")) if "mmproj" not in file.name.lower()]
    return [file for file in files if not (part := _PART.search(file.name)) or int(part[1]) == 1]


def _looks_like_ranks(head: bytes) -> bool:
    line = head.split(b"\n", 1)[0].split()
    return len(line) == 2 and line[1].isdigit()
