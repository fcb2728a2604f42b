"""What is measured: workloads, operations, providers, and the cases they make.

A case is one operation by one provider on one workload. Its `id` is the key under which a baseline is
stored, so it is built from names and axes alone: renaming or moving a test loses no history.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

    from qbench.check import Mismatch
    from qbench.measure import Bench, Trial

AxisValue = int | float | str | bool
Thunk = Callable[[], Any]
Provider = Callable[..., Thunk]
F = TypeVar("F", bound=Callable[..., Any])

_NAME = re.compile(r"[A-Za-z0-9_.+-]+")


class Unsupported(Exception):
    """A provider cannot run this case here: a missing library, GPU or shape. Skipped with its reason.

    `instead` names the nearest choice that works, if there is one.
    """

    def __init__(self, reason: str, instead: str = "") -> None:
        self.reason = reason
        self.instead = instead
        super().__init__(f"{reason}; use {instead} instead" if instead else reason)


@dataclass(frozen=True)
class Workload:
    """Named axes (sizes, dtypes, options) and the seed from which the operands are made."""

    axes: tuple[tuple[str, AxisValue], ...]
    seed: int = 0

    @classmethod
    def of(cls, seed: int = 0, **axes: AxisValue) -> Workload:
        for name, value in axes.items():
            if not _NAME.fullmatch(str(value)):
                raise ValueError(f"axis {name}={value!r}: use letters, digits and _ . + - only")
        return cls(tuple(axes.items()), seed)

    def __getitem__(self, name: str) -> AxisValue:
        for key, value in self.axes:
            if key == name:
                return value
        raise KeyError(f"workload has no axis {name!r}; it has {', '.join(k for k, _ in self.axes)}")

    def get(self, name: str, default: AxisValue | None = None) -> AxisValue | None:
        return dict(self.axes).get(name, default)

    def size(self, name: str) -> int:
        """An axis that must be a whole number."""
        value = self[name]
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"axis {name}={value!r} is not a whole number")
        return value

    @property
    def id(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.axes)


@dataclass(frozen=True)
class Cost:
    """The least work an operation can do: bytes moved once each, flops, and elements handled."""

    bytes: int
    flops: int = 0
    elements: int = 0


Tolerance = Callable[[Any, tuple[Any, ...], Callable[..., Any], str], "Mismatch | None"]


@dataclass(frozen=True)
class Op:
    """An operation: how its operands are made, what is right, how near is near enough, and its cost.

    inputs(workload, device) gives the operands, made from the workload's seed and never zeros.
    reference(*inputs) gives the expected result, slowly and obviously.
    tolerance(output, inputs, reference, accumulator) gives None or the mismatch.
    cost(workload) gives the bytes and flops of one call.
    alongside names operations whose results are drawn beside this one's where the shared axes agree;
    the first of them is what speedups are taken against.
    trial(case, bench) makes a case ready to be measured in a way of its own, where one call is not a thunk that can
    be repeated in bursts (a whole model's decoding); everything before and after stays as it is for every op.
    """

    name: str
    inputs: Callable[[Workload, torch.device], tuple[Any, ...]]
    reference: Callable[..., Any]
    tolerance: Tolerance
    cost: Callable[[Workload], Cost]
    alongside: tuple[str, ...] = ()
    trial: Callable[[Case, Bench], Trial] | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"op name {self.name!r}: use letters, digits and _ . + - only (it names a file)")


@dataclass(frozen=True)
class ProviderInfo:
    """What a provider says of itself: its name and the accumulator its sums are made in."""

    name: str
    accumulator: str = "fp32"
    needs_cuda: bool = False
    needs_capability: tuple[int, int] = (0, 0)
    instead: str = ""

    def missing(self, capability: tuple[int, int] | None) -> str:
        """Why it cannot run on a GPU of this compute capability (None: no GPU), or "" if it can."""
        if capability is None:
            return (
                f"provider {self.name} needs a CUDA device, and torch finds none" if self.needs_cuda else ""
            )
        if capability >= self.needs_capability:
            return ""
        wanted, found = (".".join(map(str, each)) for each in (self.needs_capability, capability))
        return f"provider {self.name} needs compute capability {wanted}, this GPU has {found}"


def provider(
    name: str,
    *,
    accumulator: str = "fp32",
    needs_cuda: bool = False,
    needs_capability: tuple[int, int] = (0, 0),
    instead: str = "",
) -> Callable[[F], F]:
    """Name a provider and declare its accumulator (`qbench.check.ACCUMULATORS`) and what it needs.

    Where what it needs is missing it is reported unsupported, with the reason and the nearest choice (`instead`);
    a capability implies a GPU.
    """
    info = ProviderInfo(name, accumulator, needs_cuda or needs_capability > (0, 0), needs_capability, instead)

    def mark(function: F) -> F:
        function.__qbench_provider__ = info  # type: ignore[attr-defined]
        return function

    return mark


def provider_info(function: Provider) -> ProviderInfo:
    """The declared facts of a provider; a plain function goes by its own name."""
    info = getattr(function, "__qbench_provider__", None)
    return info if isinstance(info, ProviderInfo) else ProviderInfo(getattr(function, "__name__", "provider"))


@dataclass(frozen=True)
class Case:
    """One operation by one provider on one workload."""

    op: Op
    provider: Provider = field(compare=False)
    workload: Workload
    provider_name: str = ""

    def __post_init__(self) -> None:
        if not self.provider_name:
            object.__setattr__(self, "provider_name", provider_info(self.provider).name)

    @property
    def id(self) -> str:
        """The baseline key, e.g. `nvfp4_gemm/triton[m=16,n=8192,k=8192]`."""
        return f"{self.op.name}/{self.provider_name}[{self.workload.id}]"


def cases(op: Op, providers: Sequence[Provider], workloads: Iterable[Workload]) -> list[Case]:
    """Every provider on every workload. Workloads lead, so that one workload's providers run side by side."""
    made = [Case(op, each, workload) for workload in workloads for each in providers]
    seen: set[str] = set()
    for case in made:
        if case.id in seen:
            raise ValueError(f"two cases share the id {case.id!r}; give the providers different names")
        seen.add(case.id)
    return made


def parametrize(made: Iterable[Case]) -> Any:
    """`pytest.mark.parametrize` over cases, as the argument `case`."""
    import pytest

    listed = list(made)
    return pytest.mark.parametrize("case", listed, ids=[case.id for case in listed])
