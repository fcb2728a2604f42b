"""Element codecs against ml_dtypes' tables and rounding by distance, in numpy."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from qkernels import codec as codecs
from qkernels import format as formats

E2M1 = np.arange(8, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float64)
E4M3 = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
E8M0 = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
E5M2 = np.arange(124, dtype=np.uint8).view(ml_dtypes.float8_e5m2).astype(np.float64)
E3M2 = np.arange(32, dtype=np.uint8).view(ml_dtypes.float6_e3m2fn).astype(np.float64)
E2M3 = np.arange(32, dtype=np.uint8).view(ml_dtypes.float6_e2m3fn).astype(np.float64)
ROUNDED = {torch.bfloat16: (8, -126, 127), torch.float16: (11, -14, 15)}  # digits, least and largest exponent


def nearest(values: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Index of the nearest of the increasing `values` for each |y|; halfway the even index; beyond the last, the last.

    Both types have an even last bit where the code is even, so this is rounding to nearest even.
    """
    middle = (values[1:] + values[:-1]) / 2
    odd = np.arange(len(middle)) % 2 == 1
    size = np.abs(y)[..., None]
    return ((size > middle) | ((size == middle) & odd)).sum(-1)


def samples(values: np.ndarray, dtype: type) -> np.ndarray:
    """The values, every tie, their neighbours in dtype, and numbers beyond both ends; of both signs."""
    points = np.concatenate(
        [values, (values[1:] + values[:-1]) / 2, values[-1] * np.array([1.01, 2, 1e30])]
    ).astype(dtype)
    zero, top = dtype(0), np.finfo(dtype).max
    points = np.concatenate([points, np.nextafter(points, zero), np.nextafter(points, top)])
    return np.concatenate([points, -points])


def codec() -> None:
    """Every code of every element type, every tie, and rounding of float64 without an intermediate fp32."""
    _decoding()
    _encoding("E2M1", codecs.encode_e2m1, E2M1, sign=8)
    _encoding("E4M3", codecs.encode_e4m3, E4M3, sign=128)
    for element, table in (
        (formats.E2M1, E2M1),
        (formats.E2M3, E2M3),
        (formats.E3M2, E3M2),
        (formats.E5M2, E5M2),
    ):
        sign = 1 << (element.bits - 1)
        _encoding(element.name, partial(codecs.encode_float, element=element), table, sign=sign)
        code = torch.arange(len(table), dtype=torch.uint8)
        _same(element.name, code.numpy(), codecs.decode_float(code, element), table)
        _same(f"-{element.name}", code.numpy(), codecs.decode_float(code | sign, element), -table)
    steps = torch.tensor([0.25, 0.25, 1.75, -0.25, -0.25, 3.0, 3.0], dtype=torch.float64)
    noise = torch.tensor([0.24, 0.25, 0.74, 0.74, 0.75, 0.0, 0.99], dtype=torch.float64)
    wanted = np.array([1, 0, 2, 0, -1, 3, 3], dtype=np.float64)
    _same("stochastic rounding", steps.numpy(), codecs.round_steps(steps, noise) + 0.0, wanted)
    for number in (np.nan, -np.nan):
        assert int(codecs.encode_e4m3(torch.tensor([number]))) == 0x7F, "E4M3 of NaN is not 0x7f"
    exponent = torch.arange(-300, 300)
    wanted = np.clip(exponent.numpy() + 127, 0, 254)
    _same("E8M0 byte of 2^e", exponent.numpy(), codecs.encode_e8m0(exponent), wanted)
    _powers()
    _rounding()
    _packing()


def _decoding() -> None:
    table = np.concatenate([E2M1, -E2M1])
    _same("E2M1", np.arange(16), codecs.decode_e2m1(torch.arange(16, dtype=torch.uint8)), table)
    byte = torch.arange(256, dtype=torch.uint8)
    table = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    _same("E4M3", byte.numpy(), codecs.decode_e4m3(byte), table)
    _same("E8M0", byte.numpy(), codecs.decode_e8m0(byte), E8M0)


