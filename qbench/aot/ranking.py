"""Does the static floor order launches as a GPU does? Floors beside a device's stored times.

`python -m qbench floor baselines/<device> package.module:function --gpu H200`, where function(case id) gives the call
that the stored case timed, to be recorded on uninitialised CPU tensors, or None for a case that launches no kernel.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.aot.floor import Floor, floor
from qbench.aot.gpus import Gpu
from qbench.aot.target import get_target

if TYPE_CHECKING:
    from qbench.aot.build import Built

_LEAST_ALIKE = 5  # cases of one shape, to rank among themselves
LaunchOf = Callable[[str], Callable[[], object] | None]


@dataclass(frozen=True)
class Point:
    """One stored case: its time and the floors of its launches, which run one after the other."""

    case: str
    measured_ns: float
    floors: tuple[Floor, ...]

    @property
    def floor_ns(self) -> float:
        return sum(each.ns for each in self.floors)

    @property
    def ratio(self) -> float:
        """Measured over floor: what the floor leaves out. Below 1 the floor is wrong."""
        return self.measured_ns / self.floor_ns

    @property
    def bound(self) -> str:
        """Of the launch that takes longest."""
        return max(self.floors, key=lambda each: each.ns).bound


def find_function(text: str) -> LaunchOf:
    """ "package.module:function" as the function. ValueError in words."""
    module, _, name = text.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{text!r} names no function ({error}); write package.module:function") from error
    return found  # type: ignore[no-any-return]


def stored_times(folder: Path) -> dict[str, float]:
    """Median of the runs of every case stored in a device's folder, nanoseconds."""
    from qbench.baseline import REMEDY, File
    from qbench.result import read_json

    files = [read_json(path, File, REMEDY) for path in sorted(folder.glob("*.json"))]
    return {
        case: statistics.median(run.median_ns for run in runs)
        for file in files
        for case, runs in file.cases.items()
    }


def points(times: dict[str, float], launch_of: LaunchOf, gpu: Gpu) -> list[Point]:
    """The cases that launch kernels, with their floors on the GPU. RuntimeError where one does not compile."""
    from qbench.aot.build import build
    from qbench.aot.driver import recording

    calls = {case: call for case in times if (call := launch_of(case)) is not None}
    launches, counts = [], []
    for call in calls.values():
        with recording(get_target(gpu.target)) as recorded:
            call()
        launches += recorded
        counts.append(len(recorded))
    built = iter(build(launches))
    return [
        Point(case, times[case], tuple(_floor(next(built), gpu) for _ in range(count)))
        for case, count in zip(calls, counts, strict=True)
    ]


def _floor(built: Built, gpu: Gpu) -> Floor:
    if built.metrics is None:
        raise RuntimeError(f"{built.launch.id} does not compile for {gpu.target}: {built.error}")
    return floor(built.metrics, gpu, tensor_bytes=built.launch.tensor_bytes)


def spearman(pairs: Sequence[tuple[float, float]]) -> float:
    """Rank correlation, ties sharing their rank; NaN where one side does not vary."""
    x, y = (_ranks([pair[side] for pair in pairs]) for side in (0, 1))
    try:
        return statistics.correlation(x, y)
    except statistics.StatisticsError:
        return math.nan


def _ranks(values: Sequence[float]) -> list[float]:
    places: dict[float, list[int]] = {}
    for place, value in enumerate(sorted(values)):
        places.setdefault(value, []).append(place)
    return [statistics.mean(places[value]) for value in values]


def ranking_lines(found: Sequence[Point], gpu: Gpu, *, every: bool = False) -> list[str]:
    """The correlation, overall and by operation, and where the floor is furthest off."""
    if len(found) < 3:
        return [f"{len(found)} stored cases launch kernels: too few to rank"]
    ratios = sorted(point.ratio for point in found)
    bounds = Counter(point.bound for point in found)
    below = sum(ratio < 1 for ratio in ratios)
    lines = [
        f"{len(found)} stored cases against their floors on {gpu.name}: rank correlation {_rho(found):.3f}",
        f"measured / floor: median {statistics.median(ratios):.2f}, least {ratios[0]:.2f}, most {ratios[-1]:.1f}, "
        f"{below} below 1; bound by {', '.join(f'{name} {n}' for name, n in bounds.most_common())}",
        "",
        f"{'operation':<28}{'cases':>6}{'rank correlation':>18}{'measured / floor':>24}",
    ]
    ops = dict.fromkeys(point.case.partition("/")[0] for point in found)
    for op in ops:
        these = [point for point in found if point.case.partition("/")[0] == op]
        spread = sorted(point.ratio for point in these)
        rho = f"{_rho(these):.3f}" if len(these) >= 3 else "-"
        lines.append(f"{op:<28}{len(these):>6}{rho:>18}{f'{spread[0]:.2f} to {spread[-1]:.2f}':>24}")
    if (shapes := _by_shape(found)) and (rhos := sorted(_rho(these) for these in shapes)):
        lines += ["", f"among cases of one m, n, k ({len(shapes)} shapes of {_LEAST_ALIKE} or more cases): rank "
                  f"correlation {rhos[0]:.2f} to {rhos[-1]:.2f}, median {statistics.median(rhos):.2f}"]  # fmt: skip
    by_ratio = sorted(found, key=lambda point: point.ratio)
    for title, these in (
        ("all", by_ratio) if every else ("furthest above their floor", by_ratio[:-6:-1]),
        *(() if every else (("nearest to it", by_ratio[:5]),)),
    ):
        lines += ["", title, *(_line(point) for point in these)]
    return lines


def _by_shape(found: Sequence[Point]) -> list[list[Point]]:
    """Cases whose m, n and k agree, where there are enough of them: size alone no longer orders these."""
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in found:
        axes = dict(each.partition("=")[::2] for each in point.case.partition("[")[2].rstrip("]").split(","))
        groups.setdefault(tuple(axes.get(name, "") for name in "mnk"), []).append(point)
    return [these for these in groups.values() if len(these) >= _LEAST_ALIKE]


def _rho(found: Sequence[Point]) -> float:
    return spearman([(point.floor_ns, point.measured_ns) for point in found])


def _line(point: Point) -> str:
    times = f"{point.measured_ns / 1e3:.1f} µs, floor {point.floor_ns / 1e3:.1f} by {point.bound}"
    return f"  {point.ratio:6.2f}×  {times}  {point.case}"
