"""Launch every Triton kernel in each of its variants, on shapes that leave a part of a tile over on every side.

For tools that watch a whole program: `make sanitize` runs this under compute-sanitizer, which sees accesses outside
an allocation, races, missing barriers and reads of memory never written; `python -m tests.every_kernel` alone tells
that all results are right and repeat bit for bit. Small shapes, for a sanitizer makes each launch a hundred times
slower. Needs a CUDA device.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from qbench import gemm_error, within
from qbench.model.attend import attend
from qkernels import reference
from qkernels.api import matmul, quantize
from qkernels.compare import compare_quantized
from qkernels.format import (
    FP8,
    FP8_BLOCK,
    FP8_BLOCK_2D,
    FP8_TOKEN,
    INT8,
    INT8_ASYM,
    INT8_TOKEN,
    NVFP4,
    NVFP4_1L,
    Format,
    get_format,
)
from qkernels.fused import rms_norm_quantize, silu_mul_quantize
from qkernels.norms import add_residual
from qkernels.ops.fused import Norm, norm_tolerance, silu_tolerance
from qkernels.ops.quantize import QuantizeOptions
from qkernels.prepared import Prepared, fold, prepare, prepared_matmul, prepared_matmul_quantized
from qkernels.quantize import quantize as quantize_exactly
from qkernels.tensor import QTensor
from qkernels.triton.fp4_decode_rows import fp4_decode_rows
from qkernels.triton.fp4_gemm_quantize import nvfp4_gemm_quantize
from qkernels.triton.fp4_rows import nvfp4_token
from qkernels.triton.mxfp4_fold import mxfp4_fold
from qkernels.triton.nvfp4_rounded import nvfp4_rounded
from tests import attention

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
FP4 = (
    NVFP4,
    NVFP4_1L,
    *(get_format(f"nvfp4_{rule}") for rule in ("min_scale", "4over6", "4over6_mae", "2d", "token")),
    *(get_format(f"mxfp4{rule}") for rule in ("", "_ceil", "_even", "_rceil", "_abs_max", "_quest")),
)
QUANTIZERS: tuple[tuple[Format, dict[str, Any]], ...] = (
    *((fmt, {}) for fmt in FP4),
    (NVFP4, {"global_scale": 50.0}),
    *((fmt, {"hadamard": n}) for fmt in (NVFP4, get_format("mxfp4")) for n in fmt.hadamard),
    *((fmt, {"hadamard": n, "scale_layout": "blocked"}) for fmt in (NVFP4, get_format("mxfp4")) for n in (32, 128)),
    *((fmt, {"scale_layout": "blocked"}) for fmt in (NVFP4, get_format("nvfp4_token"), get_format("mxfp4"))),
    *((fmt, {}) for fmt in (FP8, FP8_TOKEN, FP8_BLOCK, FP8_BLOCK_2D, INT8_TOKEN, INT8_ASYM)),
    (FP8, {"scale": 0.02}),
    (INT8, {"scale": 0.03}),
    (INT8_ASYM, {"scale": 0.03, "zero_point": -5}),
)  # fmt: skip
Result = Tensor | QTensor
Run = tuple[str, Callable[[], Result], Callable[[Result], object]]


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def quantizers() -> Iterator[Run]:
    for dtype in DTYPES:
        for fmt, options in QUANTIZERS:
            shapes = (
                ((3, 128), (33, 1024 + 128)) if fmt.block else ((3, 17), (33, 1025), (33, 1032), (2, 20000))
            )
            for rows, k, gap in ((*shape, gap) for shape in shapes for gap in (0, 16)):
                x = normal(rows, k + gap, dtype=dtype).cuda()[:, :k]
                yield (
                    f"{fmt.name} {options or ''} {dtype} {rows}x{k}{' with gaps' * bool(gap)}",
                    lambda x=x, fmt=fmt, options=options: quantize(x, fmt, backend="triton", **options),
                    lambda q, x=x, fmt=fmt, options=options: compare_quantized(q, x, fmt, **options),
                )


def fused() -> Iterator[Run]:
    for dtype in DTYPES:
        for fmt in (NVFP4, get_format("mxfp4"), get_format("nvfp4_token")):
            gs = torch.tensor(50.0, device="cuda") if fmt == NVFP4 else None
            for rows, k in ((3, 128), (33, 1024 + 128)):
                x, weight = (
                    normal(rows, 2 * k, dtype=dtype).cuda(),
                    normal(1, k, dtype=dtype, seed=1)[0].cuda(),
                )
                half, options = x[:, :k], QuantizeOptions(fmt, global_scale=gs)
                norm = Norm(weight, residual=x[:, k:])
                yield (
                    f"{fmt.name} behind a norm {dtype} {rows}x{k}",
                    lambda x=half, n=norm, f=fmt, gs=gs: rms_norm_quantize(
                        x, n.weight, f, residual=n.residual, global_scale=gs
                    )[0],
                    lambda q, x=half, n=norm, o=options: norm_tolerance(
                        (q, add_residual(x, n.residual)), (x, n, o), rms_norm_quantize, "fp32"
                    ),
                )
                if fmt.global_granularity == "row":
                    continue
                yield (
                    f"{fmt.name} behind SiLU {dtype} {rows}x{k}",
                    lambda x=x, f=fmt, gs=gs: silu_mul_quantize(x, f, global_scale=gs),
                    lambda q, x=x, o=options: silu_tolerance(q, (x, o), silu_mul_quantize, "fp32"),
                )


def rounded() -> Iterator[Run]:
    def wanted(x: Tensor, hadamard: int | None) -> Tensor:
        q = nvfp4_token(x, hadamard=hadamard)
        return fp4_decode_rows(replace(q, format=NVFP4_1L, global_scale=None))

    for dtype in DTYPES:
        for rows, k, gap, had in ((3, 128, 0, None), (33, 1024 + 128, 16, 64)):
            x = normal(rows, k + gap, dtype=dtype).cuda()[:, :k]
            yield (
                f"nvfp4 rounded {dtype} {rows}x{k} had={had}",
                lambda x=x, had=had: nvfp4_rounded(x, hadamard=had)[0],
                lambda out, x=x, had=had: None if torch.equal(out, wanted(x, had)) else "not what is decoded",
            )


def attended() -> Iterator[Run]:
    """Attention of one token, in one part and in several, of heads that fill a product's rows and do not."""
    for dtype in attention.DTYPES:
        for texts, shared, width, places in (
            (1, 4, 128, 208),
            (3, 5, 64, 33),
            (2, 1, 16, 65),
            (2, 64, 128, 7),
            (2, 32, 256, 65),
        ):
            for kind in attention.MASKS:
                of = attention.rows(texts, 2, shared, width, places, dtype)
                mask = attention.mask_of(kind, of)
                yield (
                    f"attention {dtype} {texts}x{2 * shared}x{places}x{width}, mask {kind}",
                    lambda of=of, mask=mask: attend(*of, mask, None),
                    lambda y, of=of, mask=mask: attention.is_wrong(y, of, mask, None),
                )


