"""Stored runs as rows: order, formats, patterns, refusals, and the plot."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from qbench.__main__ import main
from qbench.baseline import Store
from qbench.history import COLUMNS, history, plot, write_rows
from qbench.result import DataError, Device, Result, Run, Times

H200 = Device("cuda", "NVIDIA H200", "9.0", 132, 140)
H100 = Device("cuda", "NVIDIA H100", "9.0", 132, 80)
A, B = "op/p[m=1,k=2]", "op/q[m=1,k=2]"


def record(root: Path, at: str, medians: dict[str, float], device: Device = H200) -> None:
    results = tuple(
        Result(case, "op", "p", {}, "ok", times=Times(ns, ns - 1, ns + 1, 9, 1, 1, "graph", True, 1980, 1965))
        for case, ns in medians.items()
    )
    Store(root, device).update(
        Run(1, at, device, {"torch": "2.13", "driver": "570"}, results), f"s{at[:10]}", "append"
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "baselines"
    record(folder, "2026-03-01T10:00:00+00:00", {A: 110.0, B: 50.0})
    record(folder, "2026-01-01T10:00:00+00:00", {A: 100.0})
    record(folder, "2026-02-01T23:30:00-05:00", {A: 105.0})
    record(folder, "2026-02-02T01:00:00+00:00", {A: 90.0}, H100)
    (folder / "accepted.json").write_text('{"schema": 1, "accepted": []}')
    (folder / "compile").mkdir()
    (folder / "compile" / "sm_90-triton-3.7.1.json").write_text('{"schema": 1, "kernels": {}}')
    return folder


def test_rows_are_all_runs_of_all_devices_oldest_first(root: Path) -> None:
    rows = history(root)
    assert [row["median_ns"] for row in rows] == [
        100.0,
        90.0,
        105.0,
        110.0,
        50.0,
    ]  # 23:30-05:00 is 04:30 the day after
    assert set(rows[0]) == set(COLUMNS)
    assert (rows[0]["torch"], rows[0]["triton"], rows[0]["clock_mhz"]) == ("2.13", "", 1965)
    assert [row["device"] for row in rows].count(H100.key) == 1


@pytest.mark.parametrize(
    ("pattern", "count"), [("*", 5), (A, 4), ("op/?[m=1*", 5), ("op/q*", 1), ("op/[pq]*", 0)]
)
def test_patterns_take_brackets_as_they_stand(root: Path, pattern: str, count: int) -> None:
    assert len(history(root, pattern)) == count


def test_csv_and_json_lines_say_the_same(root: Path) -> None:
    rows = history(root)
    table, lines = io.StringIO(), io.StringIO()
    write_rows(rows, "csv", table)
    write_rows(rows, "jsonl", lines)
    parsed = list(csv.DictReader(io.StringIO(table.getvalue())))
    assert tuple(parsed[0]) == COLUMNS
    assert [row["case"] for row in parsed] == [row["case"] for row in rows]
    objects = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert objects == rows
    assert [float(row["median_ns"]) for row in parsed] == [row["median_ns"] for row in objects]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"schema": 1', '"schema": 2', "schema 2, this version reads 1"),
        ('"session": "s2026-01-01"', '"session": "other"', "names unknown session 'other'"),
        ("2026-01-01T10:00:00+00:00", "yesterday", "'yesterday', which is no ISO 8601"),
        ("{", "", "op.json"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused(root: Path, old: str, new: str, said: str) -> None:
    path = root / H200.key / "op.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError) as raised:
        history(root)
    assert str(path) in str(raised.value)
    assert said in str(raised.value)


def test_the_plot_is_a_picture_and_has_a_limit(root: Path, tmp_path: Path) -> None:
    plot(history(root), tmp_path / "plots" / "h.png")
    assert (tmp_path / "plots" / "h.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="3 cases match, a plot holds 2; narrow --case"):
        plot(history(root), tmp_path / "h.png", most=2)


def test_the_command_prints_draws_and_says_what_it_cannot(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", str(root), "--case", B]) == 0
    assert capsys.readouterr().out.splitlines()[0] == ",".join(COLUMNS)
    assert main(["history", str(root), "--format", "jsonl", "--case", B]) == 0
    assert json.loads(capsys.readouterr().out)["median_ns"] == 50.0
    assert main(["history", str(root), "--plot", str(tmp_path / "h.png")]) == 0
    assert "5 runs drawn in" in capsys.readouterr().out
    assert main(["history", str(root), "--case", "none*"]) == 2
    assert "no stored run of a case like 'none*'" in capsys.readouterr().err
    for m in range(13):
        record(root, "2026-04-01T00:00:00+00:00", {f"op/p[m={m}]": 10.0 + m})
    assert main(["history", str(root), "--plot", str(tmp_path / "many.png")]) == 2
    assert "a plot holds 12; narrow --case" in capsys.readouterr().err
