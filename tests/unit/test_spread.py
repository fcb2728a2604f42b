"""Run-to-run spread of stored baselines."""

import math

import pytest

from qbench.__main__ import main
from qbench.baseline import File, Record, Session, encode
from qbench.result import Device
from qbench.spread import spread_lines, spreads

DEVICE = Device("cuda", "NVIDIA H200", "9.0", 132, 140)


def file(**cases):
    records = {name: tuple(Record("s", ns, ns, ns, 10) for ns in medians) for name, medians in cases.items()}
    return File(1, "op", DEVICE, {"s": Session("2026-01-01T00:00:00+00:00", {})}, records)


def test_spread_is_the_standard_deviation_of_the_logarithm():
    found = spreads([file(a=[100.0, 101.0, 99.0], b=[100.0, 100.0])], 3)
    assert list(found) == ["a"]
    assert found["a"] == pytest.approx(math.log(1.01), rel=0.02)


def test_the_worst_cases_are_named_and_too_few_runs_are_said():
    lines = spread_lines({"calm": 0.001, "wild": 0.2})
    assert "median" in lines[0]
    assert lines[1].endswith("wild")
    assert "no case has enough runs" in spread_lines({})[0]


def test_the_command_reads_a_folder(tmp_path, capsys):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "op.json").write_bytes(encode(file(a=[100.0, 101.0, 99.0])))
    assert main(["spread", str(tmp_path)]) == 0
    assert "1 cases" in capsys.readouterr().out
