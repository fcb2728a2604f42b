"""Every kernel in the variants that ship, to be compiled without a GPU: one case for a path through a kernel.

Tiles follow from the shape, so each case names one: M = 1, 16, 64, 128, 256 and 1024 for products, a large and a small
matrix for quantizers, K within and beyond a row in registers, K that leaves a part of a tile. What each kernel must be
made of stands beside it (EXPECTED in its file). Tensors are uninitialised and nothing is run.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import torch
from torch import Tensor

import qbench
from qkernels.format import MXFP4, NVFP4, NVFP4_2D, NVFP4_4OVER6, Format, get_format
from qkernels.tensor import QTensor, ScaleLayout
from qkernels.triton import (
    amax,
    fp4_decode_rows,
    fp4_few_plan,
    fp4_few_sm90,
    fp4_gemm,
    fp4_gemm_quantize,
    fp4_gemm_scaled,
    fp4_gemm_sm90,
    fp4_rows,
    fp4_silu,
    fp4_stream,
    fp4_unpack,
    fp8_block,
    fp8_quantize,
    int8_quantize,
    mxfp4_fold,
    mxfp4_fold_codes,
    mxfp4_gemm_sm90,
    mxfp4_quantize,
    nvfp4_quantize,
)
from qkernels.triton.expected import BEFORE_HOPPER, TENSOR_MEMORY
from qkernels.triton.fp4_fragments import Fragments
from qkernels.triton.mxfp4_folded import FoldedRows, FoldedWeights
from qkernels.triton.quantized_result import Quantized

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
N, K = 8192, 8192


def matrix(m: int, k: int = K, dtype: str = "bf16") -> Tensor:
    return torch.empty(m, k, dtype=DTYPES[dtype], device="cuda")


def gapped(m: int, k: int = K, dtype: str = "bf16") -> Tensor:
    """Rows with 16 elements between them."""
    return matrix(m, k + 16, dtype)[:, :k]


def one(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(1, dtype=dtype, device="cuda")


def quantized(rows: int, k: int, fmt: Format) -> QTensor:
    assert fmt.block
    data = torch.empty(rows, k // 2, dtype=torch.uint8, device="cuda")
    scale = torch.empty(rows, k // fmt.block, dtype=torch.uint8, device="cuda")
    return QTensor(data, scale, fmt, (rows, k), one().reshape(()) if fmt.levels == 2 else None)


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

    def norm(fmt: Format, dtype: str, m: int, k: int, residual: bool = False) -> qbench.CompileCase:
        def launch() -> None:
            beside = matrix(m, k, dtype) if residual else None
            gs = one() if fmt.levels == 2 else None
            fp4_rows.rms_norm_quantize(
                matrix(m, k, dtype), matrix(1, k, dtype)[0], fmt, residual=beside, global_scale=gs
            )

        name = f"{fmt.name}_rms_norm[{dtype},residual={int(residual)},m={m},k={k}]"
        return qbench.CompileCase(name, launch, fp4_rows.expected(fmt))

    def silu(fmt: Format, dtype: str, m: int, k: int) -> qbench.CompileCase:
        def launch() -> None:
            gs = one() if fmt.levels == 2 else None
            fp4_silu.silu_mul_quantize(matrix(m, 2 * k, dtype), fmt, global_scale=gs)

        return qbench.CompileCase(f"{fmt.name}_silu_mul[{dtype},m={m},k={k}]", launch, fp4_silu.expected(fmt))

    return [
        token("bf16", 4096, K),
        token("fp16", 16, 28672, 16),
        norm(NVFP4, "bf16", 4096, K),
        norm(NVFP4, "fp16", 4096, K, residual=True),
        norm(MXFP4, "bf16", 16, K),
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
        expect = {kernel: fp8_quantize.expected(k, m)}
        if scale == "dynamic":
            expect |= amax.expected(dtype, 0, k)
        x = gapped if gaps else matrix
        return qbench.CompileCase(
            f"fp8_quantize[{dtype},{scale}{',gaps' * gaps},m={m},k={k}]",
            lambda: fp8_quantize.fp8_quantize(x(m, k, dtype), one() if scale == "static" else None),
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

    return [
        *(tensor(dtype, "static") for dtype in ("bf16", "fp32")),
        tensor("bf16", "dynamic"),
        tensor("fp16", "dynamic"),
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


def gemm_cases() -> list[qbench.CompileCase]:
    def case(
        fmt: Format, a: str, m: int, k: int = K, bias: bool = False, fast: bool = False
    ) -> qbench.CompileCase:
        """a: the activations' dtype, or "quantized"."""

        def launch() -> None:
            left = quantized(m, k, fmt) if a == "quantized" else matrix(m, k, a)
            fp4_gemm.fp4_gemm(left, quantized(N, k, fmt), bias=matrix(1, N)[0] if bias else None)

        name = f"{fmt.name}_gemm[{a},m={m},n={N},k={k}{',bias' * bias}]"
        return qbench.CompileCase(name, launch, {"fp4_gemm_kernel": fp4_gemm.expected(fmt, a, m)}, fast)

    return [
        *(case(NVFP4, "bf16", m, fast=m == 1) for m in (1, 32, 64, 128, 256, 1024)),
        *(case(NVFP4, "quantized", m) for m in (16, 1024)),
        *(case(NVFP4, "fp32", m) for m in (16, 1024)),
        case(NVFP4, "bf16", 16, K + 32),
        case(NVFP4, "fp16", 1024, K + 32, bias=True),
        *(case(MXFP4, "bf16", m) for m in (16, 1024)),
        *(case(MXFP4, "quantized", m) for m in (16, 1024)),
        *(case(MXFP4, "fp16", m) for m in (16, 1024)),
    ]


