"""Bugs in the maximum over a matrix, and in what the launchers share: the tiles and the checks of input."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_a = partial(Mutant, file="qkernels/triton/amax.py")
_l = partial(Mutant, file="qkernels/triton/launch.py")

MUTANTS = (
    _a(
        "amax-without-abs",
        "        bits = magnitude_bits(y)\n",
        "        bits = tl.maximum(y.to(tl.int32, bitcast=True), 0)\n",
        "the maximum is taken without abs",
        "amax",
    ),
    _a(
        "amax-first-tile-of-each-program",
        "for tile in range(program, tiles, tl.num_programs(0)):",
        "for tile in range(program, program + 1):",
        "each program looks at one tile only",
        "amax",
        count=2,
    ),
    _a(
        "amax-last-of-a-group-not-waited-for",
        "== members - 1:",
        "== members - 2:",
        "the last program but one of a group reads before the last has written",
        "amax",
    ),
    _a(
        "amax-groups-of-one-size",
        "(tl.num_programs(0) - group + _GROUPS - 1) // _GROUPS",
        "tl.num_programs(0) // _GROUPS",
        "groups with a program more than others lose its maximum",
        "amax",
    ),
    _a(
        "amax-numbers-of-groups-overlap",
        "partial_ptr + _GROUPS + group * MEMBERS",
        "partial_ptr + _GROUPS + group",
        "programs of two groups write to one place",
        "amax",
    ),
    _a(
        "amax-rows-and-columns-exchanged",
        "        row = (tile // across) * ROWS + rows\n        column = (tile % across) * COLUMNS + columns\n",
        "        row = (tile % across) * ROWS + rows\n        column = (tile // across) * COLUMNS + columns\n",
        "tiles are counted down where they lie across",
        "amax",
    ),
    _a(
        "amax-last-column-missing",
        "(column < k)[None, :]",
        "(column < k - 1)[None, :]",
        "the last element of each row is left out",
        "amax",
    ),
    _a(
        "amax-last-row-missing",
        "(row < m)[:, None]",
        "(row < m - 1)[:, None]",
        "the last row is left out",
        "amax",
    ),
    _a(
        "amax-reads-past-the-row",
        "(column < k)[None, :]",
        "(column <= k)[None, :]",
        "the element after each row is part of the maximum",
        "amax",
    ),
    _a(
        "amax-stride-ignored",
        "at = row.to(tl.int64)[:, None] * stride + column[None, :]",
        "at = row.to(tl.int64)[:, None] * k + column[None, :]",
        "a column slice is read as if it were contiguous",
        "amax",
    ),
    _a(
        "amax-offset-in-int32",
        "x_ptr + row.to(tl.int64) * stride",
        "x_ptr + row * stride",
        "offsets overflow beyond 2^31 elements",
        "offsets",
    ),
    _a(
        "amax-nan-counts",
        "bits = tl.where(bits < 0x7F800000, bits, 0)",
        "bits = tl.where(bits <= 0x7F800000, bits, 0)",
        "an infinity takes the dynamic global scale with it",
        "quantizer:nonfinite",
        "nvfp4",
    ),
    _a(
        "amax-nan-ignored",
        "HADAMARD=hadamard or 0, FINITE_ONLY=finite_only",
        "HADAMARD=hadamard or 0, FINITE_ONLY=True",
        "a NaN in an FP8 tensor is passed over without a word",
        "quantizer:nonfinite",
        "fp8",
    ),
    _a(
        "amax-first-partial-alone",
        "return tl.max(tl.load(partial_ptr + tl.arange(0, COUNT)), axis=0).to(tl.float32, bitcast=True)",
        "return tl.load(partial_ptr).to(tl.float32, bitcast=True)",
        "the maximum of the first program stands for all",
        "quantizer:shapes",
        "fp8",
    ),
    _a(
        "amax-not-rotated",
        "            y = rotate_tile(x, matrix, HADAMARD)\n",
        "            y = tl.reshape(x.to(tl.float32), (ROWS * COLUMNS // HADAMARD, HADAMARD))\n",
        "the maximum is that of x before the rotation",
        "amax",
    ),
    # --- launch.py
    _l(
        "launch-last-tile-missing-down",
        "return Tile(rows, columns, triton.cdiv(m, rows), triton.cdiv(k, columns))",
        "return Tile(rows, columns, max(1, m // rows), triton.cdiv(k, columns))",
        "the rows after the last whole tile are never written",
        "decode-rows",
    ),
    _l(
        "launch-last-tile-missing-across",
        "return Tile(rows, columns, triton.cdiv(m, rows), triton.cdiv(k, columns))",
        "return Tile(rows, columns, triton.cdiv(m, rows), max(1, k // columns))",
        "the columns after the last whole tile are never written",
        "amax",
    ),
    _l(
        "launch-hadamard-divides-numel",
        "    if hadamard is not None and k % hadamard:\n",
        "    if hadamard is not None and x.numel() % hadamard:\n",
        "the Hadamard size is checked against the number of elements: rows mix",
        "refusals",
    ),
    _l(
        "launch-block-not-checked",
        "    if k % block:\n",
        "    if False:\n",
        "K that is no multiple of the block is taken",
        "refusals",
    ),
    _l(
        "launch-transposed-input-taken",
        "    if k > 1 and x.stride(1) != 1:\n",
        "    if False:\n",
        "a transposed matrix is read as if its rows were contiguous",
        "quantizer:layouts",
        "nvfp4_1l",
    ),
    _l(
        "launch-float64-taken",
        "    if x.dtype not in INPUT_DTYPES:\n",
        "    if not x.dtype.is_floating_point:\n",
        "float64 is quantized through fp32 without a word",
        "refusals",
    ),
    _l(
        "launch-static-scale-not-checked",
        "    if not (math.isfinite(value) and value > 0):\n",
        "    if not math.isfinite(value):\n",
        "a static scale may be zero or negative",
        "refusals",
    ),
    _l(
        "launch-nan-scale-taken",
        "    if not (math.isfinite(value) and value > 0):\n",
        "    if value <= 0:\n",
        "a static scale may be NaN or infinite",
        "refusals",
    ),
    _l(
        "launch-scale-of-another-dtype",
        "        if value.dtype != torch.float32 or value.numel() != 1:\n",
        "        if value.numel() != 1:\n",
        "a scale in fp16 is read as if it were fp32",
        "refusals",
    ),
    _l(
        "launch-unknown-rotation-taken",
        "    if hadamard is not None and hadamard not in known:\n",
        "    if False:\n",
        "a rotation that the format does not define is taken",
        "refusals",
    ),
)
