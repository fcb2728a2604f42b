"""Bugs in the main loop of the FP4 products: sums, tails of K, M and N, strides, the order of tiles."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_m = partial(Mutant, file="qkernels/triton/fp4_gemm.py")
_DOT = "sums = tl.dot(b, tl.trans(a), sums, input_precision=PRECISION)"

MUTANTS = (
    _m(
        "gemm-fp16-accumulator",
        _DOT,
        "sums = tl.dot(b, tl.trans(a), sums, input_precision=PRECISION).to(tl.float16).to(tl.float32)",
        "sums are kept in fp16",
        "gemm:certificate",
        "nvfp4 w4a16",
    ),
    _m(
        "gemm-bf16-accumulator",
        _DOT,
        "sums = tl.dot(b, tl.trans(a), sums, input_precision=PRECISION).to(tl.bfloat16).to(tl.float32)",
        "sums are kept in bf16",
        "gemm:values",
        "nvfp4 w4a16",
    ),
    _m(
        "gemm-last-step-alone",
        _DOT,
        "sums = tl.dot(b, tl.trans(a), input_precision=PRECISION)",
        "each step of K forgets the sums before it",
        "gemm:shapes",
        "nvfp4 w4a16",
    ),
    _m(
        "gemm-tail-of-k-dropped",
        "for step in range(tl.cdiv(k, BK)):",
        "for step in range(tl.maximum(k // BK, 1)):",
        "the rest of K after the last whole step is left out",
        "gemm:shapes",
        "nvfp4 w4a16",
    ),
    _m(
        "gemm-tail-of-codes-unmasked",
        "b = dequantize_tile(load_columns(b_codes, codes, limit // 2, EVEN_K), b_scale, E8M0, DTYPE)",
        "b = dequantize_tile(load_columns(b_codes, codes, limit, EVEN_K), b_scale, E8M0, DTYPE)",
        "weights beyond the end of a row are multiplied",
        "gemm:shapes",
        "nvfp4 w4a16",
    ),
    _m(
        "gemm-tail-of-activations-unmasked",
        "load_columns(a_values, values, limit, EVEN_K).to(DTYPE)",
        "load_columns(a_values, values, limit + 1, EVEN_K).to(DTYPE)",
        "one activation beyond the end of a row is read",
        "gemm:layouts",
        "nvfp4 w4a16",
    ),
    _m(
        "gemm-scale-tail-off-by-one",
        "left = (limit - BK) // BLOCK",
        "left = (limit - BK) // BLOCK - 1",
        "the last scale of K is taken as zero",
        "gemm:shapes",
        "nvfp4 w4a4",
    ),
    _m(
        "gemm-scale-not-advanced",
        "        b_scale = b_scale_next\n",
        "        b_scale = b_scale\n",
        "every step of K uses the scales of the first",
        "gemm:shapes",
        "nvfp4 w4a16",
    ),
    _m(
        "gemm-scale-a-step-ahead",
        "            a = dequantize_tile(load_columns(a_codes, codes, limit // 2, EVEN_K), a_scale, E8M0, DTYPE)\n"
        "            a_scale = a_scale_next\n",
        "            a_scale = a_scale_next\n"
        "            a = dequantize_tile(load_columns(a_codes, codes, limit // 2, EVEN_K), a_scale, E8M0, DTYPE)\n",
        "activations are multiplied by the scales of the next step",
        "gemm:shapes",
        "nvfp4 w4a4",
    ),
    _m(
        "gemm-row-edge-unclamped",
        "rows = tl.minimum(row0 + tl.arange(0, BM), m - 1).to(tl.int64)[:, None]",
        "rows = (row0 + tl.arange(0, BM)).to(tl.int64)[:, None]",
        "rows beyond M are read",
        "gemm:shapes",
        "nvfp4 w4a16",
    ),
    _m(
        "gemm-column-edge-unclamped",
        "columns = tl.minimum(column0 + tl.arange(0, BN), n - 1).to(tl.int64)[:, None]",
        "columns = tl.minimum(column0 + tl.arange(0, BN), n).to(tl.int64)[:, None]",
        "a weight row beyond N is read",
        "gemm:shapes",
        "nvfp4 w4a16",
    ),
    _m(
        "gemm-row-edge-short",
        "rows = tl.minimum(row0 + tl.arange(0, BM), m - 1)",
        "rows = tl.minimum(row0 + tl.arange(0, BM), tl.maximum(m - 2, 0))",
        "the last row is that of its neighbour",
        "gemm:shapes",
        "nvfp4 w4a16",
    ),
    _m(
        "gemm-group-height",
        "height = min(tiles_m - group * GROUP, GROUP)",
        "height = GROUP",
        "the last, short group of tiles is walked as a whole one: tiles are missing",
        "gemm:shapes",
        "nvfp4 w4a16",
    ),
    _m(
        "gemm-grid-order",
        "column0 = (pid % (GROUP * tiles_n)) // height * BN",
        "column0 = (pid % (GROUP * tiles_n)) % tiles_n * BN",
        "rows and columns of tiles do not go together: some are computed twice, some never",
        "gemm:shapes",
        "nvfp4 w4a16",
    ),
    _m(
        "gemm-a-stride-ignored",
        "a_values = a_ptr + rows * stride_a + values[None, :]",
        "a_values = a_ptr + rows * k + values[None, :]",
        "sliced activations are read as if they were contiguous",
        "gemm:layouts",
        "nvfp4 w4a16",
    ),
    _m(
        "gemm-b-stride-ignored",
        "b_codes = b_ptr + columns * stride_b + codes[None, :]",
        "b_codes = b_ptr + columns * (k // 2) + codes[None, :]",
        "sliced weights are read as if they were contiguous",
        "gemm:layouts",
        "nvfp4 w4a16",
    ),
    _m(
        "gemm-b-scale-stride-ignored",
        "b_scales = b_scale_ptr + columns * stride_b_scale + blocks[None, :]",
        "b_scales = b_scale_ptr + columns * (k // BLOCK) + blocks[None, :]",
        "sliced scales of the weights are read as if they were contiguous",
        "gemm:layouts",
        "nvfp4 w4a16",
    ),
    _m(
        "gemm-a-scale-stride-ignored",
        "a_scales = a_scale_ptr + rows * stride_a_scale + blocks[None, :]",
        "a_scales = a_scale_ptr + rows * (k // BLOCK) + blocks[None, :]",
        "sliced scales of the activations are read as if they were contiguous",
        "gemm:layouts",
        "nvfp4 w4a4",
    ),
    _m(
        "gemm-a-offset-in-int32",
        "m - 1).to(tl.int64)[:, None]",
        "m - 1)[:, None]",
        "offsets of activations overflow beyond 2^31 elements",
        "offsets",
    ),
    _m(
        "gemm-b-offset-in-int32",
        "n - 1).to(tl.int64)[:, None]",
        "n - 1)[:, None]",
        "offsets of weights overflow beyond 2^31 elements",
        "offsets",
    ),
    _m(
        "gemm-out-offset-in-int32",
        "rows.to(tl.int64)[:, None] * stride_out",
        "rows[:, None] * stride_out",
        "offsets of the product overflow beyond 2^31 elements",
        "offsets",
    ),
)
