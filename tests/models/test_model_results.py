"""An op that measures in its own way goes the way of all: results with figures, baselines, verdicts, reports, gate."""

import csv
import io
import json

import msgspec
import pytest

from qbench.case import Case, Cost, Op, Unsupported, Workload
from qbench.check import WrongResult
from qbench.gate.worker import inject
from qbench.measure import Bench, Measured
from qbench.report import junit_properties, markdown_report, results_csv, terminal_report
from qbench.result import Ceilings, DataError, Times, Verdict, read_run, write_run
from qbench.session import Options, Session
from qbench.timing import TimingPolicy
from tests.reports import result, run_of, with_

FIGURES = {"tokens_per_s": 177.7, "joules_per_token": 3.1, "wall_s": 0.36}
LABELS = {"mode": "weight-only", "backend": "triton", "recipe": "nvfp4-w4a16"}


def decoded(provider="nvfp4-w4a16", us=360_000.0, batch=1, **changes):
    made = result("model_decode", provider, us, model="tiny", batch=batch, prompt=128, new=64)
    return with_(made, **{"figures": FIGURES, "labels": LABELS, **changes})


# The file


def test_figures_and_labels_survive_the_file(tmp_path):
    run = run_of(decoded(), result("bf16_gemm", "torch", 10.0, m=1, n=64, k=64))
    write_run(tmp_path / "results.json", run)
    assert read_run(tmp_path / "results.json") == run


def test_a_file_that_knows_neither_is_read(tmp_path):
    path = tmp_path / "results.json"
    write_run(path, run_of(decoded()))
    data = json.loads(path.read_text())
    for name in ("figures", "labels"):
        del data["results"][0][name]
    path.write_text(json.dumps(data))
    (read,) = read_run(path).results
    assert (read.figures, read.labels) == ({}, {})


@pytest.mark.parametrize(
    "bad",
    [
        {"figures": {"tokens_per_s": "fast"}},
        {"figures": {"x": None}},
        {"labels": {"mode": 4}},
        {"figure": {}},
    ],
)
def test_what_is_no_figure_and_no_label_is_refused_with_its_place(tmp_path, bad):
    path = tmp_path / "results.json"
    write_run(path, run_of(decoded()))
    data = json.loads(path.read_text())
    data["results"][0].update(bad)
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"results\[0\]|figure"):
        read_run(path)


# The reports


def test_csv_has_a_column_for_each_figure_and_label_and_none_without_any():
    plain = result("bf16_gemm", "torch", 10.0, m=1, n=64, k=64)
    rows = list(csv.DictReader(io.StringIO(results_csv(run_of(decoded(), plain)))))
    assert rows[0]["figure_tokens_per_s"] == "177.7" and rows[0]["label_mode"] == "weight-only"
    assert rows[1]["figure_tokens_per_s"] == rows[1]["label_mode"] == ""
    assert "figure_" not in results_csv(run_of(plain)) and "label_" not in results_csv(run_of(plain))


def test_tables_show_figures_and_the_mode_where_there_are_any():
    plain = result("bf16_gemm", "torch", 10.0, m=1, n=64, k=64)
    run = run_of(decoded(), decoded(batch=8), plain)
    terminal = terminal_report(run).splitlines()
    (head,) = [line for line in terminal if line.startswith("batch")]
    assert "tokens per s" in head and "joules per token" in head and "mode" in head
    assert "wall s" not in head and "recipe" not in head  # said by the time and by the provider
    assert any("178" in line and "weight-only" in line for line in terminal)
    (gemm,) = [line for line in terminal if line.startswith("m ")]
    assert "tokens" not in gemm and "mode" not in gemm
    assert "|tokens per s|" in markdown_report(run)


def test_junit_has_them_and_keeps_its_own_names():
    made = dict(junit_properties(decoded(labels={"mode": "native", "case": "another"})))
    assert made["qbench_tokens_per_s"] == 177.7 and made["qbench_mode"] == "native"
    assert made["qbench_case"].startswith("model_decode/")


# The way of a case


class Trial:
    """Whatever it is told to be."""

    def __init__(self, ns, wrong=""):
        self.ns, self.wrong, self.delay, self.done = ns, wrong, None, []

    def check(self):
        self.done.append("check")
        if self.wrong:
            raise WrongResult(self.wrong)

    def once(self):
        self.done.append("once")

    def measure(self):
        assert self.done == ["check"], "timed before it was checked"
        if self.delay:
            self.delay()
        samples = (self.ns, self.ns, self.ns)
        times = Times(self.ns, self.ns, self.ns, 3, 1, 1, "wall", False)
        return Measured(
            times, samples, Cost(1000, 10, 4), {"tokens_per_s": 4e9 / self.ns}, {"mode": "native"}
        )


def case_of(trial, name="model_decode"):
    def make(case, bench):
        if isinstance(trial, Exception):
            raise trial
        return trial

    op = Op(name, lambda w, d: (), lambda: None, lambda *_: None, lambda w: Cost(0), trial=make)
    return Case(op, lambda: None, Workload.of(model="tiny", batch=1), "bf16")


@pytest.fixture
def session(tmp_path):
    def make(**options):
        made = Session(Options(tmp_path / "baselines", **options))
        made.ceilings = Ceilings(100.0, 10.0)
        return made

    return make


def recorded(session, ns=1e6, runs=5):
    for _ in range(runs):
        recording = session(update="append")
        recording.measure(case_of(Trial(ns)))
        assert [change.what for change in recording.update()] in (["add"], ["append"])


