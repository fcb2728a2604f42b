"""What the comparison could not see: cases of one side, lost support, renames, and noise that is not stored."""

from __future__ import annotations

import pytest

from qbench.gate import missing
from qbench.gate.missing import Kept
from qbench.gate.policy import Stored
from qbench.gate.protocol import Facts, Place
from qbench.gate.result import GateVerdict, Row
from qbench.result import Device

H200 = Device("cuda", "NVIDIA H200", "9.0", 132, 140)
PLACE = Place("tests/bench/test_op.py", 12, "tests/bench/test_op.py::test_op")
CASE = "op/p[m=1]"


def kept(stored: dict[str, int], still: tuple[str, ...] | None = None, others: tuple[str, ...] = ()) -> Kept:
    logs = {case: tuple(float(run) for run in range(runs)) for case, runs in stored.items()}
    return Kept(Stored(logs, others), frozenset(stored if still is None else still), H200, "baselines")


def places(*cases: str) -> dict[str, Place]:
    return dict.fromkeys(cases, PLACE)


def test_a_case_that_is_gone_is_lost_as_long_as_baselines_hold_it() -> None:
    (lost,) = missing.one_sided(places(CASE, "op/q[m=1]"), places("op/q[m=1]"), kept({CASE: 10}))
    assert lost.verdict is GateVerdict.LOST
    assert lost.reason == (
        "is not in the candidate; 10 runs of it are stored: if that is meant, remove it in "
        "baselines/nvidia-h200_sm90_132sm_140gib/op.json too"
    )
    (said,) = missing.one_sided(places(CASE), places(), kept({CASE: 1}, still=()))
    assert (said.verdict, said.reason) == (
        GateVerdict.REMOVED,
        "is not in the candidate; so are its stored runs",
    )
    (never,) = missing.one_sided(places(CASE), places(), kept({}))
    assert (never.verdict, never.reason) == (GateVerdict.REMOVED, "is not in the candidate")


def test_a_renamed_case_is_recognised_on_both_sides() -> None:
    base, candidate = (
        places("op/old[m=1]", "op/old[m=2]", "x/y[m=1]"),
        places("op/new[m=2]", "op/new[m=1]", "z/w[k=3]"),
    )
    rows = {each.case: each for each in missing.one_sided(base, candidate, kept({"op/old[m=1]": 5}))}
    assert rows["op/old[m=1]"].reason.startswith(
        "is not in the candidate; perhaps renamed to op/new[m=1]; 5 runs of it"
    )
    assert "rename it to op/new[m=1] in baselines/" in rows["op/old[m=1]"].reason
    assert rows["op/old[m=2]"].reason == "is not in the candidate; perhaps renamed to op/new[m=2]"
    assert rows["x/y[m=1]"].reason == "is not in the candidate"
    assert rows["op/new[m=2]"].verdict is GateVerdict.NEW
    assert rows["op/new[m=2]"].reason.endswith(
        "nothing to compare with; perhaps op/old[m=2] under a new name"
    )
    assert "perhaps" not in rows["z/w[k=3]"].reason


@pytest.mark.parametrize(
    ("case", "new", "found"),
    [
        ("op/p[m=1]", ["op/p[rows=1]", "op/q[m=7]"], "op/p[rows=1]"),
        ("op/p[m=1]", ["op2/p[m=1]", "other/p[m=2]"], "op2/p[m=1]"),
        ("op/p[m=16]", ["op/p[m=1,n=2]", "op/p[m=16,n=2]"], "op/p[m=16,n=2]"),
        ("op/p[m=1]", ["other/q[m=1]"], ""),
        ("op/p[m=1]", [], ""),
    ],
)
def test_a_likely_new_name_is_of_the_same_op_or_the_same_but_for_it(
    case: str, new: list[str], found: str
) -> None:
    assert missing.likely_rename(case, new) == found


def test_support_that_was_lost_is_said_in_the_light_of_what_is_stored() -> None:
    lost = Row(CASE, GateVerdict.LOST, "no library", place=PLACE)
    assert missing.judged_by_stored(lost, kept({})) == lost
    assert (
        "if that is meant, remove it in baselines/" in missing.judged_by_stored(lost, kept({CASE: 3})).reason
    )
    assert missing.judged_by_stored(lost, kept({CASE: 3}, still=())).verdict is GateVerdict.REMOVED
    nowhere = Row(CASE, GateVerdict.UNSUPPORTED, "no library", place=PLACE)
    found = missing.judged_by_stored(nowhere, kept({CASE: 1}))
    assert found.verdict is GateVerdict.UNMEASURED
    assert (
        found.reason
        == "1 run of it are stored for this device, and neither side supports it here: no library"
    )
    assert missing.judged_by_stored(nowhere, kept({})) == nowhere


@pytest.mark.parametrize(
    ("stored", "others", "said"),
    [
        ({}, (), "no run is stored in baselines of the base"),
        ({}, ("nvidia-h100_sm90", "x"), "only for nvidia-h100_sm90, x, which says nothing of this device"),
        ({CASE: 1, "op/q[m=1]": 1}, (), "only one run of each case is stored"),
        ({CASE: 10, "op/q[m=1]": 1}, (), "1 case of 2 have fewer than two stored runs"),
    ],
)
def test_noise_that_is_not_stored_is_said(stored: dict[str, int], others: tuple[str, ...], said: str) -> None:
    facts = Facts(1, H200, {"torch": "2.13"})
    (found,) = missing.notes([CASE, "op/q[m=1]"], facts, facts, kept(stored, others=others))
    assert said in found
    assert found.endswith("record some: python -m qbench record")


def test_enough_noise_needs_no_note_and_other_versions_do() -> None:
    facts = Facts(1, H200, {"torch": "2.13", "triton": "3.7"})
    full = kept({CASE: 2})
    assert missing.notes([CASE], facts, facts, full) == []
    other = Facts(2, H200, {"torch": "2.12", "triton": "3.7"})
    assert missing.notes([CASE], other, facts, full) == [
        "base and candidate differ in torch 2.12 / 2.13: a change may be theirs"
    ]


def test_stored_cases_of_neither_side_are_counted() -> None:
    stored = kept({CASE: 2, "op/old[m=1]": 2, "op/old[m=2]": 2, "elsewhere/p[m=1]": 2})
    assert missing.stale({CASE}, stored) == [
        "2 stored cases were collected from neither side, such as op/old[m=1]"
    ]
    assert missing.stale(set(stored.base.logs), stored) == []
