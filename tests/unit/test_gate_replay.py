"""The replay: recorded noise read strictly, and rates that are known beforehand on noise that was made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qbench.gate.replay import Pool, draw, fixed, honesty, load, mann_whitney, rate, report, sequential
from qbench.gate.rule import GatePolicy
from qbench.result import DataError

POLICY = GatePolicy()


def noise(**changes: Any) -> dict[str, Any]:
    machine = {"name": "a", "medians_ns": [100.0, 101.0, 99.0], "burst_sd": 0.001}
    return {"schema": 1, "about": "a test", "cases": {"op/p[m=1]": [machine]}, **changes}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def normal(sd: float, burst_sd: float = 0.0005, cases: int = 50) -> Pool:
    deviations = sd * np.random.default_rng(0).standard_normal((cases, 400))
    return Pool(deviations, np.full(cases, 400), deviations.std(axis=1), np.full(cases, burst_sd))


def test_deviations_are_from_each_machines_own_mean(tmp_path: Path) -> None:
    machines = [
        {"name": "a", "medians_ns": [100.0, 102.0], "burst_sd": 0.001},
        {"name": "b", "medians_ns": [400.0, 408.0, 404.0], "burst_sd": 0.003},
    ]
    pool = load(write(tmp_path / "n.json", noise(cases={"op/p[m=1]": machines})))
    assert pool.count.tolist() == [5]
    assert pool.sd[0] < 0.02
    assert pool.deviations[0, :2].sum() == pytest.approx(0, abs=1e-12)
    # n/(n-1): the spread about a mean of few runs is too small
    assert pool.deviations[0, 1] == pytest.approx(np.log(1.02) / 2 * np.sqrt(2))
    assert pool.burst_sd[0] == 0.002


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "schema 2, this version reads 1"),
        ({"cases": {}}, "no cases"),
        ({"more": 1}, "more"),
        ({"cases": {"c": []}}, "cases['c'] needs two processes or more"),
        (
            {"cases": {"c": [{"name": "a", "medians_ns": [1.0], "burst_sd": 0.1}]}},
            "needs two processes or more",
        ),
        ({"cases": {"c": [{"name": "a", "medians_ns": [1.0, 0.0], "burst_sd": 0.1}]}}, "medians_ns[1]"),
        ({"cases": {"c": [{"name": "a", "medians_ns": [1.0, 2.0], "burst_sd": -1}]}}, "burst_sd"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "n.json", noise(**change))
    with pytest.raises(DataError) as raised:
        load(path)
    assert str(path) in str(raised.value)
    assert said in str(raised.value)


def test_a_draw_takes_each_cases_own_runs_and_never_the_padding() -> None:
    deviations = np.array([[1.0, 2.0, 0.0, 0.0], [3.0, 4.0, 5.0, 6.0]])
    pool = Pool(deviations, np.array([2, 4]), deviations.std(axis=1), np.zeros(2))
    drawn = draw(pool, np.array([0, 1, 0]), 200, np.random.default_rng(0))
    assert set(drawn[0]) == set(drawn[2]) == {1.0, 2.0}
    assert set(drawn[1]) == {3.0, 4.0, 5.0, 6.0}


def test_rates_of_noise_whose_rates_are_known() -> None:
    quiet, wild = normal(0.0025), normal(0.05)
    # one run against one run, normal: P(N(0, 2 sd^2) > log 1.05) is 24.5% at 5%
    found = rate(wild, fixed(0.05), 0.0, 20, 0, size=500)
    assert (found.suites, found.suites_with_slower, found.suite_runs) == (20, 20, 1.0)
    one = rate(wild, fixed(0.05), 0.0, 400, 0, size=1)
    assert one.suites_with_slower / 400 == pytest.approx(0.245, abs=0.07)
    assert rate(quiet, fixed(0.05), 0.0, 20, 0).suites_with_slower == 0
    assert rate(quiet, fixed(0.05), 0.10, 5, 0).found == (1.0, 1.0, 1.0)
    assert rate(quiet, fixed(0.05), 0.03, 5, 0).found == (0.0, 0.0, 0.0)


def test_samples_of_one_process_convict_the_unchanged() -> None:
    assert rate(normal(0.01), mann_whitney, 0.0, 10, 0, size=100).suites_with_slower == 10


def test_the_gate_on_known_noise_finds_slowdowns_and_states_what_it_can_find() -> None:
    def gate(pool: Pool, pick: Any, effect: Any, rng: Any) -> Any:
        return sequential(pool, pick, effect, rng, POLICY)[0]

    quiet = normal(0.0025)
    assert rate(quiet, gate, 0.0, 10, 0).suites_with_slower == 0
    slowed = rate(quiet, gate, 0.03, 4, 0)
    assert slowed.found[2] == 1.0
    assert slowed.suites_with_slower == 4
    assert honesty(quiet, 4, 0, POLICY)[0] > 0.99


def test_the_report_is_a_table_of_all_rules_under_a_line_about_the_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = {
        f"op/p[m={m}]": [
            {
                "name": "a",
                "medians_ns": (1e4 * np.exp(0.0025 * rng.standard_normal(20))).tolist(),
                "burst_sd": 0.001,
            }
        ]
        for m in range(30)
    }
    lines = list(report(load(write(tmp_path / "n.json", noise(cases=cases))), 2, 0))
    assert lines[0].startswith("30 recorded cases, run-to-run sd 0.2")
    table = lines[1:-1]
    assert all(line.count("|") == table[0].count("|") for line in table)
    first_words = [line.split("|")[1].split()[0] for line in table[2:]]
    assert first_words == ["this", "fixed", "fixed", "fixed", "Mann-Whitney"]
    assert "| 0.000% (0 of 2) |" in table[2]
    assert lines[-1].startswith("a slowdown as large as stated detectable is found: ")
