"""check_gemm: other people's broken products are caught by the check meant for them and named; right ones pass."""

from __future__ import annotations

import textwrap

import pytest
import torch

import qbench
from qbench import WrongResult
from qkernels import reference
from qkernels.format import FORMATS, INT8_TOKEN, MXFP4, NVFP4, NVFP4_1L, Format
from qkernels.providers.torch_gemm import torch_bf16
from qkernels.tensor import QTensor
from qkernels.testing import GEMM_CHECKS, check_gemm
from tests.unit.gemms import (
    Operand,
    Thunk,
    Unsteady,
    alpha,
    alpha_in_fp16,
    clear_refusal,
    crashes_without_rows,
    flushes_subnormal_scales,
    fp16_sums,
    half_up,
    ignores_strides,
    inverted_alpha,
    late_bias,
    nan_everywhere,
    nan_to_zero,
    no_alpha,
    no_k_tail,
    no_last_column,
    out_dtype,
    quantizes_the_batch,
    right,
    row_above,
    swapped_nibbles,
    swizzled_scales,
    truncated,
    vague_refusal,
    values,
    writes_into_its_operand,
    wrong_byte_zero,
)

BROKEN = {
    "fp16 accumulator": (fp16_sums, "certificate", NVFP4, NVFP4, "less than fp32"),
    "alpha dropped": (no_alpha, "certificate", NVFP4, None, "global scale of b was not applied"),
    "alpha dropped, both": (no_alpha, "values", NVFP4, NVFP4, "global scale of a and b was not applied"),
    "alpha inverted": (inverted_alpha, "certificate", NVFP4, None, "global scale of b is inverted"),
    "alpha of abs_max dropped": (no_alpha, "values", FORMATS["mxfp4_abs_max"], FORMATS["mxfp4_abs_max"], "1/9"),
    "K tail ignored": (no_k_tail, "shapes", MXFP4, None, "only the first 128 of K = 160"),
    "last column unwritten": (no_last_column, "shapes", NVFP4, NVFP4, "the last of 65"),
    "swapped nibbles": (swapped_nibbles, "certificate", MXFP4, None, "nibbles of b are swapped"),
    "swizzled scales": (swizzled_scales, "shapes", NVFP4_1L, NVFP4_1L, "swizzled"),
    "truncation": (truncated, "certificate", NVFP4, None, "truncated"),
    "ties away from zero": (half_up, "certificate", NVFP4, NVFP4, "rounded up or away"),
    "NaN lost": (nan_to_zero, "nonfinite", NVFP4, None, "output is outside its error bound"),
    "NaN leaves its row": (nan_everywhere, "nonfinite", MXFP4, MXFP4, "output is NaN where the reference is not"),
    "strides ignored": (ignores_strides, "layouts", NVFP4, None, "a: "),
    "refusal without a reason": (vague_refusal, "layouts", NVFP4, None, "raised RuntimeError: assertion failed"),
    "crash at M = 0": (crashes_without_rows, "shapes", NVFP4, NVFP4, "raised ZeroDivisionError"),
    "alpha in fp16": (alpha_in_fp16, "alpha", NVFP4, NVFP4, "scales of b"),
    "a row alone is lost": (quantizes_the_batch, "rows", NVFP4, NVFP4, "row 0 alone"),
    "operand overwritten": (writes_into_its_operand, "values", NVFP4, NVFP4, "wrote into the memory"),
    "subnormal e4m3 scales": (flushes_subnormal_scales, "certificate", NVFP4_1L, None, "subnormal scales of b"),
    "e8m0 byte 0": (wrong_byte_zero, "certificate", MXFP4, MXFP4, "only in columns [0]"),
    "row i holds row i + 1": (row_above, "certificate", MXFP4, None, "row i holds the result of row i + 1"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BROKEN, ids=lambda name: name.replace(" ", "-"))
def test_a_broken_product_is_caught_by_the_check_meant_for_it_and_named(bug: str) -> None:
    provider, check, fmt, activation, words = BROKEN[bug]
    with pytest.raises(WrongResult) as caught:
        check_gemm(provider, fmt, activation, device="cpu", checks=[check])
    message = str(caught.value)
    assert provider.__name__ in message and f'"{check}"' in message
    assert words in message, message


@pytest.mark.parametrize("bug", ["alpha dropped, both", "K tail ignored", "strides ignored", "NaN lost"])
def test_the_program_of_a_failure_fails_as_it_did(bug: str) -> None:
    provider, check, fmt, activation, _ = BROKEN[bug]
    with pytest.raises(WrongResult) as caught:
        check_gemm(provider, fmt, activation, device="cpu", checks=[check], examples=7)
    first = str(caught.value)
    finding, _, program = first.partition("\nreproduce with:\n")
    assert f"from tests.unit.gemms import {provider.__name__}" in program and "to reproduce" not in finding
    with pytest.raises(WrongResult) as caught:
        exec(textwrap.dedent(program), {})
    assert str(caught.value) == first


def test_the_program_states_what_was_asked_for() -> None:
    def local(a: Operand, b: QTensor, bias: torch.Tensor) -> Thunk:
        return no_alpha(a, b)

    with pytest.raises(WrongResult) as caught:
        check_gemm(local, NVFP4, NVFP4, bias=True, dtypes=[torch.float16], out_dtype=torch.float32, device="cpu",
                   checks=["values"])  # fmt: skip
    program = str(caught.value).partition("reproduce with:\n")[2]
    assert "bias=True, dtypes=[torch.float16], out_dtype=torch.float32, examples=25" in program
    assert "<locals>.local of" in program
    with pytest.raises(WrongResult, match="is not a correct product"):
        exec(textwrap.dedent(program), {"local": local})
    with pytest.raises(WrongResult, match=r"(?s)# provider is .*check_gemm\(provider, "):
        check_gemm(lambda a, b: no_alpha(a, b), NVFP4, device="cpu", checks=["values"])


def test_a_bias_added_after_rounding_is_caught_and_named() -> None:
    with pytest.raises(WrongResult, match="bias was added after rounding"):
        check_gemm(late_bias, NVFP4, NVFP4, bias=True, device="cpu", checks=["certificate"])
    with pytest.raises(WrongResult, match="bias was left out"):
        check_gemm(lambda a, b, bias: right(a, b), NVFP4, bias=True, device="cpu", checks=["certificate"])


def test_results_that_do_not_repeat_are_caught() -> None:
    with pytest.raises(WrongResult, match="gave another result of the same operands"):
        check_gemm(Unsteady(), NVFP4, out_dtype=torch.float32, device="cpu", checks=["repeat"])


@pytest.mark.parametrize("activation", ["plain", "quantized"])
@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda fmt: fmt.name)
def test_the_reference_passes_every_check_of_every_format(fmt: Format, activation: str) -> None:
    check_gemm(right, fmt, fmt if activation == "quantized" else None, device="cpu", examples=4)


