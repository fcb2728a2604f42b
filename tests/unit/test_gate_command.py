"""`python -m qbench gate` end to end, in a repository made for it: verdicts, files, kills, whose policy counts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from qbench.gate.command import Wish, _chosen, _something_measured, gate
from qbench.gate.policy import Accepted, write_accepted
from qbench.gate.protocol import Place
from qbench.gate.result import Gate, GateVerdict, Row
from qbench.gate.side import CannotMeasure, Side
from qbench.gate.worktree import HOME
from qbench.result import DataError
from tests import gates
from tests.gates import case

BASE: gates.Naps = {
    "same": 2.0, "slow": 2.0, "quick": 4.0, "wanted": 2.0, "raises": 2.0, "dies": 2.0, "hangs": 2.0, "wrong": 2.0,
    "dropped": 2.0, "gone": 2.0, "sick": "raises", "never": "unsupported",
}  # fmt: skip
CANDIDATE: gates.Naps = {
    "same": 2.0, "slow": 4.0, "quick": 2.0, "wanted": 4.0, "raises": "raises", "dies": "dies", "hangs": "hangs",
    "wrong": "wrong", "dropped": "unsupported", "fresh": 2.0, "sick": "raises", "never": "unsupported",
}  # fmt: skip
LOOSE = gates.POLICY.replace("least_effect = 0.3", "least_effect = 0.99").replace("h0 = 0.1", "h0 = 0.98")


@dataclasses.dataclass(frozen=True)
class Done:
    root: Path
    code: int
    out: str
    gate: Gate
    summary: str

    def row(self, name: str) -> Row:
        return next(row for row in self.gate.rows if row.case == case(name))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """One gate over everything that can happen to a case. The candidate loosens what it may not."""
    top = tmp_path_factory.mktemp("repository")
    root = top / "project"
    gates.repository(root, BASE)
    gates.store(root, ["same", "gone", "dropped", "never"])
    write_accepted(
        root / "baselines", Accepted("nap/wanted[m=?]", 2.0, "it was wrong before, and is right now")
    )
    gates.git(root, "add", "--all")
    gates.git(root, "commit", "--quiet", "--message", "baselines")
    gates.write(root, CANDIDATE)
    (root / "pyproject.toml").write_text(LOOSE)
    write_accepted(root / "baselines", Accepted("*", 9.0, "let me through, please"))
    summary = top / "summary.md"
    ran = gates.run(root, "gate", "--base", "HEAD", "--report", "reports/gate",
                    GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary))  # fmt: skip
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    found = msgspec.json.decode((root / "reports" / "gate" / "gate.json").read_bytes(), type=Gate)
    return Done(root, ran.returncode, ran.stdout, found, summary.read_text())


@pytest.mark.parametrize(
    ("name", "verdict", "said"),
    [
        ("same", "same", "not slower by"),
        ("slow", "slower", "more than chance explains, in interleaved runs"),
        ("quick", "faster", "python -m qbench record"),
        ("wanted", "accepted", "accepted up to 200.0%: it was wrong before, and is right now"),
        ("raises", "broken", "error on the candidate only: RuntimeError: no kernel image"),
        ("dies", "broken", "error on the candidate only: its process was killed by signal 9"),
        ("hangs", "broken", "error on the candidate only: did not end within 4 s"),
        ("wrong", "broken", "wrong on the candidate only: "),
        (
            "dropped",
            "lost",
            "the candidate does not support it: the library is not installed; if that is meant, remove",
        ),
        (
            "gone",
            "lost",
            "perhaps renamed to nap/fresh[m=1]; 2 runs of it are stored: if that is meant, rename it to",
        ),
        ("fresh", "new", "perhaps nap/gone[m=1] under a new name"),
        ("sick", "unmeasured", "fails on both: RuntimeError"),
        ("never", "unmeasured", "2 runs of it are stored for this device, and neither side supports it here"),
    ],
)
def test_each_case_gets_its_verdict_and_the_words_for_it(
    done: Done, name: str, verdict: str, said: str
) -> None:
    row = done.row(name)
    assert row.verdict.value == verdict
    assert said in row.reason


def test_the_gate_failed_and_said_so_everywhere(done: Done) -> None:
    assert done.code == 1
    assert done.gate.failed
    assert (
        "gate FAILED: 4 broken, 1 slower, 1 accepted, 2 lost, 2 unmeasured, 1 faster, 1 new, 1 same"
        in done.out
    )
    assert f"--case '{case('slow')}'" in done.out.split("again     ")[1]
    assert "note      8 cases of 11 have fewer than two stored runs" in done.out
    assert "::error file=project/" not in done.out
    line = done.row("slow").place
    assert (
        line is not None
        and f"::error file=tests/bench/test_naps.py,line={line.line},title=gate::slower" in done.out
    )
    report = done.root / "reports" / "gate"
    assert done.summary == (report / "gate.md").read_text()
    assert "| slower | `nap/slow[m=1]` | +" in done.summary
    suite = ElementTree.fromstring((report / "gate.xml").read_bytes())
    assert (suite.get("failures"), suite.get("skipped")) == ("7", "2")
    assert done.gate.candidate == f"{done.gate.base} with uncommitted changes"


def test_the_bases_policy_counted(done: Done) -> None:
    assert (done.gate.policy["least_effect"], done.gate.policy["h0"]) == (0.3, 0.1)


def test_the_slowdown_was_measured(done: Done) -> None:
    row = done.row("slow")
    assert row.ratio and row.low and row.high and 1.4 < row.ratio < 3
    assert row.low < row.ratio < row.high
    assert row.pairs == len(row.logs) >= 3


def test_nothing_was_left_behind_and_no_baseline_was_touched(done: Done) -> None:
    assert list((done.root / ".git" / HOME).iterdir()) == []
    changed = gates.git(done.root, "status", "--porcelain").splitlines()
    assert {each.split()[1] for each in changed} == {"naps.py", "pyproject.toml", "baselines/accepted.json"}


# what cannot be measured: before any worker starts


def refused(folder: Path, wish: Wish) -> str:
    with pytest.raises(CannotMeasure) as raised:
        gate(folder, wish, lambda words: None)
    return str(raised.value)


def test_where_there_is_nothing_to_compare_or_no_git_it_says_so(tmp_path: Path) -> None:
    assert "is in no git working tree" in refused(tmp_path, Wish())
    root = gates.repository(tmp_path / "repository", {"a": 1.0})
    assert "unknown base revision 'origin/main'" in refused(root, Wish())
    assert "HEAD holds HEAD already and nothing is uncommitted" in refused(root, Wish("HEAD"))
    gates.git(root, "checkout", "--quiet", "--detach")
    assert "main holds HEAD already" in refused(root / "tests", Wish("main"))


def test_another_lock_file_needs_another_environment(tmp_path: Path) -> None:
    root = gates.repository(tmp_path / "repository", {"a": 1.0})
    (root / "requirements.lock").write_text("torch==2.12\n")
    assert "requirements.lock differs from the base's" in refused(root, Wish("HEAD"))
    assert list((root / ".git" / HOME).iterdir()) == []


@pytest.mark.parametrize("where", ["base", "candidate"])
@pytest.mark.parametrize("file", ["pyproject.toml", "baselines/accepted.json"])
def test_a_bad_file_of_either_side_is_one_clear_error(tmp_path: Path, where: str, file: str) -> None:
    root = gates.repository(tmp_path / "repository", {"a": 1.0})
    good = (root / "pyproject.toml").read_text()
    (root / "baselines").mkdir()
    (root / file).write_text("[tool.qbench.gate]\nalfa = 1\n" if file == "pyproject.toml" else "{}")
    if where == "base":
        gates.git(root, "add", "--all")
        gates.git(root, "commit", "--quiet", "--message", "bad")
        (root / file).write_text(good if file == "pyproject.toml" else '{"schema": 1, "accepted": []}')
    with pytest.raises(DataError) as raised:
        gate(root, Wish("HEAD"), lambda words: None)
    said = str(raised.value)
    assert said.startswith("in the base (" if where == "base" else str(root / file))
    assert f" {file}: " in said if where == "base" else True
    assert HOME not in said
    assert list((root / ".git" / HOME).iterdir()) == []


# a project below the top of its repository, seen from a folder within it


def test_a_project_in_a_folder_of_the_repository_is_gated_where_it_stands(tmp_path: Path) -> None:
    gates.repository(tmp_path / "top", {"unused": "raises"}, policy="")
    root = tmp_path / "top" / "lib"
    gates.write(root, {"same": 1.0, "gone": 1.0, "broken": 1.0})
    (root / "pyproject.toml").write_text(gates.POLICY)
    gates.git(tmp_path / "top", "add", "--all")
    gates.git(tmp_path / "top", "commit", "--quiet", "--message", "lib")
    gates.write(root, {"same": 1.0, "broken": "raises"})
    found = gate(
        root / "tests", Wish("HEAD", ("tests/bench", "-k", "same or gone or broken")), lambda words: None
    )
    verdicts = {row.case: row for row in found.rows}
    assert verdicts[case("same")].verdict is GateVerdict.SAME
    assert verdicts[case("gone")].verdict is GateVerdict.REMOVED
    assert verdicts[case("broken")].verdict is GateVerdict.BROKEN
    place = verdicts[case("broken")].place
    assert place is not None and place.file == "lib/tests/bench/test_naps.py"
    assert any("no run is stored in baselines of the base" in note for note in found.notes)
    assert found.pytest_args[1] == "-k"


def sides(base: list[str], candidate: list[str]) -> tuple[Side, Side]:
    place = Place("tests/bench/test_naps.py", 1, "node")
    return (
        Side("base", Path("base"), [], places={case(name): place for name in base}),
        Side("candidate", Path("candidate"), [], places={case(name): place for name in candidate}),
    )


def test_only_cases_of_both_sides_are_chosen_and_a_choice_of_none_is_refused() -> None:
    both = sides(["a", "b", "gone"], ["b", "new", "a"])
    assert _chosen(*both, Wish()) == [case("b"), case("a")]
    assert _chosen(*both, Wish(cases=(case("a"), case("a")))) == [case("a")]
    with pytest.raises(
        CannotMeasure, match=r"--case 'nap/new\[m=1\]' is not a case of both sides; list them"
    ):
        _chosen(*both, Wish(cases=(case("new"),)))
    with pytest.raises(CannotMeasure, match="no case in common; were all of them renamed"):
        _chosen(*sides(["a"], ["b"]), Wish())


def test_a_gate_that_timed_nothing_is_no_pass() -> None:
    sick, broken = (
        Row(case("a"), GateVerdict.UNMEASURED, "fails on both: why"),
        Row("b", GateVerdict.BROKEN, "why"),
    )
    never = Row(case("c"), GateVerdict.UNSUPPORTED, "no library")
    with pytest.raises(CannotMeasure, match=r"none of 2 cases was timed on both sides; nap/a\[m=1\] is unme"):
        _something_measured([never, sick])
    _something_measured([never, broken])
    _something_measured([never, Row("d", GateVerdict.SAME, "", ratio=1.0)])
