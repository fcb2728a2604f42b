"""A sheet as rows of text, the same for the terminal and for Markdown; how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from qbench.report.sheets import Line, Sheet
from qbench.result import Result, Run, Verdict

VERDICTS = {
    Verdict.SAME: "same",
    Verdict.FASTER: "faster",
    Verdict.SLOWER: "SLOWER",
    Verdict.INCONCLUSIVE: "unclear",
    Verdict.NO_BASELINE: "no baseline",
    Verdict.UNSUPPORTED: "unsupported",
}
STATUS = {"unsupported": "n/a", "wrong": "WRONG", "error": "ERROR"}
LONGEST_REASON = 300
SAID_ELSEWHERE = ("wall_s", "tokens", "roofline_percent")  # figures that µs, the axes and % ceiling repeat
TOLD = ("mode", "backend", "method")  # the labels that stand in tables; results.csv has all


@dataclass(frozen=True)
class Grid:
    """A titled table of text. `left` columns are aligned left, all others right."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    left: frozenset[str] = frozenset()


@dataclass
class Footnotes:
    """Reasons, each numbered once for the whole report."""

    numbers: dict[str, int] = field(default_factory=dict)

    def mark(self, result: Result, used: dict[int, str]) -> str:
        """`n/a (3)`; what (3) stands for is added to `used`."""
        word = STATUS.get(result.status, "no time")
        reason = first_line(result.reason) or "no reason was given"
        number = self.numbers.setdefault(reason, len(self.numbers) + 1)
        used[number] = reason
        return f"{word} ({number})"


def sheet_grid(run: Run, sheet: Sheet, footnotes: Footnotes) -> Grid:
    """One row per x and provider: µs median and [p20–p80], rates, % of the ceiling, speedup, verdict."""
    used: dict[int, str] = {}
    notes, lines = _set_aside(sheet, footnotes, used)
    reference = sheet.line(sheet.reference)
    columns = [
        column for column in _columns(run, sheet, reference) if column.name == "µs" or column.fits(sheet)
    ]
    rows = []
    for x in sheet.xs:
        shown = str(x)
        for line in lines:
            result = line.at(x)
            if result is None:
                continue
            if result.times is None:
                cells = [footnotes.mark(result, used), *[""] * (len(columns) - 1)]
            else:
                cells = [column.cell(result, x) for column in columns]
            rows.append((shown, line.label, *cells))
            shown = ""
    if reference and any(column.name == "speedup" for column in columns):
        notes.append(f"speedup is over {reference.label}")
    notes += _listed(used)
    header = (sheet.x or "case", "provider", *(column.name for column in columns))
    return Grid(
        sheet.title,
        header,
        tuple(rows),
        tuple(notes),
        frozenset({"provider", "verdict", *TOLD, *(() if sheet.numeric else (header[0],))}),
    )


def matrix_grid(sheet: Sheet, footnotes: Footnotes) -> Grid:
    """Throughput alone: a row per provider, a column per batch size (the other way where x is text)."""
    used: dict[int, str] = {}
    notes, lines = _set_aside(sheet, footnotes, used)
    unit, rate = rate_of(sheet)

    def cell(line: Line, x: object) -> str:
        result = next((point.result for point in line.points if point.x == x), None)
        if result is None:
            return "-"
        value = rate(result)
        if value is not None:
            return number(value)
        return "-" if result.times else footnotes.mark(result, used)

    title = f"{sheet.title}  {unit}"
    rows: tuple[tuple[str, ...], ...]
    if sheet.numeric:
        header = (sheet.x, *(str(x) for x in sheet.xs))
        rows = tuple((line.label, *(cell(line, x) for x in sheet.xs)) for line in lines)
    else:
        header = (sheet.x or "case", *(line.label for line in lines))
        rows = tuple((str(x), *(cell(line, x) for line in lines)) for x in sheet.xs) if lines else ()
    return Grid(title, header, rows, (*notes, *_listed(used)), frozenset({header[0]}))


def rate_of(sheet: Sheet) -> tuple[str, Callable[[Result], float | None]]:
    """The sheet's throughput and its unit: TFLOP/s where the operation declares flops, else GB/s."""
    if any(result.flops for result in sheet.results if result.op == sheet.op):
        return "TFLOP/s", lambda result: result.tflops
    return "GB/s", lambda result: result.gbps


