"""Each step of each tile is computed once, parts of a tile find each other, and a split is worth what it costs."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from qkernels.triton.stream_k import Plan, divide, place, segment, segments


@given(
    tiles=st.integers(1, 300), steps=st.integers(1, 40), processors=st.integers(1, 140), most=st.integers(1, 9),
    cost=st.sampled_from([0, 2000, 100000]),
)  # fmt: skip
def test_every_step_of_every_tile_once(tiles: int, steps: int, processors: int, most: int, cost: int) -> None:
    plan = divide(tiles, steps, processors, 1000, most, cost)
    assert 0 < plan.programs <= processors
    found = defaultdict(list)
    for program in range(plan.programs):
        whole, count, rest = segments.fn(tiles, plan.parts, program, plan.programs)
        for number in range(count):
            index, first, end = segment.fn(number, whole, rest, plan.parts, steps, program, plan.programs)
            assert 0 <= first < end <= steps
            found[index].append((first, end, program, rest))
    assert sorted(found) == list(range(tiles))
    for index, parts in found.items():
        if len(parts) == 1:
            assert parts[0][:2] == (0, steps)
            continue
        # what `combine` assumes: part p of the t-th of `rest` tiles is that of program t + p * rest, in K's order
        parts.sort()
        assert [first for first, *_ in parts] == [0, *(end for _, end, *_ in parts[:-1])]
        assert parts[-1][1] == steps
        assert len(parts) == plan.parts
        _, _, tile, rest = parts[0]
        assert tile < rest
        assert [program for _, _, program, _ in parts] == [tile + part * rest for part in range(plan.parts)]
        assert index == tiles - rest + tile


def test_tiles_of_the_last_wave_are_split_where_that_is_worth_it() -> None:
    assert divide(264, 64, 132, 2048) == Plan(132, 1)
    assert divide(64, 64, 132, 2048) == Plan(128, 2)
    assert divide(320, 64, 132, 2048) == Plan(132, 2)
    assert divide(28, 64, 132, 2048) == Plan(112, 4)
    assert divide(100, 64, 132, 2048) == Plan(100, 1)
    assert divide(64, 4, 132, 2048) == Plan(64, 1)  # 4096 cycles would be saved, and 12000 spent


@given(across=st.integers(1, 40), down=st.integers(1, 20))
def test_every_place_once(across: int, down: int) -> None:
    places = {place.fn(index, across, down, 8) for index in range(across * down)}
    assert places == {(tile, row) for tile in range(across) for row in range(down)}
