"""Ranking shared tokens by a caption corpus, in every format that captions come in."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe
from tokenizer_files import read_json_tokenizer, real_file, unigram_json

from vocabkit.alignment import align
from vocabkit.catalog import resolve
from vocabkit.corpus import PIECE, captions
from vocabkit.errors import VocabkitError
from vocabkit.ranking import BATCH_TEXTS, count_tokens, rank
from vocabkit.shared import SharedVocabulary, open_shared
from vocabkit.vocabulary import Vocabulary

CAPTIONS = [
    "A red apple and a green pear lie on a wooden table.",
    "The dog sleeps in the sun; the ball is in front of it.",
    "Ein Mädchen fährt Rad. 一匹の猫が寝ている。 🐈",
    "A caption that spells <|im_end|> and </s> like a special token.",
    "  two  spaces,\ttabs and a trailing space ",
]

LLAMA3_PATTERN = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
]  # fmt: skip
"""The pre-tokenizer in llama_models/llama3/tokenizer.py."""


def llava(caption: str, number: int) -> dict[str, object]:
    """A record as LLaVA-Pretrain has it; what the human says must not count."""
    turns = [{"from": "human", "value": "Describe.\n<image>"}, {"from": "gpt", "value": caption}]
    return {"id": str(number), "image": f"{number}.jpg", "conversations": turns}


def write_text(path: Path) -> None:
    path.write_bytes("\r\n".join(CAPTIONS).encode())


def write_jsonl(path: Path) -> None:
    path.write_text("\n\n".join(json.dumps({"url": "x", "caption": caption}) for caption in CAPTIONS))


def write_llava(path: Path) -> None:
    path.write_text(json.dumps([llava(caption, i) for i, caption in enumerate(CAPTIONS)], indent=1))


def write_llava_lines(path: Path) -> None:
    path.write_text("\n".join(json.dumps(llava(caption, i)) for i, caption in enumerate(CAPTIONS)))


def write_parquet(path: Path) -> None:
    pq.write_table(pa.table({"id": list(range(6)), "text": [*CAPTIONS, None]}), path)


FORMATS: dict[str, Callable[[Path], None]] = {
    "captions.txt": write_text,
    "captions": write_text,
    "captions.jsonl": write_jsonl,
    "captions.json": write_llava,
    "lines.json": write_llava_lines,
    "captions.parquet": write_parquet,
}


@pytest.fixture(scope="module")
def qwen() -> Vocabulary:
    return resolve("qwen2").vocabulary


@pytest.fixture(scope="module")
def llama() -> Vocabulary:
    return resolve("llama3").vocabulary


@pytest.fixture(scope="module")
def shared(qwen: Vocabulary, llama: Vocabulary) -> SharedVocabulary:
    return align([qwen, llama])


def refusal(paths: list[Path], **options: str) -> str:
    with pytest.raises(VocabkitError) as caught:
        list(captions(paths, **options))
    assert str(caught.value).isprintable()
    return str(caught.value)


# ---- counting ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("sources")
def test_counts_are_those_of_the_publishers_own_library(tmp_path: Path, llama: Vocabulary) -> None:
    pattern = "|".join(LLAMA3_PATTERN)
    ranks = load_tiktoken_bpe(str(real_file("llama3")))
    library = tiktoken.Encoding("llama3", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    write_text(tmp_path / "captions.txt")
    expected = Counter(i for caption in CAPTIONS for i in library.encode(caption))
    counts = count_tokens(llama, [tmp_path / "captions.txt"])
    assert {int(i): int(counts[i]) for i in np.flatnonzero(counts)} == expected


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_every_format_holds_the_same_captions(tmp_path: Path, name: str, compression: str) -> None:
    if compression and name.endswith(".parquet"):
        pytest.skip("Parquet compresses by itself")
    path = tmp_path / name
    FORMATS[name](path)
    if compression:
        codec = "gzip" if compression == ".gz" else "zstd"
        with pa.output_stream(tmp_path / (name + compression), compression=codec) as out:
            out.write(path.read_bytes())
        path = tmp_path / (name + compression)
    assert list(captions([path])) == CAPTIONS


def test_a_folder_stands_for_its_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, text in (("b.txt", "second"), ("a.jsonl", '{"text": "first"}'), (".hidden", "never")):
        (tmp_path / name).write_text(text)
    assert list(captions([tmp_path, tmp_path / "b.txt"])) == ["first", "second", "second"]


def test_captions_are_what_gpt_says_without_image_placeholders(tmp_path: Path) -> None:
    turns = [("human", "<image>\nWhat?"), ("gpt", "A cat."), ("human", "Where?"), ("gpt", "<image>On a mat.")]
    record = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    (tmp_path / "chat.json").write_text(json.dumps([record]))
    assert list(captions([tmp_path / "chat.json"])) == ["A cat.", "On a mat."]


def test_a_field_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"caption": "no", "alt": "yes"}')
    pq.write_table(pa.table({"caption": ["no"], "alt": ["yes"]}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert list(captions([tmp_path / name], field="alt")) == ["yes"]


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])), max_size=30))
def test_plain_text_is_cut_at_line_ends_only(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    path.write_bytes("\n".join(lines).encode())
    expected = [line.replace("<image>", "").removesuffix("\r") for line in lines if line]
    assert list(captions([path])) == expected


def test_a_line_without_end_is_cut_before_spaces_and_counts_the_same(tmp_path: Path, qwen: Vocabulary) -> None:
    words = "the quick brown fox jumps over the lazy dog " * (PIECE // 20)
    (tmp_path / "long.txt").write_text(words.strip())
    parts = list(captions([tmp_path / "long.txt"]))
    assert "".join(parts) == words.strip()
    assert len(parts) > 1
    assert max(map(len, parts)) <= 2 * PIECE
    (tmp_path / "short.txt").write_text("the" + " quick brown fox jumps over the lazy dog the" * (PIECE // 20))
    once = {token: words.split().count(token.decode().strip()) for token in (b" quick", b" lazy", b" the")}
    counts = count_tokens(qwen, [tmp_path / "long.txt"])
    values = qwen.tokens.to_pylist()
    assert counts[values.index(b" quick")] == once[b" quick"]
    assert counts[values.index(b" the")] + counts[values.index(b"the")] == once[b" the"]


def test_counts_do_not_depend_on_batches(tmp_path: Path, qwen: Vocabulary) -> None:
    many = tmp_path / "many.txt"
    many.write_text("\n".join(CAPTIONS * (BATCH_TEXTS // 4)))
    write_text(tmp_path / "once.txt")
    once = count_tokens(qwen, [tmp_path / "once.txt"])
    assert np.array_equal(count_tokens(qwen, [many]), once * (BATCH_TEXTS // 4))


def test_aliases_count_for_the_canonical_id(tmp_path: Path) -> None:
    gemma = resolve("gemma3").vocabulary
    (tmp_path / "a.txt").write_text("a\tb\x01")
    counts = count_tokens(gemma, [tmp_path / "a.txt"])
    assert np.array_equal(gemma.canonical[np.flatnonzero(counts)], np.flatnonzero(counts))


def test_progress_rises_to_the_size_of_all_files(tmp_path: Path) -> None:
    for name, write in FORMATS.items():
        write(tmp_path / name)
    seen: list[tuple[int, int]] = []
    list(captions([tmp_path], progress=lambda done, total: seen.append((done, total))))
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (size, size)
    assert {total for _, total in seen} == {size}


# ---- ranking -----------------------------------------------------------------------------------------------------


def test_rows_stand_by_frequency_and_ties_keep_their_order(
    tmp_path: Path, qwen: Vocabulary, shared: SharedVocabulary
) -> None:
    (tmp_path / "a.txt").write_text("the the the cat cat dog")
    ranked = rank(shared, qwen, [tmp_path / "a.txt"])
    assert len(ranked) == len(shared)
    assert ranked.tokens[:5].to_pylist() == [b" the", b" cat", b"the", b" dog", b"!"]
    counts = ranked.counts
    assert counts is not None
    assert counts[:5].tolist() == [2, 2, 1, 1, 0]
    rest = ranked.ids_for("qwen2")[4:]
    assert np.array_equal(rest, np.sort(rest))


def test_top_keeps_the_most_frequent_and_records_the_mass(
    tmp_path: Path, qwen: Vocabulary, shared: SharedVocabulary
) -> None:
    (tmp_path / "a.txt").write_text("the the the cat cat dog")
    ranked = rank(shared, qwen, [tmp_path / "a.txt"], top=2)
    assert ranked.tokens.to_pylist() == [b" the", b" cat"]
    assert ranked.selection.order == "count"
    assert ranked.selection.corpus == "a.txt, counted with qwen2"
    assert (ranked.selection.corpus_tokens, ranked.selection.mass_kept) == (6, 4 / 6)
    ranked.save(tmp_path / "ranked.arrow")
    opened = open_shared(tmp_path / "ranked.arrow")
    assert opened.fingerprint == ranked.fingerprint
    assert opened.selection == ranked.selection
    assert opened.counts is not None
    assert opened.counts.tolist() == [2, 2]


def test_special_roles_stay_after_the_ranked_rows(tmp_path: Path, qwen: Vocabulary, llama: Vocabulary) -> None:
    (tmp_path / "a.txt").write_text("the cat")
    ranked = rank(align([qwen, llama], special_roles=True), qwen, [tmp_path / "a.txt"], top=2)
    assert len(ranked) == 2 + len(ranked.roles)
    assert sorted(ranked.roles.values()) == list(range(2, len(ranked)))
    assert ranked.ids_for("llama3")[ranked.roles["turn_end"]] == llama.roles["turn_end"]


def test_rows_of_a_union_that_the_counter_lacks_count_nothing(
    tmp_path: Path, qwen: Vocabulary, llama: Vocabulary
) -> None:
    (tmp_path / "a.txt").write_text("the cat")
    union = rank(align([qwen, llama], at_least=1), qwen, [tmp_path / "a.txt"])
    assert union.counts is not None
    assert not union.counts[~union.mask_for("qwen2")].any()
    assert union.counts.sum() == 2


@pytest.mark.parametrize("top", [0, -1, 109_567])
def test_a_top_that_is_not_possible_is_refused(
    tmp_path: Path, qwen: Vocabulary, shared: SharedVocabulary, top: int
) -> None:
    with pytest.raises(VocabkitError, match="choose 1 to 109566"):
        rank(shared, qwen, [tmp_path / "a.txt"], top=top)


def test_the_counter_must_be_one_of_the_tokenizers(tmp_path: Path, shared: SharedVocabulary) -> None:
    (tmp_path / "a.txt").write_text("the cat")
    with pytest.raises(VocabkitError, match="gemma3"):
        rank(shared, resolve("gemma3").vocabulary, [tmp_path / "a.txt"])


# ---- constant memory ---------------------------------------------------------------------------------------------

PEAK = """
import resource, sys
from pathlib import Path
from vocabkit.catalog import resolve
from vocabkit.ranking import count_tokens
count_tokens(resolve("qwen2").vocabulary, [Path(sys.argv[1])])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.parametrize("kind", ["text", "json", "one line"])
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, kind: str) -> None:
    caption = "A photograph of a dog that runs after a ball on a green meadow under a blue sky. "

    def peak(times: int) -> int:
        path = tmp_path / f"{times}.{'json' if kind == 'json' else 'txt'}"
        with path.open("w") as file:
            if kind == "json":
                file.write("[" + ",".join([json.dumps({"caption": caption})] * times) + "]")
            else:
                for _ in range(times):
                    file.write(caption + ("\n" if kind == "text" else ""))
        return int(subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, check=True).stdout)

    assert peak(400_000) < peak(100_000) + 60


