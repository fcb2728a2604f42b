"""One side of the comparison: a revision's tree, and a worker process in it that measures on request."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from qbench.gate.protocol import TAINTED, Answer, End, Facts, Outcome, Place, Ready, Request, Waiting

_DECODER = msgspec.json.Decoder(Answer)


class CannotMeasure(RuntimeError):
    """No verdict is possible: says what failed and what to do."""


@dataclass
class Side:
    """A tree and how its tests are run. `paths`: folders under the tree put first on PYTHONPATH."""

    name: str  # "base" or "candidate"
    root: Path
    pytest_args: Sequence[str]
    paths: Sequence[str] = (".", "kernels", "src")
    python: str = sys.executable
    avoid: Path | None = None  # the other side's tree: importing from it would compare that with itself
    harness: Path = Path(__file__).parents[2]  # the folder of the `qbench` that both sides measure with
    start_s: float = 300.0  # for importing and collecting; each case has a limit of its own
    places: dict[str, Place] = field(default_factory=dict)
    facts: Facts | None = None
    problem: str = ""
    _began: bool = False  # the process that was asked last was ready to measure
    _tainted: bool = False  # and ended by itself, since a case had made its GPU context unusable
    _process: subprocess.Popen[bytes] | None = None
    _answers: IO[bytes] | None = None
    _buffer: bytes = b""
    _log: IO[bytes] | None = None
    _asked_at: int = 0  # the log's length when the last request was sent

    def start(self) -> None:
        """Wait for the worker's cases. Raises CannotMeasure with the worker's own last words."""
        if self._process is None:
            self.launch()
        self.facts, self.problem = None, ""
        end = self._request(Request((), avoid=str(self.avoid or "")), {}, self.start_s)
        if self.facts is not None and self.places and not self.problem:
            return
        self.close()
        said = self.last_words()
        why = self.problem or (end if said in end else f"{end}\n{said}")
        raise CannotMeasure(f"the {self.name} cannot be measured: {why}")

    def launch(self) -> None:
        """Start the worker, which then imports what it needs; `start` does it where this was not called before."""
        read, write = os.pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the worker
        self._answers = os.fdopen(read, "rb", buffering=0)
        self._buffer, self._asked_at = b"", 0
        try:
            self._process = subprocess.Popen(
                [self.python, "-c", _START, str(self.harness), *self.pytest_args],
                cwd=self.root,
                env=self._environment(write),
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=(write,),
                start_new_session=True,
            )
        except OSError as error:
            self.close()
            raise CannotMeasure(f"the {self.name}'s Python cannot be started: {error}") from error
        finally:
            os.close(write)

    def measure(
        self, cases: Sequence[str], limit_s: float, inject_ns: dict[str, float]
    ) -> dict[str, Outcome]:
        """One fresh process over the cases, in this order. A case that kills the process, or does not end within
        `limit_s`, is an error of that case; the cases after it are measured in another process.

        Raises CannotMeasure for a process that twice ended before its first case.
        """
        found: dict[str, Outcome] = {}
        left, in_vain = list(cases), 0
        while left:
            if self._process is None:
                self.start()
            request = Request(tuple(left), {case: inject_ns[case] for case in left if case in inject_ns})
            end = self._request(request, found, limit_s)
            before, left = len(left), [case for case in left if case not in found]
            if not left:
                break
            if not self._began:
                in_vain += 1
                if in_vain == 2:
                    raise CannotMeasure(f"the {self.name} failed before its first case: {end}")
            elif not (self._tainted and len(left) < before):
                found[left[0]] = Outcome(left[0], "error", reason=end)
                left = left[1:]
        return found

    def _request(self, request: Request, found: dict[str, Outcome], limit_s: float) -> str:
        """Send, and gather outcomes until the forked process ends; why it ended early, in words."""
        assert self._process is not None and self._process.stdin is not None
        self._began = self._tainted = False
        if request.cases and self._log is not None:
            self._asked_at = os.fstat(self._log.fileno()).st_size
        try:
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.close()
            return f"its worker is gone: {self.last_words()}"
        deadline, allowed, overdue = time.monotonic() + self.start_s, self.start_s, ""
        while True:
            answer = self._next(deadline)
            if isinstance(answer, Outcome):
                found[answer.case] = answer
            elif isinstance(answer, Facts):
                self.facts, self._began = answer, True
            elif isinstance(answer, Ready):
                self.places, self.problem = answer.cases, self._said(answer)
            elif isinstance(answer, Waiting):
                print(answer.words, file=sys.stderr, flush=True)
            elif isinstance(answer, End):
                self._tainted = answer.code == TAINTED
                return overdue or _how_it_ended(answer.code, self.last_words(3))
            elif time.monotonic() < deadline:
                self.close()
                return f"its worker is gone: {self.last_words()}"
            elif self._began and self.facts is not None and not overdue:
                overdue = f"did not end within {allowed:.0f} s"
                with contextlib.suppress(ProcessLookupError):
                    os.kill(
                        self.facts.process, signal.SIGKILL
                    )  # the worker lives on, and says that it has ended
            else:
                self.close()
                return overdue or f"did not end within {allowed:.0f} s"
            deadline, allowed = time.monotonic() + limit_s, limit_s

    def _said(self, answer: Ready) -> str:
        if answer.problem:
            return f"{answer.problem}\n{self.last_words(40)}"
        if answer.strangers:
            return (
                f"it imports from the other side's tree: {', '.join(answer.strangers[:3])}; name the folder of these "
                "modules in [tool.qbench.gate] paths, so that each side imports its own"
            )
        return ""

    def _next(self, deadline: float) -> Answer | None:
        """The next answer; None when the worker is gone or the deadline passes."""
        assert self._answers is not None
        while True:
            while b"\n" not in self._buffer:
                wait = deadline - time.monotonic()
                if wait <= 0 or not select.select([self._answers], [], [], wait)[0]:
                    return None
                piece = self._answers.read(1 << 16)
                if not piece:
                    return None
                self._buffer += piece
            line, self._buffer = self._buffer.split(b"\n", 1)
            with contextlib.suppress(msgspec.DecodeError):  # half a line: its writer was killed
                answer: Answer = _DECODER.decode(line)
                return answer

    def _environment(self, answers: int) -> dict[str, str]:
        paths = [str(self.root / path) for path in self.paths if (self.root / path).is_dir()]
        kept = [path for path in (os.environ.get("PYTHONPATH", ""),) if path]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*paths, *kept]),
            "QBENCH_GATE_FD": str(answers),
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # is_available() without creating a context, so that forks work
            "PYTHONUNBUFFERED": "1",
        }

    def last_words(self, lines: int = 12) -> str:
        """The end of what the worker printed since it was last asked."""
        if self._log is None:
            return ""
        size = os.fstat(
            self._log.fileno()
        ).st_size  # pread: the worker writes at this descriptor's own offset
        start = max(self._asked_at, size - 8192)
        text = os.pread(self._log.fileno(), size - start, start).decode(errors="replace")
        return "\n".join(text.strip().splitlines()[-lines:])

    def close(self) -> None:
        """End the worker and whatever it forked."""
        process, self._process = self._process, None
        if self._answers is not None:
            self._answers.close()
        if process is None:
            return
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _how_it_ended(code: int, words: str) -> str:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"its process {how}" + (f": {words}" if words else "")


# The harness's `qbench` must be found before a copy of it in the tree, which is the working directory.
_START = """
import importlib.util, sys
root = sys.argv.pop(1)
spec = importlib.util.spec_from_file_location("qbench", root + "/qbench/__init__.py",
                                              submodule_search_locations=[root + "/qbench"])
module = importlib.util.module_from_spec(spec)
sys.modules["qbench"] = module
spec.loader.exec_module(module)
from qbench.gate.worker import main
sys.exit(main(sys.argv[1:]))
"""
