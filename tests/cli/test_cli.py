"""What each alignment command prints and writes: data on stdout, everything else on stderr."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from command_line import error_of, vocabkit, vocabkit_here
from index_map_files import COUNTS, LLAMA_MAP, QWEN_MAP, written
from tokenizer_files import added_token, bpe_json, write_json

from vocabkit.shared.align import align
from vocabkit.shared.shared_vocabulary import SharedVocabulary, open_shared
from vocabkit.tokenizer.catalog import catalog, resolve, resolve_again
from vocabkit_cli.show import SCHEMA

PANELS = {
    "Vocabularies": [
        "build-shared", "overlap", "explain", "show", "diff", "map", "audit", "check", "import", "catalog",
    ],
    "Adapters": ["transfer", "export"],
    "Pictures": ["infer", "interpret", "app"],
    "Training": ["scenes", "features", "train", "adopt", "validate", "compare"],
    "Installation": ["doctor"],
}  # fmt: skip
COMMANDS = [command for commands in PANELS.values() for command in commands]
ADAPTER_COMMANDS = [command for panel in ("Adapters", "Pictures", "Training") for command in PANELS[panel]]


def output_of(folder: Path, *words: str | Path, code: int = 0) -> str:
    """What a command prints on stdout."""
    done = vocabkit_here(folder, *words)
    assert done.returncode == code, done
    assert not re.search("^(error|Traceback)", done.stderr, re.MULTILINE)
    return done.stdout


def json_of(folder: Path, *words: str | Path, code: int = 0) -> dict[str, Any]:
    """The JSON object that a command prints."""
    value: dict[str, Any] = json.loads(output_of(folder, *words, "--json", code=code))
    assert value.pop("schema") == SCHEMA
    return value


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with two small tokenizers: left.json, right.json. They share a, b, ab and " a"."""
    (tmp_path / "left").mkdir()
    (tmp_path / "right").mkdir()
    left, right = ["a", "b", "ab", "Ġa", "c"], ["Ġa", "a", "d", "b", "ab"]
    write_json(tmp_path / "left/tokenizer.json", bpe_json(left, merges=["a b"]))
    write_json(tmp_path / "right/tokenizer.json", bpe_json(right, merges=["a b"]))
    return tmp_path


# ---- help --------------------------------------------------------------------------------------------------------


def test_help_lists_commands_by_panel(tmp_path: Path) -> None:
    listed: dict[str, list[str]] = {}
    for line in output_of(tmp_path, "--help").splitlines():
        if line and not line.startswith(" "):
            panel = listed.setdefault(line.rstrip(":"), [])
        elif line.strip():
            panel.append(line.split()[0])
    assert {panel: listed[panel] for panel in PANELS} == PANELS


