"""Entries from what was read: `model_prefill` and `model_decode` results of a run, lines of a published table."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from qbench.compare import CannotCombine
from qbench.model.compare.entries import NUMBERS, Entry, Problem, Workload
from qbench.model.compare.gpus import published_gpu
from qbench.model.sample.published import Published
from qbench.report.cells import first_line
from qbench.result import Result, Run

DECODE, PREFILL = "model_decode", "model_prefill"
# How a reason leads with its code: `no-kernel: compiled for another GPU`. Both are shown as they were joined.
_CODE = re.compile(r"([a-z][a-z0-9-]{1,19}): (.+)")


def run_entries(run: Run, gpu: str, source: str) -> list[Entry]:
    """Decodes with the prefill of the same workload beside them; a prefill alone makes an entry too."""
    parts: dict[tuple[str, str, Workload], dict[str, Result]] = {}
    for result in run.results:
        if result.op not in (DECODE, PREFILL):
            continue
        key = (_model(result, source), _recipe(result), _workload(result, source))
        before = parts.setdefault(key, {}).setdefault(result.op, result)
        if before is not result:
            raise CannotCombine(
                f"{source}: {before.case} and {result.case} are one model, recipe and workload; known axes are model, "
                "batch, prompt, new and mode"
            )
    for (model, recipe, at), found in list(
        parts.items()
    ):  # a prefill whose number of new tokens is left open
        if DECODE in found and PREFILL not in found:
            alone = parts.get((model, recipe, replace(at, new=None)), {})
            if PREFILL in alone:
                found[PREFILL] = alone[PREFILL]
    used = {id(found[PREFILL]) for found in parts.values() if len(found) == 2}
    return [
        _entry(run, Entry(gpu, model, recipe, at, source=source), found.get(DECODE), found.get(PREFILL))
        for (model, recipe, at), found in parts.items()
        if DECODE in found or id(found[PREFILL]) not in used
    ]


def published_entries(table: Published) -> list[Entry]:
    """Lines with a speed, and those that say why there is none. Tokens: tokens/s × wall time, as rounding lets."""
    entries = []
    for line in table.rows:
        problem = None if line.status == "ok" else Problem(line.status, line.code, line.reason)
        speed, wall = line.tokens_per_s, line.wall_s
        if problem is None and speed is None:
            continue
        known = speed is not None and wall is not None
        entries.append(
            Entry(
                published_gpu(line.gpu, line.capability),
                line.model,
                line.recipe,
                Workload(),
                problem,
                mode=line.mode,
                backend=line.backend,
                tokens=speed * wall if speed and wall else None,
                slack=table.rounded_to / 2 * (1 / speed + 1 / wall) if known and speed and wall else 0.0,
                tokens_per_s=speed,
                wall_s=wall,
                source=table.title,
                published=True,
            )
        )
    return entries


def problem_of(result: Result | None) -> Problem | None:
    if result is None or result.status == "ok":
        return None
    reason = first_line(result.reason) or "no reason was given"
    code = result.labels.get("code", "")
    if not code and result.status == "unsupported" and (led := _CODE.fullmatch(reason)):
        code, reason = led.groups()
    return Problem(result.status, code, reason)


def _entry(run: Run, empty: Entry, decode: Result | None, prefill: Result | None) -> Entry:
    """`empty` with what both say. Tokens and rates are the decoding's; wall time is of both, where both are known."""
    labels = {**(prefill.labels if prefill else {}), **(decode.labels if decode else {})}
    empty = replace(empty, mode=labels.get("mode", ""), backend=labels.get("backend", ""))
    if problem := problem_of(decode or prefill):
        return replace(empty, problem=problem)
    first = prefill.figures if prefill and prefill.status == "ok" else {}
    times = [each.times for each in (prefill, decode) if each and each.times]
    numbers: dict[str, Any] = {"ttft_ms": first.get("ttft_ms"), "peak_gib": first.get("peak_gib")}
    empty = replace(empty, throttle=tuple(dict.fromkeys(why for each in times for why in each.throttle)))
    if decode is None or decode.times is None:
        return replace(empty, **numbers)
    measured, taken = decode.figures, decode.times
    numbers = {**{name: measured.get(name) for name in NUMBERS}, "ttft_ms": numbers["ttft_ms"]}
    numbers["peak_gib"] = max(
        (each["peak_gib"] for each in (measured, first) if "peak_gib" in each), default=None
    )
    numbers["roofline_percent"] = measured.get("roofline_percent", run.percent_of_ceiling(decode))
    whole = "wall_s" in first and "wall_s" in measured
    if whole:
        numbers["wall_s"] = first["wall_s"] + measured["wall_s"]
    if speed := measured.get("tokens_per_s"):
        numbers["low"] = speed * taken.median_ns / taken.p80_ns
        numbers["high"] = speed * taken.median_ns / taken.p20_ns
    method = decode.labels.get("method", "")
    return replace(empty, prefill_problem=problem_of(prefill), whole=whole, method=method, **numbers)


def _recipe(result: Result) -> str:
    return result.labels.get("recipe") or result.provider


def _model(result: Result, source: str) -> str:
    model = result.axes.get("model") or result.labels.get("model")
    if not model:
        raise CannotCombine(f"{source}: {result.case} names no model; measure it with an axis model=…")
    return str(model)


def _workload(result: Result, source: str) -> Workload:
    sizes: dict[str, Any] = {}
    for name in ("batch", "prompt", "new"):
        value = result.axes.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise CannotCombine(f"{source}: {result.case}: axis {name}={value!r} is not a whole number")
        sizes[name] = value
    return Workload(**sizes, step=str(result.axes.get("mode", "")))
