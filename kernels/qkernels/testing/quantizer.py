"""check_quantizer: is this a correct quantizer of the format? Named checks, each of which looks for bugs of one kind.

A failure names the check, the smallest input found, the mismatch with the likely bug, and a program that repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from qbench import Mismatch, Provider, WrongResult
from qkernels.api import as_format
from qkernels.format import Format
from qkernels.quantize import quantize
from qkernels.quantize_scaled import static_scale
from qkernels.testing.checks import CHECKS, Check
from qkernels.testing.hunt import hunt
from qkernels.testing.inputs import DTYPES, Sample, arranged, draw
from qkernels.testing.judges import judge_output, unwritten, with_cause
from qkernels.testing.report import describe, hint, identity, likeness, written_out
from qkernels.testing.shrink import shrink
from qkernels.testing.strategies import samples
from qkernels.testing.subject import Failed, Refused, Subject, needs_scale, settle

SHRINK_RUNS = 50
"""Calls of the quantizer spent on making a failing input smaller, by hypothesis and then by value: a second or two."""
_LOOK_ON = 12  # named inputs after the first failing one, in search of one that tells the cause
_PLAIN_SCALE = 0.03


def check_quantizer(
    provider: Provider,
    fmt: Format | str,
    *,
    hadamard: int | None = None,
    global_scale: Tensor | float | None = None,
    scale: Tensor | float | None = None,
    zero_point: Tensor | int | None = None,
    examples: int = 100,
    dtypes: Sequence[torch.dtype] = DTYPES,
    device: torch.device | str | None = None,
    checks: Iterable[str] | None = None,
) -> None:
    """Raise WrongResult unless provider(x, QuantizeOptions) -> thunk -> QTensor quantizes to `fmt` correctly.

    hadamard, global_scale, scale, zero_point  what the provider is asked for in its options; static INT8 without a
                scale is asked for 0.03. One global scale of a format with one a row is used for every row.
    examples    of each check whose inputs hypothesis draws ("values", "properties")
    device      where the inputs lie: by default CUDA if there is one
    checks      names of `CHECKS`; by default all that apply

    A provider refuses what it does not take (a dtype, a layout, a multiple of K) by raising qbench.Unsupported; a
    check none of whose inputs it takes has checked nothing, which is an error. ValueError for an unknown check, or
    one that says nothing of this format; ImportError without hypothesis (extra `property`).
    """
    if isinstance(checks, str):
        raise ValueError(f"checks={checks!r} is one name; pass a list of names")
    asked = make_subject(provider, fmt, hadamard, global_scale, scale, zero_point, device)
    names = _names(asked, checks)
    k = math.lcm(asked.format.block or 1, hadamard or 1)
    quantize(
        torch.ones(1, k), asked.format, **asked.to("cpu").named(torch.ones(1, k))
    )  # options it does not take
    try:
        subject, taken = settle(asked, dtypes)
    except Refused as refusal:
        raise WrongResult(
            f"{asked.name} refused every input, so nothing of it was checked as {asked.format.name}; "
            f"its last reason: {refusal}"
        ) from refusal
    for name in names:
        _run(name, CHECKS[name], subject, taken, examples)


def replay(
    provider: Provider,
    fmt: Format | str,
    x: Tensor,
    *,
    check: str,
    aspect: str = "",
    layout: str = "contiguous",
    hadamard: int | None = None,
    global_scale: Tensor | float | None = None,
    scale: Tensor | float | None = None,
    zero_point: Tensor | int | None = None,
    device: torch.device | str | None = None,
) -> None:
    """One check on the one input x [M, K]: what the reproducer of a failure runs. Raises as `check_quantizer`."""
    subject = make_subject(provider, fmt, hadamard, global_scale, scale, zero_point, device or x.device)
    sample = Sample(x.cpu(), "x", layout, aspect)
    wrong = _judge(CHECKS[check], subject, sample)
    if wrong is not None:
        raise WrongResult(describe(subject, check, sample, _explained(subject, sample, wrong)))


def make_subject(
    provider: Provider,
    fmt: Format | str,
    hadamard: int | None,
    global_scale: Tensor | float | None,
    scale: Tensor | float | None,
    zero_point: Tensor | int | None,
    device: torch.device | str | None,
) -> Subject:
    """The provider with its options as tensors on the device."""
    fmt = as_format(fmt)
    place = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    if scale is None and needs_scale(fmt):
        scale = _PLAIN_SCALE
    gs = None if global_scale is None else static_scale(global_scale, place).reshape(())
    zero = None if zero_point is None else torch.as_tensor(zero_point, dtype=torch.int32).reshape(1).to(place)
    one = None if scale is None else static_scale(scale, place)
    return Subject(provider, fmt, hadamard, gs, one, zero, place)


def _names(subject: Subject, checks: Iterable[str] | None) -> list[str]:
    if checks is None:
        return [name for name, check in CHECKS.items() if not check.applies(subject)]
    names = list(checks)
    for name in names:
        if name not in CHECKS:
            raise ValueError(f"unknown check {name!r}; known: {', '.join(CHECKS)}")
        if reason := CHECKS[name].applies(subject):
            raise ValueError(f"check {name!r} does not apply: {reason}")
    return names


def _run(name: str, check: Check, subject: Subject, dtypes: tuple[torch.dtype, ...], examples: int) -> None:
    taken = 0
    reason = ""

    def judge(sample: Sample) -> Mismatch | None:
        nonlocal taken, reason
        try:
            wrong = _judge(check, subject, sample)
        except Refused as refusal:
            reason = str(refusal)
            return None
        taken += 1
        return wrong

    if check.named is not None:
        found = _first(check.named(subject, dtypes), judge)
    else:
        drawn = samples(
            rows=subject.rows,
            step=subject.width(1 if subject.format.block else 11),
            dtypes=dtypes,
            aspects=check.aspects(subject),
            any_bits=check.any_bits and subject.hadamard is None,
        )
        found = hunt(
            drawn, judge, key=f"{name} {identity(subject)}", examples=examples, shrink_runs=SHRINK_RUNS
        )
    if found is None:
        if not taken:
            raise WrongResult(f'{subject.name} refused every input of the check "{name}" as {subject.format.name}, so '
                              f"nothing was checked; its last reason: {reason}")  # fmt: skip
        return
    sample, wrong = found
    latest = wrong

    def still(candidate: Sample) -> bool:
        nonlocal latest
        mismatch = judge(candidate)
        if mismatch is None or likeness(mismatch) != likeness(wrong):
            return False
        latest = mismatch
        return True

    rows = max(subject.rows, 2 * subject.format.block_rows) if sample.layout == "three axes" else subject.rows
    small = shrink(sample, still, rows=rows, step=subject.step, runs=SHRINK_RUNS)
    if written_out(small.x) is None:
        small, latest = sample, wrong
    raise WrongResult(describe(subject, name, small, _explained(subject, small, latest)))


def _first(
    named: Iterator[Sample], judge: Callable[[Sample], Mismatch | None]
) -> tuple[Sample, Mismatch] | None:
    """The first failing sample, or one soon after it whose mismatch names a likely cause."""
    first: tuple[Sample, Mismatch] | None = None
    further = 0
    for sample in named:
        wrong = judge(sample)
        if wrong is not None:
            first = first or (sample, wrong)
            if hint(wrong):
                return sample, wrong
        further += first is not None
        if further > _LOOK_ON:
            break
    return first


def _explained(subject: Subject, sample: Sample, wrong: Mismatch) -> Mismatch:
    """With what two more runs tell: whether memory shows through, and what ordinary numbers look like."""
    causes = [unwritten(subject, _placed(subject, sample))]
    broad = draw("normal", subject.height(6), subject.width(128), 0, sample.x.dtype)
    try:
        seen = judge_output(subject, _placed(subject, broad))
    except (Refused, Failed):
        seen = None
    cause = "" if seen is None else hint(seen).strip()
    if cause and cause not in wrong.details:
        causes.append(f"of {broad.x.shape[0]} x {broad.x.shape[1]} normal numbers: {cause}")
    for line in filter(None, causes):
        wrong = with_cause(wrong, line)
    return wrong


def _placed(subject: Subject, sample: Sample) -> Tensor:
    return arranged(sample.x.to(subject.device), sample.layout)


def _judge(check: Check, subject: Subject, sample: Sample) -> Mismatch | None:
    try:
        return check.judge(subject, _placed(subject, sample), sample.aspect)
    except Failed as failure:
        return failure.mismatch
