"""Sides of a gate that only pretend to measure, for the tests of its rounds."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qbench.gate.protocol import Outcome
from qbench.gate.result import GateVerdict
from qbench.gate.rule import GatePolicy
from qbench.gate.run import Budget, Tally, Track, run_rounds
from qbench.result import Times

POLICY = GatePolicy()
CASES = tuple(f"op/p[m={m}]" for m in range(40))
QUIET = 0.002


def times(ns: float, throttle: tuple[str, ...] = ()) -> Times:
    return Times(ns, ns, ns, 10, 1, 1, "graph", True, 1980, 1980, throttle)


@dataclass
class Pretender:
    """A side whose every process draws its times anew. answers: of a case and the number of its processes so far."""

    name: str
    log: list[str]
    slower: dict[str, float] = field(default_factory=dict)
    answers: dict[str, Callable[[int], Outcome | None]] = field(default_factory=dict)
    all_slower: float = 0.0
    scale: float = 1.0
    asked: list[tuple[str, ...]] = field(default_factory=list)
    clock: Callable[[], None] = lambda: None
    seed: int = 0

    def measure(
        self, cases: Sequence[str], limit_s: float, inject_ns: dict[str, float]
    ) -> dict[str, Outcome]:
        self.log.append(self.name)
        self.asked.append(tuple(cases))
        self.clock()
        found = {}
        for case in cases:
            seen = sum(case in each for each in self.asked)
            z = random.Random(f"{self.seed}/{self.name}/{case}/{seen}").gauss(0, QUIET)
            ns = 1e4 * self.scale * math.exp(
                z + self.slower.get(case, 0.0) + self.all_slower
            ) + inject_ns.get(case, 0)
            answer = self.answers.get(case, lambda seen: None)(seen)
            found[case] = answer or Outcome(case, "ok", times(ns))
        return found


def pair(**candidate: Any) -> tuple[Pretender, Pretender]:
    log: list[str] = []
    return Pretender("base", log), Pretender("candidate", log, **candidate)


def tracks(cases: Sequence[str] = CASES) -> list[Track]:
    return [Track(case, QUIET**2, 9.0) for case in cases]


def play(base: Any, candidate: Any, made: list[Track] | None = None, **changes: Any) -> Tally:
    options = {"policy": POLICY, "budget": Budget(), "say": lambda words: None, **changes}
    return run_rounds(base, candidate, made or tracks(), **options)


def found(tally: Tally) -> dict[str, GateVerdict | None]:
    return {track.case: track.verdict for track in tally.tracks}


def of(tally: Tally, case: str) -> Track:
    return next(track for track in tally.tracks if track.case == case)


def fails(status: str, reason: str, when: Callable[[int], bool]) -> Callable[[int], Outcome | None]:
    return lambda seen: Outcome("", status, reason=reason) if when(seen) else None
