"""A gate in words: rows, the terminal, Markdown, annotations and JUnit, and what the comparison could not see."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from qbench.gate import publish, words
from qbench.gate.policy import Accepted
from qbench.gate.protocol import Place
from qbench.gate.result import FAILING, Gate, GateVerdict, Row, Shift
from qbench.gate.rows import make_row
from qbench.gate.rule import GatePolicy
from qbench.gate.run import Track
from qbench.result import Device, Times

H200 = Device("cuda", "NVIDIA H200", "9.0", 132, 140)
POLICY = GatePolicy()
PLACE = Place("tests/bench/test_op.py", 12, "tests/bench/test_op.py::test_op")
CASE = "op/p[m=1]"
NASTY = "expected 1 | found <inf>\nat `x`, 50% of @all [0] \x00\x1b[31m\ud800"


def times(ns: float, clock: int = 1980, throttle: tuple[str, ...] = ()) -> Times:
    return Times(ns, ns, ns, 10, 1, 1, "graph", True, clock, clock, throttle)


def track(verdict: GateVerdict, log: float = 0.0, pairs: int = 6, clock: int = 1980, **changes: Any) -> Track:
    found = Track(CASE, 4e-6, 9.0, [log] * pairs, [times(1e4)] * pairs, [times(1e4 * math.exp(log), clock)] * pairs,
                  verdict, sd=0.002, sd_df=15.0)  # fmt: skip
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def row_of(made: Track, *accepted: Accepted) -> Row:
    return make_row(made, PLACE, H200, POLICY, accepted)


def row(verdict: GateVerdict, case: str = CASE, reason: str = "because", **changes: Any) -> Row:
    made = Row(
        case, verdict, reason, 1.05, 1.04, 1.06, 6, 1e4, 1.05e4, 0.002, 0.02, (1980, 1980), place=PLACE
    )
    return msgspec.structs.replace(made, **changes)


def gate(*rows: Row, **changes: Any) -> Gate:
    made = Gate(1, "2026-01-01T00:00:00+00:00", "abc `base` | <b>", "def change", H200, {"torch": "2.13"},
                {"alpha": 1e-4}, rows, Shift(0.001, False), 3.2, 61.0,
                "python -m qbench gate --base 'a b'")  # fmt: skip
    return msgspec.structs.replace(made, **changes)


# rows


def test_a_row_states_ratio_interval_clocks_and_what_it_can_find() -> None:
    made = row_of(track(GateVerdict.SLOWER, 0.05))
    assert made.ratio == pytest.approx(math.exp(0.05))
    assert made.low and made.high and made.low < made.ratio < made.high
    assert (made.base_ns, made.clocks_mhz, made.pairs) == (1e4, (1980, 1980), 6)
    assert made.detectable and made.detectable > 0.0125
    assert made.reason == "more than chance explains, in interleaved runs"


def test_the_interval_holds_the_true_ratio_99_times_of_100() -> None:
    rng, inside, of = np.random.default_rng(0), 0, 4000
    for _ in range(of):
        logs = 0.01 + 0.002 * math.sqrt(2) * rng.standard_normal(8)
        sd = 0.002 * math.sqrt(rng.chisquare(15) / 15)
        made = row_of(track(GateVerdict.SLOWER, logs=list(logs), sd=sd))
        assert made.low and made.high
        inside += made.low <= math.exp(0.01) <= made.high
    assert inside / of == pytest.approx(0.99, abs=0.005)


def test_a_clock_that_fell_with_the_candidate_is_named_and_one_that_fell_for_both_is_not() -> None:
    assert (
        "the SM clock fell to 1700 MHz with it (1980 MHz with the base)"
        in row_of(track(GateVerdict.SLOWER, 0.05, clock=1700)).reason
    )
    both = track(GateVerdict.SLOWER, 0.05, clock=1700, base=[times(1e4, 1700)] * 6)
    assert "clock" not in row_of(both).reason


def test_an_accepted_slowdown_is_no_failure_and_one_beyond_it_says_so() -> None:
    entry = Accepted("op/*", 0.06, "right now, wrong before")
    made = row_of(track(GateVerdict.SLOWER, 0.05), entry)
    assert (made.verdict, made.reason) == (
        GateVerdict.ACCEPTED,
        "accepted up to 6.0%: right now, wrong before",
    )
    made = row_of(track(GateVerdict.SLOWER, 0.08), entry)
    assert made.verdict is GateVerdict.SLOWER
    assert made.reason.endswith("; accepted up to 6.0% only")
    assert row_of(track(GateVerdict.BROKEN, 0.05, reason="no"), entry).verdict is GateVerdict.BROKEN


def test_failures_that_did_not_come_back_and_pairs_set_aside_stand_in_the_row() -> None:
    made = row_of(track(GateVerdict.SAME, flaky=(0, 1), failure="the bus hiccuped", uneven=2))
    assert made.flaky == (0, 1) and made.set_aside == 2
    assert (
        "failed in 0 processes of the base and 1 of the candidate, and not when tried again: the bus"
        in made.reason
    )
    found = words.card_notes([made], Shift(0.0, False))
    assert found[0].startswith(
        "the device throttled (a CPU: was taken away) in 0 runs of the base and 0 of the candidate, of 6 each; 2 pairs"
    )
    assert found[1] == f"1 cases failed in one process and not in the next, such as {CASE}"
    assert words.card_notes([row(GateVerdict.SAME)], Shift(0.0, False)) == []
    assert words.card_notes([], Shift(0.01, False, note="not looked into: why")) == [
        "the suite as a whole looks +1.01% slower, not looked into: why"
    ]


def test_a_case_without_times_has_no_ratio() -> None:
    made = make_row(Track(CASE, verdict=GateVerdict.BROKEN, reason="why"), PLACE, H200, POLICY, ())
    assert (made.ratio, made.reason) == (None, "why")
    assert words.line(made) == f"broken       {CASE}: why"


# the terminal


def test_the_text_shows_the_worst_first_and_only_what_matters() -> None:
    found = words.text(gate(
        row(GateVerdict.SAME, "op/same[m=1]"), row(GateVerdict.INCONCLUSIVE, "op/open[m=1]"),
        row(GateVerdict.SLOWER, "op/slow[m=1]"), row(GateVerdict.SLOWER, "op/slower[m=1]", ratio=1.5),
        row(GateVerdict.UNSUPPORTED, "op/no[m=1]", ratio=None), notes=("nothing is stored",)))  # fmt: skip
    lines = found.splitlines()
    assert [line.split()[1].rstrip(":") for line in lines[:3]] == [
        "op/slower[m=1]",
        "op/slow[m=1]",
        "op/open[m=1]",
    ]
    assert (
        "+5.00% (+4.00% .. +6.00%), 10.00 -> 10.50 µs, 6 pairs, SM 1980/1980 MHz, finds 2.0%; because"
        in lines[1]
    )
    assert "gate FAILED: 2 slower, 1 inconclusive, 1 same, 1 unsupported" in lines
    assert "note      nothing is stored" in lines
    assert not any("op/same" in line or "op/no" in line for line in lines[:4])
    assert lines[-1] == (
        "again     python -m qbench gate --base 'a b' --case 'op/slower[m=1]' --case 'op/slow[m=1]'"
    )


@pytest.mark.parametrize("verdict", list(GateVerdict))
def test_only_what_is_broken_slower_or_lost_fails(verdict: GateVerdict) -> None:
    found = gate(row(verdict))
    assert found.failed == (verdict in FAILING) == (verdict.value in ("broken", "slower", "lost"))
    assert words.headline(found) == ("gate FAILED" if found.failed else "gate passed")
    junit = ElementTree.fromstring(publish.junit(found))
    assert int(junit.get("failures", "")) == found.failed


def test_a_shift_of_the_suite_fails_in_every_report() -> None:
    found = gate(row(GateVerdict.SAME), shift=Shift(0.02, True, 4))
    assert found.failed
    assert words.headline(found) == "gate FAILED: the suite as a whole"
    assert "suite     +2.02% at the median of all cases, confirmed: slower as a whole" in words.text(found)
    junit = ElementTree.fromstring(publish.junit(found))
    assert junit.get("failures") == "1"
    assert junit[0].get("name") == "the suite as a whole" and junit[0].find("failure") is not None
    assert publish.marks(found)[0].startswith("::error title=gate::the suite as a whole is slower: +2.02%25")


def test_the_command_to_look_again_quotes_and_carries_pytests_arguments() -> None:
    odd = row(GateVerdict.BROKEN, "op/it's[m=1]")
    found = gate(odd, pytest_args=("tests/bench", "-k", "not slow"))
    assert words.again(found) == (
        "python -m qbench gate --base 'a b' --case 'op/it'\"'\"'s[m=1]' -- tests/bench -k 'not slow'"
    )
    assert words.again(gate(row(GateVerdict.LOST), row(GateVerdict.SAME))) == ""
    many = gate(*(row(GateVerdict.INCONCLUSIVE, f"op/p[m={m}]") for m in range(9)))
    assert words.again(many).count("--case") == 5


# what is published


def test_markdown_escapes_what_would_break_the_table() -> None:
    found = publish.markdown(gate(row(GateVerdict.BROKEN, "op/a|b`c[m=1]", NASTY, ratio=None)))
    table = [line for line in found.splitlines() if line.startswith("|")]
    assert len(table) == 3
    assert all(line.replace("\\|", "").count("|") == 9 for line in table)
    assert "`op/a\\|b'c[m=1]`" in table[2]
    assert "expected 1 \\| found &lt;inf&gt; at \\`x\\`, 50% of @\u200ball \\[0\\]" in table[2]
    assert "- base `abc 'base' | <b>`" in found
    assert "```\npython -m qbench gate --base 'a b' --case 'op/a|b`c[m=1]'\n```" in found


def test_reports_of_a_huge_suite_stay_within_what_github_takes() -> None:
    rows = [row(GateVerdict.SLOWER, f"op/{'p' * 200}[m={m}]", "why " * 500) for m in range(3000)]
    rows += [row(GateVerdict.INCONCLUSIVE, f"op/q[m={m}]") for m in range(50)]
    found = gate(*rows)
    body = publish.markdown(found)
    assert len(body) < 65_536
    assert "more in gate.json" in body
    assert "- candidate `def change`" in body
    marks = publish.marks(found)
    assert [sum(mark.startswith(f"::{level} ") for mark in marks) for level in ("error", "warning")] == [
        10,
        10,
    ]
    assert all(len(mark) < 1500 for mark in marks)
    assert len(words.text(found).splitlines()) < 230
    assert "... and 2850 more; all are in gate.json" in words.text(found)


def test_annotations_are_one_line_each_with_their_properties_escaped() -> None:
    place = Place("tests/a,b:c%.py", 3, "node")
    marks = publish.marks(gate(row(GateVerdict.LOST, reason=NASTY, ratio=None, place=place),
                               row(GateVerdict.SLOWER, "op/x[m=1]", place=None), row(GateVerdict.SAME)))  # fmt: skip
    assert len(marks) == 2
    assert marks[0].startswith("::error title=gate::slower       op/x[m=1]: +5.00%25")
    assert marks[1].startswith(
        "::error file=tests/a%2Cb%3Ac%25.py,line=3,title=gate::lost         op/p[m=1]: expected"
    )
    assert not any("\n" in mark for mark in marks)


def test_junit_is_xml_whatever_the_reasons_hold() -> None:
    rows = [row(verdict, f"op/p[m={index}]", NASTY) for index, verdict in enumerate(GateVerdict)]
    suite = ElementTree.fromstring(publish.junit(gate(*rows)))
    cases = suite.findall("testcase")
    assert int(suite.get("tests", "")) == len(cases) == len(rows) + 1
    assert int(suite.get("failures", "")) == len(suite.findall("testcase/failure")) == 3
    skipped = {case.get("name") for case in cases if case.find("skipped") is not None}
    assert skipped == {
        each.case for each in rows if each.verdict.value in ("inconclusive", "unmeasured", "unsupported")
    }
    failure = suite.find("testcase/failure")
    assert failure is not None and failure.text and "found <inf>\nat `x`" in failure.text
    assert cases[1].get("classname") == PLACE.file


def test_a_gate_is_read_back_as_it_was_written() -> None:
    found = gate(row(GateVerdict.SLOWER, logs=(0.01, 0.02)), notes=("a",))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Gate) == found
