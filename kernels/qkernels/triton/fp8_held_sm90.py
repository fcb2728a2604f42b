"""FP8 per tensor of a large sixteen-bit tensor on Hopper in one launch, which keeps most of the tensor on the chip.

    s = amax(x)/448, q = e4m3(clamp(x * (1/s)))          the formula of fp8_quantize.py, to the bit
Two programs a processor. Some of a program's tiles are copied into shared memory by TMA, all at once when it begins,
and stay there. The others pass through SLOTS tiles of registers, and the last of them stay: a slot is loaded again as
soon as its maximum is taken, so the registers that keep loads under way are those that hold at the end. When all
programs' maxima have met, each converts what it has: the slots, each loaded again with a tile that has to be read a
second time, from the last back; shared memory while these come; then these. Of 64 MiB shared memory holds 29 and
registers 18.

The launch is cooperative: all of its programs run at once or it fails, for each waits for all. Its counters are left at
zero (workspaces.py). A stage of shared memory is always whole; what is left of a tensor goes through registers, and
only the first round and the last tile of those are masked.

Layout: x and q flat. A piece, what a thread takes of a tile, is 8 elements in four 32-bit words, and its codes are the
same thread's, so that nothing is exchanged between load and store; where the layout of pieces has another name,
`store_tile` says so. A program's tiles of registers are neighbours: a slot's place is then a part of the instruction;
tiles that take turns among programs cost three registers a slot. Tolerance: none.
Non-finite input: the scale NaN and codes 0.

Predicted for 4096 x 8192 fp16 (H200): 28 to 30 us: 15.5 to read, 3 for launch and meeting, 10 to write 32 MiB while 17
come from the L2 cache. Measured (torch 2.11, Triton 3.6, graph replay, L2 cold), 4096 x 8192 / 8192 x 16384 / 1024 x
8192: 33.3 / 160 / 12.1; in the same run fp8_held.py 39.4 / 155 / 11.4, codes under a given scale 24.4 / 92.7 / 7.1. By
rows of 8192, against fp8_held.py in one run: 1536 15.8, 14.8; 2048 18.0, 18.4; 3072 25.2, 29.0; 5120 45.0, 49.5; 6144
54.9, 59.3; 8192 77.4, 79.2. Of the 9 us above given scales 5 are there at 1024 x 8192 too, where all is held and
nothing is read twice. It pays only where nearly all is held: with nothing in shared memory 39.9 / 162 / 10.9, with 96
kB 39.5, with 224 34.3 / 161 / 12.8, each in one program of 16 warps a processor. In what order tiles come and what the
L2 cache is told is worth little.
Tried with one program: no hints 35.8 / 156, for the stores alone 35.6 / 155; the others after 7 stages 33.9 / 161;
shared memory converted last 34.2; the others by TMA too, through a ring of 8 stages, 34.4 / 159, in two programs 33.5 /
159. NVFP4 gained nothing (nvfp4_quantize.py): its conversion, after the meeting, is bound by issue, 13 instructions an
element, and takes 14 us however much of x is held.
"""

# mypy: disable-error-code="assignment,misc"
# Tuples grow by unrolled loops in the kernel, which have no types.

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

import qbench
from qkernels.triton.expected import BEFORE_HOPPER, TENSOR_MEMORY
from qkernels.triton.flat import is_flat
from qkernels.triton.fp4 import magnitude_bits
from qkernels.triton.fp4_words import largest_value, largest_words, values
from qkernels.triton.gluon_names import barrier, reinterpret, tma_load
from qkernels.triton.scaled_codes import scale_of_tensor
from qkernels.triton.workspaces import counters, processors, require_hopper

LEAST, MOST = 1 << 24, 1 << 26  # elements, between which it is quicker than fp8_held.py
WARPS, RESIDENT = 8, 2  # of a program; programs a processor
SLOTS = 18  # tiles in registers, under way or held: 72 of the 117 that a thread has
STAGE, STAGES = 2, 14  # tiles of a copy; copies that a program holds, 112 kB
ROW = 256  # words: Triton cuts wider rows of a copy into columns
_ROW = gl.constexpr(ROW)


