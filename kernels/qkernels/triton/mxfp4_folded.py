"""MXFP4 on FP8 tensor cores: block scales folded into the elements, relative to the largest of the row.

e2m1 * 2^(6 - d) is a normal E4M3 number (at most 384, no less than 2^-6 but for 0) for d = 0 .. 11, where 2^-d is a
block's scale relative to its row's largest. So a row whose scales span at most 2^11 is a row of E4M3 numbers times
one power of two, exactly. Blocks of zeros have no scale to speak of: d = 0. Weights trained or random span 2 to 8
(KERNELS: Gaussian 2, Student t3 8); rows that span more are refused, with the row's number.

    codes    uint8 [N/16, K/128, 1024], a unit of 16 rows by 128 of K in the order (k pair, g, t, k half, s, byte): lane
             4 g + t has for row g + 8 s and each 32 of K a word of eight codes, 4 t + 0..3 in its low half and
             16 + 4 t + 0..3 in its high half: wgmma's first operand for 8-bit elements. Nibble v of the word is the
             magnitude of code v without its sign; bits 7, 15, 23, 31 are the signs of codes 0..3, bits 3, 11, 19, 27
             those of 4..7, so that one mask gives magnitudes, which select bytes of a table (prmt), and one the signs.
    spread   uint8 [N/16, K/128, 64]: d in the order (g, 32 of K, s)
    factor   float32 [N]: 2^(largest scale - 6)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qbench import Unsupported
from qkernels.codec import decode_e2m1, ldexp, unpack_e2m1
from qkernels.tensor import QTensor

ROWS, COLUMNS, SPREAD = 16, 128, 11
ROW_SPREAD = 14  # of activations, whose elements are E4M3 already: 0.5 * 2^(6 - 14) is its least
_SIGN = (7, 15, 23, 31, 3, 11, 19, 27)


@dataclass(frozen=True, eq=False)
class FoldedWeights:
    """Weights [n, k] as described above; N padded to 16 and K to 128 with zeros."""

    codes: Tensor
    spread: Tensor
    factor: Tensor
    n: int
    k: int
    gain: float
    hadamard: int | None = None

    @property
    def nbytes(self) -> int:
        return self.codes.numel() + self.spread.numel() + 4 * self.factor.numel()


@dataclass(frozen=True, eq=False)
class FoldedRows:
    """Activations [m, k]: value = elements * factor. elements float8_e4m3fn [M, K]; factor float32 [M]."""

    elements: Tensor
    factor: Tensor
    gain: float
    hadamard: int | None = None


def relative(q: QTensor, limit: int | None = SPREAD) -> tuple[Tensor, Tensor]:
    """(d uint8 [R, K/32], largest exponent byte int32 [R]) of a QTensor. Raises Unsupported where d > limit, if any."""
    codes = unpack_e2m1(q.data).view(*q.scale.shape, 32)
    scale = q.scale.to(torch.int32)
    used = (codes & 7 != 0).any(-1)
    nan = scale == 255
    if limit is not None and bool(nan.any()):
        raise Unsupported("a block's scale is NaN; quantize finite values")
    used &= ~nan
    largest = torch.where(used, scale, 0).amax(-1)
    d = torch.where(used, largest[:, None] - scale, 0)
    if limit is not None and int(d.max() if d.numel() else 0) > limit:
        row = int((d > limit).any(-1).nonzero()[0])
        raise Unsupported(
            f"scales of row {row} span 2^{int(d[row].max())}, more than the 2^{limit} of E4M3 operands; "
            "fold(x) rounds the smaller blocks of activations"
        )
    return d.to(torch.uint8), largest


def fold_rows(q: QTensor, *, exact: bool = True) -> FoldedRows:
    """A QTensor in MXFP4 as E4M3 rows. Waits for the device: spreads are looked at, unless rounding is allowed."""
    d, largest = relative(q, ROW_SPREAD if exact else None)
    values = decode_e2m1(unpack_e2m1(q.data)).to(torch.float32).view(*d.shape, 32)
    elements = ldexp(values, 6 - d.to(torch.int32)[..., None])
    elements = torch.where((q.scale == 255)[..., None], torch.nan, elements).view(q.shape)
    return FoldedRows(elements.to(torch.float8_e4m3fn), _power(largest), q.format.gain, q.hadamard)


def fold_weights(w: QTensor) -> FoldedWeights:
    """A QTensor in MXFP4 as folded weights. Waits for the device: spreads are looked at."""
    d, largest = relative(w)
    n, k = w.shape
    tiles, chunks = -(-n // ROWS), -(-k // COLUMNS)
    codes = _padded(unpack_e2m1(w.data), tiles * ROWS, chunks * COLUMNS)
    # n = tile, s, g; k = chunk, pair, half, upper, t, byte
    v = codes.view(tiles, 2, 8, chunks, 2, 2, 2, 4, 4).permute(0, 3, 4, 2, 7, 5, 1, 6, 8)
    v = v.reshape(tiles, chunks, 256, 8)  # words of eight codes
    words = torch.zeros(v.shape[:-1], dtype=torch.int32, device=v.device)
    for index in range(8):
        code = v[..., index].to(torch.int32)
        words |= ((code & 7) << (4 * index)) | ((code >> 3) << _SIGN[index])
    spread = _padded(d, tiles * ROWS, chunks * 4).view(tiles, 2, 8, chunks, 4).permute(0, 3, 2, 4, 1)
    return FoldedWeights(
        words.view(torch.uint8).view(tiles, chunks, 1024), spread.reshape(tiles, chunks, 64), _power(largest),
        n, k, w.format.gain, w.hadamard,
    )  # fmt: skip


def _power(largest: Tensor) -> Tensor:
    """2^(byte - 127 - 6), float32."""
    return ldexp(torch.ones_like(largest, dtype=torch.float32), largest - 133)


def _padded(x: Tensor, rows: int, columns: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, columns - x.shape[1], 0, rows - x.shape[0]))


def dense(w: FoldedWeights) -> Tensor:
    """float64 [N, K]: what w holds, over its gain. Slow; says what the layout means."""
    tiles, chunks = w.codes.shape[:2]
    words = w.codes.view(torch.int32)
    values = []
    for index in range(8):
        code = ((words >> (4 * index)) & 7) | (((words >> _SIGN[index]) & 1) << 3)
        values.append(decode_e2m1(code.to(torch.uint8)).to(torch.float64))
    v = torch.stack(values, -1).view(tiles, chunks, 2, 8, 4, 2, 2, 2, 4)  # pair, g, t, half, s, upper, byte
    v = v.permute(0, 6, 3, 1, 2, 5, 7, 4, 8).reshape(tiles * ROWS, chunks * COLUMNS)
    d = w.spread.view(tiles, chunks, 8, 4, 2).permute(0, 4, 2, 1, 3).reshape(tiles * ROWS, -1)
    v = ldexp(v, 6 - d.to(torch.int32).repeat_interleave(32, dim=1))[: w.n, : w.k]
    return v * w.factor[:, None].to(torch.float64) / w.gain
