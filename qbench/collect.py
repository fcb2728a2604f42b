"""The cases that pytest would run, without running them: what they are and where their tests stand."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.case import Case

if TYPE_CHECKING:
    import pytest


@dataclass(frozen=True)
class Found:
    """A case and its test: file relative to pytest's root, line counted from 1, node id."""

    case: Case
    file: str
    line: int
    node: str


def collect(pytest_args: Sequence[str]) -> list[Found] | None:
    """What pytest selects with these arguments, each case once; None, with pytest's words, when there are none."""
    import pytest

    collector = _Collector()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = pytest.main(["--collect-only", "-q", *pytest_args], plugins=[collector])
    if code == pytest.ExitCode.OK and collector.found:
        return list({each.case.id: each for each in collector.found}.values())
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        print(said.getvalue(), file=sys.stderr)
    print(f"qbench: no cases collected with: pytest {' '.join(pytest_args)}", file=sys.stderr)
    return None


class _Collector:
    """A pytest plugin that keeps the case of every selected item."""

    def __init__(self) -> None:
        self.found: list[Found] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            case = getattr(getattr(item, "callspec", None), "params", {}).get("case")
            if isinstance(case, Case):
                file, line, _ = item.location
                self.found.append(Found(case, file, (line or 0) + 1, item.nodeid))