@pytest.mark.parametrize("fmt", [NVFP4, MXFP4, INT8_TOKEN], ids=lambda fmt: fmt.name)
def test_the_reference_with_a_bias_passes(fmt: Format) -> None:
    check_gemm(right, fmt, fmt, bias=True, device="cpu")
    check_gemm(right, fmt, bias=True, device="cpu")


@pytest.mark.parametrize("activation", [None, NVFP4], ids=["plain", "quantized"])
def test_torchs_bf16_product_passes(activation: Format | None) -> None:
    check_gemm(torch_bf16, NVFP4, activation, dtypes=[torch.bfloat16], device="cpu")
    check_gemm(torch_bf16, MXFP4, MXFP4 if activation else None, dtypes=[torch.bfloat16], device="cpu")


def test_a_product_that_refuses_strides_clearly_passes() -> None:
    check_gemm(clear_refusal, NVFP4, NVFP4, device="cpu", checks=["layouts"])


@pytest.mark.parametrize(
    "error", [IndexError("strides: beyond"), RuntimeError("CUDA error: misaligned address")]
)
def test_an_access_out_of_bounds_is_no_refusal(error: Exception) -> None:
    def reads_beyond(a: Operand, b: QTensor) -> Thunk:
        if isinstance(a, torch.Tensor) and not a.is_contiguous():
            raise error
        return right(a, b)

    with pytest.raises(WrongResult, match=f"raised {type(error).__name__}"):
        check_gemm(reads_beyond, NVFP4, device="cpu", checks=["layouts"])


def test_a_nan_scale_read_as_infinity_is_caught() -> None:
    """Also where every other product of the element is positive."""

    def infinite(a: Operand, b: QTensor) -> Thunk:
        def run() -> torch.Tensor:
            out = right(a, b)()
            positive = bool((values(a) > 0).all())
            return torch.where(out.isnan(), torch.inf, out) if positive else out

        return run

    with pytest.raises(WrongResult, match="all else positive"):
        check_gemm(infinite, MXFP4, device="cpu", checks=["nonfinite"])


