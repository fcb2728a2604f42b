"""Bugs in the kernels that read fragments (few rows, unpacking), and in those that give FP4 rows as values."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_s = partial(Mutant, file="qkernels/triton/fp4_stream.py")
_u = partial(Mutant, file="qkernels/triton/fp4_unpack.py")
_r = partial(Mutant, file="qkernels/triton/fp4_decode_rows.py")
_v = partial(Mutant, file="qkernels/triton/nvfp4_rounded.py", check="rounded")
_OF_W = """    if gs_ptr is not None:
        total *= tl.div_rn(1.0, tl.load(gs_ptr))
"""
_OF_X = """    if x_gs_ptr is not None:
        total *= tl.div_rn(1.0, tl.load(x_gs_ptr))
    if row_gs_ptr is not None:
        of_x = tl.arange(0, MT * 8)
        total *= tl.div_rn(1.0, tl.load(row_gs_ptr + of_x, mask=of_x < m, other=1.0))[None, :]
"""
_TOGETHER = """    if x_gs_ptr is not None:
        total *= tl.div_rn(1.0, tl.load(x_gs_ptr) * tl.load(gs_ptr))
    elif gs_ptr is not None:
        total *= tl.div_rn(1.0, tl.load(gs_ptr))
"""
_BASE = "* 0x01000100"

MUTANTS = (
    # --- the product of few rows
    _s(
        "stream-scale-of-the-block-before",
        "(step if U == 2 else step // 2)",
        "(step // 2)",
        "every second block of NVFP4 takes the scale of the one before it",
        "stream",
    ),
    _s(
        "stream-scales-of-another-row",
        "(unit_index * 8 + lane // 4)[:, None] * U",
        "(unit_index * 8 + (lane // 4 ^ 1))[:, None] * U",
        "neighbouring rows exchange their scales",
        "stream",
    ),
    _s(
        "stream-k-tail-unmasked",
        "rows_there & (columns < k)",
        "rows_there",
        "what lies behind a row of x is multiplied",
        "stream",
        count=2,
    ),
    _s(
        "stream-rows-of-x-unmasked",
        "rows_there = rows < m",
        "rows_there = rows <= m",
        "a row after the last of x is read",
        "stream",
    ),
    _s(
        "stream-row-mask-off-by-one",
        "mask=(out_rows < m)[None, :]",
        "mask=(out_rows <= m)[None, :]",
        "a row after the last is written",
        "stream",
    ),
    _s(
        "stream-last-column-unwritten",
        "& (out_columns < n)[:, None]",
        "& (out_columns < n - 1)[:, None]",
        "the last column is never written",
        "stream",
    ),
    _s(
        "stream-tiles-past-the-last-read",
        "+ i // (WARPS * 32), tiles - 1)",
        "+ i // (WARPS * 32), tiles)",
        "a tile after the last is read",
        "stream",
    ),
    _s(
        "stream-k-of-another-warp",
        "    chunk = warp // WR\n",
        "    chunk = warp % WK\n",
        "warps that take other rows read other units of K than of x",
        "stream",
    ),
    _s(
        "stream-steps-of-x-exchanged",
        "tl.permute(b, (4, 0, 6, 1, 2, 7, 3, 5))",
        "tl.permute(b, (4, 1, 6, 0, 2, 7, 3, 5))",
        "two steps of 16 of x change places",
        "stream",
    ),
    _s(
        "stream-rows-of-a-tile-exchanged",
        "tl.permute(a, (1, 0, 7, 2, 4, 3, 5, 6, 8))",
        "tl.permute(a, (1, 0, 6, 2, 4, 3, 5, 7, 8))",
        "row + 8 and k + 8 change places",
        "stream",
    ),
    _s(
        "stream-base-halved",
        _BASE,
        "* 0x00800080",
        "scales in bf16 are off by a power of two",
        "stream-scales",
    ),
    _s(
        "stream-base-in-fp16",
        "base = torch.zeros_like(w.base) if half else w.base",
        "base = w.base",
        "scales in fp16 are off by a power of two",
        "stream",
    ),
    _s(
        "stream-global-scale-multiplies",
        _OF_W,
        _OF_W.replace("tl.div_rn(1.0, tl.load(gs_ptr))", "tl.load(gs_ptr)"),
        "the global scale of the weights multiplies instead of dividing",
        "stream",
    ),
    _s(
        "stream-global-scale-of-x-forgotten",
        _OF_X,
        _OF_X.replace("tl.div_rn(1.0, tl.load(x_gs_ptr))", "1.0"),
        "the product is not divided by the global scale of x",
        "stream-scales",
    ),
    _s(
        "stream-global-scales-in-one",
        _OF_W + _OF_X,
        _TOGETHER,
        "the product of both global scales leaves fp32 where the result does not",
        "stream-scales",
    ),
    _s(
        "stream-global-scale-of-x-first",
        _OF_W + _OF_X,
        _OF_X + _OF_W,
        "large rows of x overflow on the way, divided by their global scales before that of w",
        "stream-scales",
    ),
    _s(
        "stream-row-scale-of-the-next-row",
        "row_gs_ptr + of_x, mask=of_x < m",
        "row_gs_ptr + (of_x ^ 1), mask=(of_x ^ 1) < m",
        "neighbouring rows of x exchange their global scales",
        "stream-scales",
    ),
    _s(
        "stream-row-scales-unmasked",
        "mask=of_x < m, other=1.0",
        "mask=of_x <= m, other=1.0",
        "the global scale of a row after the last is read",
        "stream-scales",
    ),
    _s(
        "stream-row-scales-transposed",
        "mask=of_x < m, other=1.0))[None, :]",
        "mask=of_x < m, other=1.0))[:, None]",
        "columns of the result take the global scales of rows of x",
        "stream-scales",
    ),
    _s(
        "stream-row-scales-twice",
        "        of_x = tl.arange(0, MT * 8)\n",
        "        of_x = tl.arange(0, MT * 8)\n"
        "        total *= tl.div_rn(1.0, tl.load(row_gs_ptr + of_x, mask=of_x < m))[None, :]\n",
        "the product is divided by the rows' global scales twice",
        "stream-scales",
    ),
    _s(
        "stream-bias-twice",
        "total += tl.load(bias_ptr",
        "total += 2 * tl.load(bias_ptr",
        "the bias is added twice",
        "stream",
    ),
    _s(
        "stream-output-through-bf16",
        "total.to(out_ptr.dtype.element_ty)",
        "total.to(tl.bfloat16).to(out_ptr.dtype.element_ty)",
        "fp16 and fp32 outputs pass through bf16",
        "stream",
    ),
    _s(
        "stream-rows-past-eight-left-out",
        "MT=triton.next_power_of_2(triton.cdiv(m, 8))",
        "MT=triton.next_power_of_2(max(1, m // 8))",
        "rows after a multiple of 8 are never computed",
        "stream",
    ),
    # --- weights to rows
    _u(
        "unpack-rows-exchanged",
        "8 * pair[None, :]  # i, s",
        "8 * (1 - pair[None, :])  # i, s",
        "rows g and g + 8 change places",
        "unpack",
    ),
    _u(
        "unpack-neighbours-apart",
        "8 * pair[None, :, None] + pair[None, None, :]",
        "pair[None, :, None] + 8 * pair[None, None, :]",
        "k + 1 and k + 8 change places",
        "unpack",
    ),
    _u(
        "unpack-scales-of-another-row",
        "lane // 4 * U)[:, None]",
        "lane // 4)[:, None]",
        "rows of NVFP4 take each other's scales",
        "unpack",
    ),
    _u(
        "unpack-k-tail-unmasked",
        "& (column < k)[:, :, :, None, :]",
        "& (column < k + 8)[:, :, :, None, :]",
        "eight zeros are written after each row",
        "unpack",
    ),
    _u("unpack-base-lost", _BASE, "* 0", "scales in bf16 are off by a power of two", "unpack"),
    # --- activations to rows
    _r(
        "rows-stride-of-scales",
        "row * scale_stride + block",
        "row * (k // BLOCK) + block",
        "scales are read as if their rows were dense",
        "decode-rows",
    ),
    _r(
        "rows-scales-of-the-first-tile",
        "block = tl.program_id(1) * (COLUMNS // BLOCK) + tl.arange(0, COLUMNS // BLOCK)",
        "block = tl.arange(0, COLUMNS // BLOCK)",
        "every tile along K takes the scales of the first",
        "decode-rows",
    ),
    _r(
        "rows-row-mask-off-by-one",
        "inside = (row < m)[:, None]",
        "inside = (row <= m)[:, None]",
        "a row after the last is written",
        "decode-rows",
    ),
    # --- rows to what NVFP4 keeps of them
    _v(
        "rounded-signs-lost",
        "tl.where(coded, -2147483648, 0)",
        "tl.where(coded, 0, 0)",
        "every value is positive",
    ),
    _v(
        "rounded-pairs-swapped",
        "join_words(low, high, _HIGH_HALVES)",
        "join_words(high, low, _HIGH_HALVES)",
        "odd elements come before even ones",
    ),
    _v(
        "rounded-scale-not-nan",
        'tl.where(whole, scale, float("nan"))',
        "scale",
        "a block with an infinity is finite",
    ),
    _v(
        "rounded-scale-to-the-whole-power",
        "half = (scale * 9.223372036854775808e18)[:, None]  # 2^63",
        "half = (scale * 4.611686018427387904e18)[:, None]  # 2^63",
        "values are half of what they should be",
    ),
    _v(
        "rounded-zero-of-a-zero-block-signed",
        "tl.where(coded, -2147483648, 0)",
        "tl.where(coded, -2147483648, -2147483648)",
        "a block without codes has zeros with x's signs",
    ),
    _v(
        "rounded-root-left-out",
        "magnitude_bits(amax * rest)",
        "magnitude_bits(amax)",
        "scales of a rotated block are too large by the root of its size",
    ),
    _v(
        "rounded-first-half-twice",
        "tl.store(at + i * 4, words, mask=inside[:, None])",
        "tl.store(at, words, mask=inside[:, None])",
        "the second half of a block is written over the first",
    ),
    _v(
        "rounded-last-block-left-out",
        "inside = block < k // 16",
        "inside = block < k // 16 - 1",
        "the last block of a row is not written",
    ),
    _v(
        "rounded-scale-of-the-first-row",
        "tl.store(global_ptr + row, encode_scale)",
        "tl.store(global_ptr, encode_scale)",
        "the global scales of all rows are written to the first",
    ),
)
