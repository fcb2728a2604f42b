"""Whole-model runs and accuracies made by hand, for the tests of their comparison."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from qbench.model.accuracy import Accuracy
from qbench.model.compare.read import Inputs
from qbench.result import Ceilings, Device, Result, Run, Times

H200 = Device("cuda", "NVIDIA H200", "9.0", 132, 140)
B200 = Device("cuda", "NVIDIA B200", "10.0", 148, 180)
MODEL = "Llama-3.1-8B"
DIGEST = "ab" * 32


@dataclass(frozen=True)
class Recipe:
    """A recipe's tokens/s at batch 1, its mode and backend; `speed` None: unsupported."""

    name: str
    speed: float | None
    mode: str = "native"
    backend: str = "triton"
    roofline: float = 60.0


H200_RECIPES = (
    Recipe("bf16", 178.0, "none", "torch", 63.0),
    Recipe("fp8", 290.0, "native", "torch-scaled-mm", 55.0),
    Recipe("nvfp4-w4a16", 410.0, "weight-only", "triton", 49.0),
    Recipe("mxfp4-w4a4", 82.0, "emulated", "torch", 9.0),
    Recipe("nvfp4-w4a4", None),
)
B200_RECIPES = (
    Recipe("bf16", 300.0, "none", "torch", 65.0),
    Recipe("fp8", 480.0, "native", "torch-scaled-mm", 56.0),
    Recipe("nvfp4-w4a16", 520.0, "weight-only", "triton", 38.0),
    Recipe("mxfp4-w4a4", 700.0, "native", "cublaslt", 50.0),
    Recipe("nvfp4-w4a4", 750.0, "native", "cublaslt", 54.0),
)


def result(
    op: str,
    recipe: Recipe,
    ns: float,
    figures: dict[str, float],
    axes: dict[str, Any],
    *,
    method: str,
    **more: Any,
) -> Result:
    """A timed result; unsupported, with code and reason, where the recipe has no speed."""
    case = f"{op}/{recipe.name}[{','.join(f'{name}={value}' for name, value in axes.items())}]"
    if recipe.speed is None:
        reason = "no-native-fp4: compute capability 9.0 has no FP4 matrix units; use nvfp4-w4a16 instead"
        return Result(case, op, recipe.name, axes, "unsupported", reason)
    made = {
        "status": "ok",
        "bytes": 1000,
        "times": Times(ns, ns * 0.98, ns * 1.03, 10, 1, 1, "wall", True),
        "figures": figures,
        "labels": {
            "mode": recipe.mode,
            "backend": recipe.backend,
            "model": MODEL,
            "recipe": recipe.name,
            "method": method,
        },
    }
    return Result(case, op, recipe.name, axes, **{**made, **more})


def prefill(recipe: Recipe, *, batch: int = 1, prompt: int = 512, new: int = 128, **more: Any) -> Result:
    """The time to first token falls as the recipe's tokens/s rise, but half of it never does."""
    ms = 30.0 * batch * (0.5 + 89 / (recipe.speed or 1))
    figures = {
        "tokens": float(prompt * batch),
        "tokens_per_s": 1e3 * prompt * batch / ms,
        "ttft_ms": ms,
        "wall_s": ms * 1e-3,
        "roofline_percent": 40.0,
        "peak_gib": 17.5,
    }
    axes = {"model": MODEL, "batch": batch, "prompt": prompt, "new": new}
    return result("model_prefill", recipe, ms * 1e6, figures, axes, method="eager", **more)


def decode(recipe: Recipe, *, batch: int = 1, prompt: int = 512, new: int = 128, **more: Any) -> Result:
    speed = (recipe.speed or 1) * batch * 0.9
    seconds = new * batch / speed
    figures = {
        "tokens": float(new * batch),
        "tokens_per_s": speed,
        "ms_per_token": 1e3 * seconds / new,
        "wall_s": seconds,
        "roofline_percent": recipe.roofline,
        "peak_gib": 16.2,
        "joules_per_token": 500 / speed,
        **more.pop("figures", {}),
    }
    axes = {"model": MODEL, "batch": batch, "prompt": prompt, "new": new, **more.pop("axes", {})}
    return result("model_decode", recipe, seconds * 1e9, figures, axes, method="graph", **more)


def hot(made: Result, *why: str) -> Result:
    """The same, but the card was slowed down meanwhile, or the host."""
    assert made.times is not None
    return replace(made, times=replace(made.times, throttle=why or ("thermal", "power")))


def run_of(device: Device, *results: Result, **versions: str) -> Run:
    known = {"torch": "2.11.0", "triton": "3.6.0", "transformers": "5.17.0", **versions}
    return Run(1, "2026-01-01T00:00:00Z", device, known, results, Ceilings(4000.0, 700.0))


def full_run(device: Device, recipes: tuple[Recipe, ...], batches: tuple[int, ...] = (1,)) -> Run:
    return run_of(
        device, *(each(recipe, batch=b) for b in batches for recipe in recipes for each in (prefill, decode))
    )


def accuracy(
    device: Device, recipe: str, wrong: int, *, of: int = 400, digest: str = DIGEST, mode: str = "native"
) -> Accuracy:
    """`wrong` of `of` problems wrong: the first problems of one shuffle, so that recipes share their hard problems."""
    order = list(range(of))
    random.Random(0).shuffle(order)
    bad = set(order[:wrong])
    correct = tuple(index not in bad for index in range(of))
    return Accuracy(
        1,
        "2026-01-01T00:00:00Z",
        device,
        {"torch": "2.11.0"},
        MODEL,
        recipe,
        "sums",
        digest,
        correct,
        {},
        {"mode": mode},
    )


WRONG = {"bf16": 12, "fp8": 13, "nvfp4-w4a16": 14, "mxfp4-w4a4": 35, "nvfp4-w4a4": 21}


def two_gpus(batches: tuple[int, ...] = (1,)) -> Inputs:
    """Five recipes on two GPUs: one has no kernel for the last, and emulates another that the other GPU runs."""
    accuracies = []
    for device, recipes in ((H200, H200_RECIPES), (B200, B200_RECIPES)):
        for recipe in recipes:
            if recipe.speed:
                made = accuracy(device, recipe.name, WRONG[recipe.name], mode=recipe.mode)
                accuracies.append((f"{device.name}/{recipe.name}.json", made))
    runs = (
        ("h200.json", full_run(H200, H200_RECIPES, batches)),
        ("b200.json", full_run(B200, B200_RECIPES, batches)),
    )
    return Inputs(runs, tuple(accuracies))
