"""FP4 weights in the order in which tensor cores take them, made once from a QTensor.

Weights lie in memory as the registers of one operand of m16n8k16 and of wgmma want them. A unit is 16 rows by 64 of K,
512 bytes, of which each lane of a warp holds 16: one load feeds four steps of 16 of K, and no element moves between
threads. K keeps its order, so the other operand may come from memory as it is (wgmma reads it from shared memory).

    data   int32 [N/16, K/64, 32 lanes, 4 words]; lane = 4 g + t holds in word e the registers of step e, two k each:
           (row g, k), (row g + 8, k), (row g, k + 8), (row g + 8, k + 8) with k = 16 e + 2 t and the next
           (N and K padded with zeros to multiples of 16 and 64)
    scale  int32 [N/16, K/64, 16 or 8]: bytes [g][block of K in the unit][row g, row g + 8]; two words a lane (NVFP4,
           blocks of 16) or one (MXFP4, 32), and the two bytes that a word of data needs lie side by side

Codes are bits spread over a word so that a mask gives a pair of bf16 without unpacking nibbles. The k and k + 1 of a
register lie in the two halves; in each, register 0 has its magnitude at bits 6-8 and its sign at 15. So have 1 and 2 in
the word times 2^3 and 2^6, and 3 in ((word >> 7) & 0x00D800D8) * (1 + 2^5 + 2^11), where no two terms meet (no four
sets of bits are shifts of each other). With the magnitude at 6-8 and the sign at 15, a half is e2m1 * 2^-126 in bf16.
The shifts to the left are products, which leaves the ALU, half as fast on sm_90, with 6 operations for 8 codes.

Scale bytes are such that byte * STEP + base << 8 are the bits of a scale in bf16 or fp16:
    NVFP4   5 exponent and 3 mantissa bits, all numbers normal: exponent floor(log2 s) + 21; NaN is exponent 31
    MXFP4   the E8M0 byte
A scale of zero makes its codes zero. What MXFP4 cannot hold this way (NaN scales, or a spread of scales too wide for
bf16, see `fragments`) is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qbench import Unsupported
from qkernels.codec import decode_e2m1, decode_e8m0, ldexp, unpack_e2m1
from qkernels.format import Format
from qkernels.tensor import QTensor

ROWS, COLUMNS = 16, 64
# of each register, the places of a code's bits: three of magnitude, lowest first, and the sign
FIELDS = ((6, 7, 8, 15), (3, 4, 5, 12), (0, 1, 2, 9), (13, 14, 10, 11))
_NVFP4_BASE, _NVFP4_UNIT = 112, 2.0**8
_EXPONENT = 126  # of e2m1 in bf16: its bits are worth 2^-126 as much


@dataclass(frozen=True, eq=False)
class Fragments:
    """Weights [n, k] of `format` as described above. `base` and `unit` are of bf16; fp16 has base 0, NVFP4 only.

    base          uint8 [1] on the device
    unit          what a product with the decoded weights must be multiplied by
    global_scale  float32 encode scale, 0-dim, or None
    """

    data: Tensor
    scale: Tensor
    base: Tensor
    unit: float
    format: Format
    n: int
    k: int
    global_scale: Tensor | None = None
    hadamard: int | None = None

    @property
    def nbytes(self) -> int:
        return 4 * (self.data.numel() + self.scale.numel())


def checked_rows(x: Tensor, w: Fragments, most: int | None = None) -> tuple[int, int]:
    """(M, K) of x, if kernels (for up to `most` rows) multiply w by it. Raises TypeError or ValueError otherwise."""
    if x.dtype not in (torch.bfloat16, torch.float16):
        raise TypeError(f"x is {x.dtype}; use bfloat16 or float16")
    if x.dtype == torch.float16 and w.format.scale == "e8m0":
        raise TypeError("MXFP4's scales leave the range of float16; use bfloat16")
    if x.ndim != 2 or x.shape[1] != w.k:
        raise ValueError(f"x {list(x.shape)} must be [M, {w.k}], for w is [{w.n}, {w.k}]")
    if most is not None and x.shape[0] > most:
        raise ValueError(f"M = {x.shape[0]}; this kernel takes up to {most} rows")
    if x.shape[1] > 1 and x.stride(1) != 1:
        raise ValueError(f"x has stride {x.stride(1)} in its last dimension; call .contiguous() first")
    return x.shape[0], x.shape[1]


def fragments(w: QTensor) -> Fragments:
    """w [N, K] in NVFP4 or MXFP4 (or a format whose bytes mean the same) as fragments, on w's device.

    Waits for the device: the range of MXFP4's scales is looked at. Raises Unsupported where they do not fit.
    """
    n, k = w.shape
    tiles, chunks = -(-n // ROWS), -(-k // COLUMNS)
    block = w.format.block
    assert block in (16, 32)
    codes = _padded(unpack_e2m1(w.data), tiles * ROWS, chunks * COLUMNS)
    scale = _padded(w.scale, tiles * ROWS, chunks * COLUMNS // block)
    if w.format.scale == "e8m0":
        used = (codes & 7 != 0).view(*scale.shape, block).any(-1)
        shift, packed = _e8m0(w.scale, used[:n, : k // block]), scale
        packed = torch.where(used, scale, 127)  # any number will do for zeros
        base, unit = shift // 2, 2.0 ** (_EXPONENT - shift)
    else:
        packed, zero = _e5m3(scale & 0x7F)
        codes ^= (scale >> 7 << 3).repeat_interleave(
            block, dim=1
        )  # nobody stores negative scales; they are legal
        codes &= torch.where(zero, 8, 15).to(torch.uint8).repeat_interleave(block, dim=1)
        base, unit = _NVFP4_BASE, _NVFP4_UNIT
    return Fragments(
        _shuffled_codes(codes, tiles, chunks),
        _shuffled_scales(packed, tiles, chunks, block),
        torch.tensor([base], dtype=torch.uint8, device=w.device),
        unit / w.format.gain,
        w.format,
        n,
        k,
        w.global_scale,
        w.hadamard,
    )


def _padded(x: Tensor, rows: int, columns: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, columns - x.shape[1], 0, rows - x.shape[0]))


def _shuffled_codes(codes: Tensor, tiles: int, chunks: int) -> Tensor:
    """uint8 [N, K] of 0..15 -> int32 words."""
    v = codes.view(tiles, 2, 8, chunks, 4, 2, 4, 2)  # N = tile, s, g; K = chunk, e, h, t, half
    words = torch.zeros((tiles, 8, chunks, 4, 4), dtype=torch.int32, device=codes.device)
    for register, places in enumerate(FIELDS):
        s, h = register % 2, register // 2
        for half in range(2):
            code = v[:, s, :, :, :, h, :, half].to(torch.int32)
            for bit, place in enumerate(places):
                words |= (code >> bit & 1) << (16 * half + place)
    # tile, g, chunk, e, t -> tile, chunk, g, t, e
    return words.permute(0, 2, 1, 4, 3).reshape(tiles, chunks, 32, 4)


def _shuffled_scales(scale: Tensor, tiles: int, chunks: int, block: int) -> Tensor:
    """uint8 [N, K/block] -> int32 words of two blocks by two rows."""
    blocks = COLUMNS // block
    v = scale.view(tiles, 2, 8, chunks, blocks)  # tile, s, g, chunk, block
    return v.permute(0, 3, 2, 4, 1).reshape(tiles, chunks, 16 * blocks).view(torch.int32)


def _e5m3(byte: Tensor) -> tuple[Tensor, Tensor]:
    """E4M3 bytes without sign, as described above, and where they are zero (there the byte is that of 2^-9)."""
    exponent, mantissa = (byte >> 3) & 15, byte & 7
    # subnormals: m * 2^-9 = 1.x * 2^(floor(log2 m) - 9)
    shift = (mantissa < 4).to(torch.uint8) + (mantissa < 2).to(torch.uint8)  # 2 - floor(log2 m)
    small = ((14 - shift) << 3) | ((mantissa << (shift + 1)) & 7)
    found = torch.where(exponent == 0, small, ((exponent + 14) << 3) | mantissa)
    zero = byte == 0
    found = torch.where(zero, 12 << 3, found)
    return torch.where(byte == 0x7F, 0xFF, found), zero


def _e8m0(scale: Tensor, used: Tensor) -> int:
    """The shift s, even, with which 2^(b - 127 + s) is a normal bf16 for the byte b of every block that is used, which
    is not all zeros. Raises Unsupported."""
    if bool((scale == 255).any()):
        raise Unsupported("a block of these MXFP4 weights has the scale NaN", "triton")
    if not bool(used.any()):
        return _EXPONENT
    low, high = (int(each) for each in torch.aminmax(scale[used]))
    shift = min(_EXPONENT, (254 - high) // 2 * 2)
    if low + shift < 121:  # e2m1 * 2^(b - 127 + s - 126) would leave bf16's subnormal numbers
        raise Unsupported(
            f"the scales of these MXFP4 weights reach from 2^{low - 127} to 2^{high - 127}, too far for bf16",
            "triton",
        )
    return shift


def dense(w: Fragments) -> Tensor:
    """float64 [N, K]: what w holds, over its gain and times its global scale. Slow; says what the layout means."""
    tiles, chunks = w.data.shape[:2]
    words = w.data.view(tiles, chunks, 8, 4, 4)  # g, t, e
    registers = []
    for places in FIELDS:
        halves = []
        for half in range(2):
            bits = words >> (16 * half)
            code = sum(((bits >> place) & 1) << bit for bit, place in enumerate(places))
            assert isinstance(code, Tensor)
            halves.append(decode_e2m1(code.to(torch.uint8)).to(torch.float64))
        registers.append(torch.stack(halves, -1))
    values = torch.stack(registers, -2).unflatten(-2, (2, 2))  # tile, chunk, g, t, e, h, s, half
    values = values.permute(0, 6, 2, 1, 4, 5, 3, 7).reshape(tiles * ROWS, chunks * COLUMNS)
    assert w.format.block
    bytes_ = w.scale.view(torch.uint8).view(tiles, chunks, 8, COLUMNS // w.format.block, 2)  # g, block, s
    bytes_ = bytes_.permute(0, 4, 2, 1, 3)
    scale = bytes_.reshape(tiles * ROWS, chunks * COLUMNS // w.format.block)
    if w.format.scale == "e8m0":
        factor = decode_e8m0(scale).to(torch.float64)
    else:
        whole = scale.to(torch.int32)
        factor = ldexp(1 + (whole & 7).to(torch.float64) / 8, (whole >> 3) - 21)
        factor = torch.where(whole == 255, torch.nan, factor)
    exact: Tensor = (values * factor.repeat_interleave(w.format.block, dim=1))[: w.n, : w.k] / w.format.gain
    return exact
