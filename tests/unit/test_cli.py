"""`python -m qbench`: what it prints, and that its exit codes are those its help promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import triton

from qbench.__main__ import main
from qbench.baseline import Store
from qbench.device import describe
from qbench.result import Device, Result, Run, Times, read_run, write_run
from tests.model_runs import Recipe, decode, run_of

H200 = Device("cuda", "NVIDIA H200", "9.0", 132, 140)
H100 = Device("cuda", "NVIDIA H100", "9.0", 132, 80)

SUITE = """
import qbench
def free(x): return lambda: x
@qbench.provider("gpu-only", needs_cuda=True)
def gpu_only(x): return lambda: x
op = qbench.Op("double", lambda w, d: (), lambda: None, qbench.exact, lambda w: qbench.Cost(8))
made = qbench.cases(op, [free, gpu_only], [qbench.Workload.of(m=m) for m in (1, 16)])
@qbench.parametrize(made)
def test_double(case): raise AssertionError("listing must run nothing")
@qbench.parametrize(made[:1])
def test_again(case): pass
def test_other(): pass
"""


def stored(path: Path, us: dict[int, float | None], device: Device = H200) -> str:
    """Write a results.json with case op/p[m=…] of each time; None is a wrong result."""
    results = tuple(
        Result(
            f"op/p[m={m}]",
            "op",
            "p",
            {"m": m},
            "ok" if value else "wrong",
            "" if value else "off by a factor",
            bytes=4096,
            times=Times(value * 1e3, value * 1e3, value * 1e3, 9, 9, 1, "graph", True) if value else None,
        )
        for m, value in us.items()
    )
    write_run(path, Run(1, "2026-01-01T00:00:00Z", device, {"torch": "2.13.0", "triton": "3.7.1"}, results))
    return str(path)


def shell(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "qbench", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


# compare


def test_compare_prints_every_ratio_and_ends_well_whatever_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = stored(tmp_path / "a.json", {1: 10.0, 2: 20.0, 3: 5.0})
    b = stored(tmp_path / "b.json", {1: 30.0, 2: 10.0, 4: 5.0})
    assert main(["compare", a, b]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ["op/p[m=1]", "10.00", "30.00", "3.000×"] in rows
    assert ["op/p[m=2]", "20.00", "10.00", "0.500×"] in rows
    assert f"only in {a}: op/p[m=3]" in out
    assert f"only in {b}: op/p[m=4]" in out


@pytest.mark.parametrize(("limit", "code"), [("5%", 1), ("0.05", 1), ("21%", 0), ("0", 1)])
def test_compare_fails_over_the_limit_and_names_the_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: str, code: int
) -> None:
    a = stored(tmp_path / "a.json", {1: 10.0, 2: 20.0})
    b = stored(tmp_path / "b.json", {1: 12.0, 2: 20.0})
    assert main(["compare", a, b, "--fail-over", limit]) == code
    end = capsys.readouterr().out.split("slower by more than")[1]
    assert ("op/p[m=1]: 1.200×" in end) == (code == 1)
    assert "op/p[m=2]" not in end


def test_two_runs_with_whole_models_beside_other_cases_are_compared_in_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for name, us in (("a", 10.0), ("b", 12.0)):
        (plain,) = read_run(Path(stored(tmp_path / f"{name}.json", {1: us}))).results
        model = decode(Recipe("bf16", 100.0 + us, "none", "torch", 50.0))
        device = H200 if name == "a" else H100
        write_run(
            tmp_path / f"{name}.json", msgspec.structs.replace(run_of(device, model), results=(plain, model))
        )
        paths.append(str(tmp_path / f"{name}.json"))
    assert main(["compare", *paths]) == 0
    out = capsys.readouterr().out
    assert "op/p[m=1]" in out and "1.200×" in out and "ms/token" in out


def test_spread_of_a_folder_that_is_not_there_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spread", "nowhere"]) == 2
    assert "no folder nowhere" in capsys.readouterr().err


def test_compare_fails_when_a_right_case_turned_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = stored(tmp_path / "a.json", {1: 10.0}), stored(tmp_path / "b.json", {1: None})
    assert main(["compare", a, b]) == 0
    assert main(["compare", a, b, "--fail-over", "50%"]) == 1
    assert "op/p[m=1]: wrong: off by a factor" in capsys.readouterr().out


def test_compare_of_two_devices_is_loud_and_no_gate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = stored(tmp_path / "a.json", {1: 10.0}), stored(tmp_path / "b.json", {1: 10.0}, H100)
    assert main(["compare", a, b]) == 0
    out = capsys.readouterr().out
    assert out.startswith("!! DIFFERENT DEVICES: nvidia-h200")
    assert out.count("!! DIFFERENT DEVICES") == 2
    assert main(["compare", a, b, "--fail-over", "5%"]) == 2
    assert "same device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"", "b.json"),
        (b'{"schema": 1', "b.json"),
        (b'{"schema": 1, "surprise": 2}', "b.json"),
        (b"[]", "b.json"),
        (b"\xff\xfe", "b.json"),
    ],
)
def test_compare_names_a_file_it_cannot_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, said: str
) -> None:
    a = stored(tmp_path / "a.json", {1: 10.0})
    if content is not None:
        (tmp_path / "b.json").write_bytes(content)
    assert main(["compare", a, str(tmp_path / "b.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"qbench: {tmp_path / 'b.json'}: ")
    assert said in error


def test_compare_without_a_common_case_is_unusable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["compare", stored(tmp_path / "a.json", {1: 1.0}), stored(tmp_path / "b.json", {2: 1.0})]) == 2
    )
    assert "share no case" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["five", "5", "1.5", "-5%", "nan", "inf", "%"])
def test_a_limit_that_is_no_share_is_refused(capsys: pytest.CaptureFixture[str], limit: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "a", "b", f"--fail-over={limit}"])
    assert stopped.value.code == 2
    assert "write 5% or 0.05" in capsys.readouterr().err


# merge, report


def test_merge_writes_one_report_of_all_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [stored(tmp_path / f"{m}.json", {m: 10.0}) for m in (1, 2, 4)]
    assert main(["merge", *parts, "-o", str(tmp_path / "out")]) == 0
    joined = read_run(tmp_path / "out" / "results.json")
    assert [result.case for result in joined.results] == ["op/p[m=1]", "op/p[m=2]", "op/p[m=4]"]
    assert (tmp_path / "out" / "plots" / "op.png").exists()
    assert f"3 parts, 3 results in {tmp_path / 'out'}: 4 files" in capsys.readouterr().out


def test_merge_refuses_what_does_not_belong_together_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = stored(tmp_path / "a.json", {1: 10.0}), stored(tmp_path / "b.json", {1: 11.0})
    assert main(["merge", a, b, "-o", str(tmp_path / "out")]) == 2
    assert "measured in more than one part: op/p[m=1]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_report_prints_tables_and_writes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", stored(tmp_path / "a.json", {1: 10.0, 2: 20.0}), "-o", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert ["2", "p", "20.00", "[20.00–20.00]", "0.205"] in [line.split() for line in out.splitlines()]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.json",
        "results.csv",
        "report.md",
        "plots",
    }


# devices


def test_devices_lists_this_machine_and_what_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = describe()
    run = read_run(Path(stored(tmp_path / "run.json", {1: 10.0, 2: 20.0}, here)))
    root = tmp_path / "baselines"
    Store(root, here).update(run, "s1", "append")
    (root / H200.key).mkdir()
    (root / H200.key / "gemm.json").write_text("{")
    assert main(["devices", "--baselines", str(root)]) == 0
    out = capsys.readouterr().out
    assert f"{here.kind}:0  {here.name}  {here.key}\n  baselines: op (2 cases)\n" in out
    assert f"not here  {H200.key}\n  baselines: UNREADABLE {root / H200.key / 'gemm.json'}: " in out


def test_devices_says_what_was_mended_in_the_interpreter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from qbench.interpreter import patches

    assert main(["devices", "--baselines", str(tmp_path)]) == 0
    used = sum(state.active for state in patches())
    said = capsys.readouterr().out
    assert f"repairs: {used} of {len(patches())} in use" in said
    assert f"Triton {triton.__version__}" in said


def test_devices_says_where_it_found_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--baselines", str(tmp_path)]) == 0
    assert f"baselines: none in {tmp_path / describe().key}" in capsys.readouterr().out


# cases, providers: through pytest in a process of its own, in a folder that is not this repository


def test_cases_and_providers_are_what_pytest_would_run(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    listed = shell(tmp_path, "cases")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.splitlines() == [
        "double/free[m=1]",
        "double/gpu-only[m=1]",
        "double/free[m=16]",
        "double/gpu-only[m=16]",
    ]
    chosen = shell(tmp_path, "providers", "-k", "16 or again", "test_suite.py")
    assert chosen.returncode == 0, chosen.stderr
    assert chosen.stdout.splitlines() == ["double/free  2 cases", "double/gpu-only  1 case  needs CUDA"]


def test_listing_that_finds_nothing_or_fails_to_collect_says_so(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    none = shell(tmp_path, "cases", "-k", "nothing")
    assert (none.returncode, none.stdout) == (2, "")
    assert "no cases collected with: pytest -k nothing" in none.stderr
    (tmp_path / "test_broken.py").write_text("import no_such_module")
    broken = shell(tmp_path, "providers")
    assert (broken.returncode, broken.stdout) == (2, "")
    assert "no_such_module" in broken.stderr


# usage


@pytest.mark.parametrize(
    "words",
    [["--help"], ["compare", "--help"], ["cases", "-h"], ["merge", "-h"], ["gate", "-h"], ["record", "-h"]],
)
def test_help_documents_the_exit_codes(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "exit codes:" in out
    assert "5%%" not in out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["unknown"],
        ["compare", "a.json", "b.json", "--baseline"],
        ["merge", "a.json"],
        ["devices", "x"],
        ["gate", "--minutes", "0"],
        ["gate", "--minutes", "nan"],
        ["gate", "--self-test", "0"],
        ["gate", "--unknown"],
        ["record", "--runs", "0"],
        ["accept", "op/p[m=1]"],
        ["accept", "op/p[m=1]", "--reason", "long enough", "--up-to", "-3%"],
        ["replay"],
        ["history", "--format", "xml"],
    ],
)
def test_wrong_usage_is_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.json", dict.fromkeys(range(1, 2000), 1.0))
    command = [sys.executable, "-m", "qbench", "compare", path, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert (process.returncode, error) == (0, b"")
