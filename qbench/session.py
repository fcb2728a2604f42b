"""One pytest session's state: options, the bench, what was found, and what becomes of it at the end."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from qbench.case import Case, Unsupported, provider_info
from qbench.result import SCHEMA, Ceilings, Judgement, Result, Run, Status, Verdict

if TYPE_CHECKING:
    from qbench.baseline import Change, Store
    from qbench.measure import Bench, Measured
    from qbench.verdict import Policy

Update = Literal["append", "missing", "replace", "dry"]
T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """The --qbench-* options, read once."""

    baselines: Path
    update: Update | None = None
    strict: bool = False
    report: Path | None = None
    seed: int | None = None
    warmup: int | None = None
    iters: int | None = None
    profile: bool = False


@dataclass
class Session:
    """Results of this process, in the order they came. The device is opened when the first case runs."""

    options: Options
    results: list[Result] = field(default_factory=list)
    collected: set[str] = field(default_factory=set)
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    ceilings: Ceilings | None = None
    timing: bool = False  # a case was to be timed, not only checked
    lost: list[str] = field(default_factory=list)  # cases with a baseline that can no longer run
    say: Callable[[str], None] = lambda line: None  # to whoever watches the run
    _bench: Bench | None = None
    _store: Store | None = None
    _policy: Policy | None = None

    @property
    def bench(self) -> Bench:
        if self._bench is None:
            from qbench.measure import Bench
            from qbench.timing import TimingPolicy

            policy = TimingPolicy()
            if self.options.warmup is not None:
                policy = replace(policy, warmup=self.options.warmup)
            if self.options.iters is not None:
                iters = self.options.iters
                policy = replace(policy, bursts=iters, max_bursts=max(iters, policy.max_bursts))
            self._bench = Bench.open(policy)
            self._bench.say = self.say
        return self._bench

    @property
    def store(self) -> Store:
        if self._store is None:
            from qbench.baseline import Store
            from qbench.device import describe

            self._store = Store(self.options.baselines, describe())
        return self._store

    @property
    def policy(self) -> Policy:
        if self._policy is None:
            from qbench.verdict import Policy

            self._policy = Policy.for_kind(self.store.device.kind)
        return self._policy

    def seeded(self, case: Case) -> Case:
        """The case with --qbench-seed, if one was given."""
        if self.options.seed is None:
            return case
        return replace(case, workload=replace(case.workload, seed=self.options.seed))

    def check(self, case: Case) -> None:
        self._recorded(case, lambda: self.bench.check(case))

    def profile(self, case: Case) -> None:
        self._recorded(case, lambda: self.bench.profile(case))

    def measure(self, case: Case) -> tuple[Result, tuple[float, ...]]:
        """Check, time and judge; the result is kept. Raises what the case raised."""
        self.timing = True
        self.collected.add(case.id)

        def work() -> tuple[Result, tuple[float, ...]]:
            from qbench.verdict import judge

            records = self.store.records(case.op.name, case.id)  # a broken file is said before time is spent
            if self.ceilings is None:
                self.ceilings = self.bench.ceilings()
            measured = self.bench.measure(case)
            judgement = judge(measured.times, records, self.policy)
            return self._result(case, "ok", measured=measured, judgement=judgement), measured.samples

        result, samples = self._recorded(case, work)
        self._keep(result)
        return result, samples

    def retract(self, case: str, reason: str) -> None:
        """A test that failed after its case was measured: the case is not stored."""
        for index, result in enumerate(self.results):
            if result.case == case and result.status == "ok":
                self.results[index] = msgspec.structs.replace(
                    result, status="error", reason=reason, times=None, judgement=None, figures={}
                )

    def _keep(self, result: Result) -> None:
        """One result a case: a test that is run again replaces what it found before."""
        self.results = [each for each in self.results if each.case != result.case]
        self.results.append(result)

    def _recorded(self, case: Case, work: Callable[[], T]) -> T:
        """Run `work`; what it raises is recorded as the case's result and raised on."""
        from qbench.check import WrongResult

        try:
            return work()
        except Unsupported as error:
            judgement = Judgement(Verdict.UNSUPPORTED, str(error))
            self._keep(self._result(case, "unsupported", str(error), judgement=judgement))
            if self.store.records(case.op.name, case.id):
                self.lost.append(case.id)
            raise
        except WrongResult as error:
            self._keep(self._result(case, "wrong", str(error)))
            raise
        except Exception as error:
            self._keep(self._result(case, "error", f"{type(error).__name__}: {error}"[:2000]))
            raise

    def _result(
        self,
        case: Case,
        status: Status,
        reason: str = "",
        measured: Measured | None = None,
        judgement: Judgement | None = None,
    ) -> Result:
        cost = (measured and measured.cost) or case.op.cost(case.workload)
        return Result(
            case=case.id,
            op=case.op.name,
            provider=case.provider_name,
            axes=dict(case.workload.axes),
            status=status,
            reason=reason,
            bytes=cost.bytes,
            flops=cost.flops,
            elements=cost.elements,
            times=measured.times if measured else None,
            judgement=judgement,
            alongside=case.op.alongside,
            accumulator=provider_info(case.provider).accumulator,
            figures=dict(measured.figures) if measured else {},
            labels=dict(measured.labels) if measured else {},
        )

    def run(self) -> Run:
        from qbench.device import versions

        return Run(SCHEMA, self.at, self.store.device, versions(), tuple(self.results), self.ceilings)

    def fails(self, judgement: Judgement) -> bool:
        """Does this verdict fail its test? An update accepts what it records; strict asks for certainty."""
        if self.options.update in ("append", "replace"):
            return False
        if self.options.update == "missing" and judgement.verdict is Verdict.NO_BASELINE:
            return False
        doubtful = judgement.verdict in (Verdict.INCONCLUSIVE, Verdict.NO_BASELINE)
        return judgement.verdict is Verdict.SLOWER or (self.options.strict and doubtful)

    def update(self) -> list[Change]:
        """Apply --qbench-update to the stored baselines; with "dry" only say what would change."""
        if self.options.update is None:
            return []
        dry = self.options.update == "dry"
        mode = "append" if dry else self.options.update
        assert mode != "dry"
        return self.store.update(self.run(), self.id, mode, write=not dry)

    def unused(self) -> list[str]:
        """Stored cases of the ops seen here that no collected case uses."""
        ops = sorted({result.op for result in self.results})
        return [case for op in ops for case in self.store.unused(op, self.collected)]

    def unseen(self) -> list[str]:
        """Stored ops of which no case was collected: renamed, removed, or not selected."""
        ops = {case.partition("/")[0] for case in self.collected}
        return sorted(set(self.store.ops()) - ops)
