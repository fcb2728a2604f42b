"""Quantizers with what stands before them in a model: RMSNorm, and SiLU(gate) * up. FP4 formats, one kernel each.

Both compute in fp32 and quantize that: the result is not rounded to x's dtype in between, as it is where a norm or an
activation writes its own result, and is the nearer for it.
"""

from __future__ import annotations

from torch import Tensor

from .api import as_format, choose_backend
from .format import E2M1, MXFP4_QUEST, Format
from .norms import add_residual, check_norm, rms_norm, silu_mul
from .quantize import check_input, quantize_values
from .tensor import QTensor, ScaleLayout, check_scale_layout


def rms_norm_quantize(
    x: Tensor,
    weight: Tensor,
    fmt: Format | str,
    *,
    eps: float = 1e-6,
    residual: Tensor | None = None,
    global_scale: Tensor | None = None,
    scale_layout: ScaleLayout = "linear",
    backend: str = "auto",
) -> tuple[QTensor, Tensor | None]:
    """(x * rsqrt(mean(x^2) + eps) * weight in a format, None) of x [M, K] and weight [K].

    residual      [M, K] of x's dtype: x + residual, rounded to that dtype, is normed, and returned beside the result
    global_scale  NVFP4: one static float32 encode scale; nvfp4_token computes one for each row
    scale_layout  as in `quantize`
    ValueError for a format that no norm is fused with, or operands that do not go together.
    """
    fmt = _fusable(as_format(fmt), global_scale, by_row=True)
    check_input(x, fmt, None)
    if x.ndim != 2:
        raise ValueError(f"x has shape {list(x.shape)}, the norm takes [M, K]; use x.reshape(-1, K)")
    check_norm(x, weight, residual, eps)
    check_scale_layout(scale_layout, fmt)
    if choose_backend(backend, x.device) == "torch":
        total = x if residual is None else add_residual(x, residual)
        q = quantize_values(rms_norm(total, weight, eps), fmt, global_scale=global_scale)
        return q.blocked() if scale_layout == "blocked" else q, None if residual is None else total
    from .triton import fp4_rows

    return fp4_rows.rms_norm_quantize(
        x, weight, fmt, eps=eps, residual=residual, global_scale=global_scale, scale_layout=scale_layout
    )


def silu_mul_quantize(
    x: Tensor,
    fmt: Format | str,
    *,
    global_scale: Tensor | None = None,
    scale_layout: ScaleLayout = "linear",
    backend: str = "auto",
) -> QTensor:
    """silu(x[:, :K]) * x[:, K:] [M, K] in a format, of x [M, 2K]: what a merged gate_up layer gives.

    global_scale  NVFP4: one static float32 encode scale
    ValueError for a format that it is not fused with, or another shape.
    """
    fmt = _fusable(as_format(fmt), global_scale, by_row=False)
    if x.ndim != 2 or x.shape[1] % 2:
        raise ValueError(f"x has shape {list(x.shape)}; it must be [M, 2K], gate and up beside each other")
    check_input(x[:, : x.shape[1] // 2], fmt, None)
    check_scale_layout(scale_layout, fmt)
    if choose_backend(backend, x.device) == "torch":
        q = quantize_values(silu_mul(x), fmt, global_scale=global_scale)
        return q.blocked() if scale_layout == "blocked" else q
    from .triton import fp4_silu

    return fp4_silu.silu_mul_quantize(x, fmt, global_scale=global_scale, scale_layout=scale_layout)


def _fusable(fmt: Format, global_scale: Tensor | None, *, by_row: bool) -> Format:
    """The format, if it is of FP4, its scales follow from blocks' largest magnitudes, and its global scale is known."""
    rows = fmt.global_granularity == "row"
    if fmt.element != E2M1 or fmt.block_rows > 1 or fmt == MXFP4_QUEST or (rows and not by_row):
        raise ValueError(f"nothing is fused with {fmt.name}; take NVFP4 or MXFP4, or quantize the result")
    if fmt.levels == 2 and rows == (global_scale is not None):
        raise ValueError(
            f"the global scales of {fmt.name} are computed for each row; leave global_scale out"
            if rows
            else f"{fmt.name} is fused with a static global_scale; pass one"
        )
    if fmt.levels == 1 and global_scale is not None:
        raise ValueError(f"{fmt.name} has one scale level and takes no global_scale; leave it out")
    return fmt
