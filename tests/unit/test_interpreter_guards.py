"""Accesses of an interpreted kernel outside its arguments' own elements: seen, named, and never a false alarm."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError
from triton.tools.tensor_descriptor import TensorDescriptor

from qbench.interpreter import OutOfBounds, guards, interpreted, known_memory


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> Iterator[None]:
    with interpreted(sys.modules[__name__]):
        yield


@triton.jit
def copy_tile(x_ptr, out_ptr, stride_x, stride_out, rows, columns, R: tl.constexpr, C: tl.constexpr):
    """out[:rows, :columns] = x[:rows, :columns], nothing beyond; the two pointers are bent in several ways."""
    r, c = tl.arange(0, R), tl.arange(0, C)
    inside = (r < rows)[:, None] & (c < columns)[None, :]
    x = tl.load(
        tl.trans(x_ptr + c[:, None] + r[None, :] * stride_x),
        mask=tl.trans((c < columns)[:, None] & (r < rows)[None, :]),
    )
    target = tl.reshape(out_ptr + r * stride_out, (R, 1)) + c[None, :]
    tl.store(tl.broadcast_to(target, (R, C)), x, mask=inside)


@triton.jit
def device_copy(x_ptr, at, mask):
    return tl.load(x_ptr + at, mask=mask)


@triton.jit
def copy_line(x_ptr, out_ptr, start, length, BLOCK: tl.constexpr):
    at = start + tl.arange(0, BLOCK) + tl.program_id(0) * BLOCK
    mask = tl.arange(0, BLOCK) < length
    tl.store(out_ptr + at, device_copy(x_ptr, at, mask), mask=mask)


@triton.jit
def add_at(x_ptr, out_ptr, at, CAS: tl.constexpr):
    if CAS:
        tl.atomic_cas(out_ptr + at, 0, 1)
    else:
        tl.atomic_add(out_ptr + at, tl.load(x_ptr))


@triton.jit
def copy_words(x_ptr, out_ptr, BLOCK: tl.constexpr):
    """Four bytes at a time, of bytes."""
    at = tl.arange(0, BLOCK)
    words = tl.load(x_ptr.to(tl.pointer_type(tl.int32)) + at)
    tl.store(out_ptr.to(tl.pointer_type(tl.int32), bitcast=True) + at, words)


@triton.jit
def copy_through_descriptor(x, out_ptr, row, R: tl.constexpr, C: tl.constexpr):
    tile = x.load([row, 0])
    tl.store(out_ptr + tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :], tile)


@triton.jit
def copy_through_made_descriptor(x_ptr, out_ptr, rows, stride, R: tl.constexpr, C: tl.constexpr):
    x = tl.make_tensor_descriptor(x_ptr, shape=[rows, C], strides=[stride, 1], block_shape=[R, C])
    tl.store(out_ptr + tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :], x.load([0, 0]))


@triton.jit
def copy_from_table(table_ptr, out_ptr, BLOCK: tl.constexpr):
    x_ptr = tl.load(table_ptr).to(tl.pointer_type(tl.float32))
    at = tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(x_ptr + at))


@triton.jit
def copy_either(a_ptr, b_ptr, out_ptr, first, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(tl.where(at < first, a_ptr + at, b_ptr + at)))


def copy(x: torch.Tensor, out: torch.Tensor, rows: int, columns: int) -> None:
    copy_tile[(1,)](x, out, x.stride(0), out.stride(0), rows, columns, R=8, C=32)


@pytest.mark.parametrize(
    ("rows", "columns", "verb", "place"),
    [
        (5, 21, "load 5 of 105", "offset 20 (row 0, column 20)"),  # the gap between rows
        (6, 20, "load 20 of 120", "offset 320 (row 5, column 0)"),  # the row after the slice
    ],
)
def test_the_gap_of_a_padded_stride_and_the_next_row_are_out_of_bounds(
    rows: int, columns: int, verb: str, place: str
) -> None:
    whole, out = torch.zeros(8, 64), torch.zeros(8, 32)
    x = whole[:5, :20]
    copy(x, out, 5, 20)
    with pytest.raises(IndexError) as caught:
        copy(x, out, rows, columns)
    message = str(caught.value)
    assert message == (
        f"copy_tile, program (0, 0, 0), would {verb} elements outside argument 'x_ptr' (shape (5, 20), "
        f"strides (64, 1)): first {place}; mask them"
    )
    assert isinstance(caught.value, InterpreterError)  # what Triton raises for any error in a kernel


def test_a_store_into_the_gap_is_out_of_bounds_and_changes_nothing() -> None:
    x, whole = torch.ones(8, 32), torch.zeros(8, 64)
    with pytest.raises(
        OutOfBounds, match=r"would store 5 of 105 elements outside argument 'out_ptr' \(shape \(5, 20\)"
    ):
        copy(x, whole[:5, :20], 5, 21)
    assert not whole.any()
    copy(x, whole[:5, :20], 5, 20)
    assert int(whole.sum()) == 100


def test_another_arguments_memory_is_out_of_bounds() -> None:
    """Two halves of one buffer: a check against all arguments would let either address the other."""
    both = torch.zeros(5, 64)
    copy(both[:, :32], both[:, 32:], 5, 32)
    with pytest.raises(OutOfBounds, match="'x_ptr'"):
        copy_line[(1,)](both[0, :20], both[0, 20:40], 0, 21, BLOCK=32)


def test_the_program_and_an_address_before_the_start_are_named_also_from_a_device_function() -> None:
    x, out = torch.zeros(96), torch.zeros(96)
    copy_line[(3,)](x[:80], out, 0, 16, BLOCK=32)
    with pytest.raises(
        OutOfBounds, match=r"program \(2, 0, 0\), would load 1 of 17 .* first offset 80 \(index \(80,\)\)"
    ):
        copy_line[(3,)](x[:80], out, 0, 17, BLOCK=32)
    with pytest.raises(
        OutOfBounds, match=r"load 1 of 8 elements outside argument 'x_ptr'.* first offset -1 "
    ):
        copy_line[(1,)](x[8:], out[8:], -1, 8, BLOCK=8)


def test_masked_out_lanes_are_free() -> None:
    x, out = torch.zeros(3), torch.ones(3)
    copy_line[(1,)](x, out, 0, 3, BLOCK=1024)
    copy_line[(5,)](x, out, 0, 0, BLOCK=1024)
    assert not out.any()


@pytest.mark.parametrize("cas", [False, True])
def test_atomics_are_guarded(cas: bool) -> None:
    x, out = torch.ones(1, dtype=torch.int32), torch.zeros(8, dtype=torch.int32)
    add_at[(2,)](x, out[::2], 2, CAS=cas)
    assert out.tolist() == [0, 0, 1 if cas else 2, 0, 0, 0, 0, 0]
    with pytest.raises(
        OutOfBounds, match=r"would update 1 of 1 elements outside argument 'out_ptr'.* offset 1 "
    ):
        add_at[(1,)](x, out[::2], 1, CAS=cas)


def test_a_pointer_cast_to_a_wider_type_covers_all_its_bytes() -> None:
    x, out = torch.arange(64, dtype=torch.uint8), torch.zeros(64, dtype=torch.uint8)
    copy_words[(1,)](x, out, BLOCK=16)
    assert torch.equal(x, out)
    with pytest.raises(OutOfBounds, match="would load 1 of 16"):
        copy_words[(1,)](x[:62], out, BLOCK=16)


def test_descriptors_of_a_slice() -> None:
    whole, out = torch.arange(16 * 32.0).reshape(16, 32), torch.empty(8, 16)
    part = whole[2:7, :16]
    for row, expected in ((0, part), (3, part[3:])):
        copy_through_descriptor[(1,)](TensorDescriptor.from_tensor(part, [8, 16]), out, row, R=8, C=16)
        assert torch.equal(out[: len(expected)], expected)
        assert not out[len(expected) :].any()  # beyond its shape a descriptor gives zeros
    copy_through_made_descriptor[(1,)](part, out, 5, 32, R=8, C=16)
    assert torch.equal(out[:5], part)
    with pytest.raises(
        OutOfBounds, match=r"load 16 of 96 elements outside argument 'x_ptr'.*\(row 5, column 0\)"
    ):
        copy_through_made_descriptor[(1,)](part, out, 6, 32, R=8, C=16)


def test_a_descriptor_may_reach_beyond_the_tensor_it_was_made_from() -> None:
    whole, out = torch.arange(16 * 16.0).reshape(16, 16), torch.empty(8, 16)
    descriptor = TensorDescriptor(whole[0], shape=[16, 16], strides=[16, 1], block_shape=[8, 16])
    copy_through_descriptor[(1,)](descriptor, out, 8, R=8, C=16)
    assert torch.equal(out, whole[8:])


def test_memory_reached_through_a_table_of_addresses_must_be_known() -> None:
    x, out = torch.arange(8.0), torch.empty(8)
    table = torch.tensor([x.data_ptr()])
    with pytest.raises(OutOfBounds, match=r"outside all of its arguments: .*known_memory\(\.\.\.\)"):
        copy_from_table[(1,)](table, out, BLOCK=8)
    with known_memory(x):
        copy_from_table[(1,)](table, out, BLOCK=8)
    assert torch.equal(x, out)
    with known_memory(x[:7]), pytest.raises(OutOfBounds, match="would load 1 of 8"):
        copy_from_table[(1,)](table, out, BLOCK=8)
    with pytest.raises(ValueError, match="a tensor on meta"), known_memory(torch.empty(1, device="meta")):
        pass


def test_a_pointer_chosen_from_two_arguments_may_address_either() -> None:
    a, b, out = torch.zeros(8), torch.ones(8), torch.empty(8)
    copy_either[(1,)](a, b, out, 3, BLOCK=8)
    assert out.tolist() == [0.0] * 3 + [1.0] * 5


def test_storage_guards_are_for_kernels_that_leave_their_argument_on_purpose() -> None:
    whole, out = torch.arange(8 * 64.0).reshape(8, 64), torch.zeros(8, 32)
    with guards("storage"):
        copy(whole[:5, :20], out, 8, 32)
        assert torch.equal(out, whole[:, :32])
        with pytest.raises(OutOfBounds, match="would load"):
            copy(whole[7:, 60:], out, 1, 5)
    with pytest.raises(OutOfBounds):
        copy(whole[:5, :20], out, 8, 32)
    with pytest.raises(ValueError, match=r"unknown guards 'none'; known: view, storage"), guards("none"):
        pass


def test_expanded_and_overlapping_views_may_be_read() -> None:
    line, out = torch.arange(40.0), torch.zeros(8, 32)
    copy(line[:32].expand(8, 32), out, 8, 32)
    assert torch.equal(out, line[:32].expand(8, 32))
    sliding = line.unfold(0, 32, 1)[:8]
    copy(sliding, out, 8, 32)
    assert torch.equal(out, sliding)
