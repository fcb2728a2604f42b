"""Compile recorded launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qbench.aot.launch import Launch
from qbench.aot.metrics import Metrics


@dataclass(frozen=True)
class Built:
    """What came of one launch: its metrics, or one line that says why there are none."""

    launch: Launch
    metrics: Metrics | None
    error: str = ""


def build(launches: Sequence[Launch], *, jobs: int = 2, cache: bool = True) -> list[Built]:
    """Compile each launch in a process of its own, `jobs` at a time, in the order given."""
    raise NotImplementedError
