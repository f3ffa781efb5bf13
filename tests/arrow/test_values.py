"""Arrow arrays through their buffers give what pyarrow's own functions give, which would import pandas."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabkit.arrow.arrow_file import binary_array, fill_null, number_array, numbers, take, token_buffers, validity
from vocabkit.errors import VocabkitError

generated = settings(deadline=None, max_examples=100)
slices = st.tuples(st.integers(0, 4), st.integers(0, 12))
tokens = st.lists(st.none() | st.binary(max_size=4), max_size=12)


def ipc(array: pa.Array) -> bytes:
    """The bytes of a file that holds `array`."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema([("x", array.type)])) as writer:
        writer.write(pa.record_batch([array], ["x"]))
    return bytes(sink.getvalue())


@generated
@given(tokens)
def test_binary_array_matches_pyarrow(values: list[bytes | None]) -> None:
    array = binary_array(values)
    array.validate(full=True)
    assert array.to_pylist() == values
    assert ipc(array) == ipc(pa.array(values, pa.binary()))


@generated
@given(
    st.lists(st.tuples(st.integers(0, 100), st.booleans()), max_size=20),
    st.sampled_from([np.uint8, np.int32, np.int64, np.float32]),
)
def test_number_array_matches_pyarrow(pairs: list[tuple[int, bool]], dtype: type[np.number]) -> None:
    values = np.array([value for value, _ in pairs], dtype)
    valid = np.array([flag for _, flag in pairs], bool)
    number_array(values, valid).validate(full=True)
    assert ipc(number_array(values, valid)) == ipc(pa.array(values, mask=~valid))
    assert ipc(number_array(values)) == ipc(pa.array(values))
    assert ipc(number_array(values[::-1])) == ipc(pa.array(values[::-1].copy()))


def test_more_bytes_than_arrow_array_can_address_raise() -> None:
    megabyte = bytes(2**20)
    with pytest.raises(VocabkitError, match="2048 tokens of 2147483648 bytes together"):
        binary_array([megabyte] * 2048)


@generated
@given(tokens, slices)
def test_buffers_of_any_slice_hold_its_bytes(values: list[bytes | None], cut: tuple[int, int]) -> None:
    array = pa.array(values, pa.binary()).slice(*cut)
    offsets, data = token_buffers(array)
    assert [bytes(data[a:b]) for a, b in itertools.pairwise(offsets)] == [value or b"" for value in array.to_pylist()]
    assert validity(array).tolist() == [value is not None for value in array.to_pylist()]


@generated
@given(st.data(), tokens, slices)
def test_rows_of_any_slice_are_taken_in_any_order(
    data: st.DataObject, values: list[bytes | None], cut: tuple[int, int]
) -> None:
    array = pa.array(values, pa.binary()).slice(*cut)
    rows = np.array(data.draw(st.lists(st.sampled_from(range(len(array))))) if len(array) else [], np.int64)
    found = take(array, rows)
    found.validate(full=True)
    assert ipc(found) == ipc(array.take(pa.array(rows)))


def test_bytes_under_a_null_are_ignored_when_taking() -> None:
    plain = pa.array([b"a", b"under", b"b"], pa.binary())
    array = pa.Array.from_buffers(plain.type, 3, [pa.array([1, None, 1]).buffers()[0], *plain.buffers()[1:]])
    assert take(array, np.array([1, 2])).buffers()[2].to_pybytes() == b"b"


@generated
@given(st.lists(st.none() | st.integers(0, 2**31 - 1), max_size=12), slices, st.booleans())
def test_numbers_of_any_slice_are_read_with_minus_one_for_null(
    values: list[int | None], cut: tuple[int, int], wide: bool
) -> None:
    array = pa.array(values, pa.int64() if wide else pa.int32()).slice(*cut)
    found = fill_null(array, np.int64 if wide else np.int32)
    assert found.dtype == (np.int64 if wide else np.int32)
    assert found.tolist() == [-1 if value is None else value for value in array.to_pylist()]


def test_null_value_can_be_chosen() -> None:
    found = fill_null(pa.array([0.5, None], pa.float32()), np.float32, null=np.nan)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [0.5, np.nan])


def test_numbers_are_neither_copied_nor_writable() -> None:
    values = np.arange(3, dtype=np.int32)
    found = numbers(number_array(values), np.int32)
    assert np.shares_memory(found, values)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 7
