"""What a gate found, as stored in gate.json: a row for each case, and what both sides were."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from qbench.gate.protocol import Place
from qbench.result import Device


class GateVerdict(StrEnum):
    """In the order in which they are shown."""

    BROKEN = "broken"  # raises or is wrong on the candidate only
    SLOWER = "slower"
    ACCEPTED = "accepted"  # slower, within what a maintainer accepted
    LOST = "lost"  # runs on the base only, and nothing says that this is meant
    INCONCLUSIVE = "inconclusive"
    UNMEASURED = "unmeasured"  # fails on the base too
    REMOVED = "removed"  # on the base only, and no run of it is stored, or not any more
    FASTER = "faster"
    NEW = "new"  # on the candidate only
    SAME = "same"
    UNSUPPORTED = "unsupported"


FAILING = (GateVerdict.BROKEN, GateVerdict.SLOWER, GateVerdict.LOST)


class Row(Struct, frozen=True, forbid_unknown_fields=True):
    """One case. Ratios are candidate / base; the interval holds the true one with 99% confidence."""

    case: str
    verdict: GateVerdict
    reason: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 0
    base_ns: float | None = None
    candidate_ns: float | None = None
    sd: float | None = None  # run-to-run standard deviation of one run's log time
    detectable: float | None = None  # a slowdown of this much is found 99 times of 100
    clocks_mhz: tuple[int, int] = (0, 0)  # median SM clock after timing, base and candidate
    throttled: tuple[int, int] = (0, 0)  # counted runs in which the card said so
    set_aside: int = 0  # pairs not counted, for the card throttled on the slower side only
    flaky: tuple[int, int] = (0, 0)  # failures of base and candidate that did not happen again
    logs: tuple[float, ...] = ()  # the pairs' log ratios
    place: Place | None = None


class Shift(Struct, frozen=True, forbid_unknown_fields=True):
    """The suite as a whole: the median of all cases' first log ratios, and whether it was confirmed."""

    log_ratio: float
    confirmed: bool
    pairs: int = 0
    note: str = ""  # why a shift that was seen was not looked into


class Gate(Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    at: str
    base: str
    candidate: str
    device: Device
    versions: dict[str, str]
    policy: dict[str, float]
    rows: tuple[Row, ...]
    shift: Shift
    suite_runs: float  # processes' worth of the whole suite that were run
    seconds: float
    command: str  # without the cases and pytest's arguments
    pytest_args: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what weakens the verdicts: missing noise, other versions, a throttled card

    @property
    def failed(self) -> bool:
        return self.shift.confirmed or any(row.verdict in FAILING for row in self.rows)