def test_no_command_shows_help_on_stderr(tmp_path: Path) -> None:
    done = vocabkit_here(tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == output_of(tmp_path, "--help")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_every_option_in_80_columns(tmp_path: Path, command: str) -> None:
    text = output_of(tmp_path, command, "--help")
    assert text.startswith(f"Usage: vocabkit {command} ")
    assert max(map(len, text.splitlines())) <= 80
    options, example = text.split("Options:\n")[1].split("\n\n")
    for row in re.split(r"^  (?=\S)", options, flags=re.MULTILINE)[1:]:
        row = row.removeprefix("-h, ").removeprefix("-q, ")
        assert re.fullmatch(
            r"--[a-z-]+( / --[a-z-]+)?( <[^>]+>| [A-Z][A-Za-z:=/]*)?\s{2,}[\w`].*\s*", row, re.DOTALL
        ), row
    words = example.split()
    assert words[:3] == ["Example:", "vocabkit", command]
    assert all(f"  {word} " in options for word in words if word.startswith("--"))


def test_short_option_shows_the_help_too(tmp_path: Path) -> None:
    assert output_of(tmp_path, "transfer", "-h") == output_of(tmp_path, "transfer", "--help")


def test_no_summary_is_cut_short(tmp_path: Path) -> None:
    assert not re.search(r"^  .*(\.\.\.|…)$", output_of(tmp_path, "--help"), re.MULTILINE)


def test_shell_completes_commands_and_options(tmp_path: Path) -> None:
    for typed, expected in (("vocabkit tr", {"transfer", "train"}), ("vocabkit transfer --mis", {"--missing"})):
        asked = {"_VOCABKIT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        assert set(vocabkit(tmp_path, **asked).stdout.split()) == expected


# ---- build-shared, check -----------------------------------------------------------------------------------------


def test_build_shared_writes_a_file_and_reports_it(tmp_path: Path) -> None:
    done = vocabkit_here(tmp_path, "build-shared", "qwen2.5", "llama3")
    shared = open_shared(tmp_path / "qwen2.5-llama3.arrow")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"qwen2.5-llama3.arrow: 109,566 shared tokens, {shared.fingerprint}",
        "  qwen2.5: 72.2% of 151,665 ids",
        "  llama3: 85.4% of 128,256 ids",
    ]
    assert re.fullmatch(r"qwen2.5: 151,665 ids, catalog, .*\nllama3: 128,256 ids, catalog, .*\n", done.stderr)
    assert len(shared) == 109_566
    assert [path.name for path in tmp_path.iterdir()] == ["qwen2.5-llama3.arrow"]


def test_build_shared_is_reproducible(tmp_path: Path) -> None:
    for name in ("a.arrow", "b.arrow"):
        output_of(tmp_path, "build-shared", "smollm2", "qwen2", "--out", name)
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        ["build-shared", "left", "right", "--out", "x.arrow"],
        ["map", "left", "right", "--out", "x.csv"],
        ["overlap", "left", "right", "--html", "x.html"],
    ],
)
def test_earlier_result_is_replaced_only_if_asked(small: Path, words: list[str]) -> None:
    if "--html" in words:
        pytest.importorskip("jinja2")
    result = small / words[-1]
    output_of(small, *words)
    first = result.read_bytes()
    write_json(small / "right/tokenizer.json", bpe_json(["Ġa", "a", "d"]))
    refused = error_of(vocabkit_here(small, *words))
    assert refused == f"{words[-1]}: exists; add --overwrite to replace it, or name another output"
    assert result.read_bytes() == first
    output_of(small, *words, "--overwrite")
    assert result.read_bytes() != first


@pytest.mark.parametrize(
    "words",
    [
        ["build-shared", "left", "right", "--out", "notes.txt"],
        ["map", "left", "right", "--out", "notes.csv"],
        ["overlap", "left", "right", "--html", "notes.txt"],
    ],
)
def test_file_of_the_user_is_never_replaced(small: Path, words: list[str]) -> None:
    if "--html" in words:
        pytest.importorskip("jinja2")
    notes = small / words[-1]
    notes.write_text("my notes\n")
    problem = error_of(vocabkit_here(small, *words))
    assert problem == f"{words[-1]}: exists, and vocabkit did not write it; name another output, or remove it"
    assert notes.read_text() == "my notes\n"


def test_build_shared_json_keys(small: Path) -> None:
    value = json_of(small, "build-shared", "left", "right", "--out", "x.arrow")
    shared = open_shared(small / "x.arrow")
    assert list(value) == ["file", "rows", "fingerprint", "tokenizers", "selection", "roles"]
    assert value["file"] == "x.arrow"
    assert value["rows"] == len(shared) == 4
    assert value["fingerprint"] == shared.fingerprint
    assert list(value["tokenizers"][0]) == [
        "name",
        "source",
        "fingerprint",
        "size",
        "embedding_rows",
        "given_roles",
        "origin",
    ]
    assert [info["name"] for info in value["tokenizers"]] == ["left", "right"]
    assert list(value["selection"]) == ["at_least", "order", "corpus", "corpus_tokens", "mass_kept", "unreachable"]


@pytest.mark.parametrize(
    ("options", "rows"), [(["--union"], 6), (["--at-least", "1"], 6), (["--at-least", "2"], 4), ([], 4)]
)
def test_at_least_and_union_keep_tokens_missing_from_some_tokenizers(
    small: Path, options: list[str], rows: int
) -> None:
    assert json_of(small, "build-shared", "left", "right", *options)["rows"] == rows


