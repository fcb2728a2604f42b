"""Every way in which a persistent product may share its tiles (stream_k), also those it would not take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from qkernels.triton.stream_plan import MOST_PARTS, MOST_TILES, Plan, Shape, divide, owned


def every_plan(tiles: int, steps: int, processors: int, shape: Shape, slack: int = 1) -> Iterator[Plan]:
    yield Plan(min(tiles, processors))
    yield divide(tiles, steps, processors, shape)
    rest = (tiles - 1) % processors + 1
    if tiles > processors:
        for parts in range(2, 1 + min(MOST_PARTS, processors // rest, steps)):
            each = -(-steps // parts)
            yield Plan(processors, rest, 1, -(-steps // each), each, each)
        return
    for group in range(1, 1 + MOST_TILES):
        for members in range(2, 1 + MOST_PARTS) if group == 1 else (group + 1,):
            plan = owned(tiles, steps, group, members, slack)
            if plan and plan.programs <= processors:
                yield plan


def free(shape: Shape) -> Shape:
    """The shape, if sharing cost nothing."""
    return replace(shape, part_ns=0, join_ns=0, slack_ns=0)
