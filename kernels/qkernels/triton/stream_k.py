"""Which program of a persistent product computes what, and how parts of one tile are summed.

One program runs on each SM. Output tiles are computed whole, a wave after the other, by programs that are at the same
K: what they share is read from memory once. Tiles that would not fill a wave are split along K, in one of two ways.

Behind other waves: each tile into equal parts, and these parts come first. Each program writes its fp32 sums to a
workspace, counts itself, and goes on with its whole tiles; beside it, warps of their own sum a quarter of the tile
as soon as all parts are there. So splitting costs little more than the writing.

Alone: of `group` tiles and `members` programs, each program but the last owns a tile, and has its beginning in
registers; the next program has the tile's rest, comes to it first, and writes its sums. The owner, which has a little
more to do, finds them when it is through, adds them to its own and writes the result.

Parts are added in the order of K, so results repeat bit for bit. Nobody waits for a program that may not be running
(kernels of two streams could wait for each other's places for ever): who comes to sum looks a while whether all parts
are there; if not it leaves a mark, and the program that brings the last part sums what is marked. Part and mark are
additions to one counter, so exactly one of the two does it, and sets the counter back to zero: a workspace serves one
launch after the other on its stream.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier
from triton.language.extra.cuda import gdc_wait

from qkernels.triton.gluon_names import barrier
from qkernels.triton.quantizing_epilogue import write_rows

PATIENCE = gl.constexpr(100)  # looks at a counter, each most of a microsecond


@gluon.jit
def place(index, across, down, GROUP: gl.constexpr):
    """Tile `index` -> (tile of w's rows, tile of x's). Tiles that run together share both in the L2 cache."""
    first = index // (GROUP * down) * GROUP
    height = min(across - first, GROUP)
    return first + index % (GROUP * down) % height, index % (GROUP * down) // height


@gluon.jit
def piece(plan, steps, program):
    """(begin, end) of what a program computes of the row of all split tiles' steps: nothing if it shares none.

    A group of tiles has `members` programs: the first takes `lead` of its steps, each other one `rest`.
    """
    split, group, members, lead, rest = plan
    base = program // members * group * steps
    member = program % members
    begin = base + (lead + (member - 1) * rest) * min(member, 1)
    limit = min(base + group * steps, split * steps)
    begin = min(begin, limit)
    return begin, min(base + lead + member * rest, limit)


@gluon.jit
def segments(tiles, split, begin, end, steps, program, programs):
    """(tiles that a program shares with others, all tiles it has a part in)."""
    shared = (end + steps - 1) // steps - begin // steps
    return shared, shared + (tiles - split - program + programs - 1) // programs


@gluon.jit
def segment(number, shared, tiles, split, begin, end, steps, program, programs):
    """(tile's index, first step, end) of a program's tile `number`: what it shares comes first."""
    inside = begin // steps + number
    whole = number >= shared
    index = (number - shared) * programs + program if whole else tiles - split + inside
    first = 0 if whole else max(begin - inside * steps, 0)
    last = steps if whole else min(end - inside * steps, steps)
    return index, first, last


@gluon.jit
def contributors(tile, plan, steps):
    """(first, last) of the programs that have a part of split tile `tile`."""
    _, group, members, lead, rest = plan
    first, last = tile % group * steps, (tile % group + 1) * steps - 1
    program = tile // group * members
    return program + (max(first - lead, -rest) + rest) // rest, program + (
        max(last - lead, -rest) + rest
    ) // rest


@gluon.jit
def following(stage, phase, STAGES: gl.constexpr):
    """The stage after this one in the ring, and its phase."""
    wraps = stage == STAGES - 1
    return gl.where(wraps, 0, stage + 1), gl.where(wraps, phase ^ 1, phase)


@gluon.jit
def in_order(sums, WARPS: gl.constexpr):
    """Sums [M, N] as a row, in quarters of N; 16 bytes of a thread lie beside those of the next."""
    M: gl.constexpr = sums.shape[0]
    N: gl.constexpr = sums.shape[1]
    axes: gl.constexpr = [M // (16 * WARPS), WARPS, 2, 8, N // 8, 4, 2]
    return sums.reshape(axes).permute(4, 0, 1, 3, 5, 2, 6).reshape([M * N])


@gluon.jit
def deposit(sums, work_ptr, first, WARPS: gl.constexpr):
    """Write this program's part of a tile that programs from `first` on share.

    A program has two slots in the workspace: one for a tile that it begins, one for a tile that it goes on with.
    """
    program = gl.program_id(0)
    flat = in_order(sums, WARPS)
    SIZE: gl.constexpr = flat.shape[0]
    mine = 2 * program + (1 if program == first else 0)
    gl.store(work_ptr + mine * SIZE + gl.arange(0, SIZE, flat.type.layout), flat)
    barrier()


@gluon.jit
def add_part(counter_ptr, parts):
    """Count a part that was written, of `parts`. Gives the quarters (a mask) that were marked before this last part."""
    before = gl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu")
    complete = (before & 255) == parts - 1
    if complete & ((before >> 8) == 15):
        gl.store(counter_ptr, 0)
    return gl.where(complete, before >> 8, 0)


@gluon.jit
def look(counter_ptr, parts):
    """Are all `parts` there? Looks a while."""
    before = gl.atomic_add(counter_ptr, 0, sem="acq_rel", scope="gpu")
    for _ in range(PATIENCE):
        if (before & 255) != parts:
            before = gl.atomic_add(counter_ptr, 0, sem="acq_rel", scope="gpu")
    return (before & 255) == parts


@gluon.jit
def mark(counter_ptr, quarters, parts):
    """Mark quarters (a mask) for who brings the last of `parts`. Gives them back if that one has been here before."""
    before = gl.atomic_add(counter_ptr, quarters << 8, sem="acq_rel", scope="gpu")
    complete = (before & 255) == parts
    if complete & ((before >> 8) + quarters == 15):
        gl.store(counter_ptr, 0)
    return gl.where(complete, quarters, 0)


@gluon.jit
def quarters_of(member, members):
    """The quarters (a mask) that the member-th of those who share a tile sums: they are dealt out in turns."""
    return ((1 << min(member, 4)) | (1 << min(member + members, 4))) & 15


@gluon.jit
def summed(
    work_ptr, start, first, last, M: gl.constexpr, N: gl.constexpr, LAYOUT: gl.constexpr, WARPS: gl.constexpr
):
    """Rows of an M x N tile that programs first to last wrote, from `start` on, as many as an instruction of LAYOUT
    has: fp32 [M, rows], in the order of K."""
    ROWS: gl.constexpr = LAYOUT.instr_shape[1]
    like: gl.constexpr = in_order(gl.zeros([M, ROWS], gl.float32, LAYOUT), WARPS).type.layout
    at = work_ptr + start * M + gl.arange(0, M * ROWS, like)
    if last - first == 1:  # the order of two does not matter, and both are on their way at once
        flat = gl.load(at + (2 * first + 1) * (M * N), cache_modifier=".cg")
        flat += gl.load(at + 2 * last * (M * N), cache_modifier=".cg")
    else:
        flat = gl.load(at + (2 * first + 1) * (M * N), cache_modifier=".cg")
        for each in range(first + 1, last + 1):
            flat += gl.load(at + 2 * each * (M * N), cache_modifier=".cg")
    turned: gl.constexpr = [ROWS // 8, M // (16 * WARPS), WARPS, 8, 4, 2, 2]
    sums = flat.reshape(turned).permute(1, 2, 5, 3, 0, 4, 6).reshape([M, ROWS])
    return gl.convert_layout(sums, LAYOUT, assert_trivial=True)


@gluon.jit
def sum_quarters(
    which, low, high, row, column, m, n, target, work_ptr, parameters, FINISH: gl.constexpr, RULE: gl.constexpr,
    BN: gl.constexpr, BM: gl.constexpr, SOME: gl.constexpr, WARPS: gl.constexpr,
):  # fmt: skip
    """Sum and write the quarters in a mask of the tile at (row, column) that programs low to high share."""
    for number in range(4):
        if (which >> number) & 1:
            for start in range(number * (BM // 4), (number + 1) * (BM // 4), SOME.instr_shape[1]):
                sums = summed(work_ptr, start, low, high, BN, BM, SOME, WARPS)
                result = FINISH(sums, row + start, column, m, n, parameters, WARPS)
                write_rows(result, target, row + start, column, m, n, RULE)


@gluon.jit
def add_up(
    deposited, target, work_ptr, counter_ptr, parameters, m, n, steps, plan, FINISH: gl.constexpr, RULE: gl.constexpr,
    BN: gl.constexpr, BM: gl.constexpr, GROUP: gl.constexpr, SOME: gl.constexpr, WARPS: gl.constexpr,
    EARLY: gl.constexpr,
):  # fmt: skip
    """The warps beside: count this program's part of a shared tile, then sum its quarters of that tile.

    FINISH(sums, row, column, m, n, parameters, WARPS) makes results of sums.
    """
    across, down = (n + BN - 1) // BN, (m + BM - 1) // BM
    tiles = across * down
    program = gl.program_id(0)
    begin, stop = piece(plan, steps, program)
    if EARLY:
        gdc_wait()
    if stop > begin:
        inside = begin // steps
        tile, row = place(tiles - plan[0] + inside, across, down, GROUP)
        first, last = contributors(inside, plan, steps)
        parts = last - first + 1
        mbarrier.wait(deposited, 0)
        left = add_part(counter_ptr + inside, parts)
        sum_quarters(
            left, first, last, row * BM, tile * BN, m, n, target, work_ptr, parameters, FINISH, RULE, BN, BM, SOME,
            WARPS,
        )  # fmt: skip
        look(counter_ptr + inside, parts)
        mine = mark(counter_ptr + inside, quarters_of(program - first, parts), parts)
        sum_quarters(
            mine, first, last, row * BM, tile * BN, m, n, target, work_ptr, parameters, FINISH, RULE, BN, BM, SOME,
            WARPS,
        )  # fmt: skip


@gluon.jit
def join(
    sums, inside, first, last, row, column, m, n, target, work_ptr, counter_ptr, parameters, FINISH: gl.constexpr,
    RULE: gl.constexpr, SOME: gl.constexpr, WARPS: gl.constexpr,
):  # fmt: skip
    """(sums of all parts of a tile, true) for the program that is to write them; (sums, false) for the others.

    The first of programs first to last owns the tile and has its sums in registers, the others write theirs.
    """
    BN: gl.constexpr = sums.shape[0]
    BM: gl.constexpr = sums.shape[1]
    counter = counter_ptr + inside
    parts = last - first
    complete = False
    if gl.program_id(0) == first:
        complete = look(counter, parts)
        if complete:
            gl.store(counter, 0)
        else:
            deposit(sums, work_ptr, first, WARPS)
            complete = mark(counter, 15, parts) == 15
        if complete:
            flat = in_order(sums, WARPS)
            at = work_ptr + gl.arange(0, BN * BM, flat.type.layout)
            for each in range(first + 1, last + 1):
                flat += gl.load(at + 2 * each * (BN * BM), cache_modifier=".cg")
            turned: gl.constexpr = [BM // 8, BN // (16 * WARPS), WARPS, 8, 4, 2, 2]
            flat = flat.reshape(turned).permute(1, 2, 5, 3, 0, 4, 6).reshape([BN, BM])
            sums = gl.convert_layout(flat, sums.type.layout, assert_trivial=True)
    else:
        deposit(sums, work_ptr, first, WARPS)
        left = add_part(counter, parts)
        sum_quarters(
            left, first, last, row, column, m, n, target, work_ptr, parameters, FINISH, RULE, BN, BM, SOME,
            WARPS,
        )  # fmt: skip
    return sums, complete
