"""Perplexity, KL divergence and agreement of two models on the tokens of any text.

Per scored token, with p of the reference and q of the other, both softmaxes in float64:
    nll      -ln q(token)          perplexity = exp(mean nll)
    kl       Σ p ln(p/q), in nats  of the whole distribution: sees changes that the text's own token does not show
    top1     argmax p == argmax q  what greedy decoding would notice
Windows of `length` tokens start every `stride`; a token is scored once, in the first window that holds it, with at
least length - stride tokens before it (the first window aside). Without overlap the first token of each window is not
scored. Smaller strides cost more and give each token more context.

Intervals: the tokens of one window are not independent, windows nearly are. Means are ratios of sums over windows,
and windows are drawn anew 2000 times (bootstrap by blocks, percentiles); both models on the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qbench.model.accuracy.problems import Problem, prompt

_CHUNK = 1 << 23  # logits a step in float64: 64 MiB for each of the few copies alive
_DRAWS = 2000

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """tokens int64 [T]; tokens from `scored` on are scored, those before are context."""

    tokens: Tensor
    scored: int


@dataclass(frozen=True)
class Estimate:
    """A number and its interval of 95%."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Likelihood:
    """Two models on one text. ratio: the other's perplexity over the reference's; kl in nats; top1 a fraction."""

    tokens: int
    windows: int
    reference_perplexity: Estimate
    perplexity: Estimate
    ratio: Estimate
    kl: Estimate
    top1: Estimate

    def figures(self) -> dict[str, float]:
        """For `Accuracy.figures`."""
        return {
            "perplexity": self.perplexity.value,
            "perplexity_ratio": self.ratio.value,
            "kl_nats": self.kl.value,
            "kl_nats_low": self.kl.low,
            "kl_nats_high": self.kl.high,
            "top1": self.top1.value,
            "likelihood_tokens": float(self.tokens),
        }

    def lines(self) -> list[str]:
        """Markdown: a table of the five numbers with their intervals."""
        rows = (
            ("perplexity of the reference", self.reference_perplexity),
            ("perplexity", self.perplexity),
            ("ratio of perplexities", self.ratio),
            ("KL(reference ‖ this), nats a token", self.kl),
            ("same most likely token", self.top1),
        )
        head = [f"| {self.tokens} tokens, {self.windows} windows | | 95% CI |", "|---|--:|--:|"]
        return head + [f"| {name} | {e.value:.5g} | {e.low:.5g} … {e.high:.5g} |" for name, e in rows]


def windows(tokens: Sequence[int] | Tensor, *, length: int, stride: int | None = None) -> tuple[Window, ...]:
    """Cut a text's tokens into windows; stride = length by default. At least two: one has no interval."""
    stride = length if stride is None else stride
    row = torch.as_tensor(tokens, dtype=torch.int64).flatten()
    if not 1 <= stride <= length or length < 2:
        raise ValueError(f"length={length}, stride={stride}: need length >= 2 and 1 <= stride <= length")
    found, done = [], 1  # the first token of the text has nothing before it
    for start in range(0, len(row), stride):
        part = row[start : start + length]
        if start + len(part) <= done:
            break
        first = max(
            done - start, 1
        )  # without overlap, a window's first token has no context and is not scored
        if len(part) > first:
            found.append(Window(part, first))
        done = start + len(part)
    if len(found) < 2:
        raise ValueError(
            f"{len(row)} tokens make {len(found)} window(s) of {length}; two are needed for an interval: "
            "give a longer text or shorter windows"
        )
    return tuple(found)


