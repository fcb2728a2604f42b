"""Stored metrics: `baselines/compile/<target>-triton-<version>.json`, reviewed like code, read strictly, written whole
or not at all.

One file for a target and a Triton version, for another version compiles the same source to other instructions. One
entry for a kernel of a case, its facts a line each, so that a review reads "registers: 40" become "registers: 55".
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from qbench.aot.metrics import Metrics
from qbench.result import DataError, locked, read_json, write_atomic

SCHEMA = 1
REMEDY = (
    "restore it from version control, or delete it and record again with --qbench-compile --qbench-update"
)
Mode = Literal["append", "missing", "replace", "dry"]
_Natural = Annotated[int, Meta(ge=0)]


def _strict(hint: Any) -> Any:
    """A field's type as it is read: numbers of things are never negative."""
    if hint is int:
        return _Natural
    arguments = tuple(_strict(each) for each in typing.get_args(hint))
    origin = typing.get_origin(hint)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return dict[arguments[0], arguments[1]]  # type: ignore[valid-type]
    if origin is tuple:
        return tuple[arguments[0], ...]  # type: ignore[valid-type]
    return _Natural | None if type(None) in arguments else hint


_Entry = msgspec.defstruct(
    "Entry",
    [(field.name, _strict(typing.get_type_hints(Metrics)[field.name])) for field in fields(Metrics)],
    frozen=True,
    forbid_unknown_fields=True,
)


class File(Struct, frozen=True, forbid_unknown_fields=True):
    """One target under one version of Triton."""

    schema: int
    target: str
    triton: str
    kernels: dict[str, _Entry]  # type: ignore[valid-type]


@dataclass(frozen=True)
class Change:
    """What an update does to one entry: "add" or "replace"."""

    entry: str
    what: str


class CompileStore:
    """The stored metrics of one target and one version of Triton under `root`/compile. Read when first asked for."""

    def __init__(self, root: Path, target: str, triton: str) -> None:
        self.path = root / "compile" / f"{target}-triton-{triton}.json"
        self.target = target
        self.triton = triton
        self._entries: dict[str, Metrics] | None = None

    @property
    def entries(self) -> dict[str, Metrics]:
        """All that is stored. Raises DataError for a file that cannot be trusted."""
        if self._entries is None:
            self._entries = self._read() if self.path.exists() else {}
        return self._entries

    def get(self, entry: str) -> Metrics | None:
        return self.entries.get(entry)

    def unused(self, known: Iterable[str]) -> list[str]:
        """Stored entries that are not among `known`."""
        return sorted(set(self.entries) - set(known))

    def update(self, found: Mapping[str, Metrics], mode: Mode) -> list[Change]:
        """Store these, but for "dry", which only says what would change. Unchanged entries are no change.

        "append" and "replace" are the same: a compilation repeats itself, so one entry is all there is to keep.
        """
        if mode == "dry" or not found:
            return self._update(found, mode)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.parent):
            return self._update(found, mode)

    def _update(self, found: Mapping[str, Metrics], mode: Mode) -> list[Change]:
        self._entries = None  # another session may have written since it was read
        kept = dict(self.entries)
        changes = []
        for entry, metrics in found.items():
            before = kept.get(entry)
            if before == metrics or (before is not None and mode == "missing"):
                continue
            changes.append(Change(entry, "add" if before is None else "replace"))
            kept[entry] = metrics
        if changes and mode != "dry":
            write_atomic(self.path, encode(self.target, self.triton, kept))
            self._entries = kept
        return changes

    def _read(self) -> dict[str, Metrics]:
        file = read_json(self.path, File, REMEDY)
        if file.schema != SCHEMA:
            raise DataError(f"{self.path}: schema {file.schema}, this version reads {SCHEMA}; {REMEDY}")
        if (file.target, file.triton) != (self.target, self.triton):
            raise DataError(
                f"{self.path}: holds {file.target} under Triton {file.triton}, its name says otherwise; {REMEDY}"
            )
        return {name: Metrics(**msgspec.structs.asdict(entry)) for name, entry in file.kernels.items()}


def encode(target: str, triton: str, entries: Mapping[str, Metrics]) -> bytes:
    """Sorted JSON, each fact of an entry on a line of its own."""
    lines = [
        "{",
        f' "schema": {SCHEMA},',
        f' "target": {json.dumps(target)},',
        f' "triton": {json.dumps(triton)},',
    ]
    lines.append(' "kernels": {' if entries else ' "kernels": {}')
    for place, name in enumerate(sorted(entries)):
        lines.append(f"  {json.dumps(name, ensure_ascii=False)}: {{")
        facts = [f"   {json.dumps(key)}: {_fact(value)}" for key, value in asdict(entries[name]).items()]
        lines += [*(f"{fact}," for fact in facts[:-1]), facts[-1]]
        lines.append("  }" if place == len(entries) - 1 else "  },")
    lines += [" }", "}"] if entries else ["}"]
    return ("\n".join(lines) + "\n").encode()


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        ordered = sorted(value.items(), key=lambda pair: (isinstance(pair[0], str), pair[0]))
        return json.dumps({str(key): number for key, number in ordered}, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)
