"""out[M, N] = (x . wT) * alpha + bias for few rows of x (M <= 64), bf16 or fp16, w in NVFP4 or MXFP4 as `Fragments`.

For GPUs without wgmma, and on any CPU (interpreted); fp4_few_sm90 is Hopper's. Each lane loads 16 bytes of a unit (16
rows by 64 of K), masks and shifts turn them into operand registers of mma.m16n8k16, one multiplication applies the
scale (exact: 6 significant bits), and columns of x are read in the same order, two at a time. There is no shared memory
and no barrier before the end. A batch of the product is a warp: WK of them share K, WR take other rows; sums of the WK
are added in fp32 at the end, in one order, so that results repeat. Loads run D units ahead.

That no data moves between threads depends on the layout that Triton gives the product's operands: 8 neighbours of K in
a thread, which it chooses because the chain of operations before holds a load of bytes (`base`) and a join.

Measured (H200, Triton 3.6, torch 2.11, N = K = 8192, M = 1): 23.4 us, of which 8.8 are the memory's; fp4_few_sm90 13.4.
Reading x 16 bytes at a time, which needs another order of K in the weights, took 16.2.

Judged against a float64 product of the same operands within E = 4 sqrt(K) 2^-24 |A||B|T + 3 2^-24 |ref|.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import triton
import triton.language as tl

import qbench
from qkernels.triton.fp4_fragments import FIELDS, Fragments, checked_rows
from qkernels.triton.x_scales import one_or_rows

if TYPE_CHECKING:
    from torch import Tensor

MAX_ROWS = 64

# A word's eight codes ($8) times the scales of its two rows ($9) to registers 0 to 3 (fp4_fragments), two values
# each. fma with -0 is the product: mul.bf16x2 needs sm_90, fma.bf16x2 sm_80. ptxas takes the halves of $9 as they are.
DECODE_BF16 = tl.constexpr("""
{
.reg .b32 r, z, a, b, c, d, f, g;
.reg .b16 l, h;
mov.b32 z, 0x80008000;
mov.b32 {l, h}, $9;
mov.b32 f, {l, l};
mov.b32 g, {h, h};
and.b32 a, $8, 0x81C081C0;
mul.lo.u32 r, $8, 8;
and.b32 b, r, 0x81C081C0;
mul.lo.u32 r, $8, 64;
and.b32 c, r, 0x81C081C0;
shr.u32 r, $8, 7;
and.b32 r, r, 0x00D800D8;
mul.lo.u32 r, r, 2081;
and.b32 d, r, 0x81C081C0;
fma.rn.bf16x2 a, a, f, z;
fma.rn.bf16x2 b, b, g, z;
fma.rn.bf16x2 c, c, f, z;
fma.rn.bf16x2 d, d, g, z;
mov.b32 {$0, $1}, a;
mov.b32 {$2, $3}, b;
mov.b32 {$4, $5}, c;
mov.b32 {$6, $7}, d;
}
""")
DECODE_FP16 = tl.constexpr("""
{
.reg .b32 r, u, z, a, b, c, d, f, g;
.reg .b16 l, h;
mov.b32 z, 0x80008000;
mov.b32 {l, h}, $9;
mov.b32 f, {l, l};
mov.b32 g, {h, h};
mul.lo.u32 r, $8, 8;
and.b32 a, r, 0x0E000E00;
lop3.b32 a, $8, 0x80008000, a, 0xEA;
mul.lo.u32 u, $8, 64;
and.b32 b, u, 0x0E000E00;
lop3.b32 b, r, 0x80008000, b, 0xEA;
mul.lo.u32 r, $8, 512;
and.b32 c, r, 0x0E000E00;
lop3.b32 c, u, 0x80008000, c, 0xEA;
shr.u32 r, $8, 4;
and.b32 d, r, 0x06000600;
mul.lo.u32 r, $8, 2;
lop3.b32 d, r, 0x08000800, d, 0xEA;
mul.lo.u32 r, $8, 16;
lop3.b32 d, r, 0x80008000, d, 0xEA;
fma.rn.f16x2 a, a, f, z;
fma.rn.f16x2 b, b, g, z;
fma.rn.f16x2 c, c, f, z;
fma.rn.f16x2 d, d, g, z;
mov.b32 {$0, $1}, a;
mov.b32 {$2, $3}, b;
mov.b32 {$4, $5}, c;
mov.b32 {$6, $7}, d;
}
""")
# The two bytes of $1 that $2 selects to the halves of a word, times $3, plus $4 (fp4_fragments: STEP and base).
FACTOR = tl.constexpr("""
{
.reg .b32 t;
prmt.b32 t, $1, 0, $2;
mad.lo.u32 $0, t, $3, $4;
}
""")


def expected() -> qbench.Expectation:
    """What the kernel must be compiled to: mma.sync everywhere, of words loaded 16 bytes at a time."""
    return qbench.Expectation({"*": ("mma.sync",)}, load_bits={"*": 128})


@triton.jit
def factors_of(scales, base, STEP: tl.constexpr, U: tl.constexpr):
    """int32 [L, U] of scale words -> int32 [L, 4], the two rows' scales of each word of data."""
    step = tl.arange(0, 4 // U)[None, None, :]
    select = 0x4140 + 0x0202 * (step if U == 2 else step // 2)
    found = tl.inline_asm_elementwise(
        FACTOR, "=r,r,r,r,r", [scales[:, :, None], select, STEP, base], dtype=tl.int32, is_pure=True, pack=1
    )
    return tl.reshape(found, (scales.shape[0], 4))


@triton.jit
def decode(words, factors, DTYPE: tl.constexpr):
    """int32 [...] of eight codes, int32 of their two rows' scales -> DTYPE [..., 2, 2, 2]: k + 8, row + 8, k + 1."""
    if tl.float16 == DTYPE:
        v0, v1, v2, v3, v4, v5, v6, v7 = tl.inline_asm_elementwise(
            DECODE_FP16, "=h,=h,=h,=h,=h,=h,=h,=h,r,r", [words, factors],
            dtype=(tl.float16, tl.float16, tl.float16, tl.float16,
                   tl.float16, tl.float16, tl.float16, tl.float16), is_pure=True, pack=1,
        )  # fmt: skip
    else:
        v0, v1, v2, v3, v4, v5, v6, v7 = tl.inline_asm_elementwise(
            DECODE_BF16, "=h,=h,=h,=h,=h,=h,=h,=h,r,r", [words, factors],
            dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16,
                   tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), is_pure=True, pack=1,
        )  # fmt: skip
    even = tl.join(tl.join(v0, v4), tl.join(v2, v6))
    odd = tl.join(tl.join(v1, v5), tl.join(v3, v7))
    return tl.join(even, odd)


@triton.jit
def load_step(w, scale, x, there, x_there):
    """Words, scale words and values of one step; zeros where there is none."""
    return (
        tl.load(w, mask=there[:, None], other=0),
        tl.load(scale, mask=there[:, None], other=0),
        tl.load(x, mask=x_there[:, None], other=0.0),
    )


# m is not specialized: every batch size would otherwise compile up to three kernels (m = 1, m % 16 == 0, other).
@triton.jit(do_not_specialize=["m", "n"])
def fp4_stream_kernel(
    x_ptr, w_ptr, scale_ptr, base_ptr, x_gs_ptr, row_gs_ptr, gs_ptr, bias_ptr, out_ptr, unit, m, n, k, tiles,
    chunks, stride_x, stride_out,
    STEP: tl.constexpr, U: tl.constexpr, MT: tl.constexpr, WK: tl.constexpr, WR: tl.constexpr, RT: tl.constexpr,
    D: tl.constexpr,
):  # fmt: skip
    WARPS: tl.constexpr = WK * WR
    program = tl.program_id(0)
    # Weights: RT tiles in registers, then warps, then lanes. Tiles past the last repeat it; nothing of them is stored.
    i = tl.arange(0, RT * WARPS * 32)
    warp, lane = (i // 32) % WARPS, i % 32
    tile = tl.minimum((program * WR + warp % WR) * RT + i // (WARPS * 32), tiles - 1)
    chunk = warp // WR
    unit_index = tile.to(tl.int64) * chunks + chunk
    w = w_ptr + (unit_index * 128 + lane * 4)[:, None] + tl.arange(0, 4)[None, :]
    scale = scale_ptr + (unit_index * 8 + lane // 4)[:, None] * U + tl.arange(0, U)[None, :]
    # x: eight groups of 8 columns and MT of 8 rows in registers, then warps, then lanes
    j = tl.arange(0, 8 * MT * WARPS * 32)
    rows = (j // (WARPS * 32)) % MT * 8 + (j % 32) // 4
    columns = (j // 32) % WARPS // WR * 64 + j // (MT * WARPS * 32) * 8 + j % 4 * 2
    x = x_ptr + (rows.to(tl.int64) * stride_x + columns)[:, None] + tl.arange(0, 2)[None, :]
    rows_there = rows < m
    # Triton gives a thread 8 neighbours of the product's K because this is a load of bytes. They are k, k + 1 of the
    # four groups of two steps: both operands are put into that order.
    base = (tl.load(base_ptr + tl.arange(0, 1)).to(tl.int32) * 0x01000100)[:, None, None]

    sums = tl.zeros((WARPS, RT * 16, 8 * MT), dtype=tl.float32)
    ahead = ()
    for _ in tl.static_range(D):
        ahead += (load_step(w, scale, x, chunk < chunks, rows_there & (columns < k)),)  # type: ignore[assignment]
        w += 128 * WK
        scale += 8 * U * WK
        x += 64 * WK
        chunk += WK
        columns += 64 * WK
    for _ in range(0, tl.cdiv(chunks, WK), D):
        now = ahead
        ahead = ()
        for d in tl.static_range(D):
            words, scales, values = now[d]  # type: ignore[var-annotated]
            ahead += (load_step(w, scale, x, chunk < chunks, rows_there & (columns < k)),)  # type: ignore[assignment]
            w += 128 * WK
            scale += 8 * U * WK
            x += 64 * WK
            chunk += WK
            columns += 64 * WK
            factors = factors_of(scales, base, STEP, U)
            a = tl.reshape(decode(words, factors, values.dtype), (RT, WARPS, 8, 4, 2, 2, 2, 2, 2))
            # tile warp g t, step (2 bits), h s k -> warp tile s g, step t step h k
            a = tl.reshape(tl.permute(a, (1, 0, 7, 2, 4, 3, 5, 6, 8)), (WARPS, RT * 16, 64))
            b = tl.reshape(values, (2, 2, 2, MT, WARPS, 8, 4, 2))  # step (2 bits), h group warp row t k
            b = tl.reshape(tl.permute(b, (4, 0, 6, 1, 2, 7, 3, 5)), (WARPS, 64, MT * 8))
            sums = tl.dot(a, b, sums)
    total = tl.sum(tl.reshape(sums, (WK, WR * RT * 16, 8 * MT)), 0) * unit
    # one after the other, w's first: both together, or sums over x's alone, may leave the numbers
    if gs_ptr is not None:
        total *= tl.div_rn(1.0, tl.load(gs_ptr))
    if x_gs_ptr is not None:
        total *= tl.div_rn(1.0, tl.load(x_gs_ptr))
    if row_gs_ptr is not None:
        of_x = tl.arange(0, MT * 8)
        total *= tl.div_rn(1.0, tl.load(row_gs_ptr + of_x, mask=of_x < m, other=1.0))[None, :]
    out_columns, out_rows = program * WR * RT * 16 + tl.arange(0, WR * RT * 16), tl.arange(0, MT * 8)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + out_columns, mask=out_columns < n, other=0.0).to(tl.float32)[:, None]
    target = out_ptr + out_rows.to(tl.int64)[None, :] * stride_out + out_columns[:, None]
    tl.store(
        target, total.to(out_ptr.dtype.element_ty), mask=(out_rows < m)[None, :] & (out_columns < n)[:, None]
    )


@dataclass(frozen=True)
class Stream:
    """How the work is divided: wk warps of a program share K, wr take rows of their own, rt tiles of 16 rows each;
    loads run `ahead` steps before their use."""

    wk: int
    wr: int
    rt: int
    ahead: int


def choose(m: int, tiles: int) -> Stream:
    """By rows of x and tiles of 16 rows of w."""
    if m <= 8:
        return Stream(4, 1, 4 if tiles >= 2048 else 2, 1)
    if m <= 16:
        return Stream(4, 2, 2, 1)
    return Stream(4, 2, 1, 1)


def fp4_stream(
    x: Tensor,
    w: Fragments,
    *,
    x_global_scale: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    divide: Stream | None = None,
) -> Tensor:
    """out_dtype (x's) [M, N] = x [M, K] times w [N, K] transposed, plus bias [N], summed in fp32 and rounded once.

    x_global_scale: of x, if that was NVFP4 (fp4_decode_rows), one or one a row [M, 1]; the product is divided by it.
    x is bf16 or fp16 (NVFP4 only), its rows may be strided, M <= 64. Raises ValueError or TypeError otherwise.
    """
    m, k = checked_rows(x, w, MAX_ROWS)
    out = torch.empty((m, w.n), dtype=out_dtype or x.dtype, device=x.device)
    if not out.numel():
        return out
    tiles, chunks = w.data.shape[:2]
    d = divide or choose(m, tiles)
    half = x.dtype == torch.float16
    base = torch.zeros_like(w.base) if half else w.base
    with torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext():
        fp4_stream_kernel[(triton.cdiv(tiles, d.wr * d.rt),)](
            x, w.data, w.scale, base, *one_or_rows(x_global_scale, x), w.global_scale, bias, out, w.unit, m, w.n, k,
            tiles, chunks, x.stride(0), out.stride(0),
            STEP=128 if half or w.format.scale == "e8m0" else 16, U=2 if w.format.block == 16 else 1,
            MT=triton.next_power_of_2(triton.cdiv(m, 8)), WK=d.wk, WR=d.wr, RT=d.rt, D=d.ahead, num_warps=d.wk * d.wr,
        )  # fmt: skip
    return out


def _decoded(low: int, dtype: str) -> Callable[..., Any]:
    """The meaning of the assembly above for the interpreter, from the layout's description rather than its masks."""

    def meaning(words: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, ...]:
        found = []
        for v in range(8):
            half = words.astype(np.uint32) >> np.uint32(16 * (v % 2))
            bits = np.zeros_like(half)
            for place, to in zip(FIELDS[v // 2], (low, low + 1, low + 2, 15), strict=True):
                bits |= (half >> np.uint32(place) & 1) << np.uint32(to)
            factor = factors.astype(np.uint32) >> np.uint32(16 * (v // 2 % 2))
            found.append(_product(bits.astype(np.uint16), (factor & 0xFFFF).astype(np.uint16), dtype))
        return tuple(found)

    return meaning


def _factor(scales: np.ndarray, select: np.ndarray, step: np.ndarray, base: np.ndarray) -> np.ndarray:
    words, chosen = scales.astype(np.uint32), select.astype(np.uint32)
    low, high = ((words >> ((chosen >> np.uint32(at) & 7) * 8)) & 0xFF for at in (0, 8))
    return (((low | high << 16) * step.astype(np.uint32)) + base.astype(np.uint32)).astype(np.int32)


def _product(a: np.ndarray, b: np.ndarray, dtype: str) -> np.ndarray:
    """Products of numbers given as bits; bf16 leaves as bits, fp16 as numbers."""
    kind = torch.bfloat16 if dtype == "bf16" else torch.float16
    x, y = (torch.from_numpy(np.ascontiguousarray(each).view(np.int16)).view(kind) for each in (a, b))
    made = (x.double() * y.double()).to(kind)
    return made.view(torch.int16).numpy().view(np.uint16) if dtype == "bf16" else made.numpy()


qbench.register_inline_asm(DECODE_BF16.value, _decoded(6, "bf16"))
qbench.register_inline_asm(DECODE_FP16.value, _decoded(9, "fp16"))
qbench.register_inline_asm(FACTOR.value, _factor)
