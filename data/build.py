"""Build data/*.arrow from the publishers' files: python data/build.py FOLDER_WITH_THE_PACKAGES."""

from __future__ import annotations

import sys
from pathlib import Path

from vocabkit.tokenizer import snapshot
from vocabkit.tokenizer.catalog import catalog, read_source, snapshot_path


def main(sources: Path) -> None:
    """Write the snapshot of every vocabulary in the catalog."""
    for entry in catalog().values():
        if entry.name == entry.snapshot:
            vocabulary = read_source(entry, sources / entry.provenance.file)
            snapshot.write(snapshot_path(entry.snapshot), vocabulary, entry.provenance)
            print(f"{entry.name}: {len(vocabulary)} ids from {entry.provenance}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
