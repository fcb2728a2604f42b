"""Bugs in products of few rows on Hopper: in parts of K that lie beside each other, stages, and what is at the end."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_e = partial(Mutant, check="fp8-few", file="qkernels/triton/fp8_few.py")
_c = partial(Mutant, check="fp8-few", file="qkernels/triton/fp8_few_plan.py")
_p = partial(Mutant, check="few-parts", file="qkernels/triton/fp4_few_parts.py")
_f = partial(Mutant, check="few-parts", file="qkernels/triton/fp4_few_sm90.py")
_k = partial(Mutant, check="few-folded", file="qkernels/triton/fp4_few_sm90.py")
_m = partial(Mutant, check="few-folded", file="qkernels/triton/mxfp4_few_sm90.py")
_n = partial(Mutant, check="few-folded", file="qkernels/triton/mxfp4_few_plan.py")
_g = partial(Mutant, check="finish", file="qkernels/triton/fp4_gemm_sm90.py")
_OF_W = """    if gs_ptr is not None:
        result *= reciprocal(gl.load(gs_ptr))
"""
_OF_X = """    if x_gs_ptr is not None:
        result *= reciprocal(gl.load(x_gs_ptr))
    if row_gain is not None:
        result *= gl.convert_layout(row_gain, gl.SliceLayout(0, sums.type.layout)).expand_dims(0)
