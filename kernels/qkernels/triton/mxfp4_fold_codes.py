"""MXFP4 as it is stored -> E4M3 rows for the product on FP8 tensor cores (mxfp4_folded): for results of a product that
were quantized in its epilogue and are the activations of the next one.

A row's largest scale is known when all of the row is, which a tile of a product does not see; so this is a kernel of
its own, which reads 17 bytes and writes 32 for 32 elements. A thread has a block: its d (see mxfp4_fold: scales
relative to the row's largest, blocks of zeros have none), a table of the eight magnitudes times 2^(6 - d) in E4M3, and
four words of eight codes, whose magnitudes select bytes of the table (prmt). Where d > 11 the table holds subnormals,
rounded to even: exact to d = 14, all zero from 18 on. A block whose scale is NaN (0xff) is NaN.

SASS (sm_90, Triton 3.6), K = 8192: 384 instructions for 64 elements of a thread (6 each). Predicted (H200): the
memory's rate, 13 us for 4096 x 8192 (50 MB), 2 us up to 64 rows. Measured: 14.5 us; 1.9 at one row, 2.4 at 64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

import qbench
from qkernels.triton.fp4 import round_e4m3
from qkernels.triton.mxfp4_folded import FoldedRows

LONGEST = 32768  # elements of a row that are held in registers

# Eight codes in $2, a table of eight bytes in $3 and $4: the bytes of their magnitudes, with their signs.
BYTES_OF_CODES = tl.constexpr("""
{
.reg .b32 m, s, h, t, signs;
mov.b32 signs, 0x8000;
and.b32 m, $2, 0x77777777;
shr.u32 s, $2, 3;
and.b32 s, s, 0x11111111;
prmt.b32 h, $3, $4, m;
prmt.b32 t, signs, signs, s;
or.b32 $0, h, t;
shr.u32 m, m, 16;
shr.u32 s, s, 16;
prmt.b32 h, $3, $4, m;
prmt.b32 t, signs, signs, s;
or.b32 $1, h, t;
}
""")


def expected() -> qbench.Expectation:
    """What the kernel must be compiled to."""
    return qbench.Expectation({}, load_bits={"*": 128}, store_bits={"*": 128})


@triton.jit
def magnitude(TWICE: tl.constexpr, factor, SHIFT: tl.constexpr):
    """The E4M3 byte of TWICE/2 * factor, shifted to its place in a word."""
    byte, _value = round_e4m3(factor * (TWICE * 0.5))
    return byte << SHIFT


@triton.jit
def mxfp4_fold_codes_kernel(data_ptr, scale_ptr, out_ptr, factor_ptr, k, BLOCKS: tl.constexpr):
    """One row. data_ptr and out_ptr: of 32-bit words."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    inside = block < k // 32
    at = block[:, None] * 4 + tl.arange(0, 4)[None, :]
    words = tl.load(data_ptr + row * (k // 32 * 4) + at, mask=inside[:, None], other=0)
    scale = tl.load(scale_ptr + row * (k // 32) + block, mask=inside, other=0).to(tl.int32)
    finite = scale < 255
    used = finite & (tl.max((words & 0x77777777 != 0).to(tl.int32), axis=1) > 0)
    largest = tl.max(tl.where(used, scale, 0), axis=0)
    d = tl.where(used, largest - scale, 0)
    factor = ((133 - tl.minimum(d, 30)) << 23).to(tl.float32, bitcast=True)  # 2^(6 - d), too small from 18 on
    low = magnitude(1, factor, 8) | magnitude(2, factor, 16) | magnitude(3, factor, 24)
    high = (
        magnitude(4, factor, 0)
        | magnitude(6, factor, 8)
        | magnitude(8, factor, 16)
        | magnitude(12, factor, 24)
    )
    low, high = tl.where(finite, low, 0x7F7F7F7F), tl.where(finite, high, 0x7F7F7F7F)
    first, second = tl.inline_asm_elementwise(
        BYTES_OF_CODES, "=r,=r,r,r,r",
        [words, tl.broadcast_to(low[:, None], (BLOCKS, 4)), tl.broadcast_to(high[:, None], (BLOCKS, 4))],
        dtype=(tl.int32, tl.int32), is_pure=True, pack=1,
    )  # fmt: skip
    bytes_ = tl.reshape(tl.join(first, second), (BLOCKS, 8))
    at = block[:, None] * 8 + tl.arange(0, 8)[None, :]
    tl.store(out_ptr + row * (k // 32 * 8) + at, bytes_, mask=inside[:, None])
    # 2^(largest - 133), by two factors that are normal numbers
    half = largest // 2
    below = ((half + 61) << 23).to(tl.float32, bitcast=True)  # 2^(half - 66)
    above = ((largest - half + 60) << 23).to(tl.float32, bitcast=True)  # 2^(largest - half - 67)
    tl.store(factor_ptr + row, below * above)


def fold_codes(data: Tensor, scale: Tensor) -> FoldedRows:
    """Codes uint8 [M, K/2] and scale bytes uint8 [M, K/32] of MXFP4 -> E4M3 rows, of gain 1.

    Raises ValueError for shapes that do not go together or K beyond 32768.
    """
    m, k = data.shape[0], 2 * data.shape[1]
    if tuple(scale.shape) != (m, k // 32) or k % 32:
        raise ValueError(f"codes {list(data.shape)} and scales {list(scale.shape)} are no MXFP4 [M, K]")
    if k > LONGEST:
        raise ValueError(f"K = {k}; a row of at most {LONGEST} elements fits the registers")
    data = data.contiguous()
    if data.data_ptr() % 16:
        data = data.clone()
    elements = torch.empty(m, k, dtype=torch.float8_e4m3fn, device=data.device)
    factor = torch.empty(m, dtype=torch.float32, device=data.device)
    blocks = max(32, triton.next_power_of_2(k // 32))
    if m > 0:
        with torch.cuda.device_of(data):
            mxfp4_fold_codes_kernel[(m,)](
                data.view(torch.int32), scale.contiguous(), elements.view(torch.int32), factor, k,
                BLOCKS=blocks, num_warps=min(16, max(1, blocks // 64)),
            )  # fmt: skip
    return FoldedRows(elements, factor, 1.0)


def _bytes_of_codes(word: Any, low: Any, high: Any) -> Any:
    """`BYTES_OF_CODES` in numpy."""
    table = np.stack([low, high], axis=-1).astype("<i4").view(np.uint8)
    found = []
    for first in (0, 4):
        codes = np.stack([np.asarray(word) >> (4 * j) & 15 for j in range(first, first + 4)], axis=-1)
        values = np.take_along_axis(table, codes & 7, axis=-1) | ((codes >> 3) << 7).astype(np.uint8)
        found.append(np.ascontiguousarray(values.astype(np.uint8)).view("<i4")[..., 0])
    return tuple(found)


qbench.register_inline_asm(BYTES_OF_CODES.value, _bytes_of_codes)
