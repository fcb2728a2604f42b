"""Device functions of the FP8 and INT8 quantizers: a scale and fp32 numbers become E4M3 or INT8 codes.

INT8: saturation precedes rounding (its bounds are integers, so the order does not matter); then adding 1.5*2^23
rounds, and the low bits of the sum are the code.
E4M3: the hardware's cast from sm_90, which saturates and keeps NaN; before, arithmetic, for sm_80 has none and Triton
before 3.9 rounds twice on sm_89.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from qkernels.format import FLOAT32_MAX
from qkernels.triton.amax import largest
from qkernels.triton.fp4 import correct_quotient, encode_e4m3, magnitude_bits, scale_factor

_LARGEST = tl.constexpr(FLOAT32_MAX)


def has_e4m3_cast(device: torch.device) -> bool:
    """Does the GPU cast fp32 to E4M3 correctly through Triton? The repaired interpreter does."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def to_e4m3(y, HARDWARE: tl.constexpr):
    """fp32 -> E4M3 bytes (uint8), saturating, NaN kept. The cast is cvt.rn.satfinite: there is no other."""
    if HARDWARE:
        return y.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    else:
        return encode_e4m3(y)


@triton.jit
def scale_of_tensor(amax):
    """(s, NaN where amax is not finite; fp32 1/s; is amax finite?)."""
    finite = magnitude_bits(amax) < 0x7F800000
    scale = tl.where(finite, tl.div_rn(amax, 448.0), float("nan"))
    return scale, tl.minimum(tl.div_rn(1.0, scale), _LARGEST), finite


@triton.jit
def tensor_scale(scale_ptr, partial_ptr, PARTIALS: tl.constexpr):
    """(fp32 1/s, is the tensor finite?) of FP8: s is given, or (PARTIALS > 0) amax/448 and written by one program."""
    if PARTIALS > 0:
        scale, inverse, finite = scale_of_tensor(largest(partial_ptr, PARTIALS))
        if tl.program_id(0) + tl.program_id(1) == 0:
            tl.store(scale_ptr, scale)
    else:
        finite = True
        inverse = tl.minimum(tl.div_rn(1.0, tl.load(scale_ptr)), _LARGEST)
    return inverse, finite


@triton.jit
def tensor_codes(x, inverse, finite, HARDWARE: tl.constexpr, DYNAMIC: tl.constexpr):
    """e4m3(x/s); 0 where a dynamic scale is not finite."""
    x = x.to(tl.float32)
    if DYNAMIC:
        x = tl.where(finite, x, 0.0)
    return to_e4m3(x * inverse, HARDWARE)


@triton.jit
def round_even(y):
    """fp32 |y| <= 2^22 -> int32, nearest even."""
    return (y + 12582912.0).to(tl.int32, bitcast=True) - 0x4B400000


@triton.jit
def to_int8(y, zero_point):
    """sat(rne(y) + zp); NaN (and only NaN) gives the code 0. |zp| <= 2^22 - 128."""
    shift = zero_point.to(tl.float32)
    code = round_even(tl.maximum(tl.minimum(y, 127.0 - shift), -128.0 - shift)) + zero_point
    return tl.where(y == y, code, 0).to(tl.int8)


@triton.jit
def symmetric_codes(x, scale):
    """sat(rne(x/scale)), NaN 0, for a scalar scale > 0 of any size: saturates x, so that no quotient needs it."""
    factor = scale_factor(scale)
    divisor = scale * factor
    bounded = tl.maximum(tl.minimum(x * factor, divisor * 127.25), divisor * -128.25)
    code = round_even(correct_quotient(bounded, divisor, tl.div_rn(1.0, divisor)))
    return tl.where(x == x, code, 0).to(tl.int8)


@triton.jit
def asymmetric_scale(low, high, amax):
    """fp32 scale and int32 zero point of a finite row from its extremes."""
    spread = high - low
    scale = tl.div_rn(spread, 255.0)
    if spread == float("inf"):  # max - min beyond fp32: both ends near 3e38
        scale = ((high.to(tl.float64) - low.to(tl.float64)) / 255.0).to(tl.float32)
    scale = tl.maximum(scale, amax * 9.5367431640625e-07)  # 2^-20
    scale = tl.where((spread == 0.0) | (scale == 0.0), amax, scale)
    scale = tl.where(amax == 0.0, 1.0, scale)
    return scale, round_even(-128.0 - tl.div_rn(low, scale))
