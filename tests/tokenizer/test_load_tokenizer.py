"""load_tokenizer gives one vocabulary however the tokenizer is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import vocabkit_here
from tokenizer_files import added_token, bpe_json, sentencepiece_model, write_json
from tokenizers import Tokenizer, pre_tokenizers
from vocabularies import text_vocabulary

from vocabkit import VocabkitError, align, explain, load_tokenizer, open_shared, overlap
from vocabkit.tokenizer.segmentation import to_tokenizers
from vocabkit.tokenizer.segmenter import Segmenter
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

CONTENT = bpe_json(
    {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġa": 4},
    added=[added_token(5, "<s>", special=True), added_token(6, "<pad>", special=True)],
)
CONTENT["model"]["merges"] = [["a", "b"], ["Ġ", "a"]]
CONTENT["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "letters"
    folder.mkdir()
    return write_json(folder / "tokenizer.json", CONTENT)


def test_path_string_object_and_vocabulary_agree(file: Path) -> None:
    expected = load_tokenizer(str(file))
    for same in (file, file.parent, f"mine={file}", Tokenizer.from_file(str(file)), expected):
        assert load_tokenizer(same).fingerprint == expected.fingerprint
    assert load_tokenizer(file).name == "letters"
    assert load_tokenizer(file, name="mine").name == load_tokenizer(f"mine={file}").name == "mine"


def test_live_tokenizer_cuts_text_like_its_file(file: Path) -> None:
    live, read = load_tokenizer(Tokenizer.from_file(str(file))), load_tokenizer(file)
    for text in ("ab ab", "a<s>b"):
        assert to_tokenizers(live).encode(text).ids == to_tokenizers(read).encode(text).ids
    assert Segmenter(live).ids(b" ab") == Segmenter(read).ids(b" ab")


def test_fast_transformers_tokenizer_brings_its_name_and_roles(file: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    live = transformers.PreTrainedTokenizerFast(tokenizer_file=str(file), pad_token="<pad>", name_or_path="owner/model")
    found = load_tokenizer(live)
    assert found.name == "model"
    assert found.roles == {"bos": 5, "pad": 6}
    assert found.tokens == load_tokenizer(file).tokens


def test_slow_tokenizer_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model([("a", 1), ("▁a", 1)]))

    class Slow:
        vocab_file = str(path)
        name_or_path = "owner/slow"

        def __init__(self, size: int) -> None:
            self.size = size

        def __len__(self) -> int:
            return self.size

    assert load_tokenizer(Slow(2)).fingerprint == load_tokenizer(path).fingerprint
    with pytest.raises(VocabkitError, match=r"has 3 tokens, but its file .* has 2; give the folder"):
        load_tokenizer(Slow(3))


def test_slow_tokenizer_with_own_numbers_has_the_ids_that_it_encodes_to(tmp_path: Path) -> None:
    """M2M100 numbers the pieces of its SentencePiece model by a vocab.json of its own."""
    transformers: Any = pytest.importorskip("transformers")
    model = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("▁", 1), ("a", 1), ("▁a", 1)]
    (tmp_path / "sentencepiece.bpe.model").write_bytes(sentencepiece_model(model, model_type=1))
    vocab = {piece: i for i, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", "a", "▁a", "▁", "<unused7>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    live = transformers.M2M100Tokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "sentencepiece.bpe.model"))
    vocabulary = load_tokenizer(live)
    assert [vocabulary.token(i) for i in live("a", add_special_tokens=False).input_ids] == [b" a"]
    assert {role: vocabulary.roles[role] for role in ("bos", "pad", "eos", "unk")} == {
        "bos": 0, "pad": 1, "eos": 2, "unk": 3}  # fmt: skip
    live.pad_token = "</s>"  # as SigLIP pads, although its model has a <pad>
    assert load_tokenizer(live).roles["pad"] == live.pad_token_id == 2
    assert vocabulary.kinds[:8].tolist() == [Kind.SPECIAL] * 4 + [Kind.TEXT] * 3 + [Kind.UNUSED]
    assert vocabulary.token(7) == b"<unused7>"


def test_special_tokens_that_backend_takes_for_text_are_special(file: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    live = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(file)))
    token_id = live.convert_tokens_to_ids("ab")
    assert load_tokenizer(live).kinds[token_id] == Kind.TEXT
    live.add_special_tokens({"additional_special_tokens": ["ab"]})
    assert load_tokenizer(live).kinds[token_id] == Kind.SPECIAL


def test_slow_tokenizer_with_spellings_of_its_own_is_refused_by_class(tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("<cls>\n<pad>\n<eos>\n<unk>\nL\nA\n<mask>", "utf-8")
    live = transformers.EsmTokenizer(str(tmp_path / "vocab.txt"))
    with pytest.raises(VocabkitError, match="EsmTokenizer: only its class knows how its tokens spell text"):
        load_tokenizer(live)


def test_missing_path_raises(tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match="not found; give a tokenizer file or a folder"):
        load_tokenizer(tmp_path / "none")


@pytest.mark.parametrize("wrong", [None, 7, b"smollm2", ["smollm2"], Tokenizer, {"a": 1}])
def test_other_type_raises_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="expected a name, a path, a Vocabulary, or a tokenizer"):
        load_tokenizer(wrong)


@pytest.mark.parametrize("wrong", ["smollm2", Path("x"), text_vocabulary("a", b"x"), 7])
def test_single_tokenizer_instead_of_list_raises_type_error(wrong: Any) -> None:
    for call in (align, overlap, lambda given: explain(b"a", given)):
        with pytest.raises(TypeError, match="expected a list of tokenizers"):
            call(wrong)


def test_tokenizer_with_python_steps_raises(file: Path) -> None:
    live = Tokenizer.from_str(json.dumps(CONTENT))
    live.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(object())
    with pytest.raises(VocabkitError, match="Tokenizer: can't be written"):
        load_tokenizer(live)


def test_align_overlap_and_explain_take_any_tokenizer(file: Path) -> None:
    others: list[Any] = [file, text_vocabulary("other", b"ab", b"c")]
    assert list(align(others)) == [b"ab"]
    assert overlap(others).shared_by_all == 1
    assert explain("ab", others).shared
    with pytest.raises(TypeError, match="`token` is int; expected bytes or str"):
        explain(7, others)  # type: ignore[arg-type]


def test_results_have_short_reprs(file: Path) -> None:
    others: list[Any] = [file, text_vocabulary("other", b"ab", b"c")]
    assert repr(load_tokenizer(file)) == "Vocabulary('letters', 7 ids)"
    assert repr(overlap(others)) == "Overlap(letters, other: 1 shared by all)"
    assert len(repr(explain("ab", others))) < 120
    assert isinstance(load_tokenizer(file), Vocabulary)


# ---- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a/models/tokenizer.json", "b/models/tokenizer.json"], ["a-models", "b-models"]),
        (["a/q/tokenizer.json", "b/q/tokenizer.json", "c/tokenizer.json"], ["a-q", "b-q", "c"]),
        (["a/x/y/m/tokenizer.json", "b/x/y/m/tokenizer.json"], ["a-x-y-m", "b-x-y-m"]),
        (["x/tokenizer.json", "own=a/x/tokenizer.json"], ["x", "own"]),
    ],
)
def test_files_of_one_name_are_called_after_folders_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], expected: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in (Path(each.removeprefix("own=")) for each in files):
        file.parent.mkdir(parents=True)
        write_json(file, bpe_json(["a", "b"]))
    assert align(files).names == expected
    assert [each.name for each in overlap(files).tokenizers] == expected
    assert [each.name for each in explain("a", files).findings] == expected
    assert vocabkit_here(tmp_path, "build-shared", *files, "--out", "shared.arrow").returncode == 0
    assert open_shared("shared.arrow").names == expected


def test_same_file_given_twice_raises(file: Path) -> None:
    with pytest.raises(VocabkitError, match="given twice"):
        align([file, file])


def test_ids_without_embedding_row_are_noted_and_never_shared(tmp_path: Path) -> None:
    for name, rows in (("small", 3), ("large", 9)):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "tokenizer.json", bpe_json(["a", "b", "c", "d"], added=[added_token(4, "<eos>")]))
        write_json(tmp_path / name / "config.json", {"text_config": {"vocab_size": rows, "eos_token_id": 4}})
        write_json(tmp_path / name / "tokenizer_config.json", {"eos_token": "<eos>"})
    small, large = load_tokenizer(tmp_path / "small"), load_tokenizer(tmp_path / "large")
    assert small.notes == ("2 ids have no row in the embedding table (3 rows) and are never shared",)
    assert not large.notes
    assert small.roles == large.roles == {"eos": 4}
    shared = align([small, large], special_roles=True)
    assert [bytes(token) for token in shared] == [b"a", b"b", b"c"]
    assert align([small, large], at_least=1, special_roles=True).roles == {"eos": 4}
    done = vocabkit_here(tmp_path, "build-shared", "small", "large")
    assert "small: 2 ids have no row in the embedding table" in done.stderr
