"""The gate measured on this machine: the tree against itself, unchanged and with known extra work put in.

Extra work is a spin of known length beside the kernel (`worker.inject`), given to a tenth of the cases at a time; the
others stay as they are, so that every gate also counts false alarms.
"""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

from qbench.gate.command import Wish, compare
from qbench.gate.policy import read_settings
from qbench.gate.result import FAILING, Gate, GateVerdict
from qbench.gate.run import Say
from qbench.gate.side import Side

EFFECTS = (0.01, 0.02, 0.03, 0.05, 0.10)
_LEAST_EXTRA_NS = 1000.0  # a shorter spin is mostly its own launch


def self_test(root: Path, wish: Wish, gates: int, say: Say) -> bool:
    """`gates` unchanged gates, then half as many (rounded up) for each of EFFECTS. True when no unchanged case was
    called slower and every case was found whose stated detectable effect the injected one exceeds.
    """
    settings = read_settings(root)
    args = wish.pytest_args or settings.tests

    def gate(seed: int, inject_ns: dict[str, float]) -> Gate:
        quiet = dataclasses.replace(wish, seed=seed)
        base, candidate = (Side(name, root, args, settings.paths) for name in ("base", "candidate"))
        return compare(base, candidate, settings, quiet, lambda words: None, inject_ns=inject_ns)

    unchanged = [gate(seed, {}) for seed in range(gates)]
    alarms = sum(
        each.shift.confirmed + sum(row.verdict in FAILING for row in each.rows) for each in unchanged
    )
    say(f"unchanged: {gates} gates of {len(unchanged[0].rows)} cases, {alarms} false alarms; "
        f"{_cost(unchanged)}")  # fmt: skip
    base_ns = {row.case: row.base_ns for row in unchanged[0].rows if row.base_ns}
    good = alarms == 0
    for effect in EFFECTS:
        long = sorted(case for case, ns in base_ns.items() if effect * ns >= _LEAST_EXTRA_NS)
        if not long:
            say(f"{effect:+.0%}: no case is long enough to be made slower by as little")
            continue
        done, found, due, due_found, false = [], 0, 0, 0, 0
        for number in range((gates + 1) // 2):
            slowed = random.Random(f"{effect}/{number}").sample(
                long, max(1, min(len(long), len(base_ns) // 10))
            )
            result = gate(100 + number, {case: effect * base_ns[case] for case in slowed})
            done.append(result)
            false += result.shift.confirmed
            for row in result.rows:
                hit = row.verdict is GateVerdict.SLOWER
                if row.case not in slowed:
                    false += row.verdict in FAILING
                    continue
                found += hit
                if row.detectable and row.detectable <= effect:
                    due, due_found = due + 1, due_found + hit
        total = sum(max(1, min(len(long), len(base_ns) // 10)) for _ in done)
        say(f"{effect:+.0%}: {len(done)} gates, found {found} of {total} slowed cases ({due_found} of {due} whose "
            f"stated effect is no more), {false} false alarms; {_cost(done)}")  # fmt: skip
        good = good and false == 0 and due_found == due
    return good


def _cost(gates: list[Gate]) -> str:
    runs, seconds = (
        sum(values) / len(gates) for values in ([g.suite_runs for g in gates], [g.seconds for g in gates])
    )
    return f"{runs:.1f} suite runs, {seconds:.0f} s each"
