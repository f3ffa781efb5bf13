"""Bad arguments are refused in one line that says what to do, before anything is written."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import error_of, vocabkit_here
from tokenizer_files import bpe_json, write_json

from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.tokenizer import snapshot
from vocabkit.tokenizer.read import read


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder inside another, with the tokenizers left/ and right/, a corpus and a shared vocabulary."""
    folder = tmp_path / "outer" / "here"
    (folder / "left").mkdir(parents=True)
    (folder / "right").mkdir()
    write_json(folder / "left/tokenizer.json", bpe_json(["a", "b", "c"]))
    write_json(folder / "right/tokenizer.json", bpe_json(["b", "a"]))
    write_json(folder / "map.json", {"a": 0, "b": 1})
    (folder / "captions.txt").write_text("a\nb\na\n")
    assert vocabkit_here(folder, "build-shared", "left", "right", "--out", "shared.arrow").returncode == 0
    return folder


def everything(folder: Path) -> dict[str, bytes | None]:
    """Return the content of every file below the folder that holds `here`."""
    found = sorted(folder.parent.parent.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else None for path in found}


def refused(folder: Path, *words: str | Path) -> str:
    """Return the error message of a command; assert that it wrote nothing."""
    before = everything(folder)
    message = error_of(vocabkit_here(folder, *words))
    assert everything(folder) == before
    return message


# ---- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a,b", "a,b-right.arrow"),
        ("two words", "two words-right.arrow"),
        ("id:x", "id:x-right.arrow"),
        ("token", "token-right.arrow"),
        ("日本", "日本-right.arrow"),
        ("-x", "-x-right.arrow"),
        # a name never leads out of the folder
        ("a/b", "a-b-right.arrow"),
        ("../x", "..-x-right.arrow"),
        ("/etc/x", "-etc-x-right.arrow"),
        ("..", "..-right.arrow"),
        ("x" * 300, "x" * 100 + ".arrow"),
    ],
)
def test_printable_tokenizer_name_never_leads_out_of_the_folder(here: Path, name: str, file: str) -> None:
    before = everything(here)
    done = vocabkit_here(here, "build-shared", "--", f"{name}=left", "right")
    assert done.returncode == 0, done
    assert set(everything(here)) - set(before) == {str(here / file)}
    shared = open_shared(here / file)
    assert shared.names == [name, "right"]
    assert f"id:{name}" in shared.table.column_names
    assert shared.ids_for(name).tolist() == [0, 1]
    again = vocabkit_here(here, "check", f"--tokenizer={name}=left", "--tokenizer=right=right", "--", file)
    assert again.returncode == 0, again


@pytest.mark.parametrize(
    "name", ["", "a\nb", "\x1b[31mred", "caf\udce9", "a\u202eb", "a\0b".replace("\0", "\x7f")], ids=ascii
)
def test_empty_or_unprintable_name_is_refused(here: Path, name: str) -> None:
    assert "NAME=TOKENIZER" in refused(here, "build-shared", f"{name}=left", "right")


def test_name_ends_at_the_first_equals_sign(here: Path) -> None:
    assert vocabkit_here(here, "build-shared", "a=b=left", "right", "--out", "x.arrow").returncode == 0
    assert open_shared(here / "x.arrow").names == ["a", "right"]


def test_duplicate_name_is_refused_with_advice(here: Path) -> None:
    assert "NAME=TOKENIZER" in refused(here, "build-shared", "left", "left")
    assert "NAME=TOKENIZER" in refused(here, "overlap", "left", "left")
    assert vocabkit_here(here, "build-shared", "left", "again=left").returncode == 0


def test_names_in_a_file_are_never_opened_as_paths_or_repositories(here: Path) -> None:
    for name in ("left", "/dev/zero", "some/repository"):
        shutil.copytree(here / "left", here / "gone")
        vocabkit_here(here, "build-shared", f"{name}=gone", "right", "--out", "x.arrow", "--overwrite")
        shutil.rmtree(here / "gone")
        message = refused(here, "check", "x.arrow", "--tokenizer", "right=right")
        missing = f"'{name}' is not in the catalog or where it was found"
        assert message == f"x.arrow: {missing}; add --tokenizer '{name}'=SOURCE"


@pytest.mark.parametrize(
    ("typed", "meant"), [("lama3", "llama3"), ("qwen-2", "qwen2"), ("Gema3", "gemma3"), ("mistal", "mistral")]
)
def test_unknown_name_suggests_near_ones(here: Path, typed: str, meant: str) -> None:
    assert re.search(rf"did you mean .*\b{meant}\b", refused(here, "build-shared", typed, "right"))
    assert "`vocabkit catalog` lists the names" in refused(here, "build-shared", "xyzzy", "right")


