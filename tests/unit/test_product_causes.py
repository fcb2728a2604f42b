"""The mistake with its operands that gives a wrong product is named."""

from __future__ import annotations

import dataclasses

import torch

from qkernels import reference
from qkernels.format import INT8_ASYM, INT8_TOKEN, MXFP4_ABS_MAX, NVFP4, NVFP4_1L, get_format
from qkernels.quantize import quantize
from qkernels.swizzle import from_blocked, to_blocked
from qkernels.tensor import QTensor
from tests.unit.mismatches import normal, pair, product, product_details, with_scale


def swapped(q: QTensor) -> QTensor:
    return dataclasses.replace(q, data=(q.data >> 4) | (q.data << 4))


def test_nibble_order_of_either_operand_is_named() -> None:
    a, b = pair()
    for out in (product(a, swapped(b)), product(swapped(a), b)):  # these are equal
        assert "likely the nibbles of a or b are swapped" in product_details(out, a, b)
    x = normal(9, 128, 1)
    assert "likely the nibbles of b are swapped" in product_details(product(x, swapped(b)), x, b)


def test_global_scales_dropped_inverted_or_doubled_are_named() -> None:
    a, b = pair()
    assert a.global_scale is not None and b.global_scale is not None
    gs_a, gs_b = float(a.global_scale), float(b.global_scale)
    right = reference.matmul(a, b)
    for factor, words in (
        (gs_a, "global scale of a was not applied"),
        (gs_b, "global scale of b was not applied"),
        (gs_a * gs_b, "global scale of a and b was not applied"),
        (gs_b**2, "global scale of b is inverted"),
        (1 / gs_a, "global scale of a was applied twice"),
    ):
        assert words in product_details((right * factor).bfloat16(), a, b)
    a, b = pair(MXFP4_ABS_MAX)
    assert "likely alpha lacks the format's 1/9" in product_details(
        (reference.matmul(a, b) * 9).bfloat16(), a, b
    )


def test_an_alpha_that_is_a_little_off_is_named_with_its_factor() -> None:
    a, b = pair()
    out = (reference.matmul(a, b) * (1 + 2.0**-7)).to(torch.bfloat16)
    said = product_details(out, a, b)
    assert "every element is 1.007" in said or "every element is 1.008" in said
    assert "likely a wrong alpha or global scale" in said


def test_a_lost_tail_of_k_is_named_with_its_depth() -> None:
    a, b = quantize(normal(9, 160, 1), NVFP4), quantize(normal(11, 160, 2), NVFP4)
    out = (a.dequantize()[:, :128] @ b.dequantize()[:, :128].T).bfloat16()
    assert "likely only the first 128 of K = 160 were summed" in product_details(out, a, b)


def test_scales_read_wrongly_are_named() -> None:
    a, b = quantize(normal(9, 512, 1), NVFP4_1L), quantize(normal(128, 512, 2), NVFP4_1L)
    rows, columns = b.scale.shape
    for scale, words in (
        (from_blocked(b.scale.flatten(), rows, columns), "the scales of b were read as swizzled"),
        (to_blocked(b.scale).view(rows, columns), "the scales of b were swizzled (128x4) and read as linear"),
        (torch.full_like(b.scale, 0x38), "the block scales of b were ignored"),
        (b.scale.roll(1, 1), "each block of b got the scale of the one before"),
        (b.scale.roll(-1, 1), "each block of b got the scale of the next one"),
    ):
        assert words in product_details(product(a, with_scale(b, scale)), a, b)
    tiny = with_scale(b, torch.where(b.scale < 0x34, b.scale % 8, b.scale).to(torch.uint8))
    flushed = with_scale(tiny, torch.where(tiny.scale < 8, 0, tiny.scale).to(torch.uint8))
    x = normal(9, 512, 3)
    out = product(x, flushed, dtype=torch.float32)
    assert "likely subnormal scales of b were read as 0" in product_details(out, x, tiny)


def test_zero_points_ignored_signs_lost_and_operands_rounded_are_named() -> None:
    a, b = quantize(normal(9, 128, 1) + 1, INT8_ASYM), quantize(normal(11, 128, 2), INT8_TOKEN)
    assert a.zero_point is not None
    plain = dataclasses.replace(a, zero_point=0 * a.zero_point)
    assert "likely the zero points of a were ignored" in product_details(
        product(plain, b, dtype=torch.float32), a, b
    )
    a, b = pair()
    assert "likely the signs of b are lost" in product_details(
        product(a, dataclasses.replace(b, data=b.data & 0x77)), a, b
    )
    x = normal(9, 128, 1)
    assert "likely a was rounded to bfloat16" in product_details(
        product(x.bfloat16(), b, dtype=torch.float32), x, b
    )
    c = quantize(normal(11, 128, 2), get_format("fp8_block"))
    rounded = (x.double() @ c.exact_values().bfloat16().double().T).float()
    assert "likely b was rounded to bfloat16" in product_details(rounded, x, c)


def test_mistakes_with_the_bias_are_named() -> None:
    a, b = pair()
    bias = normal(1, 11, 3)[0].bfloat16() * 8
    assert "likely the bias was left out" in product_details(product(a, b), a, b, bias)
    assert "likely the bias was added after rounding" in product_details(product(a, b) + bias, a, b, bias)
    a, b = (quantize(normal(rows, 128, rows), NVFP4, global_scale=torch.tensor(2.0)) for rows in (9, 11))
    alpha = 0.25
    early = (reference.matmul(a, b) + bias.double() * alpha).float()
    assert "likely the bias was added before alpha" in product_details(early, a, b, bias)


def test_a_narrow_accumulator_is_named_by_the_size_of_its_errors() -> None:
    a, b = normal(9, 512, 1).half(), quantize(normal(11, 512, 2), NVFP4_1L)
    right = b.exact_values(torch.float16)
    sums = torch.zeros(9, 11, dtype=torch.float16)
    for k in range(512):
        sums += a[:, k, None] * right[None, :, k]
    assert "likely sums kept in less than fp32" in product_details(sums.float(), a, b)


def test_a_single_wrong_element_gets_no_cause_it_could_have_by_chance() -> None:
    a, b = pair()
    out = product(a, b)
    out[4, 5] += 1
    text = product_details(out, a, b)
    assert text.startswith("  at (4, 5): found ") and "likely" not in text
