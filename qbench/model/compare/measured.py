"""Entries from what was read: `model_prefill` and `model_decode` results of a run, lines of a published table."""

from __future__ import annotations

import re
from typing import Any

from qbench.compare import CannotCombine
from qbench.model.compare.entries import NUMBERS, Entry, Problem, Workload
from qbench.model.compare.gpus import published_gpu
from qbench.model.compare.published import Published
from qbench.report.cells import first_line
from qbench.result import Result, Run

DECODE, PREFILL = "model_decode", "model_prefill"
# How a reason leads with its code: `no-native-fp4: compute capability 9.0 has no FP4 matrix units`.
_CODE = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)+): (.+)")


def run_entries(run: Run, gpu: str, source: str) -> list[Entry]:
    """Decodes with the time to first token of the prefill beside them; a prefill alone makes an entry too."""
    found: dict[tuple[str, str, Workload], Result] = {}
    prefills: dict[tuple[str, str, int | None, int | None], Result] = {}
    for result in run.results:
        if result.op == PREFILL:
            at = _workload(result, source)
            prefills[_model(result, source), _recipe(result), at.batch, at.prompt] = result
        elif result.op == DECODE:
            found[_model(result, source), _recipe(result), _workload(result, source)] = result
    entries = []
    for (model, recipe, at), decode in found.items():
        prefill = prefills.get((model, recipe, at.batch, at.prompt))
        entries.append(_entry(run, gpu, source, model, recipe, at, decode, prefill))
    decoded = {(model, recipe, at.batch, at.prompt) for model, recipe, at in found}
    for (model, recipe, batch, prompt), prefill in prefills.items():
        if (model, recipe, batch, prompt) not in decoded:
            alone = Workload(batch, prompt)
            entries.append(_entry(run, gpu, source, model, recipe, alone, None, prefill))
    return entries


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


def _entry(
    run: Run,
    gpu: str,
    source: str,
    model: str,
    recipe: str,
    workload: Workload,
    decode: Result | None,
    prefill: Result | None,
) -> Entry:
    problem = problem_of(decode) if decode else problem_of(prefill)
    labels = {**(prefill.labels if prefill else {}), **(decode.labels if decode else {})}
    head: dict[str, Any] = {
        "mode": labels.get("mode", ""),
        "backend": labels.get("backend", ""),
        "method": labels.get("method", ""),
        "source": source,
    }
    if problem:
        return Entry(gpu, model, recipe, workload, problem, **head)
    measured = dict(decode.figures) if decode else {}
    first = prefill.figures if prefill and prefill.status == "ok" else {}
    if "ttft_ms" in first:
        measured["ttft_ms"] = first["ttft_ms"]
    if peaks := [each["peak_gib"] for each in (measured, first) if "peak_gib" in each]:
        measured["peak_gib"] = max(peaks)
    if decode and "roofline_percent" not in measured and (share := run.percent_of_ceiling(decode)):
        measured["roofline_percent"] = share
    numbers: dict[str, Any] = {name: measured.get(name) for name in NUMBERS}
    low = high = None
    if decode and decode.times and (speed := numbers["tokens_per_s"]):
        times = decode.times
        low, high = speed * times.median_ns / times.p80_ns, speed * times.median_ns / times.p20_ns
    return Entry(
        gpu,
        model,
        recipe,
        workload,
        prefill_problem=problem_of(prefill) if decode else None,
        low=low,
        high=high,
        **head,
        **numbers,
    )


def _recipe(result: Result) -> str:
    return result.labels.get("recipe") or result.provider


def _model(result: Result, source: str) -> str:
    model = result.axes.get("model") or result.labels.get("model")
    if not model:
        raise CannotCombine(f"{source}: {result.case} names no model; measure it with an axis model=…")
    return str(model)


def _workload(result: Result, source: str) -> Workload:
    sizes: dict[str, int | None] = {}
    for name in ("batch", "prompt", "new"):
        value = result.axes.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise CannotCombine(f"{source}: {result.case}: axis {name}={value!r} is not a whole number")
        sizes[name] = value
    return Workload(**sizes)
