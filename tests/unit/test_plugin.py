"""The plugin from outside: whole pytest sessions over small suites, on the wall clock."""

import json

import pytest
import torch._inductor.test_operators

from qbench.device import describe

SUITE = """
import time
import torch, qbench

def op(name="double"):
    return qbench.Op(
        name,
        inputs=lambda w, device: (torch.arange(1.0, 1.0 + w.size("m"), device=device) + w.seed,),
        reference=lambda x: 2 * x,
        tolerance=qbench.exact,
        cost=lambda w: qbench.Cost(8 * w.size("m"), w.size("m")),
    )

def good(x):
    return lambda: x * 2

def slow(x):
    return lambda: (time.sleep(DELAY), x * 2)[1]

def wrong(x):
    return lambda: x * 3

def unwritten(x):
    def run():
        out = torch.empty_like(x)
        out[:-1] = x[:-1] * 2
        return out
    return run

def flaky(x):
    calls = []
    def run():
        calls.append(1)
        return x * 2 if len(calls) < 5 else x * 0
    return run

def missing(x):
    raise qbench.Unsupported("needs a flux capacitor", instead="good")

def huge(x):
    raise torch.OutOfMemoryError("tried to allocate 1 EiB")

def remembered(x):
    kept = []
    def run():
        if not kept:
            kept.append(x * 2)
        return kept[0]
    return run

def overwriting(x):
    return lambda: (x * 2, x.add_(1))[0]

def crash(x):
    raise RuntimeError("broken provider")

DELAY = 0.004
@qbench.parametrize(qbench.cases(op(), [PROVIDERS], [qbench.Workload.of(m=4), qbench.Workload.of(m=8)]))
def test_double(case, qbench):
    qbench(case)

def test_plain():
    pass
"""


ENDED = """def ended(x):
    import os, signal, time
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)

"""


@pytest.fixture
def suite(pytester, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def run(providers, *args, delay="0.004"):
        source = SUITE.replace("PROVIDERS", providers).replace("DELAY = 0.004", f"DELAY = {delay}")
        pytester.makepyfile(test_suite=source)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "--qbench-iters=3", *args)

    return run


def stored(pytester):
    return sorted(path.name for path in (pytester.path / "baselines").rglob("*.json"))


def medians(pytester):
    text = (pytester.path / "baselines" / describe().key / "double.json").read_text()
    return json.loads(text)["cases"]


def test_times_checks_and_reports_and_skips_other_tests_under_benchmark_only(suite):
    result = suite("good", "--benchmark-only")
    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(["*good*no baseline*", "*verdicts*2 no baseline*"])


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="it sleeps on the host, which a replayed graph leaves out"
)
def test_results_are_native_benchmark_results(suite, pytester):
    suite("slow", "--benchmark-only", "--benchmark-json=out.json")
    made = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    assert len(made) == 2 and made[0]["group"] == "double"
    assert 0.004 <= made[0]["stats"]["median"] < 0.1
    assert made[0]["extra_info"]["qbench_case"] == "double/slow[m=4]"
    assert made[0]["stats"]["rounds"] >= 3


def test_benchmark_skip_and_disable_work(suite):
    suite("good", "--benchmark-skip").assert_outcomes(passed=1, skipped=2)
    result = suite("good", "--benchmark-disable")
    result.assert_outcomes(passed=3)
    assert "no baseline" not in result.stdout.str()


@pytest.mark.parametrize("mode", [[], ["--benchmark-only"], ["--benchmark-disable"]])
@pytest.mark.parametrize(
    ("provider", "words"), [("wrong", "found 3, expected 2"), ("unwritten", "1 of 4 elements")]
)
def test_a_wrong_result_fails_every_mode_and_is_never_stored(suite, pytester, mode, provider, words):
    result = suite(provider, "--qbench-update", *mode)
    assert result.parseoutcomes()["failed"] == 2
    assert words in result.stdout.str()
    assert stored(pytester) == []


@pytest.mark.parametrize("mode", [[], ["--benchmark-disable"]])
@pytest.mark.parametrize(
    ("provider", "words"), [("remembered", "NaN"), ("overwriting", "overwrote its operands")]
)
def test_a_kept_result_and_an_overwritten_operand_are_caught(suite, pytester, mode, provider, words):
    result = suite(provider, "--qbench-update", *mode)
    assert result.parseoutcomes()["failed"] == 2
    assert words in result.stdout.str()
    assert stored(pytester) == []


def test_a_test_that_fails_after_its_measurement_stores_nothing(suite, pytester):
    source = SUITE.replace("PROVIDERS", "good").replace(
        "    qbench(case)", "    qbench(case)\n    assert 0, 'found it wrong'"
    )
    pytester.makepyfile(test_suite=source)
    result = pytester.runpytest_inprocess("--benchmark-only", "--qbench-update", "--qbench-iters=3")
    result.assert_outcomes(failed=2, skipped=1)
    assert stored(pytester) == []


