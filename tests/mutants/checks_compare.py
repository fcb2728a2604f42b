"""The judges themselves: each of these outputs is wrong and must be called so, and the right one must not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from qbench import exact, gemm_error, within
from qkernels import QTensor, gemm, quantize, reference
from qkernels.codec import encode_e2m1, pack_e2m1, round_to
from qkernels.compare import compare_quantized
from qkernels.format import FP8, FP8_TOKEN, INT8, INT8_ASYM, INT8_TOKEN, MXFP4, NVFP4, NVFP4_1L
from tests.mutants.helpers import normal


def comparator() -> None:
    _block_formats()
    _scaled_formats()
    _products()


def _planted(q: QTensor, part: str, change: Callable[[Tensor], Tensor]) -> QTensor:
    """q with one element of one part changed."""
    tensor = getattr(q, part)
    raw = (
        tensor.clone().view(torch.uint8)
        if tensor.dtype.is_floating_point and tensor.element_size() == 1
        else tensor
    )
    flat = raw.clone().reshape(-1)
    at = min(37, flat.numel() - 1)
    flat[at] = change(flat[at])
    return dataclasses.replace(q, **{part: flat.reshape(raw.shape).view(tensor.dtype).reshape(tensor.shape)})


def _expect(what: str, wrong: object) -> None:
    assert wrong is not None, f"{what} is called right"


def _block_formats() -> None:
    x = normal(9, 128) + 0.1
    x[8, :32] = 0.0
    for fmt in (NVFP4, NVFP4_1L, MXFP4):
        q = quantize(x, fmt)
        assert compare_quantized(q, x, fmt) is None, f"the exact quantizer of {fmt.name} is called wrong"
        _expect(
            f"{fmt.name} with a code off by one",
            compare_quantized(_planted(q, "data", lambda b: b ^ 1), x, fmt),
        )
        _expect(
            f"{fmt.name} with a sign lost", compare_quantized(_planted(q, "data", lambda b: b ^ 8), x, fmt)
        )
        swapped = dataclasses.replace(q, data=q.data << 4 | q.data >> 4)
        _expect(f"{fmt.name} with its nibbles swapped", compare_quantized(swapped, x, fmt))
        for step in (-1, 1):
            off = _planted(q, "scale", lambda b, step=step: b + step)
            _expect(f"{fmt.name} with a scale byte off by {step}", compare_quantized(off, x, fmt))
        for step in (-1, 1):
            other = _under(q, x, step)
            _expect(
                f"{fmt.name} with every scale byte off by {step} and codes to match",
                compare_quantized(other, x, fmt),
            )
        nan = _planted(
            q, "scale", lambda b, fmt=fmt: torch.full_like(b, 0x7F if fmt.scale == "e4m3" else 0xFF)
        )
        _expect(f"{fmt.name} with a NaN scale", compare_quantized(nan, x, fmt))
        bad = x.clone()
        bad[2, 5] = torch.nan
        _expect(f"{fmt.name} with NaN made finite", compare_quantized(q, bad, fmt))
    q = quantize(x, NVFP4)
    assert q.global_scale is not None
    for what, gs in (("inverted", 1 / q.global_scale), ("off by 2^-12", q.global_scale * (1 + 2.0**-12))):
        again = quantize(x, NVFP4, global_scale=gs)
        _expect(f"a global scale {what}", compare_quantized(again, x, NVFP4))
        _expect(
            f"a static global scale {what}", compare_quantized(again, x, NVFP4, global_scale=q.global_scale)
        )
    _expect(
        "an unrotated result", compare_quantized(dataclasses.replace(q, hadamard=32), x, NVFP4, hadamard=32)
    )
    y = torch.full((1, 16), 6.0, dtype=torch.float64)
    y[0, 1] = 1.0 + 2.0**-4
    found = quantize(y.float(), NVFP4_1L)
    assert compare_quantized(found, y, NVFP4_1L, error=torch.full_like(y, 1e-3)) is None
    y[0, 1] = 1.3
    _expect(
        "a code outside the product's error",
        compare_quantized(found, y, NVFP4_1L, error=torch.full_like(y, 1e-3)),
    )


def _under(q: QTensor, x: Tensor, step: int) -> QTensor:
    """The codes of x under scale bytes that are all off by `step`."""
    other = dataclasses.replace(q, scale=(q.scale.int() + step).clamp(0, 0x7E).to(torch.uint8))
    blocks = x.double().unflatten(-1, (q.scale.shape[1], -1)) / other.alpha
    scale = other.scale_values().unsqueeze(-1)
    y = torch.where(scale > 0, blocks / scale, 0.0).flatten(-2)
    return dataclasses.replace(other, data=pack_e2m1(encode_e2m1(y)))


def _scaled_formats() -> None:
    x = normal(5, 96) + 0.1
    for fmt in (FP8, FP8_TOKEN, INT8, INT8_TOKEN, INT8_ASYM):
        static = {"scale": 0.03} if fmt == INT8 else {}
        q = quantize(x, fmt, **static)
        assert compare_quantized(q, x, fmt, **static) is None, (
            f"the exact quantizer of {fmt.name} is called wrong"
        )
        for step in (-1, 1):
            off = _planted(q, "data", lambda b, step=step: b + step)
            _expect(f"{fmt.name} with a code off by {step}", compare_quantized(off, x, fmt, **static))
        scale = dataclasses.replace(q, scale=q.scale * (1 + 2.0**-20))
        _expect(f"{fmt.name} with a scale off by 2^-20", compare_quantized(scale, x, fmt, **static))
        bad = x.clone()
        bad[2, 5] = torch.nan
        if fmt != INT8:
            _expect(f"{fmt.name} with NaN made finite", compare_quantized(q, bad, fmt))
    q = quantize(x, INT8_ASYM)
    off = _planted(q, "zero_point", lambda z: z + 1)
    _expect("a zero point off by one", compare_quantized(off, x, INT8_ASYM))
    assert q.zero_point is not None
    data = (q.data.int() + 1).clamp(-128, 127).to(torch.int8)
    off = dataclasses.replace(q, zero_point=q.zero_point + 1, data=data)
    _expect("zero points off by one and codes to match", compare_quantized(off, x, INT8_ASYM))


def _products() -> None:
    a, b = quantize(normal(16, 512), NVFP4), quantize(normal(24, 512, seed=1), NVFP4)
    expected = reference.matmul(a, b)
    error = gemm_error(expected, reference.magnitude(a, b), 512)
    right = round_to(expected, torch.bfloat16)
    assert within(right, expected, error) is None, "the rounded reference is called wrong"
    bits = right.view(torch.int16)
    truncated = torch.where(right.double().abs() > expected.abs(), bits - 1, bits).view(torch.bfloat16)
    _expect("truncation to bf16", within(truncated, expected, error))
    for what, factor in (("alpha off by 2^-7", 1 + 2.0**-7), ("no alpha", float(1 / (a.alpha * b.alpha)))):
        _expect(what, within(round_to(expected * factor, torch.bfloat16), expected, error))
    for value in (torch.nan, torch.inf, 0.0):
        one = right.clone()
        one[3, 4] = value
        _expect(f"one output of {value}", within(one, expected, error))
    half = (a.exact_values(torch.float16) @ b.exact_values(torch.float16).T).double() * float(
        a.alpha * b.alpha
    )
    _expect("sums in fp16", within(half.float(), expected, error))
    op = gemm(NVFP4, NVFP4)
    _expect(
        "fp16 instead of bf16", op.tolerance(round_to(expected, torch.float16), (a, b), op.reference, "fp32")
    )
    _expect("a row too few", op.tolerance(right[1:], (a, b), op.reference, "fp32"))
    _expect("a row of its neighbour", op.tolerance(right.roll(1, 0), (a, b), op.reference, "fp32"))
    assert op.tolerance(right, (a, b), op.reference, "fp32") is None
    same = right.clone()
    assert exact(same, (), lambda: right) is None
    same[0, 0] += 1
    _expect("an integer off by one", exact(same, (), lambda: right))
