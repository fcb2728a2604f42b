"""The process of `support.probe`: python -m qkernels.models.probe_layer DEVICE RECIPE-AS-JSON

One layer is quantized, swapped and called with one row and with many, and compared with the float64 reference on the
CPU of the very codes it holds. The last line of stdout is JSON: mode, backend, note, error, bound.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch import Tensor, nn

from .codes import CodesLinear
from .fast import Placed, fastest
from .recipe import Recipe

BOUND = 0.01
"""Relative Frobenius error: rounding to bf16 is 1.7e-3 and fast FP8 sums add as much. A wrong nibble or scale is 0.1
and more."""


def main(argv: list[str]) -> None:
    device, text = argv
    fields = json.loads(text)
    recipe = Recipe(**{**fields, "skip": tuple(fields["skip"])})
    torch.manual_seed(0)
    plain = nn.Linear(256, 128, bias=True, dtype=torch.bfloat16).requires_grad_(False)
    plain.weight *= torch.logspace(-0.5, 0.5, 128).to(torch.bfloat16)[
        :, None
    ]  # a channel's scale does for no other
    said: dict[str, Any] = {"mode": "none", "backend": "torch", "note": ""}
    if recipe.weight_format is None:
        module: nn.Module = plain.to(device)
        reference = None
    else:
        # on the CPU: the reference's codes, and there they stay
        reference = CodesLinear.from_linear(plain, recipe, 4.0 if recipe.static else None)
        placed: Placed = fastest(_copy(reference, recipe).to(device), torch.bfloat16)
        module = placed.module
        said.update(mode=placed.mode, backend=placed.backend, note=placed.note)
    error = 0.0
    for rows in (1, 130):
        x = torch.randn(rows, 256, generator=torch.Generator().manual_seed(rows)).to(torch.bfloat16)
        with torch.no_grad():
            y = module(x.to(device)).cpu()
        expected = reference(x) if reference is not None else _plain(plain, x)
        error = max(error, float((y - expected).double().norm() / expected.double().norm()))
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    print(json.dumps({**said, "error": error if error == error else 1e9, "bound": BOUND}))


def _copy(layer: CodesLinear, recipe: Recipe) -> CodesLinear:
    made = CodesLinear(layer.in_features, layer.out_features, True, recipe)
    made.load_state_dict(layer.state_dict())
    return made


def _plain(layer: nn.Linear, x: Tensor) -> Tensor:
    cpu = [t.detach().cpu().double() for t in (layer.weight, layer.bias)]
    return (x.double() @ cpu[0].T + cpu[1]).to(x.dtype)


if __name__ == "__main__":
    main(sys.argv[1:])
