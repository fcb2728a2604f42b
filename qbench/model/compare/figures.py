"""The comparison drawn: throughput, accuracy, and both on one page, each 1200 pixels wide.

Both speedups stand side by side. Whiskers are the p20–p80 of the times and the 95% intervals of accuracies and of their
differences. The axes start at zero: a published plot of accuracies started at 84%, so that a drop of 1.7 points took
more than a third of the bar.
"""

from __future__ import annotations

import textwrap
import warnings as python_warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from qbench.model.compare.accuracy import AccuracyGroup, AccuracyRow
from qbench.model.compare.bars import HATCHES, INK, MODE_NAMES, Bar, colors, draw_bars
from qbench.model.compare.entries import Entry
from qbench.model.compare.join import Comparison, Group, Row
from qbench.model.compare.tables import missing, p_value, points
from qbench.report.cells import STATUS, number
from qbench.report.figure import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES, DPI = 10.0, 120  # 1200 pixels
PANEL, LINE = 3.6, 0.155  # inches: height of a panel, of a line of small print
_LETTERS = 165  # of small print on a line
_WARN = "#B00020"
Panel = Callable[["Axes"], None]


def throughput_png(comparison: Comparison, group: Group) -> bytes:
    """Tokens/s with rooflines beside both speedups."""
    panels = [_tokens_panel(comparison, group), _speedup_panel(comparison, group)]
    bars = [*tokens_bars(group), *speedup_bars(comparison, group)]
    return _page(comparison, f"{group.model}\n{group.workload}", panels, bars, _problems(group))


def accuracy_png(comparison: Comparison, group: AccuracyGroup) -> bytes:
    """Accuracies beside their differences from the baseline."""
    panels = [_accuracy_panel(comparison, group), _difference_panel(comparison, group)]
    title = f"{group.model}\n{_task(group)}"
    return _page(comparison, title, panels, accuracy_bars(comparison, group), missing(comparison, group))


def combined_png(comparison: Comparison, group: Group, accuracy: AccuracyGroup) -> bytes:
    """Four panels: tokens/s, both speedups, accuracy, difference."""
    panels = [
        _tokens_panel(comparison, group),
        _speedup_panel(comparison, group),
        _accuracy_panel(comparison, accuracy),
        _difference_panel(comparison, accuracy),
    ]
    bars = [*tokens_bars(group), *speedup_bars(comparison, group), *accuracy_bars(comparison, accuracy)]
    problems = [*_problems(group), *missing(comparison, accuracy)]
    return _page(comparison, f"{group.model}\n{group.workload}; {_task(accuracy)}", panels, bars, problems)


def tokens_bars(group: Group) -> list[Bar]:
    bars = []
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
                tick=entry.roofline,
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
    return sorted([*bars, *absent], key=lambda bar: gpus.index(bar.gpu))


def _tokens_panel(comparison: Comparison, group: Group) -> Panel:
    def draw(axes: Axes) -> None:
        draw_bars(axes, tokens_bars(group), comparison.recipes)
        spread = ", p20–p80 of the times" if any(row.entry.low for row in group.rows) else ""
        axes.set_title(f"Throughput{spread}", fontsize=10, loc="left")
        axes.set_ylabel("tokens/s")

    return draw


def _speedup_panel(comparison: Comparison, group: Group) -> Panel:
    def draw(axes: Axes) -> None:
        draw_bars(axes, speedup_bars(comparison, group), comparison.recipes)
        axes.axhline(1, color=INK, lw=1.2, ls="--", zorder=3)
        axes.set_ylim(top=max(1.2, axes.get_ylim()[1]))
        axes.set_title(f"Speedup over {plain(comparison.baseline)} (dashed)", fontsize=10, loc="left")
        axes.set_ylabel("times faster")

    return draw


def _accuracy_panel(comparison: Comparison, group: AccuracyGroup) -> Panel:
    def draw(axes: Axes) -> None:
        draw_bars(axes, accuracy_bars(comparison, group), comparison.recipes)
        axes.set_title("Accuracy, 95% interval", fontsize=10, loc="left")
        axes.set_ylabel(f"% of {group.of} problems right")

    return draw


def _difference_panel(comparison: Comparison, group: AccuracyGroup) -> Panel:
    tests = {row.versus.test: row.versus.is_paired for row in group.rows if row.versus}
    how = "; ".join(
        f"{'paired' if is_paired else 'unpaired'}, p of {test}" for test, is_paired in tests.items()
    )

    def draw(axes: Axes) -> None:
        draw_bars(axes, difference_bars(comparison, group), comparison.recipes)
        title = f"Difference from {plain(comparison.baseline)}, 95% interval"
        axes.set_title(f"{title} ({how})" if how else title, fontsize=10, loc="left")
        axes.set_ylabel("percentage points")

    return draw