def holds_sm90(x: Tensor) -> bool:
    """Is x [M, K] taken by this kernel?"""
    fits = x.is_cuda and LEAST <= x.numel() <= MOST and x.numel() % 8 == 0 and x.element_size() == 2
    aligned = fits and x.data_ptr() % 16 == 0 and is_flat(x)
    return aligned and torch.cuda.get_device_capability(x.device)[0] == 9


def expected() -> dict[str, qbench.Expectation]:
    """What the kernel must be compiled to."""
    others = f"{BEFORE_HOPPER} {TENSOR_MEMORY} sm_120"
    return {
        "fp8_held_sm90_kernel": qbench.Expectation(
            required={"sm_90": ("UTMALDG", "F2FP.E4M3")},
            load_bits={"sm_90": 128},
            store_bits={"sm_90": 64},
            unsupported={others: "written for Hopper's wgmma and TMA"},
        )
    }


@gluon.jit
def words_at(pointer, tile, i: gl.constexpr, WIDTH: gl.constexpr, L: gl.constexpr):
    """Pointers [PIECES, WIDTH] to the words, or bytes, of a tile's pieces, the i-th tile from `tile` on.

    i is not added to `tile`: so it becomes a part of the instruction, and no register.
    """
    PIECES: gl.constexpr = 32 * gl.num_warps()
    piece = gl.arange(0, PIECES, gl.SliceLayout(1, L)).expand_dims(1)
    along = gl.arange(0, WIDTH, gl.SliceLayout(0, L)).expand_dims(0)
    return pointer + tile.to(gl.int64) * (PIECES * WIDTH) + (piece * WIDTH + along) + i * PIECES * WIDTH


@gluon.jit
def below(limit, L: gl.constexpr):
    """Is a piece of a tile [PIECES, 1] among its first `limit`?"""
    return (gl.arange(0, 32 * gl.num_warps(), gl.SliceLayout(1, L)) < limit).expand_dims(1)


@gluon.jit
def load_tile(x_ptr, tile, i: gl.constexpr, limit, L: gl.constexpr, HINT: gl.constexpr):
    """Words int32 [PIECES, 4] of the i-th tile from `tile` on, all (None) or 0 from piece `limit` on."""
    at = words_at(x_ptr, tile, i, 4, L)
    if limit is None:
        words = gl.load(at, eviction_policy=HINT)
    else:
        words = gl.load(at, mask=below(limit, L), other=0, eviction_policy=HINT)
    return words


@gluon.jit
def store_tile(out_ptr, words, tile, i: gl.constexpr, limit, inverse, finite, HALF: gl.constexpr):
    """Codes of the i-th tile from `tile` on, all (None) or its first `limit` pieces; as tensor_codes gives them, zeros
    where the scale is not finite, but chosen two at a time."""
    L: gl.constexpr = gl.BlockedLayout([1, 8], [32, 1], [gl.num_warps(), 1], [1, 0])
    y = values(gl.where(finite, words, 0), HALF) * inverse
    codes = gl.convert_layout(y.to(gl.float8e4nv).to(gl.uint8, bitcast=True), L, assert_trivial=True)
    at = words_at(out_ptr, tile, i, 8, L)
    if limit is None:
        gl.store(at, codes, eviction_policy="evict_first")
    else:
        gl.store(at, codes, mask=below(limit, L), eviction_policy="evict_first")


@gluon.jit
def larger(best, words, HALF: gl.constexpr):
    """The larger of each half of words of magnitudes and of those of a tile."""
    return largest_words(best, words & 0x7FFF7FFF, HALF, False)


@gluon.jit
def larger_of_stage(best, memory, full, s, STAGE: gl.constexpr, HALF: gl.constexpr, L: gl.constexpr):
    """The same of a stage of shared memory, when it has come."""
    mbarrier.wait(full.index(s), 0)
    for i in gl.static_range(STAGE):
        best = larger(best, memory.index(s * STAGE + i).load(L), HALF)
    return best