def test_a_case_with_a_baseline_that_no_longer_runs_is_said_and_fails_under_strict(suite, pytester):
    suite("good", "--benchmark-only", "--qbench-update")
    lost = "good(x):\n    raise qbench.Unsupported('its library is gone')\n\ndef was"
    source = SUITE.replace("PROVIDERS", "good").replace("good(x)", f"{lost}(x)")
    pytester.makepyfile(test_suite=source)
    result = pytester.runpytest_inprocess("--benchmark-only")
    assert result.ret == 0
    assert "2 cases that have one could not run here" in result.stdout.str()
    assert pytester.runpytest_inprocess("--benchmark-only", "--qbench-strict").ret == 1


def test_what_is_recorded_because_it_was_missing_does_not_fail_under_strict(suite, pytester):
    result = suite("good", "--benchmark-only", "--qbench-strict", "--qbench-update=missing")
    assert result.ret == 0 and "changed" in result.stdout.str()


def test_a_run_of_wrong_results_alone_still_reports(suite, pytester):
    result = suite("wrong", "--benchmark-only", "--qbench-update", "--qbench-report=out")
    assert "a wrong result: nothing was stored" in result.stdout.str()
    assert (pytester.path / "out" / "results.json").exists()


def test_options_that_can_do_nothing_say_so(suite):
    result = suite("good", "--benchmark-disable", "--qbench-update=append")
    assert "nothing was timed, so nothing was compared, stored or reported" in result.stdout.str()


def test_other_versions_than_the_recorded_ones_are_said(suite, pytester):
    suite("good", "--benchmark-only", "--qbench-update")
    path = pytester.path / "baselines" / describe().key / "double.json"
    path.write_text(path.read_text().replace('"torch": "', '"torch": "1.'))
    assert "recorded with torch 1." in suite("good", "--benchmark-only").stdout.str()


def test_a_renamed_op_is_mentioned(suite, pytester):
    suite("good", "--benchmark-only", "--qbench-update")
    pytester.makepyfile(
        test_suite=SUITE.replace("PROVIDERS", "good").replace('name="double"', 'name="twice"')
    )
    result = pytester.runpytest_inprocess("--benchmark-only")
    assert "ops of which nothing was collected: double" in result.stdout.str()


def test_cprofile_works_beside(suite):
    assert suite("good", "--benchmark-only", "--benchmark-cprofile=tottime").ret == 0


def test_an_output_that_turns_wrong_while_timed_is_caught(suite, pytester):
    result = suite("flaky", "--benchmark-only", "--qbench-update")
    assert result.parseoutcomes()["failed"] == 2 and stored(pytester) == []


def test_unsupported_is_skipped_with_its_reason_and_the_nearest_choice(suite):
    result = suite("missing, good", "--benchmark-only", "-rs")
    result.assert_outcomes(passed=2, skipped=3)
    assert "needs a flux capacitor; use good instead" in result.stdout.str()


def test_a_crash_is_a_failure_and_the_rest_goes_on(suite, pytester):
    result = suite("crash, good", "--benchmark-only", "--qbench-update")
    result.assert_outcomes(passed=2, failed=2, skipped=1)
    assert stored(pytester) == []
    assert "nothing was stored for double" in result.stdout.str()


def test_a_wrong_result_keeps_every_op_of_the_session_from_being_stored(suite, pytester):
    both = "cases(op(), [wrong], [W]) + qbench.cases(op('other'), [good], [W])"
    source = SUITE.replace(
        "cases(op(), [PROVIDERS], [qbench.Workload.of(m=4), qbench.Workload.of(m=8)])", both
    )
    source = source.replace("DELAY = 0.004", "W = qbench.Workload.of(m=4)")
    pytester.makepyfile(test_suite=source)
    result = pytester.runpytest_inprocess("--benchmark-only", "--qbench-update", "--qbench-iters=3")
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    assert stored(pytester) == []
    assert "a wrong result: nothing was stored" in result.stdout.str()


def test_out_of_memory_fails_one_case_with_its_sizes_and_the_rest_goes_on(suite):
    result = suite("huge, good", "--benchmark-only")
    result.assert_outcomes(passed=2, failed=2, skipped=1)
    assert "double/huge[m=4] does not fit: one call moves" in result.stdout.str()


def test_update_missing_records_the_first_run_and_compares_the_second(suite, pytester):
    suite("slow", "--benchmark-only", "--qbench-update=missing")
    assert stored(pytester) == ["double.json"] and len(medians(pytester)) == 2
    result = suite("slow", "--benchmark-only", "--qbench-update=missing")
    assert result.ret == 0 and "no baseline" not in result.stdout.str()
    assert all(len(runs) == 1 for runs in medians(pytester).values())


