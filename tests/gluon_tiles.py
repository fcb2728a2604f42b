"""The quantizing epilogue alone: a program brings a tile into wgmma's accumulator and writes it, whole or in halves."""

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from qkernels.format import Format
from qkernels.tensor import QTensor
from qkernels.triton.quantized_result import Quantized, rule_of, written_to
from qkernels.triton.quantizing_epilogue import write_tile


@gluon.jit
def write_kernel(
    y_ptr, codes_ptr, scales_ptr, gs_ptr, m, n,
    COLUMNS: gl.constexpr, ROWS: gl.constexpr, MMA: gl.constexpr, RULE: gl.constexpr, HALVES: gl.constexpr,
):  # fmt: skip
    """y fp32 [m, n]; HALVES: as a product writes that sums parts of its tiles piece by piece."""
    column, row = gl.program_id(0) * COLUMNS, gl.program_id(1) * ROWS
    columns = column + gl.arange(0, COLUMNS, gl.SliceLayout(1, MMA)).expand_dims(1)
    rows = row + gl.arange(0, ROWS, gl.SliceLayout(0, MMA)).expand_dims(0)
    y = gl.load(y_ptr + rows * n + columns, mask=(rows < m) & (columns < n), other=9.0)
    target = (codes_ptr, scales_ptr, gs_ptr)
    if HALVES:
        first, second = y.reshape([COLUMNS, 2, ROWS // 2]).permute(0, 2, 1).split()
        write_tile(first, target, row, column, m, n, RULE)
        write_tile(second, target, row + ROWS // 2, column, m, n, RULE)
    else:
        write_tile(y, target, row, column, m, n, RULE)


def accumulator(rows: int, warps: int) -> object:
    """The layout of products' sums [16 * warps and more, rows]."""
    return gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[warps, 1], instr_shape=[16, max(8, rows), 16]
    )


def write(
    y: Tensor, fmt: Format, gs: Tensor | None, columns: int, rows: int, warps: int, *, halves: bool = False
) -> QTensor:
    """y fp32 [M, N] on Hopper, quantized in tiles of [columns, rows]."""
    m, n = y.shape
    into = Quantized.empty(m, n, fmt, gs, y.device)
    write_kernel[(-(-n // columns), -(-m // rows))](
        y, *written_to(into), m, n, COLUMNS=columns, ROWS=rows, MMA=accumulator(rows, warps), RULE=rule_of(into),
        HALVES=halves, num_warps=warps, enable_fp_fusion=False,
    )  # fmt: skip
    return QTensor(into.codes, into.scales, fmt, (m, n), torch.clone(gs) if gs is not None else None)
