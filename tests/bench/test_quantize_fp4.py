"""NVFP4 and MXFP4 quantizers: plain, with a fused rotation, with blocked scales, and behind a norm or an activation."""

from qkernels.format import (
    MXFP4,
    MXFP4_ABS_MAX,
    MXFP4_QUEST,
    MXFP4_RCEIL,
    NVFP4,
    NVFP4_2D,
    NVFP4_4OVER6,
    NVFP4_MIN_SCALE,
    NVFP4_TOKEN,
)
from qkernels.ops.fused import rms_norm_fp4, silu_mul_fp4
from qkernels.ops.quantize import quantize_fp4
from qkernels.providers import gemlite
from qkernels.providers.libraries import torchao_quantize
from qkernels.providers.torch_fp4 import TAKES, torch_compile_fp4, torch_compile_norm, torch_compile_silu
from qkernels.providers.torch_quantize import torch_exact
from qkernels.triton.fp4_rows import norm_quantize, quantize_nvfp4_token
from qkernels.triton.fp4_silu import activate_quantize
from qkernels.triton.mxfp4_quantize import quantize_mxfp4
from qkernels.triton.nvfp4_quantize import quantize_nvfp4


def cases(sweep):
    if sweep.quant_dtype:
        return []
    slow = [] if sweep.gpu else [torch_exact]
    made = []

    def add(fmt, kernel, rivals=(), **axes):
        shapes = sweep.activations(**axes)
        found = sweep.cases(quantize_fp4(fmt), [kernel, *rivals], shapes)
        if fmt in TAKES and axes.get("layout", "linear") == "linear":
            found += sweep.cases(quantize_fp4(fmt), [torch_compile_fp4], sweep.compiled(shapes))
        return found

    for scale in ("static",) if sweep.static_scale else ("static", "dynamic"):
        for had in (0, *sweep.hadamards(NVFP4, (16,))):
            rivals = [] if had else [gemlite.quantize]
            made += add(NVFP4, quantize_nvfp4, [*slow, *rivals], scale=scale, had=had)
    made += add(NVFP4, quantize_nvfp4, scale="static", had=0, layout="blocked")
    for fmt in (NVFP4_MIN_SCALE, NVFP4_4OVER6, NVFP4_2D):
        made += add(fmt, quantize_nvfp4, scale="static", had=0)
    if not sweep.static_scale:
        made += add(NVFP4_TOKEN, quantize_nvfp4_token, scale="dynamic", had=0)
    for fmt in (MXFP4, MXFP4_ABS_MAX, MXFP4_QUEST):
        sizes = (0, *sweep.hadamards(MXFP4, (128,))) if fmt is MXFP4 else sweep.hadamards(fmt, (128,))
        for had in sizes:
            rivals = [torchao_quantize] if fmt is MXFP4 and not had else []
            made += add(fmt, quantize_mxfp4, [*slow, *rivals], had=had)
    made += add(MXFP4, quantize_mxfp4, had=0, layout="blocked")
    for fmt in (NVFP4, MXFP4):
        for op, kernel, rival, axes in (
            (rms_norm_fp4(fmt), norm_quantize, torch_compile_norm, [{"residual": 0}, {"residual": 1}]),
            (silu_mul_fp4(fmt), activate_quantize, torch_compile_silu, [{}]),
        ):
            for each in axes:
                shapes = sweep.activations(**each)
                made += sweep.cases(op, [kernel], shapes)
                made += sweep.cases(op, [rival], sweep.compiled(shapes))
    # gemlite quantizes by rceil: its rival is our kernel under that rule
    rivals = [gemlite.quantize, quantize_mxfp4] if sweep.runs(gemlite.quantize) else [gemlite.quantize]
    return made + sweep.cases(quantize_fp4(MXFP4_RCEIL), rivals, sweep.activations(had=0))


def test_quantize_fp4(case, qbench):
    qbench(case)
