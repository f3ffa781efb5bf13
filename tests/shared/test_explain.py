"""explain: why a token is shared, or why not."""

from __future__ import annotations

import pytest
from index_map_files import refusal, small

from vocabkit.shared.explain import Hint, Lookalike, explain, parse_token
from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary


@pytest.fixture(scope="module")
def three() -> list[Vocabulary]:
    return [resolve(name).vocabulary for name in ("qwen2", "llama3", "gemma3")]


def test_shared_token_has_id_in_each_tokenizer(three: list[Vocabulary]) -> None:
    found = explain(b" the", three)
    assert found.shared
    assert [(finding.name, finding.id, finding.kind) for finding in found.findings] == [
        ("qwen2", 279, "text"),
        ("llama3", 279, "text"),
        ("gemma3", 506, "text"),
    ]
    assert found.reason.startswith("shared:")
    assert found.hints == ()
    assert all(finding.pieces is None for finding in found.findings)


def test_token_that_one_tokenizer_cuts_is_shown_with_its_pieces(three: list[Vocabulary]) -> None:
    found = explain(b"201", three)
    qwen, llama, _ = found.findings
    assert not found.shared
    assert llama.id is not None
    assert qwen.pieces is not None
    assert [piece.token for piece in qwen.pieces] == [b"2", b"0", b"1"]
    assert "qwen2 needs 3 tokens" in found.reason
    assert "llama3" not in found.reason


def test_alias_is_told_apart_from_canonical_id(three: list[Vocabulary]) -> None:
    gemma = three[2]
    canonical, aliases = next(iter(gemma.aliases().items()))
    for token_id in (canonical, *aliases):
        token = gemma.token(token_id)
        assert token is not None
        finding = explain(token, [gemma]).findings[0]
        assert (finding.id, finding.aliases) == (canonical, tuple(aliases))


def test_special_token_of_same_spelling_never_matches() -> None:
    text = small([b"<s>", b"a"], name="text")
    special = small([b"a", b"<s>"], [Kind.TEXT, Kind.SPECIAL], name="special", roles={"bos": 1})
    found = explain(b"<s>", [text, special])
    assert not found.shared
    assert found.findings[0].id == 0
    assert (found.findings[1].id, found.findings[1].lookalikes) == (None, (Lookalike(1, "special", ("bos",)),))
    assert found.reason == (
        "not shared: special has this spelling only as id 1, which is special (role bos) and no text"
    )


def test_all_roles_of_special_token_are_shown() -> None:
    text = small([b"<s>", b"a"], name="text")
    special = small([b"a", b"<s>"], [Kind.TEXT, Kind.SPECIAL], name="special", roles={"bos": 1, "eos": 1})
    assert "(roles bos, eos)" in explain(b"<s>", [text, special]).reason


def test_token_of_another_type_raises(three: list[Vocabulary]) -> None:
    with pytest.raises(TypeError, match="`token` is int; expected bytes or str"):
        explain(279, three)  # type: ignore[arg-type]


def test_special_token_is_named_even_if_nobody_has_text() -> None:
    special = small([b"a", b"<s>"], [Kind.TEXT, Kind.UNUSED], name="special")
    assert explain(b"<s>", [special, small([b"b"])]).reason == (
        "not shared: special has this spelling only as id 1, which is unused and no text; small has no token for it, "
        "and test does not say how it cuts text"
    )


def test_unknown_bytes_are_not_shared() -> None:
    found = explain(b"zz", [small([b"a"], name="a"), small([b"b"], name="b")])
    assert found.reason == "not shared: none of the tokenizers has one token for these bytes"
    assert [finding.pieces for finding in found.findings] == [None, None]


def test_partial_utf8_is_explained_like_any_token(three: list[Vocabulary]) -> None:
    found = explain(b"\xc4\xa0\xff", three)
    assert not found.shared
    for finding in found.findings:
        assert finding.pieces is not None
        assert b"".join(piece.token for piece in finding.pieces) == b"\xc4\xa0\xff"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("the", Hint("with a space before it", b" the", ("a",))),
        (" then", Hint("without the space before it", b"then", ("b",))),
        ("▁the", Hint("with ▁ read as a space", b" the", ("a",))),
        ("Ġthe", Hint("read as a byte-level spelling", b" the", ("a",))),
        ("Ã©", Hint("read as a byte-level spelling", "é".encode(), ("a", "b"))),
    ],
)
def test_other_existing_readings_are_hinted_at(typed: str, hint: Hint) -> None:
    a, b = small([b" the", "é".encode()], name="a"), small(["é".encode(), b"then"], name="b")
    assert hint in explain(typed.encode(), [a, b]).hints


def test_hints_name_only_existing_tokens() -> None:
    special = small([b"a", b" <s>"], [Kind.TEXT, Kind.SPECIAL], name="special")
    for typed in (b"<s>", b"zz", b"\xe2\x96", b"\xff", "▁".encode()):
        assert explain(typed, [special, small([b"b"])]).hints == ()


def test_one_tokenizer_has_the_token_or_needs_several() -> None:
    one = small([b"the"], name="one")
    assert explain("the", [one]).reason == "one has one token of exactly these bytes"
    assert explain("then", [one]).reason.startswith("one has no token for it")


# ---- what people type --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "token"),
    [
        ("the", b"the"),
        (" the", b" the"),
        ("é", "é".encode()),
        (r"\x0a", b"\n"),
        (r"\xe4", b"\xe4"),
        (r"\u00e4", "ä".encode()),
        (r"\U0001f600", "😀".encode()),
        (r"\n\t\r\\\'\"", b"\n\t\r\\'\""),
        (r"a\\x41", rb"a\x41"),
        (r"\q\x4", rb"\q\x4"),
        ("\udcff", b"\xff"),
        ("id:1", b"b"),
        ("id: 1", b"id: 1"),
        ("xid:1", b"xid:1"),
    ],
)
def test_token_is_text_with_escapes_or_id(typed: str, token: bytes) -> None:
    assert parse_token(typed, small([b"a", b"b"])) == token


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("", "an empty token"),
        ("\ud800", "not valid Unicode"),
        (r"\ud800", "not valid Unicode"),
        ("id:6", "small has no id '6'; its ids are 0 to 5"),
        ("id:" + "9" * 5000, "small has no id"),
        ("id:2", "id 2 is special ('<\\x1b>')"),
        ("id:3", "id 3 is unused ('<u>')"),
        ("id:4", "id 4 is empty"),
        ("id:5", "id 5 is empty"),
    ],
)
def test_invalid_token_raises_on_one_line(typed: str, says: str) -> None:
    kinds = [Kind.TEXT, Kind.TEXT, Kind.SPECIAL, Kind.UNUSED, Kind.TEXT, Kind.UNUSED]
    first = small([b"a", b"b", b"<\x1b>", b"<u>", b"", None], kinds)
    assert says in refusal(parse_token, typed, first)
