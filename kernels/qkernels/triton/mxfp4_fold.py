"""x [M, K] -> MXFP4, folded into E4M3 rows for the product on FP8 tensor cores (mxfp4_folded), in one pass.

The codes and scale bytes are those of mxfp4_quantize: same rule, same rotation. What is written are the codes' values
times 2^(6 - d), with d the distance of a block's scale byte to the largest of its row, exact in E4M3 for d = 0 .. 14
(its subnormals included: the last bit of a code is 2^-1, and 2^(-1 + 6 - 14) = 2^-9). A block of zeros has no d. A
block with d > 14 is rounded to what E4M3 holds there, multiples of 2^-9 where the row's largest blocks reach 256 and
more; a block that is not finite is NaN. Both make the row's `misfits` true: nothing waits for the device here.

A program holds a row in registers, so that its largest scale is known before anything is written, and x is read once.
bf16 without a rotation stays bf16: two elements in an instruction, each step exact but the one that rounds.

Rotated, a thread holds whole blocks and adds in fp32 (butterflies.py): 764 instructions for 32 elements, for 128 886,
and no product, whose waits and layouts took 859 and 1565 before; predicted 31 and 34 us for 4096 x 8192.

SASS (sm_90, Triton 3.6), K = 8192: 456 instructions for 32 elements of a thread (14 each). Predicted 28 us for
4096 x 8192. Measured (H200, torch 2.11, graph replay, L2 cold, bf16): 26.0 us (floor 23.6; mxfp4_quantize 31.8);
1024 x 8192 8.7; 16 x 8192 2.6; 4096 x 28672 85.7 (floor 82.8).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

import qbench
from qkernels.codec import encode_e2m1 as encode_exactly
from qkernels.codec import ldexp, pack_e2m1
from qkernels.format import MXFP4, Format
from qkernels.tensor import QTensor
from qkernels.triton.butterflies import rotate_parts
from qkernels.triton.expected import BEFORE_HOPPER
from qkernels.triton.fp4 import encode_e2m1, magnitude_bits, round_e2m1
from qkernels.triton.fp4_decode import decode_e2m1
from qkernels.triton.fp4_parts import block_values, load_block, root_of
from qkernels.triton.fp4_words import words_fit
from qkernels.triton.launch import check_hadamard, check_matrix
from qkernels.triton.mxfp4_folded import FoldedRows
from qkernels.triton.mxfp4_quantize import TAKES, shared_exponent

_LONGEST = 32768
_BY_RULE = {fmt.rule: fmt for fmt in TAKES}


def expected() -> qbench.Expectation:
    """What the kernel must be compiled to, for bf16. FP8 products of its rows are Hopper's."""
    return qbench.Expectation(
        {}, load_bits={"*": 128}, store_bits={"*": 128},
        unsupported={BEFORE_HOPPER: "no conversion to E4M3 (sm_80), no product of two bf16 in one (sm_89)"},
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Folded:
    """rows; the E8M0 scale bytes uint8 [M, K/32] they were folded from; misfits bool [M]; the format."""

    rows: FoldedRows
    scale: Tensor
    misfits: Tensor
    format: Format

    def quantized(self) -> QTensor:
        """The QTensor that was folded, for checks: codes from values and scales, untimed. Of rows that fit."""
        m, k = self.rows.elements.shape
        scale = self.scale.to(torch.int32)
        largest = torch.round(torch.log2(self.rows.factor.double())).to(torch.int32) + 133
        d = (largest[:, None] - scale).repeat_interleave(32, dim=1)
        y = ldexp(self.rows.elements.to(torch.float32), d - 6)
        y = torch.where((self.scale == 255).repeat_interleave(32, dim=1), 0.0, y)
        return QTensor(
            pack_e2m1(encode_exactly(y)), self.scale, self.format, (m, k), hadamard=self.rows.hadamard
        )


# Four bf16 in $1, $2, times powers of two in $3, $4 that bring them below 8, rounded to E2M1 and times those in $5, $6:
# four E4M3 bytes. In the binade of 2^e (e = 0 below 1) the steps of E2M1 are 2^(e-1), those of bf16 at 96 * 2^e too.
ROUND_AND_FOLD = tl.constexpr("""
{
.reg .b32 v, p, r, l, h, six, one, up, down;
.reg .b16 a, b;
mov.b32 six, 0x40C040C0;
mov.b32 one, 0x3F803F80;
mov.b32 up, 0x42C042C0;
mov.b32 down, 0xC2C0C2C0;
mul.bf16x2 v, $1, $3;
min.xorsign.abs.bf16x2 v, v, six;
abs.bf16x2 p, v;
max.bf16x2 p, p, one;
and.b32 p, p, 0x7F807F80;
fma.rn.bf16x2 r, p, up, v;
fma.rn.bf16x2 r, p, down, r;
lop3.b32 r, v, 0x80008000, r, 0xEA;
mul.bf16x2 r, r, $5;
shl.b32 l, r, 16;
and.b32 h, r, 0xFFFF0000;
cvt.rn.satfinite.e4m3x2.f32 a, h, l;
mul.bf16x2 v, $2, $4;
min.xorsign.abs.bf16x2 v, v, six;
abs.bf16x2 p, v;
max.bf16x2 p, p, one;
and.b32 p, p, 0x7F807F80;
fma.rn.bf16x2 r, p, up, v;
fma.rn.bf16x2 r, p, down, r;
lop3.b32 r, v, 0x80008000, r, 0xEA;
mul.bf16x2 r, r, $6;
shl.b32 l, r, 16;
and.b32 h, r, 0xFFFF0000;
cvt.rn.satfinite.e4m3x2.f32 b, h, l;
mov.b32 $0, {a, b};
}
""")


@triton.jit
def joined(parts):
    """Four times fp32 [BLOCKS, 8] -> [BLOCKS, 32]."""
    blocks: tl.constexpr = parts[0].shape[0]
    pairs = tl.join(
        tl.join(parts[0], parts[2]), tl.join(parts[1], parts[3])
    )  # [blocks, 8, second bit, first bit]
    return tl.reshape(tl.permute(pairs, (0, 2, 3, 1)), (blocks, 32))


@triton.jit(do_not_specialize=["k"])
def mxfp4_fold_kernel(
    x_ptr, out_ptr, scale_ptr, factor_ptr, misfits_ptr, k, stride,
    LENGTH: tl.constexpr, HADAMARD: tl.constexpr, RULE: tl.constexpr, PACKED: tl.constexpr,
    WORDS: tl.constexpr,
):  # fmt: skip
    """One row. PACKED: x is bf16, not rotated, and the rule has no factor; then it is rounded as it is, in pairs."""
    BLOCKS: tl.constexpr = LENGTH // 32
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    mask = (block < k // 32)[:, None]
    position = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    if HADAMARD:  # a thread takes whole blocks, as in fp4_parts.py
        HALF: tl.constexpr = x_ptr.dtype.element_ty == tl.float16
        loaded = load_block(x_ptr + row * stride + block * 32, block < k // 32, 4, WORDS)
        y = joined(rotate_parts(block_values(loaded, 4, WORDS, HALF), 4, HADAMARD)) * root_of(HADAMARD)
    else:
        x = tl.load(x_ptr + row * stride + position, mask=mask, other=0.0)
        y = tl.reshape(x.to(tl.float32), (BLOCKS, 32))
    if PACKED:  # bits of bf16: half as many instructions
        amax_bits = tl.max(x.to(tl.int16, bitcast=True) & 0x7FFF, axis=1).to(tl.int32) << 16
    else:
        amax_bits = tl.max(magnitude_bits(y), axis=1)
    finite = amax_bits < 0x7F800000
    scales = shared_exponent(y, amax_bits, RULE)
    inverse = tl.maximum((254 - scales) << 23, 0x00400000).to(tl.float32, bitcast=True)
    gain: tl.constexpr = 3.0 if RULE == "abs_max" else 1.0
    # the largest of a block decides whether all of it is rounded to zero
    used = finite & (amax_bits.to(tl.float32, bitcast=True) * inverse * gain > 0.25)
    largest = tl.max(tl.where(used, scales, 0), axis=0)
    d = tl.where(used, largest - scales, 0)
    fits = finite & (d <= 14)
    # 2^(6 - d); beyond d = 20 all is rounded to zero anyway
    factor = ((133 - tl.minimum(d, 30)) << 23).to(tl.float32, bitcast=True)
    factor = tl.where(finite, factor, float("nan"))
    if PACKED:
        inverse, factor = inverse.to(tl.bfloat16), factor.to(tl.bfloat16)
        value = tl.inline_asm_elementwise(
            ROUND_AND_FOLD, "=r,r,r,r,r,r,r",
            [x, tl.broadcast_to(inverse[:, None], (BLOCKS, 32)), tl.broadcast_to(factor[:, None], (BLOCKS, 32))],
            dtype=tl.uint8, is_pure=True, pack=4,
        )  # fmt: skip
        value = value.to(tl.float8e4nv, bitcast=True)
    elif gain == 1.0:  # x/s is exact
        size = round_e2m1(tl.abs(y) * inverse[:, None]) * factor[:, None]
        bits = size.to(tl.int32, bitcast=True) | (y.to(tl.int32, bitcast=True) & -2147483648)
        value = bits.to(tl.float32, bitcast=True).to(tl.float8e4nv)
    else:
        codes = encode_e2m1(y * inverse[:, None], gain)
        value = (decode_e2m1(codes, tl.float32, False) * factor[:, None]).to(tl.float8e4nv)
    tl.store(out_ptr + row * (k // 32 * 32) + position, value, mask=mask)
    tl.store(
        scale_ptr + row * (k // 32) + block, tl.where(finite, scales, 0xFF).to(tl.uint8), mask=block < k // 32
    )
    tl.store(misfits_ptr + row, 1 - tl.min((fits | (amax_bits == 0)).to(tl.int32), axis=0))
    # 2^(largest - 133), by two factors that are normal numbers
    half = largest // 2
    low = ((half + 61) << 23).to(tl.float32, bitcast=True)  # 2^(half - 66)
    high = ((largest - half + 60) << 23).to(tl.float32, bitcast=True)  # 2^(largest - half - 67)
    tl.store(factor_ptr + row, low * high)


def mxfp4_fold(
    x: Tensor, *, rule: str = "floor", hadamard: int | None = None, warps: int | None = None
) -> Folded:
    """x [M, K] float16, bfloat16 or float32, K a multiple of 32 and of `hadamard`, at most 32768.

    Raises TypeError or ValueError for input the kernel does not take, ValueError for an unknown rule.
    """
    if rule not in _BY_RULE:
        raise ValueError(f"unknown MXFP4 rule {rule!r}; known: {', '.join(_BY_RULE)}")
    check_hadamard(hadamard, MXFP4.hadamard)
    m, k = check_matrix(x, block=32, hadamard=hadamard)
    if k > _LONGEST:
        raise ValueError(f"K = {k}; a row of at most {_LONGEST} elements fits the registers")
    elements = torch.empty(m, k, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty(m, k // 32, dtype=torch.uint8, device=x.device)
    factor = torch.empty(m, dtype=torch.float32, device=x.device)
    misfits = torch.empty(m, dtype=torch.bool, device=x.device)
    length = max(64 * (hadamard or 2), triton.next_power_of_2(k))
    packed = x.dtype == torch.bfloat16 and hadamard is None and rule != "abs_max"
    if warps is None:
        warps = max(4, length // 1024) if length <= 8192 else length // 2048
        if not packed:
            warps = min(32, max(4, length // 1024))
    if m > 0:
        with torch.cuda.device_of(x):
            mxfp4_fold_kernel[(m,)](
                x, elements, scale, factor, misfits, k, x.stride(0),
                LENGTH=length, HADAMARD=hadamard or 0, RULE=rule, PACKED=packed, WORDS=words_fit(x),
                num_warps=warps, enable_fp_fusion=False,
            )  # fmt: skip
    fmt = _BY_RULE[rule]
    return Folded(FoldedRows(elements, factor, fmt.gain, hadamard), scale, misfits, fmt)


def _rounded_and_folded(
    x: NDArray[np.uint16], inverse: NDArray[np.uint16], factor: NDArray[np.uint16]
) -> NDArray[np.uint8]:
    """`ROUND_AND_FOLD` in numpy, bf16 as its bits: the same steps, each rounded to bf16."""

    def wide(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
        return (bits.astype(np.uint32) << 16).view(np.float32)

    def bf16(value: NDArray[np.float64]) -> NDArray[np.float64]:
        return (
            torch.from_numpy(value).to(torch.bfloat16).double().numpy()
        )  # one rounding: values have few bits

    v = bf16(wide(x).astype(np.float64) * wide(inverse))
    size = np.fmin(np.abs(v), 6.0)
    binade = np.exp2(np.floor(np.log2(np.maximum(size, 1.0))))
    rounded = bf16(bf16(binade * 96 + size) - binade * 96)
    folded = torch.from_numpy(np.copysign(rounded, v) * wide(factor)).to(torch.float8_e4m3fn)
    return folded.view(torch.uint8).numpy()


qbench.register_inline_asm(ROUND_AND_FOLD.value, _rounded_and_folded)
