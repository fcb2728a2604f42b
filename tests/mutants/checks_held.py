"""A computed scale in one launch that holds part of the tensor: the bits of two launches, interpreted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qbench import poisoned_allocations
from qkernels.tensor import QTensor
from qkernels.triton.fp8_quantize import fp8_quantize
from qkernels.triton.held import Held
from qkernels.triton.nvfp4_quantize import nvfp4_quantize
from tests.mutants.helpers import normal

PLANS = {torch.float16: Held(warps=1, held=2, ahead=2), torch.bfloat16: Held(warps=1, held=1, ahead=3)}
"""Three programs in the interpreter, which hold 1536 (3072) elements of FP8 (NVFP4), or half of that."""


def held() -> None:
    """The largest element, a NaN or an infinity is held, is read twice, or comes last; the last tile is not whole."""
    for dtype, plan in PLANS.items():
        for k, places in (
            (16, ((3, 70.0),)),
            (4720, ((0, 70.0), (2400, -70.0), (4719, math.inf), (9, math.nan))),
        ):
            for place, value in places:
                whole = normal(1, k + 16, dtype, seed=k).reshape(-1)
                whole[k:] = 900.0  # beside the tensor
                x = whole[:k].reshape(1, k)
                x[0, place] = value
                _same(fp8_quantize(x, held=False), _anew(fp8_quantize, x, plan), f"FP8 {dtype} {k} {place}")
                _same(
                    nvfp4_quantize(x, held=False),
                    _anew(nvfp4_quantize, x, plan),
                    f"NVFP4 {dtype} {k} {place}",
                )


def _anew(quantize: object, x: Tensor, plan: Held) -> QTensor:
    with poisoned_allocations():
        made: QTensor = quantize(x, held=plan)  # type: ignore[operator]
    return made


def _same(a: QTensor, b: QTensor, what: str) -> None:
    for name in ("data", "scale", "global_scale"):
        one, other = getattr(a, name), getattr(b, name)
        if one is not None:
            same = torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
            assert same, f"{what}: {name} is not that of two launches"