def products() -> Iterator[Run]:
    for name in ("nvfp4", "nvfp4_1l", "mxfp4", "mxfp4_abs_max"):
        fmt = get_format(name)
        for m, n, k in (
            (1, 33, 160),
            (17, 70, 160),
            (40, 70, 96),
            (70, 130, 128),
            (130, 70, 160),
            (260, 130, 96),
            (300, 200, 128),
        ):
            b, bias = quantize_exactly(normal(n, k, seed=1), fmt).to("cuda"), normal(1, n, seed=2)[0].cuda()
            for host in (
                *(normal(m, k, dtype=dtype) for dtype in DTYPES),
                quantize_exactly(normal(m, k), fmt),
            ):
                a = host.to("cuda")
                kind = "quantized" if isinstance(a, QTensor) else a.dtype
                yield (
                    f"{name} product {kind} {m}x{n}x{k}",
                    lambda a=a, b=b, bias=bias: matmul(a, b, bias=bias, backend="triton"),
                    lambda out, a=a, b=b, bias=bias: product_is_wrong(out, a, b, bias),
                )
    for m in (3, 140):
        x, b = (
            normal(m, 160, dtype=torch.bfloat16),
            quantize_exactly(normal(80, 160, seed=1), NVFP4).to("cuda"),
        )
        for left in (x.cuda(), quantize_exactly(x, NVFP4).to("cuda")):
            gs = torch.tensor(20.0, device="cuda")
            yield (
                f"nvfp4 product and quantize {m}",
                lambda a=left, b=b, gs=gs: nvfp4_gemm_quantize(a, b, out_global_scale=gs),
                lambda q, a=left, b=b, gs=gs: quantized_product_is_wrong(q, a, b, gs),
            )


