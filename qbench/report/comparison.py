"""A comparison of two runs as text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from qbench.compare import Comparison, Pair
from qbench.report.cells import Grid, first_line, microseconds
from qbench.report.table import render_grid


def comparison_text(found: Comparison, a: str, b: str) -> str:
    """Warnings before and after the table of ratios, and the cases that only one file has."""
    rows = []
    for pair in found.pairs:
        sides = [microseconds(r.times.median_ns) if r.times else r.status for r in (pair.a, pair.b)]
        rows.append((pair.case, *sides, f"{pair.ratio:.3f}×" if pair.ratio is not None else "-"))
    loud = [f"!! {warning}" for warning in found.warnings]
    alone = [
        f"only in {name}: {case}" for name, cases in ((a, found.only_a), (b, found.only_b)) for case in cases
    ]
    header = ("case", "a µs", "b µs", "b / a")
    grid = Grid(f"a = {a}\nb = {b}\n", header, tuple(rows), (*alone, *loud), frozenset({"case"}))
    return "".join(f"{line}\n" for line in loud) + render_grid(grid)


def failures_text(
    slower: Sequence[Pair], broken: Sequence[Pair], missing: Sequence[str], fail_over: float
) -> str:
    """What `--fail-over` found, by name."""
    lines = [
        f"{len(slower)} slower by more than {fail_over:.1%}, {len(broken)} no longer right, {len(missing)} missing"
    ]
    lines += [f"  {pair.case}: {pair.ratio:.3f}×" for pair in slower]
    lines += [f"  {pair.case}: {pair.b.status}: {first_line(pair.b.reason)}" for pair in broken]
    lines += [f"  {case}: missing" for case in missing]
    return "\n" + "\n".join(lines) + "\n"
