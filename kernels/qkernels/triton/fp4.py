"""Device functions that the quantizing kernels share: rounding, division, and the Hadamard of a tile.

Rounding by a magic number. For y in the binade of 2^e whose quantum is q, `y + M` with M = 2^23 * q has a
spacing of exactly q, so the fp32 addition itself rounds y to the nearest multiple of q, ties to even, and the
low mantissa bits of the sum are y/q: the code, up to an offset of the binade. No conversion instruction is
used: Hopper has none for E2M1, going through E4M3 or fp16 rounds twice, and Triton's interpreter and its
sm_89 back end before 3.9 round E4M3 wrongly. The exponent of M comes from y's own bits by integer arithmetic.

The maximum of |x| is taken over the bits of |x| as integers: the order is the same as that of the values, a
NaN is larger than every number, so it propagates, and the result does not depend on the order of reduction.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def magnitude_bits(x):
    """fp32 of any shape -> int32 bits of |x|; NaN > inf > every number."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def encode_e2m1(y, GAIN: tl.constexpr = 1.0):
    """Codes 0..15 (int32) of GAIN*y, rounded once from fp32: nearest even, saturating at 6, sign kept.

    Quanta 0.5, 1, 2 for [0, 2), [2, 4), [4, 6]; the offset of the binade 2^e is 2e. NaN gives 7 or 15.
    """
    y_bits = y.to(tl.int32, bitcast=True)
    size = tl.minimum(tl.abs(y), 6.0 / GAIN)
    if GAIN == 1.0:
        binade = tl.maximum(size.to(tl.int32, bitcast=True) & 0x7F800000, 0x3F800000)
        total = size + (binade + (22 << 23)).to(tl.float32, bitcast=True)
    else:  # the product is not rounded: 3*y has two bits more than fp32 holds
        binade = tl.maximum((size * GAIN).to(tl.int32, bitcast=True) & 0x7F800000, 0x3F800000)
        total = tl.fma(size, GAIN, (binade + (22 << 23)).to(tl.float32, bitcast=True))
    code = (
        total.to(tl.int32, bitcast=True) + (binade >> 22) + 2
    )  # binade >> 22 is 254 + 2e, and -254 is 2 mod 8
    return (code & 7) | ((y_bits >> 28) & 8)


@triton.jit
def round_e2m1(y):
    """0 <= y in fp32 -> the E2M1 number nearest to it, ties to even codes, at most 6; in fp32."""
    bounded = tl.minimum(y, 6.0)
    power = tl.maximum(bounded.to(tl.int32, bitcast=True) & 0x7F800000, 0x3F800000)
    magic = (power + (22 << 23)).to(tl.float32, bitcast=True)
    return (bounded + magic) - magic


