"""A repository of its own for the gate's tests: cases that sleep for a known time, in two revisions.

Sleeping, not spinning: what a busy machine adds to a sleep of milliseconds is small against the sleeps' own twofold
differences, which are all that these tests assert.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from qbench.baseline import Store
from qbench.device import describe
from qbench.result import Result, Run, Times

ROOT = Path(__file__).resolve().parents[1]

SUITE = """
import os, signal, time
import torch
import qbench
from naps import NAPS

def provider(name, what):
    @qbench.provider(name)
    def prepare(x):
        if what == "unsupported":
            raise qbench.Unsupported("the library is not installed")
        def run():
            if what == "raises":
                raise RuntimeError("no kernel image | for\\nthis <device>")
            if what == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "hangs":
                with open(os.environ["NAP_PIDS"], "a") as file:
                    print(os.getpid(), os.getppid(), file=file)
                time.sleep(1000)
            if what == "exits":
                os._exit(5)
            time.sleep(2e-3 if what == "wrong" else what / 1e3)
            return x + (what == "wrong")
        return run
    return prepare

op = qbench.Op("nap", lambda w, d: (torch.ones(4, device=d),), lambda x: x, qbench.exact, lambda w: qbench.Cost(16))

@qbench.parametrize(qbench.cases(op, [provider(*each) for each in NAPS.items()], [qbench.Workload.of(m=1)]))
def test_nap(case, qbench):
    qbench(case)
"""
POLICY = """
[tool.qbench.gate]
alpha = 0.01
h0 = 0.1
least_effect = 0.3
prior_sd = 0.05
noisy_sd = 0.1
min_pairs = 3
max_pairs = 16
least_df = 2
shift = 0.5
case_s = 4
"""
Naps = dict[str, float | str]


def case(name: str) -> str:
    return f"nap/{name}[m=1]"


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=gate", "-c", "user.email=gate@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write(folder: Path, naps: Naps) -> None:
    (folder / "tests" / "bench").mkdir(parents=True, exist_ok=True)
    (folder / "tests" / "bench" / "test_naps.py").write_text(SUITE)
    (folder / "naps.py").write_text(f"NAPS = {naps!r}\n")


def repository(folder: Path, base: Naps, candidate: Naps | None = None, policy: str = POLICY) -> Path:
    """A repository with `base` committed, and `candidate` in the working tree."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet")
    (folder / "pyproject.toml").write_text(policy)
    (folder / ".gitignore").write_text("__pycache__/\n.pytest_cache/\nreports/\n")
    write(folder, base)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "the base: `naps` | <all>")
    if candidate is not None:
        write(folder, candidate)
    return folder


def environment(**more: str) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "PYTEST_"))}
    return {**found, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "NAP_PIDS": os.devnull, **more}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "qbench", *words]


def run(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`python -m qbench …` there."""
    return subprocess.run(command(*words), cwd=folder, env=environment(**more), capture_output=True, text=True,
                          timeout=300, check=False)  # fmt: skip


def store(folder: Path, names: list[str]) -> None:
    """Two runs of each case in the baselines of this machine, in one file."""
    times = Times(2e6, 2e6, 2e6, 10, 1, 1, "wall", False)
    results = tuple(Result(case(name), "nap", name, {}, "ok", times=times) for name in names)
    for session in ("s1", "s2"):
        run = Run(1, "2026-01-01T00:00:00+00:00", describe(), {}, results)
        Store(folder / "baselines", describe()).update(run, session, "append")
