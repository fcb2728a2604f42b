"""What the gate and its worker say to each other.

One JSON value a line. Requests on stdin, answers on the descriptor named by QBENCH_GATE_FD; stdout and stderr
belong to whatever pytest and the kernels print. A request is the list of case ids to measure, in order, with the
extra work to inject by case (self-test; see `inject`). Answers: `Facts` once it is ready to measure, `Ready` (on a
request of no cases), `Outcome` after each case, then `End`; `Waiting` while another process has the GPU's turn.
"""

from __future__ import annotations

from msgspec import Struct

from qbench.result import Device, Times

TAINTED = 77  # exit status: the last case left the GPU's context unusable, the next ones need another process


class Place(Struct, frozen=True):
    """Where a case's test stands: file relative to the root, line from 1, pytest's node id."""

    file: str
    line: int
    node: str


class Ready(Struct, frozen=True, tag="ready"):
    """What can be measured here, or why nothing can."""

    cases: dict[str, Place] = {}
    problem: str = ""
    strangers: tuple[str, ...] = ()  # see Request.avoid


class Request(Struct, frozen=True):
    """avoid: a tree from which nothing may be imported here, since it is the other side's."""

    cases: tuple[str, ...]
    inject_ns: dict[str, float] = {}
    avoid: str = ""


class Outcome(Struct, frozen=True, tag="outcome"):
    """One case in one process: its times, or why there are none. status: ok, unsupported, wrong, error."""

    case: str
    status: str
    times: Times | None = None
    reason: str = ""


class Facts(Struct, frozen=True, tag="facts"):
    """The forked process is ready: its id, and what it runs on."""

    process: int
    device: Device
    versions: dict[str, str]


class Waiting(Struct, frozen=True, tag="waiting"):
    """The GPU is another session's just now (qbench.turns): said again and again, within a case's time limit."""

    words: str


class End(Struct, frozen=True, tag="end"):
    """The forked process is over; `code` is its exit status, negative for a signal."""

    code: int


Answer = Ready | Outcome | Facts | Waiting | End
