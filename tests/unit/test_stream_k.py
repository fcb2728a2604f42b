"""Each step of each tile is computed once, parts of a tile are summed once, and a split is worth what it costs."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkernels.triton import mxfp4_gemm_sm90, stream_k
from qkernels.triton.fp4_gemm_sm90 import SHAPES
from qkernels.triton.stream_k import contributors, piece, place, quarters_of, segment, segments
from qkernels.triton.stream_plan import MOST_PARTS, MOST_TILES, Plan, Shape, beside, choose, divide, owned
from tests.gluon_threads_fp4 import finished
from tests.plans import every_plan, free


@given(
    tiles=st.integers(1, 300), steps=st.integers(1, 40), processors=st.integers(1, 140), slack=st.integers(0, 4)
)  # fmt: skip
def test_every_step_of_every_tile_once(tiles: int, steps: int, processors: int, slack: int) -> None:
    for plan in (
        *every_plan(tiles, steps, processors, SHAPES[0], slack),
        *every_plan(tiles, steps, processors, free(SHAPES[1]), slack),
    ):
        assert 0 < plan.programs <= processors
        shares, found = plan.arguments(), defaultdict(list)
        for program in range(plan.programs):
            begin, stop = piece.fn(shares, steps, program)
            shared, count = segments.fn(tiles, plan.split, begin, stop, steps, program, plan.programs)
            assert count > 0  # a program without work would fetch what nobody takes
            for number in range(count):
                index, first, end = segment.fn(
                    number, shared, tiles, plan.split, begin, stop, steps, program, plan.programs
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
            # what summing assumes: programs in a row, in the order of K, each with a slot of its own
            first, last = contributors.fn(index - (tiles - plan.split), shares, steps)
            assert [program for _, _, program in parts] == list(range(first, last + 1))
            assert len(parts) <= MOST_PARTS
            mine = {2 * program + (program == first) for _, _, program in parts}
            assert not slots & mine
            slots |= mine
            assert (max(mine) + 1) * 3 <= plan.workspace(3)


@given(
    tiles=st.integers(1, 132), steps=st.integers(2, 224), group=st.integers(1, MOST_TILES), slack=st.integers(0, 4)
)  # fmt: skip
def test_what_is_written_for_an_owner_is_there_when_it_is_through(
    tiles: int, steps: int, group: int, slack: int
) -> None:
    plan = owned(tiles, steps, group, group + 1, slack)
    if plan is None:
        return
    shares = plan.arguments()
    when = {}  # (tile, program): the step of its program after which a part is done
    for program in range(plan.programs):
        begin, stop = piece.fn(shares, steps, program)
        shared, _ = segments.fn(tiles, tiles, begin, stop, steps, program, plan.programs)
        done = 0
        for number in range(shared):
            index, first, end = segment.fn(
                number, shared, tiles, tiles, begin, stop, steps, program, plan.programs
            )
            done += end - first
            when[index, program] = done
    for tile in range(tiles):
        owner, last = contributors.fn(tile, shares, steps)
        for writer in range(owner + 1, last + 1):
            assert when[tile, writer] <= when[tile, owner] - slack


@given(seed=st.integers(0, 2**32), programs=st.integers(2, MOST_PARTS), patience=st.sampled_from([0, 1, 50]))
def test_each_quarter_is_summed_once_whoever_comes_first(seed: int, programs: int, patience: int) -> None:
    """The kernels' own functions, their additions to the counter in any order."""
    summed: list[tuple[int, int]] = []

    def equal_parts(program: int, counter: Counter) -> Iterator[None]:
        left = yield from counter.call("add_part", programs)
        summed.extend((quarter, program) for quarter in range(4) if left >> quarter & 1)
        yield from counter.call("look", programs)
        mine = quarters_of.fn(program, programs)
        mine = yield from counter.call("mark", mine, programs)
        summed.extend((quarter, program) for quarter in range(4) if mine >> quarter & 1)

    interleave(equal_parts, programs, seed, patience)
    assert sorted(quarter for quarter, _ in summed) == [0, 1, 2, 3]


@given(seed=st.integers(0, 2**32), programs=st.integers(2, MOST_PARTS), patience=st.sampled_from([0, 1, 50]))
def test_a_tile_with_an_owner_is_written_once_whoever_comes_first(
    seed: int, programs: int, patience: int
) -> None:
    written: list[int] = []

    def owner_and_others(program: int, counter: Counter) -> Iterator[None]:
        if program:
            left = yield from counter.call("add_part", programs - 1)
            assert left in (0, 15)
        else:
            if (yield from counter.call("look", programs - 1)):
                counter.value, left = 0, 15
            else:
                left = yield from counter.call("mark", 15, programs - 1)
        if left == 15:
            written.append(program)

    interleave(owner_and_others, programs, seed, patience)
    assert len(written) == 1


