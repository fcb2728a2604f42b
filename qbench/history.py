"""Stored runs as flat rows, for change-point tools and spreadsheets, and as a plot of a case over time."""

from __future__ import annotations

import csv
import fnmatch
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import msgspec

from qbench.baseline import REMEDY, SCHEMA, File, stored_files
from qbench.result import DataError, read_json

COLUMNS = (
    "at",
    "device",
    "op",
    "case",
    "session",
    "median_ns",
    "p20_ns",
    "p80_ns",
    "clock_mhz",
    "torch",
    "triton",
    "driver",
)
Row = dict[str, str | float]


def history(root: Path, pattern: str = "*") -> list[Row]:
    """One row a run of each case whose id matches, oldest first. Raises DataError for a file that cannot be read."""
    rows: list[Row] = []
    literal = pattern.replace("[", "[[]")
    for path in stored_files(root):
        file = read_json(path, File, REMEDY)
        if file.schema != SCHEMA:
            raise DataError(f"{path}: schema {file.schema}, this version reads {SCHEMA}; {REMEDY}")
        for case, records in file.cases.items():
            if not fnmatch.fnmatchcase(case, literal):
                continue
            for record in records:
                session = file.sessions.get(record.session)
                if session is None:
                    raise DataError(
                        f"{path}: cases[{case!r}] names unknown session {record.session!r}; {REMEDY}"
                    )
                rows.append({
                    "at": session.at, "device": file.device.key, "op": file.op, "case": case, "session": record.session,
                    "median_ns": record.median_ns, "p20_ns": record.p20_ns, "p80_ns": record.p80_ns,
                    "clock_mhz": record.clock_mhz,
                    **{name: session.versions.get(name, "") for name in ("torch", "triton", "driver")},
                })  # fmt: skip
                _moment(session.at, path)
    return sorted(rows, key=lambda row: (_moment(str(row["at"])), str(row["case"])))


def _moment(at: str, path: Path | None = None) -> datetime:
    """In UTC, without saying so, as numpy wants it."""
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        raise DataError(f"{path}: a session's time is {at!r}, which is no ISO 8601; {REMEDY}") from None
    return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found


def write_rows(rows: list[Row], form: str, out: IO[str]) -> None:
    """CSV with a header, or one JSON object a line."""
    if form == "jsonl":
        for row in rows:
            out.write(msgspec.json.encode(row).decode() + "\n")
        return
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def plot(rows: list[Row], path: Path, most: int = 12) -> None:
    """Medians over time, each relative to its case's first. Raises ValueError for more than `most` cases, ImportError
    without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("a plot needs matplotlib: pip install 'pytest-qbench[plots]'") from None
    import numpy as np

    cases = sorted({f"{row['device']} {row['case']}" for row in rows})
    if len(cases) > most:
        raise ValueError(f"{len(cases)} cases match, a plot holds {most}; narrow --case")
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for case in cases:
        mine = [row for row in rows if f"{row['device']} {row['case']}" == case]
        first = float(mine[0]["median_ns"])
        days = np.array([_moment(str(row["at"])) for row in mine], dtype="datetime64[s]")
        axis.plot(days, [float(row["median_ns"]) / first for row in mine],
                  marker="o", markersize=3, linewidth=1, label=f"{case} ({first / 1e3:.1f} µs)")  # fmt: skip
    axis.set_ylabel("median time, first run = 1")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
