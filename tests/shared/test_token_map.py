"""The map of all ids from one tokenizer to another."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from tokenizer_files import bpe_json, write_json

from vocabkit.errors import VocabkitError
from vocabkit.shared.audit import audit, read_translation
from vocabkit.shared.explain import explain
from vocabkit.shared.token_map import MATCHES, token_map
from vocabkit.tokenizer.read import read
from vocabkit.tokenizer.vocabulary import Vocabulary


@pytest.fixture
def source(tmp_path: Path) -> Vocabulary:
    pieces = ["h", "e", "y", "he", "hey", "Ġhe", "Ġhey"]
    (tmp_path / "source").mkdir()
    write_json(tmp_path / "source" / "tokenizer.json", bpe_json(pieces))
    return read(tmp_path / "source")


def test_vocab_txt_cuts_tokens_as_tokenizer_json_of_same_model(tmp_path: Path, source: Vocabulary) -> None:
    pieces = ["[UNK]", "[CLS]", "h", "##ey", "y"]
    (tmp_path / "txt").mkdir()
    (tmp_path / "txt" / "vocab.txt").write_text("\n".join(pieces), "utf-8")
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    content = bpe_json(pieces, {"type": "WordPiece", "prefix": "##", "cleanup": True}, **model)
    del content["model"]["merges"]
    content["model"]["max_input_chars_per_word"] = 100
    content |= {"pre_tokenizer": {"type": "BertPreTokenizer"}}
    (tmp_path / "json").mkdir()
    write_json(tmp_path / "json" / "tokenizer.json", content)
    by_txt, by_json = (token_map(source, read(tmp_path / each)) for each in ("txt", "json"))
    assert by_txt.target_ids == by_json.target_ids
    assert by_txt.target_ids[source.tokens.to_pylist().index(b" hey")] == (2, 3)
    assert by_txt.note is None


def test_target_that_does_not_say_how_it_cuts_is_named(tmp_path: Path, source: Vocabulary) -> None:
    (tmp_path / "bare.tiktoken").write_text("aA== 0\nZQ== 1\neQ== 2\n", "utf-8")
    target = read(tmp_path / "bare.tiktoken")
    found = token_map(source, target)
    assert found.counts() == {"token": 3, "role": 0, "pieces": 0, "none": 4}
    assert found.to_arrow().schema.types == [pa.int32(), pa.string(), pa.list_(pa.int32())]
    assert found.note == (
        "bare.tiktoken of bare does not say how text is cut, so 4 ids have no pieces; give its tokenizer.json for them"
    )
    reason = explain("hey", [source, target]).reason
    assert reason == "not shared: bare has no token for it, and bare.tiktoken does not say how it cuts text"


def test_own_map_is_audited(tmp_path: Path, source: Vocabulary) -> None:
    token_map(source, source).save(tmp_path / "map.json")
    pairs = read_translation(tmp_path / "map.json", source)
    assert pairs.tolist() == [[i, i] for i in range(7)]
    assert audit(pairs, source, source).wrong == 0
    rows = [{"id": "x", "match": "token", "target_ids": [1]}, {"id": 5, "match": "token", "target_ids": [2]}]
    (tmp_path / "other.json").write_text(json.dumps({"map": rows}), "utf-8")
    assert read_translation(tmp_path / "other.json", source).tolist() == [[5, 2]]
    content = {"source": "a", "target": "b", "map": [{"id": 0, "match": MATCHES[0]}]}
    (tmp_path / "broken.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(VocabkitError, match="not a token map as `vocabkit map` writes it"):
        read_translation(tmp_path / "broken.json", source)
