"""The comparison as tables of text, the same for the terminal and for Markdown.

What could not run is "n/a" with its code and a numbered reason, what failed is WRONG or ERROR, what was not measured
is "-": none of them is a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from qbench.model.compare.accuracy import AccuracyGroup, AccuracyRow
from qbench.model.compare.entries import Entry, Problem
from qbench.model.compare.join import Comparison, Group, Row
from qbench.model.compare.tokens import count
from qbench.report.cells import STATUS, Grid, number

SIGNIFICANT = 0.05
LEFT = frozenset({"GPU", "recipe", "mode", "backend", "test"})
NOT_STATED = "not stated"


@dataclass
class Reasons:
    """Each reason numbered once for the whole report."""

    numbers: dict[str, int] = field(default_factory=dict)

    def cell(self, problem: Problem, used: dict[int, str]) -> str:
        """`n/a no-kernel (1)`; what (1) stands for is added to `used`."""
        reason = f"{problem.code}: {problem.reason}" if problem.code else problem.reason
        at = self.numbers.setdefault(reason, len(self.numbers) + 1)
        used[at] = reason
        return " ".join(
            [STATUS.get(problem.status, problem.status), *([problem.code] if problem.code else []), f"({at})"]
        )


def speed_grid(comparison: Comparison, group: Group, reasons: Reasons) -> Grid:
    """A row per GPU and recipe; columns that no row fills are left out. Both speedups stand side by side."""
    used: dict[int, str] = {}
    columns = {name: [cell(row.entry) for row in group.rows] for name, cell in _NUMBERS.items()}
    columns["× tokens/s"] = [_speedup(row, "tokens_per_s") for row in group.rows]
    columns["× wall"] = [_speedup(row, "wall") for row in group.rows]
    shown = [name for name in _ORDER if any(columns[name])]
    rows, gpu = [], ""
    for index, row in enumerate(group.rows):
        entry = row.entry
        head = ("" if entry.gpu == gpu else entry.gpu, entry.recipe)
        gpu = entry.gpu
        if entry.problem:
            cells = [reasons.cell(entry.problem, used), *[""] * (len(shown) - 1)]
            rows.append((*head, entry.mode, entry.backend, *cells))
            continue
        cells = [columns[name][index] or "-" for name in shown]
        if entry.prefill_problem and FIRST in shown:
            cells[shown.index(FIRST)] = reasons.cell(entry.prefill_problem, used)
        rows.append((*head, entry.mode or NOT_STATED, entry.backend or "-", *cells))
    notes = [f"speedups are over {comparison.baseline} on the same GPU: above 1 is faster"]
    walls = {row.entry.whole for row in group.rows if row.entry.wall_s and not row.entry.published}
    if walls:
        both, alone = "wall: prefill and decoding together", "of decoding alone where no prefill is known"
        notes.append(
            f"{both}, {alone}" if walls == {True, False} else both if True in walls else f"wall: {alone}"
        )
    if any(row.why == "emulated" for row in group.rows):
        notes.append(
            "emulated: weights decoded anew at each step; its time says nothing of the format, so no speedup"
        )
    if any(not row.entry.problem and not row.entry.mode for row in group.rows):
        notes.append(
            "mode not stated: native, weight-only or emulated kernels may have run under the recipe's name"
        )
    header = ("GPU", "recipe", "mode", "backend", *shown)
    return Grid(f"{group.model}  {group.workload}", header, tuple(rows), (*notes, *_listed(used)), LEFT)


def accuracy_grid(comparison: Comparison, group: AccuracyGroup, reasons: Reasons) -> Grid:
    """Accuracy with its 95% interval, and the difference from the baseline with interval and p."""
    used: dict[int, str] = {}
    header = (
        "GPU",
        "recipe",
        "mode",
        "right",
        "accuracy % [95%]",
        "points [95%]",
        "lost / gained",
        "p",
        "test",
    )
    rows: list[tuple[str, ...]] = []
    for gpu in dict.fromkeys([*group.gpus, *(entry.gpu for entry in missing(comparison, group))]):
        lines = [_accuracy_cells(row, comparison.baseline) for row in group.rows if row.gpu == gpu]
        for entry in missing(comparison, group):
            if entry.gpu == gpu and entry.problem:
                lines.append((entry.recipe, entry.mode, reasons.cell(entry.problem, used), *[""] * 5))
        rows += [(gpu if not index else "", *line) for index, line in enumerate(lines)]
    notes = [f"points: percentage points against {comparison.baseline} on the same GPU; 95% intervals"]
    against = [row.versus for row in group.rows if row.versus]
    if any(versus.is_paired for versus in against):
        notes.append(
            "McNemar: exact, problem by problem; lost / gained: solved by the baseline / the recipe alone"
        )
    if counts := [versus for versus in against if not versus.is_paired]:
        clear = sum(versus.p < SIGNIFICANT for versus in counts)
        notes.append(
            f"Fisher: of counts alone, for the answers to each problem are not known; {clear} of {len(counts)} "
            f"differences significant at {SIGNIFICANT:g}"
        )
    title = f"{group.model}  {group.task}{' (published)' if group.published else ''}, {group.of} problems"
    return Grid(title, header, tuple(rows), (*notes, *_listed(used)), LEFT)


def missing(comparison: Comparison, group: AccuracyGroup) -> list[Entry]:
    """Recipes that could not run, so that they have no accuracy: said, not left out."""
    there = {(row.gpu, row.recipe) for row in group.rows}
    entries = [row.entry for each in comparison.groups if each.model == group.model for row in each.rows]
    found: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        if entry.problem and entry.published == group.published and (entry.gpu, entry.recipe) not in there:
            found.setdefault((entry.gpu, entry.recipe), entry)
    return list(found.values())


def grids(comparison: Comparison) -> Iterator[Grid]:
    reasons = Reasons()
    yield from (speed_grid(comparison, group, reasons) for group in comparison.groups)
    yield from (accuracy_grid(comparison, group, reasons) for group in comparison.accuracy)


def points(value: float) -> str:
    return f"{100 * value:+.1f}"


def p_value(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"


FIRST = "first token ms"


def _cell(name: str, digits: int = 3) -> Callable[[Entry], str]:
    def text(entry: Entry) -> str:
        value = getattr(entry, name)
        return "" if value is None else number(value, digits)

    return text


_NUMBERS: dict[str, Callable[[Entry], str]] = {
    "tokens/s": _cell("tokens_per_s", 5),
    "ms/token": _cell("ms_per_token"),
    FIRST: _cell("ttft_ms"),
    "wall s": _cell("wall_s", 4),
    "% roofline": _cell("roofline_percent", 2),
    "peak GiB": _cell("peak_gib"),
    "J/token": _cell("joules_per_token"),
    "tokens": lambda entry: "" if entry.tokens is None else count(entry).replace("about ", "≈"),
}
_ORDER = (
    "tokens/s",
    "× tokens/s",
    "× wall",
    "wall s",
    "ms/token",
    FIRST,
    "% roofline",
    "peak GiB",
    "J/token",
    "tokens",
)


def _speedup(row: Row, name: str) -> str:
    if row.speedup is None:
        return row.why
    value = getattr(row.speedup, name)
    return "" if value is None else f"{value:.2f}×"


def _accuracy_cells(row: AccuracyRow, baseline: str) -> tuple[str, ...]:
    share = f"{100 * row.share:.1f} [{100 * row.low:.1f}–{100 * row.high:.1f}]"
    head = (row.recipe, row.mode or NOT_STATED, f"{row.right}/{row.of}", share)
    versus = row.versus
    if versus is None:
        return (*head, "baseline" if row.recipe == baseline else f"no {baseline}", "", "", "")
    pairs = f"{versus.lost} / {versus.gained}" if versus.is_paired else "-"
    interval = f"{points(versus.difference)} [{points(versus.low)}…{points(versus.high)}]"
    return (*head, interval, pairs, p_value(versus.p), versus.test)


def _listed(used: dict[int, str]) -> list[str]:
    return [f"({number}) {reason}" for number, reason in sorted(used.items())]
