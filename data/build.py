"""Make snapshots: those of the catalog, or one of your own.

python data/build.py .sources                          data/*.arrow, from the publishers' packages
python data/build.py TOKENIZER OUT.arrow [FAMILY]      one file; FAMILY adds the special tokens of tiktoken ranks
"""

from __future__ import annotations

import sys
from pathlib import Path

from vocabkit.errors import VocabkitError
from vocabkit.tokenizer import snapshot, tiktoken
from vocabkit.tokenizer.catalog import catalog, read_source, resolve, sha256, snapshot_path


def build_catalog(sources: Path) -> None:
    """Write the snapshot of every vocabulary in the catalog."""
    for entry in catalog().values():
        if entry.name == entry.snapshot:
            vocabulary = read_source(entry, sources / entry.provenance.file)
            snapshot.write(snapshot_path(entry.snapshot), vocabulary, entry.provenance)
            print(f"{entry.name}: {len(vocabulary)} ids from {entry.provenance}")


def build_one(tokenizer: str, out: Path, family: str | None = None) -> None:
    """Write the snapshot of a tokenizer: a path, a hub id or a catalog name, or NAME= and one of these."""
    found = resolve(tokenizer)
    vocabulary = found.vocabulary
    if family is not None:
        vocabulary = tiktoken.read(found.file, vocabulary.name, family)
    snapshot.write(out, vocabulary, snapshot.Provenance(found.file.name, sha256(found.file)))
    print(f"{out}: {vocabulary.name}, {len(vocabulary):,} ids, {vocabulary.fingerprint}")
    for note in vocabulary.notes:
        print(f"note: {note}")


def main(words: list[str]) -> None:
    """Run the script."""
    if len(words) not in (1, 2, 3):
        sys.exit((__doc__ or "").strip())
    try:
        if len(words) == 1:
            build_catalog(Path(words[0]))
        else:
            build_one(words[0], Path(words[1]), *words[2:])
    except VocabkitError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
