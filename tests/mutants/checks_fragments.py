"""Weights in the orders of the fast products, read back an element at a time by what the layouts' texts say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch

from qbench import Unsupported
from qkernels import QTensor
from qkernels.format import MXFP4, MXFP4_ABS_MAX, NVFP4, NVFP4_1L, Format
from qkernels.triton import fp4_fragments, mxfp4_folded
from tests.mutants.helpers import certified

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# bits of a code, lowest first and the sign last, in each half of a word of fragments: rows, rows + 8; k, k + 8
PLACES = ((6, 7, 8, 15), (3, 4, 5, 12), (0, 1, 2, 9), (13, 14, 10, 11))
SIGNS = (7, 15, 23, 31, 3, 11, 19, 27)  # of the codes of a word of folded weights


def fragments() -> None:
    """Every element and scale of `fragments` and of its inverse `dense`; unit, base and what is refused."""
    every = torch.arange(256, dtype=torch.uint8)
    scales = QTensor(torch.full((16, 128), 0x9A, dtype=torch.uint8), every.view(16, 16), NVFP4_1L, (16, 256))
    made = [certified(rows, k, fmt, 3) for fmt in (NVFP4, MXFP4) for rows, k in ((33, 96), (5, 192))]
    for w in (*made, scales):
        f = fp4_fragments.fragments(w)
        wanted = w.exact_values(torch.float64)
        _same(f"{w.format.name} {list(w.shape)} by its words", _by_words(f), wanted)
        _same(f"{w.format.name} {list(w.shape)} by dense", fp4_fragments.dense(f), wanted)
    nvfp4, abs_max = (fp4_fragments.fragments(certified(16, 64, fmt, 3)) for fmt in (NVFP4, MXFP4_ABS_MAX))
    assert (nvfp4.unit, int(nvfp4.base)) == (2.0**8, 112), "unit or base of NVFP4"
    assert nvfp4.global_scale is not None and float(nvfp4.global_scale) == 4.0, "the global scale is lost"
    assert abs_max.unit == 1 / 3, f"the unit of abs_max is {abs_max.unit}, expected 1/3"
    for low, high, shift in ((120, 128, 126), (140, 200, 54), (190, 254, 0), (130, 131, 122)):
        f = fp4_fragments.fragments(_scaled(low, high))
        found, wanted_ = (f.unit, int(f.base)), (2.0 ** (126 - shift), shift // 2)
        assert found == wanted_, f"unit and base of {low} .. {high} are {found}, expected {wanted_}"
    w = _scaled(87, 220)
    _same("scales 87 .. 220", _by_words(fp4_fragments.fragments(w)), w.exact_values(torch.float64))
    for low, high in ((86, 220), (120, 255)):
        _refused(
            f"scales {low} .. {high}", lambda low=low, high=high: fp4_fragments.fragments(_scaled(low, high))
        )


def _scaled(low: int, high: int, fmt: Format = MXFP4) -> QTensor:
    """A weight whose least and largest scale bytes are these."""
    w = certified(16, 64, fmt, 5)
    scale = torch.full_like(w.scale, low)
    scale[3, 1] = high
    return dataclasses.replace(w, scale=scale)


def _refused(what: str, call: Callable[[], object]) -> None:
    try:
        call()
    except Unsupported:
        return
    raise AssertionError(f"{what}: taken, though they do not fit")


def _same(what: str, found: torch.Tensor, wanted: torch.Tensor) -> None:
    wrong = ~((found == wanted) | (found.isnan() & wanted.isnan()))
    assert not bool(wrong.any()), f"{what}: {int(wrong.sum())} of {wrong.numel()} elements are others"


def _by_words(f: fp4_fragments.Fragments) -> torch.Tensor:
    words, scales, block = f.data.tolist(), f.scale.tolist(), f.format.block
    assert block
    out = torch.zeros(f.n, f.k, dtype=torch.float64)
    for row in range(f.n):
        tile, s, g = row // 16, row % 16 // 8, row % 8
        for column in range(f.k):
            chunk, e, h = column // 64, column % 64 // 16, column % 16 // 8
            bits = words[tile][chunk][4 * g + column % 8 // 2][e] >> (16 * (column % 2))
            code = sum((bits >> place & 1) << bit for bit, place in enumerate(PLACES[s + 2 * h]))
            at = (g * 64 // block + column % 64 // block) * 2 + s
            byte = scales[tile][chunk][at // 4] >> (8 * (at % 4)) & 0xFF
            out[row, column] = math.copysign(E2M1[code & 7], 7.5 - code) * _scale(byte, f.format)
    return out


def _scale(byte: int, fmt: Format) -> float:
    if fmt.scale == "e8m0":
        return 2.0 ** (byte - 127)
    return math.nan if byte == 255 else (1 + (byte & 7) / 8) * 2.0 ** ((byte >> 3) - 21)


def folded() -> None:
    """Every element of folded weights and rows; factors, gains, blocks of zeros and what is refused."""
    for rows, k, fmt in ((19, 160, MXFP4), (5, 256, MXFP4_ABS_MAX)):
        w = certified(rows, k, fmt, 7)
        w.scale[:, 1] -= torch.arange(rows, dtype=torch.uint8) % 11
        w.scale[2, 0] = 3  # of a block of zeros, some of them negative: neither the largest nor the farthest
        w.data[2, :16] = 0x80
        w.scale[3, 0], w.data[3, :16] = 200, 0x08
        f, x = mxfp4_folded.fold_weights(w), mxfp4_folded.fold_rows(w)
        wanted = w.exact_values(torch.float64)
        what = f"{fmt.name} [{rows}, {k}]"
        _same(f"{what} by its words", _folded_by_words(f), wanted)
        _same(f"{what} by dense", mxfp4_folded.dense(f) * fmt.gain, wanted)
        _same(f"{what} as rows", x.elements.double() * x.factor.double()[:, None], wanted)
        assert f.gain == x.gain == fmt.gain, f"the gain of {fmt.name} is {f.gain}, {x.gain}"
        top = x.elements.float().abs().amax(1)
        assert bool(((top >= 32) & (top <= 384)).all()), (
            f"{what}: the largest of a row is {top.min()}, {top.max()}"
        )
    _same_exactly_apart()


def _same_exactly_apart() -> None:
    """Weights' scales fit 2^11 apart and not 2^12, rows' 2^14 and not 2^15, and are rounded where that is allowed; NaN
    is refused, or stays NaN."""
    w = _scaled(116, 127)
    _same("scales 2^11 apart", _folded_by_words(mxfp4_folded.fold_weights(w)), w.exact_values(torch.float64))
    x = mxfp4_folded.fold_rows(rows := _scaled(113, 127))
    _same(
        "scales 2^14 apart",
        x.elements.double() * x.factor.double()[:, None],
        rows.exact_values(torch.float64),
    )
    _refused("scales 115 .. 127", lambda: mxfp4_folded.fold_weights(_scaled(115, 127)))
    _refused("scales 112 .. 127", lambda: mxfp4_folded.fold_rows(_scaled(112, 127)))
    for fold in (mxfp4_folded.fold_weights, mxfp4_folded.fold_rows):
        _refused("a scale of NaN", lambda fold=fold: fold(_scaled(127, 255)))
    for low, high in ((115, 127), (127, 255)):
        w = _scaled(low, high)
        x = mxfp4_folded.fold_rows(w, exact=False)
        _same(
            f"scales {low} .. {high} as rows",
            x.elements.double() * x.factor.double()[:, None],
            w.exact_values(torch.float64),
        )


def _folded_by_words(f: mxfp4_folded.FoldedWeights) -> torch.Tensor:
    words, spread, factor = f.codes.view(torch.int32).tolist(), f.spread.tolist(), f.factor.tolist()
    out = torch.zeros(f.n, f.k, dtype=torch.float64)
    for row in range(f.n):
        tile, s, g = row // 16, row % 16 // 8, row % 8
        for column in range(f.k):
            chunk, part, inner = column // 128, column % 128 // 32, column % 32
            word = words[tile][chunk][((((part // 2) * 8 + g) * 4 + inner % 16 // 4) * 2 + part % 2) * 2 + s]
            v = 4 * (inner // 16) + inner % 4
            sign = -1.0 if word >> SIGNS[v] & 1 else 1.0
            d = spread[tile][chunk][g * 8 + part * 2 + s]
            out[row, column] = sign * E2M1[word >> 4 * v & 7] * 2.0 ** (6 - d) * factor[row]
    return out
