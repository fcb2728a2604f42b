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

from qbench.gate.worker import Answer, End, Facts, Outcome, Place, Ready, Request

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
    harness: Path = Path(__file__).parents[2]  # the folder of the `qbench` that both sides measure with
    places: dict[str, Place] = field(default_factory=dict)
    facts: Facts | None = None
    problem: str = ""
    _process: subprocess.Popen[bytes] | None = None
    _answers: IO[bytes] | None = None
    _buffer: bytes = b""
    _log: IO[bytes] | None = None

    def start(self, limit_s: float) -> None:
        """Start the worker and wait for its cases. Raises CannotMeasure with the worker's own last words."""
        read, write = os.pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the worker
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
        os.close(write)
        self._answers = os.fdopen(read, "rb", buffering=0)
        self.facts = None
        words = self._request(Request(()), {}, limit_s)
        if self.facts is None or not self.places:
            self.close()
            raise CannotMeasure(f"the {self.name} in {self.root} cannot be measured: {self.problem or words}")

    def measure(
        self, cases: Sequence[str], limit_s: float, inject_ns: dict[str, float]
    ) -> dict[str, Outcome]:
        """One fresh process over the cases, in this order. A case that kills the process, or does not end within
        `limit_s`, is an error of that case; the cases after it are measured in another process.
        """
        found: dict[str, Outcome] = {}
        left = list(cases)
        while left:
            request = Request(tuple(left), {case: inject_ns[case] for case in left if case in inject_ns})
            end = self._request(request, found, limit_s)
            left = [case for case in left if case not in found]
            if not left:
                break
            found[left[0]] = Outcome(left[0], "error", reason=end)
            left = left[1:]
            if self._process is None:
                self.start(limit_s)
        return found

    def _request(self, request: Request, found: dict[str, Outcome], limit_s: float) -> str:
        """Send, and gather outcomes until the forked process ends; why it ended early, in words."""
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.close()
            raise CannotMeasure(f"the {self.name}'s worker is gone\n{self.last_words()}") from None
        deadline = time.monotonic() + limit_s
        while True:
            answer = self._next(deadline)
            if isinstance(answer, Outcome):
                found[answer.case] = answer
                deadline = time.monotonic() + limit_s
            elif isinstance(answer, Facts):
                self.facts = answer
            elif isinstance(answer, Ready):
                self.places, self.problem = answer.cases, answer.problem
            elif isinstance(answer, End):
                return f"its process ended with code {answer.code}: {self.last_words(3)}"
            else:
                self.close()
                return f"did not end within {limit_s:.0f} s"

    def _next(self, deadline: float) -> Answer | None:
        """The next answer; None when the worker is gone or the deadline passes."""
        assert self._answers is not None
        while b"\n" not in self._buffer:
            wait = deadline - time.monotonic()
            if wait <= 0 or not select.select([self._answers], [], [], wait)[0]:
                return None
            piece = self._answers.read(1 << 16)
            if not piece:
                return None
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\n", 1)
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
        """The end of what the worker printed."""
        if self._log is None:
            return ""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 8192))
        text = self._log.read().decode(errors="replace").strip().splitlines()
        return "\n".join(text[-lines:])

    def close(self) -> None:
        """End the worker and whatever it forked."""
        process, self._process, self._buffer = self._process, None, b""
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
