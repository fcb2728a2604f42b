"""What a product's epilogue makes of fp32 blocks is what the quantizers make of them; who holds what of a tile."""

from __future__ import annotations

import itertools

import pytest
import torch
import triton
from hypothesis import given
from hypothesis import strategies as st

from qbench.interpreter import repair
from qkernels.compare import compare_quantized
from qkernels.format import MXFP4, NVFP4, Format
from qkernels.tensor import QTensor
from qkernels.triton.mxfp4_quantize import mxfp4_quantize
from qkernels.triton.nvfp4_quantize import nvfp4_quantize
from qkernels.triton.quantized_result import TAKES
from qkernels.triton.quantizing_epilogue import whole_blocks
from tests.encoded_blocks import encoded
from tests.gluon_on_numpy import misplaced

if triton.knobs.runtime.interpret:
    repair()

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FORMATS = pytest.mark.parametrize("fmt", TAKES, ids=lambda fmt: fmt.name)


def by_kernel(y: torch.Tensor, fmt: Format, gs: float) -> QTensor:
    if fmt.scale == "e8m0":
        return mxfp4_quantize(y, rule=fmt.rule)
    return nvfp4_quantize(y, fmt=fmt, global_scale=gs if fmt.levels == 2 else None)


def check(y: torch.Tensor, fmt: Format, gs: float) -> None:
    found, wanted = encoded(y, fmt, gs), by_kernel(y, fmt, gs)
    given = gs if fmt.levels == 2 else None
    assert compare_quantized(found, y, fmt, global_scale=given) is None
    assert torch.equal(found.scale, wanted.scale)
    if fmt.scale == "e8m0":  # NVFP4's kernel multiplies in another order, which decides ties
        assert torch.equal(found.data, wanted.data)


@FORMATS
@pytest.mark.parametrize("gs", [0.01, 37.0, 3e4])
def test_blocks_of_every_size_are_those_of_the_quantizer(fmt: Format, gs: float) -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(8, 64, generator=generator)
    y = y * torch.exp2(torch.randint(-40, 40, (8, 64 // fmt.block), generator=generator).float()).repeat_interleave(
        fmt.block, dim=1
    )  # fmt: skip
    y[3, :32], y[4] = 0.0, -0.0
    check(y.to(DEVICE), fmt, gs)


@FORMATS
def test_ties_and_the_ends_of_a_binade(fmt: Format) -> None:
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0])
    near = torch.stack([ties, torch.nextafter(ties, ties * 0), torch.nextafter(ties, ties * 9), -ties])
    y = near.reshape(1, 32).repeat(4, 2) * torch.tensor([1.0, 2.0**-130, 2.0**100, 1.5])[:, None]
    y[:, 0::32] = 7.5 * y[:, 7:8].abs()
    check(y.to(DEVICE), fmt, 1.0)


@FORMATS
def test_a_block_that_is_not_finite_is_nan_and_its_neighbours_are_not(fmt: Format) -> None:
    y = torch.full((4, 64), 1.5)
    y[0, 5], y[1, 40], y[2, 33] = float("nan"), float("inf"), -float("inf")
    y = y.to(DEVICE)
    check(y, fmt, 100.0)
    nan = encoded(y, fmt, 100.0).dequantize().isnan().reshape(4, -1, fmt.block)
    assert torch.equal(nan.any(-1), nan.all(-1))
    assert nan.any(-1).sum() == 3
    assert not encoded(y, fmt, 100.0).data.reshape(4, -1, fmt.block // 2)[nan.all(-1)].any()


@FORMATS
def test_under_a_scale_too_large_blocks_saturate(fmt: Format) -> None:
    y = torch.linspace(-3e38, 3e38, 256).reshape(4, 64).to(DEVICE)
    check(y, fmt, 1e30)


@FORMATS
@given(data=st.data())
def test_any_values(fmt: Format, data: st.DataObject) -> None:
    numbers = st.floats(width=32, allow_nan=True, allow_infinity=True)
    y = torch.tensor(data.draw(st.lists(numbers, min_size=32, max_size=32)), dtype=torch.float32)
    gs = data.draw(st.floats(2.0**-20, 2.0**20, width=32))
    check(y.reshape(1, 32).repeat(2, 1).to(DEVICE), fmt, gs)


@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize(
    ("columns", "rows", "warps"),
    [(128, r, w) for r in (16, 32, 64, 128, 256) for w in (4, 8)]
    + [(64, r, 4) for r in (8, 16, 32, 64, 128)],
)
def test_every_element_is_held_and_parts_of_a_block_follow_each_other(
    columns: int, rows: int, warps: int, block: int
) -> None:
    """The layout as a map: register, lane and warp bits, each worth a vector of (column, row), added without carry."""
    layout = whole_blocks(columns, rows, warps, block)
    owners: dict[tuple[int, int], list[tuple[int, int]]] = {}
    each = rows * columns // (32 * warps)  # elements, if nobody has another's
    part = min(block, max(8, each))
    for warp, lane in itertools.product(range(warps), range(32)):
        begins = None
        for register in range(1 << len(layout.reg_bases)):
            at = [0, 0]
            for number, bases in (
                (register, layout.reg_bases),
                (lane, layout.lane_bases),
                (warp, layout.warp_bases),
            ):
                for bit, base in enumerate(bases):
                    if number >> bit & 1:
                        at = [at[0] ^ base[0], at[1] ^ base[1]]
            owners.setdefault((at[0], at[1]), []).append((warp, lane))
            if register % part == 0:
                begins = at
                assert at[0] % part == 0
            assert at == [begins[0] + register % part, begins[1]]
    assert len(owners) == rows * columns
    assert {len(threads) for threads in owners.values()} == {max(1, 8 // max(each, 1))}
    if part < block:  # the rest of a block is in the same warp
        for column, row in itertools.product(range(0, columns, block), range(rows)):
            assert len({owners[column + i, row][0][0] for i in range(block)}) == 1


@pytest.mark.parametrize(
    ("columns", "rows", "piece"), [(128, 256, 64), (128, 64, 32), (128, 16, 64), (64, 128, 16), (64, 8, 8)]
)
@pytest.mark.parametrize("m", [1, 17, 127, 129, 300])
def test_every_byte_of_the_result_is_written_once(m: int, columns: int, rows: int, piece: int) -> None:
    for fmt in (NVFP4, MXFP4):
        for n in (fmt.block, 96, 160, 544):
            assert misplaced(m, n, fmt, columns, rows, piece) == ""
