"""Each step of each tile is computed once, its sums find each other, and a split is worth what it costs."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from qkernels.triton.stream_k import contributors, divide, pieces, segment


def pieces_of_tiles(tiles: int, steps: int, programs: int, split: int) -> dict[int, list[tuple[int, int, int]]]:
    """(first step, end, program) of each tile, in the order of programs."""
    found = defaultdict(list)
    for program in range(programs):
        partial, count = pieces.fn(tiles, split, steps, program, programs)
        for number in range(count):
            index, first, end = segment.fn(number, partial, split, steps, program, programs)
            assert 0 <= first < end <= steps
            found[index].append((first, end, program))
    return found


@given(
    tiles=st.integers(1, 300), steps=st.integers(1, 40), processors=st.integers(1, 140), saved=st.integers(0, 20),
    least=st.integers(1, 8),
)  # fmt: skip
def test_every_step_of_every_tile_once(tiles: int, steps: int, processors: int, saved: int, least: int) -> None:
    plan = divide(tiles, steps, processors, saved, least)
    assert 0 < plan.programs <= processors
    found = pieces_of_tiles(tiles, steps, plan.programs, plan.split)
    assert sorted(found) == list(range(tiles))
    slots = set()
    for index, parts in found.items():
        assert [first for first, _, _ in parts] == [0, *(end for _, end, _ in parts[:-1])]
        assert parts[-1][1] == steps
        if len(parts) == 1:
            continue
        # what `combine` assumes: programs in a row, of which all but the first begin in this tile
        first, last = contributors.fn(index, plan.split, steps, plan.programs)
        assert [program for _, _, program in parts] == list(range(first, last + 1))
        mine = {2 * program + (program == first) for _, _, program in parts}
        assert not slots & mine
        slots |= mine


def test_tiles_are_split_where_a_wave_would_be_left_empty() -> None:
    assert divide(132, 128, 132, 8).split == 0
    assert divide(320, 128, 132, 8).split == 56 + 132
    assert divide(64, 128, 132, 8) == divide(64, 128, 132, 8, 62)
    assert divide(64, 128, 132, 8).programs == 132
    assert divide(64, 128, 132, 8).split == 64
    assert divide(131, 128, 132, 8).split == 0  # one step would be saved
