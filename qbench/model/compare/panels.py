"""What each panel shows, as bars, and its titles. A recipe without a number has words in the place of its bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.model.compare.accuracy import AccuracyGroup, AccuracyRow
from qbench.model.compare.bars import INK, Bar, draw_bars
from qbench.model.compare.entries import Entry
from qbench.model.compare.join import Comparison, Group, Row
from qbench.model.compare.tables import missing, p_value, points
from qbench.report.cells import STATUS, number
from qbench.report.figure import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_FAR = (
    5.0  # a roofline so many times above the tallest bar is told by its percentage alone: bars would be flat
)


@dataclass(frozen=True)
class Panel:
    """Bars with what stands above and beside them; a dashed line at the height of the baseline, if it has one there."""

    bars: Sequence[Bar]
    title: str
    unit: str
    dashed: float | None = None
    ticks: Sequence[float] | None = None

    def draw(self, axes: Axes, recipes: Sequence[str]) -> None:
        draw_bars(axes, self.bars, recipes)
        if self.dashed is not None:
            axes.axhline(self.dashed, color=INK, lw=1.2, ls="--", zorder=3)
            axes.set_ylim(top=max(1.2 * self.dashed, axes.get_ylim()[1]))
        if self.ticks is not None:
            axes.set_yticks(self.ticks)
        axes.set_title(plain(self.title), fontsize=10, loc="left")
        axes.set_ylabel(self.unit, fontsize=9)


def tokens_bars(group: Group) -> list[Bar]:
    bars = []
    top = _FAR * max((row.entry.tokens_per_s or 0.0 for row in group.rows), default=0.0)
    for row in group.rows:
        entry = row.entry
        if entry.problem or entry.tokens_per_s is None:
            bars.append(Bar(entry.gpu, entry.recipe, None, words=_words(entry)))
            continue
        share = f"\n{number(entry.roofline_percent, 2)}%" if entry.roofline_percent else ""
        bars.append(
            Bar(
                entry.gpu,
                entry.recipe,
                entry.tokens_per_s,
                f"{number(entry.tokens_per_s)}{share}",
                mode=entry.mode,
                low=entry.low,
                high=entry.high,
                tick=entry.roofline if entry.roofline and entry.roofline < top else None,
            )
        )
    return bars


def speedup_bars(comparison: Comparison, group: Group) -> list[Bar]:
    """Two bars a recipe, tokens/s and wall time; words where there is no speedup. The baseline is the line at 1."""
    bars = []
    for row in group.rows:
        entry = row.entry
        if entry.recipe == comparison.baseline and entry.problem is None:
            continue
        if row.speedup is None:
            words = _words(entry) if entry.problem or entry.tokens_per_s is None else _no_speedup(row)
            bars.append(Bar(entry.gpu, entry.recipe, None, words=words))
            continue
        for value, pale in ((row.speedup.tokens_per_s, False), (row.speedup.wall, True)):
            if value is None:
                bars.append(Bar(entry.gpu, entry.recipe, None, words="no wall time"))
            else:
                bars.append(Bar(entry.gpu, entry.recipe, value, f"{value:.2f}×", mode=entry.mode, pale=pale))
    return bars


def accuracy_bars(comparison: Comparison, group: AccuracyGroup) -> list[Bar]:
    def bar(row: AccuracyRow) -> Bar:
        low, high = 100 * row.low, 100 * row.high
        return Bar(
            row.gpu, row.recipe, 100 * row.share, f"{100 * row.share:.1f}", mode=row.mode, low=low, high=high
        )

    return _with_missing(comparison, group, [bar(row) for row in group.rows])


def difference_bars(comparison: Comparison, group: AccuracyGroup) -> list[Bar]:
    bars = []
    for row in group.rows:
        if row.recipe == comparison.baseline:
            continue
        if row.versus is None:
            bars.append(Bar(row.gpu, row.recipe, None, words=f"no {comparison.baseline}"))
            continue
        versus = row.versus
        label = f"{points(versus.difference)}\np {p_value(versus.p)}"
        low, high = 100 * versus.low, 100 * versus.high
        bars.append(
            Bar(row.gpu, row.recipe, 100 * versus.difference, label, mode=row.mode, low=low, high=high)
        )
    return _with_missing(comparison, group, bars)


def _with_missing(comparison: Comparison, group: AccuracyGroup, bars: list[Bar]) -> list[Bar]:
    """Beside its GPU's bars, a place for each recipe that could not run."""
    absent = [Bar(entry.gpu, entry.recipe, None, words=_words(entry)) for entry in missing(comparison, group)]
    gpus = list(dict.fromkeys(bar.gpu for bar in (*bars, *absent)))
    order = comparison.recipes
    return sorted([*bars, *absent], key=lambda bar: (gpus.index(bar.gpu), order.index(bar.recipe)))


def tokens_panel(group: Group) -> Panel:
    spread = ", p20–p80 of the times" if any(row.entry.low for row in group.rows) else ""
    share = ", % of roofline" if any(row.entry.roofline for row in group.rows) else ""
    return Panel(tokens_bars(group), f"Throughput{spread}{share}", "tokens/s")


def speedup_panel(comparison: Comparison, group: Group) -> Panel:
    title = f"Speedup over {comparison.baseline} (dashed)"
    return Panel(speedup_bars(comparison, group), title, "times faster", dashed=1.0)


def accuracy_panel(comparison: Comparison, group: AccuracyGroup) -> Panel:
    unit, ticks = f"% of {group.of} problems right", range(0, 101, 20)  # room for numbers is no accuracy
    return Panel(accuracy_bars(comparison, group), "Accuracy, 95% interval", unit, ticks=ticks)


def difference_panel(comparison: Comparison, group: AccuracyGroup) -> Panel:
    tests = {row.versus.test: row.versus.is_paired for row in group.rows if row.versus}
    how = "; ".join(f"{'paired' if pairs else 'unpaired'}, p of {test}" for test, pairs in tests.items())
    title = f"Difference from {comparison.baseline}, 95% interval"
    return Panel(
        difference_bars(comparison, group), f"{title} ({how})" if how else title, "percentage points"
    )


def _words(entry: Entry) -> str:
    """What stands where a bar would: `nvfp4 n/a: no-kernel`."""
    if entry.problem is None:
        return f"{entry.recipe} not decoded"
    word = STATUS.get(entry.problem.status, entry.problem.status)
    return f"{entry.recipe} {word}{f': {entry.problem.code}' if entry.problem.code else ''}"


def _no_speedup(row: Row) -> str:
    return f"{row.entry.recipe} {row.why}{': no speedup' if row.why == 'emulated' else ''}"