def test_special_roles_add_a_row_per_common_role(tmp_path: Path) -> None:
    plain = json_of(tmp_path, "build-shared", "qwen2", "llama3")
    asked = json_of(tmp_path, "build-shared", "qwen2", "llama3", "--special-roles", "--out", "asked.arrow")
    assert plain["roles"] == {}
    assert set(asked["roles"]) == set(resolve("qwen2").vocabulary.roles) & set(resolve("llama3").vocabulary.roles)
    assert asked["rows"] == plain["rows"] + len(asked["roles"])


def test_special_roles_say_which_matched_and_who_lacks_the_others(tmp_path: Path) -> None:
    text = output_of(tmp_path, "build-shared", "qwen2", "llama3", "--special-roles")
    value = json_of(tmp_path, "build-shared", "qwen2", "llama3", "--special-roles", "--overwrite")
    assert f"roles matched: {', '.join(value['roles'])}\n" in text
    assert value["unmatched_roles"]["header_start"] == ["qwen2"]
    assert "role header_start not matched, missing in qwen2\n" in text


def test_role_gives_a_special_token_a_role_that_check_knows_again(small: Path) -> None:
    for name, spelling in (("left", "<think>"), ("right", "<|thought|>")):
        content = bpe_json(["a", "b"], added=[added_token(2, spelling, special=True)])
        write_json(small / name / "tokenizer.json", content)
    words = ["build-shared", "left", "right", "--role", "mull=left:<think>", "--role", "mull=right:<|thought|>"]
    value = json_of(small, *words, "--out", "x.arrow")
    assert value["roles"] == {"mull": 2}
    assert open_shared(small / "x.arrow").ids_for("right").tolist() == [0, 1, 2]
    assert output_of(small, "check", "x.arrow") == "x.arrow: all 3 rows are right in left, right\n"
    asked = [f"--tokenizer={name}={name}" for name in ("left", "right")]
    assert "all 3 rows are right" in output_of(small, "check", "x.arrow", *asked)


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("mull=left:<thin>", "'<thin>' is no token in left"),
        ("mull=left:a", "'a' is text, not special, in left"),
        ("mull=middle:<think>", "is not ROLE=TOKENIZER:SPELLING with one of left, right"),
        ("mull", "is not ROLE=TOKENIZER:SPELLING"),
        ("a b=left:<think>", "expected letters, digits and _"),
    ],
)
def test_role_that_no_special_token_can_have_raises(small: Path, role: str, expected: str) -> None:
    content = bpe_json(["a", "b"], added=[added_token(2, "<think>", special=True)])
    write_json(small / "left" / "tokenizer.json", content)
    assert expected in error_of(vocabkit_here(small, "build-shared", "left", "right", "--role", role))


def test_check_lists_wrong_rows_and_exits_with_1(small: Path) -> None:
    sources = [f"--tokenizer={name}={name}" for name in ("left", "right")]
    output_of(small, "build-shared", "left", "right", "--out", "x.arrow")
    assert output_of(small, "check", "x.arrow", *sources) == "x.arrow: all 4 rows are right in left, right\n"

    ids = open_shared(small / "x.arrow").ids_for("left")
    with_ids(open_shared(small / "x.arrow"), "left", ids[::-1].copy()).save(small / "wrong.arrow")
    lines = output_of(small, "check", "wrong.arrow", *sources, code=1).splitlines()
    assert len(lines) == 5
    assert all(
        re.match(r"left: row \d+ is b'.*', which is id \d+, but the file has id \d+ ", line) for line in lines[:-1]
    )
    assert lines[-1] == "wrong.arrow: does not fit its tokenizers"

    value = json_of(small, "check", "wrong.arrow", *sources, code=1)
    assert list(value) == ["file", "rows", "fingerprint", "problems", "notes"]
    assert value["problems"] == lines[:-1]


def with_ids(shared: SharedVocabulary, name: str, ids: np.ndarray) -> SharedVocabulary:
    """`shared` with other ids of one tokenizer."""
    position = shared.table.column_names.index(f"id:{name}")
    table = shared.table.set_column(position, f"id:{name}", pa.array(ids, pa.int32()))
    return dataclasses.replace(shared, table=table)


