"""Text and tokens of other vocabularies are cut as the publishers' own libraries cut them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from publishers import Publisher, publisher, tekken
from tokenizer_files import (
    BYTE_LEVEL,
    BYTE_PIECES,
    CONTROL,
    NORMAL,
    REAL,
    UNKNOWN,
    USER_DEFINED,
    added_token,
    alphabet_spelling,
    bpe_json,
    charsmap,
    every,
    gguf_file,
    gguf_tokenizer,
    read_json_tokenizer,
    real,
    sentencepiece_model,
    tekken_json,
    wordpiece_json,
    write_json,
)
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel

from vocabkit.errors import VocabkitError
from vocabkit.tokenizer.catalog import catalog, resolve
from vocabkit.tokenizer.read import read
from vocabkit.tokenizer.segmentation import load_rules, to_tokenizers
from vocabkit.tokenizer.segmenter import Segmenter
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

pytestmark = pytest.mark.usefixtures("sources")

RANK_FILES = {"qwen", "llama3", "llama4"}
"""Files of `REAL` that do not say how text is cut; the catalog's snapshots of them do."""
SNAPSHOTS = sorted({entry.snapshot for entry in catalog().values()})
CASES = [*((name, "file") for name in REAL if name not in RANK_FILES), *((name, "snapshot") for name in SNAPSHOTS)]

TEXTS = [
    "The quick brown fox can't jump over 13 lazy dogs; it's 1,234,567.89 o'clock, THEY'LL say 'twas I'M.",
    "Größe Straße naïve café façade ÀÉÎÕÜ œuvre İstanbul ſhip",
    "Ελληνικό κείμενο, Русский текст с ёлкой, ґанок, Հայերեն, ქართული",
    "עברית עִם נִקּוּד, العربية مع تَشْكِيل, فارسی می‌خواهم, اردو",
    "हिन्दी क्षत्रिय, বাংলা ভাষা, தமிழ் மொழி, తెలుగు, ಕನ್ನಡ, മലയാളം, ภาษาไทย, ລາວ, မြန်မာ, ខ្មែរ, བོད་ཡིག",
    "中文简体字,繁體中文。日本語のテキスト、カタカナとひらがな!한국어 텍스트입니다 ㄱㄴㄷ",
    "አማርኛ ᏣᎳᎩ ᐃᓄᒃᑎᑐᑦ ߒߞߏ ꦗꦮ 𐍈𐌰 𝕳𝖊𝖑𝖑𝖔 ⠓⠑⠇⠇⠕",
    "0 12 345 6789 ٠١٢٣ १२३ ½ ² Ⅷ 1e-9 0xFF 3.14159",
    "😀👍🏽👩‍👩‍👧‍👦🇩🇪🏴󠁧󠁢󠁥󠁮󠁧󠁿☃️⚡ ❤️‍🔥 emoji",
    "runs  of   spaces    and     more      \t\ttabs\t\t\t\n\n\nlines\r\n\r\n  indented\n    code",
    "\n\t\tmixed \n \n end   ",
    'def f(x: int) -> str:\n    return f"{x!r:>10}" if x >= 0 else None  # comment\n\n\nclass A:\n\tpass\n',
    '<div class="a">&nbsp;</div> <h1>T</h1> https://example.org/a?b=c&d=%20#e user@example.com C:\\path\\file.txt',
    "======== ---------- ________ ........ !!!!!! ???? ######## ****** ////// \\\\\\\\ ``` ~~~ ((())) [[[]]] {{{}}}",
    "aaaaaaaaaaaaaaaaaaaaaaaa hahahahahahaha ababababababab nananananananana xxxxxxxxxxxxxxxx      ",
    "e\u0301 n\u0303 a\u030a \u00a0nbsp\u2003em\u200bzw\u200d\ufeffbom\u3000wide \u0085 \u2028 \u2029 soft\u00adhyphen",
    "\x00\x01\x02 control \x7f \x1b[31m <0x41> <unk> </s> <s> [INST] <|im_start|> <|eot_id|> <bos> <unused5> [UNK]",
    "", " ", "   ", "\n", "a", " a", "a ", "  a  b  ", "\n\na", "\ta",
]  # fmt: skip


