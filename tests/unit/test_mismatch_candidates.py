"""A mistake that gives these very bytes is named: layouts, rules, global scales, rotations, offsets."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from qkernels.format import (
    E2M1,
    FORMATS,
    FP8_TOKEN,
    INT8,
    INT8_ASYM,
    MXFP4,
    NVFP4,
    NVFP4_1L,
    Format,
    get_format,
)
from qkernels.hadamard import rotate
from qkernels.quantize import quantize
from qkernels.swizzle import from_blocked, to_blocked
from tests.unit.mismatches import normal, report, with_scale
from tests.unit.quantizer_samples import sample, static

INT4 = get_format("int4")


@pytest.mark.parametrize("rows", [128, 256, 200])
@pytest.mark.parametrize("fmt", [NVFP4, MXFP4], ids=lambda f: f.name)
def test_a_swizzled_layout_is_named(fmt: Format, rows: int) -> None:
    x = normal(rows, 32 * (fmt.block or 0))  # with 16 columns of scales the layout would be its own inverse
    q = quantize(x, fmt)
    swizzled = to_blocked(q.scale)[: q.scale.numel()].view(q.scale.shape)
    assert "to_blocked (128x4) of the right ones" in report(with_scale(q, swizzled), x, fmt)
    if rows % 128 == 0:
        other = from_blocked(q.scale.flatten(), *q.scale.shape)
        assert "from_blocked (128x4) of the right ones" in report(with_scale(q, other), x, fmt)


def test_a_transposed_block_is_named() -> None:
    x = normal(64, 64) * torch.exp2(torch.arange(64.0) / 8)[:, None]
    q = quantize(x, NVFP4_1L)
    across = quantize(x.T.contiguous(), NVFP4_1L).scale  # [K, M/16]
    r, c = torch.arange(64)[:, None], torch.arange(4)
    for scale in (across.T.reshape(64, 4), across, across[c * 16 + r % 16, r // 16]):
        assert "blocks of 16 x 1" in report(with_scale(q, scale), x, NVFP4_1L)


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (lambda gs: gs * 0 + 1, "was not applied"),
        (lambda gs: 1 / gs, "is inverted"),
        (lambda gs: gs * gs, "was applied twice"),
    ],
)
def test_a_wrong_use_of_the_global_scale_is_named(factor: Any, words: str) -> None:
    x = normal(16, 128) * 3
    for gs in (torch.tensor(7.0), torch.tensor(0.02)):
        q = quantize(x, NVFP4, global_scale=gs)
        other = quantize(x, NVFP4, global_scale=factor(gs))
        wrong = dataclasses.replace(q, data=other.data, scale=other.scale)
        assert f"the global scale {words}" in report(wrong, x, NVFP4, global_scale=gs)


def test_another_rule_is_named_with_its_format() -> None:
    x = sample()
    rules = [f for f in FORMATS.values() if f.element is E2M1 and f.scale == "e8m0"]
    for fmt in rules:
        for other in rules:
            if other != fmt:
                wrong = dataclasses.replace(quantize(x, other), format=fmt)
                assert f"these are the bytes of {other.name}, the rule '{other.rule}'" in report(
                    wrong, x, fmt
                )


def test_another_choice_or_minimum_of_nvfp4_is_named() -> None:
    x = sample()
    x[11] *= 2.0**-12  # scales below 2^-6
    for fmt, other in (
        (get_format("nvfp4_4over6"), get_format("nvfp4_4over6_mae")),
        (NVFP4, get_format("nvfp4_min_scale")),
        (get_format("nvfp4_4over6"), NVFP4),
    ):
        gs = torch.tensor(1.0)
        wrong = dataclasses.replace(quantize(x, other, global_scale=gs), format=fmt)
        assert f"these are the bytes of {other.name}" in report(wrong, x, fmt, global_scale=gs)


def test_mistakes_of_the_rotation_are_named() -> None:
    x = normal(16, 256)
    for fmt, n in ((MXFP4, 32), (MXFP4, 128), (NVFP4_1L, 64)):
        q = quantize(x, fmt, hadamard=n)
        plain, twice, never = (quantize(y, fmt) for y in (x, rotate(x, n) / n**0.5, rotate(x, n) * n**0.5))
        for other, words in (
            (plain, "the rotation is missing"),
            (twice, f"1/sqrt({n}) was applied twice"),
            (never, f"1/sqrt({n}) was not applied"),
        ):
            wrong = dataclasses.replace(q, data=other.data, scale=other.scale)
            assert words in report(wrong, x, fmt, hadamard=n)
        wrong = dataclasses.replace(q, hadamard=None)
        assert f"the input was rotated by {n}" in report(wrong, x, fmt)
    q = quantize(x, MXFP4, hadamard=128)
    rounded = quantize(rotate(x, 128, torch.float64).bfloat16(), MXFP4)
    wrong = dataclasses.replace(q, data=rounded.data, scale=rounded.scale)
    assert "rounded to bfloat16 first" in report(wrong, x, MXFP4, hadamard=128)


@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("fmt", [MXFP4, NVFP4, INT8_ASYM, FP8_TOKEN, INT8, INT4], ids=lambda f: f.name)
def test_an_offset_by_one_row_is_named(fmt: Format, step: int) -> None:
    x = normal(24, 256)
    q = quantize(x, fmt, **static(fmt))
    index = (torch.arange(24) + step).clamp(0, 23)
    wrong = dataclasses.replace(q, data=q.data.view(torch.uint8)[index].view(q.data.dtype))
    if q.scale.ndim == 2:
        zero = None if q.zero_point is None else q.zero_point[index]
        wrong = dataclasses.replace(wrong, scale=q.scale[index], zero_point=zero)
    words = f"row i holds the result of row i {'+' if step == 1 else '-'} 1"
    assert words in report(wrong, x, fmt, **static(fmt))


def test_an_offset_by_one_block_and_amax_without_abs_are_named() -> None:
    x = normal(24, 256)
    q = quantize(x, NVFP4_1L)
    assert "that of the next block" in report(with_scale(q, q.scale.roll(-1, 1)), x, NVFP4_1L)
    assert "that of the block before" in report(with_scale(q, q.scale.roll(1, 1)), x, NVFP4_1L)
    assert "amax without abs" in report(with_scale(q, quantize(x.clamp(min=0), NVFP4_1L).scale), x, NVFP4_1L)
