"""A gate in words: what the terminal shows, and the pieces that other reports are made of."""

from __future__ import annotations

import math
import shlex

from qbench.gate.result import FAILING, Gate, GateVerdict, Row, Shift

_LINES = 200  # rows on the terminal
_AGAIN = 5  # cases in the command that tries them again


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


def card_notes(rows: list[Row], shift: Shift) -> list[str]:
    """What the card, and the suite as a whole, leave to be said."""
    found = []
    runs = sum(row.pairs for row in rows)
    a, b = (sum(row.throttled[side] for row in rows) for side in (0, 1))
    aside = sum(row.set_aside for row in rows)
    if a or b or aside:
        found.append(f"the device throttled (a CPU: was taken away) in {a} runs of the base and {b} of the candidate, "
                     f"of {runs} each; {aside} pairs in which only the slower side did were taken again")  # fmt: skip
    flaky = [row for row in rows if row.flaky != (0, 0)]
    if flaky:
        found.append(f"{len(flaky)} cases failed in one process and not in the next, such as {flaky[0].case}")
    if shift.note:
        found.append(f"the suite as a whole looks {math.expm1(shift.log_ratio):+.2%} slower, {shift.note}")
    return found


def line(row: Row) -> str:
    """One case on one line."""
    reason = clip(row.reason, 500)
    if row.ratio is None:
        return f"{row.verdict.value:<12} {row.case}: {reason}"
    assert row.base_ns and row.candidate_ns and row.low and row.high and row.detectable
    return (
        f"{row.verdict.value:<12} {row.case}: {row.ratio - 1:+.2%} ({row.low - 1:+.2%} .. {row.high - 1:+.2%}), "
        f"{row.base_ns / 1e3:.2f} -> {row.candidate_ns / 1e3:.2f} µs, {row.pairs} pairs, "
        f"{_clocks(row)}finds {row.detectable:.1%}; {reason}"
    )


def _clocks(row: Row) -> str:
    return f"SM {row.clocks_mhz[0]}/{row.clocks_mhz[1]} MHz, " if any(row.clocks_mhz) else ""


def clip(words: str, most: int) -> str:
    """On one line, and no longer than that."""
    joined = " ".join(words.split())
    return joined if len(joined) <= most else joined[: most - 1] + "…"


def shown(gate: Gate) -> list[Row]:
    return [
        row for row in in_order(gate.rows) if row.verdict not in (GateVerdict.SAME, GateVerdict.UNSUPPORTED)
    ]


def text(gate: Gate) -> str:
    """The terminal's report: what failed or is open, then the sums."""
    listed = shown(gate)
    lines = [line(row) for row in listed[:_LINES]]
    lines += (
        [f"... and {len(listed) - _LINES} more; all are in gate.json (--report)"]
        if len(listed) > _LINES
        else []
    )
    lines += [""] if lines else []
    lines += [
        f"{headline(gate)}: {counts(gate)}",
        f"base      {gate.base}",
        f"candidate {gate.candidate}",
        f"device    {gate.device.name} ({gate.device.key})",
        f"suite     {suite_words(gate)}",
        f"cost      {gate.suite_runs:.1f} suite runs, {gate.seconds:.0f} s",
        *(f"power     {words}" for words in power_words(gate)),
        *(f"note      {words}" for words in gate.notes),
    ]
    if command := again(gate):
        lines.append(f"again     {command}")
    return "\n".join(lines) + "\n"


def again(gate: Gate) -> str:
    """The command that looks at what failed, or is open, once more; "" where all is decided and well."""
    for verdicts in ((GateVerdict.BROKEN, GateVerdict.SLOWER), (GateVerdict.INCONCLUSIVE,)):
        cases = [row.case for row in in_order(gate.rows) if row.verdict in verdicts]
        if cases:
            words = [word for case in cases[:_AGAIN] for word in ("--case", case)]
            rest = ["--", *gate.pytest_args] if gate.pytest_args else []
            return f"{gate.command} {shlex.join([*words, *rest])}"
    return ""


def suite_words(gate: Gate) -> str:
    found = f"{math.expm1(gate.shift.log_ratio):+.2%} at the median of all cases"
    return found + (", confirmed: slower as a whole" if gate.shift.confirmed else "")


def power_words(gate: Gate) -> list[str]:
    values = sorted(row.detectable for row in gate.rows if row.detectable)
    if not values:
        return []
    worst = max((row for row in gate.rows if row.detectable), key=lambda row: row.detectable or 0.0)
    return [f"a slowdown of {values[len(values) // 2]:.1%} is found in half of the cases, of "
            f"{values[int(0.9 * (len(values) - 1))]:.1%} in 90%; worst {values[-1]:.1%} ({worst.case}); "
            f"chance of any false alarm {gate.policy['alpha']:.0e}"]  # fmt: skip
