"""A product, by a provider, a layer or by name, is right for a format or refused with a reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import triton
from torch import Tensor

import qkernels
from qbench import Mismatch, Provider, Unsupported, provider_info
from qbench.interpreter import repair
from qkernels import LinearMXFP4, LinearNVFP4, reference
from qkernels.compare import compare_quantized
from qkernels.format import FORMATS, FP8, FP8_TOKEN, INT8, MXFP4, NVFP4, Format, get_format
from qkernels.ops.gemm import product_bound
from qkernels.providers import libraries, prepared, torch_gemm
from qkernels.tensor import QTensor
from qkernels.triton import fp4_gemm, fp4_gemm_quantize
from qkernels.triton.quantized_result import TAKES
from tests.providers import DEVICE, every_format, full_name, normal, operand, quantized, refused, static

if triton.knobs.runtime.interpret:
    repair()

NVFP4_KIN = {name for name in FORMATS if name.startswith("nvfp4")} - {"nvfp4_2d", "nvfp4_token"}
MXFP4_KIN = {name for name in FORMATS if name.startswith("mxfp4")}


# Products -------------------------------------------------------------------------------------------------


def judge(provider: Provider, out: Tensor, *operands: Any) -> Mismatch | None:
    return product_bound(roundings=0)(out, operands, reference.matmul, provider_info(provider).accumulator)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("provider", [fp4_gemm.gemm, torch_gemm.torch_bf16], ids=full_name)
def test_a_product_is_right_or_refused(provider: Provider, dtype: torch.dtype | None) -> None:
    """dtype: of plain activations; None: quantized as the weights."""
    taken = set()
    for name, fmt in FORMATS.items():
        a = operand(fmt, 3, seed=1) if dtype is None else normal(3, seed=1).to(dtype)
        b = operand(fmt, 18, seed=2)
        if refused(provider, a, b):
            continue
        taken.add(name)
        wrong = judge(provider, provider(a, b)(), a, b)
        assert wrong is None, f"{name}: {wrong}"
    if provider is fp4_gemm.gemm:
        assert taken == NVFP4_KIN | MXFP4_KIN
    elif dtype == torch.float32:
        assert taken == set(FORMATS)
    else:
        e8m0 = {name for name, fmt in FORMATS.items() if fmt.scale == "e8m0"}
        assert taken == NVFP4_KIN | {"nvfp4_2d"} | (set() if dtype == torch.float16 else e8m0)


def test_kin_of_nvfp4_multiply_each_other_under_the_right_alpha() -> None:
    """A global scale of 256*6/amax or of a tensor with clamped blocks is divided out as it was stored."""
    for name in sorted(NVFP4_KIN):
        for left, right in ((name, "nvfp4"), ("nvfp4", name), (name, name)):
            a, b = operand(get_format(left), 3, seed=1), operand(get_format(right), 18, seed=2)
            out = qkernels.matmul(a, b, backend="triton", out_dtype=torch.bfloat16)
            assert judge(fp4_gemm.gemm, out, a, b) is None, (left, right)
            near = a.dequantize() @ b.dequantize().T  # not by alpha
            assert torch.allclose(out.float(), near, rtol=2**-7, atol=1e-2), (left, right)


def test_products_of_unlike_operands_are_refused() -> None:
    x, nv, mx = normal(3), operand(NVFP4, 16, seed=1), operand(MXFP4, 16, seed=2)
    for provider, a, b, reason in (
        (fp4_gemm.gemm, mx, nv, "a is mxfp4 and b is nvfp4: quantize both"),
        (fp4_gemm.gemm, nv, x, "multiply with quantized weights, not torch.float32"),
        (torch_gemm.torch_scaled_mm_fp4, nv, mx, "multiplies nvfp4, nvfp4_1l, not mxfp4"),
        (torch_gemm.torch_scaled_mm_fp4, x, nv, "multiplies quantized operands, not torch.float32"),
        (torch_gemm.torch_scaled_mm_fp8, operand(FP8, 3, 1), operand(FP8_TOKEN, 16, 2),
         "not fp8 and fp8_token"),
        (libraries.vllm_nvfp4_gemm, nv, mx, "not mxfp4"),
        (libraries.humming_gemm, nv, nv, "16-bit activations, not nvfp4"),
    ):  # fmt: skip
        with pytest.raises(Unsupported, match=reason):
            provider(a, b)


@every_format
def test_adapters_of_products_judge_the_formats_first(fmt: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *parts: str) -> Any:
        raise Unsupported(f"{name} is not here")

    monkeypatch.setattr(libraries, "need", absent)
    x, q = normal(32), operand(fmt, 32, seed=1)
    for provider, operands, written_for in (
        (libraries.vllm_nvfp4_gemm, (q, q), NVFP4_KIN),
        (libraries.humming_gemm, (x.half(), q), NVFP4_KIN | MXFP4_KIN - {"mxfp4_abs_max"}),
        (libraries.qutlass_hadamard_gemm, (x, replace(q, hadamard=32)), {"mxfp4_abs_max"}),
    ):
        reason = refused(provider, *operands)
        assert reason
        assert reason.endswith("is not here") == (fmt.name in written_for), reason
    if fmt.name not in NVFP4_KIN:
        assert fmt.name in refused(torch_gemm.torch_scaled_mm_fp4, q, q)
    if fmt.name not in ("fp8", "fp8_token"):
        assert fmt.name in refused(torch_gemm.torch_scaled_mm_fp8, q, q)


@every_format
def test_a_product_that_quantizes_its_activations_is_right_or_refused(fmt: Format) -> None:
    x, w = normal(3).bfloat16(), operand(fmt, 18, seed=2)
    for provider, written_for in (
        (fp4_gemm.hadamard_gemm, fmt in fp4_gemm.MULTIPLIES),
        (torch_gemm.torch_quantize_matmul, fmt != INT8),
    ):
        assert (refused(provider, x, w) == "") == written_for
        if written_for:
            y, xq = provider(x, w)()
            assert compare_quantized(xq, x, fmt) is None
            out = product_bound(roundings=0)(y, (xq, w), reference.matmul, "fp32")
            assert out is None, out


@every_format
def test_a_product_that_quantizes_its_result_is_right_or_refused(fmt: Format) -> None:
    quantized_a, b = operand(fmt, 3, seed=1), operand(fmt, 32, seed=2)
    gs = torch.tensor(30.0, device=DEVICE) if fmt.levels == 2 else None
    bound = product_bound(roundings=0)
    blocks = fmt.scale in ("e4m3", "e8m0") and fmt.block is not None and fmt.name != "nvfp4_token"
    for a in (quantized_a, normal(3).bfloat16()):
        for provider, written_for, accumulator in (
            (fp4_gemm_quantize.gemm_quantize, fmt == NVFP4, "fp32"),
            (prepared.gemm_quantize, fmt in TAKES, "fp32"),
            (prepared.fp8_gemm_quantize, a is quantized_a and fmt in TAKES and folds(fmt), "fp8-fast"),
            (torch_gemm.torch_gemm_quantize, blocks, "fp32"),
        ):
            assert (refused(provider, a, b, gs) == "") == written_for
            another = torch.tensor(30.0, device=DEVICE) if gs is None else None
            assert refused(provider, a, b, another)
            if written_for:
                y = reference.matmul(a, b)
                error = bound.error(y, (a, b), accumulator)
                assert compare_quantized(provider(a, b, gs)(), y, fmt, global_scale=gs, error=error) is None


def folds(fmt: Format) -> bool:
    """Do folded products take the format here?"""
    return fmt.scale == "e8m0" and (DEVICE == "cpu" or torch.cuda.get_device_capability()[0] == 9)


# Layers and the functions by name -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LinearNVFP4, LinearMXFP4], ids=lambda kind: kind.__name__)
@every_format
def test_a_layer_holds_a_format_or_says_that_it_does_not(fmt: Format, kind: type[LinearNVFP4]) -> None:
    linear = torch.nn.Linear(128, 24, device=DEVICE)
    if fmt.name not in (NVFP4_KIN if kind is LinearNVFP4 else MXFP4_KIN):
        for build in (lambda: kind.from_linear(linear, format=fmt), lambda: kind(128, 24, format=fmt)):
            with pytest.raises(ValueError, match=f"{fmt.name}.*; use "):
                build()
        return
    layer = kind.from_linear(linear, format=fmt)
    empty = kind(128, 24, format=fmt, dtype=torch.float32, device=DEVICE)
    empty.load_state_dict(layer.state_dict())
    x = normal(5)
    expected = reference.matmul(
        qkernels.quantize(x, fmt), quantized(linear.weight.detach(), fmt), linear.bias
    )
    assert torch.allclose(layer(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(empty(x), layer(x))


@every_format
def test_every_format_is_quantized_by_name(fmt: Format) -> None:
    x = normal(5).half()
    asked = static(fmt)
    assert compare_quantized(qkernels.quantize(x, fmt.name, **asked), x, fmt, **asked) is None
    generator = torch.Generator(DEVICE).manual_seed(0)
    q = qkernels.quantize(x, fmt.name, **asked, rounding="stochastic", generator=generator)
    assert compare_quantized(q, x, fmt, **asked, rounding="stochastic") is None


@every_format
def test_every_pair_of_formats_is_multiplied_by_name(fmt: Format) -> None:
    x, w = normal(3, seed=1), operand(fmt, 20, seed=2)
    operands = [x.bfloat16(), *(operand(other, 3, seed=1) for other in FORMATS.values())]
    for a in operands:
        out = qkernels.matmul(a, w, backend="torch", out_dtype=torch.float32)
        left = a.dequantize(torch.float64) if isinstance(a, QTensor) else a.double()
        expected = left @ w.dequantize(torch.float64).T
        assert torch.allclose(out.double(), expected, rtol=1e-5, atol=1e-5), a
