"""The end of Hopper's products where their result is quantized: fp32 y [rows of w, rows of x] -> NVFP4 or MXFP4.

What is quantized is the fp32 accumulator after alpha and bias, never a rounding of it to bf16. The arithmetic is that
of nvfp4_quantize and mxfp4_quantize of an fp32 y (`nvfp4_scale`, `shared_exponent`), so scale bytes and MXFP4's codes
are theirs, and NVFP4's but for ties (y*gs is multiplied in another order there):

    nvfp4    s = e4m3(min(amax*gs/6, 448)), code = e2m1((y*gs)*(1/s)) under a static encode scale gs, read on the device
    a rule   of mxfp4_quantize: floor (OCP), ceil, even, rceil or abs_max; no global scale

In wgmma's accumulator a block of 16 (32) columns of the result lies in 8 lanes (of two warps), and each of those would
compute its scale. So the tile goes through shared memory once, to where a thread has whole blocks of one row (or of
two): 16 bytes at a time on both sides where it has two rows, 8 otherwise. Then everything is a thread's own: maximum,
scale, codes (two fused multiply-adds, an addition and three minima, see fp4_words), and a store of 8 or 16 bytes of
codes; the lanes of a warp complete 64 bytes of a row of the result. Where rows are so few that threads would have
nothing, two or four lanes share a block, and its maximum by one or two shuffles. `write_quantized` takes the tile in
halves until a piece is small: registers for 32 elements of a thread, shared memory for one piece.

SASS (sm_90, Triton 3.6), 128 x 256: 14.8 instructions an element for NVFP4, 13.4 for MXFP4. No spills, but for one
register a tile (NVFP4 result of bf16 products, 256 rows). Up to 16 rows: 160 instructions more in all.

Predicted (H200): a tile of 128 x 256 takes 3800 cycles of issue, 5500 with waits, and 1000 if it is written as bf16,
while no products run; its products take 140 000 (K = 8192). So N = K = 8192 takes 20 us more than 648 at M = 4096,
where a quantizer of bf16 takes 22, 5 for 7 at M = 1024, 1.5 for 3 at 128, and 0.2 to 0.4 for 2 up to 64 rows: the gain
is a launch and the sixteen-bit result, and is none from some thousand rows on. 57344 x 8192: 140 us for 157 at M =
4096.

Measured (H200, torch 2.11, Triton 3.6, graph replay), what the result's quantization adds to a bf16 result, here and
by a quantizer of its own, us. NVFP4 from bf16 x NVFP4: o 0.4, 4.7 at M = 1; 0, 4.0 at 64; 0.3, 4.5 at 128; 3.9, 8.3
at 1024; 13.7, 21.7 at 4096; gate_up 62, 145 at 4096. MXFP4 from folded products: o 0.1, 5.9 at M = 1; 2.4, 8.5 at
1024; 12.6, 24.3 at 4096; gate_up 106, 142. So it gains at every M; predicted was none from some thousand rows on.

Tolerance: as the quantizers', of a value that is known within the product's error E (see fp4_gemm_sm90,
mxfp4_gemm_sm90).
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma

from qkernels.triton.fp4 import magnitude_bits, nvfp4_scale
from qkernels.triton.fp4_words import codes_of, top_sign_word
from qkernels.triton.gluon_names import barrier, tma_store
from qkernels.triton.mxfp4_quantize import shared_exponent


@gluon.constexpr_function
def whole_blocks(rows, columns, warps, block):
    """The layout of [rows of w, rows of x] in which a thread has all `block` rows of a block, of two where there are so
    many; and a half or a quarter of one, neighbouring lanes having the rest, where threads would have nothing."""

    def bits(size, axis):
        return [[1 << bit, 0] if axis == 0 else [0, 1 << bit] for bit in range(size.bit_length() - 1)]

    held = block.bit_length() - 1
    while held > 3 and rows * columns >> held < 32 * warps:
        held -= 1
    down, along = bits(rows, 0), bits(columns, 1)
    two = 1 if rows * columns >= 64 * warps * block else 0
    spread = warps.bit_length() - 1
    others = down[held:] + along[two:]
    lanes, of_warps = others[:5], others[5 : 5 + spread]
    return gl.DistributedLinearLayout(
        reg_bases=down[:held] + along[:two] + others[5 + spread :],
        lane_bases=lanes + [[0, 0]] * (5 - len(lanes)),
        warp_bases=of_warps + [[0, 0]] * (spread - len(of_warps)),
        block_bases=[],
        shape=[rows, columns],
    )


@gluon.jit
def write_tile(result, target, row, column, m, n, RULE: gl.constexpr):
    """fp32 [columns, rows] of the result [m, n], finished, to where it goes.

    RULE "": in the type of shared memory, by TMA; target: that memory [rows, columns], a descriptor and a pointer of
    the result. All that it holds must have been read (tma.store_wait(0)) when a launch ends. Otherwise: quantized by
    that rule; target: (codes_ptr, scales_ptr, gs_ptr), see `write_quantized`.
    """
    if RULE == "":
        out, out_desc, _ = target
        tma.store_wait(0)  # the tile before has left `out`
        barrier()
        out.permute([1, 0]).store(result.to(out.dtype))
        fence_async_shared()
        barrier()
        tma_store(out_desc, [row, column], out)
    else:
        write_encoded(result, target, row, column, m, n, RULE)


@gluon.jit
def write_rows(result, target, row, column, m, n, RULE: gl.constexpr):
    """The same of a part of a tile, without shared memory where nothing is quantized."""
    if RULE == "":
        _, _, out_ptr = target
        columns = column + gl.arange(0, result.shape[0], gl.SliceLayout(1, result.type.layout))
        rows = row + gl.arange(0, result.shape[1], gl.SliceLayout(0, result.type.layout))
        place = out_ptr + (rows.to(gl.int64) * n).expand_dims(0) + columns.expand_dims(1)
        there = (rows < m).expand_dims(0) & (columns < n).expand_dims(1)
        gl.store(place, result.to(out_ptr.dtype.element_ty), mask=there)
    else:
        write_encoded(result, target, row, column, m, n, RULE)


@gluon.jit
def write_encoded(result, target, row, column, m, n, RULE: gl.constexpr):
    codes_ptr, scales_ptr, gs_ptr = target
    gs = 1.0 if gs_ptr is None else gl.load(gs_ptr)
    # 32 elements of a thread: 64 spill where products keep 128 sums, 16 leave half of a warp without a block of 32
    PIECE: gl.constexpr = 32 * 32 * gl.num_warps() // result.shape[0]
    write_quantized(result, codes_ptr, scales_ptr, gs, row, column, m, n, RULE, PIECE)


@triton.jit
def encode(y, gs, RULE: tl.constexpr):
    """fp32 [BLOCKS, 16 or 32] -> (words of eight codes int32 [BLOCKS * 2 or 4], scale bytes int32 [BLOCKS], is the
    block encoded: otherwise all of its codes are 0). A thread should have whole blocks."""
    PARTS: tl.constexpr = y.numel // 8
    gain: tl.constexpr = 3.0 if RULE == "abs_max" else 1.0
    bits = magnitude_bits(y)
    size = bits.to(tl.float32, bitcast=True)
    amax_bits = tl.max(bits, axis=1)
    if RULE == "nvfp4":
        byte, inverse, coded = nvfp4_scale(amax_bits, gs)
        size = size * gs
    else:
        coded = amax_bits < 0x7F800000
        scale = shared_exponent(size, amax_bits, RULE)
        # 1/s = 2^(127 - byte); for byte 254 that is the subnormal 2^-127, whose bits are not an exponent field
        inverse = tl.maximum((254 - scale) << 23, 0x00400000).to(tl.float32, bitcast=True)
        byte = tl.where(coded, scale, 0xFF)
    size = tl.reshape(size * inverse[:, None], (PARTS, 8))
    return codes_of(size, gain) | top_sign_word(tl.reshape(y, (PARTS, 8))), byte, coded


@gluon.jit
def write_quantized(y, codes_ptr, scales_ptr, gs, row, column, m, n, RULE: gl.constexpr, PIECE: gl.constexpr):
    """Rows row.. and columns column.. of the result [m, n] from fp32 y [columns, rows]; PIECE rows at a time.

    codes_ptr: of int32 words, eight codes each, n/8 a row; scales_ptr: of bytes, n/16 or n/32 a row. gs: fp32, of
    NVFP4.
    """
    COLUMNS: gl.constexpr = y.shape[0]
    ROWS: gl.constexpr = y.shape[1]
    BLOCK: gl.constexpr = 16 if RULE == "nvfp4" else 32
    WORDS: gl.constexpr = BLOCK // 8
    if ROWS > PIECE:
        first, second = y.reshape([COLUMNS, 2, ROWS // 2]).permute(0, 2, 1).split()
        write_quantized(first, codes_ptr, scales_ptr, gs, row, column, m, n, RULE, PIECE)
        write_quantized(second, codes_ptr, scales_ptr, gs, row + ROWS // 2, column, m, n, RULE, PIECE)
    elif row < m:
        held = gl.convert_layout(y, whole_blocks(COLUMNS, ROWS, gl.num_warps(), BLOCK))
        words, bytes_, coded = encode(held.permute(1, 0).reshape([ROWS * COLUMNS // BLOCK, BLOCK]), gs, RULE)
        words = words.reshape([ROWS * COLUMNS // BLOCK, WORDS])
        coded = gl.convert_layout(coded, gl.SliceLayout(1, words.type.layout), assert_trivial=True)
        words = gl.where(coded.expand_dims(1), words, 0).reshape([ROWS, COLUMNS // 8])
        bytes_ = bytes_.reshape([ROWS, COLUMNS // BLOCK])
        rows = row + gl.arange(0, ROWS, gl.SliceLayout(1, words.type.layout))
        word = gl.arange(0, COLUMNS // 8, gl.SliceLayout(0, words.type.layout))
        inside = (rows < m).expand_dims(1) & (column // BLOCK + word // WORDS < n // BLOCK).expand_dims(0)
        target = codes_ptr + (rows.to(gl.int64) * (n // BLOCK * WORDS)).expand_dims(1)
        gl.store(target + (column // BLOCK * WORDS + word).expand_dims(0), words, mask=inside)
        rows = row + gl.arange(0, ROWS, gl.SliceLayout(1, bytes_.type.layout))
        block = column // BLOCK + gl.arange(0, COLUMNS // BLOCK, gl.SliceLayout(0, bytes_.type.layout))
        inside = (rows < m).expand_dims(1) & (block < n // BLOCK).expand_dims(0)
        target = scales_ptr + (rows.to(gl.int64) * (n // BLOCK)).expand_dims(1)
        gl.store(target + block.expand_dims(0), bytes_.to(gl.uint8), mask=inside)
