"""Each step of each item is computed once, parts of an item find each other, and what is chosen fits the GPU."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkernels.triton.fp4_few_plan import TILES, Few, choose, contributors, share, steps_of

SHARED_MEMORY = 227 * 1024
FEW = [Few(2, 1, 8, 4), Few(2, 1, 4, 4, 2), Few(1, 2, 4, 4), Few(1, 4, 4, 3), Few(2, 2, 4, 6)]
FEW += [Few(2, 1, 4, 6, 2, 2), Few(1, 4, 2, 4, 1, 4)]


@given(
    few=st.sampled_from(FEW), tiles=st.integers(1, 4000), chunks=st.integers(1, 500), sms=st.integers(1, 140),
    counters=st.sampled_from([0, 512]),
)  # fmt: skip
def test_every_step_of_every_item_once(few: Few, tiles: int, chunks: int, sms: int, counters: int) -> None:
    chunks *= few.parts
    plan = share(few, tiles, chunks, sms, counters)
    tiles, chunks = tiles * few.parts, chunks // few.parts  # in each part
    items = -(-tiles // (TILES * few.wr))
    assert 0 < plan.programs <= sms * few.resident
    assert (plan.steps * few.depth >= chunks, plan.steps % plan.grain) == (True, 0)
    at, parts = 0, defaultdict(list)
    for program in range(plan.programs):
        begin, end = steps_of.fn(program, plan.programs, plan.grain, plan.grains)
        assert begin == at < end
        at = end
        for item in range(begin // plan.steps, (end - 1) // plan.steps + 1):
            parts[item].append(program)
    assert (at, sorted(parts)) == (items * plan.steps, list(range(items)))
    slots: set[int] = set()
    counted: set[int] = set()
    for item, programs in parts.items():
        if len(programs) == 1:
            continue
        assert counters >= plan.programs * few.wr
        first, last = contributors.fn(item, plan.programs, plan.steps, plan.grain, plan.grains)
        assert programs == list(range(first, last + 1))
        mine = {2 * program + (program == first) for program in programs}
        assert not slots & mine
        assert first not in counted
        slots |= mine
        counted.add(first)


@pytest.mark.parametrize("m", [1, 8, 9, 16, 17, 32, 33, 64, 65, 128])
@pytest.mark.parametrize("tiles", [1, 64, 120, 512, 528, 640, 2112, 3584])
@pytest.mark.parametrize("chunks", [1, 64, 128, 448])
def test_what_is_chosen_fits(m: int, tiles: int, chunks: int) -> None:
    few = choose(m, tiles, chunks)
    assert few.wk * few.wr in (2, 4)
    assert few.stages % few.wk == 0  # or a warpgroup could take a stage for the one a turn later
    rows = max(8, 1 << (m - 1).bit_length())
    assert few.resident * (few.shared_memory(rows) + 1024) <= SHARED_MEMORY
    assert few.depth * 16 <= 256  # a box of scales is at most as wide


def test_one_wave_is_not_split_and_a_bit_more_than_one_is() -> None:
    assert share(Few(2, 1, 8, 4), 512, 128, 132, 512).programs == 128
    assert share(Few(2, 1, 8, 4), 512, 128, 132, 512).grain == 16
    assert share(Few(2, 1, 4, 4, 2), 640, 128, 132, 512) == share(choose(1, 640, 128), 640, 128, 132, 512)
    assert share(Few(2, 1, 4, 4, 2), 640, 128, 132, 512).grain == 1
