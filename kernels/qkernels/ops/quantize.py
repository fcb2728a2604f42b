"""Quantizing operations: (x, options) -> QTensor.

Every option that changes the result travels with the operands, so that a provider cannot miss one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qbench import Cost, Mismatch, Op, Workload
from qkernels.compare import compare_quantized
from qkernels.format import FP8, FP8_BLOCK, FP8_BLOCK_2D, FP8_TOKEN, INT8, INT8_ASYM, INT8_TOKEN, Format
from qkernels.ops.operands import activations, dtype_of
from qkernels.quantize import Rounding, quantize
from qkernels.swizzle import blocked_bytes
from qkernels.tensor import QTensor, ScaleLayout

FP8_KINDS = {"static": FP8, "tensor": FP8, "token": FP8_TOKEN, "block": FP8_BLOCK, "block2d": FP8_BLOCK_2D}
INT8_KINDS = {"static": INT8, "token": INT8_TOKEN, "asymmetric": INT8_ASYM, "static_asymmetric": INT8_ASYM}
"""What the axis `scale` says of a quantizer, and its format."""


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantize: the format, a rotation of K first, static scales where they are not dynamic, and the rounding.

    rounding "stochastic": codes are drawn; `seed` is that of the provider's generator, and equal seeds repeat.
    scale_layout "blocked": the scales in 128x4 tiles (`QTensor.scale_layout`).
    """

    format: Format
    hadamard: int | None = None
    global_scale: Tensor | None = None
    scale: Tensor | None = None
    zero_point: Tensor | None = None
    rounding: Rounding = "nearest"
    seed: int = 0
    scale_layout: ScaleLayout = "linear"

    def generator(self, device: torch.device) -> torch.Generator | None:
        """A fresh generator on that device; None for rounding to nearest."""
        return None if self.rounding == "nearest" else torch.Generator(device).manual_seed(self.seed)


def quantize_fp4(fmt: Format) -> Op:
    """A block format of x [m, k]; axes m, k, dtype, had (0: none), layout (linear, blocked: of the scales)
    and, for two levels, scale (static, dynamic)."""

    def options(workload: Workload, x: Tensor) -> QuantizeOptions:
        had = int(workload.get("had", 0) or 0) or None
        static = workload.get("scale", "dynamic") == "static"
        # 6 standard deviations of the (rotated) activations' largest channel: a calibrated, not an exact, amax
        shape = (len(x), 1) if fmt.global_granularity == "row" else ()
        gs = torch.full(shape, fmt.scale_max * fmt.element.max / 48.0, device=x.device) if static else None
        layout: ScaleLayout = "blocked" if workload.get("layout", "linear") == "blocked" else "linear"
        return QuantizeOptions(fmt, had, global_scale=gs, scale_layout=layout)

    return _quantize_op(f"{fmt.name}_quantize", fmt, options)


def quantize_fp8() -> Op:
    """FP8 e4m3 of x [m, k]; axes m, k, dtype, scale: static, tensor (dynamic per tensor), token, block or block2d."""

    def options(workload: Workload, x: Tensor) -> QuantizeOptions:
        kind = _scale_of(workload, FP8_KINDS)
        scale = torch.full((1,), 0.07, device=x.device) if kind == "static" else None
        return QuantizeOptions(FP8_KINDS[kind], scale=scale)

    return _quantize_op("fp8_quantize", FP8_KINDS, options)


def quantize_int8() -> Op:
    """INT8 of x [m, k]; axes m, k, dtype, scale: static, static_asymmetric, token or asymmetric (dynamic)."""

    def options(workload: Workload, x: Tensor) -> QuantizeOptions:
        kind = _scale_of(workload, INT8_KINDS)
        static = kind.startswith("static")
        scale = torch.full((1,), 0.2, device=x.device) if static else None
        asymmetric = kind == "static_asymmetric"
        zero = torch.full((1,), -5, dtype=torch.int32, device=x.device) if asymmetric else None
        return QuantizeOptions(INT8_KINDS[kind], scale=scale, zero_point=zero)

    return _quantize_op("int8_quantize", INT8_KINDS, options)


def _quantize_op(
    name: str, fmt: Format | Mapping[str, Format], options: Callable[[Workload, Tensor], QuantizeOptions]
) -> Op:
    def inputs(workload: Workload, device: torch.device) -> tuple[Tensor, QuantizeOptions]:
        dtype = dtype_of(workload.get("dtype", "half"))
        x = activations(workload.size("m"), workload.size("k"), dtype, workload.seed, device)
        return x, options(workload, x)

    def cost(workload: Workload) -> Cost:
        m, k = workload.size("m"), workload.size("k")
        width = dtype_of(workload.get("dtype", "half")).itemsize
        made = fmt if isinstance(fmt, Format) else fmt[_scale_of(workload, fmt)]
        padding = 0
        if workload.get("layout", "linear") == "blocked":
            padding = blocked_bytes(m, made.scale_shape((m, k))[-1]) - made.scale_count((m, k))
        return Cost(width * m * k + made.nbytes((m, k)) + padding, elements=m * k)

    return Op(name, inputs, reference, tolerance, cost)


def reference(x: Tensor, options: QuantizeOptions) -> QTensor:
    """The exact quantizer with the same options."""
    q = quantize(
        x,
        options.format,
        global_scale=options.global_scale,
        hadamard=options.hadamard,
        scale=options.scale,
        zero_point=options.zero_point,
        rounding=options.rounding,
        generator=options.generator(x.device),
    )
    return q.blocked() if options.scale_layout == "blocked" else q


def tolerance(
    output: QTensor, inputs: tuple[Any, ...], reference_: Callable[..., Any], accumulator: str
) -> Mismatch | None:
    """The quantizer comparator: bytes, not values."""
    x, options = inputs
    return compare_quantized(
        output,
        x,
        options.format,
        hadamard=options.hadamard,
        global_scale=options.global_scale,
        scale=options.scale,
        zero_point=options.zero_point,
        rounding=options.rounding,
        scale_layout=options.scale_layout,
    )


def _scale_of(workload: Workload, known: Iterable[str]) -> str:
    kind = str(workload.get("scale", "token"))
    if kind not in known:
        raise ValueError(f"unknown scale {kind!r}; known: {', '.join(known)}")
    return kind
