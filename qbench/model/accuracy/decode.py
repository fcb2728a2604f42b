"""Greedy decoding of whole problem sets in batches, and how many of them end in the right number.

A problem's answer does not depend on the batch it is in, as far as the model's own arithmetic goes: prompts are padded
on the left, padding is masked and positions count from each row's first real token. Two things remain that no decoder
can help: kernels that add in another order for another shape (a near tie may turn), and NVFP4 activations with a
dynamic global scale, which the other rows of the batch change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qbench.model.accuracy.problems import STOPS, Problem, extract, prompt
from qbench.model.cache import cache_argument, dynamic_cache


@dataclass(frozen=True)
class Answers:
    """texts: what was decoded after each prompt, up to a stop. correct: whether its number is the gold one.

    unfinished: how many met no stop within the tokens allowed; they may have been cut before their answer.
    """

    texts: tuple[str, ...]
    correct: tuple[bool, ...]
    unfinished: int

    @property
    def score(self) -> float:
        return sum(self.correct) / len(self.correct)


def exact_match(
    model: Any,
    tokenizer: Any,
    problems: Sequence[Problem],
    *,
    shots: Sequence[Problem] = (),
    batch: int = 64,
    new: int = 256,
    stops: Sequence[str] = STOPS,
) -> Answers:
    """Ask each problem after the worked examples `shots`; decode at most `new` tokens; compare the number after ####.

    model: anything with a causal LM's forward of transformers; tokenizer: one of transformers, with an end token.
    """
    if not problems:
        raise ValueError("no problems to decode; give at least one")
    asked = [prompt(problem, shots) for problem in problems]
    texts, finished = generate(model, tokenizer, asked, batch=batch, new=new, stops=stops)
    correct = tuple(extract(text) == problem.gold for text, problem in zip(texts, problems, strict=True))
    return Answers(texts, correct, finished.count(False))


def generate(
    model: Any, tokenizer: Any, prompts: Sequence[str], *, batch: int, new: int, stops: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """The greedy continuation of each prompt, without what follows a stop, and whether it met a stop or end token."""
    if batch < 1 or new < 1:
        raise ValueError(f"batch={batch}, new={new}: both must be at least 1")
    rows: list[list[int]] = [tokenizer(text).input_ids for text in prompts]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # like lengths together: least padding
    texts, finished = [""] * len(rows), [False] * len(rows)
    for start in range(0, len(order), batch):
        group = order[start : start + batch]
        decoded = _decode(model, tokenizer, [rows[i] for i in group], new, tuple(stops))
        for i, (text, done) in zip(group, decoded, strict=True):
            texts[i], finished[i] = text, done
    return tuple(texts), tuple(finished)


@torch.inference_mode()
def _decode(
    model: Any, tokenizer: Any, rows: list[list[int]], new: int, stops: tuple[str, ...]
) -> list[tuple[str, bool]]:
    """One batch: the prompt at once, then a token at a time until every row has stopped."""
    device = next(model.parameters()).device
    end = int(tokenizer.eos_token_id)
    tokens, mask = pad_left(rows, end, device)
    position = (mask.cumsum(1) - 1).clamp_min(0)
    out: list[list[int]] = [[] for _ in rows]
    cache = {cache_argument(model): dynamic_cache(model)}
    ended, stopped = [False] * len(rows), [False] * len(rows)
    for _ in range(new):
        result = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=position,
            use_cache=True,
            logits_to_keep=1,
            **cache,
        )
        tokens = result.logits[:, -1].argmax(-1, keepdim=True)
        for i, token in enumerate(tokens[:, 0].tolist()):
            if ended[i] or stopped[i]:
                continue
            if token == end:
                ended[i] = True
                continue
            out[i].append(token)
            if stops:
                text = tokenizer.decode(out[i])
                stopped[i] = any(stop in text for stop in stops)
        if all(a or b for a, b in zip(ended, stopped, strict=True)):
            break
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        position = position[:, -1:] + 1
    texts = [_before(tokenizer.decode(row), stops) for row in out]
    return [(text, a or b) for text, a, b in zip(texts, ended, stopped, strict=True)]


def pad_left(rows: Sequence[Sequence[int]], fill: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and mask, int64 [rows, longest]: each row at the right, `fill` and 0 before it."""
    longest = max(len(row) for row in rows)
    if not all(rows):
        raise ValueError("a prompt has no token; give the tokenizer a start token or a text")
    tokens = [[fill] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)


def _before(text: str, stops: tuple[str, ...]) -> str:
    """The text up to the first stop in it."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]
