"""`python -m tests.mutants`: plant every bug and tell which check caught it; exit 1 unless the one meant did.

On a CPU, with Triton interpreted: two to four minutes on two cores. First the unchanged packages pass every check
that is used, so that nothing below is a false alarm.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.mutants import report
from tests.mutants.catalogue import MUTANTS
from tests.mutants.equivalent import EQUIVALENT
from tests.mutants.mutant import Equivalent, Mutant, mutate, snapshot, source_of
from tests.mutants.run import MISSED, Outcome, Task, prepare, run


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    mutants = [m for m in MUTANTS if _asked(m, options)]
    same = [e for e in EQUIVALENT if _asked(e.mutant, options)]
    if not mutants and not same:
        print("no mutant is called so; --list shows the names", file=sys.stderr)
        return 2
    if options.list:
        for mutant in (*mutants, *(e.mutant for e in same)):
            print(f"{mutant.name}: {mutant.bug} [{mutant.file}; {mutant.target}]")
        return 0
    for mutant in (*mutants, *(e.mutant for e in same)):
        mutate(
            source_of(mutant).read_text(), mutant
        )  # an old text that is not there is an error before all work
    prepare()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        packages = Path(folder) / "packages"
        snapshot(packages)
        good = _Runner(packages, options.jobs, options.limit, options.verbose).all(
            mutants, same, every_check=options.all
        )
    print(f"{time.monotonic() - start:.0f} s with {options.jobs} jobs")
    return 0 if good else 1


class _Runner:
    """The parts of a run, in order."""

    def __init__(self, packages: Path, jobs: int, limit_s: float, verbose: bool) -> None:
        self.packages, self.jobs, self.limit_s, self.verbose = packages, jobs, limit_s, verbose

    def _run(self, tasks: Iterable[Task]) -> Iterator[list[Outcome]]:
        return run(tasks, snapshot=self.packages, jobs=self.jobs, limit_s=self.limit_s)

    def all(self, mutants: list[Mutant], same: list[Equivalent], *, every_check: bool) -> bool:
        targets = sorted({m.target for m in (*mutants, *(e.mutant for e in same))})
        groups = [tuple(targets[i::16]) for i in range(min(16, len(targets)))]
        alarms = self.false_alarms([Task(None, group, stop_when_noticed=False) for group in groups])
        tasks = []
        for mutant in mutants:
            others = tuple(t for t in targets if t != mutant.target) if every_check else ()
            tasks.append(Task(mutant, (mutant.target, *others), stop_when_noticed=not every_check))
        results = self.planted(tasks)
        escaped = {o[0].mutant.name: o for o in results if o[0].mutant and not o[0].noticed}
        if not every_check:
            again = [m for m in mutants if m.name in escaped]
            rest = [Task(m, [t for t in targets if t != m.target], stop_when_noticed=False) for m in again]
            for outcomes in self._run(task for task in rest if task.targets):
                if outcomes[0].mutant:
                    escaped[outcomes[0].mutant.name] += outcomes
        noticed = self.equivalents(same)
        print(report.summary(results))
        if every_check:
            print(report.matrix(results))
        for outcomes in escaped.values():
            print(report.escaped(outcomes))
        return not (alarms or escaped or noticed)

    def false_alarms(self, tasks: list[Task]) -> int:
        """Run the checks on the unchanged packages: how many found something."""
        print(f"{sum(len(task.targets) for task in tasks)} checks of the unchanged packages", flush=True)
        found = 0
        for outcomes in self._run(tasks):
            for outcome in outcomes:
                if self.verbose:
                    print(f"  {outcome.seconds:>5.1f} s  {outcome.target}", flush=True)
                if outcome.verdict != MISSED:
                    found += 1
                    print(
                        f"FALSE ALARM of {outcome.target}: {outcome.verdict}: {outcome.message}", flush=True
                    )
        return found

    def planted(self, tasks: list[Task]) -> list[list[Outcome]]:
        print(f"{len(tasks)} mutants", flush=True)
        width = max((len(task.mutant.name) for task in tasks if task.mutant), default=0)
        results = []
        for outcomes in self._run(tasks):
            results.append(outcomes)
            print(report.line(outcomes[0], width=width, verbose=self.verbose), flush=True)
        return results

    def equivalents(self, same: list[Equivalent]) -> int:
        proofs = {e.mutant.name: e.proof for e in same}
        print(f"{len(proofs)} mutants that change nothing", flush=True)
        found = 0
        for (outcome,) in self._run([Task(e.mutant, (e.mutant.target,)) for e in same]):
            assert outcome.mutant is not None
            if outcome.verdict == MISSED:
                print(f"  {outcome.mutant.name}: {proofs[outcome.mutant.name]}")
            else:
                found += 1
                print(
                    f"NOT EQUIVALENT {outcome.mutant.name}: {outcome.target}: {outcome.message}", flush=True
                )
        return found


def _asked(mutant: Mutant, options: argparse.Namespace) -> bool:
    named = not options.only or any(fnmatch.fnmatch(mutant.name, name) for name in options.only)
    return named and (not options.check or any(fnmatch.fnmatch(mutant.check, name) for name in options.check))


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="mutants, as shell patterns: 'nvfp4-*'"
    )
    parser.add_argument(
        "--check", nargs="+", default=[], metavar="NAME", help="mutants meant for these checks"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: 2)")
    parser.add_argument(
        "--limit", type=float, default=30.0, metavar="SECONDS", help="for one check (default: 30)"
    )
    parser.add_argument("--all", action="store_true", help="run every check on every mutant (slow)")
    parser.add_argument("--list", action="store_true", help="show the mutants and run nothing")
    parser.add_argument("--verbose", action="store_true", help="also what the checks say")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
