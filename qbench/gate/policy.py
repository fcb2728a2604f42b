"""What the base revision says about gating: the policy in its pyproject.toml, its stored noise, what it accepts.

All three are read from the base, so that a change cannot loosen the gate it has to pass. A slowdown that is wanted is
accepted in a change of its own, reviewed before: `baselines/accepted.json`.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from qbench.baseline import REMEDY, File
from qbench.gate.rule import GatePolicy
from qbench.gate.run import Budget
from qbench.result import DataError, Device, read_json, write_atomic
from qbench.stats import variance

ACCEPTED = "accepted.json"


@dataclasses.dataclass(frozen=True)
class Settings:
    """[tool.qbench.gate]: policy and budget by their fields' names, and where tests and packages are."""

    changed: dict[str, float] = dataclasses.field(default_factory=dict)  # fields of GatePolicy
    budget: Budget = dataclasses.field(default_factory=Budget)
    tests: tuple[str, ...] = ("tests/bench",)
    paths: tuple[str, ...] = (".", "kernels", "src")
    baselines: str = "baselines"

    def policy(self, kind: str) -> GatePolicy:
        """The kind of device's own policy with what the base revision changed in it."""
        return dataclasses.replace(GatePolicy.for_kind(kind), **self.changed)  # type: ignore[arg-type]


class Accepted(Struct, frozen=True, forbid_unknown_fields=True):
    """A slowdown that a maintainer has agreed to."""

    case: str  # a pattern, as in fnmatch, with [ ] taken literally
    up_to: Annotated[float, Meta(gt=0, le=10)]  # 0.08: at most 8% slower than the base
    reason: Annotated[str, Meta(min_length=10)]
    until: str = ""  # the last day it holds, ISO 8601; "" for no end
    device: str = "*"


class AcceptedFile(Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    accepted: tuple[Accepted, ...]


def read_settings(root: Path) -> Settings:
    """Raises DataError for an unknown key or a value of another type."""
    path = root / "pyproject.toml"
    try:
        table = tomllib.loads(path.read_text()).get("tool", {}).get("qbench", {}).get("gate", {})
    except FileNotFoundError:
        return Settings()
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: {error}; mend it, or remove [tool.qbench.gate]") from error
    policy: dict[str, Any] = {}
    budget: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in table.items():
        if _fits(GatePolicy(), key, value):
            policy[key] = value
        elif _fits(Budget(), key, value):
            budget[key] = value
        elif key in ("tests", "paths") and isinstance(value, list) and all(isinstance(v, str) for v in value):
            rest[key] = tuple(value)
        elif key == "baselines" and isinstance(value, str):
            rest[key] = value
        else:
            known = [f.name for kind in (GatePolicy, Budget) for f in dataclasses.fields(kind)]
            raise DataError(f"{path}: [tool.qbench.gate] {key} = {value!r} is unknown or of another type; known: "
                            f"{', '.join(known)}, tests, paths, baselines")  # fmt: skip
    return Settings(policy, dataclasses.replace(Budget(), **budget), **rest)


def _fits(defaults: object, key: str, value: object) -> bool:
    default = getattr(defaults, key, None)
    if default is None or isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value > 0 and (isinstance(default, float) or isinstance(value, int))


def stored_noise(folder: Path, device: Device) -> dict[str, tuple[float, float]]:
    """Case -> (variance of its runs' log medians, degrees of freedom), of this device. Raises DataError."""
    found = {}
    for path in sorted((folder / device.key).glob("*.json")):
        for case, records in read_json(path, File, REMEDY).cases.items():
            if len(records) > 1:
                logs = [math.log(record.median_ns) for record in records]
                found[case] = (variance(logs), len(logs) - 1.0)
    return found


def read_accepted(folder: Path) -> tuple[Accepted, ...]:
    """The slowdowns accepted under `folder`; none where the file is missing. Raises DataError."""
    path = folder / ACCEPTED
    if not path.exists():
        return ()
    file = read_json(path, AcceptedFile, "mend it, or write it anew with python -m qbench accept")
    if file.schema != 1:
        raise DataError(f"{path}: schema {file.schema}, this version reads 1; write it again")
    for entry in file.accepted:
        _last_day(entry, path)
    return file.accepted


def write_accepted(folder: Path, entry: Accepted) -> Path:
    """Add an entry; one for the same pattern and device is replaced."""
    import msgspec

    path = folder / ACCEPTED
    _last_day(entry, path)
    kept = [e for e in read_accepted(folder) if (e.case, e.device) != (entry.case, entry.device)]
    data = msgspec.json.encode(AcceptedFile(1, (*kept, entry)))
    write_atomic(path, msgspec.json.format(data, indent=1) + b"\n")
    return path


def acceptance(case: str, device: Device, ratio: float, accepted: tuple[Accepted, ...]) -> Accepted | None:
    """The entry that covers this case at this ratio today, if there is one."""
    today = datetime.now(UTC).date()
    for entry in accepted:
        last = _last_day(entry, Path(ACCEPTED))
        if (
            fnmatch.fnmatchcase(case, entry.case.replace("[", "[[]"))
            and fnmatch.fnmatchcase(device.key, entry.device)
            and ratio <= 1 + entry.up_to
            and (last is None or today <= last)
        ):
            return entry
    return None


def _last_day(entry: Accepted, path: Path) -> date | None:
    try:
        return date.fromisoformat(entry.until) if entry.until else None
    except ValueError:
        raise DataError(f"{path}: until = {entry.until!r} is no date; write it as 2027-01-31") from None
