"""Products in the variants that ship (compile_cases says how they are chosen)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

import qbench
from qkernels.format import MXFP4, NVFP4, Format
from qkernels.triton import (
    fp4_decode_rows,
    fp4_few_plan,
    fp4_few_sm90,
    fp4_gemm,
    fp4_gemm_quantize,
    fp4_gemm_scaled,
    fp4_gemm_sm90,
    fp4_stream,
    fp4_unpack,
    fp8_few,
    mxfp4_few_sm90,
    mxfp4_fold,
    mxfp4_fold_codes,
    mxfp4_gemm_sm90,
)
from qkernels.triton.compile_tensors import K, N, matrix, one, quantized
from qkernels.triton.compile_tensors import eight as eight_bits
from qkernels.triton.expected import BEFORE_HOPPER, TENSOR_MEMORY
from qkernels.triton.fp4_fragments import Fragments
from qkernels.triton.mxfp4_folded import FoldedRows, FoldedWeights
from qkernels.triton.quantized_result import Quantized


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

    def folded(n: int = N) -> FoldedWeights:
        codes, spread = (
            torch.empty(n // 16, K // 128, b, dtype=torch.uint8, device="cuda") for b in (1024, 64)
        )
        return FoldedWeights(codes, spread, torch.empty(n, device="cuda"), n, K, 1.0)

    def folded_rows(m: int) -> FoldedRows:
        return FoldedRows(matrix(m).to(torch.float8_e4m3fn), torch.empty(m, device="cuda"), 1.0)

    def scales(m: int, rows: bool) -> Tensor | None:
        """Of x: one a row, or none."""
        return matrix(m, 1, "fp32") if rows else None

    def stream(fmt: Format, m: int, rows: bool = False) -> qbench.CompileCase:
        return qbench.CompileCase(
            f"{fmt.name}_stream[m={m},n={N},k={K}{',rows' * rows}]",
            lambda: fp4_stream.fp4_stream(matrix(m), weights(fmt), x_global_scale=scales(m, rows)),
            {"fp4_stream_kernel": fp4_stream.expected()},
        )

    def few(fmt: Format, m: int, n: int = N, rows: bool = False) -> qbench.CompileCase:
        return qbench.CompileCase(
            f"{fmt.name}_few[m={m},n={n},k={K}{',rows' * rows}]",
            lambda: fp4_few_sm90.fp4_few_sm90(matrix(m), weights(fmt, n), x_global_scale=scales(m, rows)),
            {"fp4_few_sm90_kernel": hopper_only("wgmma.bf16 A=registers")},
        )

    def many(fmt: Format, m: int, rows: bool = False) -> qbench.CompileCase:
        return qbench.CompileCase(
            f"{fmt.name}_sm90[m={m},n={N},k={K}{',rows' * rows}]",
            lambda: fp4_gemm_sm90.fp4_gemm_sm90(matrix(m), weights(fmt), x_global_scale=scales(m, rows)),
            {"fp4_gemm_sm90_kernel": hopper_only("wgmma.bf16 A=registers")},
        )

    def eight(m: int) -> qbench.CompileCase:
        return qbench.CompileCase(
            f"mxfp4_folded_sm90[m={m},n={N},k={K}]",
            lambda: mxfp4_gemm_sm90.mxfp4_gemm_sm90(folded_rows(m), folded()),
            {"mxfp4_gemm_sm90_kernel": hopper_only("wgmma.e4m3 A=registers")},
        )

    def few_eight(m: int, n: int = N) -> qbench.CompileCase:
        return qbench.CompileCase(
            f"fp8_few[m={m},n={n},k={K}]",
            lambda: fp8_few.fp8_few(eight_bits(m), eight_bits(n), matrix(m, 1, "fp32"), matrix(n, 1, "fp32")),
            {"fp8_few_kernel": hopper_only("wgmma.e4m3 A=shared")},
        )

    def into(fmt: Format, m: int, n: int = N) -> Quantized:
        return Quantized.empty(
            m, n, fmt, one().reshape(()) if fmt.levels == 2 else None, torch.device("cuda")
        )

    def quantizing(fmt: Format, m: int, n: int = N, rows: bool = False) -> qbench.CompileCase:
        """The same product with its result in fmt."""
        few = fp4_few_plan.quicker(m, n // 16, K // 64)
        kernel = fp4_few_sm90.fp4_few_sm90 if few else fp4_gemm_sm90.fp4_gemm_sm90
        return qbench.CompileCase(
            f"{fmt.name}_sm90_to_{fmt.name}[m={m},n={n},k={K}{',rows' * rows}]",
            lambda: kernel(matrix(m), weights(fmt, n), x_global_scale=scales(m, rows), into=into(fmt, m, n)),
            {f"{kernel.__name__}_kernel": hopper_only("wgmma.bf16 A=registers", fmt, few=few)},
        )

    def eight_quantizing(fmt: Format, m: int) -> qbench.CompileCase:
        return qbench.CompileCase(
            f"mxfp4_folded_sm90_to_{fmt.name}[m={m},n={N},k={K}]",
            lambda: mxfp4_gemm_sm90.mxfp4_gemm_sm90(folded_rows(m), folded(), into=into(fmt, m)),
            {"mxfp4_gemm_sm90_kernel": hopper_only("wgmma.e4m3 A=registers", fmt)},
        )

    def few_folded(m: int, n: int = N, result: Format | None = None) -> qbench.CompileCase:
        def launch() -> None:
            target = into(result, m, n) if result else None
            mxfp4_few_sm90.mxfp4_few_sm90(folded_rows(m), folded(n), into=target)

        to = f"_to_{result.name}" if result else ""
        expect = hopper_only("wgmma.e4m3 A=registers", result, few=True)
        return qbench.CompileCase(
            f"mxfp4_folded_few{to}[m={m},n={n},k={K}]", launch, {"fp4_few_sm90_kernel": expect}
        )

    return [
        *(quantizing(NVFP4, m) for m in (1, 64, 256, 4096)),
        *(quantizing(NVFP4, m, rows=True) for m in (64, 256)),
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
        *(stream(NVFP4, m, rows=True) for m in (16, 64)),
        *(few(NVFP4, m) for m in (1, 64)),
        few(MXFP4, 16),
        few(NVFP4, 1, 4096),  # in two parts
        few(MXFP4, 1, 1024),  # in four
        *(few(NVFP4, m, 57344) for m in (8, 128)),  # warps that share no K
        *(few(NVFP4, m, rows=True) for m in (8, 64, 128)),
        few(NVFP4, 8, 4096, rows=True),
        *(many(NVFP4, m) for m in (256, 4096)),
        *(many(NVFP4, m, rows=True) for m in (128, 256, 4096)),
        eight(4096),
        *(few_folded(m) for m in (1, 16, 64)),
        few_folded(1, 4096),  # in two parts
        few_folded(16, 1024),  # in four
        few_folded(16, result=NVFP4),
        few_folded(64, result=MXFP4),
        *(few_eight(m, n) for m, n in ((1, N), (1, 1024), (16, N), (32, N), (64, N))),
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
