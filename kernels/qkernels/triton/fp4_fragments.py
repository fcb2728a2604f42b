"""FP4 weights in the order in which tensor cores take them, made once from a QTensor.

A product with few rows reads its weights once and is as fast as memory, if nothing stands between a load and the
tensor core. So the weights lie in memory as the registers of mma.m16n8k16 want them: a unit is 16 rows by 64 of K,
512 bytes, of which each lane of a warp loads 16. No element moves between threads, and no shared memory is touched.

    data   int32 [N/16, K/64, 32 lanes, 4 words]; lane = 4 g + t holds in word (h, s) row g + 8 s, k = 32 h + 8 t + 0..7
           (N and K padded with zeros to multiples of 16 and 64)
    scale  int32 [N/16, K/64, 16 or 8]: four bytes (h, s) of the rows g and g + 8; one word for two lanes (NVFP4, blocks
           of 16) or four (MXFP4, 32)

The order within 8 of K does not matter to a product whose other operand is read in the same order; with 8 neighbours
in one thread, that operand is loaded 16 bytes at a time and each scale is decoded once for 8 weights.

Codes are bits spread over a word so that masks and shifts give pairs of bf16 without unpacking nibbles. A pair
(v, v+1) lies in the two halves; the magnitude of pair j = 0..3 is at bits 6-8, 3-5, 0-2, 9-11 of its half, the sign
at 15, 12, 14, 13. Shifted so that the magnitude is at 6-8 and the sign at 15, a half is e2m1 * 2^-126 in bf16.

Scale bytes are such that byte * STEP + base << 8 are the bits of a scale in bf16 or fp16 (see `scale_bits`):
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
from qkernels.codec import unpack_e2m1
from qkernels.format import Format
from qkernels.tensor import QTensor

ROWS, COLUMNS = 16, 64
_MAGNITUDE = (6, 3, 0, 9)  # lowest bit of a pair's magnitude, and its sign's bit
_SIGN = (15, 12, 14, 13)
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
        shift, packed = _e8m0(w.scale), scale
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
    # N = tile, s, g; K = chunk, h, t, pair, half
    v = codes.view(tiles, 2, 8, chunks, 2, 4, 4, 2)
    words = torch.zeros(v.shape[:-2], dtype=torch.int32, device=codes.device)
    for pair in range(4):
        for half in range(2):
            code = v[..., pair, half].to(torch.int32)
            bits = ((code & 7) << _MAGNITUDE[pair]) | ((code >> 3) << _SIGN[pair])
            words |= bits << (16 * half)
    # tile, s, g, chunk, h, t -> tile, chunk, g, t, h, s
    return words.permute(0, 3, 2, 5, 4, 1).reshape(tiles, chunks, 32, 4)


def _shuffled_scales(scale: Tensor, tiles: int, chunks: int, block: int) -> Tensor:
    """uint8 [N, K/block] -> int32 words of four bytes (h, s)."""
    part = 32 // block  # blocks in half a chunk
    v = scale.view(tiles, 2, 8, chunks, 2, part)  # tile, s, g, chunk, h, u
    return v.permute(0, 3, 2, 5, 4, 1).reshape(tiles, chunks, 32 * part).view(torch.int32)


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


def _e8m0(scale: Tensor) -> int:
    """The shift s, even, with which 2^(b - 127 + s) is a normal bf16 for every scale byte b. Raises Unsupported."""
    if not scale.numel():
        return _EXPONENT
    low, high = (int(each) for each in torch.aminmax(scale))
    if high == 255:
        raise Unsupported("a block of these MXFP4 weights has the scale NaN", "triton")
    shift = min(_EXPONENT, (254 - high) // 2 * 2)
    if low + shift < 121:  # e2m1 * 2^(b - 127 + s - 126) would leave bf16's subnormal numbers
        raise Unsupported(
            f"the scales of these MXFP4 weights reach from 2^{low - 127} to 2^{high - 127}, too far for bf16",
            "triton",
        )
    return shift
