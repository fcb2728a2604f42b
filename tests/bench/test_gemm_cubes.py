"""NVFP4 products on cubes and on 4096-wide layer shapes, with and without the quantizing epilogue."""

from qkernels.format import FP8, FP8_TOKEN, NVFP4
from qkernels.ops.gemm import bf16_gemm, gemm, gemm_quantize
from qkernels.providers.torch_gemm import (
    torch_bf16,
    torch_gemm_quantize,
    torch_scaled_mm_fp4,
    torch_scaled_mm_fp8,
)
from qkernels.triton import fp4_gemm, fp4_gemm_quantize


def cases(sweep):
    shapes = sweep.cubes_and_layers()
    made = sweep.cases(bf16_gemm(), [torch_bf16], shapes)
    # bf16_gemm has the dequantized product's time on a GPU already
    providers = [fp4_gemm.gemm, torch_scaled_mm_fp4, *([] if sweep.gpu else [torch_bf16])]
    made += sweep.cases(gemm(NVFP4, NVFP4), providers, shapes)
    quantizing = [fp4_gemm_quantize.gemm_quantize, *([] if sweep.gpu else [torch_gemm_quantize])]
    made += sweep.cases(gemm_quantize(NVFP4), quantizing, sweep.layers())
    for fmt in (FP8, FP8_TOKEN):
        made += sweep.cases(gemm(fmt, fmt), [torch_scaled_mm_fp8], shapes[-6:])
    return made


def test_gemm_cubes(case, qbench):
    qbench(case)
