"""What a kernel must be made of, as data beside the kernel, and the check of it. Needs no baseline.

Names are those of `Metrics`: an opcode of the histogram ("LDG", "HMMA", "F2FP.SATFINITE") or a kind of `mma`
("wgmma.bf16 A=registers", "tcgen05.block_scale"). A name stands for all that begin with it, part by part: "LDG" for
"LDG.128", "wgmma" for "wgmma.bf16 A=registers", never "HMMA" for "HMMA2".

Targets are keys: "*" for every one, "sm_90", or several, "sm_80 sm_89 sm_120".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from qbench.aot.metrics import Metrics

EVERY = "*"
_REGISTERS_PER_SM = 65536  # also of one block: CUDA C Programming Guide, compute capabilities 8.0 to 12.x
_TARGETS = re.compile(r"\*|sm_\d+( sm_\d+)*")


class Weight(StrEnum):
    """What a finding means for the verdict."""

    WORSE = "worse"  # fails the test
    CHANGED = "changed"  # shown
    BETTER = "better"


@dataclass(frozen=True)
class Finding:
    """One difference, in words. `subject` groups them: "mma", "spill", "loads", ..."""

    weight: Weight
    subject: str
    text: str


class Limits(Protocol):
    """The part of a target that is judged against."""

    @property
    def name(self) -> str: ...
    @property
    def shared_bytes(self) -> int: ...
    @property
    def tensor_memory_columns(self) -> int: ...


@dataclass(frozen=True)
class Expectation:
    """What a compiled kernel must and must not contain. Every mapping goes from targets to a value.

    required     names of instructions or MMA kinds that must be there
    forbidden    those that must not
    spill_bytes  allowed, stored to and loaded from local memory; none by default
    load_bits    the widest global load must have at least so many bits. Bulk (TMA) copies count as wide enough
    store_bits   the widest global store
    unsupported  the launch must fail or the compiler refuse it, and why
    races        why an operand of a product in flight may be overwritten (`qbench.aot.in_flight`), or the memory of a
                 barrier be used again (`qbench.aot.reused`); never, by default
    """

    required: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    forbidden: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    spill_bytes: Mapping[str, int] = field(default_factory=dict)
    load_bits: Mapping[str, int] = field(default_factory=dict)
    store_bits: Mapping[str, int] = field(default_factory=dict)
    unsupported: Mapping[str, str] = field(default_factory=dict)
    races: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            "required",
            "forbidden",
            "spill_bytes",
            "load_bits",
            "store_bits",
            "unsupported",
            "races",
        ):
            for targets, value in getattr(self, name).items():
                if not _TARGETS.fullmatch(targets):
                    raise ValueError(
                        f'{name}: {targets!r} names no targets; write "*", "sm_90" or "sm_80 sm_90"'
                    )
                if isinstance(value, str) and name in ("required", "forbidden"):
                    raise TypeError(f"{name}: {value!r} is one text; write a tuple, ({value!r},)")


def applying(values: Mapping[str, object], target: str) -> list[object]:
    """The values given for this target, those for every target among them."""
    return [value for targets, value in values.items() if targets == EVERY or target in targets.split()]


def reason_unsupported(expectation: Expectation, target: str) -> str:
    """Why the kernel is declared not to compile for this target, or ""."""
    return next((str(reason) for reason in applying(expectation.unsupported, target)), "")


def count(metrics: Metrics, name: str) -> int:
    """How many instructions, or products, the name stands for."""
    return sum(n for kind, n in {**metrics.histogram, **metrics.mma}.items() if stands_for(name, kind))


def stands_for(name: str, kind: str) -> bool:
    return kind == name or kind.startswith((f"{name}.", f"{name} "))


def check(metrics: Metrics, expectation: Expectation, target: Limits) -> list[Finding]:
    """What is not as declared, and what does not fit the target."""
    found = [*_instructions(metrics, expectation, target.name), *_widths(metrics, expectation, target.name)]
    allowed = max((int(str(v)) for v in applying(expectation.spill_bytes, target.name)), default=0)
    if metrics.spill_bytes > allowed:
        found.append(
            _worse("spill", f"spills {spill_words(metrics)}{f', allowed {allowed}' if allowed else ''}")
        )
    if not applying(expectation.races, target.name):
        found += _races(metrics)
    return [*found, *_limits(metrics, target)]


def _races(metrics: Metrics) -> list[Finding]:
    """Where results depend on when something happens."""
    kinds = (
        (
            "a product's operand in registers is overwritten while the product may still read it",
            metrics.overwritten,
        ),
        ("data is written where a barrier lies that was not invalidated", metrics.reused),
    )
    found = []
    for words, writers in kinds:
        if writers:
            more = f" and {len(writers) - 1} others" if len(writers) > 1 else ""
            found.append(_worse("race", f"{words}: {writers[0]}{more}"))
    return found


def spill_words(metrics: Metrics) -> str:
    where = f"{metrics.spill_bytes} bytes a thread to local memory and back"
    if metrics.registers >= 255:
        return f"{where}: all {metrics.registers} registers are in use"
    return f"{where} with {metrics.registers} registers: a limit on registers, or an array that is indexed at run time"


def _instructions(metrics: Metrics, expectation: Expectation, target: str) -> list[Finding]:
    found = []
    for names in applying(expectation.required, target):
        assert isinstance(names, tuple)
        for name in names:
            if not count(metrics, name):
                found.append(
                    _worse(
                        "required", f"{name} is gone, which this kernel requires; {_instead(metrics, name)}"
                    )
                )
    for names in applying(expectation.forbidden, target):
        assert isinstance(names, tuple)
        for name in names:
            if there := count(metrics, name):
                found.append(_worse("forbidden", f"{there} × {name}, which this kernel must not contain"))
    return found


def _instead(metrics: Metrics, name: str) -> str:
    """What stands in a missing instruction's place: its kin, or the products there are."""
    family = name.split(".")[0].split(" ")[0]
    kin = sorted(kind for kind in {**metrics.histogram, **metrics.mma} if stands_for(family, kind))
    product = family in ("wgmma", "tcgen05") or name.startswith("mma.sync")
    there = kin or (sorted(metrics.mma) if product else [])
    if there:
        return f"there is {', '.join(there)}"
    return "there is no tensor-core product at all" if product else "there is nothing of the kind"


