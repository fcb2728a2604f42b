"""mxfp4_few_sm90: how a program is made up, from what was measured for fp4_few_sm90, and where it is quicker.

Units of folded weights have twice the K and twice the bytes of `Fragments`, so a stage of the same bytes is half as
deep. What a plan must hide, memory's latency and the launch, is the same; there is less to decode and to multiply.
"""

from __future__ import annotations

from dataclasses import replace

from qkernels.triton import fp4_few_plan
from qkernels.triton.fp4_few_plan import Few

MAX_ROWS = 64


def choose(m: int, tiles: int, chunks: int, sms: int = 132, *, whole: bool = False) -> Few:
    """By rows of x, tiles of 16 rows of w and chunks of 128 of K. whole: not in parts of K beside each other."""
    for entire in (whole, True):
        few = fp4_few_plan.choose(m, tiles, 2 * chunks, sms, whole=entire)
        if chunks % few.parts == 0:
            break
    return replace(few, depth=few.depth // 2)


def quicker(m: int, tiles: int, chunks: int) -> bool:
    """Is this kernel quicker than mxfp4_gemm_sm90? Not measured yet: wherever it takes the rows."""
    return m <= MAX_ROWS
