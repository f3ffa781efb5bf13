"""diff: which ids of a tokenizer mean something else in another version of it."""

from __future__ import annotations

from index_map_files import small

from vocabkit.shared.diff import ChangedId, Diff, diff
from vocabkit.tokenizer.vocabulary import Kind

TEXT, SPECIAL = Kind.TEXT, Kind.SPECIAL


def test_every_kind_of_change_is_listed() -> None:
    before = small([b"a", b"b", b"c", b"<s>", b"x", b"y"], [TEXT, TEXT, TEXT, SPECIAL, TEXT, TEXT], roles={"bos": 3})
    after = small(
        [b"a", b"B", b"c", b"<s>", None], [TEXT, TEXT, SPECIAL, SPECIAL, Kind.UNUSED], roles={"bos": 3, "eos": 2}
    )
    assert diff(before, after) == Diff(
        before=before.name,
        after=after.name,
        size_before=6,
        size_after=5,
        equal_below=1,
        added=(),
        removed=(ChangedId(4, b"x", None, "text", None), ChangedId(5, b"y", None, "text", None)),
        renamed=(ChangedId(1, b"b", b"B", "text", "text"),),
        reflagged=(ChangedId(2, b"c", b"c", "text", "special"),),
        roles={"eos": (None, 2)},
    )


def test_further_ids_are_added_and_equal_ones_below_counted() -> None:
    found = diff(small([b"a", b"b"]), small([b"a", b"b", b"c"]))
    assert found.added == (ChangedId(2, None, b"c", None, "text"),)
    assert (found.removed, found.renamed, found.reflagged, found.roles) == ((), (), (), {})
    assert found.equal_below == 2
    same = diff(small([b"a", b"b"]), small([b"a", b"b"]))
    assert (same.equal_below, same.added) == (2, ())


def test_id_that_became_an_alias_is_not_equal() -> None:
    assert diff(small([b"x", b"a", b"b"]), small([b"a", b"a", b"b"])).equal_below == 0
    after = small([b"a", b"a", b"b"])
    assert diff(small([b"a", b"a", b"b"]), after).equal_below == 3
