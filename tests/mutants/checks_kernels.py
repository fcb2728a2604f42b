"""The Triton quantizers bit for bit where their docstrings promise bits, and the maximum over a matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from qbench import poisoned_allocations
from qkernels import quantize
from qkernels.codec import decode_e4m3, encode_e2m1
from qkernels.format import Format
from qkernels.hadamard import rotate
from qkernels.triton.amax import partial_amax
from tests.mutants.helpers import difference, normal
from tests.mutants.subjects import Subject
from tests.unit.interpreter_kernels import code_kernel

E2M1_TIES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


def exact(subject: Subject) -> None:
    """The kernel's bytes equal the exact quantizer's: MX rules but quest, FP8, INT8, and NVFP4 of exact quotients."""
    fmt = subject.fmt
    for x in _inputs(fmt, subject.options.get("scale")):
        with poisoned_allocations():
            found = subject.quantize(x)
        wrong = difference(found, quantize(x, fmt, **subject.options))
        assert not wrong, f"{fmt.name} of {x.dtype} {list(x.shape)}: {wrong}"


def _inputs(fmt: Format, scale: float | None) -> Iterator[Tensor]:
    if fmt.scale == "e4m3":
        yield _exact_nvfp4()
        return
    if fmt.scale == "e8m0":
        yield from _mx(fmt)
    elif fmt.element.name == "e4m3":
        value = decode_e4m3(torch.arange(127, dtype=torch.uint8))
        points = _beside(torch.cat([value, (value[1:] + value[:-1]) / 2]))
        yield from _scaled(points, 448.0, scale)
    else:
        yield from _scaled(_beside(torch.arange(0, 128) / 2), 127.0, scale)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        yield normal(3, 96, dtype)
    yield normal(4, 64) * torch.tensor([1e-38, 1e-20, 1e20, 1e37])[:, None]
    if not fmt.block:
        yield from _by_words()


def _exact_nvfp4() -> Tensor:
    """Blocks with amax = 6*t, t every tie of E4M3 and its value: s is exact, and so are codes where s is 2^e."""
    value = decode_e4m3(torch.arange(1, 127, dtype=torch.uint8))
    t = torch.cat([value, (value[1:] + value[:-1]) / 2, value[:1] / 2])
    x = torch.zeros(len(t), 16)
    x[:, 3] = -6 * t
    power = torch.frexp(t).mantissa == 0.5
    ties = _beside(torch.tensor(E2M1_TIES))
    x[power, 4:] = ties[:12] * t[power, None]
    lost = torch.stack(
        [torch.zeros(16), torch.full((16,), -(2.0**-20))]
    )  # scale 0: codes are 0, without a sign
    return torch.cat([x, lost])


def _beside(points: Tensor) -> Tensor:
    """Each point between its two fp32 neighbours."""
    up, down = points.nextafter(torch.full((1,), 3e38)), points.nextafter(torch.zeros(1))
    return torch.stack([down, points, up], dim=1).flatten()


def _mx(fmt: Format) -> Iterator[Tensor]:
    """Blocks whose amax is at and beside every threshold of the rule, holding every tie and its neighbours."""
    top = _beside(torch.tensor([1.0, 1.25, 1.5, 1.75, 1.9999]))
    powers = torch.exp2(torch.tensor([-126.0, -40.0, -20.0, 0.0, 1.0, 100.0, 125.0]))
    amax = (top[None, :] * powers[:, None]).flatten()
    scale = torch.exp2(torch.frexp(amax).exponent.double() - 3).float()
    unit = scale * (4 / 3) if fmt.gain == 3 else scale
    ties = _beside(torch.tensor(E2M1_TIES))
    signs = torch.where(torch.arange(len(ties)) % 2 == 0, 1.0, -1.0)
    inside = (ties * signs)[None, :] * unit[:, None]
    inside = torch.where(inside.abs() <= amax[:, None], inside, -0.0)
    x = torch.zeros(len(amax), 32)
    x[:, 5] = -amax
    x[:, 6 : 6 + inside.shape[1]] = inside
    yield x
    if fmt.gain != 1:  # three ulps about tie/3 of scale 1: 3*x rounded to fp32 would be the tie itself
        third = (torch.tensor(E2M1_TIES).double() / 3).float()
        near = torch.cat([_beside(third), third * (1 + 2.0**-22), third * (1 - 2.0**-22)])
        x = torch.zeros(2, 64)
        x[:, 0] = x[:, 32] = 1.75
        x[0, 1:32], x[0, 33:37] = near[:31], near[31:35]
        x[1, 1:32], x[1, 33:37] = -near[:31], -near[31:35]
        yield x
    yield torch.stack([torch.full((32,), 2.0**-149), torch.full((32,), 2.0**-127), torch.full((32,), -1e-9)])
    yield torch.full((1, 32), 3.4e38)


def _scaled(points: Tensor, top: float, scale: float | None) -> Iterator[Tensor]:
    """Every code and tie times a scale; without a given one the row's maximum makes it."""
    for factor in (scale,) if scale else (1.0, 0.02, 1.7e-3):
        row = torch.cat([points * factor, -points * factor, torch.tensor([0.0, -0.0, top * factor])])
        limit = top * factor * (3 if scale else 1)
        yield torch.stack([row.clamp(-limit, limit), row.flip(0).clamp(-limit, limit) / 3])
    flat = torch.full((40,), 3.25)
    nearly = flat.clone()
    nearly[7] = nearly[7].nextafter(torch.tensor(9.0))
    ends = torch.linspace(-1, 1, 40) * 3.3e38  # the ends themselves overflow in linspace
    yield torch.stack(
        [torch.zeros(40), flat, nearly, -1e6 * nearly, ends, ends * 1e-38, ends * 1e-44, ends.abs()]
    )
    yield torch.tensor([[0.0, -0.0, math.inf, -math.inf, math.nan, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0, 7e-46]])


