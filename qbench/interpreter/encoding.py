"""Values and raw bits of the types that numpy lacks: bf16 as uint16, e4m3 and e5m2 as uint8, e2m1 in pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

FLOAT8 = {"fp8e4nv": (torch.float8_e4m3fn, 448.0), "fp8e5": (torch.float8_e5m2, 57344.0)}
ENCODED = frozenset({"bf16", *FLOAT8})
_FLOAT8_NAN = 0x7F
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)
_TABLES = {
    name: torch.arange(256, dtype=torch.uint8).view(kind).float().numpy()
    for name, (kind, _) in FLOAT8.items()
}


def is_encoded(dtype: Any) -> bool:
    """Are the numpy data of this triton type raw bits?"""
    return dtype.name in ENCODED


def decode(data: Any, dtype: Any) -> Any:
    """Raw bits to float32 values; anything numpy understands is returned as it is."""
    if dtype.name not in ENCODED or data.dtype == np.bool_:
        return data
    if dtype.name == "bf16":
        return (data.astype(np.uint32) << 16).view(np.float32)
    return _TABLES[dtype.name][data.view(np.uint8)]


def encode(values: Any, dtype: Any, numpy_type: Any = None) -> Any:
    """Values to the numpy data of `dtype`, rounded to nearest even once.

    e4m3 and e5m2 saturate at their largest number and NaN becomes 0x7f, as PTX `cvt.rn.satfinite` does.
    """
    if dtype.name not in ENCODED:
        return values.astype(numpy_type)
    source = torch.from_numpy(_as_float32(values))
    if dtype.name == "bf16":
        return source.to(torch.bfloat16).view(torch.uint16).numpy()
    kind, limit = FLOAT8[dtype.name]
    bits = source.clamp(-limit, limit).to(kind).view(torch.uint8)
    return torch.where(source.isnan(), torch.full_like(bits, _FLOAT8_NAN), bits).numpy()


def encode_toward_zero(values: Any, dtype: Any) -> Any:
    """`encode`, rounded toward zero: one code less where rounding to nearest went up in magnitude."""
    values = _as_float32(values)
    bits = encode(values, dtype)
    with np.errstate(invalid="ignore"):
        return bits - (np.abs(decode(bits, dtype)) > np.abs(values)).astype(bits.dtype)


def decode_e2m1(packed: Any, axis: int) -> Any:
    """uint8 pairs of codes, the first in the low half, unpacked along `axis` -> float32."""
    pairs = np.stack([packed & 15, packed >> 4], axis=axis)
    shape = list(packed.shape)
    shape[axis] *= 2
    return _E2M1[pairs.reshape(shape)]


def decode_e8m0(data: Any) -> Any:
    """Bytes b -> float64 2^(b - 127); 255 is NaN."""
    codes = data.view(np.uint8).astype(np.float64)
    return np.where(codes == 255, np.nan, np.exp2(codes - 127.0))


def to_odd(rounded: Any, error: Any) -> Any:
    """Nearest-rounded floats and the sign of (exact - rounded) -> rounded to odd instead.

    Of the two neighbours of an inexact value the one with an odd last bit: a second rounding to two bits fewer or
    less is then right (Boldo and Melquiond 2008).
    """
    integers = np.int64 if rounded.dtype == np.float64 else np.int32
    bits = rounded.view(integers)
    away = (error > 0) == (rounded > 0)  # the exact value is larger in magnitude
    step = np.where(away, 1, -1).astype(integers)
    change = (error != 0) & np.isfinite(rounded) & np.isfinite(error) & (bits & 1 == 0) & (rounded != 0)
    return np.where(change, bits + step, bits).view(rounded.dtype)


def _as_float32(values: Any) -> Any:
    """A fresh float32 array; float64 is rounded to odd, for it is rounded once more."""
    if values.dtype != np.float64:
        return np.array(values, dtype=np.float32)  # a copy: broadcast data are read-only
    with np.errstate(all="ignore"):
        rounded = np.array(values, dtype=np.float32)
        return to_odd(rounded, values - rounded.astype(np.float64))
