"""EmbeddingTable.rows: any ids in any order, and only ids that mean something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from table_files import NAME, random_table, safetensors_folder
from tiny_models import assert_same_bits

from vocabkit.errors import VocabkitError
from vocabkit.llm.embeddings import EmbeddingTable, open_embeddings
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary, make_vocabulary

WEIGHT = random_table()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingTable:
    """Of 50 rows."""
    return open_embeddings(safetensors_folder(tmp_path_factory.mktemp("model"), {NAME: WEIGHT}))


def vocabulary(count: int, unused: tuple[int, ...] = ()) -> Vocabulary:
    """`count` tokens, some of them reserved."""
    kinds = np.zeros(count, np.uint8)
    kinds[list(unused)] = Kind.UNUSED
    tokens = [f"t{i}".encode() for i in range(count)]
    return make_vocabulary(name="small", source="test", tokens=tokens, kinds=kinds)


@given(ids=st.lists(st.integers(0, 49), max_size=80))
@settings(deadline=None, max_examples=60)
def test_rows_follow_the_order_and_repetition_of_ids(table: EmbeddingTable, ids: list[int]) -> None:
    assert_same_bits(table.rows(np.array(ids, np.int32)), WEIGHT[torch.tensor(ids, dtype=torch.long)])


@pytest.mark.parametrize(
    "ids", [np.array([3, 1], np.int64), np.array([3, 1], np.uint16), torch.tensor([3, 1]), [3, 1]], ids=str
)
def test_ids_may_be_numpy_torch_or_a_list(table: EmbeddingTable, ids: object) -> None:
    assert_same_bits(table.rows(ids), WEIGHT[[3, 1]])  # type: ignore[arg-type]


def test_no_ids_give_no_rows(table: EmbeddingTable) -> None:
    assert table.rows([]).shape == (0, 8)


def test_rows_beyond_one_chunk_are_complete(tmp_path: Path) -> None:
    weight = random_table(3000, 1024, torch.bfloat16)
    table = open_embeddings(safetensors_folder(tmp_path, {NAME: weight}))
    ids = torch.randperm(3000, generator=torch.Generator().manual_seed(1)).repeat(2)
    assert_same_bits(table.rows(ids), weight[ids])


def test_rows_are_a_copy(table: EmbeddingTable) -> None:
    table.rows([7]).zero_()
    assert_same_bits(table.rows([7]), WEIGHT[[7]])


@pytest.mark.parametrize("ids", [np.array([0.0, 1.0]), np.array([True]), np.array([[1]]), np.array(1), np.array(["1"])])
def test_ids_of_another_shape_or_dtype_raise(table: EmbeddingTable, ids: np.ndarray) -> None:
    with pytest.raises(VocabkitError, match=r"expected integers \(R,\)"):
        table.rows(ids)


@pytest.mark.parametrize("wrong", [50, -1, 2**40])
def test_id_outside_the_rows_raises(table: EmbeddingTable, wrong: int) -> None:
    with pytest.raises(VocabkitError, match=rf"token id {wrong} is outside its 50 rows"):
        table.rows(np.array([3, wrong, 4]))


def test_padding_row_raises_given_the_vocabulary(table: EmbeddingTable) -> None:
    assert table.rows([44], tokens=vocabulary(45)).shape == (1, 8)
    with pytest.raises(VocabkitError, match=r"row 45 is padding: small has only 45 tokens"):
        table.rows([1, 45, 49], tokens=vocabulary(45))


def test_reserved_id_raises_given_the_vocabulary(table: EmbeddingTable) -> None:
    with pytest.raises(VocabkitError, match="id 9 is not a token of small"):
        table.rows([1, 9], tokens=vocabulary(45, unused=(9,)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_nonfinite_row_raises(dtype: torch.dtype, value: float, tmp_path: Path) -> None:
    weight = random_table(dtype=dtype)
    weight[31, 2] = value
    table = open_embeddings(safetensors_folder(tmp_path, {NAME: weight}))
    assert_same_bits(table.rows([30, 32]), weight[[30, 32]])
    with pytest.raises(VocabkitError, match="row 31 holds NaN or infinite numbers"):
        table.rows([40, 31, 2])


def test_source_has_no_machine_specific_path(tmp_path: Path) -> None:
    table = open_embeddings(safetensors_folder(tmp_path / "Qwen2-0.5B", {NAME: WEIGHT}))
    assert table.source == "Qwen2-0.5B/model.safetensors"
