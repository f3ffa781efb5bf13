"""The process that `run` starts: atheris feeds one reader, led by coverage, until something is wrong."""

from __future__ import annotations

import importlib
import resource
import sys
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "support")]

from fuzz.readers import READERS, seeds

SPARE = 1 << 30
"""Bytes of address space that an input may take."""
SLOW = ("torch", "safetensors.torch", "accelerate", "gguf")
"""Imported before, so that they are not instrumented."""
_INSTRUMENTED = ["vocabkit", "tomllib", "zipfile"]


def main(name: str, folder: Path, options: list[str]) -> None:
    """Fuzz the reader `name` with files in `folder`. An input with a finding is what ends the process."""
    for module in SLOW:
        importlib.import_module(module)
    with atheris.instrument_imports(include=_INSTRUMENTED, enable_loader_override=False):
        from fuzz.examine import examine

        reader = READERS[name]
        path = reader.prepare(folder / "input")
        for content in seeds(name):  # imports what is imported on first use
            path.write_bytes(content)
            reader.read(path)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    page = resource.getpagesize()

    def one(content: bytes) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * page + SPARE, most))
        found = examine(reader.read, path, content)
        if found is not None:
            (folder / "finding").write_text(f"{found.kind}: {found.detail}")
            raise AssertionError(found)

    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
