"""How a persistent product's tiles are shared among programs, before a launch: see stream_k, which carries it out.

What is quickest follows from what steps and parts cost, measured on an H200 for each shape of a tile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

MOST_PARTS = 4  # of a tile
MOST_TILES = 4  # of a group


@dataclass(frozen=True)
class Plan:
    """How tiles are shared: the last `split` of them, each group of tiles by `members` programs, of which the first
    takes `lead` steps and each other one `rest`; `programs` of a launch; estimated nanoseconds."""

    programs: int
    split: int = 0
    group: int = 1
    members: int = 1
    lead: int = 1
    rest: int = 1
    ns: int = 0

    @property
    def sharing(self) -> int:
        """Programs that have a part of a split tile; a last group of fewer tiles has one more than it has tiles."""
        left = self.split % self.group
        return self.split // self.group * self.members + (left + 1 if left else 0)

    def workspace(self, elements: int) -> int:
        """fp32 numbers for tiles of so many elements."""
        return 2 * self.sharing * elements if self.split else 0

    def arguments(self) -> tuple[int, ...]:
        """As kernels take them."""
        return self.split, self.group, self.members, self.lead, self.rest


def divide(tiles: int, steps: int, processors: int, shape: Shape) -> Plan:
    """The quickest way to share tiles of `steps` steps among so many processors, by what a shape's steps cost."""
    waves, rest = divmod(tiles - 1, processors)
    rest += 1
    tile = steps * shape.step_ns
    plans = [Plan(min(tiles, processors), ns=(waves + 1) * tile)]
    if waves:
        for parts in range(2, 1 + min(MOST_PARTS, processors // rest, steps)):
            each = -(-steps // parts)
            ns = waves * tile + each * shape.step_ns + shape.part_ns
            plans.append(Plan(processors, rest, 1, -(-steps // each), each, each, ns))
        return min(plans, key=lambda plan: plan.ns)
    slack = -(-shape.slack_ns // shape.step_ns)  # steps that an owner has more than who writes for it
    for group in range(1, 1 + MOST_TILES):
        for members in range(2, 1 + MOST_PARTS) if group == 1 else (group + 1,):
            plan = owned(tiles, steps, group, members, slack)
            if plan and plan.programs <= processors:
                joins = members - 1 if group == 1 else 2
                plans.append(replace(plan, ns=plan.lead * shape.step_ns + joins * shape.join_ns))
    return min(plans, key=lambda plan: plan.ns)


def owned(tiles: int, steps: int, group: int, members: int, slack: int) -> Plan | None:
    """Groups of tiles by `members` programs of which an owner has `slack` steps more than who writes for it; None for
    so few steps that nothing is left to write. One tile may have several members, several tiles have one more."""
    lead = -(-(group * steps + (members - 1 if group == 1 else 1) * slack) // members)
    if lead >= steps:
        return None
    rest = lead if group > 1 else -(-(steps - lead) // (members - 1))
    members = members if group > 1 else 1 + -(-(steps - lead) // rest)
    plan = Plan(0, tiles, group, members, lead, rest)
    return replace(plan, programs=plan.sharing)


@dataclass(frozen=True)
class Shape:
    """What a program computes at a time: `tiles` of 16 columns by `rows`, `stages` fetched ahead, by `warps`; `summing`
    warps beside sum parts. Nanoseconds, measured: of a step (two stages); of writing a part that comes first; by which
    what is written for an owner must be earlier; of adding it to an owner's.
    """

    tiles: int
    rows: int
    stages: int
    warps: int
    summing: int
    step_ns: int
    part_ns: int
    slack_ns: int
    join_ns: int


def beside(shape: Shape, plan: Plan, tiles: int) -> tuple[int, int]:
    """(warps beside the others that sum parts, rows that are summed at once); no warps where no whole tiles follow.

    The few registers that are left to two warps beside 256 rows of sums hold eight rows.
    """
    if not 0 < plan.split < tiles:
        return 0, shape.rows // 4
    return shape.summing, 4 * shape.summing


@lru_cache(4096)
def choose(shapes: tuple[Shape, ...], m: int, n: int, steps: int, processors: int) -> tuple[Shape, Plan]:
    """The quickest shape and plan for M rows and so many steps of K, by what steps and parts cost; no shape of which
    half would be empty."""
    found = []
    for shape in shapes:
        if shape.rows < 2 * m or shape is shapes[0]:
            tiles = -(-m // shape.rows) * -(-n // (16 * shape.tiles))
            found.append((shape, divide(tiles, steps, processors, shape)))
    return min(found, key=lambda each: each[1].ns)
