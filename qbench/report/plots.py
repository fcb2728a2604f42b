"""Plots of throughput against batch size, one PNG per sheet, under names that cannot collide."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from qbench.report.cells import rate_of
from qbench.report.figure import plot_png
from qbench.report.sheets import Sheet, make_sheets
from qbench.result import Run, write_atomic


def have_matplotlib() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def write_plots(directory: Path, run: Run) -> tuple[list[Path], str]:
    """Write one PNG per sheet that has a time. Returns the paths, and a line to say when there are none."""
    sheets = [sheet for sheet in make_sheets(run.results) if any(rate_of(sheet)[1](r) for r in sheet.results)]
    if not sheets:
        return [], "no plots: nothing was timed"
    if not have_matplotlib():
        return [], "no plots: matplotlib is not installed; pip install 'pytest-qbench[plots]'"
    paths = [directory / name for name in plot_names(sheets)]
    for path, sheet in zip(paths, sheets, strict=True):
        write_atomic(path, plot_png(run, sheet))
    return paths, ""


def plot_names(sheets: Sequence[Sheet]) -> list[str]:
    """File names from op and all fixed axes, e.g. `nvfp4_hadamard_gemm_n8192_k8192_had16.png`.

    Distinct for distinct sheets, on file systems that ignore case as well: what would collide gets a digest.
    """
    stems = [_stem(sheet) for sheet in sheets]
    folded = [stem.casefold() for stem in stems]
    names = [
        f"{stem}.png" if folded.count(low) == 1 else f"{stem}_{_digest(sheet)}.png"
        for sheet, stem, low in zip(sheets, stems, folded, strict=True)
    ]
    assert len({name.casefold() for name in names}) == len(names), (
        f"two plots share a file name: {sorted(names)}"
    )
    return names


def _stem(sheet: Sheet) -> str:
    parts = [sheet.op, *(f"{name}{value}" for name, value in sheet.fixed)]
    if sheet.x != "m":
        parts.append(f"by_{sheet.x}" if sheet.x else "case")
    return "_".join(re.sub(r"[^A-Za-z0-9.+_-]", "-", part) for part in parts)[:180]


def _digest(sheet: Sheet) -> str:
    return hashlib.sha256(repr((sheet.op, sheet.fixed, sheet.x, sheet.reference)).encode()).hexdigest()[:12]
