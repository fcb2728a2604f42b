"""Every kernel in the variants that ship, to be compiled without a GPU: one case for a path through a kernel.

Tiles follow from the shape, so each case names one: M = 1, 16, 64, 128, 256 and 1024 for products, a large and a small
matrix for quantizers, K within and beyond a row in registers, K that leaves a part of a tile. What each kernel must be
made of stands beside it (EXPECTED in its file). Tensors are uninitialised and nothing is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

import qbench
from qkernels.format import get_format
from qkernels.triton import (
    fp4_gemm,
    fp4_gemm_quantize,
    fp4_rows,
    fp4_silu,
    fp8_block,
    fp8_few,
    fp8_quantize,
    int8_quantize,
)
from qkernels.triton.compile_products import (
    gemm_cases,
    gemm_quantize_cases,
    gemm_scaled_cases,
    prepared_cases,
)
from qkernels.triton.compile_quantizers import (
    amax_cases,
    fp8_cases,
    int8_cases,
    mxfp4_cases,
    nvfp4_cases,
    row_cases,
)
from qkernels.triton.compile_tensors import eight, matrix, one, quantized


def all_cases() -> list[qbench.CompileCase]:
    return [
        *amax_cases(),
        *nvfp4_cases(),
        *row_cases(),
        *mxfp4_cases(),
        *fp8_cases(),
        *int8_cases(),
        *gemm_cases(),
        *gemm_quantize_cases(),
        *gemm_scaled_cases(),
        *prepared_cases(),
    ]


def launch_of(case: str) -> Callable[[], object] | None:
    """The call that a timed case of these kernels makes, for its static floor: "nvfp4_quantize/triton[m=16,...]"."""
    found = re.fullmatch(r"(\w+)/triton\[(.*)\]", case)
    if not found:
        return None
    op, axes = found[1], dict(each.split("=") for each in found[2].split(","))
    m, k, had = int(axes["m"]), int(axes["k"]), int(axes.get("had", 0)) or None
    if op.endswith("_gemm") or op == "nvfp4_gemm_quantize":
        return _product_of(op, m, int(axes["n"]), k, had)
    if op.endswith(("_rms_norm", "_silu_mul")):
        return _fused_of(op, m, k, axes)
    scale, dtype = axes.get("scale", ""), {"half": "fp16", "bfloat16": "bf16", "float": "fp32"}[axes["dtype"]]
    given = scale.startswith("static")
    if op == "fp8_quantize" and scale.startswith("block"):
        rows = 128 if scale == "block2d" else 1
        return lambda: fp8_block.fp8_block_quantize(matrix(m, k, dtype), rows=rows)
    if op == "fp8_quantize":
        return lambda: fp8_quantize.fp8_quantize(
            matrix(m, k, dtype), one() if given else None, per_token=scale == "token"
        )
    if op == "int8_quantize":
        symmetric = not scale.endswith("asymmetric")
        return lambda: int8_quantize.int8_quantize(
            matrix(m, k, dtype), one() if given else None, symmetric=symmetric,
            zero_point=one(torch.int32) if given and not symmetric else None,
        )  # fmt: skip
    fmt = get_format(op.removesuffix("_quantize"))
    return lambda: fp4_gemm.quantize_fp4(
        matrix(m, k, dtype), fmt, global_scale=one() if given else None, hadamard=had,
        scale_layout="blocked" if axes.get("layout") == "blocked" else "linear",
    )  # fmt: skip


def _fused_of(op: str, m: int, k: int, axes: dict[str, str]) -> Callable[[], object]:
    fmt = get_format(op.removesuffix("_rms_norm").removesuffix("_silu_mul"))
    dtype = {"half": "fp16", "bfloat16": "bf16", "float": "fp32"}[axes["dtype"]]
    two = fmt.levels == 2
    if op.endswith("_silu_mul"):
        return lambda: fp4_silu.silu_mul_quantize(
            matrix(m, 2 * k, dtype), fmt, global_scale=one() if two else None
        )
    residual = axes.get("residual", "0") == "1"
    return lambda: fp4_rows.rms_norm_quantize(
        matrix(m, k, dtype), matrix(1, k, dtype)[0], fmt, global_scale=one() if two else None,
        residual=matrix(m, k, dtype) if residual else None,
    )  # fmt: skip


def _product_of(op: str, m: int, n: int, k: int, had: int | None) -> Callable[[], object]:
    if op.endswith("_w8a8_gemm"):
        left, right = (m, n) if "token" in op else (1, 1)
        return lambda: fp8_few.fp8_few(
            eight(m, k), eight(n, k), matrix(left, 1, "fp32"), matrix(right, 1, "fp32")
        )
    fmt = get_format(op.split("_")[0])
    if op == "nvfp4_gemm_quantize":
        return lambda: fp4_gemm_quantize.nvfp4_gemm_quantize(
            quantized(m, k, fmt), quantized(n, k, fmt), out_global_scale=one()
        )
    if op.endswith("_w4a16_gemm"):
        return lambda: fp4_gemm.fp4_gemm(matrix(m, k), quantized(n, k, fmt))
    if op.endswith("_w4a4_gemm"):
        return lambda: fp4_gemm.fp4_gemm(quantized(m, k, fmt), quantized(n, k, fmt))
    return lambda: (
        fp4_gemm.quantize_fp4(matrix(m, k), fmt, hadamard=had),
        fp4_gemm.fp4_gemm(quantized(m, k, fmt), quantized(n, k, fmt)),
    )
