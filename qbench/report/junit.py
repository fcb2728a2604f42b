"""A result as JUnit properties: pairs for pytest's `user_properties`, which its XML report writes out."""

from __future__ import annotations

from qbench.result import Result


def junit_properties(result: Result) -> list[tuple[str, object]]:
    """Names begin with `qbench_` and end in their unit; absent facts are left out. What every case has keeps its
    name where an op's own figure or label is called the same."""
    times, judged = result.times, result.judgement
    facts: dict[str, object] = {
        **result.figures,
        **result.labels,
        "case": result.case,
        "status": result.status,
        "reason": result.reason,
        "tflops": result.tflops,
        "gbps": result.gbps,
        "ns_per_element": result.ns_per_element,
    }
    if times:
        facts |= {
            "median_ns": times.median_ns,
            "p20_ns": times.p20_ns,
            "p80_ns": times.p80_ns,
            "method": times.method,
        }
    if judged:
        facts |= {
            "verdict": judged.verdict.value,
            "verdict_reason": judged.reason,
            "ratio": judged.ratio,
            "ratio_low": judged.low,
            "ratio_high": judged.high,
            "detectable": judged.detectable,
            "baseline_runs": judged.baseline_runs,
        }
    return [(f"qbench_{name}", value) for name, value in facts.items() if value is not None and value != ""]