def _words(name: str) -> str:
    """`joules_per_token` as a heading: `joules per token`."""
    return name.replace("_", " ")


def percent(run: Run, result: Result) -> str:
    """The larger of both shares of this machine's ceilings: `71% c` (matrix rate) or `88% m` (memory)."""
    value = run.percent_of_ceiling(result)
    if value is None:
        return ""
    return f"{number(value, 2)}% {'c' if value == run.percent_of_matmul(result) else 'm'}"


def legend(run: Run) -> str:
    """What the letters behind the percentages mean; empty when no ceilings were measured."""
    if run.ceilings is None:
        return ""
    ceilings = run.ceilings
    others = [f"; for {name} sums {number(rate)}" for name, rate in ceilings.by_accumulator.items()]
    reads = bool(ceilings.read_gbps and ceilings.read_gbps > ceilings.copy_gbps)
    return (
        f"% ceiling is the larger share of what this machine itself reached: c of its {ceilings.matmul_dtype} "
        f"matmul ({number(ceilings.matmul_tflops)} TFLOP/s{''.join(others)}), "
        f"m of its {'read' if reads else 'copy'} ({number(ceilings.memory_gbps)} GB/s)"
    )


def number(value: float, digits: int = 3) -> str:
    """So many significant digits, never an exponent, at most six decimals."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(6, max(0, decimals))}f}"


def microseconds(ns: float) -> str:
    return number(ns / 1e3, 4)


def first_line(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 1] + "…"


@dataclass(frozen=True)
class _Column:
    name: str
    cell: Callable[[Result, object], str]

    def fits(self, sheet: Sheet) -> bool:
        """Has any result of the sheet something to say here?"""
        return any(p.result.times and self.cell(p.result, p.x) for line in sheet.lines for p in line.points)


def _columns(run: Run, sheet: Sheet, reference: Line | None) -> list[_Column]:
    def optional(value: float | None) -> str:
        return "" if value is None else number(value)

    def interval(result: Result, x: object) -> str:
        times = result.times
        return f"[{microseconds(times.p20_ns)}–{microseconds(times.p80_ns)}]" if times else ""

    def speedup(result: Result, x: object) -> str:
        base = next((p.result.times for p in reference.points if p.x == x), None) if reference else None
        return f"{number(base.median_ns / result.times.median_ns)}×" if base and result.times else ""

    def figure(name: str) -> _Column:
        return _Column(_words(name), lambda result, x: optional(result.figures.get(name)))

    def label(name: str) -> _Column:
        return _Column(_words(name), lambda result, x: result.labels.get(name, ""))

    results = [result for result in sheet.results if result.times]
    figures = dict.fromkeys(
        name for result in results for name in result.figures if name not in SAID_ELSEWHERE
    )
    labels = [name for name in TOLD if any(name in result.labels for result in results)]
    return [
        _Column("µs", lambda result, x: microseconds(result.times.median_ns) if result.times else ""),
        _Column("[p20–p80]", interval),
        _Column("TFLOP/s", lambda result, x: optional(result.tflops)),
        _Column("GB/s", lambda result, x: optional(result.gbps)),
        _Column("ns/element", lambda result, x: "" if result.flops else optional(result.ns_per_element)),
        _Column("% ceiling", lambda result, x: percent(run, result)),
        _Column("speedup", speedup),
        *(figure(name) for name in figures),
        *(label(name) for name in labels),
        _Column("verdict", lambda result, x: VERDICTS[result.judgement.verdict] if result.judgement else ""),
    ]


def _set_aside(sheet: Sheet, footnotes: Footnotes, used: dict[int, str]) -> tuple[list[str], list[Line]]:
    """Providers that run nowhere on the sheet take one note, not a row at every x."""
    absent = [line for line in sheet.lines if all(p.result.status == "unsupported" for p in line.points)]
    lines = [line for line in sheet.lines if line not in absent]
    names = []
    for line in absent:
        marks = dict.fromkeys(
            footnotes.mark(point.result, used).removeprefix("n/a ") for point in line.points
        )
        names.append(f"{line.label} {' '.join(marks)}")
    return ([f"n/a throughout: {', '.join(names)}"] if names else []), lines


def _listed(used: dict[int, str]) -> list[str]:
    return [f"({number}) {reason}" for number, reason in sorted(used.items())]
