"""A worker in a tree of its own: fresh processes, cases that misbehave, and what is said when nothing is measured."""

from __future__ import annotations

import importlib
import io
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from qbench.device import describe
from qbench.gate import side as side_module
from qbench.gate.protocol import End, Facts, Outcome, Ready, Request, Waiting
from qbench.gate.side import CannotMeasure, Side
from qbench.gate.worker import strangers
from tests import gates
from tests.gates import case

NAPS: gates.Naps = {"a": 1.0, "b": 1.0, "raises": "raises", "dies": "dies", "exits": "exits", "hangs": "hangs",
                    "no": "unsupported", "wrong": "wrong"}  # fmt: skip


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    root = tmp_path_factory.mktemp("tree")
    gates.write(root, NAPS)
    made = Side("candidate", root, ["tests/bench"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAP_PIDS", os.devnull)
        made.start()
        yield made
        made.close()


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_side_knows_its_cases_where_they_stand_and_what_it_runs_on(side: Side) -> None:
    assert list(side.places) == [case(name) for name in NAPS]
    place = side.places[case("a")]
    assert place.file == "tests/bench/test_naps.py"
    assert (side.root / place.file).read_text().splitlines()[place.line - 1].startswith("@qbench.parametrize")
    assert isinstance(side.facts, Facts) and "torch" in side.facts.versions


def test_each_request_is_a_process_of_its_own_and_every_case_has_its_word(side: Side) -> None:
    found = side.measure([case(name) for name in ("b", "raises", "a", "no", "wrong")], 60, {})
    assert {each.case: each.status for each in found.values()} == {
        case("b"): "ok", case("raises"): "error", case("a"): "ok", case("no"): "unsupported", case("wrong"): "wrong"
    }  # fmt: skip
    assert found[case("raises")].reason.startswith("RuntimeError: no kernel image")
    assert found[case("no")].reason == "the library is not installed"
    assert "expected 1" in found[case("wrong")].reason
    first = side.facts
    side.measure([case("a")], 60, {})
    assert first is not None and side.facts is not None and side.facts.process != first.process
    assert not alive(first.process)


def test_a_case_that_kills_its_process_or_never_ends_is_an_error_of_its_own(side: Side) -> None:
    found = side.measure([case(name) for name in ("dies", "a", "exits", "hangs", "b")], 4, {})
    assert [found[case(name)].status for name in ("a", "b")] == ["ok", "ok"]
    assert found[case("dies")] == Outcome(case("dies"), "error", reason="its process was killed by signal 9")
    assert found[case("exits")].reason == "its process ended with code 5"
    assert found[case("hangs")].reason == "did not end within 4 s"
    assert side.facts is not None and not alive(side.facts.process)


def test_waiting_for_another_sessions_turn_is_no_time_of_the_case(monkeypatch, capfd, tmp_path: Path) -> None:
    """Of answers that come 40 s apart, under a limit of 60 s a case: two that say why, then the outcome."""
    now = [0.0]
    made = Side("candidate", tmp_path, [])
    facts = Facts(1, describe(), {})
    answers = [facts, Waiting("the GPU is taken"), Waiting("the GPU is taken"), Outcome("x", "ok"), End(0)]

    def following(deadline: float):
        now[0] += 40.0
        assert now[0] < deadline, "the limit had passed"
        return answers.pop(0)

    monkeypatch.setattr(side_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(made, "_next", following)
    monkeypatch.setattr(made, "_process", SimpleNamespace(stdin=io.BytesIO()))
    found: dict[str, Outcome] = {}
    made._request(Request(("x",)), found, 60.0)
    assert found["x"].status == "ok" and capfd.readouterr().err.count("the GPU is taken") == 2


def test_a_worker_that_was_killed_is_started_again(side: Side) -> None:
    assert side._process is not None
    side._process.kill()
    side._process.wait()
    assert side.measure([case("a")], 60, {})[case("a")].status == "ok"


def test_injected_time_is_added_to_each_call(side: Side) -> None:
    plain, slow = (
        side.measure([case("a")], 60, inject)[case("a")].times for inject in ({}, {case("a"): 4e6})
    )
    assert plain is not None and slow is not None
    assert slow.median_ns - plain.median_ns > 2e6


def refused(root: Path, **changes: object) -> str:
    made = Side("base", root, ["tests/bench"], **changes)  # type: ignore[arg-type]
    with pytest.raises(CannotMeasure) as raised:
        made.start()
    assert made._process is None
    return str(raised.value)


def test_a_python_that_is_not_there_and_one_that_fails_are_said(tmp_path: Path) -> None:
    said = refused(tmp_path, python="/no/such/python")
    assert said.startswith("the base's Python cannot be started: ") and "/no/such/python" in said
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no torch for you' >&2\nexit 3\n")
    broken.chmod(0o755)
    said = refused(tmp_path, python=str(broken))
    assert "the base cannot be measured: its worker is gone" in said
    assert "no torch for you" in said


def test_tests_that_cannot_be_collected_are_said_with_pytests_words(tmp_path: Path) -> None:
    gates.write(tmp_path, NAPS)
    (tmp_path / "naps.py").write_text("import no_such_library\n")
    said = refused(tmp_path)
    assert f"no cases are collected in {tmp_path} with: pytest tests/bench" in said
    assert "No module named 'no_such_library'" in said


def test_modules_of_the_other_sides_tree_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install of the candidate that no path of the policy covers: the base would be tested against it."""
    base = tmp_path / "repository" / ".git" / "base"  # within the other side's tree, and not of it
    base.mkdir(parents=True)
    for name, folder in (("theirs", tmp_path / "repository"), ("ours", base), ("nobodys", tmp_path)):
        (folder / f"{name}.py").write_text("")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))
    monkeypatch.chdir(base)
    assert strangers(str(tmp_path / "repository")) == (f"theirs ({tmp_path / 'repository' / 'theirs.py'})",)
    assert strangers("") == strangers(str(tmp_path / "elsewhere")) == ()
    assert not any(each.startswith("qbench.") for each in strangers(str(gates.ROOT)))
    said = Side("base", base, [])._said(Ready({}, strangers=strangers(str(tmp_path / "repository"))))
    assert said.startswith("it imports from the other side's tree: theirs (")
    assert "[tool.qbench.gate] paths" in said


def test_configuration_above_a_tree_is_not_its_own(tmp_path: Path) -> None:
    """The base's worktree lies within the repository, whose conftest.py is the candidate's."""
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = ''\n")
    (tmp_path / "conftest.py").write_text("raise RuntimeError('not mine')\n")
    inner = tmp_path / "inner"
    gates.write(inner, {"a": 1.0})
    made = Side("base", inner, ["tests/bench"], python=sys.executable)
    try:
        made.start()
        assert made.places[case("a")].file == "tests/bench/test_naps.py"
    finally:
        made.close()
    deadline = time.monotonic() + 10
    assert made.facts is not None
    while alive(made.facts.process) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(made.facts.process)