# ---- how many, how much ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["build-shared"], ["overlap"], ["explain", "a"]], ids=str)
def test_one_tokenizer_is_refused(here: Path, command: list[str]) -> None:
    assert refused(here, *command, "left") == "only 'left' is given; name two or more tokenizers, with spaces between"


def test_at_most_fifty_tokenizers_are_aligned(here: Path) -> None:
    sources = [f"tokenizer-{number}=left" for number in range(51)]
    assert "51 tokenizers given; align takes 2 to 50" in refused(here, "build-shared", *sources)
    done = vocabkit_here(here, "build-shared", *sources[:50])
    assert done.returncode == 0
    assert len(open_shared(here / done.stdout.split(":")[0]).names) == 50


@pytest.mark.parametrize("number", ["0", "-1", "3"])
def test_at_least_out_of_range_is_refused(here: Path, number: str) -> None:
    assert "choose 1 to 2" in refused(here, "build-shared", "left", "right", "--at-least", number)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--union", "--at-least", "1"], "give only one of the two"),
        (["--top", "2"], "add --rank-by FILE"),
        (["--count-with", "left"], "add --rank-by FILE"),
        (["--text-column", "text"], "add --rank-by FILE"),
        (["--rank-by", "captions.txt", "--top", "3"], "choose 1 to 2"),
        (["--words", "captions.txt", "--rank-by", "captions.txt"], "--rank-by is for rows of tokens; leave it out"),
        (["--words", "captions.txt", "--reachable"], "--reachable is for rows of tokens; leave it out"),
        (["--words", "captions.txt", "--top", "3"], "can spell none of the 2 words"),
        (["--words", "nothing.txt"], "no such file"),
        (["--rank-by", "captions.txt", "--count-with", "middle"], "name one of left, right"),
        (["--rank-by", "captions.txt", "--text-column", "text"], "plain text has no field"),
        (["--rank-by", "nothing.txt"], "no such file"),
        (["--rank-by", "left/tokenizer.json"], "has no field"),
    ],
)
def test_conflicting_options_are_refused_with_advice(here: Path, options: list[str], says: str) -> None:
    assert says in refused(here, "build-shared", "left", "right", *options)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["overlap", "left", "right", "--text-column", "text"], "add --corpus FILE"),
        (["explain", "", "left", "right"], "give some text, or id:N"),
        (["explain", "id:99", "left", "right"], "its ids are 0 to 2"),
        (["check", "shared.arrow", "--tokenizer", "left"], "is not of the form NAME=VALUE"),
        (["check", "shared.arrow", "left"], "is a shared vocabulary; leave out ORIGINAL, which is for adapters"),
        (["check", "moved.pt"], "add the adapter before it and --to TARGET"),
        (["check", "moved", "adapter", "--to", "x", "--tokenizer", "a=b"], "is an adapter; leave out --tokenizer"),
        (["import", "map.json"], "map.json: is a map; name the tokenizer whose ids it holds"),
        (["import", "map.json", "left"], "only 'left' is given; name two or more tokenizers, with spaces between"),
        (
            ["import", "map.json", "left", "right", "--llm", "left"],
            "map.json: is a map; leave out --llm, which is for weights",
        ),
        (["import", "left", "left", "right"], "left: is not a map (JSON); leave out the tokenizers"),
        (["import", "left"], "left: is not a map (JSON); for weights, give --shared and --llm"),
        (["check", "shared.arrow", "--tokenizer", "a=left"], "name one of left, right"),
        (["check", "shared.arrow", "--tokenizer=left=left", "--tokenizer=left=right"], "names 'left' a second time"),
        (["check", "left/tokenizer.json"], "expected a shared vocabulary"),
        (["import", "map.json", "left", "right", "--sister", "map.json"], "is not of the form NAME=VALUE"),
        (["import", "map.json", "left", "right", "--sister", "middle=map.json"], "is not one of the others"),
        (["import", "nothing.json", "left", "right"], "nothing.json: no such file"),
        (["audit", "nothing.json", "left", "right"], "nothing.json: no such file, and no rule; the rules are spelling"),
        (["audit", "spelling", "left", "right", "--target-map", "map.json"], "goes with a MAP of ids"),
        (["explain", "a", "left", "shared.arrow"], "expected the vocabulary of one tokenizer"),
    ],
    ids=" ".join,
)
def test_bad_input_of_other_commands_is_refused_with_advice(here: Path, words: list[str], says: str) -> None:
    assert says in refused(here, *words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["\x1b[31mred"], r"No such command '\x1b[31mred'"),
        (["build-shared"], "Missing argument 'TOKENIZERS...'"),
        (["build-shared", "left", "right", "--nonsense"], "No such option: --nonsense"),
        (["build-shared", "left", "right", "--out"], "requires an argument"),
        (["build-shared", "left", "right", "--top", "0"], "0 is not in the range x>=1"),
        (["build-shared", "left", "right", "--top", "many"], "'many' is not a valid int"),
        (["overlap", "left", "right", "--examples", "-1"], "-1 is not in the range x>=0"),
        (["check", "shared.arrow", "left", "right"], "unexpected extra argument"),
    ],
    ids=ascii,
)
def test_usage_error_is_one_line_that_points_to_the_help(here: Path, words: list[str], says: str) -> None:
    message = refused(here, *words)
    assert says in message
    assert message.endswith(" --help`")