@triton.jit
def pack_pairs(codes, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Codes of ROWS * COLUMNS elements in row-major order -> uint8 [ROWS, COLUMNS/2], even element low."""
    low, high = tl.split(tl.reshape(codes, (ROWS, COLUMNS // 2, 2)))
    return (low | (high << 4)).to(tl.uint8)


@triton.jit
def round_e4m3(t):
    """0 <= t <= 448 in fp32 -> (E4M3 byte as int32, its value in fp32), nearest even, subnormals included.

    Quantum 2^(e-3) from 2^-6 up, 2^-9 below. Whatever NaN gives, it is not a NaN: the caller decides.
    """
    binade = tl.maximum(t.to(tl.int32, bitcast=True) & 0x7F800000, 0x3C800000)
    magic = (binade + (20 << 23)).to(tl.float32, bitcast=True)
    total = t + magic
    byte = (total.to(tl.int32, bitcast=True) & 31) + (binade >> 20) - 968  # 968 = (127 - 6) << 3
    return byte, total - magic


@triton.jit
def encode_e4m3(y):
    """E4M3 bytes (uint8) of fp32 y: nearest even, saturating at 448, sign kept, NaN -> 0x7f."""
    y_bits = y.to(tl.int32, bitcast=True)
    byte, _value = round_e4m3(tl.minimum(tl.abs(y), 448.0))
    byte = byte | ((y_bits >> 24) & 0x80)
    return tl.where((y_bits & 0x7FFFFFFF) > 0x7F800000, 0x7F, byte).to(tl.uint8)


@triton.jit
def correct_quotient(x, divisor, inverse):
    """x/divisor rounded once, from inverse = fl(1/divisor) (Markstein 1990): the remainder of a first quotient is
    exact in a fused multiply-add. Three operations, against nine and a branch of `div_rn`. The divisor is > 0;
    every quotient and remainder that matters must be in fp32's normal range; an infinite quotient gives NaN.
    The remainder is q*d - x, which cancels to +0, and is taken times -inverse: -0 added to q keeps the sign of zero.
    """
    quotient = x * inverse
    return tl.fma(tl.fma(quotient, divisor, x * -1.0), -inverse, quotient)  # -x is 0 - x, an operation


@triton.jit
def scale_factor(scale):
    """A power of two that brings a scale > 0 near one, where quotients and remainders are normal numbers."""
    factor = tl.where(scale < 8.673617379884035e-19, 1.2089258196146292e24, 1.0)  # below 2^-60 times 2^80
    return tl.where(scale > 1.152921504606847e18, 8.271806125530277e-25, factor)  # above 2^60 times 2^-80


@triton.jit
def divide_by_scale(x, scale):
    """x/scale rounded once, for a scalar scale > 0 of any size; beyond +-2^23 it saturates, NaN stays NaN."""
    factor = scale_factor(scale)
    divisor = scale * factor  # exact, and x * factor is too wherever the quotient is not tiny or saturated
    limit = divisor * 8388608.0
    bounded = tl.clamp(x * factor, -limit, limit, propagate_nan=tl.PropagateNan.ALL)
    return correct_quotient(bounded, divisor, tl.div_rn(1.0, divisor))


@triton.jit
def nvfp4_scale(amax_bits, encode_scale, LEAST: tl.constexpr = 0.0):
    """Bits of block maxima and gs -> (E4M3 bytes int32, about 1/s fp32 or 1, is the block encoded or zero).

    s = e4m3(max(min(amax*gs/6, 448), LEAST)), with two fp32 roundings; 1/s is within two units in the last place, and
    exact for a power of two. inf or NaN gives the byte 0x7f.
    """
    byte, scale, finite = nvfp4_scale_of(amax_bits, encode_scale, 1.0, LEAST)
    coded = finite & (scale > 0.0)
    return tl.where(finite, byte, 0x7F), 1.0 / tl.where(coded, scale, 1.0), coded


@triton.jit
def nvfp4_scale_of(amax_bits, encode_scale, FACTOR: tl.constexpr, LEAST: tl.constexpr):
    """Bits of block maxima and gs -> (E4M3 bytes int32 and values fp32 of FACTOR*amax*gs/6, is the block finite).

    amax*gs = inf gives NaN, and the minimum makes it 448: it stands before LEAST, which would take a NaN's place.
    """
    amax = amax_bits.to(tl.float32, bitcast=True)
    t = correct_quotient(amax * encode_scale, 6.0, 1.0 / 6.0)
    if FACTOR != 1.0:
        t = t * FACTOR
    t = tl.minimum(t, 448.0)
    if LEAST > 0.0:
        t = tl.maximum(t, LEAST)
    byte, scale = round_e4m3(t)
    return byte, scale, amax_bits < 0x7F800000


@triton.jit
def encode_nvfp4(y, encode_scale):
    """fp32 [BLOCKS, 16] and the fp32 encode scale gs -> (codes int32 [BLOCKS, 16], scale bytes int32 [BLOCKS]).

    code = e2m1(y*gs/s): in it the two roundings below and the reciprocal's two units in the last place, within
    2^-21 of the exact quotient before its last rounding. y*gs comes first, for gs/s can overflow.
    The codes of a block that holds inf or NaN, and those under s = 0, are 0.
    """
    byte, inverse, coded = nvfp4_scale(tl.max(magnitude_bits(y), axis=1), encode_scale)
    codes = encode_e2m1((y * encode_scale) * inverse[:, None])
    return tl.where(coded[:, None], codes, 0), byte


@triton.jit
def hadamard_tile(N: tl.constexpr, DTYPE: tl.constexpr):
    """[N, N] Sylvester matrix of +1 and -1, H[i, j] = (-1)^(number of ones in i & j), N <= 256.

    In the dtype that multiplies x of DTYPE: its own, or bf16 for fp32 (see rotate_tile).
    """
    index = tl.arange(0, N)
    shared = index[:, None] & index[None, :]
    shared = shared ^ (shared >> 4)
    shared = shared ^ (shared >> 2)
    shared = shared ^ (shared >> 1)
    sign = (1 - 2 * (shared & 1)).to(tl.float32)
    if tl.float32 == DTYPE:
        matrix = sign.to(tl.bfloat16)
    else:
        matrix = sign.to(DTYPE)
    return matrix


@triton.jit
def rotate_tile(x, matrix, N: tl.constexpr):
    """Each N consecutive elements of a row-major tile times H/sqrt(N) -> fp32 [elements/N, N].

    H stays +-1, exact in every dtype, and products with it are exact; sums are fp32. 1/sqrt(N) is applied in
    fp32, because 1/sqrt(32) and 1/sqrt(128) in bf16 bias a product of two rotated operands by -2.1e-4.
    fp32 x is the exact sum of three bf16 numbers (its 24 bits, eight at a time), so it too runs on tensor
    cores; an fp32 dot at N = 128 needs more registers than there are (10 kB of spills a thread, sm_90).
    """
    groups: tl.constexpr = x.numel // N
    root: tl.constexpr = N**-0.5
    x = tl.reshape(x, (groups, N))
    if x.dtype == tl.float32:
        total = tl.zeros((groups, N), tl.float32)
        # Unrolled: in a loop, Triton 3.6 leaves products in flight across iterations while their register operand
        # is written anew (sm_90, N = 64: wrong scales in a tenth of the blocks, seen on an H200).
        for _part in tl.static_range(3):
            high = (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
            total = tl.dot(high.to(tl.bfloat16), matrix, total)
            x = x - high
    else:
        total = tl.dot(x, matrix)
    return total * root