def test_a_slower_provider_turns_the_run_red_and_is_named(suite, pytester):
    for _ in range(2):
        suite("slow", "--benchmark-only", "--qbench-update", delay="0.002")
    result = suite("slow", "--benchmark-only", delay="0.05")
    assert result.ret == 1 and result.parseoutcomes()["failed"] == 2
    assert "double/slow[m=4] is slower" in result.stdout.str()
    accepted = suite("slow", "--benchmark-only", "--qbench-update=replace", delay="0.05")
    assert accepted.ret == 0
    assert all(len(runs) == 1 for runs in medians(pytester).values())


def test_strict_asks_for_a_baseline(suite):
    result = suite("good", "--benchmark-only", "--qbench-strict")
    assert result.ret == 1 and "record one with --qbench-update=missing" in result.stdout.str()


def test_a_broken_baseline_fails_its_cases_with_the_place_and_stays(suite, pytester):
    suite("good", "--benchmark-only", "--qbench-update")
    path = pytester.path / "baselines" / describe().key / "double.json"
    path.write_text(path.read_text()[:100])
    result = suite("good", "--benchmark-only", "--qbench-update")
    assert result.ret == 1 and "truncated" in result.stdout.str()
    assert len(path.read_text()) == 100


def test_dry_update_lists_and_writes_nothing(suite, pytester):
    result = suite("good", "--benchmark-only", "--qbench-update=dry")
    assert "add double/good[m=4]" in result.stdout.str() and stored(pytester) == []


def test_unused_entries_are_reported(suite):
    suite("good, slow", "--benchmark-only", "--qbench-update")
    result = suite("good", "--benchmark-only")
    assert "2 stored cases were not collected" in result.stdout.str()
    assert "double/slow[m=4]" in result.stdout.str()


def test_report_folder_holds_every_form(suite, pytester):
    suite("good", "--benchmark-only", "--qbench-report=out")
    names = {path.name for path in (pytester.path / "out").rglob("*") if path.is_file()}
    assert {"results.json", "results.csv", "report.md"} <= names and any(n.endswith(".png") for n in names)


def test_junit_properties_and_step_summary(suite, pytester, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    pytester.makepyfile(test_suite=SUITE.replace("PROVIDERS", "good"))
    pytester.runpytest_inprocess("--benchmark-only", "--junit-xml=j.xml", "--qbench-iters=3")
    assert 'name="qbench_case" value="double/good[m=4]"' in (pytester.path / "j.xml").read_text()
    assert "double" in (pytester.path / "summary.md").read_text()


def test_seed_changes_the_operands_and_not_the_id(suite, pytester):
    suite("good", "--benchmark-only", "--qbench-update", "--qbench-seed=5")
    assert set(medians(pytester)) == {"double/good[m=4]", "double/good[m=8]"}


def test_profile_times_nothing_and_says_so(suite):
    result = suite("good", "--benchmark-only", "--qbench-profile", "-rs")
    result.assert_outcomes(skipped=3)
    assert "one call between profiler start and stop" in result.stdout.str()


def test_a_session_that_is_terminated_reports_what_it_has_measured_and_stores_no_baseline(pytester):
    source = SUITE.replace("[PROVIDERS]", "[good, ended]").replace("def crash(x):", ENDED + "def crash(x):")
    pytester.makepyfile(test_suite=source)
    result = pytester.runpytest_subprocess(
        "-p",
        "no:cacheprovider",
        "--qbench-iters=3",
        "--qbench-update",
        "--qbench-report=out",
        "--benchmark-only",
    )
    assert result.ret == pytest.ExitCode.INTERRUPTED
    found = json.loads((pytester.path / "out" / "results.json").read_text())["results"]
    assert [each["case"] for each in found] == ["double/good[m=4]"]
    assert stored(pytester) == []


@pytest.mark.parametrize("option", ["--qbench-baselines", "--qbench-report"])
def test_a_file_where_a_folder_belongs_is_a_usage_error(suite, pytester, option):
    (pytester.path / "file").write_text("x")
    result = suite("good", f"{option}=file")
    assert result.ret == 4
    assert "file is a file; name a folder" in "\n".join(result.errlines)


@pytest.mark.parametrize("option", ["--qbench-iters=0", "--qbench-warmup=-1", "--qbench-update=maybe"])
def test_bad_options_are_usage_errors(suite, option):
    assert suite("good", option).ret == 4


def test_one_case_collected_twice_is_a_usage_error(pytester):
    source = SUITE.replace("PROVIDERS", "good")
    pytester.makepyfile(test_a=source, test_b=source)
    result = pytester.runpytest_inprocess()
    assert result.ret == 4 and "is collected twice" in "\n".join(result.errlines + result.outlines)
