"""The tables of a run: one line per mutant, then one per check."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tests.mutants.run import OUT_OF_BOUNDS, Outcome


def line(outcome: Outcome, *, width: int, verbose: bool = False) -> str:
    """A mutant's line: what became of it, by the check meant for it, and in what time."""
    name = outcome.mutant.name if outcome.mutant else ""
    text = f"{name:<{width}}  {outcome.verdict:<16}  {outcome.seconds:>5.1f} s  {outcome.target}"
    return f"{text}\n      {outcome.message}" if verbose else text


def summary(results: Iterable[Sequence[Outcome]]) -> str:
    """For each check: how many mutants it is meant for, how many of them it caught, and the seconds it took."""
    meant: dict[str, int] = defaultdict(int)
    caught: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    bounds = 0
    for outcomes in results:
        first = outcomes[0]
        meant[first.target.check] += 1
        caught[first.target.check] += first.noticed
        seconds[first.target.check] += first.seconds
        bounds += first.verdict == OUT_OF_BOUNDS
    lines = [f"{'check':<24}{'caught':>8}{'of':>5}{'seconds':>9}"]
    lines += [f"{name:<24}{caught[name]:>8}{meant[name]:>5}{seconds[name]:>9.1f}" for name in sorted(meant)]
    total = sum(caught.values()), sum(meant.values()), sum(seconds.values())
    lines.append(
        f"{'all':<24}{total[0]:>8}{total[1]:>5}{total[2]:>9.1f}  ({bounds} as an access out of bounds)"
    )
    return "\n".join(lines)


def matrix(results: Iterable[Sequence[Outcome]]) -> str:
    """After every check has run on every mutant: which of them notice each."""
    lines = []
    for outcomes in results:
        name = outcomes[0].mutant.name if outcomes[0].mutant else ""
        noticed = [str(each.target) for each in outcomes if each.noticed]
        lines.append(f"{name}: {len(noticed)} of {len(outcomes)} checks: {', '.join(noticed) or 'none'}")
    return "\n".join(lines)


def escaped(outcomes: Sequence[Outcome]) -> str:
    """A mutant that the check meant for it did not catch: what it is, what the check said, and who noticed it."""
    first, mutant = outcomes[0], outcomes[0].mutant
    assert mutant is not None
    lines = [
        f"ESCAPED {mutant.name} ({mutant.file}): {mutant.bug}",
        f"    {first.target}: {first.verdict} {first.message}".rstrip(),
        *(f"    noticed by {each.target}: {each.message}" for each in outcomes[1:] if each.noticed),
    ]
    return "\n".join(lines if len(lines) > 2 else [*lines, "    noticed by no other check"])
