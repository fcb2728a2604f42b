"""The whole comparison as text: for the terminal, and as a section of a README."""

from __future__ import annotations

from qbench.model.compare.join import Comparison
from qbench.model.compare.tables import grids
from qbench.report.markdown import escape, grid_markdown
from qbench.report.table import render_grid


def comparison_terminal(comparison: Comparison) -> str:
    """Warnings before and after the tables, where they cannot be missed."""
    loud = "".join(f"!! {warning}\n" for warning in comparison.loud)
    tables = "\n".join(render_grid(grid) for grid in grids(comparison))
    notes = "".join(f"{note}\n" for note in comparison.notes)
    return "\n".join(part for part in (loud, tables, notes, loud) if part)


def comparison_markdown(comparison: Comparison, plots: tuple[str, ...] = ()) -> str:
    """A section for a README: warnings, each table under its title, the plots by path, where the numbers are from."""
    parts = ["## Whole models\n"]
    parts += [f"> **{escape(warning)}**\n" for warning in comparison.loud]
    parts += [f"![{_alt(path)}]({path.replace(' ', '%20')})\n" for path in plots]
    for grid in grids(comparison):
        parts += [f"### {escape(grid.title)}\n", grid_markdown(grid)]
    parts += ["".join(f"- {escape(note)}\n" for note in comparison.notes)] if comparison.notes else []
    return "\n".join(parts)


def _alt(path: str) -> str:
    return path.rsplit("/", 1)[-1].removesuffix(".png").replace("_", " ")
