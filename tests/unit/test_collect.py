"""Collecting without running: which cases, where their tests stand, and pytest's own words when it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SUITE = """
import qbench
def free(x): return lambda: x
op = qbench.Op("double", lambda w, d: (), lambda: None, qbench.exact, lambda w: qbench.Cost(8))
made = qbench.cases(op, [free], [qbench.Workload.of(m=m) for m in (1, 16)])

@qbench.parametrize(made)
def test_double(case): raise AssertionError("collecting must run nothing")

def test_other(): pass
"""
PRINT = """
import sys
from qbench.collect import collect
found = collect(sys.argv[1:])
for each in found or ():
    print(each.case.id, each.file, each.line, each.node)
sys.exit(found is None)
"""


def collect(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run([sys.executable, "-c", PRINT, *words], cwd=folder, env=environment, capture_output=True,
                          text=True, check=False, timeout=120)  # fmt: skip


def test_cases_come_with_the_place_of_their_test(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_suite.py").write_text(SUITE)
    done = collect(tmp_path, "tests")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"double/free[m={m}] tests/test_suite.py 7 tests/test_suite.py::test_double[double/free[m={m}]]"
        for m in (1, 16)
    ]
    assert len(collect(tmp_path, "-k", "16", "tests").stdout.splitlines()) == 1


def test_what_cannot_be_collected_is_none_with_pytests_words(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    none = collect(tmp_path, "-k", "nothing")
    assert (none.returncode, none.stdout) == (1, "")
    assert "qbench: no cases collected with: pytest -k nothing" in none.stderr
    (tmp_path / "test_broken.py").write_text("import no_such_module")
    broken = collect(tmp_path)
    assert broken.returncode == 1
    assert "No module named 'no_such_module'" in broken.stderr
