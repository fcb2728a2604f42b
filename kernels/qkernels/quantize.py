"""The exact reference quantizer: float64 arithmetic, one rounding per code, integer exponents. Slow and plain.

quantize(x, fmt) covers every `Format`; MX exponent rules: quantize_mx.py, FP8/INT8 formulas: quantize_scaled.py.

Non-finite input. A block, row or tensor that shares a computed scale and holds NaN or inf decodes to NaN: its scale is
NaN (e4m3 0x7f, e8m0 0xff, fp32 NaN) and its codes are 0. The NVFP4 dynamic global scale is taken over the finite
elements alone, so that one bad block does not take the tensor with it. Under a static scale FP8 keeps NaN as NaN and
saturates inf; static INT8 has no place for NaN and stores the code of 0.

Zero input. Zero blocks get scale byte 0 (abs_max and quest: what their formula gives) and codes ±0; the dynamic global
scale of a zero tensor is 1. Nothing finite ever decodes to NaN.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .codec import E4M3_NAN, E8M0_NAN, decode_e4m3, encode_e2m1, encode_e4m3, encode_e8m0, pack_e2m1, pow2
from .format import FLOAT32_MAX, Format
from .hadamard import rotate
from .quantize_mx import shared_exponents
from .quantize_scaled import divide, quantize_scaled, static_scale
from .tensor import QTensor

CHUNK_ELEMENTS = 1 << 25  # float64 temporaries of 256 MiB each; [57344, 8192] whole would take 3.5 GiB each


def quantize(
    x: Tensor,
    fmt: Format,
    *,
    global_scale: Tensor | float | None = None,
    hadamard: int | None = None,
    scale: Tensor | float | None = None,
    zero_point: Tensor | int | None = None,
) -> QTensor:
    """Quantize x [..., K] (float16, bfloat16 or float32; any strides; CPU or CUDA) along its last axis.

    global_scale  two-level formats: static encode scale gs (fp32, > 0); None computes scale_max*max/amax
    hadamard      rotate K blockwise by this size first, in float64
    scale, zero_point  static per-tensor scale (value = code*scale) of FP8, INT8, INT8_ASYM; INT8 has no dynamic form
    Raises TypeError for a wrong dtype, ValueError for a shape or argument the format does not take.
    """
    check_input(x, fmt, hadamard)
    if global_scale is not None and fmt.levels == 1:
        raise ValueError(f"{fmt.name} has one scale level and takes no global_scale; use nvfp4 or drop it")
    if fmt.block is None:
        return quantize_scaled(x, fmt, scale=scale, zero_point=zero_point, chunk=CHUNK_ELEMENTS)
    if scale is not None or zero_point is not None:
        raise ValueError(
            f"{fmt.name} computes its block scales; scale and zero_point belong to FP8 and INT8 formats"
        )
    gs: Tensor | None = None
    if global_scale is not None:
        gs = static_scale(global_scale, x.device).reshape(())
    elif fmt.levels == 2:
        gs = dynamic_global_scale(x, fmt, hadamard)
    k = x.shape[-1]
    rows = x.numel() // k
    data = torch.empty(rows, k // 2, dtype=torch.uint8, device=x.device)
    scales = torch.empty(rows, k // fmt.block, dtype=torch.uint8, device=x.device)
    for start, y in float64_chunks(x, hadamard):
        blocks = y.unflatten(-1, (k // fmt.block, fmt.block))
        codes, scales[start : start + len(y)] = quantize_blocks(blocks, fmt, gs)
        data[start : start + len(y)] = pack_e2m1(codes.flatten(-2))
    lead = x.shape[:-1]
    return QTensor(
        data.view(*lead, k // 2), scales.view(*lead, k // fmt.block), fmt, tuple(x.shape), gs, hadamard
    )


def quantize_blocks(blocks: Tensor, fmt: Format, gs: Tensor | None) -> tuple[Tensor, Tensor]:
    """float64 blocks [R, C, block] → codes uint8 [R, C, block], scale bytes uint8 [R, C]."""
    amax = blocks.abs().amax(-1)
    bad = ~torch.isfinite(amax)
    if fmt.scale == "e8m0":
        scale_bytes = encode_e8m0(shared_exponents(blocks, fmt.rule))
        y = blocks * (fmt.gain * pow2(127 - scale_bytes.to(torch.int64))).unsqueeze(-1)
    else:
        encode = 1.0 if gs is None else gs.to(torch.float64)
        # Products of two fp32 numbers are exact in float64 and followed by one division, so a tie stays a tie.
        t = divide(amax * encode, fmt.element.max)
        scale_bytes = encode_e4m3(t.clamp(min=fmt.min_scale))
        decoded = decode_e4m3(scale_bytes).to(torch.float64).unsqueeze(-1)
        y = torch.where(decoded > 0, blocks * encode / decoded, 0.0)
    codes = encode_e2m1(y).masked_fill(bad.unsqueeze(-1), 0)
    return codes, scale_bytes.masked_fill(bad, E8M0_NAN if fmt.scale == "e8m0" else E4M3_NAN)


def dynamic_global_scale(x: Tensor, fmt: Format, hadamard: int | None = None) -> Tensor:
    """float32 0-dim gs = scale_max*max/amax, amax over the finite elements of the (rotated) x.

    1 for zeros; capped at the largest fp32 for amax below 7.9e-36.
    """
    amax = torch.zeros((), dtype=torch.float64, device=x.device)
    for _, y in float64_chunks(x, hadamard):
        amax = torch.maximum(amax, torch.where(torch.isfinite(y), y.abs(), 0.0).amax())
    gs = divide(fmt.scale_max * fmt.element.max, amax).clamp(max=FLOAT32_MAX)
    return torch.where(amax > 0, gs, 1.0).to(torch.float32)


def float64_chunks(x: Tensor, hadamard: int | None = None) -> Iterator[tuple[int, Tensor]]:
    """(first row, float64 [r, K]) over the rows of x, rotated; at most CHUNK_ELEMENTS elements (one row at least)."""
    rows = x.reshape(-1, x.shape[-1])
    step = max(1, CHUNK_ELEMENTS // x.shape[-1])
    for start in range(0, len(rows), step):
        part = rows[start : start + step].to(torch.float64)
        yield start, part if hadamard is None else rotate(part, hadamard, torch.float64)


def check_input(x: Tensor, fmt: Format, hadamard: int | None) -> None:
    """TypeError/ValueError unless fmt can quantize x along its last axis with that rotation."""
    if not isinstance(x, Tensor):
        raise TypeError(f"cannot quantize a {type(x).__name__}; pass a torch.Tensor")
    if hadamard is not None and (isinstance(hadamard, bool) or not isinstance(hadamard, int)):
        raise TypeError(
            f"Hadamard size {hadamard!r} is a {type(hadamard).__name__}; pass a whole number or None"
        )
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise TypeError(f"cannot quantize {x.dtype}; convert to float16, bfloat16 or float32 first")
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(
            f"cannot quantize shape {list(x.shape)}; the last axis (K) must hold at least one element"
        )
    k = x.shape[-1]
    if fmt.block is not None and k % fmt.block:
        raise ValueError(f"K = {k} is not a multiple of the {fmt.name} block {fmt.block}; pad K with zeros to "
                         f"{-(-k // fmt.block) * fmt.block}")  # fmt: skip
    if hadamard is None:
        return
    if hadamard not in fmt.hadamard:
        known = ", ".join(map(str, fmt.hadamard)) or "none"
        raise ValueError(f"{fmt.name} takes no Hadamard size {hadamard}; known: {known}")
    if k % hadamard:
        raise ValueError(f"K = {k} is not a multiple of the Hadamard size {hadamard}; pad K or take one of "
                         f"{', '.join(map(str, fmt.hadamard))} that divides it")  # fmt: skip