def test_check_finds_catalog_names_and_recorded_paths(small: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    output_of(small, "build-shared", "qwen2", "smollm2", "--out", "x.arrow")
    assert "x.arrow: all " in output_of(small, "check", "x.arrow")
    for left in ("left", str(small / "left")):
        output_of(small, "build-shared", f"one={left}", "right", "--out", "y.arrow", "--overwrite")
        assert "y.arrow: all " in output_of(small, "check", "y.arrow")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert "all " in output_of(elsewhere, "check", str(small / "y.arrow"))  # from the folder of the file


def test_check_takes_a_recorded_path_only_with_its_fingerprint(small: Path) -> None:
    output_of(small, "build-shared", "left", "right", "--out", "y.arrow")
    shutil.rmtree(small / "left")
    shutil.copytree(small / "right", small / "left")
    shutil.rmtree(small / "right")
    assert error_of(vocabkit_here(small, "check", "y.arrow")).endswith(
        "'left', 'right' are not in the catalog; left was 'left', which has changed since; "
        "add --tokenizer 'left'=left --tokenizer 'right'=SOURCE"
    )


@pytest.mark.parametrize(
    "origin", ["/dev/zero", "//server/share", "\\\\server\\share", "hub:owner/name", "hub:", "\0", ""]
)
def test_recorded_origin_of_a_stranger_opens_nothing(tmp_path: Path, origin: str) -> None:
    assert resolve_again(origin, "sha256:0", tmp_path) is None


def test_origin_changes_no_fingerprint(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small)
    shared = align(["left", "right"])
    assert [info.origin for info in shared.tokenizers] == ["left", "right"]
    unplaced = tuple(dataclasses.replace(info, origin=None) for info in shared.tokenizers)
    assert dataclasses.replace(shared, tokenizers=unplaced).fingerprint == shared.fingerprint


# ---- ranking -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--words", "captions.txt", "--top", "1"], ["1 word, ", "corpus words kept"]),
        (["--words", "word.txt"], ["1 word, ", "100.00% of 1 corpus word kept"]),
        (["--names", "word.txt"], ["1 word or phrase, "]),
        (["--names", "names.txt"], ["2 words and phrases, "]),
        (["--rank-by", "captions.txt", "--top", "1"], ["1 shared token, ", "corpus tokens kept"]),
    ],
)
def test_one_row_is_counted_as_one(tmp_path: Path, options: list[str], says: list[str]) -> None:
    for name, content in {"captions.txt": "a banjo", "word.txt": "banjo", "names.txt": "sea lion\nbanjo"}.items():
        (tmp_path / name).write_text(content)
    built = output_of(tmp_path, "build-shared", "gemma3", "smollm2", *options, "--out", "w.arrow")
    assert all(each in built for each in says)
    if says[0].startswith("1 "):
        assert output_of(tmp_path, "check", "w.arrow") == "w.arrow: its row is right in gemma3, smollm2\n"


