"""`python -m qbench gate` and its kin: what they refuse before anything is measured, and what they hand on."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench.__main__ import main
from qbench.gate import command
from qbench.gate import record as record_module
from qbench.gate.command import Wish
from qbench.gate.policy import read_accepted
from qbench.gate.record import Recorded
from qbench.gate.result import Gate, Shift
from qbench.gate.side import CannotMeasure
from qbench.result import Device
from tests import gates

H200 = Device("cuda", "NVIDIA H200", "9.0", 132, 140)


def test_gate_hands_its_options_on_and_what_follows_the_dashes_is_pytests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Wish] = []

    def nothing(folder: Path, wish: Wish, say: object) -> None:
        seen.append(wish)
        raise CannotMeasure("there is no GPU")

    monkeypatch.setattr(command, "gate", nothing)
    monkeypatch.chdir(tmp_path)
    words = "gate --base dev --case a --case b --minutes 2.5 --seed 3 --report out -- tests/bench -k x --full"
    assert main(words.split()) == 3
    assert seen == [Wish("dev", ("tests/bench", "-k", "x", "--full"), ("a", "b"), 2.5, "", Path("out"), 3)]
    assert capsys.readouterr().err == "qbench gate: could not measure: there is no GPU\n"
    assert main(["gate", "tests/bench"]) == 3
    assert seen[1] == Wish(pytest_args=("tests/bench",))


@pytest.mark.parametrize(
    ("shift", "code"), [(Shift(0.0, False), 0), (Shift(0.02, True, 4), 1)], ids=["passed", "failed"]
)
def test_the_gates_exit_code_is_its_verdict_and_its_reports_are_written(
    shift: Shift,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = Gate(1, "", "b", "c", H200, {}, {"alpha": 1e-4}, (), shift, 1.0, 1.0, "python -m qbench gate")
    monkeypatch.setattr(command, "gate", lambda *words: found)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert main(["gate", "--report", str(tmp_path / "out")]) == code
    out = capsys.readouterr().out
    assert f"written   {tmp_path / 'out' / 'gate.md'}" in out
    assert out.count("::error ") == code
    assert (tmp_path / "summary.md").read_text() == (tmp_path / "out" / "gate.md").read_text()
    (tmp_path / "file").write_text("")
    assert main(["gate", "--report", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_a_gate_outside_of_git_could_not_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["gate"]) == 3
    assert "is in no git working tree, so there is no base to compare with" in capsys.readouterr().err


def test_accept_writes_an_entry_that_can_be_read_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.qbench.gate]\nbaselines = 'stored'\n")
    monkeypatch.chdir(tmp_path)
    good = [
        "accept",
        "op/p[m=*]",
        "--up-to",
        "8%",
        "--reason",
        "right now, and was wrong",
        "--until",
        "2030-01-31",
    ]
    assert main(good) == 0
    assert "op/p[m=*] may be up to 8.0% slower" in capsys.readouterr().out
    (entry,) = read_accepted(tmp_path / "stored")
    assert (entry.case, entry.up_to, entry.until, entry.device) == ("op/p[m=*]", 0.08, "2030-01-31", "*")
    for bad in (["--up-to", "0"], ["--up-to", "2000%"], ["--reason", "no"], ["--until", "soon"]):
        assert main([*good, *bad]) == 2
        assert capsys.readouterr().err.startswith("qbench: ")
    assert read_accepted(tmp_path / "stored") == (entry,)


def test_accepting_what_no_stored_case_is_called_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    gates.store(tmp_path, ["a"])
    for pattern, said in ((gates.case("a"), False), ("nap/*", False), ("nop/*", True)):
        assert main(["accept", pattern, "--up-to", "8%", "--reason", "right now, and was wrong"]) == 0
        assert (f"{pattern!r} is no case that is stored in baselines" in capsys.readouterr().err) == said


def test_record_says_what_it_did_not_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    results = iter([Recorded(3, ()), Recorded(3, ("gemm: it is wrong",))])
    calls: list[tuple[object, ...]] = []

    def pretend(*words: object, **more: object) -> Recorded:
        calls.append(words)
        return next(results)

    monkeypatch.setattr(record_module, "record", pretend)
    assert main(["record", "--runs", "4", "--", "tests", "-k", "x"]) == 0
    assert calls[0][1:4] == (["tests", "-k", "x"], tmp_path / "baselines", 4)
    assert "3 cases stored in baselines; review and commit them" in capsys.readouterr().out
    assert main(["record"]) == 1
    assert calls[1][1] == ("tests/bench",)
    assert "not stored: gemm: it is wrong" in capsys.readouterr().err


def test_replay_names_a_file_it_cannot_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err
