"""Everything about a run, into one folder. Each file is written whole or not at all."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from qbench.report.markdown import markdown_report
from qbench.report.plots import write_plots
from qbench.result import Result, Run, write_atomic, write_run


@dataclass(frozen=True)
class Written:
    """The files of a report, and what has to be said about those that are missing."""

    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def write_report(directory: Path, run: Run) -> Written:
    """Write results.json, results.csv, report.md and plots/*.png; other files there are left alone.

    results.json comes first: it alone is enough to make the others again.
    """
    files = [directory / name for name in ("results.json", "results.csv", "report.md")]
    write_run(files[0], run)
    write_atomic(files[1], results_csv(run).encode())
    write_atomic(files[2], markdown_report(run).encode())
    plots, note = write_plots(directory / "plots", run)
    return Written((*files, *plots), (note,) if note else ())


def results_csv(run: Run) -> str:
    """One flat row per result; an axis, figure or label that a result lacks is empty."""
    axes = _names(result.axes for result in run.results)
    figures = _names(result.figures for result in run.results)
    labels = _names(result.labels for result in run.results)
    out = StringIO()
    rows = [_row(run, result, axes, figures, labels) for result in run.results]
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue()


def _names(each: Iterable[Mapping[str, object]]) -> list[str]:
    """Every name once, in the order they come."""
    return list(dict.fromkeys(name for facts in each for name in facts))


def _row(
    run: Run, result: Result, axes: list[str], figures: list[str], labels: list[str]
) -> dict[str, object]:
    times, judged = result.times, result.judgement
    return {
        "at": run.at,
        "device": run.device.key,
        "case": result.case,
        "op": result.op,
        "provider": result.provider,
        **{f"axis_{name}": result.axes.get(name) for name in axes},
        "status": result.status,
        "reason": result.reason,
        "bytes": result.bytes,
        "flops": result.flops,
        "elements": result.elements,
        "median_ns": times and times.median_ns,
        "p20_ns": times and times.p20_ns,
        "p80_ns": times and times.p80_ns,
        "tflops": result.tflops,
        "gbps": result.gbps,
        "ns_per_element": result.ns_per_element,
        "percent_of_matmul": run.percent_of_matmul(result),
        "percent_of_memory": run.percent_of_memory(result),
        **{f"figure_{name}": result.figures.get(name) for name in figures},
        **{f"label_{name}": result.labels.get(name) for name in labels},
        "samples": times and times.samples,
        "launches": times and times.launches,
        "copies": times and times.copies,
        "method": times and times.method,
        "cold": times and times.cold,
        "clock_before_mhz": times and times.clock_before_mhz,
        "clock_after_mhz": times and times.clock_after_mhz,
        "throttle": times and " ".join(times.throttle),
        "verdict": judged and judged.verdict.value,
        "verdict_reason": judged and judged.reason,
        "ratio": judged and judged.ratio,
        "ratio_low": judged and judged.low,
        "ratio_high": judged and judged.high,
        "detectable": judged and judged.detectable,
        "baseline_runs": judged and judged.baseline_runs,
        "baseline_ns": judged and judged.baseline_ns,
    }
