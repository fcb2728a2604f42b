"""FP8 per tensor of a small sixteen-bit tensor in one launch: every program finds the whole maximum for itself.

    s = amax(x)/448, q = e4m3(clamp(x * (1/s)))          the formula of fp8_quantize.py, to the bit
x is one row of n elements, read by words as in token_words.py. Each of PARTS programs reads all of it, up to 64 KiB and
from the second program on out of the L2 cache, which takes less than a second launch; then it converts its own part.
No program waits for another.

Layout: q float8_e4m3fn of x's shape; s float32 [1]. Tolerance: none. Non-finite input: the scale NaN and codes 0.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from qkernels.format import FLOAT32_MAX
from qkernels.triton.early import after_previous
from qkernels.triton.flat import is_flat
from qkernels.triton.fp4_words import values
from qkernels.triton.scaled_codes import to_e4m3
from qkernels.triton.token_words import Row, load_row, row_bits

MOST_ELEMENTS = (
    32768  # above, two launches that overlap are as quick: reading takes a microsecond at four times that
)

_LARGEST = tl.constexpr(FLOAT32_MAX)


def is_small(x: Tensor) -> bool:
    """Is x [M, K] taken by this kernel?"""
    small = x.numel() <= MOST_ELEMENTS and x.numel() % 8 == 0
    return small and x.element_size() == 2 and x.data_ptr() % 4 == 0 and is_flat(x)


def choose_small(n: int) -> Row:
    """Sixteen warps from 4096 elements on, each thread with up to 64 elements; as many as there is work for below."""
    return Row(min(16, max(1, triton.next_power_of_2(triton.cdiv(n, 256)))))


@triton.jit
def fp8_small_kernel(
    x_ptr, out_ptr, scale_ptr, n,
    THREADS: tl.constexpr, PARTS: tl.constexpr, EVEN: tl.constexpr, HARDWARE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program i converts the i-th THREADS * 8 elements."""
    HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
    after_previous(EARLY)
    amax_bits = row_bits(load_row(x_ptr, n, 0, THREADS, 8, PARTS, EVEN), PARTS, HALF)
    finite = amax_bits < 0x7F800000
    kept = tl.where(finite, -1, 0)
    scale = tl.div_rn((amax_bits & kept).to(tl.float32, bitcast=True), 448.0)
    inverse = tl.minimum(tl.div_rn(1.0, scale), _LARGEST)
    part = tl.program_id(0)
    if part == 0:
        tl.store(scale_ptr, tl.where(finite, scale, float("nan")))
    group = part * THREADS + tl.arange(0, THREADS)[:, None]
    inside = group * 8 < n
    x_ptr = x_ptr.to(tl.pointer_type(tl.int32), bitcast=True)
    words = tl.load(x_ptr + group * 4 + tl.arange(0, 4)[None, :], mask=inside, other=0)
    codes = to_e4m3(values(words & kept, HALF) * inverse, HARDWARE)
    tl.store(out_ptr + group * 8 + tl.arange(0, 8)[None, :], codes, mask=inside)
