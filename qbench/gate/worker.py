"""One revision's measuring process: it imports what takes long, then forks a fresh process for every request.

A fork that has touched no GPU is as fresh as a new process (its own CUDA context, its own memory placement, which is
where run-to-run noise comes from) and saves importing torch and Triton, several seconds each time. Tests are collected
in the fork, because collecting may ask the GPU what it is.

Protocol: one JSON value a line. Requests on stdin, answers on the descriptor named by QBENCH_GATE_FD; stdout and stderr
belong to whatever pytest and the kernels print. A request is the list of case ids to measure, in order, with the
extra work to inject by case (self-test; see `inject`). Answers: `Facts`, `Ready` (on a request of no cases),
`Outcome` after each case, then `End`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import IO, Any

import msgspec
from msgspec import Struct

from qbench.case import Case, Thunk, Unsupported, provider_info
from qbench.result import Device, Times


class Place(Struct, frozen=True):
    """Where a case's test stands: file relative to the root, line from 1, pytest's node id."""

    file: str
    line: int
    node: str


class Ready(Struct, frozen=True, tag="ready"):
    """What can be measured here, or why nothing can."""

    cases: dict[str, Place] = {}
    problem: str = ""


class Request(Struct, frozen=True):
    cases: tuple[str, ...]
    inject_ns: dict[str, float] = {}


class Outcome(Struct, frozen=True, tag="outcome"):
    """One case in one process: its times, or why there are none. status: ok, unsupported, wrong, error."""

    case: str
    status: str
    times: Times | None = None
    reason: str = ""


class Facts(Struct, frozen=True, tag="facts"):
    """What the forked process ran on."""

    device: Device
    versions: dict[str, str]


class End(Struct, frozen=True, tag="end"):
    """The forked process is over; `code` is its exit status, negative for a signal."""

    code: int


Answer = Ready | Outcome | Facts | End
_PRELOADED = (
    "pytest",
    "pytest_benchmark.plugin",
    "scipy.stats",
    "triton",
    "qbench.collect",
    "qbench.measure",
)
ENCODER = msgspec.json.Encoder()


def main(pytest_args: Sequence[str]) -> int:
    """Serve requests until stdin ends."""
    import torch

    for name in _PRELOADED:
        with contextlib.suppress(ImportError):  # Triton is not on every platform
            importlib.import_module(name)
    assert not torch.cuda.is_initialized(), "a fork of a process that holds a CUDA context cannot use the GPU"
    answers = os.fdopen(int(os.environ["QBENCH_GATE_FD"]), "wb", buffering=0)
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line, type=Request)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = _serve(request, pytest_args, answers)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)  # no atexit handlers of the parent's
        _, status = os.waitpid(child, 0)
        _say(answers, End(os.waitstatus_to_exitcode(status)))
    return 0


def _serve(request: Request, pytest_args: Sequence[str], answers: IO[bytes]) -> int:
    """In the forked process: collect, then measure what was asked for."""
    from qbench.collect import collect
    from qbench.device import describe, versions

    found = collect(pytest_args)
    _say(answers, Facts(describe(), versions()))
    if not request.cases:
        problem = "" if found else f"no cases are collected with: pytest {' '.join(pytest_args)}"
        places = {each.case.id: Place(each.file, each.line, each.node) for each in found or ()}
        _say(answers, Ready(places, problem))
        return 0
    _measure(request, {each.case.id: each.case for each in found or ()}, answers)
    return 0


def _measure(request: Request, cases: dict[str, Case], answers: IO[bytes]) -> None:
    from qbench.check import WrongResult
    from qbench.measure import Bench
    from qbench.timing import TimingPolicy

    bench = Bench.open(TimingPolicy())
    for name in request.cases:
        case = cases[name]
        if name in request.inject_ns:
            case = inject(case, request.inject_ns[name])
        try:
            times, _ = bench.measure(case)
            outcome = Outcome(name, "ok", times)
        except Unsupported as error:
            outcome = Outcome(name, "unsupported", reason=str(error))
        except WrongResult as error:
            outcome = Outcome(name, "wrong", reason=str(error)[:2000])
        except Exception as error:
            outcome = Outcome(name, "error", reason=f"{type(error).__name__}: {error}"[:2000])
        _say(answers, outcome)


def inject(case: Case, extra_ns: float) -> Case:
    """The case with its provider made slower by about `extra_ns` a call: a spin on the GPU, a busy wait on a CPU."""
    import time

    import torch

    prepare = case.provider

    def slower(*inputs: Any) -> Thunk:
        thunk = prepare(*inputs)
        if torch.cuda.is_available():
            # a spin is a launch of its own, about 0.7 us (H200); its cycles are the SM clock's
            mhz = torch.cuda.get_device_properties(torch.cuda.current_device()).clock_rate / 1e3
            cycles = max(1, int((extra_ns - 700) * mhz / 1e3))

            def run() -> Any:
                torch.cuda._sleep(cycles)
                return thunk()
        else:

            def run() -> Any:
                result = thunk()
                until = time.perf_counter_ns() + extra_ns
                while time.perf_counter_ns() < until:
                    pass
                return result

        return run

    slower.__qbench_provider__ = provider_info(prepare)  # type: ignore[attr-defined]
    return replace(case, provider=slower)


def _say(answers: IO[bytes], answer: Answer) -> None:
    answers.write(ENCODER.encode(answer) + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
