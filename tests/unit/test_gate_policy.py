"""What the base says about gating: settings, acceptances and stored noise, each read strictly."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from qbench.baseline import Store
from qbench.gate.policy import (
    Accepted,
    Settings,
    acceptance,
    read_accepted,
    read_settings,
    read_stored,
    write_accepted,
)
from qbench.gate.rule import GatePolicy
from qbench.gate.run import Budget
from qbench.result import DataError, Device, Result, Run, Times

H200 = Device("cuda", "NVIDIA H200", "9.0", 132, 140)
H100 = Device("cuda", "NVIDIA H100", "9.0", 132, 80)
CASE = "op/p[m=1,kind=a]"
REASON = "it is right now, and was not"


def settings(folder: Path, text: str) -> Settings:
    (folder / "pyproject.toml").write_text(text)
    return read_settings(folder)


def test_nothing_said_is_the_kind_of_devices_own_policy(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == Settings()
    assert settings(tmp_path, "[project]\nname = 'x'\n") == Settings()
    assert Settings().policy("cuda") == GatePolicy()
    assert Settings().policy("cpu") == GatePolicy.for_kind("cpu") != GatePolicy()


def test_what_is_said_replaces_single_fields(tmp_path: Path) -> None:
    found = settings(
        tmp_path, "[tool.qbench.gate]\nalpha = 0.001\nmax_pairs = 40\nh0 = 0.005\ntotal_s = 60\ntests = ['a', 'b']\n"
        "paths = ['python']\nbaselines = 'base'\n")  # fmt: skip
    policy = found.policy("cuda")
    assert (policy.alpha, policy.max_pairs, policy.h0, policy.beta) == (0.001, 40, 0.005, GatePolicy().beta)
    assert found.policy("cpu").least_effect == GatePolicy.for_kind("cpu").least_effect
    assert found.budget == Budget(total_s=60)
    assert (found.tests, found.paths, found.baselines) == (("a", "b"), ("python",), "base")


@pytest.mark.parametrize(
    "line",
    [
        "alfa = 0.1",
        "alpha = '5%'",
        "alpha = 0",
        "alpha = -1",
        "alpha = nan",
        "alpha = inf",
        "alpha = true",
        "max_pairs = 40.5",
        "case_s = 0",
        "tests = 'tests'",
        "tests = []",
        "paths = [1]",
        "baselines = 3",
        "for_kind = 3",
        "__doc__ = 3",
        "policy = { alpha = 1 }",
    ],
)
def test_a_bad_setting_is_one_clear_error(tmp_path: Path, line: str) -> None:
    with pytest.raises(DataError) as raised:
        settings(tmp_path, f"[tool.qbench.gate]\n{line}\n")
    said = str(raised.value)
    assert said.startswith(f"{tmp_path / 'pyproject.toml'}: [tool.qbench.gate] {line.split(' =')[0]} = ")
    assert "known: positive numbers alpha, " in said


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("alpha = 1.5", "alpha and beta are chances"),
        ("h0 = 0.05", "h0, what counts as no slowdown, must be below least_effect"),
        ("least_effect = 5", "least_effect and shift are shares"),
        ("estimate = 2", "estimate is a share"),
        ("min_pairs = 70", "min_pairs must not exceed max_pairs"),
        ("max_pairs = 1000", "nor that 200"),
        ("max_pairs = 12", "least_df cannot be reached"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path: Path, lines: str, said: str) -> None:
    found = settings(tmp_path, f"[tool.qbench.gate]\n{lines}\n")
    with pytest.raises(DataError, match=said):
        found.policy("cuda")


@pytest.mark.parametrize(
    "text", ["[tool.qbench", "[tool]\nqbench = 3\n", "tool = []\n", "[tool.qbench]\ngate = 'x'\n"]
)
def test_a_broken_pyproject_names_the_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError) as raised:
        settings(tmp_path, text)
    assert str(tmp_path / "pyproject.toml") in str(raised.value)
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError):
        read_settings(tmp_path)


# accepted slowdowns


def entry(case: str = CASE, up_to: float = 0.05, until: str = "", device: str = "*") -> Accepted:
    return Accepted(case, up_to, REASON, until, device)


def test_an_accepted_slowdown_is_written_replaced_and_read_back(tmp_path: Path) -> None:
    assert read_accepted(tmp_path) == ()
    write_accepted(tmp_path, entry())
    write_accepted(tmp_path, entry("op/*", device="nvidia-*"))
    path = write_accepted(tmp_path, entry(up_to=0.08))
    assert read_accepted(tmp_path) == (entry("op/*", device="nvidia-*"), entry(up_to=0.08))
    assert path.read_text().count("\n") > 10  # a line a field: reviewed like code


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        (CASE, True),
        ("op/p[[]m=1,kind=a]", False),
        ("op/p[m=?,kind=a]", True),
        ("op/p[m=1*", True),
        ("op/*", True),
        ("*[m=1,*]", True),
        ("op/p[am,=1]*", False),
        ("op/p", False),
        ("OP/*", False),
    ],
)
def test_brackets_are_themselves_and_only_stars_and_question_marks_stand_for_more(
    pattern: str, matches: bool
) -> None:
    assert (acceptance(CASE, H200, 1.03, (entry(pattern),))[0] is not None) == matches


def test_an_acceptance_has_a_limit_an_end_and_a_device() -> None:
    today = datetime.now(UTC).date()
    assert acceptance(CASE, H200, 1.05, (entry(),)) == (entry(), "")
    assert acceptance(CASE, H200, 1.051, (entry(),)) == (None, "accepted up to 5.0% only")
    last = entry(until=today.isoformat())
    assert acceptance(CASE, H200, 1.01, (last,))[0] is last
    over = entry(until=(today - timedelta(days=1)).isoformat())
    assert acceptance(CASE, H200, 1.01, (over,)) == (None, f"accepted until {over.until} only")
    assert acceptance(CASE, H200, 1.01, (over, last))[0] is last
    elsewhere = entry(device=H100.key)
    assert acceptance(CASE, H200, 1.01, (elsewhere,)) == (None, "")
    assert acceptance(CASE, H100, 1.01, (elsewhere,))[0] is elsewhere


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"schema": 1}',
        '{"schema": 2, "accepted": []}',
        '{"schema": 1, "accepted": [{"case": "a", "up_to": 0.1, "reason": "short"}]}',
        '{"schema": 1, "accepted": [{"case": "a", "up_to": 0, "reason": "long enough to say"}]}',
        '{"schema": 1, "accepted": [{"case": "a", "up_to": 0.1, "reason": "long enough to say", "til": ""}]}',
        '{"schema": 1, "accepted": [{"case": "a", "up_to": 0.1, "reason": "long enough to say", "until": "May"}]}',
    ],
)
def test_a_bad_file_of_acceptances_names_itself_and_the_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / "accepted.json").write_text(content)
    with pytest.raises(DataError) as raised:
        read_accepted(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / 'accepted.json'}: ")


@pytest.mark.parametrize(
    "bad",
    [
        Accepted(CASE, 0.0, REASON),
        Accepted(CASE, 20.0, REASON),
        Accepted(CASE, 0.1, "no"),
        entry(until="soon"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, bad: Accepted) -> None:
    write_accepted(tmp_path, entry())
    with pytest.raises(DataError):
        write_accepted(tmp_path, bad)
    assert read_accepted(tmp_path) == (entry(),)


# stored runs


def store(root: Path, device: Device, medians: dict[str, list[float]]) -> None:
    for index in range(max(len(each) for each in medians.values())):
        results = tuple(
            Result(case, "op", "p", {}, "ok", times=Times(*3 * (each[index],), 9, 1, 1, "graph", True))
            for case, each in medians.items() if index < len(each)
        )  # fmt: skip
        Store(root, device).update(
            Run(1, f"2026-01-0{index + 1}T00:00:00Z", device, {}, results), f"s{index}", "append"
        )


def test_stored_noise_is_of_this_device_and_needs_two_runs(tmp_path: Path) -> None:
    store(tmp_path, H200, {CASE: [100.0, 102.0, 104.0], "op/p[m=2]": [5.0]})
    store(tmp_path, H100, {CASE: [100.0, 200.0]})
    found = read_stored(tmp_path, H200)
    assert found.others == (H100.key,)
    variance, df = found.noise(CASE)
    assert df == 2.0
    assert math.sqrt(variance) == pytest.approx(0.0196, rel=0.01)
    assert found.noise("op/p[m=2]") == found.noise("unknown") == (0.0, 0.0)
    assert read_stored(tmp_path / "none", H200).others == ()


def test_a_baseline_that_cannot_be_trusted_is_refused(tmp_path: Path) -> None:
    store(tmp_path, H200, {CASE: [100.0, 102.0]})
    path = tmp_path / H200.key / "op.json"
    for broken in ("{", json.dumps({**json.loads(path.read_text()), "schema": 9})):
        path.write_text(broken)
        with pytest.raises(DataError, match=r"op\.json"):
            read_stored(tmp_path, H200)