def _by_words() -> Iterator[Tensor]:
    """Sixteen-bit rows that leave part of a program's threads without elements, and rows of two parts (a program's 512
    threads take 4096 elements at a time), whose extremes stand in the last place."""
    for dtype in (torch.bfloat16, torch.float16):
        yield normal(3, 40, dtype).abs() + 1
        yield -(normal(3, 40, dtype).abs() + 1)
        x = normal(3, 4096 + 40, dtype)
        x[:2, -1] = torch.tensor([-60.0, 60.0])
        yield x


def amax() -> None:
    """One negative extreme at any place of any tile is found; NaN propagates; inf and NaN are left out if asked."""
    places = [(0, 0), (8, 1036), (4, 1023), (4, 1024), (3, 700)]
    for place in places:
        x = torch.ones(9, 1037)
        x[place] = -2.5
        assert _largest(x) == 2.5, f"the extreme at {place} of {list(x.shape)} is not found"
        x[place] = math.nan
        assert math.isnan(_largest(x)), f"NaN at {place} does not propagate"
        assert _largest(x, finite_only=True) == 1.0, f"NaN at {place} is not left out"
        x[place] = -math.inf
        assert _largest(x) == math.inf and _largest(x, finite_only=True) == 1.0, f"inf at {place}"
    wide = torch.full((9, 2048), 99.0)[:, 100:1137]
    wide.fill_(1.0)
    assert _largest(wide) == 1.0, "elements beside a slice are read"
    many = torch.ones(8 * 70, 128)  # seventy tiles: groups of two and three programs; or each takes several
    for place in ((-1, -1), (8 * 35, 5)):
        many[place] = -3.0
        for most, direct in ((1 << 14, 0), (7, None)):
            assert _largest(many, most=most, direct=direct) == 3.0, (
                f"one of many tiles is missing, {most} programs, groups from {direct}"
            )
        many[place] = 1.0
    half = torch.ones(2, 96, dtype=torch.float16)
    half[1, 70] = -300.0
    assert _largest(half) == 300.0
    one_hot = torch.zeros(3, 128)
    one_hot[2, 64:] = 1.0
    assert _largest(one_hot, hadamard=64) == 8.0, "the maximum after a rotation of a constant by 64 is not 8"


def e2m1() -> None:
    """encode_e2m1 at and beside every tie and between, of both signs and zeros, equals the codec."""
    points = torch.cat([torch.tensor(E2M1_TIES), torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0, 6.0])])
    size = torch.cat([_beside(points), torch.tensor([0.0, 0.2, 2.6, 4.9, 6.9, 100.0, 3e38])])
    x = torch.cat([size, -size, torch.zeros(128 - 2 * len(size))])
    out = torch.empty(128, dtype=torch.uint8)
    code_kernel[(1,)](x, out, BLOCK=128)
    wrong = (out != encode_e2m1(x.double())).nonzero().flatten().tolist()
    assert not wrong, f"codes of {x[wrong[:4]].tolist()} are {out[wrong[:4]].tolist()}"


def rotations() -> None:
    """The largest of a rotated tile, of fp32 and of sixteen bits that are no words, to 2^-20."""
    for n in (32, 128):
        for x in (
            normal(5, 256),
            normal(5, 257, torch.float16)[:, 1:],
            normal(5, 257, torch.bfloat16)[:, 1:],
        ):
            for row in x:
                wanted = float(rotate(row[None].double(), n, torch.float64).abs().max())
                found = _largest(row[None], hadamard=n)
                assert abs(found / wanted - 1) < 2.0**-20, f"rotated by {n}, {x.dtype}: {found} for {wanted}"


def _largest(x: Tensor, **options: Any) -> float:
    with poisoned_allocations():
        partial = partial_amax(x, **options)
    return float(partial.max().view(torch.float32))
