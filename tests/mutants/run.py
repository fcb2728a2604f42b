"""Run checks on mutants: one forked child for each, so that no mutant meets the modules of another.

The parent imports what is slow and never mutated (torch, Triton, numpy, hypothesis) and none of the packages; a
child starts in milliseconds, puts its own copy of the packages first and runs its checks one after the other.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tests.mutants.mutant import Mutant, Target, plant

CAUGHT, MISSED, OUT_OF_BOUNDS, DIED, CRASHED, TIMED_OUT = (
    "caught",
    "missed",
    "out of bounds",
    "died as declared",
    "crashed",
    "timed out",
)
NOTICED = (CAUGHT, OUT_OF_BOUNDS, DIED)
_RAISED = re.compile(r"raised (\w+): ")  # a provider's own error, in a check's report
_OUTSIDE = ("IndexError", "OutOfBounds")


@dataclass(frozen=True)
class Outcome:
    """What one check made of one mutant (None: of the correct packages)."""

    mutant: Mutant | None
    target: Target
    verdict: str
    message: str
    seconds: float  # of the CPU, so that a busy machine shows the same

    @property
    def noticed(self) -> bool:
        return self.verdict in NOTICED


@dataclass(frozen=True)
class Task:
    """Checks for one child, in order; `stop_when_noticed`: those after the first that notices are not run."""

    mutant: Mutant | None
    targets: Sequence[Target]
    stop_when_noticed: bool = True


@dataclass
class _Child:
    task: Task
    process: Any
    pipe: Connection
    outcomes: list[Outcome] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)


def prepare() -> None:
    """Import what the children share. One thread each: the jobs are what runs in parallel."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import hypothesis  # noqa: F401
    import ml_dtypes  # noqa: F401
    import numpy  # noqa: F401
    import scipy.linalg  # noqa: F401
    import torch
    import torch._dynamo
    import triton
    import triton.language
    import triton.runtime.interpreter  # noqa: F401

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # the collector of a child would touch, and so copy, all of the parent's memory
    loaded = {name.partition(".")[0] for name in sys.modules} & {"qkernels", "qbench"}
    assert not loaded, f"{loaded} imported before the fork: every child would run the unchanged code"


def run(tasks: Iterable[Task], *, snapshot: Path, jobs: int, limit_s: float) -> Iterator[list[Outcome]]:
    """The outcomes of each task, as they finish. A check that takes longer than `limit_s` is stopped."""
    waiting = list(tasks)[::-1]
    running: list[_Child] = []
    context = get_context("fork")
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        made = 0
        while waiting or running:
            while waiting and len(running) < jobs:
                task, made = waiting.pop(), made + 1
                receive, send = context.Pipe(duplex=False)
                folder = Path(scratch) / str(made)
                process = context.Process(target=_child, args=(task, snapshot, folder, send))
                process.start()
                send.close()
                running.append(_Child(task, process, receive))
            wait([child.pipe for child in running], timeout=1.0)
            for child in list(running):
                if _collect(child, limit_s):
                    running.remove(child)
                    yield child.outcomes


def _collect(child: _Child, limit_s: float) -> bool:
    """Take what the child has sent; True when nothing more will come."""
    target = child.task.targets[min(len(child.outcomes), len(child.task.targets) - 1)]
    try:
        while child.pipe.poll():
            verdict, message, seconds = child.pipe.recv()
            target = child.task.targets[len(child.outcomes)]
            child.outcomes.append(Outcome(child.task.mutant, target, verdict, message, seconds))
            child.since = time.monotonic()
    except EOFError:
        child.process.join()
        unfinished = len(child.outcomes) < len(child.task.targets)
        stopped = child.task.stop_when_noticed and child.outcomes and child.outcomes[-1].noticed
        if unfinished and not stopped:
            text = f"the process ended with exit code {child.process.exitcode}"
            target = child.task.targets[len(child.outcomes)]
            child.outcomes.append(Outcome(child.task.mutant, target, CRASHED, text, 0.0))
        return True
    if time.monotonic() - child.since <= limit_s:
        return False
    child.process.kill()
    child.process.join()
    target = child.task.targets[len(child.outcomes)]
    child.outcomes.append(
        Outcome(child.task.mutant, target, TIMED_OUT, f"no result in {limit_s:.0f} s", limit_s)
    )
    return True


def _child(task: Task, snapshot: Path, folder: Path, pipe: Connection) -> None:
    folder.mkdir()
    plant(task.mutant, snapshot, folder)
    os.chdir(folder)  # hypothesis keeps its failing examples here: one mutant's are nothing to another
    sys.path.insert(0, str(folder))
    dies = task.mutant.dies if task.mutant else ""
    try:
        find = _load(folder)
    except Exception as error:
        pipe.send((DIED if type(error).__name__ == dies else CRASHED, f"on import: {_said(error)}", 0.0))
        return
    for target in task.targets:
        start = time.process_time()
        verdict, message = attempt(find(target), dies)
        pipe.send((verdict, message, time.process_time() - start))
        if task.stop_when_noticed and verdict in NOTICED:
            return


def _load(folder: Path) -> Callable[[Target], Callable[[], None]]:
    import hypothesis

    import qkernels

    assert Path(qkernels.__file__).is_relative_to(folder), f"qkernels came from {qkernels.__file__}"
    from tests.mutants.checks import check_of, set_up

    hypothesis.settings.register_profile("mutants", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutants")
    set_up()
    return check_of


def attempt(check: Callable[[], None], dies: str) -> tuple[str, str]:
    """(verdict, the beginning of what the check said)."""
    try:
        check()
    except AssertionError as error:  # WrongResult is one; it may report what the kernel raised
        raised = _RAISED.search(str(error))
        return (CAUGHT if raised is None else _died(raised[1], dies)), _said(error)
    except IndexError as error:
        return OUT_OF_BOUNDS, _said(error)
    except Exception as error:
        return _died(type(error).__name__, dies), _said(error)
    return MISSED, ""


def _died(error: str, dies: str) -> str:
    if error in _OUTSIDE:
        return OUT_OF_BOUNDS
    return DIED if error == dies else CRASHED


def _said(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' | '.join(lines[:4])}"[:300]
