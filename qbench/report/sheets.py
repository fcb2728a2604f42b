"""Results grouped into sheets: what one table or one plot shows.

A sheet is one operation with all its axes fixed but one (the batch size, where there is one). Each provider
is a line. Operations named in `Result.alongside` lend their lines to the sheet where the axes they share
agree: a bf16 GEMM without a Hadamard axis joins the sheets of every Hadamard size.

Sheets that would hold a single point each are folded into one, whose points are named by the axes that
differ (`128×128×128`): a page of one-row tables and one-point plots tells nobody anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from qbench.result import Result

AxisValue = int | float | str | bool
SWEPT = ("m", "tokens", "batch")  # the axis drawn from left to right, in order of preference


class Point(NamedTuple):
    """One result at its place on the x axis."""

    x: AxisValue
    result: Result


@dataclass(frozen=True)
class Line:
    """One provider's points, in the order of x. `own` is False for a line lent by another operation."""

    label: str
    points: tuple[Point, ...]
    own: bool = True

    def at(self, x: AxisValue) -> Result | None:
        return next((point.result for point in self.points if point.x == x), None)


@dataclass(frozen=True)
class Sheet:
    """One operation at fixed axes. `reference` is the label of the line that speedups are taken against."""

    op: str
    fixed: tuple[tuple[str, AxisValue], ...]
    x: str
    lines: tuple[Line, ...]
    reference: str | None = None

    @property
    def title(self) -> str:
        return "  ".join([self.op, *(f"{name}={value}" for name, value in self.fixed)])

    @property
    def xs(self) -> tuple[AxisValue, ...]:
        return _ordered(point.x for line in self.lines for point in line.points)

    @property
    def numeric(self) -> bool:
        """Can x be drawn to scale?"""
        return all(isinstance(x, int | float) and not isinstance(x, bool) for x in self.xs)

    @property
    def results(self) -> tuple[Result, ...]:
        return tuple(point.result for line in self.lines for point in line.points)

    def line(self, label: str | None) -> Line | None:
        return next((line for line in self.lines if line.label == label), None)


def make_sheets(results: Sequence[Result]) -> list[Sheet]:
    """All sheets of a run, in the order of its results. Every result is on at least one of them."""
    by_op: dict[str, list[Result]] = {}
    by_shape: dict[tuple[str, frozenset[str]], list[Result]] = {}
    for result in results:
        by_op.setdefault(result.op, []).append(result)
        by_shape.setdefault((result.op, frozenset(result.axes)), []).append(result)
    made = []
    for members in by_shape.values():
        x = x_axis(members)
        by_fixed: dict[tuple[tuple[str, str], ...], list[Result]] = {}
        for result in members:
            key = tuple(sorted((name, repr(value)) for name, value in result.axes.items() if name != x))
            by_fixed.setdefault(key, []).append(result)
        made += [_sheet(x, own, by_op) for own in by_fixed.values()]
    return _fold(_without_companions(made))


def x_axis(results: Sequence[Result]) -> str:
    """`m`, else `tokens`, else the axis with the most values (the first of equals); "" without axes."""
    axes = list(results[0].axes)
    for name in SWEPT:
        if name in axes:
            return name
    return max(axes, key=lambda name: len({repr(result.axes[name]) for result in results}), default="")


def _sheet(x: str, own: list[Result], by_op: dict[str, list[Result]]) -> Sheet:
    fixed = {name: value for name, value in own[0].axes.items() if name != x}
    places = {result.axes.get(x, "") for result in own}
    alongside = list(dict.fromkeys(name for result in own for name in result.alongside if name != result.op))
    lines: dict[str, list[Point]] = {}
    lent: dict[str, str] = {}
    for op in alongside:
        for result in by_op.get(op, []):
            if result.axes.get(x) not in places:
                continue
            if any(name in fixed and fixed[name] != value for name, value in result.axes.items()):
                continue
            if op != alongside[0] and not set(fixed) <= set(result.axes):
                continue  # only the reference stands for every rotation; others would be another rotation's
            extra = [
                f"{name}={value}" for name, value in result.axes.items() if name not in fixed and name != x
            ]
            label = " ".join([f"{op}/{result.provider}", *extra])
            lent.setdefault(_add(lines, label, Point(result.axes[x], result)), op)
    for result in own:
        _add(lines, result.provider, Point(result.axes.get(x, ""), result))
    made = {label: Line(label, _sorted(points), label not in lent) for label, points in lines.items()}
    reference = (
        next((label for label in made if lent.get(label) == alongside[0]), None) if alongside else None
    )
    first = [made[reference]] if reference else []
    mine = [line for line in made.values() if line.own]
    others = [line for line in made.values() if not line.own and line.label != reference]
    return Sheet(own[0].op, tuple(fixed.items()), x, tuple(first + mine + others), reference)


def _add(lines: dict[str, list[Point]], label: str, point: Point) -> str:
    """Add a point; a second one at the same x gets a line of its own, so that neither is hidden."""
    name, count = label, 1
    while any(point.x == other.x for other in lines.get(name, [])):
        count += 1
        name = f"{label} #{count}"
    lines.setdefault(name, []).append(point)
    return name


def _without_companions(sheets: list[Sheet]) -> list[Sheet]:
    """Leave out sheets whose every result already stands on another operation's sheet."""
    leading = [
        sheet
        for sheet in sheets
        if any(result.alongside for result in sheet.results if result.op == sheet.op)
    ]
    shown = {id(result) for sheet in leading for result in sheet.results}
    return [sheet for sheet in sheets if sheet in leading or any(id(r) not in shown for r in sheet.results)]


def _fold(sheets: list[Sheet]) -> list[Sheet]:
    groups: dict[object, list[Sheet]] = {}
    for sheet in sheets:
        alone = len(sheet.xs) == 1
        names = frozenset(name for name, _ in sheet.fixed)
        key = (sheet.op, sheet.x, names, sheet.reference) if alone else id(sheet)
        groups.setdefault(key, []).append(sheet)
    return [group[0] if len(group) == 1 else _folded(group) for group in groups.values()]


def _folded(group: list[Sheet]) -> Sheet:
    axes = [{**({sheet.x: sheet.xs[0]} if sheet.x else {}), **dict(sheet.fixed)} for sheet in group]
    varying = [name for name in axes[0] if len({repr(each[name]) for each in axes}) > 1]
    lines: dict[str, Line] = {}
    for sheet, each in zip(group, axes, strict=True):
        x: AxisValue = (
            each[varying[0]] if len(varying) == 1 else "×".join(str(each[name]) for name in varying)
        )
        for line in sheet.lines:
            before = lines.get(line.label, replace(line, points=()))
            lines[line.label] = replace(
                line, points=(*before.points, *(Point(x, p.result) for p in line.points))
            )
    fixed = tuple((name, value) for name, value in axes[0].items() if name not in varying)
    ordered = tuple(replace(line, points=_sorted(line.points)) for line in lines.values())
    return Sheet(group[0].op, fixed, "×".join(varying), ordered, group[0].reference)


def _sorted(points: Iterable[Point]) -> tuple[Point, ...]:
    kept = list(points)
    order = {repr(x): place for place, x in enumerate(_ordered(point.x for point in kept))}
    return tuple(sorted(kept, key=lambda point: order[repr(point.x)]))


def _ordered(xs: Iterable[AxisValue]) -> tuple[AxisValue, ...]:
    """Distinct values: numbers by size, anything else in the order it came."""
    distinct = list(dict.fromkeys(xs))
    if all(isinstance(x, int | float) for x in distinct):
        return tuple(sorted(distinct, key=float))
    return tuple(distinct)