@gluon.jit
def meet(partial_ptr, counter_ptr, bits, PARTIALS: gl.constexpr):
    """Every program's maximum is written, then all are read: the largest in fp32, NaN if one is."""
    programs = gl.num_programs(0)
    gl.store(partial_ptr + gl.program_id(0), bits)
    there = gl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu") + 1
    while there < programs:
        there = gl.atomic_add(counter_ptr, 0, sem="acquire", scope="gpu")
    gl.atomic_add(counter_ptr + 32, 1, sem="relaxed", scope="gpu")  # see tidy
    place = gl.arange(0, PARTIALS, gl.BlockedLayout([1], [32], [gl.num_warps()], [0]))
    found = gl.load(partial_ptr + place, mask=place < programs, other=0, cache_modifier=".cg")
    return gl.max(found, axis=0).to(gl.float32, bitcast=True)


@gluon.jit
def tidy(counter_ptr):
    """The last program sets both counters back when all have seen the first: each said so and went on."""
    programs = gl.num_programs(0)
    if gl.program_id(0) == programs - 1:
        seen = gl.atomic_add(counter_ptr + 32, 0, sem="relaxed", scope="gpu")
        while seen < programs:
            seen = gl.atomic_add(counter_ptr + 32, 0, sem="relaxed", scope="gpu")
        gl.store(counter_ptr, 0)
        gl.store(counter_ptr + 32, 0)


@gluon.jit(do_not_specialize=["pieces", "stages", "more_stages", "tiles", "more_tiles"])
def fp8_held_sm90_kernel(
    x_desc, x_ptr, out_ptr, scale_ptr, partial_ptr, counter_ptr, pieces, stages, more_stages, tiles, more_tiles,
    R: gl.constexpr, S: gl.constexpr, STAGE: gl.constexpr, HALF: gl.constexpr, PARTIALS: gl.constexpr,
):  # fmt: skip
    """R slots and S stages. pieces: of x.

    Of a program: `stages` stages (one more of the first `more_stages` programs), and so with tiles of registers."""
    PIECES: gl.constexpr = 32 * gl.num_warps()
    L: gl.constexpr = gl.BlockedLayout([1, 4], [32, 1], [gl.num_warps(), 1], [1, 0])
    ROWS: gl.constexpr = STAGE * PIECES * 4 // _ROW
    program, programs = gl.program_id(0), gl.num_programs(0)
    count = stages + gl.where(program < more_stages, 1, 0)
    filled = gl.allocate_shared_memory(gl.int32, [S, ROWS, _ROW], x_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [S, 1], mbarrier.MBarrierLayout())
    for s in range(S):
        mbarrier.init(full.index(s), count=1)
    fence_async_shared()
    barrier()
    for s in range(min(count, S)):
        mbarrier.expect(full.index(s), ROWS * _ROW * 4)
        tma_load(x_desc, [(program + s * programs) * ROWS, 0], full.index(s), filled.index(s))
    memory = reinterpret(filled, gl.int32, [S * STAGE, PIECES, 4], gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))
    # the others: `turns` of this program beside each other, in rounds of R, of which the first may be a part of one
    turns = tiles + gl.where(program < more_tiles, 1, 0)
    rounds = (turns + R - 1) // R
    first = turns - rounds * R  # not positive
    base = (stages * programs + more_stages) * STAGE + program * tiles + min(program, more_tiles) + first
    # the last tile of x may be a part of one: it is the last of a round
    beyond = pieces - (base + R - 1) * PIECES
    best = gl.full([PIECES, 4], 0, gl.int32, L)
    slots = ()
    for i in gl.static_range(R):
        limit = gl.where((first + i >= 0) & (turns > 0), beyond if i == R - 1 else PIECES, 0)
        slots += (load_tile(x_ptr, base, i, limit, L, "evict_last"),)
    s = 0
    for round in range(1, rounds):
        fresh = ()
        for i in gl.static_range(R):
            best = larger(best, slots[i], HALF)
            limit = beyond - round * (R * PIECES) if i == R - 1 else None
            fresh += (load_tile(x_ptr, base + round * R, i, limit, L, "evict_first"),)
            if s < count:
                best = larger_of_stage(best, memory, full, s, STAGE, HALF, L)
                s += 1
        slots = fresh
    for t in range(s, count):
        best = larger_of_stage(best, memory, full, t, STAGE, HALF, L)
    for i in gl.static_range(R):
        best = larger(best, slots[i], HALF)
    halves = gl.maximum((best >> 16) & 0xFFFF, best & 0xFFFF)
    amax = largest_value(gl.max(gl.max(halves, axis=1), axis=0), HALF)
    scale, inverse, finite = scale_of_tensor(meet(partial_ptr, counter_ptr, magnitude_bits(amax), PARTIALS))
    if program == 0:
        gl.store(scale_ptr, scale)
    for back in range(1, rounds):
        round = rounds - back
        tile = base + round * R
        fresh = ()
        for n in gl.static_range(R):
            limit = beyond - round * (R * PIECES) if n == 0 else None
            store_tile(out_ptr, slots[R - 1 - n], tile, R - 1 - n, limit, inverse, finite, HALF)
            limit = gl.where(first + round * R - 1 - n >= 0, PIECES, 0)
            fresh = (load_tile(x_ptr, tile - R, R - 1 - n, limit, L, "evict_first"),) + fresh  # noqa: RUF005
        slots = fresh
    for s in range(count):  # what the slots were filled with again comes meanwhile
        for i in gl.static_range(STAGE):
            words = memory.index(s * STAGE + i).load(L)
            store_tile(out_ptr, words, (program + s * programs) * STAGE, i, None, inverse, finite, HALF)
    for n in gl.static_range(R):
        limit = gl.where((first + R - 1 - n >= 0) & (turns > 0), beyond if n == 0 else PIECES, 0)
        store_tile(out_ptr, slots[R - 1 - n], base, R - 1 - n, limit, inverse, finite, HALF)
    tidy(counter_ptr)
    for s in range(S):  # until here, or the maxima were exchanged through their memory
        mbarrier.invalidate(full.index(s))


