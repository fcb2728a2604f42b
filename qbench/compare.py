"""Two runs side by side, and the parts of one sweep joined. Values in, values out; the command line prints.

A comparison is of two single runs and knows nothing of how much a time varies from run to run: it shows
ratios, it does not judge. Judging is what baselines of several runs are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qbench.result import SCHEMA, Ceilings, Result, Run

MUST_AGREE = ("torch", "triton")  # versions without which two parts are not one sweep
NAMES_SHOWN = 10


class CannotCombine(ValueError):
    """Runs that do not belong together: names what differs."""


@dataclass(frozen=True)
class Pair:
    """One case in both runs. `ratio` is b / a of the medians, above 1 is slower; None unless both have a time."""

    case: str
    a: Result
    b: Result

    @property
    def ratio(self) -> float | None:
        return self.b.times.median_ns / self.a.times.median_ns if self.a.times and self.b.times else None

    @property
    def broke(self) -> bool:
        """Was right in a and is not in b: wrong, failed, or no longer able to run."""
        return self.a.status == "ok" and self.b.status != "ok"


@dataclass(frozen=True)
class Comparison:
    """Cases of both runs in a's order, cases of one alone, and what makes them hard to compare."""

    pairs: tuple[Pair, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    warnings: tuple[str, ...]
    same_device: bool

    def slower(self, fail_over: float) -> list[Pair]:
        """Pairs slower by more than `fail_over` (0.05 = 5%), slowest first."""
        found = [
            (pair.ratio, pair) for pair in self.pairs if pair.ratio is not None and pair.ratio > 1 + fail_over
        ]
        return [pair for _, pair in sorted(found, key=lambda item: -item[0])]

    @property
    def broken(self) -> list[Pair]:
        return [pair for pair in self.pairs if pair.broke]


def compare(a: Run, b: Run) -> Comparison:
    """Join two runs by case id. Raises CannotCombine when they share no case or repeat one."""
    ours, theirs = _by_case(a, "the first file"), _by_case(b, "the second file")
    pairs = tuple(Pair(case, result, theirs[case]) for case, result in ours.items() if case in theirs)
    if not pairs:
        raise CannotCombine(
            f"the files share no case ({len(ours)} and {len(theirs)} cases); compare runs of the same operations"
        )
    warnings = []
    if a.device != b.device:
        warnings.append(
            f"DIFFERENT DEVICES: {a.device.key} and {b.device.key}; ratios compare devices, not code"
        )
    for name in dict.fromkeys([*a.versions, *b.versions]):
        before, after = a.versions.get(name, "none"), b.versions.get(name, "none")
        if before != after:
            warnings.append(f"DIFFERENT VERSIONS: {name} {before} and {after}")
    methods = [p.case for p in pairs if p.a.times and p.b.times and p.a.times.method != p.b.times.method]
    if methods:
        warnings.append(f"TIMED DIFFERENTLY (graph, events or wall): {_some(methods)}")
    return Comparison(
        pairs,
        tuple(case for case in ours if case not in theirs),
        tuple(case for case in theirs if case not in ours),
        tuple(warnings),
        a.device == b.device,
    )


def merge(runs: Sequence[Run]) -> Run:
    """Join parts of one sweep, in the order given.

    The device and the versions of torch and triton must agree. A case may come twice only if both are the
    same to the last digit. Ceilings are the highest of the parts: a ceiling is what the machine can reach.
    Raises CannotCombine naming what differs.
    """
    if not runs:
        raise CannotCombine("no runs to merge; give at least one")
    first = runs[0]
    for number, run in enumerate(runs[1:], 2):
        if run.device != first.device:
            raise CannotCombine(f"part {number} was taken on {run.device.key}, part 1 on {first.device.key}")
        for name in MUST_AGREE:
            ours, theirs = first.versions.get(name, "none"), run.versions.get(name, "none")
            if ours != theirs:
                raise CannotCombine(
                    f"part {number} used {name} {theirs}, part 1 {ours}; run it again with one version"
                )
    results: dict[str, Result] = {}
    twice: list[str] = []
    for result in (result for run in runs for result in run.results):
        if result != results.setdefault(result.case, result):
            twice.append(result.case)
    if twice:
        raise CannotCombine(
            f"measured in more than one part: {_some(list(dict.fromkeys(twice)))}; leave out one part"
        )
    return Run(
        schema=SCHEMA,
        at=min(run.at for run in runs),
        device=first.device,
        versions=_versions(runs),
        results=tuple(results.values()),
        ceilings=_ceilings(runs),
    )


def _by_case(run: Run, name: str) -> dict[str, Result]:
    found: dict[str, Result] = {}
    for result in run.results:
        if found.setdefault(result.case, result) != result:
            raise CannotCombine(f"{name} holds {result.case} twice, with different results")
    return found


def _versions(runs: Sequence[Run]) -> dict[str, str]:
    """All names; where the parts differ, every value in turn."""
    names = dict.fromkeys(name for run in runs for name in run.versions)
    return {
        name: " | ".join(dict.fromkeys(run.versions[name] for run in runs if name in run.versions))
        for name in names
    }


def _ceilings(runs: Sequence[Run]) -> Ceilings | None:
    known = [run.ceilings for run in runs if run.ceilings]
    if not known:
        return None
    dtypes = list(dict.fromkeys(each.matmul_dtype for each in known))
    if len(dtypes) > 1:
        raise CannotCombine(
            f"the parts measured their matmul ceilings in {' and '.join(dtypes)}; use one dtype"
        )
    others: dict[str, float] = {}
    for each in known:
        for name, rate in each.by_accumulator.items():
            others[name] = max(rate, others.get(name, rate))
    return Ceilings(
        max(each.copy_gbps for each in known),
        max(each.matmul_tflops for each in known),
        dtypes[0],
        max((each.read_gbps for each in known if each.read_gbps), default=None),
        others,
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"