def test_words_are_rows_that_show_lists_and_check_proves(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a banjo and a hamsa\n", "utf-8")
    built = output_of(tmp_path, "build-shared", "gemma3", "smollm2", "--words", "captions.txt", "--out", "w.arrow")
    assert re.sub("sha256:[0-9a-f]+", "…", built).splitlines() == [
        "w.arrow: 4 words, …",
        "  gemma3: 3 of one token, at most 2",
        "  smollm2: 2 of one token, at most 3",
        "  100.00% of 5 corpus words kept",
    ]
    shown = output_of(tmp_path, "show", "w.arrow", "--token", " banjo").splitlines()
    assert shown[3] == "  words of at least 2 tokenizers, in order of count"
    assert shown[-1] == "       1  ' banjo'  gemma3 200388  smollm2 5517 12780  count 1"
    assert output_of(tmp_path, "show", "w.arrow", "--csv").splitlines()[2] == "1, banjo,,1,200388,5517 12780"
    row = json_of(tmp_path, "show", "w.arrow", "--token", " banjo")["listed"][0]
    assert row["ids"] == {"gemma3": [200388], "smollm2": [5517, 12780]}
    assert output_of(tmp_path, "check", "w.arrow") == "w.arrow: all 4 rows are right in gemma3, smollm2\n"


def test_rank_by_orders_by_count_and_top_keeps_the_first(small: Path) -> None:
    (small / "captions.txt").write_text("ab\nb\nab\nc\n")
    value = json_of(
        small, "build-shared", "left", "right", "--rank-by", "captions.txt", "--top", "2", "--out", "x.arrow"
    )
    shared = open_shared(small / "x.arrow")
    assert shared.tokens.to_pylist() == [b"ab", b"b"]
    assert shared.counts is not None
    assert shared.counts.tolist() == [2, 1]
    assert value["selection"] == {
        "at_least": 2, "order": "count", "corpus": "captions.txt, counted with left", "corpus_tokens": 4,
        "mass_kept": 0.75, "unreachable": None,
    }  # fmt: skip


def test_count_with_and_field_choose_tokenizer_and_field(tmp_path: Path) -> None:
    (tmp_path / "captions.jsonl").write_text('{"alt": "a dog on a mat"}\n{"alt": "a dog"}\n')
    words = ["build-shared", "smollm2", "qwen2", "--rank-by", "captions.jsonl", "--text-column", "alt", "--top", "3"]
    done = vocabkit_here(tmp_path, *words, "--count-with", "qwen2")
    assert done.returncode == 0, done
    shared = open_shared(tmp_path / "smollm2-qwen2.arrow")
    assert shared.tokens.to_pylist()[:2] == [b"a", b" dog"]
    assert re.fullmatch(r"captions\.jsonl.*, counted with qwen2", shared.selection.corpus or "")
    assert re.search(r"^  \d+\.\d\d% of 7 corpus tokens kept$", done.stdout, re.MULTILINE)


# ---- overlap, explain --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [["qwen2", "llama3"], ["qwen2", "llama3", "gemma3", "mistral-v3", "smollm2"]], ids=len
)
def test_overlap_fits_80_columns_and_matches_the_library(tmp_path: Path, names: list[str]) -> None:
    text = output_of(tmp_path, "overlap", *names, "--all")
    short = output_of(tmp_path, "overlap", *names)
    assert len(short.splitlines()) < min(40, len(text.splitlines()))
    assert short.splitlines()[0] == text.splitlines()[0]
    shared = align([resolve(name).vocabulary for name in names])
    assert re.match(rf"{len(shared):,} tokens shared by ", text)
    assert max(map(len, text.splitlines())) <= 80
    value = json_of(tmp_path, "overlap", *names)
    assert value["shared_by_all"] == len(shared)
    assert [summary["name"] for summary in value["tokenizers"]] == names
    assert list(value) == [
        "tokenizers", "shared_by_all", "shared_by_all_partial_utf8", "union", "shared", "coverage", "jaccard", "mass",
        "by_kind", "by_script", "by_length", "roles",
    ]  # fmt: skip