def share(
    pieces: int, tile: int, programs: int, stage: int = STAGE, stages: int = STAGES
) -> tuple[int, int, int, int]:
    """(stages, more_stages, tiles, more_tiles) of the kernel: stages first, for what is left."""
    held = min(pieces // (stage * tile), stages * programs)
    rest = triton.cdiv(pieces, tile) - held * stage
    return *divmod(held, programs), *divmod(rest, programs)


def fp8_held_sm90(x: Tensor, out: Tensor, scale: Tensor) -> None:
    """x [M, K] sixteen-bit, without gaps, into uint8 codes [M, K] and float32 scale [1].

    x has 512 elements or more, a multiple of 8, and begins at a multiple of 16 bytes.
    """
    require_hopper(x.device)
    pieces, tile = x.numel() // 8, 32 * WARPS
    programs = min(triton.cdiv(pieces, tile), processors(x.device) * RESIDENT)
    flat = x.view(-1)
    # what is no whole line of the descriptor comes only through loads
    lines = flat[: x.numel() // (2 * ROW) * (2 * ROW)].view(torch.int32).view(-1, ROW)
    raw = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=2)
    partial = torch.empty(programs, dtype=torch.int32, device=x.device)
    with torch.cuda.device_of(x):
        fp8_held_sm90_kernel[(programs,)](
            TensorDescriptor.from_tensor(lines, [STAGE * tile * 4 // ROW, ROW], raw), flat.view(torch.int32), out,
            scale, partial, counters(x.device), pieces, *share(pieces, tile, programs),
            R=SLOTS, S=STAGES, STAGE=STAGE, HALF=x.dtype == torch.float16, PARTIALS=triton.next_power_of_2(programs),
            num_warps=WARPS, maxnreg=65536 // (tile * RESIDENT), enable_fp_fusion=False,
            launch_cooperative_grid=True,
        )  # fmt: skip
