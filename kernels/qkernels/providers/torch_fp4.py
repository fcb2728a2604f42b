"""FP4 quantizers in plain torch, for torch.compile: the formula in fp32, alone or behind RMSNorm or SiLU(gate) * up.

What a user without kernels would write and compile: the rivals of this package's kernels at every size. Inputs are
taken to be finite, which the kernels do not ask.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from qbench import provider
from qkernels.format import (
    MXFP4,
    MXFP4_ABS_MAX,
    MXFP4_CEIL,
    MXFP4_EVEN,
    MXFP4_RCEIL,
    NVFP4,
    NVFP4_1L,
    NVFP4_4OVER6,
    NVFP4_4OVER6_MAE,
    NVFP4_MIN_SCALE,
    NVFP4_TOKEN,
    Format,
)
from qkernels.hadamard import hadamard_matrix
from qkernels.ops.fused import Norm
from qkernels.ops.quantize import QuantizeOptions
from qkernels.ops.require import require
from qkernels.providers.torch_quantize import compiled, pack_e2m1
from qkernels.quantize import check_input
from qkernels.tensor import QTensor

TAKES: dict[Format, tuple[str, ...]] = {
    **dict.fromkeys(
        (NVFP4, NVFP4_MIN_SCALE, NVFP4_4OVER6, NVFP4_4OVER6_MAE, NVFP4_TOKEN), ("hadamard", "global_scale")
    ),
    **dict.fromkeys(
        (NVFP4_1L, MXFP4, MXFP4_CEIL, MXFP4_EVEN, MXFP4_RCEIL, MXFP4_ABS_MAX), ("hadamard",)
    ),
}  # fmt: skip
"""The formats that have a formula here, and the options of each."""

_FRACTION = {"ceil": 1, "even": 0x600000, "rceil": 0x400001}  # of amax, from which the exponent is one larger
Formula = Callable[..., tuple[Tensor, Tensor, Tensor | None]]
"""fp32 values [M, K], and the global scale where it is static -> codes, scale bytes, global scale."""


@cache  # one function for each formula: torch.compile remembers by it
def formula_of(fmt: Format, hadamard: int | None = None, before: str = "") -> Formula:
    """x [M, K] (then weight and eps, before = "norm"; [M, 2K], before = "silu") and gs -> the parts of a QTensor."""

    def quantize(y: Tensor, gs: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        if hadamard is not None:
            matrix = hadamard_matrix(hadamard, device=y.device)
            y = (y.unflatten(-1, (-1, hadamard)) @ matrix).flatten(-2) * hadamard**-0.5
        return _nvfp4(y, gs, fmt) if fmt.scale == "e4m3" else _mxfp4(y, fmt)

    def alone(x: Tensor, gs: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        return quantize(x.float(), gs)

    def norm(
        x: Tensor, weight: Tensor, eps: float, gs: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps) * weight.float()
        return quantize(y, gs)

    def silu(x: Tensor, gs: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        gate, up = x.float().chunk(2, dim=-1)
        return quantize(torch.nn.functional.silu(gate) * up, gs)

    known: dict[str, Formula] = {"": alone, "norm": norm, "silu": silu}
    return known[before]


def _nvfp4(y: Tensor, gs: Tensor | None, fmt: Format) -> tuple[Tensor, Tensor, Tensor | None]:
    blocks = y.unflatten(-1, (y.shape[-1] // 16, 16))
    amax = blocks.abs().amax(-1)
    by_row = fmt.global_granularity == "row"
    if fmt.levels == 2 and gs is None:
        top = amax.amax(-1, keepdim=True) if by_row else amax.amax()
        gs = torch.where(top > 0, fmt.scale_max * 6.0 / top, 1.0)
    encode = torch.ones((), device=y.device) if gs is None else gs
    wanted = blocks * (encode.unsqueeze(-1) if by_row else encode)
    t = amax * encode / 6.0
    scale = t.clamp(fmt.min_scale, 448.0).to(torch.float8_e4m3fn)
    if fmt.select:
        four = (t * 1.5).clamp(fmt.min_scale, 448.0).to(torch.float8_e4m3fn)
        better = _error(wanted, four, fmt) < _error(wanted, scale, fmt)
        scale = torch.where(better, four.view(torch.uint8), scale.view(torch.uint8)).view(torch.float8_e4m3fn)
    decoded = scale.float().unsqueeze(-1)
    codes = pack_e2m1(torch.where(decoded > 0, wanted / decoded, 0.0))
    return codes.flatten(-2), scale.view(torch.uint8), gs


def _error(wanted: Tensor, scale: Tensor, fmt: Format) -> Tensor:
    """Of the codes nearest under a scale, as four-over-six compares them."""
    decoded = scale.float().unsqueeze(-1)
    y = torch.where(decoded > 0, wanted / decoded, 0.0)
    size = y.abs().clamp(max=6.0)
    quantum = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    off = torch.round(size / quantum) * quantum * decoded - wanted.abs()
    return (off.square() if fmt.select == "mse" else off.abs()).sum(-1)


def _mxfp4(y: Tensor, fmt: Format) -> tuple[Tensor, Tensor, Tensor | None]:
    blocks = y.unflatten(-1, (y.shape[-1] // 32, 32))
    amax = blocks.abs().amax(-1)
    if fmt.rule == "abs_max":
        byte = (amax + 1e-8).view(torch.int32) >> 23
    else:
        bits = amax.view(torch.int32)
        byte = (bits >> 23) - 2
        if fmt.rule in _FRACTION:
            byte = byte + ((bits & 0x7FFFFF) >= _FRACTION[fmt.rule]).to(torch.int32)
    byte = byte.clamp(min=0)
    scaled = blocks * torch.exp2(127.0 - byte.float()).unsqueeze(-1) * fmt.gain
    return pack_e2m1(scaled).flatten(-2), byte.to(torch.uint8), None


def _quantized(parts: tuple[Tensor, Tensor, Tensor | None], options: QuantizeOptions) -> QTensor:
    data, scale, gs = parts
    rows, columns = data.shape[0], data.shape[1] * 2
    return QTensor(data, scale, options.format, (rows, columns), gs, options.hadamard)


@provider("torch-eager")
def torch_eager_fp4(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """The formula in fp32, one torch operation at a time."""
    return _alone(x, options, lambda formula: formula)


@provider("torch-compile")
def torch_compile_fp4(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """The formula in fp32 under torch.compile, static shapes."""
    return _alone(
        x, options, lambda formula: compiled(formula, x.shape, x.dtype, options.global_scale is None)
    )


def _alone(x: Tensor, options: QuantizeOptions, build: Callable[[Formula], Formula]) -> Callable[[], QTensor]:
    require(options, "the plain torch formula", TAKES)
    check_input(x, options.format, options.hadamard)
    run = build(formula_of(options.format, options.hadamard))
    return lambda: _quantized(run(x, options.global_scale), options)


@provider("torch-compile")
def torch_compile_norm(
    x: Tensor, norm: Norm, options: QuantizeOptions
) -> Callable[[], tuple[QTensor, Tensor | None]]:
    """RMSNorm (of the sum with the residual) and the formula, under torch.compile."""
    require(options, "the plain torch formula", TAKES)
    formula, add = formula_of(options.format, None, "norm"), norm.residual
    run = compiled(formula, x.shape, x.dtype)

    def timed() -> tuple[QTensor, Tensor | None]:
        total = x if add is None else x + add
        q = _quantized(run(total, norm.weight, norm.eps, options.global_scale), options)
        return q, None if add is None else total

    return timed


@provider("torch-compile")
def torch_compile_silu(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """SiLU * up and the formula, under torch.compile."""
    require(options, "the plain torch formula", TAKES)
    run = compiled(formula_of(options.format, None, "silu"), x.shape, x.dtype)
    return lambda: _quantized(run(x, options.global_scale), options)
