"""The gate's rule, and others', replayed on recorded noise: how often is an unchanged suite called slower, and how
often is a known slowdown found?

The data are medians of fresh processes on one machine or several. A suite is drawn by bootstrap: cases with
replacement, then for each of their runs one of that case's recorded deviations from its machine's mean. A slowdown is
an amount added to the candidate's log times.

The rivals, on the same draws. fixed: one run against one run, ratio beyond a percentage (pytest-benchmark's
--benchmark-compare-fail=mean:5%; min:5% differs in which statistic of a process it takes, and bursts of one process
agree far better than processes do, so that both are this rule). asv: the same at its default factor 1.1.
mann-whitney: 10 samples of one process against 10 of another, one-sided p < 0.001 and beyond 1%.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from qbench.gate.rule import OPEN, SAME, SLOWER, Array, GatePolicy, Prior, decide, detectable, fit_prior
from qbench.result import DataError, Positive, read_json

Index = NDArray[np.int64]


class Machine(Struct, frozen=True, forbid_unknown_fields=True):
    """Medians in ns of a case's processes on one machine, and their bursts' typical spread."""

    name: str
    medians_ns: tuple[Positive, ...]
    # (p80 - p20) / 1.683 / median, median over the processes: a normal's standard deviation
    burst_sd: Annotated[float, Meta(ge=0)]


class Noise(Struct, frozen=True, forbid_unknown_fields=True):
    """Recorded runs of an unchanged suite. `about`: the GPU, versions, dates and method."""

    schema: int
    about: str
    cases: dict[str, tuple[Machine, ...]]


@dataclass(frozen=True)
class Pool:
    """Deviations [cases, most runs] of log medians from their machine's mean, how many of each case, and their sd."""

    deviations: Array
    count: Index
    sd: Array
    burst_sd: Array


@dataclass(frozen=True)
class Rate:
    """What a rule did over some suites. found: of the cases with sd up to 0.3%, up to 1%, and of all."""

    suites: int
    suites_with_slower: int
    found: tuple[float, float, float]
    undecided: float  # cases a suite
    suite_runs: float


@dataclass(frozen=True)
class Outcome:
    """A rule's word on one suite: verdicts [cases] and the suite runs it took."""

    verdict: Index
    suite_runs: float


def load(path: Path) -> Pool:
    """Raises DataError for a file that is broken or foreign."""
    noise = read_json(path, Noise, "restore it from version control")
    if noise.schema != 1 or not noise.cases:
        what = "no cases" if noise.schema == 1 else f"schema {noise.schema}, this version reads 1"
        raise DataError(f"{path}: {what}; restore it from version control")
    for case, machines in noise.cases.items():
        if not machines or any(len(machine.medians_ns) < 2 for machine in machines):
            raise DataError(
                f"{path}: cases[{case!r}] needs two processes or more of each machine; measure it again"
            )
    parts: list[Array] = []
    burst = []
    for machines in noise.cases.values():
        each = []
        for machine in machines:
            logs = np.log(machine.medians_ns)
            each.append((logs - logs.mean()) * math.sqrt(len(logs) / (len(logs) - 1)))
        parts.append(np.concatenate(each))
        burst.append(float(np.median([machine.burst_sd for machine in machines])))
    count = np.array([len(part) for part in parts])
    deviations = np.zeros((len(parts), int(count.max())))
    for row, part in enumerate(parts):
        deviations[row, : len(part)] = part
    return Pool(deviations, count, np.array([part.std() for part in parts]), np.array(burst))


def draw(pool: Pool, pick: Index, runs: int, rng: np.random.Generator) -> Array:
    """[cases, runs] deviations, each drawn from its case's own."""
    at = (rng.random((len(pick), runs)) * pool.count[pick][:, None]).astype(np.int64)
    return pool.deviations[pick[:, None], at]


def sequential(
    pool: Pool, pick: Index, effect: Array, rng: np.random.Generator, policy: GatePolicy, base_runs: int = 10
) -> tuple[Outcome, Array]:
    """The gate on one suite; also the detectable effect it states for each case."""
    stored = draw(pool, pick, base_runs, rng)
    variances, df = stored.var(axis=1, ddof=1), np.full(len(pick), base_runs - 1.0)
    prior = fit_prior(variances, df, policy)
    pairs = (
        draw(pool, pick, policy.max_pairs, rng) - draw(pool, pick, policy.max_pairs, rng) + effect[:, None]
    )
    return settle(pairs, variances, df, prior, len(pick), policy)


def settle(
    pairs: Array, variances: Array, df: Array, prior: Prior, cases: int, policy: GatePolicy
) -> tuple[Outcome, Array]:
    """The gate's rounds on pairs [c, max_pairs] that are already there; a suite has `cases` of them."""
    verdict, stated = np.full(len(pairs), OPEN), np.zeros(len(pairs))
    left, cost = np.arange(len(pairs)), 0.0
    for count in range(1, policy.max_pairs + 1):
        state = decide(pairs[left, :count], variances[left], df[left], prior, cases, policy)
        verdict[left], cost = state.verdict, cost + 2 * len(left) / len(pairs)
        stated[left] = detectable(state.sd, state.df, policy)
        left = left[state.verdict == OPEN]
        if not len(left):
            break
    return Outcome(verdict, cost), stated


def fixed(threshold: float) -> Callable[[Pool, Index, Array, np.random.Generator], Outcome]:
    """One run against one run."""

    def rule(pool: Pool, pick: Index, effect: Array, rng: np.random.Generator) -> Outcome:
        pair = draw(pool, pick, 2, rng)
        slower = pair[:, 1] - pair[:, 0] + effect > math.log1p(threshold)
        return Outcome(np.where(slower, SLOWER, SAME), 1.0)

    return rule


