"""Quantizers in the variants that ship (compile_cases says how they are chosen)."""

from __future__ import annotations

import torch

import qbench
from qkernels.format import MXFP4, NVFP4, NVFP4_2D, NVFP4_4OVER6, Format
from qkernels.tensor import ScaleLayout
from qkernels.triton import (
    amax,
    fp4_rows,
    fp4_silu,
    fp8_block,
    fp8_held,
    fp8_held_sm90,
    fp8_quantize,
    int8_quantize,
    mxfp4_quantize,
    nvfp4_quantize,
    nvfp4_rounded,
)
from qkernels.triton.compile_tensors import K, gapped, matrix, one


def amax_cases() -> list[qbench.CompileCase]:
    def case(dtype: str, had: int = 0, k: int = K) -> qbench.CompileCase:
        name = f"amax[{dtype},had={had},k={k}]"
        expect = amax.expected(dtype, had, k)
        return qbench.CompileCase(
            name, lambda: amax.partial_amax(matrix(4096, k, dtype), hadamard=had or None), expect
        )

    return [
        case("fp32"),
        case("bf16", k=8191),
        case("bf16", 128),
        case("fp32", 128),
    ]


def nvfp4_cases() -> list[qbench.CompileCase]:
    def case(
        dtype: str, scale: str = "static", had: int = 0, m: int = 4096, k: int = K, fast: bool = False,
        fmt: Format = NVFP4, layout: ScaleLayout = "linear",
    ) -> qbench.CompileCase:  # fmt: skip
        def launch() -> None:
            nvfp4_quantize.nvfp4_quantize(
                matrix(m, k, dtype), fmt=fmt, global_scale=one() if scale == "static" else None,
                hadamard=had or None, scale_layout=layout,
            )  # fmt: skip

        expect = nvfp4_quantize.expected(scale)
        if scale == "dynamic":
            expect |= amax.expected(dtype, had, k)
        more = ",blocked" if layout == "blocked" else ""
        return qbench.CompileCase(
            f"{fmt.name}_quantize[{dtype},{scale},had={had},m={m},k={k}{more}]", launch, expect, fast
        )

    return [
        case("bf16", fast=True),
        case("fp32"),
        case("fp16", had=16, m=16),
        case("bf16", "dynamic"),
        case("fp16", "dynamic", 16),
        case("bf16", had=128),
        case("fp32", had=128),
        case("fp16", layout="blocked"),
        case("bf16", had=128, layout="blocked"),
        case("fp16", fmt=NVFP4_4OVER6),
        case("bf16", fmt=NVFP4_2D),
    ]


def row_cases() -> list[qbench.CompileCase]:
    def token(dtype: str, m: int, k: int, had: int = 0) -> qbench.CompileCase:
        return qbench.CompileCase(
            f"nvfp4_token_quantize[{dtype},had={had},m={m},k={k}]",
            lambda: fp4_rows.nvfp4_token(matrix(m, k, dtype), hadamard=had or None),
            fp4_rows.expected(NVFP4),
        )

    def rounded(dtype: str, m: int, k: int, had: int = 0) -> qbench.CompileCase:
        return qbench.CompileCase(
            f"nvfp4_rounded[{dtype},had={had},m={m},k={k}]",
            lambda: nvfp4_rounded.nvfp4_rounded(matrix(m, k, dtype), hadamard=had or None),
            nvfp4_rounded.expected(),
        )

    def norm(fmt: Format, dtype: str, m: int, k: int, residual: bool = False) -> qbench.CompileCase:
        def launch() -> None:
            beside = matrix(m, k, dtype) if residual else None
            gs = one() if fmt.levels == 2 else None
            fp4_rows.rms_norm_quantize(
                matrix(m, k, dtype), matrix(1, k, dtype)[0], fmt, residual=beside, global_scale=gs
            )

        name = f"{fmt.name}_rms_norm[{dtype},residual={int(residual)},m={m},k={k}]"
        expect = fp4_rows.expected(fmt) if dtype == "fp32" else fp4_rows.expected_norm(k, fmt, residual)
        return qbench.CompileCase(name, launch, expect)

    def silu(fmt: Format, dtype: str, m: int, k: int) -> qbench.CompileCase:
        def launch() -> None:
            gs = one() if fmt.levels == 2 else None
            fp4_silu.silu_mul_quantize(matrix(m, 2 * k, dtype), fmt, global_scale=gs)

        return qbench.CompileCase(f"{fmt.name}_silu_mul[{dtype},m={m},k={k}]", launch, fp4_silu.expected(fmt))

    return [
        token("bf16", 4096, K),
        token("fp16", 16, 28672, 16),
        rounded("bf16", 4096, K),
        rounded("bf16", 1, 4480),
        rounded("fp16", 4096, K, 16),
        norm(NVFP4, "bf16", 4096, K),
        norm(NVFP4, "fp16", 4096, K, residual=True),
        norm(MXFP4, "bf16", 16, K),
        norm(MXFP4, "fp16", 4096, K, residual=True),
        norm(NVFP4, "bf16", 4096, 16384, residual=True),
        norm(MXFP4, "fp16", 4096, 16384),
        norm(NVFP4, "fp32", 4096, K),
        silu(NVFP4, "bf16", 4096, K),
        silu(MXFP4, "fp16", 16, K),
    ]


