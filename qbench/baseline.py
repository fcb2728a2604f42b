"""Stored times: `baselines/<device>/<op>.json`, reviewed like code, read strictly, written whole or not at all.

A baseline is several runs of one case in different processes. Raw samples are not kept: inside a process
they are not independent, so only the median of each run is a replicate.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from qbench.result import Ceilings, DataError, Device, Positive, Result, Run, locked, read_json, write_atomic

SCHEMA = 1
KEEP_RUNS = 20  # the newest of a case; older ones age out
Mode = Literal["append", "missing", "replace"]
REMEDY = "restore it from version control, or delete it and record again with --qbench-update"
_COMPILED = "compile"  # baselines of another kind: what kernels compile to


def stored_files(root: Path) -> list[Path]:
    """Files of stored times of all devices below a folder of baselines."""
    return sorted(path for path in root.glob("*/*.json") if path.parent.name != _COMPILED)


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """One run of one case."""

    session: str
    median_ns: Positive
    p20_ns: Positive
    p80_ns: Positive
    samples: Annotated[int, Meta(ge=1)]
    clock_mhz: Annotated[int, Meta(ge=0)] = 0


class Session(Struct, frozen=True, forbid_unknown_fields=True):
    """The process in which runs were taken."""

    at: str
    versions: dict[str, str]
    ceilings: Ceilings | None = None


class File(Struct, frozen=True, forbid_unknown_fields=True):
    """One op on one device."""

    schema: int
    op: str
    device: Device
    sessions: dict[str, Session]
    cases: dict[str, tuple[Record, ...]]


@dataclass(frozen=True)
class Change:
    """What an update does to one case: "add", "append", "replace", and its medians before and after."""

    case: str
    what: str
    before: tuple[float, ...]
    now_ns: float


class Store:
    """The baselines of one device under `root`. Files are read once, when first asked for."""

    def __init__(self, root: Path, device: Device) -> None:
        self.folder = root / device.key
        self.device = device
        self._files: dict[str, File | None] = {}

    def path(self, op: str) -> Path:
        return self.folder / f"{op}.json"

    def file(self, op: str) -> File | None:
        """The op's file, None where there is none. Raises DataError for one that cannot be trusted."""
        if op not in self._files:
            path = self.path(op)
            self._files[op] = self._checked(path, op) if path.exists() else None
        return self._files[op]

    def records(self, op: str, case: str) -> tuple[Record, ...]:
        file = self.file(op)
        return file.cases.get(case, ()) if file else ()

    def unused(self, op: str, cases: Iterable[str]) -> list[str]:
        """Stored cases of `op` that are not among `cases`."""
        file = self.file(op)
        return sorted(set(file.cases) - set(cases)) if file else []

    def ops(self) -> list[str]:
        """Ops that have a file here."""
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def versions(self, names: Iterable[str]) -> dict[str, set[str]]:
        """Versions under which the runs stored here were taken, of the ops read so far."""
        sessions = [session for file in self._files.values() if file for session in file.sessions.values()]
        return {name: {s.versions[name] for s in sessions if name in s.versions} for name in names}

    def update(self, run: Run, session: str, mode: Mode, *, write: bool = True) -> list[Change]:
        """Store the run's good results. All files are made before any is written; each is written whole.

        A wrong result keeps the whole session from being stored: what else it measured is not to be trusted
        before that is understood. A case that failed otherwise leaves its own op untouched.
        """
        if any(result.status == "wrong" for result in run.results):
            return []
        if write:
            self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder) if write else contextlib.nullcontext():
            return self._update(run, session, mode, write)

    def _update(self, run: Run, session: str, mode: Mode, write: bool) -> list[Change]:
        made: dict[str, File] = {}
        changes: list[Change] = []
        bad = {result.op for result in run.results if result.status == "error"}
        for op in sorted({result.op for result in run.results} - bad):
            results = [r for r in run.results if r.op == op and r.status == "ok" and r.times]
            self._files.pop(op, None)  # another session may have written since it was read
            file, changed = merged(self.file(op), op, self.device, run, results, session, mode)
            if changed:
                made[op] = file
                changes += changed
        written: list[str] = []
        for op, file in made.items() if write else ():
            try:
                write_atomic(self.path(op), encode(file))
            except OSError as error:
                before = f"; written before it: {', '.join(written)}" if written else "; nothing was written"
                raise OSError(f"{self.path(op)} cannot be written ({error}){before}") from error
            self._files[op] = file
            written.append(op)
        return changes

    def _checked(self, path: Path, op: str) -> File:
        file = read_json(path, File, REMEDY)
        if file.schema != SCHEMA:
            raise DataError(f"{path}: schema {file.schema}, this version reads {SCHEMA}; {REMEDY}")
        if file.op != op:
            raise DataError(f"{path}: holds op {file.op!r}, its name says {op!r}; {REMEDY}")
        if file.device != self.device:
            raise DataError(f"{path}: recorded on {file.device.key}, this is {self.device.key}; {REMEDY}")
        for case, records in file.cases.items():
            for record in records:
                if record.session not in file.sessions:
                    raise DataError(
                        f"{path}: cases[{case!r}] names unknown session {record.session!r}; {REMEDY}"
                    )
        return file


def merged(
    file: File | None, op: str, device: Device, run: Run, results: list[Result], session: str, mode: Mode
) -> tuple[File, list[Change]]:
    """The file after this run, and what changed. A pure function of its arguments."""
    cases = dict(file.cases) if file else {}
    changes = []
    for result in results:
        assert result.times is not None
        before = cases.get(result.case, ())
        if before and mode == "missing":
            continue
        times = result.times
        record = Record(
            session,
            round(times.median_ns, 1),
            round(times.p20_ns, 1),
            round(times.p80_ns, 1),
            times.samples,
            times.clock_after_mhz,
        )
        kept = () if mode == "replace" else before
        cases[result.case] = (*kept, record)[-KEEP_RUNS:]
        what = "add" if not before else mode
        changes.append(Change(result.case, what, tuple(r.median_ns for r in before), record.median_ns))
    sessions = dict(file.sessions) if file else {}
    sessions[session] = Session(run.at, run.versions, run.ceilings)
    used = {record.session for records in cases.values() for record in records}
    sessions = {name: value for name, value in sessions.items() if name in used}
    return File(SCHEMA, op, device, sessions, dict(sorted(cases.items()))), changes


def encode(file: File) -> bytes:
    """JSON with one run a line, so that a review of a baseline reads as a list of runs."""
    text = json.dumps(msgspec.to_builtins(file), indent=1, ensure_ascii=False)
    one_line = re.sub(
        r"\{\n\s+(\"session\": [^{}]*?)\n\s+\}", lambda m: "{" + re.sub(r"\n\s+", " ", m[1]) + "}", text
    )
    return one_line.encode() + b"\n"
