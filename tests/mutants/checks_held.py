"""A computed scale in one launch that holds part of the tensor: the bits of two launches, interpreted."""

from __future__ import annotations

import math

import torch

from qbench import poisoned_allocations
from qkernels.triton.fp8_held import Held
from qkernels.triton.fp8_quantize import fp8_quantize
from tests import held_on_numpy
from tests.held_on_numpy import Sizes
from tests.mutants.helpers import normal

PLANS = {torch.float16: Held(warps=1, held=2, ahead=2), torch.bfloat16: Held(warps=1, held=1, ahead=3)}
"""Three programs in the interpreter, which hold 1536 elements or half of that."""


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
                wanted = fp8_quantize(x, held=False)
                with poisoned_allocations():
                    found = fp8_quantize(x, held=plan)
                for name in ("data", "scale"):
                    one, other = (getattr(q, name).reshape(-1).view(torch.uint8) for q in (wanted, found))
                    assert torch.equal(one, other), f"{dtype} {k} {place}: {name} is not that of two launches"


def held_sm90() -> None:
    """Hopper's kernel by Python: parts of tiles, stages and rounds, and whole ones; what is held is not read again."""
    for pieces, sizes, wanted in (
        (1, Sizes(32, 1, 2, 2, 1), 0),
        (32 * 12, Sizes(32, 2, 2, 2, 2), 0),
        (32 * 13 + 5, Sizes(32, 2, 2, 2, 2), 2),
        (32 * 29 - 1, Sizes(32, 3, 3, 2, 2), 8),
    ):
        found = held_on_numpy.held(pieces, sizes)
        assert found == 128 * wanted, (
            f"{pieces} {sizes}: {found} words are read again, expected {128 * wanted}"
        )