def _widths(metrics: Metrics, expectation: Expectation, target: str) -> list[Finding]:
    found = []
    for word, widths, wanted in (
        ("load", metrics.global_loads, expectation.load_bits),
        ("store", metrics.global_stores, expectation.store_bits),
    ):
        least = max((int(str(v)) for v in applying(wanted, target)), default=0)
        bulk = count(metrics, "UTMALDG" if word == "load" else "UTMASTG")
        widest = max(widths, default=0)
        if widest < least and not bulk:
            there = f"of {widest} bits" if widest else "absent"
            found.append(_worse(f"{word}s", f"the widest global {word} is {there}, expected {least}"))
    return found


def _limits(metrics: Metrics, target: Limits) -> list[Finding]:
    found = []
    if metrics.shared_bytes > target.shared_bytes:
        found.append(
            _worse(
                "shared",
                f"shared memory {metrics.shared_bytes:,} B is over {target.name}'s {target.shared_bytes:,} B: the "
                "launch will fail; take fewer stages or a smaller tile",
            )
        )
    if metrics.tensor_memory_columns > target.tensor_memory_columns:
        found.append(
            _worse(
                "tensor memory",
                f"{metrics.tensor_memory_columns} columns of tensor memory are over {target.name}'s "
                f"{target.tensor_memory_columns}; take a smaller tile",
            )
        )
    held = metrics.registers * metrics.warps * 32
    if held > _REGISTERS_PER_SM:
        found.append(
            _worse(
                "registers",
                f"{metrics.registers} registers × {32 * metrics.warps} threads are over the {_REGISTERS_PER_SM:,} of a "
                "multiprocessor: the launch will fail",
            )
        )
    return found


def _worse(subject: str, text: str) -> Finding:
    return Finding(Weight.WORSE, subject, text)
