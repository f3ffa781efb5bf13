"""Files made to break a reader and paths that are not files: each is refused in one line, and nothing is written."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence, Sized
from pathlib import Path

import pyarrow as pa
import pytest
from command_line import error_of, vocabkit, vocabkit_here
from hostile.make import FOLDER, files
from tokenizer_files import bpe_json, write_json

from vocabkit.arrow.arrow_file import parse_table
from vocabkit.errors import VocabkitError, one_line
from vocabkit.shared.maps import read_map
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.tokenizer.read import read
from vocabkit.tokenizer.segmentation import encode_batch, to_tokenizers

SUPPORT = FOLDER.parents[1] / "support"
FILES = sorted(path for path in FOLDER.iterdir() if path.is_file() and path.suffix != ".py")
OPENERS: dict[str, Callable[[Path], Sized]] = {"tokenizer": read, "shared": open_shared, "map": read_map}
PATHS = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([*map(str, (FOLDER.parent, SUPPORT)), os.environ.get("PYTHONPATH", "")]),
}
"""Where processes of their own find this module and those that it imports."""
OPENS = {
    "tokenizer": {
        # right as it is
        "bom.json": "a byte-order mark before JSON is harmless, and Windows writes it",
        "nul-escaped.json": "a token may be the byte 0",
        "ranks-of-windows.tiktoken": "lines may end as on Windows",
        "pieces-unknown-field.model": "a protobuf may hold fields that are not known yet",
        "snapshot-sound.arrow": "the file that the other snapshots differ from in one thing",
        "snapshot-extra-column.arrow": "a snapshot may hold more columns",
        "snapshot-bomb.arrow": "4 MB of zeros pack well, and are a token",
        "decoder-that-explodes.json": "a million characters are fewer than a real vocabulary has",
        # read as the field's libraries read it
        "key-twice.json": "the last value of a key counts, as for `tokenizers`",
        "model-twice.json": "the last value of a key counts, as for `tokenizers`",
        "vocab-of-nothing.json": "an empty piece contributes nothing and is never aligned",
        "types-unknown.gguf": "llama.cpp takes unknown types for text",
        "added-id-beyond.json": "`tokenizers` gives added tokens their ids, whatever the file says",
        "added-id-huge.json": "`tokenizers` gives added tokens their ids, whatever the file says",
        "added-id-negative.json": "`tokenizers` gives added tokens their ids, whatever the file says",
        "added-id-twice.json": "`tokenizers` gives added tokens their ids, whatever the file says",
        "roles-beyond.gguf": "a role beyond the vocabulary is no role of it",
        "pieces-not-a-byte.model": "a byte piece that names no byte is text",
        # the tokens are sound, the rules for cutting text are not: an error where text is cut
        "deep-decoder.json": "only `tokenizers` has a limit of depth",
        "deep-pre-tokenizer.json": "only `tokenizers` has a limit of depth",
        "merges-unknown.json": "merges are looked at where text is cut",
        "merges-of-numbers.json": "merges are looked at where text is cut",
        "unigram-score-beyond.json": "scores are looked at where text is cut",
        "unigram-unk-beyond.json": "the unknown token is looked at where text is cut",
        "pattern-broken.json": "the pattern is looked at where text is cut",
        "pattern-explodes.json": "the pattern is looked at where text is cut",
        "tekken-pattern-broken.json": "the pattern is looked at where text is cut",
        "tekken-pattern-explodes.json": "the pattern is looked at where text is cut",
        "pieces-charsmap-broken.model": "the normalizer is looked at where text is cut",
        "pieces-charsmap-leads-out.model": "the normalizer is looked at where text is cut",
        "pieces-charsmap-without-text.model": "the normalizer is looked at where text is cut",
        "pieces-score-is-nan.model": "scores are looked at where text is cut",
        "scores-are-texts.gguf": "scores are looked at where text is cut",
        # any text may be a token, a name or a note: it is escaped where it is shown
        "added-escapes.json": "a token that talks to the terminal",
        "pieces-escapes.model": "a token that talks to the terminal",
        "snapshot-name-escapes.arrow": "a name that talks to the terminal: refused where it would name a column",
        "snapshot-name-empty.arrow": "refused where it would name a column",
        "snapshot-notes-escapes.arrow": "a note that talks to the terminal",
    },
    "shared": {
        "shared-sound.arrow": "the file that the other shared vocabularies differ from in one thing",
        "shared-packed.arrow": "another program may have compressed it",
        "shared-token-repeated.arrow": "found by `vocabkit check`, which looks at rows",
    },
    "map": {
        "map-empty-key.json": "an object of ids; whether they are right only the tokenizer tells",
        "map-escapes.json": "an object of ids; whether they are right only the tokenizer tells",
        "map-id-of-another.json": "an object of ids; whether they are right only the tokenizer tells",
        "map-id-unknown.json": "an object of ids; whether they are right only the tokenizer tells",
        "map-same-id.json": "an object of ids; whether they are right only the tokenizer tells",
    },
}
"""What opens, and why that is right."""


def is_one_line_about(path: Path, message: str) -> bool:
    """Whether a message can't break a line or talk to a terminal, and names the file."""
    return message.isprintable() and one_line(path.name) in message


