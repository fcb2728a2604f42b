"""mxfp4_few_sm90: how a program is made up, from what was measured of it and of fp4_few_sm90.

Units of folded weights have twice the K and twice the bytes of `Fragments`, so a stage of the same bytes is half as
deep. What a plan must hide, memory's latency and the launch, is the same; there is less to decode and to multiply.
"""

from __future__ import annotations

from dataclasses import replace

from triton import cdiv

from qkernels.triton import fp4_few_plan
from qkernels.triton.fp4_few_plan import TILES, Few

MAX_ROWS = 64


def choose(m: int, tiles: int, chunks: int, sms: int = 132, *, whole: bool = False) -> Few:
    """By rows of x, tiles of 16 rows of w and chunks of 128 of K: where measured on an H200, the fastest, otherwise
    what is for weights alone. whole: not in parts of K beside each other."""
    items = cdiv(tiles, TILES)
    in_parts = items < 0.9 * sms and chunks % 2 == 0 and not whole
    if in_parts and m <= 16 and 2 * items > sms:
        return Few(2, 1, 2, 4, 2, 2)
    if in_parts and 16 < m <= 32 and 0.6 * sms < 2 * items <= sms:
        return Few(2, 1, 2, 6, 1, 2)
    if m <= 32 and 3 * sms <= items < 4 * sms:
        return Few(1, 4, 2, 3)
    for entire in (whole, True):
        few = fp4_few_plan.choose(m, tiles, 2 * chunks, sms, whole=entire)
        if chunks % few.parts == 0:
            break
    return replace(few, depth=few.depth // 2)
