"""Casts of the interpreter against ml_dtypes, exhaustively where there are few values, and fma against fractions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from qbench.interpreter import interpreted

NARROW = {
    "e4m3": (torch.float8_e4m3fn, ml_dtypes.float8_e4m3fn, 448.0),
    "e5m2": (torch.float8_e5m2, ml_dtypes.float8_e5m2, 57344.0),
    "bf16": (torch.bfloat16, ml_dtypes.bfloat16, np.inf),
}


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> Iterator[None]:
    with interpreted(sys.modules[__name__]):
        yield


@triton.jit
def cast_kernel(x_ptr, out_ptr, ROUNDING: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    if ROUNDING is None:
        tl.store(out_ptr + at, x.to(out_ptr.dtype.element_ty))
    else:
        tl.store(out_ptr + at, x.to(out_ptr.dtype.element_ty, fp_downcast_rounding=ROUNDING))


@triton.jit
def fma_kernel(x_ptr, y_ptr, z_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.fma(tl.load(x_ptr + at), tl.load(y_ptr + at), tl.load(z_ptr + at)))


def cast(x: torch.Tensor, name: str, rounding: str | None = None) -> Any:
    """The numpy array of a narrow ml_dtypes type that a kernel makes of x."""
    out = torch.empty(x.shape, dtype=NARROW[name][0])
    length = triton.next_power_of_2(x.numel())
    room = torch.ones(length, dtype=x.dtype)
    room[: x.numel()] = x
    wide = torch.empty(length, dtype=out.dtype)
    cast_kernel[(1,)](room, wide, ROUNDING=rounding, BLOCK=length)
    bits = wide.view(torch.uint16 if name == "bf16" else torch.uint8)[: x.numel()]
    return bits.numpy().view(NARROW[name][1])


def expected(x: Any, name: str) -> Any:
    """ml_dtypes' nearest even, with saturation; fp8's NaN is 0x7f whatever the sign."""
    _, kind, limit = NARROW[name]
    with np.errstate(all="ignore"):
        narrow = np.clip(x, -limit, limit).astype(kind)
    if name != "bf16":
        narrow.view(np.uint8)[np.isnan(x)] = 0x7F
    return narrow


def same(found: Any, right: Any) -> bool:
    """Equal bits; any NaN of bf16 equals any other."""
    a, b = (each.view(np.uint16 if each.itemsize == 2 else np.uint8) for each in (found, right))
    both = np.isnan(found.astype(np.float32)) & np.isnan(right.astype(np.float32))
    return bool(np.all((a == b) | (both & (found.itemsize == 2))))


def ties_and_neighbours(name: str) -> Any:
    """float64: all positive finite codes, the middles between them, and a little to either side of the middles."""
    codes = np.arange(1 << (15 if name == "bf16" else 7), dtype=np.uint16 if name == "bf16" else np.uint8)
    grid = codes.view(NARROW[name][1]).astype(np.float64)
    grid = np.unique(grid[np.isfinite(grid)])
    middle = (grid[:-1] + grid[1:]) / 2
    return np.concatenate([grid, middle, middle * (1 + 2.0**-23), middle * (1 - 2.0**-23)])


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("wide", [torch.float16, torch.bfloat16], ids=str)
def test_every_16_bit_value_rounds_as_in_ml_dtypes(name: str, wide: torch.dtype) -> None:
    x = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(wide)
    assert same(cast(x, name), expected(x.float().numpy(), name))


@pytest.mark.parametrize("name", NARROW)
def test_every_tie_of_fp32_and_its_neighbours(name: str) -> None:
    with np.errstate(all="ignore"):
        x = ties_and_neighbours(name).astype(np.float32)
    x = np.concatenate([x, -x, np.float32([np.nan, np.inf, -np.inf, 1e38, -1e38, 1e-45])])
    assert same(cast(torch.from_numpy(x), name), expected(x, name))


@pytest.mark.parametrize("name", NARROW)
def test_float64_is_rounded_once(name: str) -> None:
    """2^-40 beside a tie is lost on the way through fp32, and the tie would then go to even."""
    codes = (
        np.arange(8, 120, dtype=np.uint16) if name != "bf16" else np.arange(0x3F80, 0x4080, dtype=np.uint16)
    )
    grid = codes.astype(np.uint8 if name != "bf16" else np.uint16).view(NARROW[name][1]).astype(np.float64)
    middle = (grid[:-1] + grid[1:]) / 2
    for beside, right in ((1 + 2.0**-40, grid[1:]), (1 - 2.0**-40, grid[:-1])):
        found = cast(torch.from_numpy(middle * beside), name)
        assert np.array_equal(found.astype(np.float64), right)


@pytest.mark.parametrize("name", NARROW)
def test_rounding_toward_zero_takes_the_smaller_neighbour(name: str) -> None:
    codes = np.arange(100, dtype=np.uint8) if name != "bf16" else np.arange(0x3F00, 0x4100, dtype=np.uint16)
    grid = np.unique(codes.view(NARROW[name][1]).astype(np.float32))
    step = grid[1:] - grid[:-1]
    for share in (0, 0.25, 0.5, 0.75):
        x = grid[:-1] + np.float32(share) * step
        for sign in (1, -1):
            found = cast(torch.from_numpy(sign * x), name, "rtz").astype(np.float32)
            assert np.array_equal(found, sign * grid[:-1])


@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
@pytest.mark.parametrize("wide", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_code_decodes_as_in_ml_dtypes(name: str, wide: torch.dtype) -> None:
    codes, out = torch.arange(256, dtype=torch.uint8), torch.empty(256, dtype=wide)
    cast_kernel[(1,)](codes.view(NARROW[name][0]), out, ROUNDING=None, BLOCK=256)
    right = codes.numpy().view(NARROW[name][1]).astype(np.float32)
    assert np.array_equal(out.float().numpy(), right, equal_nan=True)


def nearest(exact: Fraction, kind: Any) -> Any:
    """`exact` rounded once to nearest even, by trying the neighbours of a first guess."""
    guess = np.asarray(np.float32(float(exact))).astype(kind)
    bits = guess.view(np.uint32 if guess.itemsize == 4 else np.uint16)
    near = [np.asarray(int(bits) + i).astype(bits.dtype).view(guess.dtype) for i in (-1, 0, 1)]
    return min(near, key=lambda v: (abs(Fraction(float(v)) - exact), int(v.view(bits.dtype)) & 1))


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_fma_rounds_the_exact_result_once(name: str) -> None:
    """Random products, and sums within a hair of a tie: z is a half unit of x * y in the last place, +- a little."""
    dtype, kind = getattr(torch, name), {"bfloat16": ml_dtypes.bfloat16}.get(name) or np.dtype(name)
    rng, digits = np.random.default_rng(3), {"float32": 24, "float16": 11, "bfloat16": 8}[name]
    x, y = (rng.integers(1 << (digits - 1), 1 << digits, 512) * 2.0 ** (1 - digits) for _ in range(2))
    z = rng.choice([1, -1], 512) * 2.0 ** -rng.integers(0, 14 if name == "float16" else 60, 512)
    x[:64], y[:64], z[:64] = (
        1 + 2.0 ** (1 - digits),
        1 + 2.0 ** (1 - digits),
        np.repeat([1.0, -1.0, 0.5, 2.0], 16),
    )
    tensors = [torch.from_numpy(each).to(dtype) for each in (x, y, z)]
    out = torch.empty(512, dtype=dtype)
    fma_kernel[(1,)](*tensors, out, BLOCK=512)
    exact = [
        Fraction(a) * Fraction(b) + Fraction(c)
        for a, b, c in zip(*(t.double().tolist() for t in tensors), strict=True)
    ]
    right = np.array([float(nearest(value, kind)) for value in exact])
    assert np.array_equal(out.double().numpy(), right)
