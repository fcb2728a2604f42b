"""The error bound of each format holds over dense numbers, and is no more than it need be."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from qkernels.accuracy import error_bound
from qkernels.format import FORMATS, INT8, MXFP4_QUEST, MXFP6_E2M3, MXFP8, NVFP4_1L, Format
from qkernels.quantize import quantize

BOUNDED = [f for f in FORMATS.values() if f not in (INT8, MXFP4_QUEST)]
RULES = [dataclasses.replace(f, name=f"{f.name}_{rule}", rule=rule)
         for f in (MXFP8, MXFP6_E2M3) for rule in ("ceil", "even", "rceil")]  # fmt: skip


def worst(fmt: Format) -> float:
    """The largest error against amax over dense numbers below many amax, each of which shares one scale."""
    block = 128
    rows = 4096 if fmt.block_rows == 1 else 40 * fmt.block_rows
    tiles = -(-rows // fmt.block_rows)
    amax = torch.exp2(torch.linspace(0, 1, tiles + 1)[:tiles]).repeat_interleave(fmt.block_rows)[:rows, None]
    fractions = torch.rand(rows, block, generator=torch.Generator().manual_seed(0)) * 2 - 1
    fractions[:, ::16], fractions[:, 1::16] = 1.0, -1.0
    fractions[:, 2::16] = 5 / 6
    x = fractions * amax
    if fmt.granularity == "tensor":
        x = torch.linspace(-1, 1, 1 << 20).view(-1, block)
    # one global scale that lets every block scale be normal; the rows' own are
    options = {"global_scale": 60.0} if fmt.levels == 2 and fmt.global_granularity == "tensor" else {}
    off = (quantize(x, fmt, **options).dequantize(torch.float64) - x).abs()
    return float((off / (x.abs().max() if fmt.granularity == "tensor" else amax)).max())


@pytest.mark.parametrize("fmt", [*BOUNDED, *RULES], ids=lambda f: f.name)
def test_the_bound_holds_and_is_nearly_reached(fmt: Format):
    bound = error_bound(fmt)
    if fmt == NVFP4_1L:  # amax/6 is normal here
        assert bound == pytest.approx(3 / 17)
    assert 0.85 * bound <= worst(fmt) <= bound + 2.0**-22


def test_the_bounds_in_numbers():
    known = {"nvfp4": 3 / 17, "nvfp4_4over6": 3 / 17, "mxfp4": 1 / 4, "mxfp4_even": 1 / 5, "mxfp4_ceil": 1 / 5,
             "mxfp8": 1 / 8, "mxfp8_e5m2": 1 / 8, "mxfp6_e3m2": 1 / 8, "mxfp6_e2m3": 1 / 16, "fp8_block": 1 / 28,
             "int8_token": 1 / 254, "int8_asym": 1 / 255, "int4": 1 / 15, "int4_asym": 1 / 15}  # fmt: skip
    assert {name: error_bound(FORMATS[name]) for name in known} == pytest.approx(known)


@pytest.mark.parametrize("fmt", [INT8, MXFP4_QUEST], ids=lambda f: f.name)
def test_a_scale_that_does_not_follow_amax_has_no_bound(fmt: Format):
    with pytest.raises(ValueError, match=f"{fmt.name} has no error bound"):
        error_bound(fmt)
