"""FP8 and INT8 with fp32 scales, as vLLM defines them (csrc/quantization/w8a8: fp8/common.cu, int8/scaled_quant.cu).

Every formula is fp32 in the stated order with correctly rounded division, so bit equality is fair:
    FP8 per tensor   s = amax/448 (or static), q = e4m3(clamp(x * (1/s)))
    FP8 per token    s = max(amax/448, 1/(448*512)), q = e4m3(clamp(x / s))
    INT8 static      q = sat(rne(x / s)), -128 reachable
    INT8 per token   s = amax/127, q = sat(rne(x * (127/amax)))
    INT8 asymmetric  s = (max - min)/255 (or static), zp = rne(-128 - min/s), q = sat(rne(x/s) + zp), value (q - zp)*s
Reciprocals are capped at the largest fp32, so zero rows give zeros (0*inf would be NaN) with scale 0.
A constant row has max - min = 0; it gets s = |x| and is kept exactly. A nearly constant fp32 row would need a zero
point beyond fp32's 24 bits and lose the row; s is at least amax*2^-20 (never reached by bf16 or fp16 input).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .codec import encode_float, round_steps
from .format import FLOAT32_MAX, MIN_TOKEN_SCALE, Format
from .tensor import QTensor

LEAST_SPREAD = 2.0**-20
ZERO_POINT_LIMIT = (1 << 22) - 128


def divide(numerator: Tensor | float, denominator: Tensor | float) -> Tensor:
    """Correctly rounded quotient in the dtype of the tensor operand.

    With a Python number torch does not divide: number/tensor is reciprocal()*number on every device, and tensor/number
    multiplies by the reciprocal on CUDA; both round twice. Two tensors on one device are divided.
    """
    if not isinstance(numerator, Tensor):
        assert isinstance(denominator, Tensor)
        return torch.full_like(denominator, numerator) / denominator
    if not isinstance(denominator, Tensor):
        denominator = torch.full((), denominator, dtype=numerator.dtype, device=numerator.device)
    return numerator / denominator


def uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """float64 draws in [0, 1) of that shape and device: what stochastic rounding takes."""
    return torch.rand(like.shape, dtype=torch.float64, device=like.device, generator=generator)


def quantize_scaled(
    x: Tensor,
    fmt: Format,
    *,
    scale: Tensor | float | None,
    zero_point: Tensor | int | None,
    chunk: int,
    generator: torch.Generator | None = None,
) -> QTensor:
    """x [..., K] → QTensor with scale float32 [1] (per tensor, or static) or [..., 1] (dynamic per row).

    generator: round stochastically with its draws. No part is larger than `chunk` elements.
    """
    _check_static(fmt, scale, zero_point)
    k, fp8 = x.shape[-1], fmt.element.name == "e4m3"
    rows = x.reshape(-1, k)
    step = max(1, chunk // k)
    parts = [rows[i : i + step] for i in range(0, len(rows), step)]
    if scale is not None:
        scales = static_scale(scale, x.device)
        zeros = (
            None
            if zero_point is None
            else torch.as_tensor(zero_point, dtype=torch.int32).reshape(1).to(x.device)
        )
    elif fmt.granularity == "tensor":
        scales, zeros = tensor_scale(parts, x.device), None
    else:
        pairs = [row_scale(part.to(torch.float32), fmt) for part in parts]
        scales = torch.cat([s for s, _ in pairs]) if pairs else x.new_empty(0, 1, dtype=torch.float32)
        zeros = (
            None
            if fmt.symmetric
            else torch.cat([z for _, z in pairs if z is not None] or [scales.to(torch.int32)])
        )
    q = torch.empty(rows.shape, dtype=torch.uint8 if fp8 else torch.int8, device=x.device)
    for i, part in enumerate(parts):
        cut = slice(i * step, i * step + len(part))
        shared = len(scales) == 1 and scales.ndim == 1
        q[cut] = encode_rows(part.to(torch.float32), fmt, scales if shared else scales[cut],
                             zeros if shared or zeros is None else zeros[cut], static=scale is not None,
                             noise=None if generator is None else uniform(part, generator))  # fmt: skip
    if scales.ndim == 2:
        scales = scales.view(*x.shape[:-1], 1)
        zeros = None if zeros is None else zeros.view(*x.shape[:-1], 1)
    return QTensor(
        (q.view(torch.float8_e4m3fn) if fp8 else q).view(x.shape),
        scales,
        fmt,
        tuple(x.shape),
        zero_point=zeros,
    )


def encode_rows(
    x: Tensor,
    fmt: Format,
    scale: Tensor,
    zero_point: Tensor | None,
    *,
    static: bool,
    noise: Tensor | None = None,
) -> Tensor:
    """float32 x [r, K] under the given scale → E4M3 bits (uint8) or int8 codes; codes under a NaN scale are 0.

    noise: float64 [r, K] in [0, 1) for stochastic rounding (codec.py).
    """
    if fmt.element.name == "e4m3":
        y = x / scale if fmt.granularity == "row" else x * divide(1.0, scale).clamp(max=FLOAT32_MAX)
        return encode_float(y, fmt.element, noise).masked_fill(torch.isnan(scale), 0)
    if fmt.symmetric and not static:
        # 127/amax, not 1/s: amax is recomputed because fl(s*127) need not give it back
        y = x * divide(127.0, x.abs().amax(-1, keepdim=True)).clamp(max=FLOAT32_MAX)
    else:
        y = x / scale
    q = round_steps(y.to(torch.float64), noise)
    if zero_point is not None:
        q = q + zero_point
    return q.nan_to_num(0.0).clamp(-128, 127).to(torch.int8).masked_fill(torch.isnan(scale), 0)


def tensor_scale(parts: list[Tensor], device: torch.device) -> Tensor:
    """float32 [1] amax/448 over all parts; NaN if any element is not finite, 0 for zeros."""
    amax = torch.zeros(1, dtype=torch.float32, device=device)
    for part in filter(len, parts):
        amax = torch.maximum(amax, part.abs().amax().to(torch.float32))  # amax and maximum propagate NaN
    return _nan_unless_finite(amax, divide(amax, 448.0))


def row_scale(x: Tensor, fmt: Format) -> tuple[Tensor, Tensor | None]:
    """float32 x [r, K] → scale [r, 1] and, if asymmetric, zero point int32 [r, 1]."""
    amax = x.abs().amax(-1, keepdim=True)
    if fmt.element.name == "e4m3":
        return _nan_unless_finite(amax, divide(amax, 448.0).clamp(min=MIN_TOKEN_SCALE)), None
    if fmt.symmetric:
        return _nan_unless_finite(amax, divide(amax, 127.0)), None
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    spread = high - low
    wide = divide(high.to(torch.float64) - low.to(torch.float64), 255.0).to(torch.float32)
    scale = torch.where(torch.isfinite(spread), divide(spread, 255.0), wide)  # max - min overflows for ±3e38
    scale = torch.maximum(scale, amax * LEAST_SPREAD)
    scale = torch.where((spread == 0) | (scale == 0), amax, scale)
    scale = _nan_unless_finite(amax, torch.where(amax == 0, 1.0, scale))
    return scale, torch.round(-128.0 - low / scale).nan_to_num(0.0).to(torch.int32)


def _nan_unless_finite(amax: Tensor, scale: Tensor) -> Tensor:
    return torch.where(torch.isfinite(amax), scale, torch.nan)


def _check_static(fmt: Format, scale: Tensor | float | None, zero_point: Tensor | int | None) -> None:
    if fmt.element.name not in ("e4m3", "int8"):
        raise ValueError(f"{fmt.name}: scales per row or tensor are defined for e4m3 and int8, not "
                         f"{fmt.element.name}; give the format a block")  # fmt: skip
    if scale is None and fmt.element.name == "int8" and fmt.granularity == "tensor":
        raise ValueError("int8 is static: pass scale=..., or use int8_token for dynamic scales")
    if scale is not None and fmt.granularity == "row" and fmt.symmetric:
        raise ValueError(f"{fmt.name} computes a scale per row; use {fmt.element.name.replace('e4m3', 'fp8')} "
                         "for a static scale")  # fmt: skip
    if zero_point is not None and fmt.symmetric:
        raise ValueError(f"{fmt.name} is symmetric and takes no zero_point; use int8_asym")
    if isinstance(zero_point, float) or (
        isinstance(zero_point, Tensor) and zero_point.dtype.is_floating_point
    ):
        raise TypeError(f"zero_point {zero_point} is not a whole number; round it first")
    if zero_point is not None and abs(int(zero_point)) > ZERO_POINT_LIMIT:
        raise ValueError(
            f"zero_point = {int(zero_point)} is beyond 2^22 - 128, where fp32 no longer rounds to integers"
        )
    if not fmt.symmetric and (scale is None) != (zero_point is None):
        raise ValueError(f"{fmt.name} takes scale and zero_point together (static) or neither (dynamic)")


def static_scale(value: Tensor | float, device: torch.device) -> Tensor:
    """A supplied scale as float32 [1] on device; must be one finite number > 0, and float32 if a tensor."""
    if isinstance(value, Tensor) and (value.dtype != torch.float32 or value.numel() != 1):
        remedy = "convert with .float()" if value.dtype != torch.float32 else "pass one element"
        raise TypeError(f"a scale must be one float32 value, got {value.dtype} {list(value.shape)}; {remedy}")
    scale = torch.as_tensor(value, dtype=torch.float32).reshape(1).to(device)
    if not (bool(torch.isfinite(scale)) and float(scale) > 0):
        raise ValueError(
            f"scale {float(scale)} is not a finite number > 0; a NaN or negative scale decodes to nonsense"
        )
    return scale
