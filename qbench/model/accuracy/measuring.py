"""One model on one set of problems, measured now, as the file that is stored of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from qbench.device import describe, describe_cpu, versions
from qbench.model.accuracy.decode import exact_match
from qbench.model.accuracy.problems import STOPS, Problem, digest
from qbench.model.accuracy.store import SCHEMA, Accuracy
from qbench.result import Device


def measure(
    model: Any,
    tokenizer: Any,
    problems: Sequence[Problem],
    *,
    name: str,
    recipe: str,
    task: str,
    shots: Sequence[Problem] = (),
    batch: int = 64,
    new: int = 256,
    stops: Sequence[str] = STOPS,
    labels: Mapping[str, str] | None = None,
    figures: Mapping[str, float] | None = None,
) -> Accuracy:
    """Ask every problem and record which were solved. name: the model's; labels: mode and backend, as a swap reports.

    figures gets `unfinished`, how many answers were cut off at `new` tokens; others may be given.
    """
    answers = exact_match(model, tokenizer, problems, shots=shots, batch=batch, new=new, stops=stops)
    return record(
        answers.correct,
        digest(problems, shots),
        device=describe_of(model),
        name=name,
        recipe=recipe,
        task=task,
        labels=labels,
        figures={"unfinished": float(answers.unfinished), **(figures or {})},
    )


def record(
    correct: Sequence[bool], asked: str, *, device: Device, name: str, recipe: str, task: str,
    labels: Mapping[str, str] | None = None, figures: Mapping[str, float] | None = None,
) -> Accuracy:  # fmt: skip
    """The file of problems that were judged in any way; asked: their digest."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Accuracy(
        SCHEMA,
        at,
        device,
        versions(),
        name,
        recipe,
        task,
        asked,
        tuple(correct),
        dict(figures or {}),
        dict(labels or {}),
    )


def describe_of(model: Any) -> Device:
    """The device that the model's parameters lie on."""
    device = next(model.parameters()).device
    return describe(device.index) if device.type == "cuda" else describe_cpu()