def mxfp4_cases() -> list[qbench.CompileCase]:
    def case(
        rule: str,
        dtype: str = "bf16",
        had: int = 0,
        m: int = 4096,
        k: int = K,
        layout: ScaleLayout = "linear",
    ) -> qbench.CompileCase:
        more = ",blocked" if layout == "blocked" else ""
        return qbench.CompileCase(
            f"mxfp4_quantize[{dtype},{rule},had={had},m={m},k={k}{more}]",
            lambda: mxfp4_quantize.mxfp4_quantize(
                matrix(m, k, dtype), rule=rule, hadamard=had or None, scale_layout=layout
            ),
            mxfp4_quantize.expected(m, k),
        )

    return [
        *(case(rule) for rule in ("floor", "rceil", "abs_max", "quest")),
        case("floor", "fp32"),
        case("floor", m=16, had=128),
        *(case("floor", had=had) for had in (32, 128)),
        case("floor", layout="blocked"),
    ]


def fp8_cases() -> list[qbench.CompileCase]:
    def tensor(
        dtype: str, scale: str, m: int = 4096, k: int = K, gaps: bool = False, fast: bool = False
    ) -> qbench.CompileCase:
        kernel = "fp8_tensor_kernel" if gaps else "fp8_flat_kernel"
        expect = fp8_held.expected() if scale == "held" else {kernel: fp8_quantize.expected(k, m)}
        if scale == "dynamic":
            expect |= amax.expected(dtype, 0, k)
        x = gapped if gaps else matrix
        return qbench.CompileCase(
            f"fp8_quantize[{dtype},{scale}{',gaps' * gaps},m={m},k={k}]",
            lambda: fp8_quantize.fp8_quantize(
                x(m, k, dtype), one() if scale == "static" else None, held=scale == "held"
            ),
            expect,
            fast,
        )

    def token(dtype: str, m: int = 4096, k: int = K, fast: bool = False) -> qbench.CompileCase:
        kernel, store = ("fp8_token_kernel", 128) if dtype == "fp32" else ("fp8_token_words_kernel", 64)
        return qbench.CompileCase(
            f"fp8_token_quantize[{dtype},m={m},k={k}]",
            lambda: fp8_quantize.fp8_quantize(matrix(m, k, dtype), per_token=True),
            {kernel: fp8_quantize.expected(k, m, store)},
            fast,
        )

    def block(dtype: str, rows: int, m: int = 4096, gaps: bool = False) -> qbench.CompileCase:
        tile = "fp8_block_kernel" if rows == 1 else "fp8_block_2d_kernel"
        x = gapped if gaps else matrix
        return qbench.CompileCase(
            f"fp8_block_quantize[{dtype},rows={rows}{',gaps' * gaps},m={m},k={K}]",
            lambda: fp8_block.fp8_block_quantize(x(m, K, dtype), rows=rows),
            {tile if dtype == "fp32" else "fp8_block_words_kernel": fp8_block.expected(dtype)},
        )

    def held_sm90(dtype: str) -> qbench.CompileCase:
        """Not by fp8_quantize, which takes other kernels on other targets."""

        def launch() -> None:
            codes = torch.empty(4096, K, dtype=torch.uint8, device="cuda")
            fp8_held_sm90.fp8_held_sm90(matrix(4096, K, dtype), codes, one())

        return qbench.CompileCase(
            f"fp8_quantize[{dtype},held_sm90,m=4096,k={K}]", launch, fp8_held_sm90.expected()
        )

    return [
        *(tensor(dtype, "static") for dtype in ("bf16", "fp32")),
        tensor("bf16", "dynamic"),
        tensor("fp16", "dynamic"),
        tensor("bf16", "held"),
        *(held_sm90(dtype) for dtype in ("bf16", "fp16")),
        tensor("bf16", "static", m=16),
        tensor("bf16", "static", k=8191),
        tensor("bf16", "static", gaps=True),
        *(
            qbench.CompileCase(
                f"fp8_quantize[bf16,dynamic,m={m},k={K}]",
                lambda m=m: fp8_quantize.fp8_quantize(matrix(m)),  # type: ignore[misc]
                {"fp8_small_kernel": fp8_quantize.expected(K, 16)},
            )
            for m in (1, 4)
        ),
        token("bf16", fast=True),
        token("fp16", m=8192, k=16384),
        token("bf16", m=16),
        token("bf16", k=28672),
        *(token("fp32", k=k) for k in (K, 28672)),
        *(block(dtype, rows) for dtype in ("fp16", "bf16", "fp32") for rows in (1, 128)),
        block("bf16", 1, gaps=True),
    ]


def int8_cases() -> list[qbench.CompileCase]:
    def case(
        dtype: str, kind: str, m: int = 4096, k: int = K, gaps: bool = False, fast: bool = False
    ) -> qbench.CompileCase:
        static, symmetric = kind.startswith("static"), not kind.endswith("asymmetric")
        x = gapped if gaps else matrix

        def launch() -> None:
            zero = one(torch.int32) if static and not symmetric else None
            scale = one() if static else None
            int8_quantize.int8_quantize(x(m, k, dtype), scale, zero_point=zero, symmetric=symmetric)

        words = dtype != "fp32" and k % 8 == 0
        if static:
            kernel = "int8_static_kernel" if gaps else "int8_flat_kernel"
        else:
            kernel = "int8_token_words_kernel" if words else "int8_token_kernel"
        expect = {kernel: int8_quantize.expected(k, m, 64 if words and not static else 128)}
        name = f"int8_quantize[{dtype},{kind}{',gaps' * gaps},m={m},k={k}]"
        return qbench.CompileCase(name, launch, expect, fast)

    return [
        case("bf16", "static"),
        case("bf16", "static", gaps=True),
        case("bf16", "static_asymmetric"),
        case("bf16", "static", m=16),
        case("bf16", "token", fast=True),
        case("fp16", "token", m=8192, k=16384),
        case("bf16", "token", k=28672),
        case("bf16", "token", k=8191),
        *(case(dtype, "token_asymmetric") for dtype in ("fp16", "bf16", "fp32")),
        case("fp32", "token", k=28672),
    ]
