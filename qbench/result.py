"""What one run found, as stored: `results.json`. Reports, comparisons and merges read this and nothing else.

Parsed strictly: an unknown field, a wrong type or a number out of range is an error that names its place.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

SCHEMA = 1
PREEMPTED = "preempted"  # among what slowed a run: other processes took the CPU from it
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=0)]
Finite = Annotated[float, Meta(ge=-1.7e308, le=1.7e308)]
Status = Literal["ok", "unsupported", "wrong", "error"]
T = TypeVar("T")


class DataError(ValueError):
    """A stored file that cannot be read: names the file, the place and the remedy."""


class Verdict(StrEnum):
    SAME = "same"
    FASTER = "faster"
    SLOWER = "slower"
    INCONCLUSIVE = "inconclusive"
    NO_BASELINE = "no-baseline"
    UNSUPPORTED = "unsupported"


class Judgement(Struct, frozen=True, forbid_unknown_fields=True):
    """A verdict and what it rests on. Ratios are now / baseline, so above 1 is slower."""

    verdict: Verdict
    reason: str
    ratio: Positive | None = None
    low: Positive | None = None
    high: Positive | None = None
    detectable: Positive | None = None  # minimum detectable effect, 0.03 = 3% slower
    baseline_runs: Count = 0
    baseline_ns: Positive | None = None


class Device(Struct, frozen=True, forbid_unknown_fields=True):
    """What a baseline is kept for: the model, never the host."""

    kind: str  # "cuda" or "cpu"
    name: str
    capability: str  # "9.0"; "" on a CPU
    units: Count  # streaming multiprocessors, or CPU cores this process may use
    memory_gib: Count

    @property
    def key(self) -> str:
        """Folder name under baselines/, e.g. `nvidia-h200_sm90_132sm_140gib`."""
        name = "".join(c if c.isalnum() else "-" for c in self.name.lower()).strip("-")
        while "--" in name:
            name = name.replace("--", "-")
        if self.kind == "cuda":
            return f"{name}_sm{self.capability.replace('.', '')}_{self.units}sm_{self.memory_gib}gib"
        return f"cpu_{name}_{self.units}cores_{self.memory_gib}gib"


class Ceilings(Struct, frozen=True, forbid_unknown_fields=True):
    """This machine's own rates, measured once per run.

    by_accumulator: matrix rates of other units than matmul_dtype's, under the accumulator that their providers declare.
    """

    copy_gbps: Positive
    matmul_tflops: Positive
    matmul_dtype: str = "bfloat16"
    read_gbps: Positive | None = None
    by_accumulator: dict[str, Positive] = {}

    @property
    def memory_gbps(self) -> float:
        """The larger of copying and reading: what no call can surpass whose operands are in memory."""
        return max(self.copy_gbps, self.read_gbps or 0.0)


class Times(Struct, frozen=True, forbid_unknown_fields=True):
    """Nanoseconds per call, and how they were taken."""

    median_ns: Positive
    p20_ns: Positive
    p80_ns: Positive
    samples: Count
    launches: Count  # calls per sample
    copies: Count  # operand sets rotated through
    method: str  # "graph", "events" or "wall"
    cold: bool  # operands were out of the L2 cache at each call
    clock_before_mhz: Count = 0  # SM clock; 0 where it cannot be read
    clock_after_mhz: Count = 0
    throttle: tuple[str, ...] = ()  # NVML's reasons for a slower card, and PREEMPTED


class Result(Struct, frozen=True, forbid_unknown_fields=True):
    """One case: what it is, what it costs, how long it took, what was judged."""

    case: str
    op: str
    provider: str
    axes: dict[str, int | float | str | bool]
    status: Status
    reason: str = ""
    bytes: Count = 0
    flops: Count = 0
    elements: Count = 0
    times: Times | None = None
    judgement: Judgement | None = None
    alongside: tuple[str, ...] = ()
    accumulator: str = ""  # what the provider declares; "" in files that do not know it
    figures: dict[
        str, Finite
    ] = {}  # further numbers of an op that measures in its own way; names end in the unit
    labels: dict[str, str] = {}  # and words, such as the mode that a provider ran in

    @property
    def tflops(self) -> float | None:
        return self.flops / self.times.median_ns / 1e3 if self.times and self.flops else None

    @property
    def gbps(self) -> float | None:
        return self.bytes / self.times.median_ns if self.times and self.bytes else None

    @property
    def ns_per_element(self) -> float | None:
        return self.times.median_ns / self.elements if self.times and self.elements else None


class Run(Struct, frozen=True, forbid_unknown_fields=True):
    """One session's results, with all that is needed to read them elsewhere."""

    schema: int
    at: str  # UTC, ISO 8601
    device: Device
    versions: dict[str, str]
    results: tuple[Result, ...]
    ceilings: Ceilings | None = None

    def percent_of_memory(self, result: Result) -> float | None:
        """Of the time that the call's bytes take at least."""
        gbps = result.gbps
        return 100 * gbps / self.ceilings.memory_gbps if gbps and self.ceilings else None

    def percent_of_matmul(self, result: Result) -> float | None:
        """Of the time that its flops take at least, on the units that its provider's sums are made in."""
        tflops = result.tflops
        if not tflops or not self.ceilings:
            return None
        rate = self.ceilings.by_accumulator.get(result.accumulator, self.ceilings.matmul_tflops)
        return 100 * tflops / rate

    def percent_of_ceiling(self, result: Result) -> float | None:
        """The larger of both: the least time of the call on this machine over the time it took."""
        shares = (self.percent_of_matmul(result), self.percent_of_memory(result))
        return max((share for share in shares if share is not None), default=None)


def read_json(path: Path, kind: type[T], remedy: str) -> T:
    """Parse strictly. Raises DataError naming the file, the place in it, and the remedy."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise DataError(f"{path}: {error}; {remedy}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 at byte {error.start}; {remedy}") from error


def read_run(path: Path) -> Run:
    """Read a results.json. Raises DataError for a file that is broken, foreign or of another schema."""
    run = read_json(path, Run, "write it again with --qbench-report")
    if run.schema != SCHEMA:
        raise DataError(f"{path}: schema {run.schema}, this version reads {SCHEMA}; write it again")
    seen: set[str] = set()
    for index, result in enumerate(run.results):
        if result.case in seen:
            raise DataError(f"{path}: results[{index}] repeats case {result.case!r}; write it again")
        if (result.times is not None) != (result.status == "ok"):
            raise DataError(
                f"{path}: results[{index}] is {result.status!r}, its times say otherwise; write it again"
            )
        seen.add(result.case)
    return run


def write_run(path: Path, run: Run) -> None:
    """A line for each result: a sweep of a thousand cases is kept beside its tests, and its changes can be read."""
    head, mark, tail = msgspec.json.encode(msgspec.structs.replace(run, results=())).partition(b'"results":[')
    lines = b",\n".join(msgspec.json.encode(result) for result in run.results)
    write_atomic(path, head + mark + b"\n" + lines + b"\n" + tail + b"\n")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One session at a time reads, merges and writes in a folder; the lock goes with the process, whatever ends it."""
    try:
        import fcntl
    except ImportError:  # not on this platform: two updates at once may lose the earlier
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Whole or not at all: a kill at any moment leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