def _encoding(name: str, encode: Callable[[Tensor], Tensor], values: np.ndarray, sign: int) -> None:
    for dtype in (np.float32, np.float64):
        y = samples(values, dtype)
        wanted = nearest(values, y.astype(np.float64)) | np.where(np.signbit(y), sign, 0)
        _same(f"{name} code of {dtype.__name__}", y, encode(torch.from_numpy(y)), wanted)
    y = np.array([np.inf, -np.inf])
    wanted = np.array([len(values) - 1, len(values) - 1 | sign])
    _same(f"{name} code", y, encode(torch.from_numpy(y)), wanted)


def _powers() -> None:
    exponent = np.arange(-1074, 1024)
    power = np.ldexp(1.0, exponent)
    _same("floor(log2) of 2^e", power, codecs.floor_log2(torch.from_numpy(power)), exponent)
    below = np.nextafter(power[1:], 0)
    _same("floor(log2) below 2^e", below, codecs.floor_log2(torch.from_numpy(below)), exponent[:-1])
    ends = codecs.floor_log2(torch.tensor([0.0, torch.inf, torch.nan], dtype=torch.float64)).tolist()
    assert ends == [-1087, 1024, 1024], f"floor(log2) of 0, inf and NaN is {ends}"
    exponent = np.arange(-1022, 1024)
    _same("2^e", exponent, codecs.pow2(torch.from_numpy(exponent)), np.ldexp(1.0, exponent))


def _rounding() -> None:
    """Points just beside ties: through fp32 they would be the tie itself."""
    for dtype, (digits, least, top) in ROUNDED.items():
        for exponent in (least - 3, least, -3, 0, 5, top):
            quantum = Fraction(2) ** (max(exponent, least) - digits + 1)
            small = (5, 6) if exponent <= least else ()  # of a subnormal
            for steps in (*small, 2 ** (digits - 1) + 1, 2 ** (digits - 1) + 2):
                for beside in (Fraction(0), Fraction(1, 2**30), Fraction(-1, 2**30)):
                    exact = (steps + Fraction(1, 2) + beside) * quantum
                    whole = steps + (1 if beside > 0 or (beside == 0 and steps % 2) else 0)
                    found = codecs.round_to(torch.tensor([float(exact)], dtype=torch.float64), dtype)
                    assert float(found) == float(whole * quantum), (
                        f"{float(exact)!r} rounded to {dtype} is {float(found)!r}, expected {float(whole * quantum)!r}"
                    )
        special = torch.tensor([1e300, -1e300, torch.inf, torch.nan, -0.0], dtype=torch.float64)
        found = codecs.round_to(special, dtype)
        assert found[0] == torch.inf and found[1] == -torch.inf and found[2] == torch.inf, (
            f"overflow: {found}"
        )
        assert bool(found[3].isnan()) and bool(torch.signbit(found[4])), f"NaN and -0 became {found[3:]}"


def _packing() -> None:
    codes = torch.tensor([[1, 2, 15, 0], [7, 8, 9, 3]], dtype=torch.uint8)
    packed = codecs.pack_e2m1(codes)
    _same("packed pair", codes.numpy(), packed, np.array([[0x21, 0x0F], [0x87, 0x39]]))
    _same("unpacked pair", packed.numpy(), codecs.unpack_e2m1(packed), codes.numpy())


def _same(what: str, given: np.ndarray, found: Tensor, wanted: np.ndarray) -> None:
    shown = found.numpy().astype(np.float64)
    wide = wanted.astype(np.float64)
    bad = ~((shown == wide) | (np.isnan(shown) & np.isnan(wide))) | (
        (np.signbit(shown) != np.signbit(wide)) & ~np.isnan(wide)
    )
    if bad.any():
        at = np.flatnonzero(bad.reshape(-1))[0]
        index = min(at, given.size - 1)
        raise AssertionError(
            f"{what} {given.reshape(-1)[index]!r}: found {shown.reshape(-1)[at]!r}, expected {wide.reshape(-1)[at]!r}"
        )
