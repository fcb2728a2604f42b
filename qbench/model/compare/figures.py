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
    accuracy_panel,
    difference_panel,
    speedup_panel,
    tokens_panel,
)
from qbench.model.compare.tables import missing
from qbench.report.cells import STATUS
from qbench.report.figure import plain

INCHES, DPI = 10.0, 120  # 1200 pixels
_CROWDED = 20  # bars on one panel; above it panels stand below each other, as wide as the page
PANEL, LINE = 2.65, 0.155  # inches: height of a panel, of a line of small print
_TITLE, _GAP, _NAMES = 0.55, 0.32, 0.58  # inches: the page's title, a panel's, and names of GPUs below it
_KEY, _KEYS = 0.17, 6  # inches: height of a row of the legend; entries in it
_LETTERS = 150  # of small print on a line
_WARN = "#B00020"


def throughput_png(comparison: Comparison, group: Group) -> bytes:
    """Tokens/s with rooflines, and both speedups."""
    title = f"{group.model}\n{group.workload}"
    loud = [*comparison.warnings, *group.disturbed]
    return _page(comparison, title, loud, _speed_panels(comparison, group), _problems(group))


def accuracy_png(comparison: Comparison, group: AccuracyGroup) -> bytes:
    """Accuracies, and their differences from the baseline."""
    title = f"{group.model}\n{_task(group)}"
    panels = _accuracy_panels(comparison, group)
    return _page(comparison, title, comparison.warnings, panels, missing(comparison, group))


def combined_png(comparison: Comparison, group: Group, accuracy: AccuracyGroup) -> bytes:
    """Four panels: tokens/s, both speedups, accuracy, difference."""
    title = f"{group.model}\n{group.workload}; {_task(accuracy)}"
    panels = [*_speed_panels(comparison, group), *_accuracy_panels(comparison, accuracy)]
    loud = [*comparison.warnings, *group.disturbed]
    return _page(comparison, title, loud, panels, [*_problems(group), *missing(comparison, accuracy)])


def _speed_panels(comparison: Comparison, group: Group) -> list[Panel]:
    return [tokens_panel(group), speedup_panel(comparison, group)]


def _accuracy_panels(comparison: Comparison, group: AccuracyGroup) -> list[Panel]:
    return [accuracy_panel(comparison, group), difference_panel(comparison, group)]


def _page(
    comparison: Comparison,
    title: str,
    warnings: Sequence[str],
    panels: Sequence[Panel],
    problems: Sequence[Entry],
) -> bytes:
    """Title and warnings above, one or two panels a row, legend and reasons below, at a fixed width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    loud = [line for warning in warnings for line in textwrap.wrap(warning, _LETTERS)]
    quiet = [line for reason in _reasons(problems) for line in textwrap.wrap(reason, _LETTERS)]
    handles = _legend(comparison, [bar for panel in panels for bar in panel.bars])
    beside = 1 if max(len(panel.bars) for panel in panels) > _CROWDED else 2
    rows = -(-len(panels) // beside)
    # Inches, from the top: title, warnings, panels with their titles and the names of GPUs, legend, reasons.
    top = _TITLE + LINE * len(loud) + _GAP
    bottom = _NAMES + _KEY * -(-len(handles) // _KEYS) + LINE * len(quiet) + 0.15
    height = top + (PANEL + _NAMES + _GAP) * rows - _NAMES - _GAP + bottom
    figure = Figure(figsize=(INCHES, height), dpi=DPI)
    FigureCanvasAgg(figure)
    with python_warnings.catch_warnings():
        python_warnings.filterwarnings("ignore", message="Glyph")  # what the font lacks is drawn as a box
        grid = figure.add_gridspec(
            rows, beside, left=0.075, right=0.99, top=1 - top / height, bottom=bottom / height,
            wspace=0.18, hspace=(_NAMES + _GAP) / PANEL,
        )  # fmt: skip
        for at, panel in enumerate(panels):
            panel.draw(figure.add_subplot(grid[at // beside, at % beside]), comparison.recipes)
        figure.text(0.01, 1 - 0.08 / height, plain(title), fontsize=11, va="top", linespacing=1.25)
        for at, line in enumerate(loud):
            figure.text(
                0.01, 1 - (_TITLE + LINE * at) / height, plain(line), fontsize=8, va="top", color=_WARN
            )
        figure.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, (bottom - _NAMES + 0.05) / height),
            ncols=min(len(handles), _KEYS),
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
        made.append(Line2D([], [], color="black", lw=2.2, label="roofline"))
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
