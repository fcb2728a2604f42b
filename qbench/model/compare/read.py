"""The files of a comparison, told apart by what they hold: runs, accuracies, published tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qbench.model.accuracy import Accuracy, read_accuracy
from qbench.model.compare.gpus import gpu_names
from qbench.model.compare.measured import DECODE, PREFILL
from qbench.model.sample.published import Published, read_published
from qbench.result import DataError, Run, read_json, read_run

OPS = (DECODE, PREFILL)


@dataclass(frozen=True)
class Inputs:
    """What was read, each beside the name by which it is spoken of (its path)."""

    runs: tuple[tuple[str, Run], ...] = ()
    accuracies: tuple[tuple[str, Accuracy], ...] = ()
    published: tuple[tuple[str, Published], ...] = ()

    @property
    def gpus(self) -> dict[str, str]:
        """What each device is called, by its key: the same in all tables."""
        devices = [run.device for _, run in self.runs]
        return gpu_names([*devices, *(each.device for _, each in self.accuracies)])

    @property
    def has_models(self) -> bool:
        """Is there anything about whole models?"""
        measured = any(result.op in OPS for _, run in self.runs for result in run.results)
        return measured or bool(self.accuracies or self.published)


def read_inputs(paths: Iterable[Path]) -> Inputs:
    """Read every file by its kind. Raises DataError for one that is none of the three, or broken."""
    runs, accuracies, published = [], [], []
    for path in paths:
        keys = _keys(path)
        if "correct" in keys:
            accuracies.append((str(path), read_accuracy(path)))
        elif "rows" in keys:
            published.append((str(path), read_published(path)))
        else:  # a results.json, or something else that the strict reader names
            runs.append((str(path), read_run(path)))
    return Inputs(tuple(runs), tuple(accuracies), tuple(published))


def _keys(path: Path) -> set[str]:
    try:
        return set(
            read_json(path, dict[str, Any], "give a results.json, an accuracy file or a published table")
        )
    except DataError:
        return set()  # read_run says what is wrong, and where
