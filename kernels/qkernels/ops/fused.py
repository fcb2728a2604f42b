"""Operations that quantize what a norm or an activation gives, without writing it: (operands, options) -> QTensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qbench import Cost, Mismatch, Op, Workload
from qkernels.compare import compare_quantized
from qkernels.format import Format
from qkernels.norms import add_residual, rms_norm, rms_norm_error, silu_mul, silu_mul_error
from qkernels.ops.operands import activations, dtype_of, normal
from qkernels.ops.quantize import QuantizeOptions
from qkernels.quantize import quantize_values
from qkernels.swizzle import blocked_bytes
from qkernels.tensor import QTensor

EPS = 1e-6


@dataclass(frozen=True)
class Norm:
    """What RMSNorm takes besides x [M, K]: weight [K], a number below the root, and what is added to x first."""

    weight: Tensor
    eps: float = EPS
    residual: Tensor | None = None


def rms_norm_fp4(fmt: Format) -> Op:
    """RMSNorm of x [m, k], quantized: (x, Norm, options) -> (QTensor, x + residual or None).

    Axes m, k, dtype, layout (linear, blocked), residual (0, 1). The global scale of two levels is static.
    """

    def inputs(workload: Workload, device: torch.device) -> tuple[Tensor, Norm, QuantizeOptions]:
        m, k, dtype = workload.size("m"), workload.size("k"), dtype_of(workload.get("dtype", "half"))
        x = activations(m, k, dtype, workload.seed, device)
        weight = 1 + normal(1, k, dtype, "norm", workload.seed, device)[0] / 8
        beside = (
            normal(m, k, dtype, "residual", workload.seed, device) if workload.get("residual", 0) else None
        )
        return x, Norm(weight, residual=beside), _options(fmt, workload, device)

    def cost(workload: Workload) -> Cost:
        m, k = workload.size("m"), workload.size("k")
        width = dtype_of(workload.get("dtype", "half")).itemsize
        passes = 3 if workload.get("residual", 0) else 1
        return Cost(width * (passes * m * k + k) + _written(fmt, workload), elements=m * k)

    return Op(f"{fmt.name}_rms_norm", inputs, norm_reference, norm_tolerance, cost)


def silu_mul_fp4(fmt: Format) -> Op:
    """silu(gate) * up of x [m, 2k], quantized: (x, options) -> QTensor [m, k]. Axes m, k, dtype, layout."""

    def inputs(workload: Workload, device: torch.device) -> tuple[Tensor, QuantizeOptions]:
        dtype = dtype_of(workload.get("dtype", "half"))
        x = activations(workload.size("m"), 2 * workload.size("k"), dtype, workload.seed, device)
        return x, _options(fmt, workload, device)

    def cost(workload: Workload) -> Cost:
        m, k = workload.size("m"), workload.size("k")
        width = dtype_of(workload.get("dtype", "half")).itemsize
        return Cost(width * 2 * m * k + _written(fmt, workload), elements=m * k)

    return Op(f"{fmt.name}_silu_mul", inputs, silu_reference, silu_tolerance, cost)


def _options(fmt: Format, workload: Workload, device: torch.device) -> QuantizeOptions:
    static = fmt.levels == 2 and fmt.global_granularity == "tensor"
    gs = torch.full((), fmt.scale_max * fmt.element.max / 16.0, device=device) if static else None
    layout = workload.get("layout", "linear")
    return QuantizeOptions(fmt, global_scale=gs, scale_layout="blocked" if layout == "blocked" else "linear")


def _written(fmt: Format, workload: Workload) -> int:
    m, k = workload.size("m"), workload.size("k")
    if workload.get("layout", "linear") != "blocked":
        return fmt.nbytes((m, k))
    return fmt.nbytes((m, k)) + blocked_bytes(m, fmt.scale_shape((m, k))[-1]) - fmt.scale_count((m, k))


def _quantized(y: Tensor, options: QuantizeOptions) -> QTensor:
    q = quantize_values(y, options.format, global_scale=options.global_scale)
    return q.blocked() if options.scale_layout == "blocked" else q


def norm_reference(x: Tensor, norm: Norm, options: QuantizeOptions) -> tuple[QTensor, Tensor | None]:
    """The norm in float64, and the exact quantizer."""
    total = x if norm.residual is None else add_residual(x, norm.residual)
    q = _quantized(rms_norm(total, norm.weight, norm.eps), options)
    return q, None if norm.residual is None else total


def norm_tolerance(
    output: tuple[QTensor, Tensor | None],
    inputs: tuple[Any, ...],
    reference: Callable[..., Any],
    accumulator: str,
) -> Mismatch | None:
    """The sum with the residual exactly, and the quantizer's comparator with y known to within fp32's errors."""
    x, norm, options = inputs
    q, total = output
    exact = x if norm.residual is None else add_residual(x, norm.residual)
    if norm.residual is not None and (total is None or not torch.equal(_bits(total), _bits(exact))):
        return Mismatch("x + residual is not what fp32 gives, rounded to x's dtype", x.numel(), x.numel())
    y = rms_norm(exact, norm.weight, norm.eps)
    return _compared(q, y, rms_norm_error(y), options)


def _bits(x: Tensor) -> Tensor:
    """For a comparison that takes every NaN for the same."""
    return torch.nan_to_num(x, nan=0.0, posinf=torch.inf, neginf=-torch.inf)


def silu_reference(x: Tensor, options: QuantizeOptions) -> QTensor:
    """SiLU * up in float64, and the exact quantizer."""
    return _quantized(silu_mul(x), options)


def silu_tolerance(
    output: QTensor, inputs: tuple[Any, ...], reference: Callable[..., Any], accumulator: str
) -> Mismatch | None:
    """The quantizer's comparator with y known to within fp32's errors."""
    x, options = inputs
    return _compared(output, silu_mul(x), silu_mul_error(x), options)


def _compared(q: QTensor, y: Tensor, error: Tensor, options: QuantizeOptions) -> Mismatch | None:
    return compare_quantized(
        q,
        y,
        options.format,
        global_scale=options.global_scale,
        error=error,
        scale_layout=options.scale_layout,
    )
