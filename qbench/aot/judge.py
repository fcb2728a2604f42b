"""The verdict on one compiled kernel: what is declared of it, and what it was before. Pure functions of values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from qbench.aot.differences import differences
from qbench.aot.expect import Expectation, Finding, Limits, Weight, check, reason_unsupported
from qbench.aot.metrics import Metrics


class Outcome(StrEnum):
    SAME = "same"
    BETTER = "better"
    WORSE = "worse"
    CHANGED = "changed"  # within the soft limits' meaning: worth a look, fails nothing
    NO_BASELINE = "no-baseline"  # as declared, and compared with nothing
    UNSUPPORTED = "unsupported"  # fails as declared
    BROKEN = "broken"  # does not compile, or compiles though declared not to

    @property
    def fails(self) -> bool:
        return self in (Outcome.WORSE, Outcome.BROKEN)


@dataclass(frozen=True)
class CompileVerdict:
    """A verdict and what it rests on.

    as_declared  False where the kernel's own expectation or the target's limits are violated: such a result is never
                 stored as a baseline
    """

    verdict: Outcome
    findings: tuple[Finding, ...] = ()
    as_declared: bool = True

    @property
    def words(self) -> str:
        """The findings, those that decided first; "" where there are none."""
        order = list(Weight)
        return "; ".join(f.text for f in sorted(self.findings, key=lambda f: order.index(f.weight)))


def judge(now: Metrics, base: Metrics | None, expectation: Expectation, target: Limits) -> CompileVerdict:
    """Judge a kernel that compiled. Raises nothing."""
    if reason := reason_unsupported(expectation, target.name):
        text = f"compiles for {target.name}, though declared unsupported ({reason}): take the declaration out"
        return CompileVerdict(
            Outcome.BROKEN, (Finding(Weight.WORSE, "unsupported", text),), as_declared=False
        )
    declared = check(now, expectation, target)
    compared = [] if base is None else differences(now, base)
    said = {finding.subject for finding in declared}
    # A spill over its allowance is said once, with what it was.
    findings = [
        *(f for f in declared if f.subject not in {c.subject for c in compared if c.weight is Weight.WORSE}),
        *compared,
    ]
    assert not said or any(f.weight is Weight.WORSE for f in findings)
    weights = {finding.weight for finding in findings}
    if Weight.WORSE in weights:
        verdict = Outcome.WORSE
    elif base is None:
        verdict = Outcome.NO_BASELINE
    elif Weight.CHANGED in weights:
        verdict = Outcome.CHANGED
    else:
        verdict = Outcome.BETTER if weights else Outcome.SAME
    return CompileVerdict(verdict, tuple(findings), as_declared=not declared)


def judge_failure(error: str, expectation: Expectation, target: Limits) -> CompileVerdict:
    """Judge a launch that was refused, or a kernel that the compiler did not take."""
    if reason := reason_unsupported(expectation, target.name):
        found = Finding(Weight.CHANGED, "unsupported", f"{reason} ({error})")
        return CompileVerdict(Outcome.UNSUPPORTED, (found,))
    return CompileVerdict(Outcome.BROKEN, (Finding(Weight.WORSE, "error", error),), as_declared=False)
