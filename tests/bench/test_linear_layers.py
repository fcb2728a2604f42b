"""LinearNVFP4 and LinearMXFP4 end to end on 4096-wide layers; the bf16 product of the shape stands beside them."""

from qkernels.format import MXFP4, NVFP4
from qkernels.linear_op import linear
from qkernels.providers.torch_gemm import module_forward


def cases(sweep):
    return [
        case for fmt in (NVFP4, MXFP4) for case in sweep.cases(linear(fmt), [module_forward], sweep.layers())
    ]


def test_linear_layers(case, qbench):
    qbench(case)
