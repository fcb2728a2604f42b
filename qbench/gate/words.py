"""A gate in words: rows from what was measured, the terminal's text, Markdown, annotations and JUnit."""

from __future__ import annotations

import math
import shlex
from xml.etree import ElementTree

import numpy as np

from qbench.gate.policy import Accepted, acceptance
from qbench.gate.result import FAILING, Gate, GateVerdict, Row
from qbench.gate.rule import GatePolicy, detectable
from qbench.gate.run import Track
from qbench.gate.worker import Place
from qbench.result import Device, Times


def make_row(
    track: Track, place: Place | None, device: Device, policy: GatePolicy, accepted: tuple[Accepted, ...]
) -> Row:
    """The row of a decided case; a slowdown within what was accepted says so."""
    assert track.verdict is not None
    if not track.logs:
        return Row(track.case, track.verdict, track.reason, place=place)
    from scipy.stats import t

    logs = np.array(track.logs)
    middle, error = float(np.median(logs)), track.sd * math.sqrt(2 / len(logs))
    reach = float(t.ppf(0.995, track.sd_df)) * error
    verdict, reason = track.verdict, track.reason
    if verdict is GateVerdict.SLOWER and (
        entry := acceptance(track.case, device, math.exp(middle), accepted)
    ):
        verdict, reason = GateVerdict.ACCEPTED, f"accepted up to {entry.up_to:.1%}: {entry.reason}"
    low_clock = _clock_words(track) if verdict is GateVerdict.SLOWER else ""
    return Row(
        case=track.case,
        verdict=verdict,
        reason=reason or low_clock or _reason(verdict, middle, policy),
        ratio=math.exp(middle),
        low=math.exp(middle - reach),
        high=math.exp(middle + reach),
        pairs=len(logs),
        base_ns=_median(track.base),
        candidate_ns=_median(track.candidate),
        sd=track.sd,
        detectable=float(detectable(np.array(track.sd), np.array(track.sd_df), policy)),
        clocks_mhz=(_clock(track.base), _clock(track.candidate)),
        throttled=(_throttled(track.base), _throttled(track.candidate)),
        logs=tuple(round(log, 6) for log in track.logs),
        place=place,
    )


def _reason(verdict: GateVerdict, middle: float, policy: GatePolicy) -> str:
    return {
        GateVerdict.SLOWER: "more than chance explains, in interleaved runs",
        GateVerdict.FASTER: "more than chance explains; record it: python -m qbench record",
        GateVerdict.SAME: f"no slowdown beyond {math.expm1(policy.h0):.1%} and the noise",
    }.get(verdict, f"{math.expm1(middle):+.1%}")


def _clock_words(track: Track) -> str:
    """Interleaved runs share the card's state, so a clock that is lower on one side alone is that side's doing."""
    a, b = _clock(track.base), _clock(track.candidate)
    if not a or not b or b > 0.985 * a:
        return ""
    return f"the SM clock fell to {b} MHz with it ({a} MHz with the base), in interleaved runs: it draws more power"


def _median(times: list[Times]) -> float:
    return float(np.median([each.median_ns for each in times]))


def _clock(times: list[Times]) -> int:
    return int(np.median([each.clock_after_mhz for each in times]))


def _throttled(times: list[Times]) -> int:
    return sum(bool(each.throttle) for each in times)


def in_order(rows: tuple[Row, ...]) -> list[Row]:
    """Worst first: by verdict, then by how much."""
    order = list(GateVerdict)
    return sorted(
        rows, key=lambda row: (order.index(row.verdict), -abs(math.log(row.ratio or 1.0)), row.case)
    )


def counts(gate: Gate) -> str:
    """`12 same, 1 slower` in the verdicts' order."""
    found = {verdict: sum(row.verdict is verdict for row in gate.rows) for verdict in GateVerdict}
    return ", ".join(f"{count} {verdict.value}" for verdict, count in found.items() if count)


def headline(gate: Gate) -> str:
    if not gate.failed:
        return "gate passed"
    return (
        "gate FAILED"
        if any(row.verdict in FAILING for row in gate.rows)
        else "gate FAILED: the suite as a whole"
    )


def line(row: Row) -> str:
    """One case on one line."""
    if row.ratio is None:
        return f"{row.verdict.value:<12} {row.case}: {row.reason}"
    assert row.base_ns and row.candidate_ns and row.low and row.high and row.detectable
    return (
        f"{row.verdict.value:<12} {row.case}: {row.ratio - 1:+.2%} ({row.low - 1:+.2%} .. {row.high - 1:+.2%}), "
        f"{row.base_ns / 1e3:.2f} -> {row.candidate_ns / 1e3:.2f} µs, {row.pairs} pairs, "
        f"SM {row.clocks_mhz[0]}/{row.clocks_mhz[1]} MHz, finds {row.detectable:.1%}; {row.reason}"
    )


