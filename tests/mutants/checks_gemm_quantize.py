"""The product with a quantizing epilogue, for which there is no public entry: judged by the quantizer comparator."""

from __future__ import annotations

import dataclasses

import torch

from qbench import gemm_error, poisoned_allocations
from qkernels import quantize, reference
from qkernels.compare import compare_quantized
from qkernels.format import MXFP4, NVFP4, NVFP4_1L
from qkernels.triton.fp4_gemm_quantize import nvfp4_gemm_quantize
from tests.mutants.helpers import certified, normal


def gemm_quantize() -> None:
    """The quantized result of an exact product equals the quantizer of that product; others lie within the bound."""
    for fmt, rows, columns in ((NVFP4, 17, 80), (NVFP4_1L, 1, 16), (MXFP4, 33, 144)):
        a, b = certified(rows, 96, fmt, 1), certified(columns, 96, fmt, 2)
        bias = torch.arange(float(columns)) * 0.25 - 9
        for left in (a, a.exact_values(torch.bfloat16)):
            for each in (None, bias):
                y = reference.matmul(left, b, bias=each)
                for gs in (2688.0 / float(y.abs().amax()), 1.0, 0.01):
                    scale = torch.tensor([gs])
                    with poisoned_allocations():
                        found = nvfp4_gemm_quantize(left, b, bias=each, out_global_scale=scale)
                    wrong = compare_quantized(found, y, NVFP4, global_scale=scale, error=torch.zeros_like(y))
                    assert wrong is None, f"{fmt.name} [{rows}, {columns}] under {gs:.3g}: {wrong}"
    a, b = quantize(normal(130, 160), NVFP4), quantize(normal(48, 160, seed=1), NVFP4)
    y = reference.matmul(a, b)
    gs = torch.tensor([2688.0 / float(y.abs().amax())])
    error = gemm_error(y, reference.magnitude(a, b), 160)
    wrong = compare_quantized(
        nvfp4_gemm_quantize(a, b, out_global_scale=gs), y, NVFP4, global_scale=gs, error=error
    )
    assert wrong is None, f"{wrong}"
    far = torch.tensor(1e-20)
    rows_of_nan = dataclasses.replace(a, scale=a.scale.clone().index_fill_(0, torch.tensor([3]), 0x7F))
    q = nvfp4_gemm_quantize(rows_of_nan, b, out_global_scale=gs)
    lost = q.dequantize().isnan().any(1).nonzero().flatten().tolist()
    assert lost == [3], f"a NaN row of the first operand reaches the rows {lost}"
    assert float(nvfp4_gemm_quantize(a, b, out_global_scale=far).global_scale) == float(far)