class Counter:
    """One counter of a workspace. `call` runs a function of stream_k and stops before each addition."""

    def __init__(self, patience: int) -> None:
        self.value, self.patience = 0, patience

    def call(self, name: str, *arguments: int) -> Any:
        """A generator of stops that returns what the function does: additions made so far are given again."""
        answers: list[int] = []
        while True:
            try:
                result, final = self._run(name, answers, *arguments)
            except NotYet as addition:
                yield
                answers.append(self.value)
                self.value += addition.args[0]
                continue
            if final is not None:
                self.value = final
            return result

    def _run(self, name: str, answers: list[int], *arguments: int) -> tuple[int, int | None]:
        left, final = iter(answers), []

        def atomic_add(pointer: object, value: int, **_: object) -> int:
            for answer in left:
                return answer
            raise NotYet(value)

        fake = SimpleNamespace(
            atomic_add=atomic_add,
            store=lambda pointer, value: final.append(value),
            where=lambda condition, yes, no: yes if condition else no,
        )
        function = getattr(stream_k, name).fn
        scope = {**function.__globals__, "gl": fake, "PATIENCE": self.patience}
        again = type(function)(function.__code__, scope, name)
        return again(None, *arguments), (final[-1] if final else None)


class NotYet(Exception):
    pass


def interleave(
    body: Callable[[int, Counter], Iterator[None]], programs: int, seed: int, patience: int
) -> None:
    counter, choice = Counter(patience), random.Random(seed)
    running = [body(program, counter) for program in range(programs)]
    while running:
        one = choice.choice(running)
        if next(one, StopIteration) is StopIteration:
            running.remove(one)
    assert counter.value == 0  # as the next launch needs it


def test_tiles_that_fill_no_wave_are_split_where_that_is_worth_it() -> None:
    small, large = SHAPES

    def shared(tiles: int, steps: int = 64, shape: Shape = large) -> tuple[int, ...]:
        plan = divide(tiles, steps, 132, shape)
        return plan.programs, *plan.arguments()[:3]

    assert shared(264) == (132, 0, 1, 1)
    assert shared(64) == (128, 64, 1, 2)
    assert shared(320) == (132, 56, 1, 2)
    assert shared(160, shape=small) == (132, 28, 1, 4)
    assert shared(80) == (120, 80, 2, 3)
    assert shared(100) == (125, 100, 4, 5)
    assert shared(120) == (120, 0, 1, 1)
    assert shared(64, steps=4) == (64, 0, 1, 1)  # a microsecond would be saved, and four spent


def test_sums_beside_whole_tiles_have_warps_of_their_own() -> None:
    small, large = SHAPES
    assert beside(large, Plan(132, 56, 1, 2, 32, 32), 320) == (2, 8)
    assert beside(small, Plan(132, 28, 1, 4, 16, 16), 160) == (4, 16)
    assert beside(large, Plan(128, 64, 1, 2, 33, 31), 64) == (0, 64)
    assert beside(large, Plan(132), 264) == (0, 64)


@pytest.mark.parametrize(("m", "rows"), [(65, 128), (128, 128), (512, 256), (8192, 256)])
def test_rows_of_a_tile_follow_those_of_x(m: int, rows: int) -> None:
    assert choose(SHAPES, m, 57344, 64, 132)[0].rows == rows


def test_few_folded_rows_take_the_smallest_tile() -> None:
    assert choose(mxfp4_gemm_sm90.SHAPES, 64, 57344, 32, 132)[0].rows == 64


@pytest.mark.parametrize("scales", [0, 1, 2])
@pytest.mark.parametrize(("m", "n"), [(1, 8), (7, 136), (129, 264), (300, 128)])
def test_a_tile_in_quarters_is_finished_as_a_whole_one(m: int, n: int, scales: int) -> None:
    """By no scale of x, by one for all, by that of each row; fp4_gemm_sm90's own functions."""
    check_finished(m, n, scales)


def check_finished(m: int, n: int, scales: int) -> None:
    """Also sums that x's scale alone would take beyond the numbers (float64's, here), and w's brings back."""
    generator = np.random.default_rng(m)
    y, bias = generator.standard_normal((m, n)), generator.standard_normal(n)
    tops = 1.37 * 2.0 ** generator.integers(-40, 40, m if scales == 2 else 1)
    for size, less in ((1.0, 1.0), (1e270, 1e60)):
        one, rows = tops / less if scales == 1 else None, tops / less if scales == 2 else None
        of_w = np.full(1, 3e4 * less)
        wanted = size * y * 0.25 / of_w / (tops[:, None] / less if scales else 1.0) + bias
        for shape, some in zip(SHAPES, (16, 8), strict=True):
            for whole in (True, False):
                found = finished(size * y, shape.rows, some, whole, 0.25, one, rows, of_w, bias)
                np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-300)


@given(across=st.integers(1, 40), down=st.integers(1, 20))
def test_every_place_once(across: int, down: int) -> None:
    places = {place.fn(index, across, down, 8) for index in range(across * down)}
    assert places == {(tile, row) for tile in range(across) for row in range(down)}
