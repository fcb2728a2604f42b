"""The store: what is written, what is refused, and that nothing is ever half there."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from qbench.baseline import KEEP_RUNS, Store
from qbench.result import DataError, Device, Result, Run, Times, read_run, write_atomic, write_run

DEVICE = Device("cuda", "NVIDIA H200", "9.0", 132, 140)
OTHER = Device("cuda", "NVIDIA H200", "9.0", 132, 141)


def result(case="gemm/a[m=1]", ns=1000.0, status="ok", op="gemm"):
    timed = Times(ns, ns, ns, 10, 100, 4, "graph", True, 1980, 1975) if status == "ok" else None
    return Result(case, op, "a", {"m": 1}, status, times=timed)


def run(*results, device=DEVICE):
    return Run(1, "2026-01-02T03:04:05+00:00", device, {"torch": "2.11"}, tuple(results))


def store(tmp_path, device=DEVICE):
    return Store(tmp_path, device)


def test_appended_runs_add_up_and_the_oldest_age_out(tmp_path):
    for index in range(KEEP_RUNS + 3):
        store(tmp_path).update(run(result(ns=1000.0 + index)), f"s{index}", "append")
    kept = store(tmp_path).records("gemm", "gemm/a[m=1]")
    assert [record.median_ns for record in kept] == [1003.0 + i for i in range(KEEP_RUNS)]
    assert set(store(tmp_path).file("gemm").sessions) == {f"s{i}" for i in range(3, KEEP_RUNS + 3)}


def test_missing_keeps_what_is_there_and_replace_does_not(tmp_path):
    store(tmp_path).update(run(result()), "first", "append")
    changes = store(tmp_path).update(run(result(ns=2000.0), result("gemm/a[m=2]")), "second", "missing")
    assert [change.case for change in changes] == ["gemm/a[m=2]"]
    assert store(tmp_path).records("gemm", "gemm/a[m=1]")[0].median_ns == 1000.0
    store(tmp_path).update(run(result(ns=2000.0)), "third", "replace")
    assert [r.median_ns for r in store(tmp_path).records("gemm", "gemm/a[m=1]")] == [2000.0]


def test_a_dry_update_writes_nothing_and_says_what_it_would(tmp_path):
    changes = store(tmp_path).update(run(result()), "s", "append", write=False)
    assert [(change.what, change.now_ns) for change in changes] == [("add", 1000.0)]
    assert not list(tmp_path.iterdir())


def test_an_op_with_a_failed_case_is_left_untouched(tmp_path):
    failed = result("gemm/b[m=1]", status="error")
    store(tmp_path).update(run(result(), failed, result("q/a", op="q")), "s", "append")
    assert not (store(tmp_path).path("gemm")).exists()
    assert store(tmp_path).path("q").exists()


def test_a_wrong_result_keeps_the_whole_session_from_being_stored(tmp_path):
    wrong = result("gemm/b[m=1]", status="wrong")
    assert store(tmp_path).update(run(result(), wrong, result("q/a", op="q")), "s", "append") == []
    assert not list(tmp_path.iterdir())


def test_two_open_sessions_both_end_up_stored(tmp_path):
    first, second = store(tmp_path), store(tmp_path)
    assert first.records("gemm", "gemm/a[m=1]") == second.records("gemm", "gemm/a[m=1]") == ()
    first.update(run(result(ns=1.0)), "first", "append")
    second.update(run(result(ns=2.0)), "second", "append")
    assert [r.session for r in store(tmp_path).records("gemm", "gemm/a[m=1]")] == ["first", "second"]


def test_sessions_that_update_at_once_all_end_up_stored(tmp_path):
    script = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_baseline import result, run, store
        store(Path({str(tmp_path)!r})).update(run(result(ns=1.0)), sys.argv[1], "append")
    """)
    several = [subprocess.Popen([sys.executable, "-c", script, f"s{index}"]) for index in range(4)]
    assert [each.wait() for each in several] == [0] * 4
    assert len(store(tmp_path).records("gemm", "gemm/a[m=1]")) == 4


