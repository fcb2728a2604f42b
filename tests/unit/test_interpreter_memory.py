"""A region of memory is exactly the bytes of a strided view, and says where an address lies in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qbench.interpreter.memory import region_of_storage, region_of_view


@given(
    shape=st.lists(st.integers(1, 5), min_size=0, max_size=4),
    strides=st.lists(st.integers(0, 9), min_size=4, max_size=4),
    offset=st.integers(0, 3),
    dtype=st.sampled_from([torch.uint8, torch.float16, torch.float64]),
    size=st.sampled_from([1, 2, 4, 8]),
)
def test_a_region_is_exactly_the_bytes_of_its_view(
    shape: list[int], strides: list[int], offset: int, dtype: torch.dtype, size: int
) -> None:
    """Any strides, interleaved ones too, against a map of the storage painted by torch."""
    storage = torch.zeros(256, dtype=dtype)
    view = storage.as_strided(shape, strides[: len(shape)], offset)
    painted = torch.zeros(256, dtype=torch.bool)
    painted.as_strided(shape, strides[: len(shape)], offset).fill_(True)
    legal = np.repeat(painted.numpy(), dtype.itemsize)
    starts = np.arange(len(legal) - 8)
    expected = np.array([legal[at : at + size].all() for at in starts])
    found = region_of_view("x", view).contains(starts + storage.data_ptr(), size)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "strides", "element", "place"),
    [
        ((7, 96), (256, 1), 96, "offset 96 (row 0, column 96)"),
        ((7, 96), (256, 1), 7 * 256 + 5, "offset 1797 (row 7, column 5)"),
        ((96, 7), (1, 256), 7 * 256 + 5, "offset 1797 (row 5, column 7)"),
        ((4, 5), (0, 2), 3, "offset 3 (row 0, column 2)"),
        ((3, 1, 8), (64, 8, 1), 64 + 9, "offset 73 (index (1, 0, 9))"),
        ((8,), (1,), -1, "offset -1 (index (-1,))"),
        ((), (), 1, "offset 1 (index ())"),
    ],
)
def test_an_address_is_told_as_an_index_of_the_tensor(
    shape: tuple[int, ...], strides: tuple[int, ...], element: int, place: str
) -> None:
    view = torch.zeros(4096, dtype=torch.float16).as_strided(shape, strides, 100)
    assert region_of_view("x", view).place(view.data_ptr() + 2 * element) == place


def test_a_view_without_elements_owns_nothing_and_a_storage_all_of_it() -> None:
    view = torch.zeros(64)[10:10]
    addresses = view.untyped_storage().data_ptr() + 4 * np.arange(-1, 65)
    assert not region_of_view("x", view).contains(addresses, 4).any()
    assert region_of_storage("x", view).contains(addresses, 4).tolist() == [False, *[True] * 64, False]
