"""Blocked scales, tensors to write into, tiles in turn, and what is fused before a quantizer, interpreted."""

from __future__ import annotations

import torch

from qbench import poisoned_allocations
from qkernels import quantize, silu_mul_quantize
from qkernels.format import MXFP4, NVFP4, get_format
from qkernels.norms import rms_norm, silu_mul
from qkernels.ops.fused import Norm, norm_tolerance, silu_tolerance
from qkernels.ops.quantize import QuantizeOptions
from qkernels.swizzle import to_blocked
from qkernels.triton import fp4_rows, mxfp4_quantize, nvfp4_quantize
from qkernels.triton.norm_words import NormPlan
from tests.mutants.helpers import normal


def layouts() -> None:
    """Blocked scales are the linear ones in tiles; given tensors are written; tiles in turn are all taken."""
    rows, squares = (64, 4, 2), (64, 4, 2)
    for m, k in ((3, 96), (133, 80)):
        x = normal(m, k, torch.float16)
        fmt = get_format("nvfp4_min_scale")
        with poisoned_allocations():
            linear = nvfp4_quantize.nvfp4_quantize(x, fmt=fmt, global_scale=9.0, shape=rows)
            blocked = nvfp4_quantize.nvfp4_quantize(
                x, fmt=fmt, global_scale=9.0, shape=squares, scale_layout="blocked"
            )
        assert torch.equal(blocked.data, linear.data), f"{m}x{k}: codes beside blocked scales are others"
        assert torch.equal(blocked.scale, to_blocked(linear.scale)), f"{m}x{k}: blocked scales"
    x = normal(3, 96, torch.float16)
    blocked = mxfp4_quantize.mxfp4_quantize(x, shape=squares, scale_layout="blocked")
    assert torch.equal(blocked.linear().scale, quantize(x, MXFP4, backend="torch").scale), (
        "MXFP4's blocked scales"
    )
    x = normal(9, 96, torch.float16)
    top = torch.full((), 7.0)
    q = quantize(x, NVFP4, backend="triton", global_scale_out=top)
    assert float(top) == float(q.global_scale) != 7.0, "the given global scale is not written"


def norms() -> None:
    """RMSNorm with and without a residual, and SiLU * up, in NVFP4, MXFP4 and with a global scale for each row."""
    for dtype in (torch.float16, torch.bfloat16):
        x, weight = normal(5, 192, dtype), 1 + normal(1, 96, torch.float32)[0] / 4
        half = x[:, :96] / 64
        half[3] = 0.0
        for fmt in (NVFP4, MXFP4, get_format("nvfp4_token")):
            gs = torch.tensor(400.0) if fmt == NVFP4 else None
            options = QuantizeOptions(fmt, global_scale=gs)
            for each in (torch.bfloat16, torch.float16, torch.float32):  # a weight of fp32 is no words
                for norm, plan in (
                    (Norm(weight.to(each), 1e-6), None),
                    (Norm(weight.to(each), 1e-3, x[:, 96:] / 64), None),
                    (Norm(weight.to(each), 1e-3, x[:, 96:] / 64), NormPlan(1, 16, reread=True)),
                ):
                    with poisoned_allocations():
                        out = fp4_rows.rms_norm_quantize(
                            half,
                            norm.weight,
                            fmt,
                            eps=norm.eps,
                            residual=norm.residual,
                            global_scale=gs,
                            plan=plan,
                        )
                    wrong = norm_tolerance(out, (half, norm, options), rms_norm, "fp32")
                    assert wrong is None, f"{fmt.name} of {dtype}, {each} weights, {plan}: {wrong}"
            if fmt.global_granularity == "row":
                continue
            q = silu_mul_quantize(x * 2, fmt, global_scale=gs, backend="triton")
            wrong = silu_tolerance(q, (x * 2, options), silu_mul, "fp32")
            assert wrong is None, f"{fmt.name} of {dtype}: {wrong}"
