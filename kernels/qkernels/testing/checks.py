"""The checks of a quantizer by name: the inputs each one tries and the question it asks of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench import Mismatch
from qkernels.compare.reproduce import format_source
from qkernels.testing import judges
from qkernels.testing.inputs import LAYOUTS, Sample, boundaries, draw, nonfinite
from qkernels.testing.properties import judge_property, properties_of
from qkernels.testing.subject import Subject
from qkernels.testing.ties import ties

Dtypes = Sequence[torch.dtype]
Judge = Callable[[Subject, Tensor, str], Mismatch | None]


@dataclass(frozen=True)
class Check:
    """`named`: inputs that are always the same, none for a check whose inputs hypothesis draws.

    aspects   of drawn inputs: the questions among which one is drawn for each
    any_bits  of drawn inputs: also raw bit patterns
    applies   "" or the reason why the check says nothing of this subject
    """

    judge: Judge
    named: Callable[[Subject, Dtypes], Iterator[Sample]] | None = None
    aspects: Callable[[Subject], Sequence[str]] = lambda subject: ("",)
    any_bits: bool = True
    applies: Callable[[Subject], str] = lambda subject: ""


def _boundaries(subject: Subject, dtypes: Dtypes) -> Iterator[Sample]:
    k = subject.width(64 if subject.format.block else 48)
    for name, x in boundaries(k).items():
        for dtype in dtypes:
            made = x.to(dtype)
            if bool(made.isfinite().all()) and not (subject.hadamard and float(made.abs().max()) > 2.0**100):
                yield _named(subject, made, f'boundaries({k})["{name}"].to({dtype})')


def _shapes(subject: Subject, dtypes: Dtypes) -> Iterator[Sample]:
    """M by name; K of one block, of odd numbers of blocks, beside multiples of 128 and 1024 and beyond 16384."""
    step = subject.step
    narrow, wide = (max(columns // step, 1) * step for columns in (128, 1024))
    shapes = (
        (0, 3 * step),
        (1, step),
        (127, step),
        (129, 3 * step),
        (1, 5 * step),
        (2, narrow + step),
        (3, wide + step),
        (2, 2 * wide - step),
        (1, subject.width(16384) + step),
    )
    for index, (m, k) in enumerate(shapes):
        yield draw("normal", m, k, index, dtypes[index % len(dtypes)])
    unit = subject.hadamard or subject.format.block
    if unit is not None:  # the number of elements is a multiple of the unit, K is not
        for m, k in ((unit, unit + unit // 2), (unit, unit + 1), (2, unit // 2)):
            yield draw("normal", m, k, 0, dtypes[0], aspect="refuse")


def _layouts(subject: Subject, dtypes: Dtypes) -> Iterator[Sample]:
    for layout in LAYOUTS:
        for index, dtype in enumerate(dtypes):
            rows = 2 * subject.format.block_rows if layout == "three axes" else 4 - index
            yield draw("normal", subject.height(rows), subject.width(48), index, dtype, layout=layout)


def _nonfinite(subject: Subject, dtypes: Dtypes) -> Iterator[Sample]:
    k = subject.width(48)
    for index, (name, x) in enumerate(nonfinite(k)):
        dtype = dtypes[index % len(dtypes)]
        yield _named(subject, x.to(dtype), f'dict(nonfinite({k}))["{name}"].to({dtype})')


def _ties(subject: Subject, dtypes: Dtypes) -> Iterator[Sample]:
    given = {
        "global_scale": None if subject.global_scale is None else float(subject.global_scale.flatten()[0]),
        "scale": None if subject.scale is None else float(subject.scale),
    }
    words = "".join(f", {name}={value!r}" for name, value in given.items() if value is not None)
    for dtype in dtypes:
        for name, x in ties(subject.format, subject.step, dtype, **given).items():
            code = f'ties({format_source(subject.format)}, {subject.step}, {dtype}{words})["{name}"]'
            yield _named(subject, x, code)


def _rows(subject: Subject, dtypes: Dtypes) -> Iterator[Sample]:
    """Rows of magnitudes far apart, in tiles of several rows; one row of NaN."""
    group = max(subject.rows, subject.format.block_rows)
    for index, (groups, k, kind) in enumerate(((5, 64, "spread"), (37, 48, "spread"), (3, 1040, "outliers"))):
        yield draw(kind, groups * group, subject.width(k), index, dtypes[index % len(dtypes)])
    plain = draw("normal", 3 * group, subject.width(48), 0, dtypes[0])
    poisoned = plain.x.index_fill(0, torch.arange(group, 2 * group), torch.nan)
    yield Sample(poisoned, f"{plain.code}.index_fill(0, torch.arange({group}, {2 * group}), torch.nan)")


def _repeat(subject: Subject, dtypes: Dtypes) -> Iterator[Sample]:
    """Several tiles each way; on a GPU many, so that programs run at the same time."""
    for index, dtype in enumerate(dtypes):
        yield draw("normal", subject.height(9), subject.width(144), index, dtype)
    wide = (1024, 4096) if subject.device.type == "cuda" else (2, 1040)
    yield draw("wide", subject.height(wide[0]), subject.width(wide[1]), 0, dtypes[0])


def _stale(subject: Subject, dtypes: Dtypes) -> Iterator[Sample]:
    """Shapes whose last tile is partly empty, and values whose codes are not those of the poison."""
    for index, (m, k) in enumerate(((1, 16), (3, 80), (9, 144), (2, 1040))):
        yield draw("positive", subject.height(m), subject.width(k), index, dtypes[index % len(dtypes)])
    m, k = subject.height(3), subject.width(48)
    yield Sample(torch.zeros(m, k, dtype=dtypes[0]), f"torch.zeros({m}, {k}, dtype={dtypes[0]})")


def _named(subject: Subject, x: Tensor, code: str) -> Sample:
    """The sample, its rows repeated up to a number that the provider takes."""
    m = subject.height(len(x))
    if m == len(x):
        return Sample(x, code)
    times = -(-m // len(x))
    return Sample(x.repeat(times, 1)[:m], f"{code}.repeat({times}, 1)[:{m}]")


def _rows_apply(subject: Subject) -> str:
    if not subject.tensor_scaled:
        return ""
    remedy = "global_scale" if subject.format.levels == 2 else "scale"
    return f"every row of {subject.format.name} depends on the scale of the whole tensor; give {remedy}"


def _properties_apply(subject: Subject) -> str:
    return "" if properties_of(subject) else f"no property of {subject.format.name} holds with these options"


CHECKS: dict[str, Check] = {
    "boundaries": Check(judges.judge_output, _boundaries),
    "shapes": Check(judges.judge_shape, _shapes),
    "layouts": Check(judges.judge_layout, _layouts),
    "nonfinite": Check(judges.judge_nonfinite, _nonfinite),
    "ties": Check(judges.judge_output, _ties),
    "values": Check(judges.judge_output),
    "properties": Check(judge_property, aspects=properties_of, any_bits=False, applies=_properties_apply),
    "rows": Check(judges.judge_rows, _rows, applies=_rows_apply),
    "repeat": Check(judges.judge_repeat, _repeat),
    "stale": Check(judges.judge_stale, _stale),
}
"""In the order in which they run. "stale" is last: after it torch runs what torch.compile made eagerly."""