def gemm_quantize_cases() -> list[qbench.CompileCase]:
    def case(a: str, m: int) -> qbench.CompileCase:
        def launch() -> None:
            left = quantized(m, K, NVFP4) if a == "quantized" else matrix(m, K, a)
            fp4_gemm_quantize.nvfp4_gemm_quantize(left, quantized(N, K, NVFP4), out_global_scale=one())

        expect = {"nvfp4_gemm_quantize_kernel": fp4_gemm_quantize.expected(m)}
        return qbench.CompileCase(f"nvfp4_gemm_quantize[{a},m={m},n={N},k={K}]", launch, expect)

    return [case("bf16", 16), case("quantized", 1024)]


def gemm_scaled_cases() -> list[qbench.CompileCase]:
    def case(fmt: Format, m: int, k: int = K) -> qbench.CompileCase:
        expect = {"fp4_gemm_scaled_kernel": fp4_gemm_scaled.expected(fmt, k)}
        return qbench.CompileCase(
            f"{fmt.name}_gemm_scaled[m={m},n={N},k={k}]",
            lambda: fp4_gemm_scaled.fp4_gemm_scaled(quantized(m, k, fmt), quantized(N, k, fmt)),
            expect,
        )

    return [
        *(case(fmt, m) for fmt, m in ((NVFP4, 16), (NVFP4, 1024), (MXFP4, 1024))),
        case(NVFP4, 1024, K + 32),
    ]


