"""Which kernel multiplies prepared weights: by the GPU, the rows of x and what each kernel takes.

Hopper    up to 64 rows of x, to 128 where that is quicker    fp4_few_sm90
          more, N a multiple of 8                             fp4_gemm_sm90
others    up to 64 rows                                       fp4_stream: mma.sync, from sm_80 on
else      fp4_unpack to a workspace, and cuBLAS with fp32 output

Where the result is quantized, Hopper's kernels do that in their epilogue; the others give an fp32 product, which the
quantizer's kernel takes. It is the fp32 sum after alpha and bias that is quantized everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qkernels.format import Format
from qkernels.triton.fp4_few_plan import quicker
from qkernels.triton.fp4_fragments import Fragments
from qkernels.triton.fp4_stream import MAX_ROWS, fp4_stream
from qkernels.triton.fp4_unpack import fp4_unpack
from qkernels.triton.mxfp4_quantize import mxfp4_quantize
from qkernels.triton.nvfp4_quantize import nvfp4_quantize
from qkernels.triton.quantized_result import Quantized
from qkernels.triton.x_scales import one_or_rows


def product(
    x: Tensor, w: Fragments, x_global_scale: Tensor | None, bias: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    """out_dtype [M, N] = x [M, K] times w [N, K] transposed, over both global scales, plus bias [N].

    x_global_scale: one, or one a row [M, 1].
    """
    hopper = torch.cuda.get_device_capability(x.device)[0] == 9
    if hopper and quicker(x.shape[0], *w.data.shape[:2]):
        from qkernels.triton.fp4_few_sm90 import fp4_few_sm90  # imports Gluon's names for Hopper

        return fp4_few_sm90(x, w, x_global_scale=x_global_scale, bias=bias, out_dtype=out_dtype)
    if x.shape[0] <= MAX_ROWS:
        return fp4_stream(x, w, x_global_scale=x_global_scale, bias=bias, out_dtype=out_dtype)
    if hopper and x.dtype == out_dtype and w.n % 8 == 0:
        from qkernels.triton.fp4_gemm_sm90 import fp4_gemm_sm90

        return fp4_gemm_sm90(aligned(x), w, x_global_scale=x_global_scale, bias=bias)
    one_or_rows(x_global_scale, x)
    y = torch.mm(x, fp4_unpack(w, x.dtype).T, out_dtype=torch.float32) * w.unit
    for gs in (w.global_scale, x_global_scale):  # in this order, as in the kernels
        if gs is not None:
            y /= gs
    return (y if bias is None else y + bias).to(out_dtype)


def quantized_product(
    x: Tensor,
    w: Fragments,
    x_global_scale: Tensor | None,
    bias: Tensor | None,
    fmt: Format,
    global_scale: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Codes uint8 [M, N/2] and scales uint8 [M, N/block] of the product in fp32, in a format of the epilogue's."""
    hopper = torch.cuda.get_device_capability(x.device)[0] == 9
    few = hopper and quicker(x.shape[0], *w.data.shape[:2])
    if few or (hopper and x.dtype in (torch.bfloat16, torch.float16)):
        into = Quantized.empty(x.shape[0], w.n, fmt, global_scale, x.device)
        if few:
            from qkernels.triton.fp4_few_sm90 import fp4_few_sm90

            fp4_few_sm90(x, w, x_global_scale=x_global_scale, bias=bias, into=into)
        elif into.codes.numel():
            from qkernels.triton.fp4_gemm_sm90 import fp4_gemm_sm90

            fp4_gemm_sm90(aligned(x), w, x_global_scale=x_global_scale, bias=bias, into=into)
        return into.codes, into.scales
    y = product(x, w, x_global_scale, bias, torch.float32)
    if fmt.scale == "e4m3":
        q = nvfp4_quantize(y, fmt=fmt, global_scale=global_scale)
    else:
        q = mxfp4_quantize(y, rule=fmt.rule)
    return q.data, q.scale


def aligned(x: Tensor) -> Tensor:
    """x, or a copy whose rows begin at multiples of 16 bytes, as TMA wants them."""
    if x.stride(1) == 1 and x.stride(0) % 8 == 0 and x.data_ptr() % 16 == 0:
        return x
    m, k = x.shape
    copy = torch.empty(m, -(-k // 8) * 8, dtype=x.dtype, device=x.device)[:, :k]
    return copy.copy_(x)
