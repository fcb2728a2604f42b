"""One revision's measuring process: it imports what takes long, then forks a fresh process for every request.

A fork that has touched no GPU is as fresh as a new process (its own CUDA context, its own memory placement, which is
where run-to-run noise comes from) and saves importing torch and Triton, several seconds each time. Tests are collected
in the fork, because collecting may ask the GPU what it is.

The gate may be killed outright. Then stdin ends, and the worker ends at once with all that it forked, also in the midst
of a case that would never have ended.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import msgspec

from qbench.case import Case, Thunk, Unsupported, provider_info
from qbench.gate.protocol import TAINTED, Answer, End, Facts, Outcome, Place, Ready, Request, Waiting

if TYPE_CHECKING:
    from qbench.measure import Bench, Trial


# What each fork would import for itself otherwise. hypothesis: its pytest plugin loads it when a session ends;
# torch._dynamo: some ordinary tensor methods load it when first called (3 s on a slow machine).
_PRELOADED = (
    "pytest",
    "pytest_benchmark.plugin",
    "hypothesis",
    "scipy.stats",
    "torch._dynamo",
    "triton",
    "qbench.collect",
    "qbench.measure",
)


def main(pytest_args: Sequence[str]) -> int:
    """Serve requests until stdin ends."""
    import torch

    for name in _PRELOADED:
        with contextlib.suppress(ImportError):  # not all of them are everywhere
            importlib.import_module(name)
    assert not torch.cuda.is_initialized(), "a fork of a process that holds a CUDA context cannot use the GPU"
    gc.collect()
    gc.freeze()  # a fork that collects garbage would look at all of it, half a second, and copy it
    answers = os.fdopen(int(os.environ["QBENCH_GATE_FD"]), "wb", buffering=0)
    bell = _child_bell()
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line, type=Request)
        child = os.fork()
        if child == 0:
            _be_child(request, pytest_args, answers)
        code = _wait(child, bell)
        answers.write(b"\n")  # a child that was killed may have left half a line
        _say(answers, End(code))
    return 0


def _be_child(request: Request, pytest_args: Sequence[str], answers: IO[bytes]) -> NoReturn:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # requests are not for those who read stdin
        code = _serve(request, pytest_args, answers)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # no atexit handlers of the parent's


def _child_bell() -> int:
    """A descriptor that becomes readable when a child ends."""
    bell, hammer = os.pipe()
    os.set_blocking(hammer, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(hammer, warn_on_full_buffer=False)
    return bell


def _wait(child: int, bell: int) -> int:
    """The child's exit status. Does not return when stdin ends before: the gate is gone."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        ready = select.select([0, bell], [], [])[
            0
        ]  # requests come one at a time: stdin is silent until it ends
        if bell in ready:
            os.read(bell, 4096)
        elif os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        else:  # started by hand, in somebody's process group
            os.kill(child, signal.SIGKILL)
            os._exit(1)


def _serve(request: Request, pytest_args: Sequence[str], answers: IO[bytes]) -> int:
    """In the forked process: collect, then measure what was asked for; the exit status."""
    from qbench.collect import collect
    from qbench.device import describe, versions
    from qbench.measure import Bench
    from qbench.timing import TimingPolicy

    # Configuration and conftest.py are this tree's, also where a folder above it has some: a worktree of the base
    # lies within the candidate's.
    here = str(Path.cwd())
    found = collect(["--rootdir", here, "--confcutdir", here, "--disable-warnings", *pytest_args])
    if not request.cases:
        problem = "" if found else f"no cases are collected in {here} with: pytest {' '.join(pytest_args)}"
        places = {each.case.id: Place(each.file, each.line, each.node) for each in found or ()}
        _say(answers, Facts(os.getpid(), describe(), versions()))
        _say(answers, Ready(places, problem, strangers(request.avoid)))
        return 0
    bench = Bench.open(TimingPolicy())
    bench.say = lambda words: _say(answers, Waiting(words))
    _say(answers, Facts(os.getpid(), describe(), versions()))
    return _measure(bench, request, {each.case.id: each.case for each in found or ()}, answers)


def strangers(avoid: str) -> tuple[str, ...]:
    """Modules that were imported from the tree `avoid`; what is installed there (a virtual environment), the harness
    itself and this tree, which may lie within, are not meant.
    """
    if not avoid:
        return ()
    meant = (Path.cwd().resolve(), Path(sys.prefix).resolve(), Path(__file__).resolve().parents[1])
    found = []
    for name, module in list(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or os.devnull).resolve()
        if path.is_relative_to(Path(avoid).resolve()) and not any(
            path.is_relative_to(each) for each in meant
        ):
            found.append(f"{name} ({path})")
    return tuple(found[:20])


def _measure(bench: Bench, request: Request, cases: dict[str, Case], answers: IO[bytes]) -> int:
    from qbench.check import WrongResult

    for name in request.cases:
        if name not in cases:
            _say(answers, Outcome(name, "error", reason="was collected before, and is not this time"))
            continue
        case = cases[name]
        if name in request.inject_ns:
            case = inject(case, request.inject_ns[name])
        try:
            outcome = Outcome(name, "ok", bench.measure(case).times)
        except Unsupported as error:
            outcome = Outcome(name, "unsupported", reason=str(error))
        except WrongResult as error:
            outcome = Outcome(name, "wrong", reason=str(error)[:2000])
        except Exception as error:
            outcome = Outcome(name, "error", reason=f"{type(error).__name__}: {error}"[:2000])
        _say(answers, outcome)
        if outcome.status == "error" and not _gpu_works():
            return TAINTED
    return 0


def _gpu_works() -> bool:
    """After an illegal access every later call of this process fails, whoever makes it."""
    import torch

    if not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def inject(case: Case, extra_ns: float) -> Case:
    """The case with its provider made slower by about `extra_ns` a call: a spin on the GPU, a busy wait on a CPU.

    An op that measures in its own way waits once in each timed part.
    """
    if (own := case.op.trial) is not None:

        def slower_trial(case: Case, bench: Bench) -> Trial:
            trial = own(case, bench)
            trial.delay = _pause(extra_ns)
            return trial

        return replace(case, op=replace(case.op, trial=slower_trial))
    prepare = case.provider

    def slower(*inputs: Any) -> Thunk:
        thunk, pause = prepare(*inputs), _pause(extra_ns)

        def run() -> Any:
            pause()
            return thunk()

        return run

    slower.__qbench_provider__ = provider_info(prepare)  # type: ignore[attr-defined]
    return replace(case, provider=slower)


def _pause(extra_ns: float) -> Callable[[], None]:
    import time

    import torch

    if torch.cuda.is_available():
        # a spin is a launch of its own, about 0.7 us (H200); its cycles are the SM clock's
        mhz = torch.cuda.get_device_properties(torch.cuda.current_device()).clock_rate / 1e3
        cycles = max(1, int((extra_ns - 700) * mhz / 1e3))
        return lambda: torch.cuda._sleep(cycles)

    def busy() -> None:
        until = time.perf_counter_ns() + extra_ns
        while time.perf_counter_ns() < until:
            pass

    return busy


def _say(answers: IO[bytes], answer: Answer) -> None:
    answers.write(msgspec.json.encode(answer) + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