def text(gate: Gate) -> str:
    """The terminal's report: what failed or is open, then the sums."""
    shown = [
        row for row in in_order(gate.rows) if row.verdict not in (GateVerdict.SAME, GateVerdict.UNSUPPORTED)
    ]
    lines = [line(row) for row in shown]
    lines += [""] if lines else []
    lines += [
        f"{headline(gate)}: {counts(gate)}",
        f"base      {gate.base}",
        f"candidate {gate.candidate}",
        f"device    {gate.device.name} ({gate.device.key})",
        f"suite     {math.expm1(gate.shift.log_ratio):+.2%} at the median of all cases"
        + (", confirmed: slower as a whole" if gate.shift.confirmed else ""),
        f"cost      {gate.suite_runs:.1f} suite runs, {gate.seconds:.0f} s",
        *_detectable_lines(gate),
    ]
    failing = [row for row in shown if row.verdict in FAILING]
    if failing:
        rest = f" -- {shlex.join(gate.pytest_args)}" if gate.pytest_args else ""
        lines.append(f"again     {gate.command} --case '{failing[0].case}'{rest}")
    return "\n".join(lines) + "\n"


def _detectable_lines(gate: Gate) -> list[str]:
    values = sorted(row.detectable for row in gate.rows if row.detectable)
    if not values:
        return []
    worst = max((row for row in gate.rows if row.detectable), key=lambda row: row.detectable or 0.0)
    return [f"power     a slowdown of {values[len(values) // 2]:.1%} is found in half of the cases, of "
            f"{values[int(0.9 * (len(values) - 1))]:.1%} in 90%; worst {values[-1]:.1%} ({worst.case}); "
            f"chance of any false alarm {gate.policy['alpha']:.0e}"]  # fmt: skip


def markdown(gate: Gate) -> str:
    """A step summary or a comment's body."""
    lines = [f"## {headline(gate)}", "", counts(gate), ""]
    shown = [
        row for row in in_order(gate.rows) if row.verdict not in (GateVerdict.SAME, GateVerdict.UNSUPPORTED)
    ]
    if shown:
        lines += ["| verdict | case | change | 99% interval | µs | pairs | finds | why |",
                  "| --- | --- | ---: | --- | --- | ---: | ---: | --- |"]  # fmt: skip
        lines += [_cells(row) for row in shown[:100]]
        lines += [f"| … | {len(shown) - 100} more in gate.json | | | | | | |"] if len(shown) > 100 else []
        lines.append("")
    lines += [f"- base `{gate.base}`", f"- candidate `{gate.candidate}`", f"- {gate.device.name}, " + ", ".join(
        f"{name} {gate.versions[name]}" for name in ("torch", "triton", "driver") if name in gate.versions),
        f"- suite as a whole {math.expm1(gate.shift.log_ratio):+.2%}; {gate.suite_runs:.1f} suite runs in "
        f"{gate.seconds:.0f} s"]  # fmt: skip
    lines += [f"- {words.split(None, 1)[1]}" for words in _detectable_lines(gate)]
    faster = sum(row.verdict is GateVerdict.FASTER for row in gate.rows)
    if faster:
        lines.append(f"- {faster} cases are faster: after merging, record them (`python -m qbench record`)")
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> str:
    why = row.reason.replace("|", "\\|").replace("\n", " ")[:300]
    if row.ratio is None:
        return f"| {row.verdict.value} | `{row.case}` | | | | | | {why} |"
    assert row.base_ns and row.candidate_ns and row.low and row.high and row.detectable
    return (f"| {row.verdict.value} | `{row.case}` | {row.ratio - 1:+.2%} | "
            f"{row.low - 1:+.2%} … {row.high - 1:+.2%} | {row.base_ns / 1e3:.2f} → {row.candidate_ns / 1e3:.2f} | "
            f"{row.pairs} | {row.detectable:.1%} | {why} |")  # fmt: skip


def marks(gate: Gate) -> list[str]:
    """GitHub workflow commands that mark the tests' lines."""
    found = []
    for row in in_order(gate.rows):
        level = (
            "error"
            if row.verdict in FAILING
            else "warning"
            if row.verdict is GateVerdict.INCONCLUSIVE
            else ""
        )
        if level and row.place:
            message = line(row).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
            found.append(f"::{level} file={row.place.file},line={row.place.line},title=gate::{message}")
    return found


def junit(gate: Gate) -> bytes:
    """JUnit XML: one test a case; failing verdicts are failures, undecided and unmeasured ones are skipped."""
    suite = ElementTree.Element(
        "testsuite", name="qbench gate", tests=str(len(gate.rows)), time=f"{gate.seconds:.1f}"
    )
    suite.set("failures", str(sum(row.verdict in FAILING for row in gate.rows)))
    for row in in_order(gate.rows):
        place = row.place.file if row.place else "gate"
        case = ElementTree.SubElement(suite, "testcase", name=row.case, classname=place)
        if row.verdict in FAILING:
            ElementTree.SubElement(case, "failure", message=_clean(line(row)))
        elif row.verdict not in (GateVerdict.SAME, GateVerdict.FASTER, GateVerdict.NEW, GateVerdict.ACCEPTED):
            ElementTree.SubElement(case, "skipped", message=_clean(line(row)))
    data: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return data


def _clean(words: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(c for c in words if c in "\t\n" or ord(c) >= 32)
