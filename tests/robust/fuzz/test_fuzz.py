"""A reader returns a value or refuses in one line, whatever the file holds.

`python -m tests.robust.fuzz.run` searches for counterexamples as long as one likes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.examine import examine
from fuzz.readers import READERS, findings, seeds
from hypothesis import given, settings
from hypothesis import strategies as st

Edit = tuple[float, int, bytes]
"""Where in the file, as a share of its length; how many bytes go; what comes in their place."""

REPLACEMENTS = st.one_of(
    st.binary(max_size=8),
    st.sampled_from(
        [b"\0", b"\xff", b"\xff\xfe", b'"', b"[", b"{", b"}", b"-1", b"1e999", b"null", b"\x1b[31m", b"\n"]
    ),
    st.integers(0, 64).map(lambda bits: ((1 << bits) - 1).to_bytes(8, "little")),
)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), REPLACEMENTS), max_size=4)


def edited(content: bytes, edits: list[Edit]) -> bytes:
    """`content` with these edits, one after the other."""
    for share, removed, new in edits:
        at = int(share * len(content))
        content = content[:at] + new + content[at + removed :]
    return content


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> str:
    """The name of a reader."""
    name: str = request.param
    return name


def test_seed_files_are_valid(reader: str, tmp_path: Path) -> None:
    for number, content in enumerate(seeds(reader)):
        path = READERS[reader].prepare(tmp_path / str(number))
        path.write_bytes(content)
        READERS[reader].read(path)


def test_past_findings_stay_fixed(reader: str, tmp_path: Path) -> None:
    path = READERS[reader].prepare(tmp_path / "here")
    for content in seeds(reader):  # imports what is imported on first use
        examine(READERS[reader].read, path, content)
    for content in findings(reader):
        assert examine(READERS[reader].read, path, content) is None


def test_edited_file_is_read_or_refused_in_one_line(reader: str, tmp_path: Path) -> None:
    path = READERS[reader].prepare(tmp_path / "here")
    for content in seeds(reader):  # imports what is imported on first use
        examine(READERS[reader].read, path, content)

    @settings(max_examples=80, deadline=None, derandomize=True, database=None)
    @given(st.sampled_from(seeds(reader)), EDITS)
    def check(content: bytes, edits: list[Edit]) -> None:
        assert examine(READERS[reader].read, path, edited(content, edits)) is None

    check()


def test_truncated_file_is_read_or_refused_in_one_line(reader: str, tmp_path: Path) -> None:
    path = READERS[reader].prepare(tmp_path / "here")
    for content in seeds(reader):
        step = max(1, len(content) // 25)
        for length in range(0, len(content), step):
            assert examine(READERS[reader].read, path, content[:length]) is None, length