def test_overlap_measures_corpus_and_reachability_on_request(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a dog on a mat\n")
    plain = json_of(tmp_path, "overlap", "smollm2", "mistral-v3", "--examples", "0", "--no-reachability")
    asked = json_of(
        tmp_path, "overlap", "smollm2", "mistral-v3", "--examples", "0", "--corpus", "captions.txt", "--reachability"
    )
    assert plain["mass"] is None
    assert asked["mass"] is not None
    assert [summary["unreachable"] for summary in plain["tokenizers"]] == [None, None]
    assert all(summary["unreachable"]["count"] >= 0 for summary in asked["tokenizers"])


def test_explain_gives_the_reason_for_sharing(tmp_path: Path) -> None:
    assert "shared: " in output_of(tmp_path, "explain", " dog", "qwen2", "llama3")
    value = json_of(tmp_path, "explain", r"\xe4\xb8", "qwen2", "gemma3")
    assert list(value) == ["token", "findings", "shared", "reason", "hints"]
    assert value["token"] == {"hex": "e4b8", "text": None}
    assert value["shared"] is False
    assert [finding["name"] for finding in value["findings"]] == ["qwen2", "gemma3"]
    assert json_of(tmp_path, "explain", "id:279", "qwen2", "llama3")["token"]["text"] == " the"


# ---- index maps, audits ------------------------------------------------------------------------------------------


def test_import_map_proves_rows_and_keeps_their_order(tmp_path: Path) -> None:
    written(tmp_path, QWEN_MAP, "qwen.json")
    written(tmp_path, LLAMA_MAP, "llama.json")
    value = json_of(tmp_path, "import", "qwen.json", "qwen2", "llama3", "--sister", "llama3=llama.json")
    shared = open_shared(tmp_path / "qwen.arrow")
    assert list(value) == ["file", "rows", "fingerprint", "tokenizers", "selection", "roles"]
    assert value["rows"] == len(QWEN_MAP)
    assert shared.ids_for("qwen2").tolist() == list(QWEN_MAP.values())
    assert shared.ids_for("llama3").tolist() == list(LLAMA_MAP.values())
    again = output_of(tmp_path, "import", "qwen.json", "qwen2", "llama3", "--out", "again.arrow")
    assert again == f"again.arrow: all 40 rows proven in qwen2, llama3, {shared.fingerprint}\n"


def test_import_map_with_its_counts_reports_the_share_of_the_corpus(tmp_path: Path) -> None:
    written(tmp_path, dict(list(QWEN_MAP.items())[:3]), "qwen.json")
    written(tmp_path, COUNTS, "counts.json")
    words = ("import", "qwen.json", "qwen2", "llama3", "--counts", "counts.json")
    share = sum(list(COUNTS.values())[:3]) / sum(COUNTS.values())
    assert f"\n  {share:.2%} of {sum(COUNTS.values()):,} corpus tokens kept\n" in output_of(tmp_path, *words)
    assert json_of(tmp_path, *words, "--overwrite")["selection"]["mass_kept"] == share
    refused = vocabkit_here(tmp_path, "import", "weights.bin", "--counts", "counts.json")
    assert "leave out --counts, which are for maps" in error_of(refused)


def test_import_map_of_another_tokenizer_raises_and_writes_nothing(tmp_path: Path) -> None:
    written(tmp_path, QWEN_MAP, "qwen.json")
    assert "rows are not gemma3's tokens" in error_of(
        vocabkit_here(tmp_path, "import", "qwen.json", "gemma3", "llama3")
    )
    assert [path.name for path in tmp_path.iterdir()] == ["qwen.json"]


def test_audit_counts_right_wrong_and_missed_pairs(tmp_path: Path) -> None:
    text = output_of(tmp_path, "audit", "spelling", "qwen2", "gemma3")
    value = json_of(tmp_path, "audit", "spelling", "qwen2", "gemma3", "--examples", "2")
    assert {"source", "target", "pairs", "expected", "right", "wrong", "missed", "by_reason"} <= set(value)
    assert value["right"] + value["wrong"] + value["unjudged"] == value["pairs"]
    assert value["missed"] == 71_450  # what a matcher by spelling was measured to miss
    assert len(value["missed_examples"]) == 2
    assert f"{value['pairs']:,} pairs of qwen2 and gemma3" in text
    assert max(map(len, text.splitlines())) <= 80
    written(tmp_path, QWEN_MAP, "qwen.json")
    written(tmp_path, LLAMA_MAP, "llama.json")
    rows = json_of(tmp_path, "audit", "qwen.json", "qwen2", "llama3", "--target-map", "llama.json")
    assert (rows["pairs"], rows["right"]) == (40, 40)


# ---- catalog -------------------------------------------------------------------------------------------------------


def test_catalog_lists_every_name_in_80_columns(tmp_path: Path) -> None:
    entries = json.loads(output_of(tmp_path, "catalog", "--json"))["entries"]
    assert [entry["name"] for entry in entries] == list(catalog())
    assert list(entries[0])[:2] == ["name", "snapshot"]
    lines = output_of(tmp_path, "catalog").splitlines()
    assert set(catalog()) <= {line.split()[0] for line in lines if line.strip()}
    assert max(map(len, lines)) <= 80
