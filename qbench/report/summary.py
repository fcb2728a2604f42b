"""What a run comes to: device, ceilings, clocks, counts, and by name what is slower, wrong or unclear."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from qbench.report.cells import VERDICTS, first_line, microseconds, number
from qbench.result import PREEMPTED, Result, Run, Verdict

NAMES_SHOWN = 10  # where the names are a courtesy; what is slower or wrong is always listed in full


@dataclass(frozen=True)
class Summary:
    """Facts as (name, text), and headed lists of lines that somebody has to act on."""

    facts: tuple[tuple[str, str], ...]
    lists: tuple[tuple[str, tuple[str, ...]], ...]


def summarize(run: Run) -> Summary:
    """The summary of a run, as text to be laid out by the terminal or by Markdown."""
    facts = [
        ("device", _device(run)),
        (
            "versions",
            ", ".join(f"{name} {version}" for name, version in run.versions.items()) or "not recorded",
        ),
        ("ceilings", _ceilings(run)),
        ("clocks", _clocks(run.results)),
        ("timing", _timing(run)),
        (
            "results",
            _counts(
                Counter(result.status for result in run.results), ("ok", "unsupported", "wrong", "error")
            ),
        ),
        ("verdicts", _verdicts(run.results)),
    ]
    slower = [result for result in run.results if _verdict(result) is Verdict.SLOWER]
    unclear = [result for result in run.results if _verdict(result) is Verdict.INCONCLUSIVE]
    broken = [result for result in run.results if result.status in ("wrong", "error")]
    missing = sum(_verdict(result) is Verdict.NO_BASELINE for result in run.results)
    lists = [
        ("SLOWER than the baseline", tuple(describe_regression(result) for result in slower)),
        ("WRONG or failed", tuple(f"{r.case}: {r.status}: {first_line(r.reason)}" for r in broken)),
        ("unclear", tuple(_capped([f"{r.case}: {_why(r)}" for r in unclear]))),
    ]
    if missing:
        timed = sum(result.times is not None for result in run.results)
        said = (
            f"{missing} of {timed} timed cases were compared with nothing; record them with --qbench-update"
        )
        lists.append(("NO BASELINE", (said,)))
    return Summary(
        tuple((name, text) for name, text in facts if text), tuple(item for item in lists if item[1])
    )


def describe_regression(result: Result) -> str:
    """Name, ratio with its interval, the baseline and its runs, and the smallest effect that could be seen."""
    judged = result.judgement
    if judged is None or judged.ratio is None:
        return f"{result.case}: {_why(result)}"
    text = f"{result.case}: {judged.ratio:.3f}×"
    if judged.low is not None and judged.high is not None:
        text += f" [{judged.low:.3f}–{judged.high:.3f}]"
    if judged.baseline_ns is not None:
        text += f" the baseline's {microseconds(judged.baseline_ns)} µs"
    text += f", {judged.baseline_runs} baseline run{'s' * (judged.baseline_runs != 1)}"
    if judged.detectable is not None:
        text += f", minimum detectable effect {100 * judged.detectable:.1f}%"
    return text


def _device(run: Run) -> str:
    device = run.device
    if device.kind == "cuda":
        parts = [device.name, f"sm_{device.capability.replace('.', '')}", f"{device.units} SMs"]
    else:
        parts = [device.name, f"{device.units} cores"]
    return f"{', '.join([*parts, f'{device.memory_gib} GiB'])} ({device.key})"


def _ceilings(run: Run) -> str:
    if run.ceilings is None:
        return "not measured, so no percentages"
    rate, dtype = number(run.ceilings.matmul_tflops), run.ceilings.matmul_dtype
    read = "" if run.ceilings.read_gbps is None else f", read {number(run.ceilings.read_gbps)} GB/s"
    others = [f", {name} sums {number(each)}" for name, each in run.ceilings.by_accumulator.items()]
    return f"copy {number(run.ceilings.copy_gbps)} GB/s{read}, {dtype} matmul {rate} TFLOP/s{''.join(others)}"


def _clocks(results: Sequence[Result]) -> str:
    times = [result.times for result in results if result.times]
    clocks = [mhz for each in times for mhz in (each.clock_before_mhz, each.clock_after_mhz) if mhz]
    text = f"SM {min(clocks)}–{max(clocks)} MHz" if clocks else "not readable" if times else ""
    reasons = {result.case: set(result.times.throttle) for result in results if result.times}
    slow = {case: said - {PREEMPTED} for case, said in reasons.items() if said - {PREEMPTED}}
    if slow:
        text += f"; THROTTLED in {_cases(slow)} ({', '.join(sorted(set().union(*slow.values())))}): {_named(slow)}"
    elif clocks:
        text += ", never throttled"
    if taken := [case for case, said in reasons.items() if PREEMPTED in said]:
        text += f"; the CPU was TAKEN BY OTHER PROCESSES in {_cases(taken)}, run again: {_named(taken)}"
    return text


def _cases(names: Collection[str]) -> str:
    return f"{len(names)} case{'s' * (len(names) != 1)}"


def _named(names: Collection[str]) -> str:
    return "; ".join(_capped(list(names)))


def _timing(run: Run) -> str:
    times = [result.times for result in run.results if result.times]
    text = ", ".join(
        f"{count} by {method}" for method, count in Counter(t.method for t in times).most_common()
    )
    warm = sum(not each.cold for each in times)
    if warm and run.device.kind == "cuda":
        text += f"; {warm} with operands left in the L2 cache"
    return text


def _verdicts(results: Sequence[Result]) -> str:
    found = Counter(VERDICTS[verdict] for result in results if (verdict := _verdict(result)))
    unjudged = sum(result.judgement is None for result in results if result.times)
    text = _counts(found, tuple(VERDICTS.values()))
    return ", ".join(part for part in (text, f"{unjudged} not judged" if unjudged else "") if part)


def _counts(counts: Counter[str], order: tuple[str, ...]) -> str:
    names = [*order, *sorted(set(counts) - set(order))]
    return ", ".join(f"{counts[name]} {name}" for name in names if counts[name])


def _verdict(result: Result) -> Verdict | None:
    return result.judgement.verdict if result.judgement else None


def _why(result: Result) -> str:
    return first_line(result.judgement.reason) if result.judgement else ""


def _capped(lines: list[str]) -> list[str]:
    more = len(lines) - NAMES_SHOWN
    return lines if more <= 0 else [*lines[:NAMES_SHOWN], f"and {more} more"]
