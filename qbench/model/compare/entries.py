"""What is compared, of one shape whatever its source: one recipe of one model on one GPU, at one workload.

A number that was not
measured is None. A 0 for "not measured" would be drawn as a bar of no height, so it is refused where it comes in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qbench.compare import CannotCombine

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


@dataclass(frozen=True)
class Workload:
    """Sequences at once, tokens of prompt each, tokens decoded each; None where a source does not state it.

    step: how a step was asked to run ("eager", "traced"), "" for the usual way.
    """

    batch: int | None = None
    prompt: int | None = None
    new: int | None = None
    step: str = ""

    def __str__(self) -> str:
        parts = [f"{name} {value}" for name, value in vars(self).items() if value not in (None, "")]
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

    `low` and `high` bound tokens/s: the p20 and p80 of the decodes' times. `mode` and `method`
    (how it was decoded and timed: in one compiled graph, or op by op) are "" where they are not stated.
    `wall_s` is of prefill and decoding together if `whole`, else of decoding alone.
    """

    gpu: str
    model: str
    recipe: str
    workload: Workload
    problem: Problem | None = None
    prefill_problem: Problem | None = None
    mode: str = ""
    backend: str = ""
    method: str = ""
    throttle: tuple[str, ...] = ()
    tokens: float | None = None
    slack: float = 0.0
    tokens_per_s: float | None = None
    low: float | None = None
    high: float | None = None
    ms_per_token: float | None = None
    ttft_ms: float | None = None
    wall_s: float | None = None
    whole: bool = True
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
