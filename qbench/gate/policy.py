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

from qbench.baseline import Store, stored_files
from qbench.gate.rule import GatePolicy
from qbench.gate.run import Budget
from qbench.result import DataError, Device, read_json, write_atomic
from qbench.stats import variance

ACCEPTED = "accepted.json"
MOST_PAIRS = 200  # the exact rank test takes long beyond


@dataclasses.dataclass(frozen=True)
class Settings:
    """[tool.qbench.gate]: policy and budget by their fields' names, and where tests and packages are."""

    changed: dict[str, float] = dataclasses.field(default_factory=dict)  # fields of GatePolicy
    budget: Budget = dataclasses.field(default_factory=Budget)
    tests: tuple[str, ...] = ("tests/bench",)
    paths: tuple[str, ...] = (".", "kernels", "src")
    baselines: str = "baselines"

    def policy(self, kind: str) -> GatePolicy:
        """The kind of device's own policy with what the base revision changed in it. Raises DataError."""
        made = dataclasses.replace(GatePolicy.for_kind(kind), **self.changed)  # type: ignore[arg-type]
        for fine, words in (
            (made.alpha < 1 and made.beta < 1, "alpha and beta are chances, below 1"),
            (made.h0 < made.least_effect, "h0, what counts as no slowdown, must be below least_effect"),
            (made.least_effect <= 1 and made.shift <= 1, "least_effect and shift are shares: 0.05 for 5%"),
            (made.estimate <= 1, "estimate is a share of the effect, at most 1"),
            (made.least_df < made.max_pairs, "least_df cannot be reached within max_pairs where no run is stored"),
            (made.min_pairs <= made.max_pairs <= MOST_PAIRS,
             f"min_pairs must not exceed max_pairs, nor that {MOST_PAIRS}"),
        ):  # fmt: skip
            if not fine:
                raise DataError(f"[tool.qbench.gate] {words} (on a {kind} device: {made})")
        return made


class Accepted(Struct, frozen=True, forbid_unknown_fields=True):
    """A slowdown that a maintainer has agreed to."""

    case: str  # a pattern, as in fnmatch, with [ ] taken literally
    up_to: Annotated[float, Meta(gt=0, le=10)]  # 0.08: at most 8% slower than the base
    reason: Annotated[str, Meta(min_length=10)]
    until: str = ""  # the last day it holds, ISO 8601; "" for no end
    device: str = "*"  # a pattern of device keys


class AcceptedFile(Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    accepted: tuple[Accepted, ...]


def read_settings(root: Path) -> Settings:
    """Raises DataError for an unknown key or a value of another type or range."""
    path = root / "pyproject.toml"
    try:
        table: Any = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: {error}; mend it, or remove [tool.qbench.gate]") from error
    for name in ("tool", "qbench", "gate"):
        table = table.get(name, {})
        if not isinstance(table, dict):
            raise DataError(f"{path}: [tool.qbench.gate] is no table: {name} = {table!r}")
    policy: dict[str, Any] = {}
    budget: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in table.items():
        if _fits(GatePolicy(), key, value):
            policy[key] = value
        elif _fits(Budget(), key, value):
            budget[key] = value
        elif (
            key in ("tests", "paths")
            and isinstance(value, list)
            and value
            and all(isinstance(v, str) for v in value)
        ):
            rest[key] = tuple(value)
        elif key == "baselines" and isinstance(value, str) and value:
            rest[key] = value
        else:
            known = [f.name for kind in (GatePolicy, Budget) for f in dataclasses.fields(kind)]
            raise DataError(f"{path}: [tool.qbench.gate] {key} = {value!r} is unknown, of another type or out of "
                            f"range; known: positive numbers {', '.join(known)}; lists of strings tests, paths; "
                            "string baselines")  # fmt: skip
    return Settings(policy, dataclasses.replace(Budget(), **budget), **rest)


def _fits(defaults: object, key: str, value: object) -> bool:
    default = vars(defaults).get(key)
    if default is None or isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < math.inf and (isinstance(default, float) or isinstance(value, int))


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a revision's baselines hold for one device: log medians of each case's runs; which other devices it has."""

    logs: dict[str, tuple[float, ...]]
    others: tuple[str, ...]

    def noise(self, case: str) -> tuple[float, float]:
        """Variance of the runs' log medians and its degrees of freedom; (0, 0) where fewer than two are stored."""
        logs = self.logs.get(case, ())
        return (variance(list(logs)), len(logs) - 1.0) if len(logs) > 1 else (0.0, 0.0)


def read_stored(folder: Path, device: Device) -> Stored:
    """Raises DataError for a file of this device that cannot be trusted."""
    store = Store(folder, device)
    logs = {}
    for op in store.ops():
        file = store.file(op)
        for case, records in file.cases.items() if file else ():
            logs[case] = tuple(math.log(record.median_ns) for record in records)
    others = {path.parent.name for path in stored_files(folder)} - {device.key}
    return Stored(logs, tuple(sorted(others)))


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
    """Add an entry; one for the same pattern and device is replaced.

    Raises DataError for an entry that could not be read back.
    """
    import msgspec

    path = folder / ACCEPTED
    _last_day(entry, path)
    kept = [e for e in read_accepted(folder) if (e.case, e.device) != (entry.case, entry.device)]
    file = AcceptedFile(1, (*kept, entry))
    try:
        msgspec.convert(msgspec.to_builtins(file), AcceptedFile)
    except msgspec.ValidationError as error:
        raise DataError(
            f"not accepted: {error}; give a share of up to 10 and a reason in a sentence"
        ) from error
    write_atomic(path, msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n")
    return path


def acceptance(
    case: str, device: Device, ratio: float, accepted: tuple[Accepted, ...]
) -> tuple[Accepted | None, str]:
    """The entry that covers this case at this ratio today, if there is one; if not, why those that name it do not."""
    today = datetime.now(UTC).date()
    why = ""
    for entry in accepted:
        if not (matches(case, entry.case) and fnmatch.fnmatchcase(device.key, entry.device)):
            continue
        last = _last_day(entry, Path(ACCEPTED))
        if last is not None and today > last:
            why = f"accepted until {entry.until} only"
        elif ratio > 1 + entry.up_to:
            why = f"accepted up to {entry.up_to:.1%} only"
        else:
            return entry, ""
    return None, why


def matches(case: str, pattern: str) -> bool:
    """As `Accepted.case` says."""
    return fnmatch.fnmatchcase(case, pattern.replace("[", "[[]"))


def _last_day(entry: Accepted, path: Path) -> date | None:
    try:
        return date.fromisoformat(entry.until) if entry.until else None
    except ValueError:
        raise DataError(f"{path}: until = {entry.until!r} is no date; write it as 2027-01-31") from None
