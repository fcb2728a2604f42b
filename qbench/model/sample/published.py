"""A published table of whole-model numbers as data: what somebody else wrote down, with nothing added.

Published tables round, give no spread, seldom say which kernels ran, and give the accuracy as a count alone. The fields
are those; what a source does not state stays empty and is shown so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from qbench.result import Count, DataError, Positive, read_json

SCHEMA = 1
REMEDY = "write it as qbench.model.sample.published.Published describes"
Name = Annotated[str, Meta(min_length=1)]


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """One recipe on one GPU. `capability` is the GPU's compute capability, "" where the source leaves it open."""

    gpu: Name
    capability: str
    model: Name
    recipe: Name
    status: Literal["ok", "unsupported"] = "ok"
    code: str = ""
    reason: str = ""
    mode: Literal["", "native", "weight-only", "emulated", "none"] = ""  # "" where it is not stated
    backend: str = ""
    tokens_per_s: Positive | None = None
    wall_s: Positive | None = None
    task: str = ""
    correct: Count | None = None
    of: Annotated[int, Meta(gt=0)] | None = None


class Published(Struct, frozen=True, forbid_unknown_fields=True):
    """The table, its source, and what has to be known to read it. `rounded_to`: one step of its numbers' last digit."""

    schema: int
    title: Name
    source: Name
    rounded_to: Positive
    notes: tuple[str, ...]
    rows: tuple[Line, ...]


def read_published(path: Path) -> Published:
    """Read a table. Raises DataError for one that is broken, of another schema, or contradicts itself."""
    table = read_json(path, Published, REMEDY)
    if table.schema != SCHEMA:
        raise DataError(f"{path}: schema {table.schema}, this version reads {SCHEMA}; {REMEDY}")
    seen: set[tuple[str, str, str]] = set()
    for index, line in enumerate(table.rows):
        place, key = f"{path}: rows[{index}]", (line.gpu, line.model, line.recipe)
        if key in seen:
            raise DataError(f"{place} repeats {line.recipe} of {line.model} on {line.gpu}; {REMEDY}")
        seen.add(key)
        if line.status == "ok" and line.tokens_per_s is None and line.correct is None:
            raise DataError(f"{place} is ok and has neither tokens_per_s nor correct; {REMEDY}")
        if line.status != "ok" and (line.tokens_per_s or line.wall_s or line.correct is not None):
            raise DataError(f"{place} is {line.status!r} and has numbers; {REMEDY}")
        if line.status != "ok" and not line.reason:
            raise DataError(f"{place} is {line.status!r} without a reason; {REMEDY}")
        if (line.correct is None) != (line.of is None) or (line.correct is not None) != bool(line.task):
            raise DataError(f"{place}: task, correct and of are given together or not at all; {REMEDY}")
        if line.correct is not None and line.of is not None and line.correct > line.of:
            raise DataError(f"{place}: {line.correct} correct of {line.of}; {REMEDY}")
    return table
