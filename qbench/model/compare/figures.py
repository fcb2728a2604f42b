"""The comparison drawn: throughput, accuracy, and both on one page, each 1200 pixels wide.

Both speedups stand side by side. Whiskers are the p20–p80 of the times and the 95% intervals of accuracies and of their
differences. The axes start at zero: a published plot of accuracies started at 84%, so that a drop of 1.7 points took
more than a third of the bar.
"""

from __future__ import annotations

import textwrap
import warnings as python_warnings
from collections.abc import Sequence
from io import BytesIO

from qbench.model.compare.accuracy import AccuracyGroup
from qbench.model.compare.bars import HATCHES, INK, MODE_NAMES, Bar, colors
from qbench.model.compare.entries import Entry
from qbench.model.compare.join import Comparison, Group
from qbench.model.compare.panels import (
    Panel,
    accuracy_bars,
    accuracy_panel,
    difference_panel,
    speedup_bars,
    speedup_panel,
    tokens_bars,
    tokens_panel,
)
from qbench.model.compare.tables import missing
from qbench.report.cells import STATUS
from qbench.report.figure import plain

INCHES, DPI = 10.0, 120  # 1200 pixels
PANEL, LINE = 3.6, 0.155  # inches: height of a panel, of a line of small print
_LETTERS = 165  # of small print on a line
_WARN = "#B00020"


def throughput_png(comparison: Comparison, group: Group) -> bytes:
    """Tokens/s with rooflines beside both speedups."""
    panels = [tokens_panel(comparison, group), speedup_panel(comparison, group)]
    bars = [*tokens_bars(group), *speedup_bars(comparison, group)]
    return _page(comparison, f"{group.model}\n{group.workload}", panels, bars, _problems(group))


def accuracy_png(comparison: Comparison, group: AccuracyGroup) -> bytes:
    """Accuracies beside their differences from the baseline."""
    panels = [accuracy_panel(comparison, group), difference_panel(comparison, group)]
    title = f"{group.model}\n{_task(group)}"
    return _page(comparison, title, panels, accuracy_bars(comparison, group), missing(comparison, group))


def combined_png(comparison: Comparison, group: Group, accuracy: AccuracyGroup) -> bytes:
    """Four panels: tokens/s, both speedups, accuracy, difference."""
    panels = [
        tokens_panel(comparison, group),
        speedup_panel(comparison, group),
        accuracy_panel(comparison, accuracy),
        difference_panel(comparison, accuracy),
    ]
    bars = [*tokens_bars(group), *speedup_bars(comparison, group), *accuracy_bars(comparison, accuracy)]
    problems = [*_problems(group), *missing(comparison, accuracy)]
    return _page(comparison, f"{group.model}\n{group.workload}; {_task(accuracy)}", panels, bars, problems)


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


def _task(group: AccuracyGroup) -> str:
    return f"{group.task}{' (published)' if group.published else ''}, {group.of} problems"
