"""vLLM's quantizers restated in numpy, float32 in the order its CUDA kernels state, one operation per rounding.

Sources (vllm-project/vllm, csrc/quantization): w8a8/fp8/common.cu and common.cuh, w8a8/fp8/per_token_group_quant.cu,
w8a8/int8/scaled_quant.cu, fp4/nvfp4_utils.cuh. numpy divides, multiplies and rounds float32 correctly, and ml_dtypes
casts float32 to E4M3 and E2M1 correctly once it is clamped; neither shares a line with this library's torch code.
All functions take float32 [r, K] and return codes as raw bytes (FP8, E2M1) or int8.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Bytes = NDArray[np.uint8]
ONE, FP8_MAX, INT8_MAX = np.float32(1), np.float32(448), np.float32(127)
LEAST_TOKEN_SCALE = ONE / (FP8_MAX * np.float32(512))


def amax(x: Float, axis: int | None = -1) -> Float:
    return np.max(np.abs(x), axis=axis, keepdims=True)


def to_e4m3(y: Float) -> Bytes:
    """fmin before fmax, as the kernel: both drop a NaN, which becomes 448."""
    clamped = np.fmax(-FP8_MAX, np.fmin(y, FP8_MAX))
    return clamped.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)


def to_int8(y: Float) -> NDArray[np.int8]:
    """cvt.rni.sat.s8.f32: nearest even, saturating, NaN to 0."""
    return np.nan_to_num(np.clip(np.rint(y), -128, 127)).astype(np.int8)


def fp8_static(x: Float, scale: np.float32) -> Bytes:
    return to_e4m3(x * (ONE / scale))


def fp8_tensor(x: Float) -> tuple[Float, Bytes]:
    scale = (amax(x, None) / FP8_MAX).reshape(1)
    return scale, fp8_static(x, scale[0])


def fp8_token(x: Float) -> tuple[Float, Bytes]:
    scale = np.fmax(amax(x) / FP8_MAX, LEAST_TOKEN_SCALE)
    return scale, to_e4m3(x / scale)


def fp8_group(x: Float, group: int, eps: float = 1e-10) -> tuple[Float, Bytes]:
    """Scales [r, K/group]; amax is at least eps."""
    blocks = x.reshape(len(x), -1, group)
    scale = np.fmax(amax(blocks), np.float32(eps)) / FP8_MAX
    return scale[..., 0], to_e4m3(blocks / scale).reshape(x.shape)


def int8_static(x: Float, scale: np.float32) -> NDArray[np.int8]:
    return to_int8(x / scale)


def int8_token(x: Float) -> tuple[Float, NDArray[np.int8]]:
    top = amax(x)
    inverse = np.where(top == 0, np.float32(0), INT8_MAX / top)
    return top / INT8_MAX, to_int8(x * inverse)


def int8_shifted(y: Float, zero_point: NDArray[np.int32]) -> NDArray[np.int8]:
    """Round to int32, add, saturate to int8."""
    whole = np.clip(np.rint(y).astype(np.float64), -(2.0**31), 2.0**31 - 1).astype(np.int64)
    return np.clip(whole + zero_point, -128, 127).astype(np.int8)


def int8_static_asymmetric(
    x: Float, scale: np.float32, zero_point: int, *, reciprocal: bool
) -> NDArray[np.int8]:
    """reciprocal: x * (1/s), since the kernels were vectorised; before that x / s."""
    y = x * (ONE / scale) if reciprocal else x / scale
    return int8_shifted(y, np.int32(zero_point))


def int8_token_asymmetric(x: Float, *, reciprocal: bool) -> tuple[Float, NDArray[np.int32], NDArray[np.int8]]:
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    scale = (high - low) / np.float32(255)
    zero_point = np.rint(np.float32(-128) - low / scale).astype(np.int32)
    y = x * (ONE / scale) if reciprocal else x / scale
    return scale, zero_point, int8_shifted(y, zero_point)


def nvfp4(x: Float, encode_scale: np.float32, nudge: tuple[int, int, int] = (0, 0, 0)) -> tuple[Bytes, Bytes]:
    """Scale bytes [r, K/16] and codes [r, K] under the encode scale gs.

    The kernel's three reciprocals are `rcp.approx.ftz`, off by up to one unit in the last place; nudge moves each of
    them by so many units: 1/6, 1/gs and the final one.
    """
    blocks = x.reshape(len(x), -1, 16)
    sixth = moved(ONE / np.float32(6), nudge[0])
    wanted = encode_scale * (amax(blocks) * sixth)
    stored = np.fmin(wanted, FP8_MAX).astype(ml_dtypes.float8_e4m3fn)
    scale = stored.astype(np.float32)
    inverse = moved(ONE / np.where(scale == 0, ONE, scale * moved(ONE / encode_scale, nudge[1])), nudge[2])
    y = np.clip(blocks * np.where(scale == 0, np.float32(0), inverse), -6, 6)
    codes = y.astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    return stored.view(np.uint8)[..., 0], codes.reshape(x.shape)


def moved(x: Float, units: int) -> Float:
    """x > 0 moved by whole units in the last place."""
    return (np.asarray(x, np.float32).view(np.int32) + np.int32(units)).view(np.float32)