"""

MUTANTS = (
    _e(
        "few-foreign-parts-added",
        "of_w.expand_dims(1) == of_x.expand_dims(0)",
        "of_w.expand_dims(1) <= of_x.expand_dims(0)",
        "products of one part of w with another of x are added",
    ),
    _e(
        "few-columns-mask-off-by-one",
        "(columns < n).expand_dims(1)",
        "(columns < n - 1).expand_dims(1)",
        "the last column is not written",
    ),
    _e(
        "few-scale-of-the-item-before",
        "w_scale = line(w_scale_ptr, item * R + R, n, R, W_ROWS)",
        "w_scale = line(w_scale_ptr, item * R, n, R, W_ROWS)",
        "a program's second item has the scales of its first",
    ),
    _e(
        "few-stages-not-in-turn",
        "fetch_stage(x_desc, x, x_stages, full, i, 0, (begin + i) % steps * C, C, EVEN)",
        "fetch_stage(x_desc, x, x_stages, full, i, 0, i % steps * C, C, EVEN)",
        "a program that begins within an item multiplies the first columns of x",
    ),
    _e(
        "few-sums-of-a-stage-kept",
        "for turn in range(low - begin, high - begin):",
        "for turn in range(low - begin + 1, high - begin):",
        "the first step of each item is left out",
    ),
    _c(
        "few-last-rows-left-out",
        "    items = cdiv(n, few.rows)\n    steps, programs",
        "    items = n // few.rows\n    steps, programs",
        "rows of w that do not fill an item are not multiplied",
    ),
    _c(
        "few-too-many-parts",
        "if cdiv(n, few.rows) >= 0.7 * sms:",
        "if cdiv(n, few.rows) >= 2 * sms:",
        "more parts than fill the GPU: x is read more often",
    ),
    _p(
        "few-parts-of-the-next-tile",
        "// 16 % P\n",
        "// 16 // P\n",
        "warps keep the sums of another part of x",
    ),
    _p(
        "few-parts-rows-not-by-parts",
        "tile = (begin + i) // steps * (4 * WR // P)",
        "tile = (begin + i) // steps * (4 * WR)",
        "tiles between those of two programs are left out",
    ),
    _p(
        "few-parts-of-x-beside-each-other-twice",
        "[columns, chunks // p * columns, stride, 1]",
        "[columns, columns, stride, 1]",
        "the second part of x is the first, a unit later",
    ),
    # --- a global scale for each row of x
    _f(
        "few-row-scales-unmasked",
        "mask=of_x < m, other=1.0",
        "mask=of_x <= m, other=1.0",
        "the global scale of a row after the last is read",
    ),
    _f(
        "few-row-scales-twice",
        "gain * x_gains.expand_dims(0)",
        "gain * x_gains.expand_dims(0) * x_gains.expand_dims(0)",
        "the product is divided by the rows' global scales twice",
    ),
    _f(
        "few-scale-of-x-first",
        "sums * unit * gain * x_gain\n",
        "sums * unit * x_gain * gain\n",
        "large x overflows on the way, divided by its global scale before that of w",
    ),
    _f(
        "few-row-scales-first",
        "sums * unit * gain * x_gains.expand_dims(0)",
        "sums * unit * x_gains.expand_dims(0) * gain",
        "large rows of x overflow on the way, divided by their global scales before that of w",
    ),
    _f(
        "few-row-scales-of-the-first",
        "row_gs_ptr + of_x, mask",
        "row_gs_ptr + of_x * 0, mask",
        "every row of x takes the global scale of the first",
    ),
    _f(
        "few-scale-of-x-before-the-wait",
        "    after_previous(EARLY)\n    x_gain = 1.0\n    if x_gs_ptr is not None:\n"
        "        x_gain = reciprocal(gl.load(x_gs_ptr))\n",
        "    x_gain = 1.0\n    if x_gs_ptr is not None:\n"
        "        x_gain = reciprocal(gl.load(x_gs_ptr))\n    after_previous(EARLY)\n",
        "the global scale of x is read while the kernel before still writes it",
    ),
    _g(
        "gemm-row-scales-of-the-first-tile",
        "rows = row + gl.arange(0, ROWS,",
        "rows = gl.arange(0, ROWS,",
        "rows of every tile take the global scales of the first",
    ),
    _g(
        "gemm-scales-of-x-first",
        _OF_W + _OF_X,
        _OF_X + _OF_W,
        "large rows of x overflow on the way, divided by their global scales before that of w",
    ),
    _g(
        "gemm-row-scales-unmasked",
        "row_gs_ptr + rows, mask=rows < m",
        "row_gs_ptr + rows, mask=rows <= m",
        "the global scale of a row after the last is read",
    ),
    _g(
        "gemm-row-scales-multiply",
        "return reciprocal(gl.load(row_gs_ptr",
        "return (gl.load(row_gs_ptr",
        "the product is multiplied by the rows' global scales",
    ),
    _g(
        "gemm-row-scales-not-in-quarters",
        "return finished(sums, row_gains(row_gs_ptr, row, m, sums.shape[1], WARPS), column, n, parameters)",
        "return finished(sums, None, column, n, parameters)",
        "parts of tiles that are summed are not divided by the rows' global scales",
    ),
    _g(
        "gemm-row-scales-twice",
        "result *= gl.convert_layout(row_gain, gl.SliceLayout(0, sums.type.layout)).expand_dims(0)\n",
        "result *= (row_gain * row_gain).expand_dims(0)\n",
        "the product is divided by the rows' global scales twice",
    ),
    Mutant(
        "gemm-row-scales-of-the-first-quarter",
        "FINISH(sums, row + start, column",
        "FINISH(sums, row, column",
        "every quarter of a summed tile takes the scales of its first rows",
        "finish",
        file="qkernels/triton/stream_k.py",
    ),
    # --- folded operands
    _k(
        "few-folded-rows-unmasked",
        "line(factors[0], 0, m, like, 0)",
        "line(factors[0], 0, m + 1, like, 0)",
        "the factor of a row after the last is read",
    ),
    _k(
        "few-folded-many-rows-unmasked",
        "line(factors[0], 0, m, sums, 0)",
        "line(factors[0], 0, m + 1, sums, 0)",
        "the factor of a row after the last is read where rows are many",
    ),
    _k(
        "few-folded-factors-of-the-first-item",
        "line(factors[1], (item * WR + RPART) * ROWS, n, like, 1)",
        "line(factors[1], RPART * ROWS, n, like, 1)",
        "every item takes the factors of a program's first rows of w",
    ),
    _k(
        "few-folded-factors-unmasked",
        "line(factors[1], (item * WR + RPART) * ROWS, n, like, 1)",
        "line(factors[1], (item * WR + RPART) * ROWS, n + 1, like, 1)",
        "the factor of a row of w after the last is read",
    ),
    _k(
        "few-folded-without-gain",
        "n, like, 1) * unit",
        "n, like, 1)",
        "the product is not divided by the gains of its operands",
    ),
    _k(
        "few-folded-units-of-another-warpgroup",
        "tiles.slice(c * 4, 4, 1).load(L[1])",
        "words.index(stage).slice(0, 4, 0).slice(c * 4, 4, 1).load(L[1])",
        "every warpgroup multiplies the codes of the first one's rows",
    ),
    _k(
        "few-folded-spread-of-the-first-unit",
        "of_tiles.slice(c, 1, 1).load(L[2])",
        "of_tiles.slice(0, 1, 1).load(L[2])",
        "every unit of a step is decoded by the scales of its first",
    ),
    _m(
        "few-folded-factors-exchanged",
        "x.factor, w.factor)",
        "w.factor, x.factor)",
        "rows of x take the factors of rows of w",
    ),
    _m(
        "few-folded-one-gain",
        "1.0 / (x.gain * w.gain)",
        "1.0 / x.gain",
        "the product is not divided by the gain of w",
    ),
    Mutant(
        "few-folded-rows-padded-with-nan",
        "torch.zeros((m, k * size), dtype=torch.uint8",
        "torch.full((m, k * size), 127, dtype=torch.uint8",
        "what follows the last of K is NaN, which zeros of w do not undo",
        "few-folded",
        file="qkernels/triton/fp4_few_parts.py",
    ),
    _n(
        "few-folded-stages-too-deep",
        "depth=few.depth // 2",
        "depth=few.depth",
        "stages have twice the bytes that were meant",
    ),
    _n(
        "few-folded-measured-parts-where-results-are-quantized",
        "and chunks % 2 == 0 and not whole",
        "and chunks % 2 == 0",
        "a quantized result is planned in the parts that were fastest",
    ),
    _n(
        "few-folded-measured-parts-uneven",
        "and chunks % 2 == 0 and not whole",
        "and not whole",
        "K that two parts do not divide is cut into two",
    ),
    _n(
        "few-folded-uneven-parts",
        "if chunks % few.parts == 0:",
        "if few.parts:",
        "parts of K that do not divide it are chosen",
    ),
    _n(
        "few-folded-parts-where-results-are-quantized",
        "2 * chunks, sms, whole=entire)",
        "2 * chunks, sms)",
        "a quantized result is planned in parts, which it is not written from",
    ),
    Mutant(
        "few-folded-rows-by-the-other-kernel",
        "if x.elements.shape[0] <= MAX_ROWS",
        "if x.elements.shape[0] > MAX_ROWS",
        "few rows go to the kernel of many, and many to that of few, which refuses them",
        "few-folded",
        file="qkernels/triton/folded_product.py",
    ),
    # --- launches that begin early
    _e(
        "few-next-kernel-let-in-at-once",
        "    begin, end = steps_of(gl.program_id(0), gl.num_programs(0), grain, grains)\n    w = ",
        "    gdc_launch_dependents()\n"
        "    begin, end = steps_of(gl.program_id(0), gl.num_programs(0), grain, grains)\n    w = ",
        "what comes next begins while the kernel before still writes",
    ),
    _f(
        "few-fp4-next-kernel-let-in-at-once",
        "    begin, end = steps_of(gl.program_id(0), gl.num_programs(0), grain, grains)\n    FOLDED",
        "    gdc_launch_dependents()\n"
        "    begin, end = steps_of(gl.program_id(0), gl.num_programs(0), grain, grains)\n    FOLDED",
        "what comes next begins while the kernel before still writes",
    ),
    Mutant(
        "early-next-kernel-before-the-wait",
        "        gdc_wait()\n        gdc_launch_dependents()\n",
        "        gdc_launch_dependents()\n        gdc_wait()\n",
        "what comes next begins while the kernel before still writes",
        "fp8-few",
        file="qkernels/triton/early.py",
    ),
)