# ---- bad input ---------------------------------------------------------------------------------------------------


def test_bad_input_is_named(tmp_path: Path) -> None:
    def file(name: str, content: bytes) -> list[Path]:
        (tmp_path / name).write_bytes(content)
        return [tmp_path / name]

    assert "no such file" in refusal([tmp_path / "absent.txt"])
    (tmp_path / "empty").mkdir()
    assert "no files in this folder" in refusal([tmp_path / "empty"])
    assert "latin.txt: not UTF-8" in refusal(file("latin.txt", b"caf\xe9 au lait"))
    assert "bad.jsonl: line 3 is not JSON" in refusal(file("bad.jsonl", b'{"text": "a"}\n\n{"text"'))
    assert "line 1 has no field caption or text or conversations" in refusal(
        file("other.jsonl", b'{"url": "x", "size": 1}')
    )
    assert "'url, size'" in refusal(file("other.jsonl", b'{"url": "x", "size": 1}'))
    assert "line 1 has no field 'alt'" in refusal(file("other.jsonl", b'{"url": "x"}'), field="alt")
    assert "line 1 is no JSON object" in refusal(file("list.jsonl", b"[1]"))
    assert "'caption' is int" in refusal(file("number.jsonl", b'{"caption": 7}'))
    assert "has no text `value`" in refusal(file("turn.json", b'[{"conversations": [{"from": "gpt"}]}]'))
    assert "cut.json: not valid JSON" in refusal(file("cut.json", b'[{"caption": "a"}, {"cap'))
    assert "deep.jsonl: line 1 is not JSON" in refusal(file("deep.jsonl", b"[" * 100_000))
    assert "damaged Parquet" in refusal(file("bad.parquet", b"PAR1 not at all"))
    assert "damaged" in refusal(file("cut.txt.gz", gzip.compress(b"a caption " * 999)[:-20]))
    assert "damaged" in refusal(file("no.txt.zst", b"not zstd"))
    assert "plain text has no field" in refusal(file("a.txt", b"a"), field="caption")
    pq.write_table(pa.table({"caption": [1, 2]}), tmp_path / "numbers.parquet")
    assert "column 'caption' is int64" in refusal([tmp_path / "numbers.parquet"])
    assert "no column 'alt'" in refusal([tmp_path / "numbers.parquet"], field="alt")


def test_a_corpus_without_captions_is_refused(tmp_path: Path, qwen: Vocabulary) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(VocabkitError, match="no captions in it"):
        count_tokens(qwen, [tmp_path / "empty.txt"])


def test_a_tokenizer_without_a_token_for_a_character_is_named(tmp_path: Path) -> None:
    vocabulary = read_json_tokenizer(tmp_path, unigram_json(["a", "b"]))
    (tmp_path / "a.txt").write_text("a z")
    with pytest.raises(VocabkitError, match="can't cut a text"):
        count_tokens(vocabulary, [tmp_path / "a.txt"])