def test_a_product_that_takes_multiples_only_is_checked_on_them() -> None:
    seen: set[tuple[int, int]] = set()

    def aligned(a: Operand, b: QTensor) -> Thunk:
        if b.shape[1] % 128 or b.shape[0] % 16:
            raise qbench.Unsupported("K % 128 or N % 16")
        seen.add((b.shape[0], b.shape[1]))
        return right(a, b)

    check_gemm(aligned, NVFP4, NVFP4, device="cpu", examples=3)
    assert len(seen) > 5
    with pytest.raises(WrongResult, match='"shapes"'):
        check_gemm(lambda a, b: (aligned(a, b), no_alpha(a, b))[1], NVFP4, device="cpu", checks=["shapes"])


def test_refusing_everything_is_not_passing() -> None:
    def refuses(a: Operand, b: QTensor) -> Thunk:
        raise qbench.Unsupported("needs an imaginary GPU")

    with pytest.raises(WrongResult, match="nothing was checked; its last reason: needs an imaginary GPU"):
        check_gemm(refuses, NVFP4, device="cpu")


def test_refusing_all_cases_of_a_check_is_not_passing() -> None:
    def shallow(a: Operand, b: QTensor) -> Thunk:
        if a.shape[1] > 400:
            raise qbench.Unsupported("K > 400")
        return right(a, b)

    check_gemm(shallow, NVFP4, device="cpu", checks=["shapes"])
    with pytest.raises(WrongResult, match='refused every case of the check "repeat"'):
        check_gemm(shallow, NVFP4, device="cpu", checks=["repeat"])


def test_another_dtype_than_promised_is_wrong() -> None:
    with pytest.raises(WrongResult, match=r"torch.float32 .* expected torch.bfloat16"):
        check_gemm(lambda a, b: lambda: reference.matmul(a, b).float(), NVFP4, NVFP4, device="cpu")
    check_gemm(
        lambda a, b: lambda: reference.matmul(a, b).float(),
        NVFP4,
        NVFP4,
        out_dtype=torch.float32,
        device="cpu",
    )
    with pytest.raises(WrongResult, match="returned a NoneType"):
        check_gemm(lambda a, b: lambda: None, NVFP4, NVFP4, device="cpu")


def test_a_coarse_accumulator_is_held_to_its_own_bound_and_has_no_certificate() -> None:
    @qbench.provider("coarse", accumulator="fp8-promoted")
    def coarse(a: Operand, b: QTensor) -> Thunk:
        noise = 2.0**-14 * reference.magnitude(a, b)
        return lambda: (reference.matmul(a, b) + noise).float().to(out_dtype(a))

    check_gemm(coarse, FORMATS["fp8"], FORMATS["fp8"], device="cpu", checks=["values", "shapes", "rows"])
    with pytest.raises(ValueError, match="fp8-promoted keeps 13 bits"):
        check_gemm(coarse, FORMATS["fp8"], FORMATS["fp8"], device="cpu", checks=["certificate"])


def test_global_scales_whose_product_leaves_fp32_are_tried_when_asked_for() -> None:
    def one_alpha(a: Operand, b: QTensor) -> Thunk:
        single = torch.tensor(alpha(a, b), dtype=torch.float32)
        return lambda: (values(a) @ values(b).T * single).to(out_dtype(a))

    check_gemm(one_alpha, NVFP4, NVFP4, device="cpu")
    with pytest.raises(WrongResult, match='"extremes"'):
        check_gemm(one_alpha, NVFP4, NVFP4, device="cpu", checks=["extremes"])
    check_gemm(right, NVFP4, NVFP4, device="cpu", checks=["extremes"])
    with pytest.raises(ValueError, match="global scales on both operands"):
        check_gemm(right, MXFP4, MXFP4, device="cpu", checks=["extremes"])


def test_names_are_checked() -> None:
    with pytest.raises(ValueError, match=f"unknown check 'speed'; known: {', '.join(GEMM_CHECKS)}"):
        check_gemm(right, NVFP4, checks=["speed"])
    with pytest.raises(ValueError, match="pass a list"):
        check_gemm(right, NVFP4, checks="values")
    with pytest.raises(ValueError, match="unknown format 'nvpf4'"):
        check_gemm(right, "nvpf4")


@pytest.mark.parametrize("fmt", [NVFP4, NVFP4_1L, MXFP4, FORMATS["nvfp4_token"]], ids=lambda fmt: fmt.name)
def test_alpha_folded_into_the_operands_in_fp32_is_honest(fmt: Format) -> None:
    """Dequantize, then multiply: what a product by FMA does, and a reader would write first."""

    def folded(a: Operand, b: QTensor) -> Thunk:
        left = a.float() if isinstance(a, torch.Tensor) else a.dequantize(torch.float32)
        return lambda: left @ b.dequantize(torch.float32).T

    check_gemm(folded, fmt, fmt, out_dtype=torch.float32, device="cpu")
    check_gemm(folded, fmt, out_dtype=torch.float32, device="cpu")
