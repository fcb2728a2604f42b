"""NVFP4 and MXFP4 quantizers, plain and with a fused rotation."""

from qkernels.format import MXFP4, MXFP4_ABS_MAX, MXFP4_QUEST, MXFP4_RCEIL, NVFP4
from qkernels.ops.quantize import quantize_fp4
from qkernels.providers import gemlite
from qkernels.providers.libraries import torchao_quantize
from qkernels.providers.torch_quantize import torch_compile, torch_exact
from qkernels.triton.mxfp4_quantize import quantize_mxfp4
from qkernels.triton.nvfp4_quantize import quantize_nvfp4


def cases(sweep):
    if sweep.quant_dtype:
        return []
    slow = [] if sweep.gpu else [torch_exact]
    made = []
    for scale in ("static",) if sweep.static_scale else ("static", "dynamic"):
        for had in (0, *sweep.hadamards(NVFP4, (16,))):
            shapes = sweep.activations(scale=scale, had=had)
            made += sweep.cases(quantize_fp4(NVFP4), [quantize_nvfp4, *slow], shapes)
            if not had:
                made += sweep.cases(quantize_fp4(NVFP4), [gemlite.quantize], shapes)
    for fmt in (MXFP4, MXFP4_ABS_MAX, MXFP4_QUEST):
        sizes = (0, *sweep.hadamards(MXFP4, (128,))) if fmt is MXFP4 else sweep.hadamards(fmt, (128,))
        for had in sizes:
            shapes = sweep.activations(had=had)
            made += sweep.cases(quantize_fp4(fmt), [quantize_mxfp4, *slow], shapes)
            if fmt is MXFP4 and not had:
                made += sweep.cases(quantize_fp4(fmt), [torchao_quantize], shapes)
                made += sweep.cases(quantize_fp4(fmt), [torch_compile], sweep.compiled(shapes))
    # gemlite quantizes by rceil: its rival is our kernel under that rule
    rivals = [gemlite.quantize, quantize_mxfp4] if sweep.runs(gemlite.quantize) else [gemlite.quantize]
    return made + sweep.cases(quantize_fp4(MXFP4_RCEIL), rivals, sweep.activations(had=0))


def test_quantize_fp4(case, qbench):
    qbench(case)
