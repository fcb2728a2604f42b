"""Tables for the terminal, as text for whoever writes it. Nothing here looks at the terminal."""

from __future__ import annotations

from io import StringIO

from qbench.report.cells import STATUS, VERDICTS, Footnotes, Grid, legend, matrix_grid, sheet_grid
from qbench.report.sheets import make_sheets
from qbench.report.summary import Summary, summarize
from qbench.result import Run, Verdict

LONG = 400  # rows; more than this is read as matrices, not row by row


def terminal_report(run: Run, *, color: bool = False, long: int = LONG) -> str:
    """Every sheet as a table, the legend, and the summary last, where the eye is when a run ends.

    A run of more than `long` results prints one throughput matrix per sheet instead of its rows.
    """
    footnotes = Footnotes()
    brief = len(run.results) > long
    grids = [
        matrix_grid(sheet, footnotes) if brief else sheet_grid(run, sheet, footnotes)
        for sheet in make_sheets(run.results)
    ]
    parts = [render_grid(grid, color=color) for grid in grids]
    if brief:
        parts.append(
            f"{len(run.results)} results: throughput only; every number is in the --qbench-report folder\n"
        )
    elif run.ceilings and grids:
        parts.append(legend(run) + "\n")
    parts.append(render_summary(summarize(run), color=color))
    return "\n".join(parts)


def render_summary(summary: Summary, *, color: bool = False) -> str:
    """Facts in two columns, then each list under its heading."""
    width = max((len(name) for name, _ in summary.facts), default=0)
    lines = [f"{name:<{width}}  {text}" for name, text in summary.facts]
    for heading, entries in summary.lists:
        lines += ["", _styled(heading, "bold red" if heading[:5] in ("SLOWE", "WRONG") else "bold", color)]
        lines += [f"  {entry}" for entry in entries]
    return "\n".join(lines) + "\n"


def render_grid(grid: Grid, *, color: bool = False) -> str:
    """A grid as wide as its content: a cut number is worse than a line that wraps."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    lines = [_styled(grid.title, "bold", color) + "\n"]
    if grid.rows:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for name in grid.header:
            table.add_column(Text(name), justify="left" if name in grid.left else "right", no_wrap=True)
        for row in grid.rows:
            table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
        lines.append(_print(table, color))
    return "".join(lines) + "".join(f"{note}\n" for note in grid.notes)


def _style(cell: str) -> str:
    word = cell.split(" (")[0]
    if word in (VERDICTS[Verdict.SLOWER], STATUS["wrong"], STATUS["error"]):
        return "bold red"
    return {VERDICTS[Verdict.FASTER]: "green", VERDICTS[Verdict.INCONCLUSIVE]: "yellow"}.get(word, "")


def _styled(text: str, style: str, color: bool) -> str:
    if not color:
        return text
    from rich.text import Text

    return _print(Text(text, style=style, end=""), color)


def _print(what: object, color: bool) -> str:
    from rich.console import Console

    out = StringIO()
    console = Console(
        file=out,
        width=100_000,  # nothing wraps; tables take their natural width
        color_system="standard" if color else None,
        force_terminal=color,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
    console.print(what, end="")
    return "\n".join(line.rstrip() for line in out.getvalue().split("\n"))