def prepared_cases() -> list[qbench.CompileCase]:
    """Products of weights laid out beforehand. Hopper's kernels, in Gluon, refuse other targets;
    tests/compile/test_gluon.py compiles all their shapes."""

    def weights(fmt: Format, n: int = N, k: int = K) -> Fragments:
        words = 2 if fmt.block == 16 else 1
        data = torch.empty(n // 16, k // 64, 32, 4, dtype=torch.int32, device="cuda")
        scale = torch.empty(n // 16, k // 64, 8 * words, dtype=torch.int32, device="cuda")
        gs = one().reshape(()) if fmt.levels == 2 else None
        return Fragments(data, scale, one(torch.uint8), 1.0, fmt, n, k, gs)

    def folded() -> FoldedWeights:
        codes, spread = (
            torch.empty(N // 16, K // 128, b, dtype=torch.uint8, device="cuda") for b in (1024, 64)
        )
        return FoldedWeights(codes, spread, torch.empty(N, device="cuda"), N, K, 1.0)

    def stream(fmt: Format, m: int) -> qbench.CompileCase:
        return qbench.CompileCase(
            f"{fmt.name}_stream[m={m},n={N},k={K}]",
            lambda: fp4_stream.fp4_stream(matrix(m), weights(fmt)),
            {"fp4_stream_kernel": fp4_stream.expected()},
        )

    def few(fmt: Format, m: int, n: int = N) -> qbench.CompileCase:
        return qbench.CompileCase(
            f"{fmt.name}_few[m={m},n={n},k={K}]",
            lambda: fp4_few_sm90.fp4_few_sm90(matrix(m), weights(fmt, n)),
            {"fp4_few_sm90_kernel": hopper_only("wgmma.bf16 A=registers")},
        )

    def many(fmt: Format, m: int) -> qbench.CompileCase:
        return qbench.CompileCase(
            f"{fmt.name}_sm90[m={m},n={N},k={K}]",
            lambda: fp4_gemm_sm90.fp4_gemm_sm90(matrix(m), weights(fmt)),
            {"fp4_gemm_sm90_kernel": hopper_only("wgmma.bf16 A=registers")},
        )

    def eight(m: int) -> qbench.CompileCase:
        def launch() -> None:
            x = FoldedRows(matrix(m).to(torch.float8_e4m3fn), torch.empty(m, device="cuda"), 1.0)
            mxfp4_gemm_sm90.mxfp4_gemm_sm90(x, folded())

        return qbench.CompileCase(
            f"mxfp4_folded_sm90[m={m},n={N},k={K}]",
            launch,
            {"mxfp4_gemm_sm90_kernel": hopper_only("wgmma.e4m3 A=registers")},
        )

    def into(fmt: Format, m: int, n: int = N) -> Quantized:
        return Quantized.empty(
            m, n, fmt, one().reshape(()) if fmt.levels == 2 else None, torch.device("cuda")
        )

    def quantizing(fmt: Format, m: int, n: int = N) -> qbench.CompileCase:
        """The same product with its result in fmt."""
        few = fp4_few_plan.quicker(m, n // 16, K // 64)
        kernel = fp4_few_sm90.fp4_few_sm90 if few else fp4_gemm_sm90.fp4_gemm_sm90
        return qbench.CompileCase(
            f"{fmt.name}_sm90_to_{fmt.name}[m={m},n={n},k={K}]",
            lambda: kernel(matrix(m), weights(fmt, n), into=into(fmt, m, n)),
            {f"{kernel.__name__}_kernel": hopper_only("wgmma.bf16 A=registers", fmt, few=few)},
        )

    def eight_quantizing(fmt: Format, m: int) -> qbench.CompileCase:
        def launch() -> None:
            x = FoldedRows(matrix(m).to(torch.float8_e4m3fn), torch.empty(m, device="cuda"), 1.0)
            mxfp4_gemm_sm90.mxfp4_gemm_sm90(x, folded(), into=into(fmt, m))

        return qbench.CompileCase(
            f"mxfp4_folded_sm90_to_{fmt.name}[m={m},n={N},k={K}]",
            launch,
            {"mxfp4_gemm_sm90_kernel": hopper_only("wgmma.e4m3 A=registers", fmt)},
        )

    return [
        *(quantizing(NVFP4, m) for m in (1, 64, 256, 4096)),
        *(quantizing(MXFP4, m) for m in (16, 4096)),
        *(eight_quantizing(fmt, 4096) for fmt in (NVFP4, MXFP4)),
        qbench.CompileCase(
            f"mxfp4_fold_codes[m=4096,k={K}]",
            lambda: mxfp4_fold_codes.fold_codes(
                torch.empty(4096, K // 2, dtype=torch.uint8, device="cuda"),
                torch.empty(4096, K // 32, dtype=torch.uint8, device="cuda"),
            ),
            {"mxfp4_fold_codes_kernel": mxfp4_fold_codes.expected()},
        ),
        stream(NVFP4, 1),
        stream(MXFP4, 16),
        *(few(NVFP4, m) for m in (1, 64)),
        few(MXFP4, 16),
        *(many(NVFP4, m) for m in (256, 4096)),
        eight(4096),
        qbench.CompileCase(
            f"mxfp4_fold[m=4096,k={K}]",
            lambda: mxfp4_fold.mxfp4_fold(matrix(4096)),
            {"mxfp4_fold_kernel": mxfp4_fold.expected()},
        ),
        qbench.CompileCase(
            f"mxfp4_fold[m=4096,k={K},had=32]",
            lambda: mxfp4_fold.mxfp4_fold(matrix(4096), hadamard=32),
            {
                "mxfp4_fold_kernel": dataclasses.replace(
                    mxfp4_fold.expected(), unsupported={"sm_80": "no conversion to E4M3"}
                )
            },
        ),
        *(
            qbench.CompileCase(
                f"{fmt.name}_decode_rows[m=4096,k={K}]",
                lambda fmt=fmt: fp4_decode_rows.fp4_decode_rows(quantized(4096, K, fmt)),  # type: ignore[misc]
                {"fp4_decode_rows_kernel": qbench.Expectation({}, store_bits={"*": 128})},
            )
            for fmt in (NVFP4, MXFP4)
        ),
        qbench.CompileCase(
            f"nvfp4_unpack[n={N},k={K}]",
            lambda: fp4_unpack.fp4_unpack(weights(NVFP4)),
            {"fp4_unpack_kernel": qbench.Expectation({}, load_bits={"*": 128})},
        ),
    ]


def hopper_only(product: str, result: Format | None = None, *, few: bool = False) -> qbench.Expectation:
    """A product on Hopper. Of a quantized result a block's codes are one store, or four bytes where rows are few."""
    others = f"{BEFORE_HOPPER} {TENSOR_MEMORY} sm_120"
    width = 0 if result is None or result.block is None else 32 if few else 4 * result.block
    return qbench.Expectation(
        {"sm_90": (product,)},
        store_bits={"sm_90": width} if width else {},
        spill_bytes={"sm_90": 16} if result else {},
        unsupported={others: "written for Hopper's wgmma and TMA"},
    )


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
        zero = one(torch.int32) if given and not symmetric else None
        return lambda: int8_quantize.int8_quantize(
            matrix(m, k, dtype), one() if given else None, zero_point=zero, symmetric=symmetric
        )
    fmt = get_format(op.removesuffix("_quantize"))
    return lambda: fp4_gemm.quantize_fp4(
        matrix(m, k, dtype), fmt, global_scale=one() if given else None, hadamard=had,
        scale_layout="blocked" if axes.get("layout") == "blocked" else "linear",
    )  # fmt: skip


def _fused_of(op: str, m: int, k: int, axes: dict[str, str]) -> Callable[[], object]:
    fmt = get_format(op.removesuffix("_rms_norm").removesuffix("_silu_mul"))
    dtype = {"half": "fp16", "bfloat16": "bf16", "float": "fp32"}[axes["dtype"]]
    gs = one() if fmt.levels == 2 else None
    if op.endswith("_silu_mul"):
        return lambda: fp4_silu.silu_mul_quantize(matrix(m, 2 * k, dtype), fmt, global_scale=gs)
    residual = axes.get("residual", "0") == "1"
    return lambda: fp4_rows.rms_norm_quantize(
        matrix(m, k, dtype), matrix(1, k, dtype)[0], fmt, global_scale=gs,
        residual=matrix(m, k, dtype) if residual else None,
    )  # fmt: skip


def _product_of(op: str, m: int, n: int, k: int, had: int | None) -> Callable[[], object]:
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
