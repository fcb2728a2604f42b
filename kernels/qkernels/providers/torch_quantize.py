"""Quantizers by torch: the formula in fp32 eager operations, the same under torch.compile, and the exact one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from qbench import provider
from qkernels.format import (
    FP8,
    FP8_BLOCK,
    FP8_BLOCK_2D,
    FP8_TOKEN,
    INT8,
    INT8_ASYM,
    INT8_TOKEN,
    MXFP4,
    Format,
)
from qkernels.ops.quantize import QuantizeOptions, reference
from qkernels.ops.require import require
from qkernels.quantize import check_input
from qkernels.tensor import QTensor

TAKES: dict[Format, tuple[str, ...]] = {
    FP8: ("scale",),
    FP8_TOKEN: (),
    FP8_BLOCK: (),
    FP8_BLOCK_2D: (),
    INT8: ("scale",),
    INT8_TOKEN: (),
    INT8_ASYM: ("scale", "zero_point"),
    MXFP4: (),
}
"""The formats that have a formula below, and the options of each."""

_HALFWAY = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)  # between neighbouring E2M1 values
_FLOAT_MAX = 3.4028234663852886e38
Formula = Callable[..., tuple[Tensor, ...]]
"""x, and a static scale and zero point where they are given -> codes, scale and, if asymmetric, zero point."""


@provider("torch-exact")
def torch_exact(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """The float64 reference quantizer itself: what correctness costs."""
    return lambda: reference(x, options)


@provider("torch-eager")
def torch_eager(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """The formula in fp32, one torch operation at a time."""
    return _runner(x, options, _formula(options))


@provider("torch-compile")
def torch_compile(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """The formula in fp32 under torch.compile, static shapes."""
    return _runner(x, options, compiled(_formula(options), x.shape, x.dtype))


@cache  # operands in rotation must not compile it again
def compiled(formula: Callable[..., Any], *key: object) -> Callable[..., Any]:
    """`formula` compiled once for each key. Dynamo compiles one code object 8 times at most and runs it eagerly from
    then on, so that each key has a code object of its own."""
    own = FunctionType(
        formula.__code__.replace(),
        formula.__globals__,
        formula.__name__,
        formula.__defaults__,
        formula.__closure__,
    )
    made: Callable[..., Any] = torch.compile(own, dynamic=False)
    return made


def _runner(x: Tensor, options: QuantizeOptions, formula: Formula) -> Callable[[], QTensor]:
    fmt = options.format
    static = [t for t in (options.scale, options.zero_point) if t is not None]
    check_input(x, fmt, options.hadamard)

    def run() -> QTensor:
        data, scales, *zero = formula(x, *static)
        return QTensor(data, scales, fmt, tuple(x.shape), zero_point=zero[0] if zero else None)

    return run


def _formula(options: QuantizeOptions) -> Formula:
    require(options, "the plain torch formula", TAKES)
    if not options.format.symmetric and (options.scale is None) != (options.zero_point is None):
        raise ValueError(f"{options.format.name} takes scale and zero_point together (static) or neither")
    return _FORMULAS[options.format, options.scale is not None]


def fp8_static(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """q = e4m3(clamp(x * (1/s), ±448))."""
    return (x.float() * (1.0 / scale)).clamp(-448, 448).to(torch.float8_e4m3fn), scale


def fp8_tensor(x: Tensor) -> tuple[Tensor, Tensor]:
    """s = amax/448 over the tensor."""
    scale = (x.abs().amax().float() / 448.0).reshape(1)
    inverse = torch.clamp(1.0 / scale, max=_FLOAT_MAX)
    return (x.float() * inverse).clamp(-448, 448).to(torch.float8_e4m3fn), scale


def fp8_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """s = max(amax/448, 1/(448*512)) a row, q = e4m3(x/s)."""
    scale = (x.abs().amax(-1, keepdim=True).float() / 448.0).clamp(min=1.0 / (448.0 * 512.0))
    return (x.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn), scale


def fp8_block(x: Tensor) -> tuple[Tensor, Tensor]:
    """s = amax/448 a block of 1 x 128, q = e4m3(x/s)."""
    blocks = x.float().unflatten(-1, (x.shape[-1] // 128, 128))
    scale = blocks.abs().amax(-1) / 448.0
    return _divided(blocks, scale.unsqueeze(-1)).view(x.shape), scale


def fp8_block_2d(x: Tensor) -> tuple[Tensor, Tensor]:
    """s = amax/448 a block of 128 x 128, q = e4m3(x/s); rows are filled up with zeros."""
    rows, k = x.shape
    padded = torch.nn.functional.pad(x.float(), (0, 0, 0, -rows % 128))
    blocks = padded.view(-1, 128, k // 128, 128)
    scale = blocks.abs().amax((1, 3)) / 448.0
    return _divided(blocks, scale[:, None, :, None]).view(-1, k)[:rows], scale


def _divided(blocks: Tensor, scale: Tensor) -> Tensor:
    quotient = blocks / torch.where(scale > 0, scale, 1.0)
    return quotient.clamp(-448, 448).to(torch.float8_e4m3fn)


def int8_static(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """q = sat(rne(x/s))."""
    return (x.float() / scale).round().clamp(-128, 127).to(torch.int8), scale


def int8_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """s = amax/127 a row, q = sat(rne(x * (127/amax)))."""
    amax = x.abs().amax(-1, keepdim=True).float()
    inverse = torch.clamp(127.0 / amax, max=_FLOAT_MAX)
    return (x.float() * inverse).round().clamp(-128, 127).to(torch.int8), amax / 127.0


def int8_static_asymmetric(x: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q = sat(rne(x/s) + zp)."""
    return ((x.float() / scale).round() + zero).clamp(-128, 127).to(torch.int8), scale, zero


