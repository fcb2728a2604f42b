"""Folded MXFP4 weights (mxfp4_folded) as wgmma's first operand, E4M3 in registers: what Hopper's products share.

Each lane holds just the words whose codes are its own registers of the operand, so nothing moves between threads.
"""

from __future__ import annotations

from functools import lru_cache

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

# Eight codes in $2; tables $3 (0, .5, 1, 1.5) and $7 (2, 3, 4, 6), each four times for four elements.
DECODE_E4M3 = gl.constexpr("""
{
.reg .b32 m, h, s;
and.b32 m, $2, 0x77777777;
prmt.b32 h, $3, $7, m;
lop3.b32 $0, $2, 0x80808080, h, 0xEA;
shr.u32 m, m, 16;
shl.b32 s, $2, 4;
prmt.b32 h, $3, $7, m;
lop3.b32 $1, s, 0x80808080, h, 0xEA;
}
""")


@gluon.jit
def decode(codes_smem, spread_smem, L: gl.constexpr):
    """A step's units of T tiles -> E4M3 [16 * T, 128]."""
    return decoded(codes_smem.load(L[1]), spread_smem.load(L[2]), L)


@gluon.jit
def decoded(codes, spread, L: gl.constexpr):
    """Bytes of codes and of spread -> E4M3. Axes: T tile, c pair of 32s, g, t, e which of the pair, s, b byte."""
    T: gl.constexpr = L[0]
    shape: gl.constexpr = [T, 2, 8, 4, 2, 2, 4]
    codes = gl.convert_layout(codes.reshape(shape), L[3], assert_trivial=True)
    d = spread.to(gl.int32).reshape([T, 8, 2, 2, 2, 1, 1]).permute(0, 2, 1, 5, 3, 4, 6)
    d = gl.convert_layout(d, L[3], assert_trivial=True)
    low = (0x6C686000 - d * 0x08080800).broadcast_to(shape)
    high = (0x7C787470 - d * 0x08080808).broadcast_to(shape)
    first, second = gl.inline_asm_elementwise(
        DECODE_E4M3,
        "=r,=r,r,r,r,r,r,r,r,r,r",
        [codes, low, high],
        dtype=(gl.uint8, gl.uint8),
        is_pure=True,
        pack=4,
    )
    w = gl.join(first, second)  # T c g t e s b upper
    w = w.permute(0, 5, 2, 1, 4, 7, 3, 6).reshape([T * 16, 128]).to(gl.float8e4nv, bitcast=True)
    return gl.convert_layout(w, L[4], assert_trivial=True)


@gluon.jit
def keep(a):
    """The operand of a product that has ended, used once more: so its registers are its own until here.

    (Triton's wait for products takes operands of 16 bits and more as dependences, none of 8.)
    """
    gl.inline_asm_elementwise(
        "", "=r,0", [a.to(gl.uint8, bitcast=True)], dtype=gl.uint8, is_pure=False, pack=4
    )


@gluon.jit
def scaled(sums, w_factor, x_factor, bias):
    """Sums of columns times the factors of their rows of w and x, plus bias (or None)."""
    LAYOUT: gl.constexpr = sums.type.layout
    of_columns = gl.convert_layout(w_factor, gl.SliceLayout(1, LAYOUT)).expand_dims(1)
    of_rows = gl.convert_layout(x_factor, gl.SliceLayout(0, LAYOUT)).expand_dims(0)
    # one after the other: the product of the two may leave the normal numbers where the result does not
    result = sums * of_columns * of_rows
    if bias is not None:
        result += gl.convert_layout(bias, gl.SliceLayout(1, LAYOUT)).expand_dims(1)
    return result


@lru_cache
def layouts(t: int, bm: int, warps: int) -> tuple[tuple[object, ...], object]:
    """`L` and `MMA` of the kernel: who holds what. t tiles are spread over the warps, the rest over registers."""
    spread = warps.bit_length() - 1
    held = [1 << bit for bit in range(t.bit_length() - 1)]

    def unit(rank: int, axis: int, value: int) -> list[int]:
        return [value if each == axis else 0 for each in range(rank)]

    def linear(registers: list[list[int]], lanes: list[list[int]], shape: list[int]) -> object:
        tile_bits = [unit(len(shape), 0, value * (shape[0] // t)) for value in held]
        return gl.DistributedLinearLayout(
            registers + tile_bits[spread:], lanes, tile_bits[:spread], [], shape
        )

    codes = linear([[0, 1], [0, 2], [0, 4], [0, 8], [2, 0]],
                   [[0, 16], [0, 32], [0, 64], [0, 128], [1, 0]], [4 * t, 256])  # fmt: skip
    distances = linear([[0, 1], [0, 2], [0, 4]], [[0, 0], [0, 0], [0, 8], [0, 16], [0, 32]], [t, 64])
    full = linear([unit(7, 6, 1), unit(7, 6, 2), unit(7, 5, 1), unit(7, 4, 1), unit(7, 1, 1)],
                  [unit(7, 3, 1), unit(7, 3, 2), unit(7, 2, 1), unit(7, 2, 2), unit(7, 2, 4)],
                  [t, 2, 8, 4, 2, 2, 4])  # fmt: skip
    mma = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[warps, 1], instr_shape=[16, bm, 32])
    return (t, codes, distances, full, gl.DotOperandLayout(0, mma, 4)), mma


@lru_cache
def unit_layouts(t: int, bm: int) -> tuple[tuple[object, ...], object]:
    """The same for a warpgroup's single unit of each of t (4) tiles, as bytes in three dimensions: four rows of 256."""
    held, mma = layouts(t, bm, 4)
    codes = gl.DistributedLinearLayout(
        [[0, 0, 1], [0, 0, 2], [0, 0, 4], [0, 0, 8], [0, 2, 0]],
        [[0, 0, 16], [0, 0, 32], [0, 0, 64], [0, 0, 128], [0, 1, 0]], [[1, 0, 0], [2, 0, 0]], [], [t, 4, 256],
    )  # fmt: skip
    spread = gl.DistributedLinearLayout(
        [[0, 0, 1], [0, 0, 2], [0, 0, 4]],
        [[0, 0, 0], [0, 0, 0], [0, 0, 8], [0, 0, 16], [0, 0, 32]], [[1, 0, 0], [2, 0, 0]], [], [t, 1, 64],
    )  # fmt: skip
    return (held[0], codes, spread, *held[3:]), mma
