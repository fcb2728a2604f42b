"""Each step of each tile is computed once, parts of a tile find each other, and a split is worth what it costs."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkernels.triton.fp4_gemm_sm90 import SHAPES
from qkernels.triton.stream_k import choose, contributors, divide, piece, place, segment, segments


@given(
    tiles=st.integers(1, 300), steps=st.integers(1, 40), processors=st.integers(1, 140), most=st.integers(1, 9),
    cost=st.sampled_from([0, 2000, 100000]), spread=st.booleans(),
)  # fmt: skip
def test_every_step_of_every_tile_once(
    tiles: int, steps: int, processors: int, most: int, cost: int, spread: bool
) -> None:
    plan = divide(tiles, steps, processors, 1000, cost, spread=spread, most=most)
    assert 0 < plan.programs <= processors
    found = defaultdict(list)
    for program in range(plan.programs):
        begin, stop = piece.fn(plan.split, plan.sharing, steps, program)
        whole, count = segments.fn(tiles, plan.split, begin, stop, steps, program, plan.programs)
        for number in range(count):
            index, first, end = segment.fn(
                number, whole, tiles, plan.split, begin, stop, steps, program, plan.programs
            )
            assert 0 <= first < end <= steps
            found[index].append((first, end, program))
    assert sorted(found) == list(range(tiles))
    slots = set()
    for index, parts in found.items():
        parts.sort()
        assert [first for first, _, _ in parts] == [0, *(end for _, end, _ in parts[:-1])]
        assert parts[-1][1] == steps
        if len(parts) == 1:
            continue
        # what `combine` assumes: programs in a row, in the order of K, each with a slot of its own
        first, last = contributors.fn(index - (tiles - plan.split), plan.split, plan.sharing, steps)
        assert [program for _, _, program in parts] == list(range(first, last + 1))
        mine = {2 * program + (program == first) for _, _, program in parts}
        assert not slots & mine
        slots |= mine
        assert max(mine) < 2 * plan.sharing


def test_tiles_of_the_last_wave_are_split_where_that_is_worth_it() -> None:
    def shared(tiles: int, steps: int, spread: bool = False) -> tuple[int, int, int]:
        plan = divide(tiles, steps, 132, 2000, 3000, spread=spread)
        return plan.programs, plan.split, plan.sharing

    assert shared(264, 64) == (132, 0, 1)
    assert shared(64, 64) == (128, 64, 128)
    assert shared(320, 64) == (132, 56, 112)
    assert shared(212, 64, spread=True) == (132, 212, 132)
    assert shared(100, 64) == (100, 0, 1)
    assert shared(80, 64, spread=True) == (132, 80, 132)
    assert shared(64, 4) == (64, 0, 1)  # 4000 cycles would be saved, and 9000 spent


@pytest.mark.parametrize(("m", "rows"), [(1, 64), (64, 64), (128, 128), (512, 256), (8192, 256)])
def test_rows_of_a_tile_follow_those_of_x(m: int, rows: int) -> None:
    assert choose(SHAPES, m, 57344, 64, 132, False)[0].rows == rows


@given(across=st.integers(1, 40), down=st.integers(1, 20))
def test_every_place_once(across: int, down: int) -> None:
    places = {place.fn(index, across, down, 8) for index in range(across * down)}
    assert places == {(tile, row) for tile in range(across) for row in range(down)}
