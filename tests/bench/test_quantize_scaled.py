"""FP8 and INT8 quantizers with static and dynamic scales."""

from qkernels.ops.quantize import quantize_fp8, quantize_int8
from qkernels.providers.libraries import vllm_quantize
from qkernels.providers.torch_quantize import torch_compile, torch_eager
from qkernels.triton.fp8_quantize import quantize_fp8 as triton_fp8
from qkernels.triton.int8_quantize import quantize_int8 as triton_int8

KINDS = {
    "fp8": ("static", "tensor", "token", "block", "block2d"),
    "int8": ("static", "token", "asymmetric", "static_asymmetric"),
}


def cases(sweep):
    made = []
    for name, op, kernel in (("fp8", quantize_fp8(), triton_fp8), ("int8", quantize_int8(), triton_int8)):
        if sweep.quant_dtype not in (None, name):
            continue
        for scale in ("static",) if sweep.static_scale else KINDS[name]:
            shapes = sweep.activations(scale=scale)
            eager = [] if sweep.gpu else [torch_eager]
            made += sweep.cases(op, [kernel, vllm_quantize, *eager], shapes)
            made += sweep.cases(op, [torch_compile], sweep.compiled(shapes))
    return made


def test_quantize_scaled(case, qbench):
    qbench(case)
