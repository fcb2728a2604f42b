"""The report as GitHub Markdown: `report.md`, and the step summary of a workflow.

GitHub drops a step summary of more than 1 MiB entirely, so tables are left out, and counted, before that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from qbench.report.cells import Footnotes, Grid, legend, sheet_grid
from qbench.report.sheets import make_sheets
from qbench.report.summary import Summary, summarize
from qbench.result import Run

LIMIT_BYTES = 1 << 20
_TAIL = 400  # kept free for the sentence that says what was left out


def markdown_report(run: Run, *, limit_bytes: int = LIMIT_BYTES) -> str:
    """Summary first, then each sheet folded away; never more than `limit_bytes` of UTF-8."""
    footnotes = Footnotes()
    grids = [sheet_grid(run, sheet, footnotes) for sheet in make_sheets(run.results)]
    budget = max(0, limit_bytes - _TAIL)
    head, cut = _fit(_head(run, summarize(run)), budget)
    parts, left = [head], budget - len(head.encode())
    shown = 0
    for grid in grids:
        text = _details(grid)
        if cut or len(text.encode()) > left:
            break
        parts.append(text)
        left -= len(text.encode())
        shown += 1
    if cut:
        parts.append(f"\n{cut} lines of this summary left out\n")
    if shown < len(grids):
        parts.append(
            f"\n{len(grids) - shown} of {len(grids)} tables left out: over GitHub's limit of 1 MiB\n"
        )
    text = "".join(parts)
    return text if len(text.encode()) <= limit_bytes else ""


def append_step_summary(path: Path, run: Run) -> bool:
    """Append to a workflow step's summary, the file named by $GITHUB_STEP_SUMMARY; False where it is full."""
    already = path.stat().st_size if path.exists() else 0
    text = markdown_report(run, limit_bytes=LIMIT_BYTES - already)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
    return bool(text)


def grid_markdown(grid: Grid) -> str:
    """A grid as a table with aligned columns, its notes below."""
    lines = []
    if grid.rows:
        lines.append(_row(grid.header))
        lines.append("|" + "|".join(":---" if name in grid.left else "---:" for name in grid.header) + "|")
        lines += [_row(row) for row in grid.rows]
    lines += ["", *(f"{escape(note)}  " for note in grid.notes)] if grid.notes else []
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Plain words inside a table or a paragraph: no markup, no HTML, no new cell, no new line.

    Underscores inside a word and brackets that make no link stay as they are, so that a case can be searched for.
    """
    text = re.sub(r"([\\|*`~])", r"\\\1", escape_html(text))
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    return re.sub(r"\](?=[(\[])", r"\\]", text)


def escape_html(text: str) -> str:
    return " ".join(text.split("\n")).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _head(run: Run, summary: Summary) -> Iterator[str]:
    yield f"## qbench on {escape(run.device.name)}\n\n"
    for name, text in summary.facts:
        yield f"- **{name}**: {escape(text)}\n"
    for heading, entries in summary.lists:
        yield f"\n### {escape(heading)}\n\n"
        for entry in entries:
            yield f"- {escape(entry)}\n"
    if run.ceilings:
        yield f"\n{escape(legend(run))}\n"
    yield "\n"


def _fit(lines: Iterator[str], budget: int) -> tuple[str, int]:
    """As many whole lines as fit, and how many did not."""
    kept: list[str] = []
    cut = 0
    for line in lines:
        budget -= len(line.encode())
        if budget >= 0 and not cut:
            kept.append(line)
        else:
            cut += 1
    return "".join(kept), cut


def _details(grid: Grid) -> str:
    rows = f"{len(grid.rows)} row{'s' * (len(grid.rows) != 1)}"
    return f"<details><summary>{escape_html(grid.title)} ({rows})</summary>\n\n{grid_markdown(grid)}\n</details>\n\n"


def _row(cells: tuple[str, ...]) -> str:
    return "|" + "|".join(escape(cell) for cell in cells) + "|"
