"""LinearNVFP4 and LinearMXFP4 end to end on 4096-wide layers; the bf16 product of the shape stands beside them."""

from qkernels.format import MXFP4, NVFP4
from qkernels.linear_op import linear
from qkernels.providers import prepared
from qkernels.providers.torch_gemm import module_forward


def cases(sweep):
    made = []
    for fmt, fast in ((NVFP4, prepared.linear), (MXFP4, prepared.fp8_linear)):
        made += sweep.cases(linear(fmt), [module_forward, fast], sweep.layers())
    return made


def test_linear_layers(case, qbench):
    qbench(case)