def prepared_products() -> Iterator[Run]:
    for name in ("nvfp4", "nvfp4_1l", "mxfp4", "mxfp4_abs_max"):
        fmt = get_format(name)
        for m, n, k in (
            (1, 33, 160),
            (9, 10240, 1056),
            (64, 72, 2048),
            (100, 264, 96),
            (300, 5128, 256),
            (70, 35, 96),
        ):
            b, bias = quantize_exactly(normal(n, k, seed=1), fmt).to("cuda"), normal(1, n, seed=2)[0].cuda()
            p = prepare(b)
            for host in (normal(m, k, dtype=torch.bfloat16), quantize_exactly(normal(m, k), fmt)):
                a = host.to("cuda")
                yield (
                    f"{name} prepared {'quantized' if isinstance(a, QTensor) else a.dtype} {m}x{n}x{k}",
                    lambda a=a, p=p, bias=bias: prepared_matmul(a, p, bias=bias),
                    lambda out, a=a, b=b, bias=bias: product_is_wrong(out, a, b, bias),
                )
            if fmt.scale == "e8m0" and n % 8 == 0 and torch.cuda.get_device_capability()[0] == 9:
                x, folded = normal(m, k, dtype=torch.bfloat16).cuda(), prepare(b, "w4a4")
                yield (
                    f"{name} folded {m}x{n}x{k}",
                    lambda x=x, p=folded, bias=bias, r=fmt.rule: prepared_matmul(
                        mxfp4_fold(x, rule=r).rows, p, bias=bias
                    ),
                    lambda out, x=x, b=b, bias=bias, fmt=fmt: product_is_wrong(
                        out, quantize(x, fmt), b, bias, "fp8-fast"
                    ),
                )


def quantized_products() -> Iterator[Run]:
    """Products of prepared weights with a quantized result, and such a result folded for the next product."""
    for name in ("nvfp4", "nvfp4_1l", "mxfp4", "mxfp4_abs_max"):
        fmt = get_format(name)
        for m, n, k in ((1, 96, 160), (9, 10240, 1056), (64, 96, 2048), (100, 288, 96), (300, 5152, 256)):
            b, x = quantize_exactly(normal(n, k, seed=1), fmt).to("cuda"), normal(m, k, dtype=torch.bfloat16)
            a = quantize_exactly(x, fmt).to("cuda")
            gs = (2688 / reference.matmul(a, b).abs().amax()).float() if fmt.levels == 2 else None
            left: list[tuple[Any, Tensor | QTensor, Prepared, str]] = [
                (each, each, prepare(b), "fp32") for each in (x.cuda(), a)
            ]
            if fmt.scale == "e8m0" and torch.cuda.get_device_capability()[0] == 9:
                left.append((fold(a), a, prepare(b, "w4a4"), "fp8-fast"))
            for given, meant, p, accumulator in left:
                yield (
                    f"{name} prepared {type(given).__name__} {m}x{n}x{k} and quantize",
                    lambda a=given, p=p, fmt=fmt, gs=gs: prepared_matmul_quantized(
                        a, p, fmt, global_scale=gs
                    ),
                    lambda q, a=meant, b=b, gs=gs, accumulator=accumulator: quantized_product_is_wrong(
                        q, a, b, gs, accumulator
                    ),
                )


def product_is_wrong(
    out: Tensor, a: Tensor | QTensor, b: QTensor, bias: Tensor, accumulator: str = "fp32"
) -> object:
    expected = reference.matmul(a, b, bias=bias)
    return within(out, expected, gemm_error(expected, reference.magnitude(a, b), b.shape[1], accumulator))


def quantized_product_is_wrong(
    q: QTensor, a: Tensor | QTensor, b: QTensor, gs: Tensor | None, accumulator: str = "fp32"
) -> object:
    y = reference.matmul(a, b)
    error = gemm_error(y, reference.magnitude(a, b), b.shape[1], accumulator)
    return compare_quantized(q, y, q.format, global_scale=gs, error=error)


def parts(result: Result) -> list[Tensor]:
    tensors = (
        [result]
        if isinstance(result, Tensor)
        else [result.data, result.scale, result.global_scale, result.zero_point]
    )
    return [t.contiguous().reshape(-1).view(torch.uint8) for t in tensors if t is not None]


def main() -> int:
    if not torch.cuda.is_available():
        print("every_kernel needs a CUDA device, and torch finds none", file=sys.stderr)
        return 2
    check, wrong, count = "--no-check" not in sys.argv, 0, 0
    for name, run, problem in (
        *quantizers(),
        *fused(),
        *rounded(),
        *attended(),
        *products(),
        *prepared_products(),
        *quantized_products(),
    ):
        first, count = run(), count + 1
        if check and (found := problem(first)):
            print(f"WRONG {name}: {found}")
            wrong += 1
        if check and not all(torch.equal(a, b) for a, b in zip(parts(first), parts(run()), strict=True)):
            print(f"DOES NOT REPEAT {name}")
            wrong += 1
    torch.cuda.synchronize()
    print(f"{count} variants launched" + (f", {wrong} wrong" if check else ""))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