def test_one_run_stands_on_one_line(tmp_path):
    store(tmp_path).update(run(result()), "s", "append")
    text = store(tmp_path).path("gemm").read_text()
    line = '{"session": "s", "median_ns": 1000.0, "p20_ns": 1000.0, "p80_ns": 1000.0, "samples": 10, "clock_mhz": 1975}'
    assert line in text


def test_unused_cases_are_listed(tmp_path):
    store(tmp_path).update(run(result(), result("gemm/a[m=2]")), "s", "append")
    assert store(tmp_path).unused("gemm", ["gemm/a[m=1]"]) == ["gemm/a[m=2]"]


CASES = {
    "truncated": (lambda text: text[: len(text) // 2], "Input data was truncated"),
    "empty": (lambda text: "", "Input data was truncated"),
    "not JSON": (lambda text: "import os", "malformed"),
    "negative time": (lambda text: text.replace("1000.0", "-1.0"), r"\$\.cases\[\.\.\.\]\[0\]\.median_ns"),
    "text for a number": (lambda text: text.replace("1000.0", '"fast"', 1), "Expected `float`, got `str`"),
    "unknown field": (lambda text: text.replace('"samples"', '"sample"'), "unknown field `sample`"),
    "another schema": (
        lambda text: text.replace('"schema": 1', '"schema": 9'),
        "schema 9, this version reads 1",
    ),
    "another device": (
        lambda text: text.replace('"memory_gib": 140', '"memory_gib": 80'),
        "recorded on nvidia-h200",
    ),
    "another op": (lambda text: text.replace('"op": "gemm"', '"op": "gemv"'), "holds op 'gemv'"),
    "unknown session": (lambda text: text.replace('"session": "s"', '"session": "t"'), "unknown session 't'"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_broken_file_is_named_with_place_and_remedy_and_never_overwritten(tmp_path, name):
    store(tmp_path).update(run(result()), "s", "append")
    path = store(tmp_path).path("gemm")
    damage, words = CASES[name]
    path.write_text(damage(path.read_text()))
    before = path.read_bytes()
    with pytest.raises(DataError, match=words) as caught:
        store(tmp_path).records("gemm", "gemm/a[m=1]")
    assert str(path) in str(caught.value) and "--qbench-update" in str(caught.value)
    with pytest.raises(DataError):
        store(tmp_path).update(run(result(ns=5.0)), "s2", "append")
    assert path.read_bytes() == before


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    store(tmp_path).update(run(result()), "s", "append")
    path = store(tmp_path).path("gemm")
    path.write_bytes(path.read_bytes().replace(b"H200", b"H\xff00"))
    with pytest.raises(DataError, match=r"gemm\.json"):
        store(tmp_path).file("gemm")


def test_devices_that_differ_in_memory_do_not_share_baselines(tmp_path):
    store(tmp_path).update(run(result()), "s", "append")
    assert store(tmp_path, OTHER).records("gemm", "gemm/a[m=1]") == ()


def test_device_key_holds_model_capability_units_and_memory():
    assert DEVICE.key == "nvidia-h200_sm90_132sm_140gib"
    assert Device("cpu", "Intel(R) Xeon(R)", "", 2, 24).key == "cpu_intel-r-xeon-r_2cores_24gib"


def test_a_failing_update_leaves_every_file_as_it_was(tmp_path, monkeypatch):
    store(tmp_path).update(run(result(), result("q/a", op="q")), "s", "append")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    monkeypatch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store(tmp_path).update(run(result(ns=2.0), result("q/a", op="q", ns=2.0)), "s2", "append")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_killed_while_writing_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "x.json"
    write_atomic(path, b"old")
    script = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from qbench import result
        os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
        result.write_atomic(Path({str(path)!r}), b"new" * 100000)
    """)
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_run_reads_back_as_it_was_written(tmp_path):
    made = run(result(), result("gemm/b", status="unsupported"))
    write_run(tmp_path / "r.json", made)
    assert read_run(tmp_path / "r.json") == made
    data = json.loads((tmp_path / "r.json").read_text())
    (tmp_path / "r.json").write_text(json.dumps({**data, "schema": 2}))
    with pytest.raises(DataError, match="schema 2"):
        read_run(tmp_path / "r.json")
