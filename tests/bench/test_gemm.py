"""FP4 products on the models' layer shapes, and the plain bf16 product they are measured against."""

from qkernels.format import MXFP4, MXFP4_ABS_MAX, NVFP4
from qkernels.ops.gemm import bf16_gemm, gemm, hadamard_gemm
from qkernels.providers import gemlite, prepared, torch_formulas
from qkernels.providers.libraries import humming_gemm, qutlass_hadamard_gemm, vllm_nvfp4_gemm
from qkernels.providers.torch_gemm import torch_bf16, torch_quantize_matmul, torch_scaled_mm_fp4
from qkernels.triton import fp4_gemm, fp4_gemm_scaled

EIGHT_BITS = [torch_formulas.fp8_gemm, torch_formulas.scaled_mm_fast, torch_formulas.scaled_mm_promoted]


def cases(sweep):
    made = sweep.cases(bf16_gemm(), [torch_bf16], sweep.gemms())
    for fmt, had in ((NVFP4, 16), (MXFP4, 32)):
        made += sweep.cases(gemm(fmt), [fp4_gemm.gemm, prepared.gemm, humming_gemm], sweep.gemms())
        made += sweep.peers(gemm(fmt), [torch_formulas.gemm, gemlite.gemm], sweep.gemms())
        for size in sweep.hadamards(fmt, (had,)):
            shapes = sweep.gemms(had=size)
            quantizing = [fp4_gemm.hadamard_gemm, prepared.hadamard_gemm, torch_quantize_matmul]
            providers = [
                fp4_gemm.gemm,
                prepared.gemm,
                fp4_gemm_scaled.gemm,
                torch_scaled_mm_fp4,
                vllm_nvfp4_gemm,
            ]
            if fmt is MXFP4:
                quantizing.insert(2, prepared.fp8_hadamard_gemm)
                providers.insert(2, prepared.fp8_gemm)
            if sweep.gpu:  # the float64 quantizer is a provider for small shapes and CPUs
                quantizing.remove(torch_quantize_matmul)
            made += sweep.cases(hadamard_gemm(fmt), quantizing, shapes)
            made += sweep.cases(gemm(fmt, fmt), providers if sweep.gpu else [torch_bf16, *providers], shapes)
            peers = [torch_formulas.gemm, gemlite.gemm]
            if fmt is MXFP4:
                peers += EIGHT_BITS
                made += sweep.peers(hadamard_gemm(fmt), [torch_formulas.hadamard_gemm], shapes)
            made += sweep.peers(gemm(fmt, fmt), peers, shapes)
    # qutlass quantizes by its own rule: its rival is our kernel under that rule
    rivals = [qutlass_hadamard_gemm]
    if sweep.runs(qutlass_hadamard_gemm):
        rivals.append(fp4_gemm.hadamard_gemm)
    for size in sweep.hadamards(MXFP4_ABS_MAX, (32,)):
        made += sweep.cases(hadamard_gemm(MXFP4_ABS_MAX), rivals, sweep.gemms(had=size))
    return made


def test_gemm(case, qbench):
    qbench(case)