def test_usage_error_names_the_command_for_help(here: Path) -> None:
    assert refused(here, "transfer", "adapter.pt") == "Missing option '--to'; see `vocabkit transfer --help`"
    assert refused(here, "nonsense").endswith("; see `vocabkit --help`")


def test_invalid_choice_lists_the_choices(here: Path) -> None:
    message = refused(here, "transfer", "adapter.pt", "--to", "llm", "--missing", "guess")
    assert "'error', 'drop', 'compose'" in message


# ---- output ------------------------------------------------------------------------------------------------------


def linked_folder(here: Path) -> Path:
    """A symbolic link to a folder."""
    (here / "real").mkdir()
    (here / "linked").symlink_to(here / "real")
    return here / "linked" / "x.arrow"


def linked_file(here: Path) -> Path:
    """A symbolic link to a file, which is replaced while the link stays."""
    (here / "old").touch()
    (here / "link.arrow").symlink_to("old")
    return here / "link.arrow"


@pytest.mark.parametrize("place", [linked_folder, linked_file])
def test_output_through_a_link_keeps_the_link(here: Path, place: Callable[[Path], Path]) -> None:
    path = place(here)
    assert vocabkit_here(here, "build-shared", "left", "right", "--out", path).returncode == 0
    assert len(open_shared(path)) == 2
    assert path.parent.is_symlink() or path.is_symlink()
    assert len(open_shared(path.resolve())) == 2


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("left", "is a folder; choose another name"),
        (".", "is a folder; choose another name"),
        ("", "is a folder; choose another name"),
        ("/", "is a folder; choose another name"),
        ("/dev/full", "is not a regular file; choose another name"),
        ("/dev/null", "is not a regular file; choose another name"),
        ("nothing/x.arrow", "nothing, so can't write here; make it, or choose another place"),
        ("captions.txt/x.arrow", "so can't write here; make it, or choose another place"),
        ("x" * 300, "can't write here (File name too long)"),
        ("left/tokenizer.json", "is an input of this command; name another output"),
        ("right/../left/tokenizer.json", "is an input of this command"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [["build-shared", "left", "right"], ["import", "map.json", "left", "right"]],
    ids=str,
)
def test_unwritable_output_is_refused_and_changes_nothing(here: Path, command: list[str], out: str, says: str) -> None:
    assert says in refused(here, *command, "--out", out)


@pytest.mark.parametrize(
    "words",
    [
        ["build-shared", "snapshot.arrow", "right", "--out", "snapshot.arrow"],
        ["build-shared", "snapshot.arrow", "right", "--out", "link.arrow"],
        ["build-shared", "left", "right", "--rank-by", "captions.txt", "--out", "captions.txt"],
        ["import", "map.json", "left", "right", "--out", "map.json"],
        ["import", "map.json", "left", "right", "--sister", "right=sister.json", "--out", "sister.json"],
        ["import", "map.arrow", "left", "right"],
    ],
    ids=" ".join,
)
def test_output_over_an_input_is_refused(here: Path, words: list[str]) -> None:
    snapshot.write(here / "snapshot.arrow", read(here / "left"), snapshot.Provenance("tokenizer.json", "0" * 64))
    os.link(here / "snapshot.arrow", here / "link.arrow")
    for name in ("sister.json", "map.arrow"):
        (here / name).write_bytes((here / "map.json").read_bytes())
    assert refused(here, *words).endswith(": is an input of this command; name another output")