def int8_asymmetric(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """s = (max - min)/255 a row, zp = rne(-128 - min/s), q = sat(rne(x/s) + zp); a constant row has s = |x|."""
    y = x.float()
    low, high = y.amin(-1, keepdim=True), y.amax(-1, keepdim=True)
    amax = torch.maximum(low.abs(), high.abs())
    scale = torch.maximum((high - low) / 255.0, amax * 2.0**-20)
    scale = torch.where(high == low, amax, scale)
    scale = torch.where(amax == 0, 1.0, scale)
    zero = (-128.0 - low / scale).round()
    return ((y / scale).round() + zero).clamp(-128, 127).to(torch.int8), scale, zero.to(torch.int32)


def mxfp4_floor(x: Tensor) -> tuple[Tensor, Tensor]:
    """OCP MXFP4: the shared exponent is floor(log2 amax) - 2, read off the fp32 bits."""
    blocks = x.float().unflatten(-1, (x.shape[-1] // 32, 32))
    amax = blocks.abs().amax(-1)
    byte = ((amax.view(torch.int32) >> 23) - 2).clamp(min=0)
    y = blocks * torch.exp2(127.0 - byte.float()).unsqueeze(-1)
    return pack_e2m1(y).flatten(-2), byte.to(torch.uint8)


def pack_e2m1(y: Tensor) -> Tensor:
    """E2M1 codes of y, two a byte; ties go to the even code, as alternate comparisons include the bound."""
    size = y.abs()
    code = (size > _HALFWAY[0]).to(torch.uint8)
    for index, bound in enumerate(_HALFWAY[1:], start=1):
        code = code + (size >= bound if index % 2 else size > bound).to(torch.uint8)
    code = code | (torch.signbit(y).to(torch.uint8) << 3)
    pairs = code.unflatten(-1, (code.shape[-1] // 2, 2))
    packed: Tensor = pairs[..., 0] | (pairs[..., 1] << 4)
    return packed


_FORMULAS: dict[tuple[Format, bool], Formula] = {
    (FP8, True): fp8_static,
    (FP8, False): fp8_tensor,
    (FP8_TOKEN, False): fp8_token,
    (FP8_BLOCK, False): fp8_block,
    (FP8_BLOCK_2D, False): fp8_block_2d,
    (INT8, True): int8_static,
    (INT8_TOKEN, False): int8_token,
    (INT8_ASYM, True): int8_static_asymmetric,
    (INT8_ASYM, False): int8_asymmetric,
    (MXFP4, False): mxfp4_floor,
}
"""By the format, and whether a static scale is given."""
