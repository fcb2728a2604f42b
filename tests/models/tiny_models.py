"""Small random models and what they are compared by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qkernels import LinearNVFP4, models

PRESETS = ("tiny-llama", "tiny-nemotron-h")


def tokens(batch: int = 3, length: int = 12, device: str = "cpu") -> Tensor:
    return torch.randint(0, 256, (batch, length), generator=torch.Generator().manual_seed(0)).to(device)


def distance(a: Tensor, b: Tensor) -> float:
    """Relative Frobenius distance; 1 and more for unrelated tensors."""
    a, b = a.double().cpu(), b.double().cpu()
    return float((a - b).norm() / b.norm())


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    out: Tensor = model(ids).logits
    return out


@torch.no_grad()
def decoded_logits(model: Any, ids: Tensor, prompt: int) -> Tensor:
    """The logits of a prompt at once, then of each further token by itself, from the cache."""
    out = model(ids[:, :prompt], use_cache=True)
    parts = [out.logits]
    for position in range(prompt, ids.shape[1]):
        out = model(ids[:, position : position + 1], past_key_values=out.past_key_values, use_cache=True)
        parts.append(out.logits)
    return torch.cat(parts, 1)


def each_alone(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    return torch.cat([function(rows[i : i + 1]) for i in range(len(rows))])


def swap_for_dynamic_nvfp4(model: nn.Module) -> None:
    """What recipes refuse: a global scale computed anew from every input tensor."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            model.set_submodule(name, LinearNVFP4.from_linear(module))


def swapped(preset: str, recipe: str, **options: Any) -> tuple[Any, models.SwapReport]:
    model = models.build(
        preset, device=options.pop("device", "cpu"), dtype=options.pop("dtype", torch.bfloat16)
    )
    return model, models.swap(model, recipe, **options)