@cache
def vocabulary_of(name: str, place: str) -> Vocabulary:
    """A vocabulary of the publishers' files or of the catalog."""
    return real(name) if place == "file" else resolve(name).vocabulary


@cache
def tokens_of_all() -> list[bytes]:
    """Some text tokens of each vocabulary: a fixed choice."""
    chosen: list[bytes] = []
    for name, place in CASES:
        vocabulary = vocabulary_of(name, place)
        texts = [token for token, kind in zip(vocabulary.tokens.to_pylist(), vocabulary.kinds, strict=True) if not kind]
        chosen += random.Random(name).sample(sorted(filter(None, texts)), 200)
    return chosen


@dataclass(frozen=True)
class Case:
    """One real tokenizer, ours and the publisher's."""

    vocabulary: Vocabulary
    tokenizer: Tokenizer
    library: Publisher
    cut: list[list[int] | None]
    """Our ids of each of `tokens_of_all`."""


@pytest.fixture(scope="module", params=[every(*case) for case in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    name, place = request.param
    vocabulary = vocabulary_of(name, place)
    cut = Segmenter(vocabulary).ids_of_each(tokens_of_all())
    return Case(vocabulary, to_tokenizers(vocabulary), publisher(name), cut)


# ---- whole texts -------------------------------------------------------------------------------------------------


def test_text_is_cut_as_by_publishers_library(case: Case) -> None:
    for text in TEXTS:
        assert case.tokenizer.encode(text, add_special_tokens=False).ids == case.library.encode(text), text


@pytest.mark.parametrize("name", sorted(RANK_FILES))
def test_bare_rank_file_has_no_rules(name: str) -> None:
    for load in (to_tokenizers, Segmenter):
        with pytest.raises(VocabkitError, match="does not say how text is cut into tokens; use its tokenizer"):
            load(real(name))


def test_added_text_token_is_encoded_from_text() -> None:
    vocabulary = resolve("qwen3").vocabulary
    expected = vocabulary.tokens.to_pylist().index(b"<tool_call>")
    ids = to_tokenizers(vocabulary).encode("a<tool_call>b").ids
    assert expected in ids
    assert Segmenter(vocabulary).ids(b"a<tool_call>b") == ids


def test_text_spelling_special_token_is_cut_as_text(case: Case) -> None:
    vocabulary = case.vocabulary
    special = [token.decode() for token in vocabulary.tokens.filter(vocabulary.kinds == Kind.SPECIAL).to_pylist()]
    ids = case.tokenizer.encode(" ".join(special), add_special_tokens=False).ids
    unknown = vocabulary.roles.get("unk")
    assert {i for i in ids if vocabulary.kinds[i] > Kind.BYTE} <= {unknown}


# ---- single tokens -----------------------------------------------------------------------------------------------


def test_token_is_cut_as_library_cuts_it_inside_text(case: Case) -> None:
    vocabulary, library = case.vocabulary, case.library
    values, tokens = tokens_of_all(), vocabulary.tokens.to_pylist()
    # of ways to cut that are equally probable, each library takes another
    same = sorted if isinstance(case.tokenizer.model, models.Unigram) else list
    for value, found in zip(values, case.cut, strict=True):
        try:
            expected = library.encode_inside(value.decode())
        except UnicodeDecodeError:
            if library.encode_bytes is None:
                continue
            expected = library.encode_bytes(value)
        joins = b"".join(tokens[i] for i in expected) == value
        assert (found and same(found)) == (same(expected) if joins else None), value


def test_pieces_of_token_join_to_its_bytes(case: Case) -> None:
    vocabulary = case.vocabulary
    tokens = vocabulary.tokens.to_pylist()
    for value, ids in zip(tokens_of_all(), case.cut, strict=True):
        if ids is not None:
            assert b"".join(tokens[i] for i in ids) == value
            assert all(vocabulary.kinds[i] <= Kind.BYTE for i in ids)


WHOLE = {"llama3", "mistral-v1", "mistral-tekken"}
"""One vocabulary of each kind that can spell any bytes."""


@pytest.mark.parametrize("name", sorted(WHOLE))
@given(value=st.binary(max_size=24) | st.text(max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(deadline=None, max_examples=80)
def test_any_bytes_are_cut_into_tokens_that_join_to_them(name: str, value: bytes) -> None:
    vocabulary = resolve(name).vocabulary
    ids = segmenter(name).ids(value)
    if ids is None:
        # SentencePiece has no other way to write its own mark for a space
        assert name == "mistral-v1"
        assert "▁".encode() in value
    else:
        assert b"".join(vocabulary.tokens[i].as_py() for i in ids) == value


@cache
def segmenter(name: str) -> Segmenter:
    """The segmenter of a snapshot, built once."""
    return Segmenter(resolve(name).vocabulary)


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_one_value_is_cut_alone_as_it_is_among_others(name: str) -> None:
    values = tokens_of_all()[::40]
    assert [segmenter(name).ids(value) for value in values] == segmenter(name).ids_of_each(values)


@pytest.mark.parametrize("name", ["smollm2", "mistral-v1"])
def test_long_text_is_cut_in_little_memory_and_time(name: str) -> None:
    """Its pieces are looked up to the length of the longest token, not of the text."""
    value = "\n".join(TEXTS).encode() * 20
    ids = segmenter(name).ids(value)
    assert ids == to_tokenizers(resolve(name).vocabulary, mid_text=True).encode(value.decode()).ids


def test_partial_utf_8_becomes_byte_pieces_between_cut_text() -> None:
    vocabulary = resolve("mistral-v1").vocabulary
    tokens = vocabulary.tokens.to_pylist()
    ids = segmenter("mistral-v1").ids(b" the\xe4\xb8 world\xff")
    assert ids is not None
    assert [tokens[i] for i in ids] == [b" the", b"\xe4", b"\xb8", b" world", b"\xff"]
    assert [vocabulary.kinds[i] for i in ids if tokens[i] in (b"\xe4", b"\xb8", b"\xff")] == [Kind.BYTE] * 3


def test_unencodable_bytes_are_none() -> None:
    assert Segmenter(real("botchan-bpe")).ids("猫".encode()) is None
    assert Segmenter(real("botchan-bpe")).ids(b"\xff") is None
    assert Segmenter(real("minilm")).ids(b"Upper case") is None
    assert Segmenter(real("minilm")).ids(b"\xff") is None
    assert segmenter("qwen2").ids("e\u0301".encode()) is None  # composed by its normalizer
    assert segmenter("mistral-v1").ids("▁".encode()) is None
    assert segmenter("smollm2").ids(b"\xf1") is None  # it has no token for some bytes


def test_empty_bytes_have_no_pieces() -> None:
    assert segmenter("smollm2").ids(b"") == []


def test_words_own_space_is_kept_and_none_is_added() -> None:
    for name in ("mistral-v1", "gemma3", "llama3"):
        vocabulary = resolve(name).vocabulary
        for value in (b" the", b"the"):
            ids = segmenter(name).ids(value)
            assert ids is not None
            assert [vocabulary.token(i) for i in ids] == [value]
    wordpiece = Segmenter(real("minilm"))
    assert wordpiece.ids(b" the") is not None
    assert wordpiece.ids(b"the") is None  # a bare word brings its space


# ---- small tokenizers --------------------------------------------------------------------------------------------

LETTERS = [alphabet_spelling(bytes([byte])) for byte in range(256)]


def test_sentencepiece_symbols_of_user_come_first_and_no_space_is_put_after_them(tmp_path: Path) -> None:
    pieces = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("<x>", USER_DEFINED), ("▁▁", USER_DEFINED)]
    pieces += [("▁", NORMAL), ("a", NORMAL), ("▁a", NORMAL), *BYTE_PIECES]
    # without a trimmed text: remove_extra_whitespaces off
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(pieces, normalizer=[(3, 1), (4, 0)]))
    vocabulary = read(tmp_path / "tokenizer.model")
    tokenizer = to_tokenizers(vocabulary)
    assert tokenizer.encode("a<x>a").tokens == ["▁a", "<x>", "a"]
    assert tokenizer.encode("a  a").tokens == ["▁a", "▁▁", "a"]
    assert Segmenter(vocabulary).ids(b"<x>a  a") == [2, 5, 3, 5]


def test_piece_spelled_like_special_token_is_cut_as_by_publishers_library(tmp_path: Path) -> None:
    letters = [bytes([byte]) for byte in range(256)]
    path = write_json(tmp_path / "tekken.json", tekken_json([*letters, b"<s", b"<s>", b"<s>a"]))
    tokenizer, library = to_tokenizers(read(path)), tekken(path)
    for text in ("a<s>", "<s>", "<s>a</s>"):
        assert tokenizer.encode(text).ids == library.encode(text)


def test_added_text_token_of_byte_level_gguf_is_cut_out_of_text_that_it_spells(tmp_path: Path) -> None:
    """The converter writes it literally, not in the byte alphabet."""
    pieces = [*((letter, NORMAL) for letter in LETTERS), ("é b", USER_DEFINED)]
    (tmp_path / "model.gguf").write_bytes(gguf_file(gguf_tokenizer(pieces, "gpt2", pre="gpt-2", merges=["a a"])))
    content = bpe_json(LETTERS, added=[added_token(256, "é b")]) | {"pre_tokenizer": BYTE_LEVEL}
    library = Tokenizer.from_file(str(write_json(tmp_path / "tokenizer.json", content)))
    found = to_tokenizers(read(tmp_path / "model.gguf")).encode("aé bé")
    assert found.ids == library.encode("aé bé").ids == [ord("a"), 256, *"é".encode()]


def test_gguf_without_scores_has_no_rules(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_file(gguf_tokenizer([("a", NORMAL), *BYTE_PIECES])))
    assert load_rules(read(path)) is None


def test_tokenizer_json_is_used_without_its_post_processor(tmp_path: Path) -> None:
    content = bpe_json(LETTERS, added=[added_token(256, "<s>", special=True)])
    template = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    content |= {
        "pre_tokenizer": BYTE_LEVEL,
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": template,
            "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}},
        },
    }
    vocabulary = read_json_tokenizer(tmp_path, content)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("abc").tokens == ["<s>", "a"]
    assert to_tokenizers(vocabulary).encode("abc").tokens == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("part", "step"),
    [
        ("pre_tokenizer", {**BYTE_LEVEL, "add_prefix_space": True}),
        ("normalizer", {"type": "Prepend", "prepend": " "}),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": " "}]}),
    ],
)
def test_no_space_is_put_before_text_inside_another(part: str, step: dict[str, Any], tmp_path: Path) -> None:
    vocabulary = read_json_tokenizer(tmp_path, {**bpe_json(LETTERS), "pre_tokenizer": BYTE_LEVEL, part: step})
    assert to_tokenizers(vocabulary).encode("a").tokens == ["Ġ", "a"]
    assert to_tokenizers(vocabulary, mid_text=True).encode("a").tokens == ["a"]
    assert Segmenter(vocabulary).ids(b"a") == [ord("a")]


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = write_json(tmp_path / "tokenizer.json", {**bpe_json(LETTERS), "pre_tokenizer": BYTE_LEVEL})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Segmenter(read(path)).ids(b"a") == [ord("a")]
    assert load_rules(read(path)) is not None


