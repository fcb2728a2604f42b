"""The quantizer that folds MXFP4 into E4M3 rows, interpreted, against the exact quantizer in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from qbench import poisoned_allocations
from qkernels import QTensor, quantize
from qkernels.codec import decode_e2m1, unpack_e2m1
from qkernels.triton.mxfp4_fold import Folded, mxfp4_fold

FORMAT = {"floor": "mxfp4", "ceil": "mxfp4_ceil", "abs_max": "mxfp4_abs_max"}


def fold() -> None:
    """Elements times factors are the exact quantizer's values; the factor is of the row's largest block."""
    for rule, dtype, hadamard in (
        ("floor", torch.bfloat16, None), ("floor", torch.float32, None), ("ceil", torch.bfloat16, None),
        ("abs_max", torch.float16, None), ("abs_max", torch.bfloat16, None), ("floor", torch.bfloat16, 32),
    ):  # fmt: skip
        x = _spread(dtype)
        if rule == "abs_max":  # a block that is rounded to zeros, whose scale says nothing
            x[0, 96:128] = 1e-12
        with poisoned_allocations():
            found = mxfp4_fold(x, rule=rule, hadamard=hadamard)
        q = quantize(x, FORMAT[rule], hadamard=hadamard)
        what = f"{rule} of {dtype}, hadamard {hadamard}"
        assert torch.equal(found.scale, q.scale), f"{what}: scale bytes are others"
        assert found.rows.gain == q.format.gain, f"{what}: the gain is {found.rows.gain}"
        assert not bool(found.misfits.any()), f"{what}: rows that fit are called misfits"
        _judge(what, found, q)
    y = found.quantized()
    assert torch.equal(y.exact_values(torch.float64), q.exact_values(torch.float64)), "quantized() is another"


def fold_ties() -> None:
    """Blocks of fp32 at and beside every tie of E2M1, a row each, give the exact quantizer's values and signs."""
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    for rule, unit in (("floor", 1.0), ("abs_max", 1 / 3)):
        at = (ties.double() * unit).float()
        near = torch.cat([at, at.nextafter(torch.zeros(1)), at.nextafter(torch.full((1,), 9.0))])
        near = torch.cat(
            [near, at * (1 + 2.0**-22), torch.tensor([0.0, 5.5 * unit, 7.9 * unit, 0.26 * unit])]
        )
        x = torch.stack([near, -near])
        top = 4.0 if rule == "floor" else 1.75
        x[:, 28] = top  # the scale is 1 in each
        found, q = mxfp4_fold(x, rule=rule), quantize(x, FORMAT[rule])
        assert torch.equal(found.scale, q.scale), f"{rule}: scale bytes are others"
        _judge(f"{rule} of ties", found, q)


def fold_misfits() -> None:
    """Scales too far apart are rounded and named; a block of NaN is NaN; neither touches the row's others."""
    for dtype in (torch.bfloat16, torch.float32):
        x = _spread(dtype)
        x[:, :64] = torch.linspace(-1, 1, 64)
        x[:3, 64:] = 1.0
        for row, exponent in enumerate((-14, -15, -45)):
            x[row, 32:64] *= 2.0**exponent
        x[3, 40] = torch.nan
        x[4, 40] = -torch.inf
        found, q = mxfp4_fold(x), quantize(x, "mxfp4")
        d = _apart(q)
        fits = (d <= 14).all(1) & (q.scale != 255).all(1)
        assert fits.tolist()[:5] == [True, False, False, False, False], f"the sample is another: {fits}"
        assert torch.equal(found.misfits, ~fits), (
            f"{dtype}: misfits {found.misfits.tolist()}, expected {~fits}"
        )
        assert torch.equal(found.scale, q.scale), f"{dtype}: scale bytes are others"
        _judge(f"{dtype} with misfits", found, q)


def _spread(dtype: torch.dtype) -> Tensor:
    """Magnitudes 2^-3 .. 2^3 of blocks, whole blocks and a row of zeros, and K that is no power of two."""
    g = torch.Generator().manual_seed(4)
    size = torch.exp2(torch.randint(-3, 4, (7, 5), generator=g).float()).repeat_interleave(32, dim=1)
    x = torch.randn(7, 160, generator=g) * size
    x[4, 64:96] = 0
    x[5, :128] = 0
    x[6] = 0
    x[3] *= 1e-6  # beside it a block below the least amax of abs_max
    x[3, :32] = torch.linspace(-1.2e-9, 1.2e-9, 32)
    whole = torch.full((7, 192), torch.nan, dtype=dtype)
    whole[:, :160] = x
    return whole[:, :160]


def _codes(q: QTensor) -> Tensor:
    return decode_e2m1(unpack_e2m1(q.data)).double().view(*q.scale.shape, 32)


def _largest(q: QTensor) -> Tensor:
    """The largest scale byte of a row among finite blocks that hold a number other than zero; 0 if none does."""
    used = (_codes(q) != 0).any(-1) & (q.scale != 255)
    return torch.where(used, q.scale.int(), 0).amax(1)


def _apart(q: QTensor) -> Tensor:
    used = (_codes(q) != 0).any(-1) & (q.scale != 255)
    return torch.where(used, _largest(q)[:, None] - q.scale.int(), 0)


def _judge(what: str, found: Folded, q: QTensor) -> None:
    factor = found.rows.factor.double()
    zeros = (_codes(q) == 0).all(-1).all(-1)
    wanted = torch.where(zeros, factor, torch.exp2(_largest(q).double() - 133))
    assert torch.equal(factor, wanted), f"{what}: factors are {factor.tolist()}, expected {wanted.tolist()}"
    values = torch.ldexp(_codes(q), (6 - _apart(q))[..., None])
    values = torch.round(values * 512) / 512  # the least numbers of E4M3: all others are multiples of it
    values = torch.where((q.scale == 255)[..., None], torch.nan, values).view(q.shape)
    y = found.rows.elements.double()
    wrong = ~((y == values) | (y.isnan() & values.isnan()))
    assert not bool(wrong.any()), f"{what}: {int(wrong.sum())} of {wrong.numel()} elements are others"