def mann_whitney(pool: Pool, pick: Index, effect: Array, rng: np.random.Generator) -> Outcome:
    """Samples of one process against samples of another, as if they were independent."""
    from scipy.stats import mannwhitneyu

    pair = draw(pool, pick, 2, rng)
    pair[:, 1] += effect
    samples = pair[:, :, None] + pool.burst_sd[pick][:, None, None] * rng.standard_normal((len(pick), 2, 10))
    p = mannwhitneyu(samples[:, 1], samples[:, 0], axis=1, alternative="greater", method="asymptotic").pvalue
    beyond = np.median(samples[:, 1], axis=1) - np.median(samples[:, 0], axis=1) > math.log1p(0.01)
    return Outcome(np.where((p < 0.001) & beyond, SLOWER, SAME), 1.0)


def rate(
    pool: Pool, rule: Callable[[Pool, Index, Array, np.random.Generator], Outcome], effect: float, suites: int,
    seed: int, size: int = 500,
) -> Rate:  # fmt: skip
    """A rule over suites of `size` cases, all slower by `effect` (0.03: 3%) or, at 0, none."""
    rng = np.random.default_rng(seed)
    slower = undecided = 0
    found, of, cost = np.zeros(3), np.zeros(3), 0.0
    for _ in range(suites):
        pick = rng.integers(len(pool.sd), size=size)
        outcome = rule(pool, pick, np.full(size, math.log1p(effect)), rng)
        hit = outcome.verdict == SLOWER
        slower, undecided = slower + bool(hit.any()), undecided + int((outcome.verdict == OPEN).sum())
        for index, limit in enumerate((0.003, 0.01, math.inf)):
            quiet = pool.sd[pick] <= limit
            found[index], of[index] = found[index] + (hit & quiet).sum(), of[index] + quiet.sum()
        cost += outcome.suite_runs
    shares = found / np.maximum(of, 1)
    return Rate(suites, slower, (shares[0], shares[1], shares[2]), undecided / suites, cost / suites)


def honesty(
    pool: Pool, suites: int, seed: int, policy: GatePolicy, size: int = 500
) -> tuple[float, float, float]:
    """How often a slowdown of the effect stated as detectable is found: sd up to 0.3%, up to 1%, beyond."""
    rng = np.random.default_rng(seed)
    found, of = np.zeros(3), np.zeros(3)
    for _ in range(suites):
        pick = rng.integers(len(pool.sd), size=size)
        _, stated = sequential(pool, pick, np.zeros(size), rng, policy)
        outcome, _ = sequential(pool, pick, np.log1p(stated), rng, policy)
        hit, group = outcome.verdict == SLOWER, np.digitize(pool.sd[pick], (0.003, 0.01))
        for index in range(3):
            found[index], of[index] = (
                found[index] + hit[group == index].sum(),
                of[index] + (group == index).sum(),
            )
    shares = found / np.maximum(of, 1)
    return shares[0], shares[1], shares[2]


def report(pool: Pool, suites: int, seed: int, policy: GatePolicy | None = None) -> Iterator[str]:
    """The comparison as lines of a Markdown table, each as it is done; then how honest the stated effects are."""
    chosen = policy or GatePolicy()

    def gate(pool: Pool, pick: Index, effect: Array, rng: np.random.Generator) -> Outcome:
        return sequential(pool, pick, effect, rng, chosen)[0]

    low, middle, high = np.quantile(pool.sd, (0.25, 0.5, 0.75))
    yield (f"{len(pool.sd)} recorded cases, run-to-run sd {low:.2%} / {middle:.2%} / {high:.2%} (quartiles), "
           f"{np.mean(pool.sd <= 0.003):.0%} up to 0.3%, {np.mean(pool.sd <= 0.01):.0%} up to 1%")  # fmt: skip
    yield "| rule | P(any false alarm in a suite) | finds 1.5%, sd ≤ 0.3% | finds 3%, sd ≤ 1% | suite runs, unchanged |"
    yield "| --- | --- | --- | --- | --- |"
    some = max(20, suites // 20)
    for name, rule in (
        ("this gate", gate),
        ("fixed 5% (pytest-benchmark mean:5%, min:5%)", fixed(0.05)),
        ("fixed 3%", fixed(0.03)),
        ("fixed 10% (asv's factor 1.1)", fixed(0.10)),
        ("Mann-Whitney p < 0.001 and 1%, samples of a process", mann_whitney),
    ):
        none = rate(pool, rule, 0.0, suites if rule is gate else some, seed)
        small, large = rate(pool, rule, 0.015, some, seed + 1), rate(pool, rule, 0.03, some, seed + 2)
        if rule is gate:
            whole = large.suites_with_slower / large.suites
        yield (f"| {name} | {none.suites_with_slower / none.suites:.3%} ({none.suites_with_slower} of {none.suites}) | "
               f"{small.found[0]:.2%} | {large.found[1]:.2%} | {none.suite_runs:.2f} |")  # fmt: skip
    quiet, usual, noisy = honesty(pool, some, seed + 3, chosen)
    yield (f"a slowdown as large as stated detectable is found: {quiet:.2%} (sd ≤ 0.3%), {usual:.2%} (≤ 1%), "
           f"{noisy:.2%} (beyond); a suite that is 3% slower as a whole: {whole:.2%}")  # fmt: skip