def _page(
    comparison: Comparison,
    title: str,
    panels: Sequence[Panel],
    bars: Sequence[Bar],
    problems: Sequence[Entry],
) -> bytes:
    """Title and warnings above, two panels a row, legend and reasons below, at a fixed width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    loud = [line for warning in comparison.warnings for line in textwrap.wrap(warning, _LETTERS)]
    quiet = [line for reason in _reasons(problems) for line in textwrap.wrap(reason, _LETTERS)]
    rows, handles = (len(panels) + 1) // 2, _legend(comparison, bars)
    head, foot = 0.55 + LINE * len(loud), 0.4 + 0.2 * (len(handles) > 6) + LINE * len(quiet)
    height = head + PANEL * rows + foot
    figure = Figure(figsize=(INCHES, height), dpi=DPI)
    FigureCanvasAgg(figure)
    with python_warnings.catch_warnings():
        python_warnings.filterwarnings(
            "ignore", message="Glyph"
        )  # a letter that the font lacks is drawn as a box
        grid = figure.add_gridspec(
            rows, 2, left=0.075, right=0.99, top=1 - (head + 0.3) / height, bottom=(foot + 0.5) / height,
            wspace=0.18, hspace=0.36,
        )  # fmt: skip
        for at, panel in enumerate(panels):
            panel(figure.add_subplot(grid[at // 2, at % 2]))
        figure.text(0.01, 1 - 0.08 / height, plain(title), fontsize=11, va="top", linespacing=1.25)
        for at, line in enumerate(loud):
            figure.text(0.01, 1 - (0.55 + LINE * at) / height, plain(line), fontsize=8, va="top", color=_WARN)
        figure.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, foot / height),
            ncols=min(len(handles), 6),
            frameon=False,
            fontsize=8,
            handlelength=1.6,
        )
        for at, line in enumerate(quiet):
            figure.text(
                0.01, (LINE * (len(quiet) - at) + 0.04) / height, plain(line), fontsize=8, va="top", color=INK
            )
        out = BytesIO()
        figure.savefig(out, format="png")
    return out.getvalue()


def _legend(comparison: Comparison, bars: Sequence[Bar]) -> list[object]:
    """Colours of the recipes drawn, hatches of the modes drawn, and what tick, whisker and pale bars are."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    color = colors(comparison.recipes)
    named = {bar.recipe for bar in bars}
    made: list[object] = [Patch(color=color[r], label=plain(r)) for r in comparison.recipes if r in named]
    modes = dict.fromkeys(bar.mode for bar in bars if bar.height is not None)
    for mode in sorted(modes, key=list(MODE_NAMES).index):
        made.append(
            Patch(
                facecolor="#999999", edgecolor="white", lw=0, hatch=HATCHES[mode] * 2, label=MODE_NAMES[mode]
            )
        )
    if any(bar.pale for bar in bars):
        made.append(Patch(facecolor="#666666", label="speedup in tokens/s"))
        made.append(Patch(facecolor="#dddddd", edgecolor="#666666", label="speedup in wall time"))
    if any(bar.tick is not None for bar in bars):
        made.append(Line2D([], [], color="black", lw=2.2, label="roofline, % of it reached"))
    return made


def _problems(group: Group) -> list[Entry]:
    return [row.entry for row in group.rows if row.entry.problem]


def _reasons(problems: Sequence[Entry]) -> list[str]:
    said: dict[str, list[str]] = {}
    for entry in problems:
        if entry.problem:
            code = f"{entry.problem.code}: " if entry.problem.code else ""
            word = STATUS.get(entry.problem.status, entry.problem.status)
            said.setdefault(f"{word}: {code}{entry.problem.reason}", []).append(
                f"{entry.recipe} on {entry.gpu}"
            )
    return [f"{', '.join(dict.fromkeys(where))} {what}" for what, where in said.items()]


def _words(entry: Entry) -> str:
    """What stands where a bar would: `nvfp4 n/a: no-kernel`."""
    if entry.problem is None:
        return f"{entry.recipe} not decoded"
    word = STATUS.get(entry.problem.status, entry.problem.status)
    return f"{entry.recipe} {word}{f': {entry.problem.code}' if entry.problem.code else ''}"


def _no_speedup(row: Row) -> str:
    return f"{row.entry.recipe} {row.why}{': no speedup' if row.why == 'emulated' else ''}"


def _task(group: AccuracyGroup) -> str:
    return f"{group.task}{' (published)' if group.published else ''}, {group.of} problems"