def test_a_trial_becomes_a_result_with_its_own_cost(session):
    made = session()
    found, samples = made.measure(case_of(Trial(2e6)))
    assert samples == (2e6, 2e6, 2e6) and found.status == "ok"
    assert (found.bytes, found.flops, found.elements) == (1000, 10, 4)
    assert found.figures == {"tokens_per_s": 2000.0} and found.labels == {"mode": "native"}
    assert found.judgement.verdict is Verdict.NO_BASELINE
    assert made.run().percent_of_ceiling(found) == pytest.approx(100 * 10 / 2e6)


def test_it_is_judged_against_its_baseline(session):
    recorded(session)
    verdicts = [session().measure(case_of(Trial(ns)))[0].judgement.verdict for ns in (1.01e6, 9e6)]
    assert verdicts == [Verdict.SAME, Verdict.SLOWER]


def test_figures_are_no_part_of_a_baseline(session, tmp_path):
    recorded(session, runs=1)
    (path,) = (tmp_path / "baselines").rglob("model_decode.json")
    assert "tokens_per_s" not in path.read_text() and "1000000.0" in path.read_text()


def test_a_wrong_one_is_not_stored_and_not_timed(session):
    made, trial = session(update="append"), Trial(1e6, wrong="logits differ")
    with pytest.raises(WrongResult, match="logits differ"):
        made.measure(case_of(trial))
    assert [each.status for each in made.results] == ["wrong"] and trial.done == ["check"]
    assert made.update() == []


def test_an_unsupported_one_is_said_with_its_reason(session):
    made = session()
    with pytest.raises(Unsupported):
        made.measure(case_of(Unsupported("capability: too old", "bf16")))
    (found,) = made.results
    assert (found.status, found.reason) == ("unsupported", "capability: too old; use bf16 instead")


def test_a_test_that_fails_afterwards_takes_the_figures_back(session):
    made = session()
    case = case_of(Trial(1e6))
    made.measure(case)
    made.retract(case.id, "its test failed")
    (found,) = made.results
    assert (found.status, found.times, found.figures) == ("error", None, {})
    read = msgspec.json.decode(msgspec.json.encode(found), type=type(found))
    assert read == found


def test_without_timing_it_is_checked_and_for_a_profiler_run_once(session):
    made = session()
    checked, profiled = Trial(1e6), Trial(1e6)
    made.check(case_of(checked))
    made.profile(case_of(profiled))
    assert checked.done == ["check"] and profiled.done == ["check", "once"]


def test_what_a_trial_leaves_is_kept_under_its_key_and_let_go_before_another_is_made():
    import torch

    bench, made = Bench(TimingPolicy(), torch.device("cpu"), None), []

    def make(name):
        assert bench.kept is None, "both at once may not fit"
        made.append(name)
        return name

    assert [bench.keep(key, lambda key=key: make(key)) for key in ("a", "a", "b", "a")] == [
        "a",
        "a",
        "b",
        "a",
    ]
    assert made == ["a", "b", "a"]
    bench.let_go()
    assert bench.kept is None


def test_what_does_not_fit_is_named_and_let_go(session):
    import torch

    made = session()
    made.bench.kept = ("key", "a model")
    with pytest.raises(
        MemoryError, match=r"model_decode/bf16\[model=tiny,batch=1\] does not fit: use a smaller batch"
    ):
        made.measure(case_of(torch.OutOfMemoryError("tried to allocate 1 EiB")))
    assert made.bench.kept is None


def test_the_gate_can_slow_it_down(session):
    import time

    trial = Trial(1e6)
    slowed = inject(case_of(trial), 5e6)
    start = time.perf_counter()
    session().measure(slowed)
    assert time.perf_counter() - start > 5e-3 and trial.delay is not None
    assert slowed.id == case_of(trial).id


SUITE = """
import qbench
from qbench.measure import Measured
from qbench.result import Times

class Trial:
    delay = None
    def check(self):
        if WRONG:
            raise qbench.WrongResult("another text")
    def once(self):
        pass
    def measure(self):
        times = Times(NS, NS, NS, 3, 1, 1, "wall", False)
        return Measured(times, (NS, NS, NS), qbench.Cost(8), {"tokens_per_s": 1e9 / NS}, {"mode": "emulated"})

WRONG, NS = False, 2e6
op = qbench.Op("model_decode", lambda w, d: (), lambda: None, lambda *_: None, lambda w: qbench.Cost(0),
               trial=lambda case, bench: Trial())

@qbench.parametrize([qbench.Case(op, lambda: None, qbench.Workload.of(model="tiny"), "bf16")])
def test_model(case, qbench):
    qbench(case)

def test_other():
    pass
"""


def test_through_the_plugin_it_is_a_benchmark_like_every_other(pytester, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def suite(*options, source=SUITE):
        pytester.makepyfile(test_suite=source)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)

    recording = ("--benchmark-only", "--qbench-update", "--qbench-report=out", "--benchmark-json=out.json")
    suite(*recording, "--junitxml=out.xml").assert_outcomes(passed=1, skipped=1)
    (native,) = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    assert (
        native["stats"]["median"] == pytest.approx(2e-3) and native["extra_info"]["qbench_mode"] == "emulated"
    )
    assert 'name="qbench_tokens_per_s" value="500.0"' in (pytester.path / "out.xml").read_text()
    (stored,) = read_run(pytester.path / "out" / "results.json").results
    assert stored.figures == {"tokens_per_s": 500.0} and stored.bytes == 8
    slower = suite("--benchmark-only", source=SUITE.replace("2e6", "20e6"))
    slower.assert_outcomes(failed=1, skipped=1)
    slower.stdout.fnmatch_lines(["*Regression*model_decode/bf16[[]model=tiny[]] is slower*"])
    suite(
        "--benchmark-disable", source=SUITE.replace("WRONG, NS = False", "WRONG, NS = True")
    ).assert_outcomes(failed=1, passed=1)
