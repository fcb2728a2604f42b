"""What is compared, of one shape whatever its source: one recipe of one model on one GPU, at one workload.

Made from the `model_prefill` and `model_decode` results of a run, or from a published line. A number that was not
measured is None. A 0 for "not measured" would be drawn as a bar of no height, so it is refused where it comes in.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from qbench.compare import CannotCombine
from qbench.model.compare.published import Published
from qbench.report.cells import first_line
from qbench.result import Device, Result, Run

DECODE, PREFILL = "model_decode", "model_prefill"
_CODE = re.compile(
    r"([a-z0-9]+(?:-[a-z0-9]+)+): (.+)"
)  # how a reason leads with its code: `no-native-fp4: sm_90 …`
MODES = ("native", "weight-only", "emulated", "none")
NUMBERS = (
    "tokens",
    "tokens_per_s",
    "ms_per_token",
    "ttft_ms",
    "wall_s",
    "roofline_percent",
    "peak_gib",
    "joules_per_token",
)


@dataclass(frozen=True, order=True)
class Workload:
    """Sequences at once, tokens of prompt each, tokens decoded each; None where a source does not state it."""

    batch: int | None = None
    prompt: int | None = None
    new: int | None = None

    def __str__(self) -> str:
        parts = [f"{name} {value}" for name, value in vars(self).items() if value is not None]
        return ", ".join(parts) or "workload not stated"


@dataclass(frozen=True)
class Problem:
    """Why there is no number. `status` is "unsupported" (declared before it ran), "wrong" or "error"."""

    status: str
    code: str
    reason: str


@dataclass(frozen=True)
class Entry:
    """Numbers of one recipe. `slack` is the share by which `tokens` may be off, 0 for a count.

    `low` and `high` bound tokens/s: the p20 and p80 of the decodes' times. `mode` is "" where it is not stated.
    """

    gpu: str
    model: str
    recipe: str
    workload: Workload
    problem: Problem | None = None
    prefill_problem: Problem | None = None
    mode: str = ""
    backend: str = ""
    tokens: float | None = None
    slack: float = 0.0
    tokens_per_s: float | None = None
    low: float | None = None
    high: float | None = None
    ms_per_token: float | None = None
    ttft_ms: float | None = None
    wall_s: float | None = None
    roofline_percent: float | None = None
    peak_gib: float | None = None
    joules_per_token: float | None = None
    source: str = ""
    published: bool = False

    def __post_init__(self) -> None:
        for name in NUMBERS:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise CannotCombine(f"{self.place}: {name} is {value:g}; leave out what was not measured")
            if value is not None and self.problem is not None:
                raise CannotCombine(f"{self.place}: is {self.problem.status!r} and has {name} {value:g}")
        if self.mode and self.mode not in MODES:
            raise CannotCombine(f"{self.place}: unknown mode {self.mode!r}; known: {', '.join(MODES)}")

    @property
    def place(self) -> str:
        return f"{self.recipe} on {self.gpu} ({self.model}, {self.workload}; {self.source})"

    @property
    def roofline(self) -> float | None:
        """Tokens/s that the memory or the matrix units of this GPU allow for the recipe's bytes and flops."""
        if self.tokens_per_s is None or self.roofline_percent is None:
            return None
        return 100 * self.tokens_per_s / self.roofline_percent


def gpu_name(device: Device) -> str:
    """With the compute capability, for different chips are sold under one name."""
    return f"{device.name} (sm_{device.capability.replace('.', '')})" if device.capability else device.name


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


def published_gpu(gpu: str, capability: str) -> str:
    return f"{gpu} (sm_{capability.replace('.', '')})" if capability else gpu


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
