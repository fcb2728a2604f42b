"""Whole models as ordinary cases: `model_prefill` and `model_decode`, by the recipes that change a model.

The cases of one model and recipe come one after the other, so that it is built once; what is kept between them is
the bench's, and goes when another one is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from qbench.case import Case, Cost, Op, Workload
from qbench.measure import Bench
from qbench.model.graph import Mode
from qbench.model.trial import ModelTrial, Part, Variant
from qbench.model.verify import agrees, uncached

Build = Callable[[torch.device], nn.Module]


def ops(models: Mapping[str, Build], mode: Mode | None = None) -> tuple[Op, Op]:
    """The operations `model_prefill` and `model_decode` over these models.

    Their cost is not the workload's alone: the bytes of a changed model are counted when it is there.
    """

    def inputs(workload: Workload, device: torch.device) -> tuple[Any, ...]:
        return (models[str(workload["model"])](device),)

    def made(part: Part) -> Op:
        def trial(case: Case, bench: Bench) -> ModelTrial:
            return ModelTrial.of(case, bench, part, mode)

        return Op(f"model_{part}", inputs, uncached, agrees, lambda workload: Cost(0), trial=trial)

    return made("prefill"), made("decode")


def cases(
    models: Mapping[str, Build],
    recipes: Sequence[Variant],
    *,
    batches: Sequence[int],
    prompts: Sequence[int],
    new: int,
    seed: int = 0,
    mode: Mode | None = None,
) -> list[Case]:
    """Prefill and decoding of every model, recipe, prompt length and batch size, in that order.

    models: builders of a model on a device, by the name that their baselines get. A `mode` that is asked for is part of
    the cases' names: an eager step is not compared with a compiled one.
    """
    both = ops(models, mode)
    asked = {"mode": mode} if mode else {}
    made = [
        Case(op, recipe, Workload.of(seed, model=model, batch=batch, prompt=prompt, new=new, **asked))
        for model in models
        for recipe in recipes
        for prompt in prompts
        for batch in batches
        for op in both
    ]
    names = [case.id for case in made]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"two cases share an id: {', '.join(sorted(twice))}; give the recipes different names"
        )
    return made
