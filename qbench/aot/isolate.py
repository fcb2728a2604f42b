"""Work in processes of their own, for a compiler may die: of an assertion, of memory, or never end.

Each task runs in a fork of this process, which has the kernels and has imported everything, and so starts in 20 ms.
It gets a folder for whatever it or its tools write, and cannot leave anything behind: the folder is removed, and the
whole process group is killed, when it has ended, when its time is over, and when this process is interrupted.
What it prints is kept for the error message only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Task = Callable[[Path], Any]
"""Gets its folder; what it returns must be JSON."""

_POLL_S = 0.003
_CANNOT_START = 120  # exit status of a child that could not even settle
_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    value    what it returned
    raised   the exception that ended it, in the words of `describe`
    status   how else it ended: "died of SIGABRT", "was not done after 300 s"
    printed  the end of its output
    """

    value: Any = None
    status: str = ""
    raised: str = ""
    printed: str = ""


@dataclass
class _Child:
    place: int
    pid: int
    folder: Path
    deadline: float


def isolated(
    tasks: Sequence[Task],
    *,
    jobs: int,
    timeout_s: float,
    memory_bytes: int,
    describe: Callable[[BaseException], str],
) -> list[Outcome]:
    """Run the tasks, `jobs` at a time; outcomes in the order of the tasks.

    timeout_s     of each task
    memory_bytes  that a task may take beyond what this process has
    describe      turns an exception of a task into words, in its process
    """
    outcomes: list[Outcome | None] = [None] * len(tasks)
    waiting = list(range(len(tasks)))
    running: list[_Child] = []
    scratch = Path(tempfile.mkdtemp(prefix="qbench-compile-"))
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                place = waiting.pop(0)
                folder = scratch / str(place)
                folder.mkdir()
                pid = _fork(tasks[place], folder, memory_bytes, describe)
                running.append(_Child(place, pid, folder, time.monotonic() + timeout_s))
            for child in list(running):
                if (outcome := _ended(child, timeout_s)) is not None:
                    running.remove(child)
                    outcomes[child.place] = outcome
                    shutil.rmtree(child.folder, ignore_errors=True)
            time.sleep(_POLL_S)
    finally:
        for child in running:
            _kill(child.pid)
            os.waitpid(child.pid, 0)
        shutil.rmtree(scratch, ignore_errors=True)
    assert all(outcome is not None for outcome in outcomes)
    return [outcome for outcome in outcomes if outcome is not None]


def _ended(child: _Child, timeout_s: float) -> Outcome | None:
    """What came of a child, or None while it runs."""
    look = os.WEXITED | os.WNOHANG | os.WNOWAIT  # leaves it to be waited for, so its number stays its own
    over = os.waitid(os.P_PID, child.pid, look) is not None
    if not over and time.monotonic() < child.deadline:
        return None
    _kill(child.pid)  # also the tools it started, which may outlive it
    _, status = os.waitpid(child.pid, 0)
    if not over:
        return Outcome(status=f"was not done after {timeout_s:g} s", printed=_printed(child.folder))
    code = os.waitstatus_to_exitcode(status)
    try:
        answer = json.loads((child.folder / "answer.json").read_bytes())
    except (OSError, ValueError):
        answer = None
    if code == 0 and answer is not None:
        return Outcome(value=answer["value"], raised=answer["raised"], printed=_printed(child.folder))
    died = f"died of {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
    return Outcome(status=died, printed=_printed(child.folder))


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # the group exists once the child has made it
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _printed(folder: Path, most: int = 200_000) -> str:
    try:
        with open(folder / "output.txt", "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - most))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _fork(task: Task, folder: Path, memory_bytes: int, describe: Callable[[BaseException], str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or the child would print it again
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of torch: the child uses none
        pid = os.fork()
    if pid:
        return pid
    code = _CANNOT_START
    try:
        _settle(folder, memory_bytes)
        answer: dict[str, Any] = {"value": None, "raised": ""}
        try:
            answer["value"] = task(folder)
        except BaseException as error:
            answer["raised"] = describe(error)
        (folder / "answer.json").write_text(json.dumps(answer))
        code = 0
    finally:
        os._exit(code)  # no clean-up of the parent's: its buffers, threads and exit handlers are copies


def _settle(folder: Path, memory_bytes: int) -> None:
    """In the child: a group of its own, output and temporary files into the folder, no core dumps, first to die."""
    import ctypes
    import faulthandler
    import gc
    import resource

    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a process that is killed takes its children
    gc.disable()  # collecting would copy the parent's pages
    faulthandler.disable()  # it would report a crash on the parent's terminal
    for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(caught, signal.SIG_DFL)
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, taken in enumerate((nothing, output, output)):
        os.dup2(taken, number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _least, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = used + memory_bytes
    resource.setrlimit(
        resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
    )
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = str(folder)
