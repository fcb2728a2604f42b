"""A gate that is killed in the midst of a case: workers and worktree go with it, baselines stay as they were."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from qbench.gate.worktree import HOME, worktree
from tests import gates


def wait_for(what: str, condition: object, limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what} did not happen within {limit_s} s"
        time.sleep(0.05)


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_gate_that_is_killed_takes_its_workers_along_and_harms_nothing(
    number: signal.Signals, tmp_path: Path
) -> None:
    root = gates.repository(tmp_path / "repository", {"stuck": "hangs"}, {"stuck": "hangs", "more": 1.0},
                            gates.POLICY.replace("case_s = 4", "case_s = 1000"))  # fmt: skip
    gates.store(root, ["stuck"])
    before = {path: path.read_bytes() for path in (root / "baselines").rglob("*.json")}
    pids = tmp_path / "pids"
    with subprocess.Popen(gates.command("gate", "--base", "HEAD"), cwd=root, env=gates.environment(NAP_PIDS=str(pids)),
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:  # fmt: skip
        wait_for("the first case", lambda: pids.exists() and pids.read_text().endswith("\n"))
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    child, worker = (int(each) for each in pids.read_text().split()[:2])
    for name, each in (("the measuring process", child), ("its worker", worker)):
        wait_for(f"the end of {name}", lambda each=each: gone(each), 20)
    assert {path: path.read_bytes() for path in (root / "baselines").rglob("*") if path.is_file()} == before
    if number == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM
        assert "ended by SIGTERM, no verdict" in said
        assert list((root / ".git" / HOME).iterdir()) == []
    with worktree(root, "HEAD") as place:  # the next gate's
        assert (place / "naps.py").exists()
    assert list((root / ".git" / HOME).iterdir()) == []
    assert gates.git(root, "worktree", "list", "--porcelain").count("worktree ") == 1
