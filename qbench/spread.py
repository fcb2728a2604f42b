"""How much a case's time moves from process to process, read off stored baselines.

This is the noise that a verdict has to see through. Within one process samples are not independent and say
nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from qbench.baseline import File
from qbench.stats import quantile, variance


def spreads(files: Iterable[File], least_runs: int) -> dict[str, float]:
    """Coefficient of variation of each case's medians over its runs; cases of fewer runs are left out."""
    return {
        case: math.sqrt(variance([math.log(record.median_ns) for record in records]))
        for file in files
        for case, records in file.cases.items()
        if len(records) >= least_runs
    }


def spread_lines(found: dict[str, float], worst: int = 5) -> list[str]:
    """Quantiles over the cases, then the worst ones by name."""
    if not found:
        return ["no case has enough runs; record more with --qbench-update, one process each"]
    values = list(found.values())
    marks = (("min", 0.0), ("25%", 0.25), ("median", 0.5), ("75%", 0.75), ("90%", 0.9), ("max", 1.0))
    figures = "  ".join(f"{name} {quantile(values, q):.2%}" for name, q in marks)
    lines = [f"run-to-run standard deviation of {len(found)} cases: {figures}"]
    ranked = sorted(found, key=lambda case: -found[case])[:worst]
    return [*lines, *(f"  {found[case]:.2%}  {case}" for case in ranked)]
