"""Tasks that die, hang, eat memory or print do no harm and are told of."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from qbench.aot.failure import describe, reason
from qbench.aot.isolate import Outcome, Task, isolated


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def run(*tasks: Task, timeout_s: float = 30, memory_bytes: int = 1 << 30, jobs: int = 2) -> list[Outcome]:
    return isolated(tasks, jobs=jobs, timeout_s=timeout_s, memory_bytes=memory_bytes, describe=describe)


def test_values_come_back_in_order_from_processes_of_their_own(scratch: Path) -> None:
    def task(number: int, folder: Path) -> object:
        time.sleep(0.05 * (3 - number))
        (folder / "left").write_text("behind")
        return {"number": number, "pid": os.getpid()}

    outcomes = run(*(lambda folder, n=n: task(n, folder) for n in range(3)))
    assert [each.value["number"] for each in outcomes] == [0, 1, 2]
    assert os.getpid() not in {each.value["pid"] for each in outcomes}
    assert list(scratch.iterdir()) == []


def test_an_assertion_of_the_compiler_is_one_line(capfd: pytest.CaptureFixture[str], scratch: Path) -> None:
    def task(folder: Path) -> None:
        os.write(
            2,
            b"module {\n" + b"  junk\n" * 50_000 + b"python: Pass.cpp:7: run: Assertion `rank > 0' failed.\n",
        )
        os.abort()

    (outcome,) = run(task)
    assert reason(outcome) == "the compiler died of SIGABRT: rank > 0"
    assert capfd.readouterr() == ("", "")
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import ctypes; ctypes.string_at(0)", "the compiler died of SIGSEGV"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "the compiler died of SIGKILL: killed from outside, most likely for want of memory",
        ),
        ("import os; os._exit(3)", "the compiler exited with status 3"),
        ("b = bytearray(1 << 34)", "out of memory"),
        ("raise RuntimeError('PassManager::run failed')", "RuntimeError: PassManager::run failed"),
        ("raise ValueError('of\\nthree\\n  lines')", "ValueError: of three lines"),
    ],
)  # fmt: skip
def test_other_deaths(code: str, said: str) -> None:
    dead, alive = run(lambda folder: exec(code), lambda folder: "alive")
    assert reason(dead) == said
    assert alive.value == "alive"


def test_time_ends_and_takes_the_tools_with_it(tmp_path: Path) -> None:
    noted = tmp_path / "pid"

    def task(folder: Path) -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        noted.write_text(str(child.pid))
        child.wait()

    start = time.monotonic()
    (outcome,) = run(task, timeout_s=0.5)
    assert reason(outcome) == "the compiler was not done after 0.5 s"
    assert time.monotonic() - start < 10
    for _ in range(200):
        state = Path(f"/proc/{noted.read_text()}/stat")
        if not state.exists() or state.read_text().split(") ")[1][0] == "Z":
            return
        time.sleep(0.01)
    pytest.fail("a tool that the task started is still running")


def test_an_interruption_leaves_nothing(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(lambda folder: subprocess.run(["sleep", "60"]))
    assert list(scratch.iterdir()) == []
