"""How right one recipe was, as stored: a file for each model, recipe and task, parsed as strictly as results.json."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from msgspec import Struct

from qbench.model.accuracy.mcnemar import Paired, paired
from qbench.result import DataError, Device, read_json, write_atomic

SCHEMA = 1
_REMEDY = "measure the accuracy again"


class Accuracy(Struct, frozen=True, forbid_unknown_fields=True):
    """Which problems of a task were solved, by which model under which recipe.

    digest: of what was asked and expected (`problems.digest`); comparisons of unequal digests are refused.
    figures: other numbers of the same model, with the unit in the name (perplexity, kl_nats, top1).
    labels: mode ("native", "weight-only", "emulated", "none"), backend.
    """

    schema: int
    at: str  # UTC, ISO 8601
    device: Device
    versions: dict[str, str]
    model: str
    recipe: str
    task: str
    digest: str
    correct: tuple[bool, ...]
    figures: dict[str, float] = {}
    labels: dict[str, str] = {}

    @property
    def score(self) -> float:
        """The share of problems solved."""
        return sum(self.correct) / len(self.correct)


def compare(reference: Accuracy, other: Accuracy, *, level: float = 0.95) -> Paired:
    """`other` against `reference`, per problem. ValueError where they were not asked the same."""
    for name in ("task", "model", "digest"):
        a, b = getattr(reference, name), getattr(other, name)
        if a != b:
            raise ValueError(
                f"{reference.recipe} and {other.recipe} differ in {name} ({a!r}, {b!r}): problems can be paired only "
                "where one model was asked the same; measure both on one file of problems"
            )
    return paired(reference.correct, other.correct, level=level)


def markdown(reference: Accuracy, others: list[Accuracy], *, level: float = 0.95) -> str:
    """A table: one line for each recipe, compared with the reference, which is the first line."""
    lines = [
        f"| recipe | mode | {reference.task} | difference, points | {100 * level:g}% CI | lost / gained | p |",
        "|---|---|--:|--:|--:|--:|--:|",
        f"| {reference.recipe} | {reference.labels.get('mode', '')} | {reference.score:.3f} | | | | |",
    ]
    for other in others:
        pair = compare(reference, other, level=level)
        lines.append(
            f"| {other.recipe} | {other.labels.get('mode', '')} | {other.score:.3f} | {100 * pair.difference:+.1f} | "
            f"{100 * pair.low:+.1f} … {100 * pair.high:+.1f} | {pair.only_a} / {pair.only_b} | {pair.p:.2g} |"
        )
    return "\n".join(lines)


def read_accuracy(path: Path) -> Accuracy:
    """Read one file. DataError for one that is broken, foreign, of another schema, or without problems."""
    accuracy = read_json(path, Accuracy, _REMEDY)
    if accuracy.schema != SCHEMA:
        raise DataError(f"{path}: schema {accuracy.schema}, this version reads {SCHEMA}; {_REMEDY}")
    if not accuracy.correct:
        raise DataError(f"{path}: holds no problem; {_REMEDY}")
    if not re.fullmatch("[0-9a-f]{64}", accuracy.digest):
        raise DataError(f"{path}: digest {accuracy.digest!r} is no SHA-256 in hexadecimal; {_REMEDY}")
    return accuracy


def write_accuracy(path: Path, accuracy: Accuracy) -> None:
    """Whole or not at all. ValueError for what could not be read again."""
    if not accuracy.correct:
        raise ValueError(
            f"accuracy of {accuracy.model} under {accuracy.recipe} holds no problem; nothing to store"
        )
    write_atomic(path, msgspec.json.encode(accuracy) + b"\n")
