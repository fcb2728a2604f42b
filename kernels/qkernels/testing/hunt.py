"""Hypothesis as a search: draw inputs until one fails, shrink it, remember it for the next run.

The database is that of the settings in force (`.hypothesis` by default); the key is the quantizer, its format and
options and the check, so that each finds its own failures again, and first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from hypothesis import Phase, Verbosity, find, settings
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy

from qbench import Mismatch
from qkernels.testing.inputs import Sample

_PHASES = (Phase.reuse, Phase.generate, Phase.shrink)


def hunt(
    strategy: SearchStrategy[Sample],
    judge: Callable[[Sample], Mismatch | None],
    *,
    key: str,
    examples: int,
    shrink_runs: int,
) -> tuple[Sample, Mismatch] | None:
    """The smallest failing sample found among so many examples, or None.

    What has failed once is not run again while shrinking, so that a quantizer that is not deterministic cannot
    confuse it; after shrink_runs further runs nothing new is tried.
    """
    failures: dict[tuple[str, str, str], tuple[Sample, Mismatch]] = {}
    spent = 0

    def fails(sample: Sample) -> bool:
        nonlocal spent
        if sample.key in failures:
            return True
        if failures:
            spent += 1
            if spent > shrink_runs:
                return False
        wrong = judge(sample)
        if wrong is not None:
            failures[sample.key] = sample, wrong
        return wrong is not None

    chosen = settings(
        max_examples=examples,
        deadline=None,
        phases=_PHASES,
        verbosity=Verbosity.quiet,
        stateful_step_count=1,
        print_blob=False,
    )
    try:
        found = find(strategy, fails, settings=chosen, database_key=hashlib.sha256(key.encode()).digest())
    except NoSuchExample:
        return None
    return failures[found.key]
