"""What the comparison could not see: cases of one side only, and what the stored runs lack.

A change must not pass its gate by taking the slow case away. So a case of the base that the candidate lacks, or no
longer supports, is LOST, which fails, as long as baselines hold runs of it: the change says that it is meant by taking
these runs out of `baselines/` (or renaming them there), where a reviewer sees it. Then, and where no run was ever
stored, the case is REMOVED, which is only said.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable

import msgspec

from qbench.gate.policy import Stored
from qbench.gate.protocol import Facts, Place
from qbench.gate.result import GateVerdict, Row
from qbench.result import Device

_COMPARED = 200  # new cases that a lost one is compared with by name


@dataclasses.dataclass(frozen=True)
class Kept:
    """The runs stored for this device in the base, and which cases the candidate's baselines still hold."""

    base: Stored
    candidate: frozenset[str]
    device: Device
    folder: str  # of the baselines, as a reader knows it

    def file(self, case: str) -> str:
        return f"{self.folder}/{self.device.key}/{case.partition('/')[0]}.json"

    def runs(self, case: str) -> int:
        return len(self.base.logs.get(case, ()))


def one_sided(base: dict[str, Place], candidate: dict[str, Place], kept: Kept) -> list[Row]:
    """A row for each case that only one side has."""
    new = [case for case in candidate if case not in base]
    rows, renamed = [], {}
    for case, place in base.items():
        if case in candidate:
            continue
        name = likely_rename(case, [each for each in new if each not in renamed])
        if name:
            renamed[name] = case
        rows.append(_gone(case, name, place, kept))
    for case in new:
        words = f"; perhaps {renamed[case]} under a new name" if case in renamed else ""
        rows.append(Row(case, GateVerdict.NEW, f"is not in the base; nothing to compare with{words}",
                        place=candidate[case]))  # fmt: skip
    return rows


def _gone(case: str, name: str, place: Place, kept: Kept) -> Row:
    words = "is not in the candidate" + (f"; perhaps renamed to {name}" if name else "")
    runs = kept.runs(case)
    if runs and case in kept.candidate:
        how = f"rename it to {name}" if name else "remove it"
        words += f"; {_count(runs, 'run')} of it are stored: if that is meant, {how} in {kept.file(case)} too"
        return Row(case, GateVerdict.LOST, words, place=place)
    return Row(case, GateVerdict.REMOVED, words + ("; so are its stored runs" if runs else ""), place=place)


def judged_by_stored(row: Row, kept: Kept) -> Row:
    """The row of a case that both sides have, in the light of what is stored of it."""
    runs = kept.runs(row.case)
    if row.verdict is GateVerdict.LOST and runs:
        if row.case not in kept.candidate:
            reason = f"{row.reason}; its stored runs were removed too"
            return msgspec.structs.replace(row, verdict=GateVerdict.REMOVED, reason=reason)
        reason = f"{row.reason}; if that is meant, remove it in {kept.file(row.case)} too"
        return msgspec.structs.replace(row, reason=reason)
    if row.verdict is GateVerdict.UNSUPPORTED and runs:
        said = f"{_count(runs, 'run')} of it are stored for this device, and neither side supports it here"
        reason = f"{said}: {row.reason}"
        return msgspec.structs.replace(row, verdict=GateVerdict.UNMEASURED, reason=reason)
    return row


def likely_rename(case: str, new: Iterable[str]) -> str:
    """The new case that this one may be called now: of the same op, or the same but for its op; "" where none is."""
    op, rest = case.split("/", 1) if "/" in case else (case, "")
    alike = [
        each for each in new if each.partition("/")[0] == op or (rest and each.partition("/")[2] == rest)
    ]
    provider, _, axes = rest.partition("[")

    def likeness(other: str) -> tuple[int, float]:
        other_op, _, other_rest = other.partition("/")
        other_provider, _, other_axes = other_rest.partition("[")
        equal = (other_op == op) + (other_provider == provider) + (other_axes == axes)
        return equal, difflib.SequenceMatcher(None, case, other).ratio()

    return max(alike[:_COMPARED], key=likeness, default="")


def notes(cases: list[str], base: Facts, candidate: Facts, kept: Kept) -> list[str]:
    """What weakens a gate over these cases, each with its remedy."""
    found = []
    stored, device = kept.base, kept.device
    known = sum(kept.runs(case) > 1 for case in cases)
    single = sum(kept.runs(case) == 1 for case in cases)
    record = "record some: python -m qbench record"
    prior = "how much the cases move from run to run is taken from the policy and from this gate's own pairs"
    if not stored.logs and stored.others:
        others = ", ".join(stored.others[:5])
        found.append(f"no run is stored for {device.key}, only for {others}, which says nothing of this device: "
                     f"{prior}; {record}")  # fmt: skip
    elif not stored.logs:
        found.append(f"no run is stored in {kept.folder} of the base: {prior}; {record}")
    elif not known and single:
        found.append(
            f"only one run of each case is stored, which says nothing of how much it moves: {prior}; {record}"
        )
    elif known < len(cases):
        found.append(f"{_count(len(cases) - known, 'case')} of {len(cases)} have fewer than two stored runs: {prior}; "
                     f"{record}")  # fmt: skip
    differing = [
        f"{name} {base.versions.get(name, 'none')} / {candidate.versions.get(name, 'none')}"
        for name in sorted({*base.versions, *candidate.versions} - {"pytest-qbench"})
        if base.versions.get(name) != candidate.versions.get(name)
    ]
    if differing:
        found.append(f"base and candidate differ in {', '.join(differing)}: a change may be theirs")
    return found


def stale(cases: set[str], kept: Kept) -> list[str]:
    """Stored cases of neither side's tests, of the ops that were collected."""
    ops = {case.partition("/")[0] for case in cases}
    found = sorted(case for case in kept.base.logs if case not in cases and case.partition("/")[0] in ops)
    if not found:
        return []
    return [f"{_count(len(found), 'stored case')} were collected from neither side, such as {found[0]}"]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
