"""Runs and results made by hand, for the tests of reports."""

from __future__ import annotations

from typing import Any

import msgspec

from qbench.result import Ceilings, Device, Judgement, Result, Run, Times, Verdict

H200 = Device("cuda", "NVIDIA H200", "9.0", 132, 140)
CEILINGS = Ceilings(4000.0, 700.0)
PNG = b"\x89PNG\r\n\x1a\n"


def times(us: float, **changes: Any) -> Times:
    made = Times(us * 1e3, us * 980, us * 1050, 60, 20, 4, "graph", True, 1200, 1980)
    return msgspec.structs.replace(made, **changes)


def result(op: str, provider: str, us: float | None, *, id_suffix: str = "", **axes: Any) -> Result:
    """A timed result, or an unsupported one where `us` is None. Bytes and flops are those of a GEMM if m, n, k."""
    name = ",".join(f"{key}={value}" for key, value in axes.items())
    gemm = {"m", "n", "k"} <= set(axes)
    return Result(
        case=f"{op}/{provider}[{name}]{id_suffix}",
        op=op,
        provider=provider,
        axes=axes,
        status="unsupported" if us is None else "ok",
        reason=f"{provider} is not installed" if us is None else "",
        bytes=2 * (axes["m"] * axes["k"] + axes["n"] * axes["k"]) if gemm else 3_000_000,
        flops=2 * axes["m"] * axes["n"] * axes["k"] if gemm else 0,
        elements=0 if gemm else 1_000_000,
        times=None if us is None else times(us),
    )


def with_(old: Result, **changes: Any) -> Result:
    return msgspec.structs.replace(old, **changes)


def hadamard(provider: str, us: float | None, m: int, had: int, **changes: Any) -> Result:
    made = result("nvfp4_hadamard_gemm", provider, us, m=m, n=8192, k=4096, had=had)
    return with_(made, alongside=("bf16_gemm",), **changes)


def run_of(*results: Result, device: Device = H200, ceilings: Ceilings | None = CEILINGS) -> Run:
    return Run(1, "2026-01-01T00:00:00+00:00", device, {"torch": "2.13.0"}, results, ceilings)


def verdict(kind: Verdict, reason: str = "", **facts: Any) -> Judgement:
    return Judgement(kind, reason, **facts)


SLOWER = verdict(
    Verdict.SLOWER,
    "+21.3%, more than chance explains",
    ratio=1.213,
    low=1.198,
    high=1.229,
    detectable=0.031,
    baseline_runs=5,
    baseline_ns=123_456.0,
)


def sweep() -> Run:
    results = []
    for m in (1, 16, 256):
        results.append(result("bf16_gemm", "torch-bf16", 20.0, m=m, n=8192, k=4096))
        for had in (16, 32):
            results.append(hadamard("nvfp4", 10.0, m, had))
            results.append(hadamard("vllm", None, m, had))
    return run_of(*results)


def lines_with(text: str, *parts: str) -> list[str]:
    return [line for line in text.splitlines() if all(part in line for part in parts)]
