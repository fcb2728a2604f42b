"""What is compiled: a launcher's call with what its kernels must be made of, for each target.

A case's name and the kernels' own names are the key of the stored metrics: renaming loses the history. Nothing here
imports torch or Triton, so cases can be collected without either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qbench.aot.expect import Expectation, reason_unsupported
from qbench.aot.target import get_target

_NAME = re.compile(r"[^\s/\[\]]+(\[[^\s/\[\]]*\])?")


@dataclass(frozen=True)
class CompileCase:
    """A call that launches kernels on uninitialised CPU tensors of real shapes; nothing is run.

    name    unique among the cases, without spaces and slashes: "nvfp4_quantize[bf16,static]"
    launch  makes the tensors and calls the launcher
    expect  for each kernel that is launched, by its own name, what it must be made of. Every kernel must be named
    fast    also compiled where only a sample is wanted (parametrize_compiled)
    """

    name: str
    launch: Callable[[], object] = field(compare=False)
    expect: Mapping[str, Expectation] = field(compare=False)
    fast: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"compile case {self.name!r}: use no spaces or slashes, and brackets at the end only"
            )
        if not self.expect:
            raise ValueError(
                f"compile case {self.name}: name the kernels it launches, each with an Expectation"
            )

    def expectation(self, kernel: str) -> Expectation | None:
        """For a kernel's id, which has "#2" at its second launch."""
        return self.expect.get(kernel.split("#")[0])

    def unsupported(self, target: str) -> str:
        """Why nothing of it can be compiled for the target, or ""."""
        reasons = [reason_unsupported(each, target) for each in self.expect.values()]
        return next((reason for reason in reasons if reason), "")


@dataclass(frozen=True)
class TargetCase:
    """One case for one target. Its id is that of the test.

    sampled  run without --qbench-compile too
    """

    case: CompileCase
    target: str
    sampled: bool = True

    @property
    def id(self) -> str:
        return f"{self.case.name}-{self.target}"

    def entry(self, kernel: str) -> str:
        """Under which a kernel's metrics are stored, in the file of the target and the Triton version."""
        return f"{self.case.name}/{kernel}"


def compile_cases(
    cases: Iterable[CompileCase], targets: Sequence[str], *, sample: Sequence[str] | None = None
) -> list[TargetCase]:
    """Every case for every target. ValueError for an unknown target or two cases of one name.

    sample  targets for which the `fast` cases are compiled without --qbench-compile; by default every case is, for
            every target
    """
    for target in (*targets, *(sample or ())):
        get_target(target)
    made: list[TargetCase] = []
    seen: set[str] = set()
    for case in cases:
        if case.name in seen:
            raise ValueError(f"two compile cases are named {case.name!r}; name each once")
        seen.add(case.name)
        made += [
            TargetCase(case, target, sampled=sample is None or (case.fast and target in sample))
            for target in targets
        ]
    return made


def parametrize_compiled(
    cases: Iterable[CompileCase], targets: Sequence[str], *, sample: Sequence[str] | None = None
) -> Any:
    """`pytest.mark.parametrize` over `compile_cases`, as the argument `compiled`."""
    import pytest

    made = compile_cases(cases, targets, sample=sample)
    return pytest.mark.parametrize("compiled", made, ids=[each.id for each in made])