# ---- bad input ---------------------------------------------------------------------------------------------------


def one_line(call: Any) -> str:
    """The message of the VocabkitError that `call` raises."""
    with pytest.raises(VocabkitError) as error:
        call()
    assert str(error.value).isprintable()
    return str(error.value)


def test_missing_source_raises_on_one_line(tmp_path: Path) -> None:
    vocabulary = read_json_tokenizer(tmp_path, bpe_json(LETTERS))
    (tmp_path / "tokenizer.json").unlink()
    for use in (to_tokenizers, load_rules, Segmenter):
        assert "tokenizer.json: no such file" in one_line(lambda use=use: use(vocabulary))


@pytest.mark.parametrize(
    "changes",
    [
        {"pre_tokenizer": {"type": "Unknown"}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "!"}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}},
        {"model": bpe_json(["a"], merges=[["a", "a"]], continuing_subword_prefix="##")["model"]},
        {"model": bpe_json(["a", "b", "ab"], merges=["a b c"])["model"]},
        {"version": "9"},
    ],
)
def test_rejected_tokenizer_json_raises_on_one_line(
    changes: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    vocabulary = read_json_tokenizer(tmp_path, {**bpe_json(["a"]), **changes})
    assert vocabulary.source in one_line(lambda: to_tokenizers(vocabulary, mid_text=True))
    assert not capfd.readouterr().err, "a panic of `tokenizers` is printed, even if it is caught"


def test_bpe_whose_pieces_inside_words_are_marked_is_cut_as_in_the_library(tmp_path: Path) -> None:
    content = bpe_json(["a", "##b", "ab"], merges=[["a", "##b"]], continuing_subword_prefix="##")
    vocabulary = read_json_tokenizer(tmp_path, content)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert to_tokenizers(vocabulary).encode("ab").ids == library.encode("ab").ids == [2]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"type": "BPE", "vocab": {"a": 0, "ab": 1}, "merges": ["a b"]}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": 7}},
    ],
)
def test_contradictory_rules_raise_on_one_line(changes: dict[str, Any], tmp_path: Path) -> None:
    vocabulary = read_json_tokenizer(tmp_path, {**bpe_json(["a"]), **changes})
    assert "damaged rules for cutting text" in one_line(lambda: load_rules(vocabulary))


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("gpt2", {"pre": "smollm", "merges": ["a b"]}),
        ("gpt2", {"pre": "smollm", "merges": ["a"]}),
        ("gpt2", {"pre": "smollm", "merges": 3}),
        ("llama", {"scores": [1]}),
        ("llama", {"scores": "high"}),
        ("t5", {"scores": [-1, -2, -3], "precompiled_charsmap": "text"}),
    ],
)
def test_gguf_with_wrong_rules_raises_on_one_line(model: str, changes: dict[str, Any], tmp_path: Path) -> None:
    pieces = [("a", NORMAL), ("c", NORMAL), ("<unk>", UNKNOWN)]
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_file(gguf_tokenizer(pieces, model, **changes)))
    vocabulary = read(path)
    assert len(vocabulary) == 3
    assert "model.gguf" in one_line(lambda: to_tokenizers(vocabulary))
    assert "model.gguf" in one_line(lambda: Segmenter(vocabulary).ids(b"a"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xff\xff\xff", "a trie of 4294967295 bytes"),
        (charsmap()[:-3], "a trie of 1024 bytes"),
        (b"\0\0\0\0a\0", "a trie of 0 bytes"),
        (charsmap((1 << 22) - 1 << 10), "leads out of itself"),
        (charsmap(1 << 10 | 0x100, 1 << 31 | 99), "leads to no text"),
    ],
)
def test_damaged_character_map_raises_on_one_line(content: bytes, reason: str, tmp_path: Path) -> None:
    """`tokenizers` would read beyond its end, or panic."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model([("<unk>", UNKNOWN), ("a", NORMAL)], normalizer=[(2, content)]))
    assert reason in one_line(lambda: to_tokenizers(read(path)))


@pytest.mark.parametrize("name", ["unknown", "", 7])
def test_gguf_with_unknown_pre_tokenizer_has_no_rules(name: str | int, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_file(gguf_tokenizer([("a", NORMAL)], "gpt2", pre=name, merges=["a a"])))
    assert "does not say how text is cut" in one_line(lambda: to_tokenizers(read(path)))


def test_wordpiece_is_cut_by_its_tokenizer_json_but_has_no_rules(tmp_path: Path) -> None:
    content = wordpiece_json(["[UNK]", "a", "##b"])
    vocabulary = read_json_tokenizer(tmp_path, {**content, "pre_tokenizer": {"type": "Whitespace"}})
    assert load_rules(vocabulary) is None
    assert Segmenter(vocabulary).ids(b" ab") == [1, 2]


# ---- a tokenizer of the pieces of a few values ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"added_tokens": [added_token(300, "ab"), added_token(301, "<x>", special=True)]},
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "Digits", "individual_digits": True}},
    ],
    ids=["plain", "added", "normalised", "words"],
)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_few_values_are_cut_as_by_the_whole_tokenizer(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any], data: st.DataObject
) -> None:
    pieces = [*sorted(ByteLevel.alphabet()), "ab", "aba", "Ġa", "Ġab", "ba", "Ã¤", "1a", "aÃ¤"]
    content = bpe_json(pieces) | {"pre_tokenizer": BYTE_LEVEL} | changes
    if changes.get("pre_tokenizer"):
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [changes["pre_tokenizer"], BYTE_LEVEL]}
    content["model"]["merges"] = ["a b", "ab a", "Ġ a", "Ġ ab", "b a", "Ã ¤", "1 a", "a Ã¤"]
    vocabulary = read_json_tokenizer(tmp_path_factory.mktemp("json"), content)
    values = data.draw(st.lists(few_values, min_size=1, max_size=5))
    assert_cut_as_by_the_whole(vocabulary, values)


@pytest.mark.parametrize("name", ["deepseek", "minilm"])
def test_few_values_of_a_real_file_are_cut_as_by_the_whole_tokenizer(name: str) -> None:
    chosen = random.Random(0)
    tokens = [token for token in real("deepseek").tokens.to_pylist() if token]
    values = [chosen.choice(tokens) + chosen.choice(tokens) for _ in range(100)]
    assert_cut_as_by_the_whole(real(name), [*values, *(chosen.randbytes(4) for _ in range(50))])


few_values = st.text("ab1 ä\u0308<x>", min_size=1, max_size=8).map(str.encode) | st.binary(min_size=1, max_size=4)


def assert_cut_as_by_the_whole(vocabulary: Vocabulary, values: list[bytes]) -> None:
    found = Segmenter(vocabulary).ids_of_each(values)
    assert found == Segmenter(vocabulary).ids_of_each([*values, *[b"a"] * 200])[: len(values)]


@pytest.mark.parametrize("pattern", ["(a+)+", "((ab)+)+", "((a+))+", "(((a*)b))*", "((?:a|b+)c){2,}"])
def test_pattern_with_repeat_of_repeat_raises(pattern: str, tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    vocabulary = read_json_tokenizer(tmp_path, bpe_json(["a"]) | {"pre_tokenizer": split})
    with pytest.raises(VocabkitError, match="repeats a repeat"):
        to_tokenizers(vocabulary)


@pytest.mark.parametrize("pattern", ["(ab)+", "(a+)b", "((a)b)+", "(a|b)+(c+)", "[(+]+(a)", r"(\(\+)*", "(?i:a+)b"])
def test_pattern_that_repeats_once_cuts_as_in_the_library(pattern: str, tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    pieces = sorted(ByteLevel.alphabet())
    content = bpe_json(pieces) | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, BYTE_LEVEL]}}
    tokenizer = to_tokenizers(read_json_tokenizer(tmp_path, content))
    words = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).pre_tokenizer.pre_tokenize_str("aabab(+abcc")
    assert tokenizer.pre_tokenizer.pre_tokenize_str("aabab(+abcc") == words
