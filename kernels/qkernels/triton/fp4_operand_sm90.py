"""FP4 weights in the order of `Fragments` as wgmma's first operand, in registers: what Hopper's products share.

A unit (16 rows of w by 64 of K) is 32 x 4 words, and its scales 8 x U words (U = 2 for blocks of 16, 1 for 32). Each
lane holds just the words whose codes are its own registers of the operand, so nothing moves between threads.
"""

from __future__ import annotations

from functools import lru_cache

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from qkernels.triton.fp4_stream import DECODE_BF16, DECODE_FP16, FACTOR


@gluon.jit
def decode(words, scales, base, DTYPE: gl.constexpr, STEP: gl.constexpr, U: gl.constexpr, L: gl.constexpr):
    """Units of T tiles, words and scales -> DTYPE [16 * T, 64], wgmma's first operand.

    Axes: T tile, g row in a tile's half, t lane of four, e step of 16 of K; then h and s, the halves of the step and of
    the tile, and j, one of two neighbours. U: words of scales a row has in a unit (2 for blocks of 16, 1 for 32).
    """
    T: gl.constexpr = L[0]
    words = gl.convert_layout(words.reshape([T, 8, 4, 4]), L[3], assert_trivial=True)
    scales = gl.convert_layout(scales.reshape([T, 8, 1, U, 1]), L[4], assert_trivial=True)
    step = gl.convert_layout(
        gl.arange(0, 4 // U, L[5]).reshape([1, 1, 1, 1, 4 // U]), L[4], assert_trivial=True
    )
    shape: gl.constexpr = [T, 8, 1, U, 4 // U]
    select = 0x4140 + 0x0202 * (step if U == 2 else step // 2)
    factors = gl.inline_asm_elementwise(
        FACTOR, "=r,r,r,r,r",
        [
            scales.broadcast_to(shape), select.broadcast_to(shape), gl.full(shape, STEP, gl.int32, L[4]),
            gl.full(shape, base, gl.int32, L[4]),
        ],
        dtype=gl.int32, is_pure=True, pack=1,
    )  # fmt: skip
    factors = gl.convert_layout(factors.reshape([T, 8, 1, 4]), L[3], assert_trivial=True)
    if gl.float16 == DTYPE:
        v0, v1, v2, v3, v4, v5, v6, v7 = gl.inline_asm_elementwise(
            DECODE_FP16, "=h,=h,=h,=h,=h,=h,=h,=h,r,r", [words, factors.broadcast_to([T, 8, 4, 4])],
            dtype=(gl.float16, gl.float16, gl.float16, gl.float16,
                   gl.float16, gl.float16, gl.float16, gl.float16), is_pure=True, pack=1,
        )  # fmt: skip
    else:
        v0, v1, v2, v3, v4, v5, v6, v7 = gl.inline_asm_elementwise(
            DECODE_BF16, "=h,=h,=h,=h,=h,=h,=h,=h,r,r", [words, factors.broadcast_to([T, 8, 4, 4])],
            dtype=(gl.bfloat16, gl.bfloat16, gl.bfloat16, gl.bfloat16,
                   gl.bfloat16, gl.bfloat16, gl.bfloat16, gl.bfloat16), is_pure=True, pack=1,
        )  # fmt: skip
    even = gl.join(gl.join(v0, v4), gl.join(v2, v6))
    odd = gl.join(gl.join(v1, v5), gl.join(v3, v7))
    w = gl.join(even, odd).permute(0, 5, 1, 3, 4, 2, 6).reshape([T * 16, 64])  # T s g, e h t j
    return gl.convert_layout(w, L[6], assert_trivial=True)


@gluon.jit
def reciprocal(x):
    """1/x rounded once; Triton's own division is approximate."""
    return gl.inline_asm_elementwise(
        "rcp.rn.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1
    )


@lru_cache
def layouts(t: int, u: int, bm: int, warps: int) -> tuple[tuple[object, ...], object]:
    """`L` and `MMA` of a kernel: who holds what of a step of `t` tiles of w and `bm` rows of x. Tiles are spread
    over the warps, what is left over registers. u: words of scales that a row has in a unit."""
    spread = warps.bit_length() - 1

    def unit(rank: int, axis: int, value: int) -> list[int]:
        return [value if each == axis else 0 for each in range(rank)]

    def linear(registers: list[list[int]], lanes: list[list[int]], shape: list[int]) -> object:
        rank = len(shape)
        held = [unit(rank, 0, 1 << bit) for bit in range(t.bit_length() - 1)]
        return gl.DistributedLinearLayout(
            reg_bases=registers + held[spread:],
            lane_bases=lanes,
            warp_bases=held[:spread],
            block_bases=[],
            shape=shape,
        )

    words = linear([[0, 1], [0, 2]], [[0, 4], [0, 8], [0, 16], [0, 32], [0, 64]], [t, 128])
    nobody = [[0, 0]] * 2
    scales = linear([[0, 1]] if u == 2 else [], [*nobody, [0, u], [0, 2 * u], [0, 4 * u]], [t, 8 * u])
    lanes = [unit(4, 2, 1), unit(4, 2, 2), unit(4, 1, 1), unit(4, 1, 2), unit(4, 1, 4)]
    codes = linear([unit(4, 3, 1), unit(4, 3, 2)], lanes, [t, 8, 4, 4])
    steps = [unit(5, 4, 1), unit(5, 3, 1)] if u == 2 else [unit(5, 4, 1), unit(5, 4, 2)]
    factors = linear(steps, [[0] * 5, [0] * 5, unit(5, 1, 1), unit(5, 1, 2), unit(5, 1, 4)],
                     [t, 8, 1, u, 4 // u])  # fmt: skip
    still = [[0]] * spread
    step = gl.DistributedLinearLayout([[1]] if u == 2 else [[1], [2]], [[0]] * 5, still, [], [4 // u])
    mma = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[warps, 1], instr_shape=[16, bm, 16])
    return (t, words, scales, codes, factors, step, gl.DotOperandLayout(0, mma, 2)), mma


@lru_cache
def unit_layouts(t: int, u: int, bm: int) -> tuple[tuple[object, ...], object]:
    """The same for a warpgroup's single unit of each of t (4) tiles, whose words lie in three dimensions."""
    held, mma = layouts(t, u, bm, 4)
    lanes = [[0, 0, 1 << bit] for bit in range(2, 7)]
    words = gl.DistributedLinearLayout([[0, 0, 1], [0, 0, 2]], lanes, [[1, 0, 0], [2, 0, 0]], [], [t, 1, 128])
    return (held[0], words, *held[2:]), mma
