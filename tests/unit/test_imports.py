"""The directions of imports, and what loading the plugin costs somebody else's `pytest --help`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "triton", "scipy", "hypothesis", "matplotlib", "rich", "qkernels")

# A plugin that writes, after everything is loaded and the help is printed, which modules that took.
WITNESS = """
import json, os, sys

def pytest_unconfigure(config):
    with open(os.environ["WITNESS"], "w") as file:
        json.dump({"modules": sorted(sys.modules), "qbench": config.pluginmanager.has_plugin("qbench")}, file)
"""


def lint(folder: Path) -> tuple[int, str]:
    """import-linter on a tree with this repository's contracts."""
    command = (
        "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache', '--no-logo'])"
    )
    paths = os.pathsep.join((str(folder), str(folder / "kernels")))
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def test_the_import_rules_hold() -> None:
    status, said = lint(ROOT)
    assert status == 0, said


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("qbench/stats.py", "import qkernels", "qbench knows nothing of quantization BROKEN"),
        ("qbench/stats.py", "import qbench.baseline", "layers of qbench BROKEN"),
        ("qbench/new.py", "", "layers of qbench BROKEN"),
        ("qbench/gate/rule.py", "import qbench.gate.run", "layers of qbench.gate BROKEN"),
        ("kernels/qkernels/format.py", "import qkernels.quantize", "layers of qkernels BROKEN"),
        ("kernels/qkernels/format.py", "import qbench.stats", "gives BROKEN"),
    ],
)
def test_a_forbidden_import_breaks_its_contract(file: str, line: str, contract: str, tmp_path: Path) -> None:
    for part in ("qbench", "kernels"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as planted:
        planted.write(f"\n{line}\n")
    status, said = lint(tmp_path)
    assert status == 1
    assert contract in said


def modules_of_pytest(folder: Path, *arguments: str) -> dict[str, object]:
    """The modules of a pytest process in a folder that has nothing to do with this repository."""
    (folder / "witness.py").write_text(WITNESS)
    seen = folder / "seen.json"
    environment = {**os.environ, "WITNESS": str(seen), "PYTHONPATH": str(folder)}
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-p", "witness", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED), (
        done.stdout + done.stderr
    )
    assert "--qbench-update" in done.stdout or "--help" not in arguments
    found: dict[str, object] = json.loads(seen.read_text())
    return found


@pytest.mark.parametrize("arguments", [("--help",), ("--collect-only",)], ids=" ".join)
def test_loading_the_plugin_imports_nothing_heavy(arguments: tuple[str, ...], tmp_path: Path) -> None:
    seen = modules_of_pytest(tmp_path, *arguments, "-p", "no:hypothesispytest")
    assert seen["qbench"], "the plugin was not loaded, so this test would show nothing"
    assert not set(HEAVY) & set(seen["modules"])  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "words", [["gate", "--help"], ["history", "nowhere"], ["accept", "--help"]], ids=" ".join
)
def test_commands_that_measure_nothing_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    program = (
        "import json, sys\nfrom qbench.__main__ import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    assert "qbench.gate.cli" in seen
    assert not {*HEAVY, "numpy"} & set(seen)
