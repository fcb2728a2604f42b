"""What functions of CUDA's libdevice mean, in numpy: fp32 computed in float64 and rounded once.

The hardware's are within one or two units in the last place of these where they are approximate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from qbench.interpreter.operators import fused

_REAL: dict[str, Callable[..., Any]] = {  # `__nv_<name>` of float64, `__nv_<name>f` of float32
    **{name: getattr(np, name) for name in (
        "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "cbrt", "sin", "cos", "tan", "sinh", "cosh",
        "tanh", "ceil", "floor", "trunc", "rint", "fabs", "fmod", "fmax", "fmin", "hypot", "copysign",
    )},
    "acos": np.arccos, "asin": np.arcsin, "atan": np.arctan, "atan2": np.arctan2, "pow": np.power,
    "acosh": np.arccosh, "asinh": np.arcsinh, "atanh": np.arctanh, "nearbyint": np.rint,
    "exp10": lambda x: np.power(10.0, x),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "round": lambda x: np.trunc(x) + np.copysign(np.abs(x - np.trunc(x)) >= 0.5, x),  # halves away from zero
}  # fmt: skip

_SINGLE: dict[str, Callable[..., Any]] = {  # fp32 intrinsics; approximate ones are given exactly
    "fadd_rn": np.add, "fsub_rn": np.subtract, "fmul_rn": np.multiply, "fdiv_rn": np.divide,
    "fsqrt_rn": np.sqrt, "frcp_rn": lambda x: 1 / x, "frsqrt_rn": lambda x: 1 / np.sqrt(x),
    "fast_expf": np.exp, "fast_exp10f": lambda x: np.power(10.0, x), "fast_logf": np.log, "fast_log2f": np.log2,
    "fast_log10f": np.log10, "fast_sinf": np.sin, "fast_cosf": np.cos, "fast_tanf": np.tan, "fast_tanhf": np.tanh,
    "fast_powf": np.power, "fast_fdividef": np.divide, "saturatef": lambda x: np.fmin(np.fmax(x, 0), 1),
}  # fmt: skip


def _single(function: Callable[..., Any]) -> Callable[..., Any]:
    def compute(*arrays: Any) -> Any:
        with np.errstate(all="ignore"):
            return np.asarray(function(*(each.astype(np.float64) for each in arrays))).astype(np.float32)

    return compute


def _to_integer(round_to: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """fp32 -> int32, saturating; NaN gives 0."""
    return lambda x: np.nan_to_num(np.clip(round_to(x.astype(np.float64)), -(2.0**31), 2.0**31 - 1)).astype(
        "i4"
    )


def _leading_zeros(x: Any) -> Any:
    return (32 - np.frexp(x.view(np.uint32).astype(np.float64))[1]).astype(np.int32)


def _bits(x: Any) -> Any:
    """The 32 bits of each element, lowest first, in a new last dimension."""
    return np.unpackbits(
        np.ascontiguousarray(x).view(np.uint8).reshape(*x.shape, 4), axis=-1, bitorder="little"
    )


def _reversed_bits(x: Any) -> Any:
    return np.packbits(_bits(x)[..., ::-1], axis=-1, bitorder="little").view(np.int32).reshape(x.shape)


def _flag(test: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: test(x).astype(np.int32)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f"__nv_{name}": function for name, function in _REAL.items()},
    **{f"__nv_{name}f": _single(function) for name, function in _REAL.items()},
    **{f"__nv_{name}": _single(function) for name, function in _SINGLE.items()},
    "__nv_fmaf": lambda x, y, z: fused(x, y, z).astype(np.float32),
    "__nv_fmaf_rn": lambda x, y, z: fused(x, y, z).astype(np.float32),
    "__nv_float2int_rn": _to_integer(np.rint),
    "__nv_float2int_rz": _to_integer(np.trunc),
    "__nv_float2int_rd": _to_integer(np.floor),
    "__nv_float2int_ru": _to_integer(np.ceil),
    "__nv_int2float_rn": lambda x: x.astype(np.float32),
    "__nv_float_as_int": lambda x: x.view(np.int32),
    "__nv_int_as_float": lambda x: x.view(np.float32),
    "__nv_float_as_uint": lambda x: x.view(np.int32),
    "__nv_uint_as_float": lambda x: x.view(np.float32),
    "__nv_isnanf": _flag(np.isnan),
    "__nv_isinff": _flag(np.isinf),
    "__nv_finitef": _flag(np.isfinite),
    "__nv_signbitf": _flag(np.signbit),
    "__nv_abs": np.abs,
    "__nv_popc": lambda x: _bits(x).sum(axis=-1, dtype=np.int32),
    "__nv_clz": _leading_zeros,
    "__nv_brev": _reversed_bits,
}
