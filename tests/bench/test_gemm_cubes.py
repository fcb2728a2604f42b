"""FP4 products on cubes and on 4096-wide layer shapes, with and without the quantizing epilogue."""

from qkernels.format import FP8, FP8_TOKEN, MXFP4, NVFP4
from qkernels.ops.gemm import bf16_gemm, gemm, gemm_quantize
from qkernels.providers import prepared
from qkernels.providers.torch_gemm import (
    torch_bf16,
    torch_gemm_quantize,
    torch_scaled_mm_fp4,
    torch_scaled_mm_fp8,
)
from qkernels.triton import fp4_gemm, fp4_gemm_quantize, fp8_few


def cases(sweep):
    shapes = sweep.cubes_and_layers()
    made = sweep.cases(bf16_gemm(), [torch_bf16], shapes)
    # bf16_gemm has the dequantized product's time on a GPU already
    providers = [fp4_gemm.gemm, torch_scaled_mm_fp4, *([] if sweep.gpu else [torch_bf16])]
    made += sweep.cases(gemm(NVFP4, NVFP4), providers, shapes)
    exact = [] if sweep.gpu else [torch_gemm_quantize]
    nvfp4 = [fp4_gemm_quantize.gemm_quantize, prepared.gemm_quantize, *exact]
    made += sweep.cases(gemm_quantize(NVFP4), nvfp4, sweep.layers())
    made += sweep.cases(gemm_quantize(NVFP4, "w4a16"), nvfp4, sweep.layers()[:4])
    mxfp4 = [prepared.gemm_quantize, prepared.fp8_gemm_quantize, *exact]
    made += sweep.cases(gemm_quantize(MXFP4), mxfp4, sweep.layers())
    made += sweep.cases(gemm_quantize(MXFP4, "w4a16"), [prepared.gemm_quantize, *exact], sweep.layers()[:4])
    for fmt in (FP8, FP8_TOKEN):
        made += sweep.cases(gemm(fmt, fmt), [fp8_few.gemm, torch_scaled_mm_fp8], shapes[-6:])
    return made


def test_gemm_cubes(case, qbench):
    qbench(case)