# ---- the files ---------------------------------------------------------------------------------------------------


def test_make_writes_the_committed_bytes() -> None:
    made = dict(files())
    assert sorted(made) == [path.name for path in FILES]
    assert [path.name for path in FILES if path.read_bytes() != made[path.name]] == []


@pytest.mark.parametrize("kind", OPENERS)
def test_hostile_file_is_refused_in_one_line_or_opens_for_a_listed_reason(kind: str) -> None:
    problems = {}
    for path in FILES:
        try:
            OPENERS[kind](path)
        except VocabkitError as error:
            problems[path] = str(error)
    assert [path for path, problem in problems.items() if not is_one_line_about(path, problem)] == []
    assert {path.name for path in FILES if path not in problems} == set(OPENS[kind])


def test_hostile_files_stay_within_memory_and_time() -> None:
    # the process may map 200 MB more than it has mapped after its imports
    program = """
import resource
from pathlib import Path
from test_hostile import FILES, OPENERS, OPENS, VocabkitError
import vocabkit.tokenizer.gguf, vocabkit.tokenizer.sentencepiece, vocabkit.tokenizer.snapshot
import vocabkit.tokenizer.tiktoken, vocabkit.tokenizer.tokenizer_json
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (200 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for kind, opener in OPENERS.items():
    for path in FILES:
        try:
            opener(path)
        except VocabkitError:
            assert path.name not in OPENS[kind], path
"""
    done = subprocess.run([sys.executable, "-c", program], env=PATHS, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_pickle_in_a_snapshot_is_never_loaded(tmp_path: Path) -> None:
    assert b"arrow.py_extension_type" in (FOLDER / "snapshot-pickle.arrow").read_bytes()
    with pytest.raises(VocabkitError):  # and not SystemExit, which its pickle raises
        read(FOLDER / "snapshot-pickle.arrow")


def test_footer_repeating_one_batch_a_thousand_times_is_not_followed() -> None:
    sink, schema = pa.BufferOutputStream(), pa.schema({"token": pa.binary()}, {"vocabkit.format": "t/1"})
    with pa.ipc.new_file(sink, schema) as writer:
        for value in [bytes(1 << 17), *[b""] * 999]:
            writer.write_batch(pa.record_batch([pa.array([value], pa.binary())], schema))
    content = bytes(sink.getvalue())
    (footer,) = struct.unpack("<i", content[-10:-6])
    blocks = content.index(struct.pack("<I", 1000), len(content) - 10 - footer) + 4
    hostile = content[:blocks] + content[blocks:][:24] * 1000 + content[blocks + 24_000 :]
    assert pa.ipc.open_file(hostile).read_all().nbytes > 1000 << 17
    assert parse_table(hostile, "x.arrow", "t")[0].nbytes < 2 << 17


def test_hostile_segmentation_rules_work_or_raise_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    problems = {}
    for path in FILES:
        try:
            vocabulary = read(path)
        except VocabkitError:
            continue
        try:
            encode_batch(to_tokenizers(vocabulary), ["a b", "é\0", "a" * 60 + "c"], vocabulary.name)
        except VocabkitError as error:
            problems[str(error)] = vocabulary
    assert [problem for problem in problems if not problem.isprintable()] == []
    assert [problem for problem, of in problems.items() if not problem.startswith(f"{one_line(of.name)}: ")] == []
    assert len(problems) > 5
    assert capfd.readouterr().err == ""  # a panic of `tokenizers` is printed, even if it is caught


@pytest.mark.parametrize("companion", ["tokenizer_config.json", "config.json"])
def test_hostile_config_is_ignored_or_named_in_one_line(tmp_path: Path, companion: str) -> None:
    write_json(tmp_path / "tokenizer.json", bpe_json(["a", "b"]))
    problems = []
    for path in FILES:
        (tmp_path / companion).write_bytes(path.read_bytes())
        try:
            assert read(tmp_path).tokens.to_pylist() == [b"a", b"b"], path
        except VocabkitError as error:
            problems.append(str(error))
    assert [problem for problem in problems if not is_one_line_about(tmp_path / companion, problem)] == []
    assert len(problems) > len(FILES) / 2


@pytest.mark.parametrize("value", ["many", -1, 0, 1.5, True, None, [7], {"a": 7}, 10**30, 1 << 31])
def test_invalid_table_size_in_config_is_ignored(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "tokenizer.json", bpe_json(["a", "b"]))
    for config in ({"vocab_size": value, "hidden_size": value}, {"text_config": {"vocab_size": value}}):
        write_json(tmp_path / "config.json", config)
        vocabulary = read(tmp_path)
        assert vocabulary.embedding_rows is None
        assert vocabulary.width is None


# ---- through the command line ------------------------------------------------------------------------------------

SOUND = f"sound={FOLDER / 'snapshot-sound.arrow'}"
COMMANDS: dict[str, Sequence[str]] = {
    "build-shared": ["FILE", SOUND, "--out", "new.arrow", "--special-roles"],
    "build-shared second": [SOUND, "FILE", "--out", "new.arrow", "--union"],
    "check": ["FILE"],
    "check with": ["FILE", "--tokenizer", SOUND.replace("sound", "x"), "--tokenizer", SOUND.replace("sound", "y")],
    "overlap": ["FILE", SOUND],
    "overlap json": ["FILE", SOUND, "--json"],
    "overlap reachability": [SOUND, "FILE", "--reachability"],
    "explain": ["a", "FILE", SOUND],
    "import": ["FILE", SOUND, SOUND.replace("sound", "other"), "--out", "new.arrow"],
    "import owner": [str(FOLDER / "map-id-of-another.json"), "FILE", SOUND, "--out", "new.arrow"],
    "audit": ["FILE", SOUND, SOUND],
    "audit spelling": ["spelling", "FILE", SOUND],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_refuses_hostile_file_in_one_line_and_writes_nothing(command: str, tmp_path: Path) -> None:
    refused = 0
    for path in FILES:
        words = [path if word == "FILE" else word for word in COMMANDS[command]]
        done = vocabkit_here(tmp_path, command.split()[0], *words)
        assert all(line.isprintable() for line in (done.stdout + done.stderr).splitlines()), path
        if done.returncode == 2:
            refused += 1
            error_of(done)
            assert list(tmp_path.iterdir()) == [], path
        else:
            assert done.returncode == 0 or (done.returncode == 1 and command.startswith("check")), done
        for written in tmp_path.iterdir():
            written.unlink()
    assert refused > len(FILES) / 2


SAMPLE = [
    "deep.json",
    "empty",
    "endless-texts.gguf",
    "pickle.model",
    "pieces-declared-huge.model",
]
SAMPLE += [
    "ranks-escapes.tiktoken",
    "snapshot-length-huge.arrow",
    "snapshot-version-escapes.arrow",
    "tekken-size-huge.json",
]


@pytest.mark.parametrize("name", SAMPLE)
def test_program_refuses_hostile_file_in_one_line(tmp_path: Path, name: str) -> None:
    assert name in error_of(vocabkit(tmp_path, "build-shared", FOLDER / name, SOUND, "--out", "new.arrow"))
    assert list(tmp_path.iterdir()) == []


# ---- paths -------------------------------------------------------------------------------------------------------

ODD_NAMES = [
    "new\nline",
    "\x1b[31mred",
    "caf\udce9",
    "two words",
    "-x",
    "a=b",
    "*",
    "$(id)",
    "\u202efosj.a",
    "日本",
    ".",
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_odd_file_name_stays_on_one_line(tmp_path: Path, name: str) -> None:
    for suffix, content in [
        (".json", b"{"),
        (".arrow", b"ARROW1\0\0"),
        (".gguf", b"GGUF"),
        (".tiktoken", b"YQ== 0\nx"),
    ]:
        path = tmp_path / (name + suffix)
        path.write_bytes(content)
        for opener in OPENERS.values():
            with pytest.raises(VocabkitError) as refused:
                opener(path)
            assert is_one_line_about(path, str(refused.value))


@pytest.mark.parametrize("name", ODD_NAMES[:-1], ids=ascii)
def test_folder_with_odd_name_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(VocabkitError) as refused:
        read(tmp_path / name)
    assert is_one_line_about(tmp_path / name, str(refused.value))
    write_json(tmp_path / name / "tokenizer.json", bpe_json(["a"]))
    assert len(read(tmp_path / name)) == 1


def make_pipe(folder: Path) -> Path:
    """A pipe that nobody writes to."""
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def make_loop(folder: Path) -> Path:
    """A symbolic link to itself."""
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def make_dangling(folder: Path) -> Path:
    """A symbolic link to nothing."""
    (folder / "dangling").symlink_to(folder / "nothing")
    return folder / "dangling"


def make_linked_pipe(folder: Path) -> Path:
    """A symbolic link to a pipe."""
    (folder / "link").symlink_to(make_pipe(folder))
    return folder / "link"


def make_folder_of_pipes(folder: Path) -> Path:
    """A folder with a pipe where its tokenizer should be."""
    os.mkfifo(folder / "tokenizer.json")
    os.mkfifo(folder / "x.gguf")
    return folder


def make_folder_of_folders(folder: Path) -> Path:
    """A folder with folders where its tokenizer should be."""
    for name in ("tokenizer.json", "tekken.json", "tokenizer.model", "x.gguf"):
        (folder / name).mkdir()
    return folder


NO_FILES: dict[str, Callable[[Path], Path]] = {
    "pipe": make_pipe,
    "link to a pipe": make_linked_pipe,
    "loop": make_loop,
    "dangling link": make_dangling,
    "folder of pipes": make_folder_of_pipes,
    "folder of folders": make_folder_of_folders,
    "zeros": lambda _: Path("/dev/zero"),
    "full device": lambda _: Path("/dev/full"),
    "terminal": lambda _: Path("/dev/tty"),
    "standard input": lambda _: Path("/dev/stdin"),
    "own memory": lambda _: Path("/proc/self/mem"),
    "log of the kernel": lambda _: Path("/proc/kmsg"),
    "inside a file": lambda folder: write_json(folder / "file.json", {}) / "tokenizer.json",
}


@pytest.mark.parametrize("kind", OPENERS)
def test_device_or_pipe_raises(kind: str, tmp_path: Path) -> None:
    paths = []
    for number, make in enumerate(NO_FILES.values()):
        (tmp_path / str(number)).mkdir()
        paths.append(make(tmp_path / str(number)))
    before = sorted(tmp_path.rglob("*"))
    program = """
import sys
from test_hostile import OPENERS, Path, VocabkitError
for path in sys.argv[2:]:
    print(path, flush=True)
    try:
        OPENERS[sys.argv[1]](Path(path))
    except VocabkitError as error:
        print(error, flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, kind, *paths],
        env=PATHS, stdin=subprocess.PIPE, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[::2] == [str(path) for path in paths]
    for path, message in zip(lines[::2], lines[1::2], strict=True):
        assert message.startswith(path)
    assert sorted(tmp_path.rglob("*")) == before
