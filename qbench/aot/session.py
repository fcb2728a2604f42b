"""One pytest session's compilations: recorded and built together when the first is asked for, judged one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.aot.cases import TargetCase
from qbench.aot.expect import Expectation, Finding, Weight
from qbench.aot.floor import floor
from qbench.aot.gpus import gpu_of
from qbench.aot.judge import CompileVerdict, Outcome, judge, judge_failure
from qbench.aot.metrics import Metrics
from qbench.aot.store import Change, CompileStore, Mode
from qbench.aot.target import get_target

if TYPE_CHECKING:
    from qbench.aot.build import Built
    from qbench.aot.launch import Launch


@dataclass(frozen=True)
class CompileResult:
    """What came of one kernel of one case for one target.

    entry    its key in the store; "" where no kernel was launched
    metrics  None where it did not compile
    floor    advice: the resource that bounds it
    """

    case: str
    target: str
    entry: str
    judged: CompileVerdict
    metrics: Metrics | None = None
    floor: str = ""

    @property
    def name(self) -> str:
        return f"{self.entry or self.case} for {self.target}"


Build = Callable[[Sequence[TargetCase]], "list[list[Built] | str]"]


def record_and_build(cases: Sequence[TargetCase]) -> list[list[Built] | str]:
    """For each case its built launches, or in one line why the launcher raised."""
    from qbench.aot.build import build
    from qbench.aot.driver import compilable, recording

    launches: list[Launch] = []
    spans: list[tuple[int, int] | str] = []
    with compilable():  # once for all: it takes 30 ms in a process that interprets
        for each in cases:
            try:
                with recording(get_target(each.target)) as recorded:
                    each.case.launch()
            except Exception as error:
                spans.append(f"{type(error).__name__}: {' '.join(str(error).split())}"[:500])
            else:
                spans.append((len(launches), len(launches) + len(recorded)))
                launches += recorded
        built = build(launches)
    return [span if isinstance(span, str) else built[span[0] : span[1]] for span in spans]


@dataclass
class CompileSession:
    """Results of this process. `build` makes what it judges; given in tests alone."""

    baselines: Path
    triton: str
    update: Mode | None = None
    strict: bool = False
    build: Build | None = None  # record_and_build
    results: list[CompileResult] = field(default_factory=list)
    _built: dict[str, list[Built] | str] = field(default_factory=dict)
    _stores: dict[str, CompileStore] = field(default_factory=dict)

    def store(self, target: str) -> CompileStore:
        if target not in self._stores:
            self._stores[target] = CompileStore(self.baselines, target, self.triton)
        return self._stores[target]

    def prepare(self, cases: Iterable[TargetCase]) -> None:
        """Compile all of these that are not yet compiled: together, so that the processes are kept busy."""
        missing = [each for each in cases if each.id not in self._built]
        if missing:
            self._built |= zip(
                (each.id for each in missing), (self.build or record_and_build)(missing), strict=True
            )

    def run(self, case: TargetCase) -> list[CompileResult]:
        """Judge the kernels of one case; the results are kept, once each."""
        self.prepare([case])
        results = self._judged(case, self._built[case.id])
        self.results = [
            each for each in self.results if (each.case, each.target) != (case.case.name, case.target)
        ]
        self.results += results
        return results

    def _judged(self, case: TargetCase, built: list[Built] | str) -> list[CompileResult]:
        target = get_target(case.target)
        if isinstance(built, str):
            whole = Expectation(
                unsupported={case.target: reason} if (reason := case.case.unsupported(case.target)) else {}
            )
            return [CompileResult(case.case.name, case.target, "", judge_failure(built, whole, target))]
        results = []
        for each in built:
            entry = case.entry(each.launch.id)
            expectation = case.case.expectation(each.launch.id)
            if expectation is None:
                judged = _broken(
                    f"launches {each.launch.id}, of which its case says nothing; add it to `expect`"
                )
            elif each.metrics is None:
                judged = judge_failure(each.error, expectation, target)
            else:
                judged = judge(each.metrics, self.store(case.target).get(entry), expectation, target)
            results.append(
                CompileResult(
                    case.case.name,
                    case.target,
                    entry,
                    judged,
                    each.metrics,
                    _advice(each, case.target),
                )
            )
        launched = {each.launch.id.split("#")[0] for each in built}
        for kernel in case.case.expect:
            if kernel not in launched:
                text = f"{kernel} was not launched; launched: {', '.join(sorted(launched)) or 'nothing'}"
                results.append(CompileResult(case.case.name, case.target, case.entry(kernel), _broken(text)))
        return results

    def fails(self, result: CompileResult) -> bool:
        """Does it fail its test? An update accepts what it records, but never what is not as declared."""
        judged = result.judged
        if self.update in ("append", "replace") and judged.as_declared:
            return False
        if self.update == "missing" and judged.verdict is Outcome.NO_BASELINE:
            return False
        return judged.verdict.fails or (self.strict and judged.verdict is Outcome.NO_BASELINE)

    def write(self) -> dict[str, list[Change]]:
        """Apply the update: for each target, what changed. What is not as declared is not stored."""
        if self.update is None:
            return {}
        changes = {}
        for target in sorted({result.target for result in self.results}):
            found = {
                r.entry: r.metrics
                for r in self.results
                if r.target == target and r.metrics is not None and r.judged.as_declared
            }
            changes[target] = self.store(target).update(found, self.update)
        return changes

    def unused(self) -> dict[str, list[str]]:
        """Stored entries, by target, that no result of this session has."""
        targets = sorted({result.target for result in self.results})
        known = {target: {r.entry for r in self.results if r.target == target} for target in targets}
        return {target: left for target in targets if (left := self.store(target).unused(known[target]))}


def _broken(text: str) -> CompileVerdict:
    return CompileVerdict(Outcome.BROKEN, (Finding(Weight.WORSE, "error", text),), as_declared=False)


def _advice(built: Built, target: str) -> str:
    gpu = gpu_of(target)
    if built.metrics is None or gpu is None:
        return ""
    return floor(built.metrics, gpu, tensor_bytes=built.launch.tensor_bytes).words