def text_windows(tokenizer: Any, text: str, *, length: int, stride: int | None = None) -> tuple[Window, ...]:
    """Windows of a text as the tokenizer cuts it, without tokens that it would add."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return windows(ids, length=length, stride=stride)


def answer_windows(
    tokenizer: Any, problems: Sequence[Problem], shots: Sequence[Problem] = ()
) -> tuple[Window, ...]:
    """A window for each problem, its prompt as context and its written answer scored.

    KL there moves long before a problem is lost: on the tiny model, codes of weights truncated instead of rounded raise
    it thirtyfold and cost 3% of the problems.
    """
    found = []
    for problem in problems:
        asked = tokenizer(prompt(problem, shots)).input_ids
        whole = tokenizer(f"{prompt(problem, shots)} {problem.answer}").input_ids
        same = (i for i, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b)
        found.append(Window(torch.tensor(whole), next(same, len(asked))))  # a token may span the border
    return tuple(found)


def perplexity(model: Any, parts: Sequence[Window]) -> Estimate:
    """exp of the mean negative log-likelihood of the scored tokens."""
    sums = [_sums(_logits(model, part), part) for part in parts]
    count, nll = (np.array(column, dtype=np.float64) for column in zip(*sums, strict=True))
    return _bootstrap(lambda c, n: np.exp(n / c), count, nll)


def divergence(reference: Any, model: Any, parts: Sequence[Window]) -> Likelihood:
    """Both models on every window: perplexities, their ratio, KL and agreement.

    The two may stand on different devices; each sees one window at a time.
    """
    return divergence_from([_logits(reference, part).cpu() for part in parts], model, parts)


def divergence_from(stored: Sequence[Tensor], model: Any, parts: Sequence[Window]) -> Likelihood:
    """As `divergence`, with the reference's logits of the scored tokens, as `reference_logits` gives them."""
    table = np.array([_pair(a, _logits(model, b), b) for a, b in zip(stored, parts, strict=True)])
    count, base, nll, kl, same = table.T
    return Likelihood(
        int(count.sum()),
        len(parts),
        _bootstrap(lambda c, b: np.exp(b / c), count, base),
        _bootstrap(lambda c, n: np.exp(n / c), count, nll),
        _bootstrap(lambda c, d: np.exp(d / c), count, nll - base),
        _bootstrap(lambda c, k: k / c, count, kl),
        _bootstrap(lambda c, s: s / c, count, same),
    )


def reference_logits(model: Any, parts: Sequence[Window]) -> list[Tensor]:
    """Logits [scored, V] of each window in the model's dtype, on the CPU: V = 128k in bf16 is 256 KiB a token."""
    return [_logits(model, part).cpu() for part in parts]


@torch.inference_mode()
def _logits(model: Any, part: Window) -> Tensor:
    """Logits [scored, V] that foretell the window's scored tokens."""
    device = next(model.parameters()).device
    tokens = part.tokens[None].to(device)
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits[0]
    return logits[part.scored - 1 : -1]


def _chunks(logits: Tensor) -> list[slice]:
    step = max(1, _CHUNK // logits.shape[-1])
    return [slice(i, i + step) for i in range(0, logits.shape[0], step)]


def _sums(logits: Tensor, part: Window) -> tuple[float, float]:
    target, nll = part.tokens[part.scored :].to(logits.device), 0.0
    for at in _chunks(logits):
        chosen = logits[at].double().log_softmax(-1).gather(1, target[at, None])
        nll -= float(chosen.sum())
    _require_finite(nll)
    return float(len(target)), nll


def _pair(reference: Tensor, logits: Tensor, part: Window) -> tuple[float, float, float, float, float]:
    """Sums over the window's scored tokens: count, nll of either, KL, agreements."""
    target = part.tokens[part.scored :].to(logits.device)
    base = nll = kl = same = 0.0
    for at in _chunks(logits):
        theirs = reference[at].to(logits.device)
        p, q = theirs.double().log_softmax(-1), logits[at].double().log_softmax(-1)
        base -= float(p.gather(1, target[at, None]).sum())
        nll -= float(q.gather(1, target[at, None]).sum())
        kl += float((p.exp() * (p - q)).sum())
        same += float((theirs.argmax(-1) == logits[at].argmax(-1)).sum())
    _require_finite(base, nll, kl)
    return float(len(target)), base, nll, kl, same


def _require_finite(*values: float) -> None:
    if not all(map(math.isfinite, values)):
        raise ValueError("the logits hold NaN or infinity: the model is broken, and has no perplexity")


def _bootstrap(statistic: Callable[..., Any], *columns: Array) -> Estimate:
    """The statistic of the columns' sums, and its 2.5% and 97.5% percentiles over windows drawn with replacement."""
    picked = _draws(len(columns[0]))
    values = statistic(*(picked @ column for column in columns))
    low, high = np.quantile(values, (0.025, 0.975))
    return Estimate(float(statistic(*(column.sum() for column in columns))), float(low), float(high))


@lru_cache(maxsize=4)
def _draws(size: int) -> Array:
    """[draws, size]: how often each window is in a draw. One set for all statistics, so that they can be compared."""
    counts = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), size=_DRAWS)
    return counts.astype(np.float64)
