"""The gate catches performance bugs planted in the kernels, in words, and is silent about changes that are none.

The change is compiled beside the unchanged kernel, and judged as the gate judges, so no stored baseline is involved.
Runs with --qbench-compile.
"""

from __future__ import annotations

import pytest

from qbench.aot.judge import Outcome
from tests.compile.bugs import BUGS, NO_BUGS
from tests.compile.planting import Change, Comparison, compare
from tests.compile.toys import toys

pytestmark = pytest.mark.qbench_compile


@pytest.fixture(scope="module")
def comparisons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Comparison]:
    return compare([*BUGS, *NO_BUGS], tmp_path_factory.mktemp("planted"), toys())


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_worse_and_named(bug: Change, comparisons: dict[str, Comparison]) -> None:
    verdicts = comparisons[bug.name].verdicts()
    said = "; ".join(verdict.words for verdict in verdicts)
    assert Outcome.WORSE in [verdict.verdict for verdict in verdicts], said
    for words in bug.words:
        assert words in said


@pytest.mark.parametrize("change", NO_BUGS, ids=lambda change: change.name.replace(" ", "-"))
def test_what_is_no_bug_is_the_same(change: Change, comparisons: dict[str, Comparison]) -> None:
    assert [(v.verdict, v.words) for v in comparisons[change.name].verdicts()] == [
        (Outcome.SAME, "") for _ in comparisons[change.name].before
    ]
