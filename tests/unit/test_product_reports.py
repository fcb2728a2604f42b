"""What a wrong product's numbers show is put into words, and lines of Python reproduce one element."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qkernels import reference
from qkernels.format import INT8_ASYM, INT8_TOKEN, MXFP4, NVFP4, get_format
from qkernels.ops.gemm import product_bound
from qkernels.quantize import quantize
from tests.unit.mismatches import judge, normal, pair, product, product_details


def test_rows_or_columns_never_written_are_named() -> None:
    a, b = pair()
    for cut, words in (
        (
            (slice(8, None), slice(None)),
            "only in rows [8], the last of 9: likely a mask or a grid that stops short",
        ),
        ((slice(None), slice(9, None)), "only in columns [9, 10], the last of 11"),
        ((slice(2, 3), slice(None)), "only in rows [2]"),
    ):
        out = product(a, b)
        out[cut] = torch.nan
        problem = judge(out, a, b)
        assert "NaN where the reference is not" in problem.summary and words in problem.details
        out[cut] = 0
        assert words in product_details(out, a, b)


@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_shift_by_one_row_or_column_is_named(axis: int, step: int) -> None:
    a, b = pair()
    name = "column" if axis else "row"
    words = f"{name} i holds the result of {name} i {'+' if step == 1 else '-'} 1: likely a wrong stride or offset"
    assert words in product_details(product(a, b).roll(-step, axis), a, b)


def test_a_transposed_output_is_named() -> None:
    a, b = quantize(normal(12, 64, 1), NVFP4), quantize(normal(12, 64, 2), NVFP4)
    assert "the output is the transposed product" in product_details(product(a, b).T.contiguous(), a, b)


@pytest.mark.parametrize("factor", [0.5, 1 / 9, 3.0, -1.0, 1.05])
def test_a_constant_factor_is_named_with_its_size(factor: float) -> None:
    a, b = pair()
    text = product_details((reference.matmul(a, b) * factor).bfloat16(), a, b)
    line = next(line for line in text.splitlines() if "found/expected is" in line)
    assert "everywhere: likely a wrong alpha or global scale" in line
    assert float(line.split(" is ")[1].split()[0]) == pytest.approx(factor, rel=0.01)


def test_a_factor_of_each_row_or_column_is_named() -> None:
    a, b = pair(INT8_TOKEN)
    rows = torch.arange(2, 11)[:, None].double()
    assert "another one in each row: likely the scales of the rows" in product_details(
        product(a, b) * rows.bfloat16(), a, b
    )
    columns = torch.arange(2, 13).double()
    assert "another one in each column" in product_details(
        (reference.matmul(a, b) * columns).bfloat16(), a, b
    )


def test_a_bias_left_out_that_the_operands_do_not_show_is_named() -> None:
    a, b = pair()
    bias = normal(1, 11, 3)[0] * 8
    problem = product_bound()(product(a, b), (a, b), lambda left, right: reference.matmul(left, right, bias))
    assert problem is not None and "the same down each column: likely a bias" in problem.details


def test_truncation_is_named() -> None:
    a, b = pair()
    bits = product(a, b, dtype=torch.float32).view(torch.int32) & -65536
    assert "too small: likely truncated, not rounded" in product_details(
        bits.view(torch.float32).bfloat16(), a, b
    )


def test_an_overflow_on_the_way_is_named() -> None:
    a, b = normal(9, 64, 1) * 300, quantize(normal(11, 64, 2) * 300, NVFP4)
    out = product(a, b, dtype=torch.float32).half().float()
    assert "infinite where the reference is finite" in judge(out, a, b).details


def test_the_size_of_the_error_is_told_in_bounds() -> None:
    a, b = pair()
    out = product(a, b, dtype=torch.float32)
    error = product_bound().error(reference.matmul(a, b), (a, b))
    out[3, 4] += 50 * float(error[3, 4])
    assert "the largest error is 50 times its bound" in product_details(out, a, b).replace(
        "49.9", "50"
    ).replace("50.1", "50")


@pytest.mark.parametrize("name", ["nvfp4_2d", "fp8_block_2d", "nvfp4_token", "int8_asym"])
def test_rows_of_shared_and_of_own_scales_are_reproduced(name: str) -> None:
    """Row 140 and column 133 lie in the second group of rows."""
    fmt = get_format(name)
    b_fmt = INT8_TOKEN if fmt is INT8_ASYM else fmt
    a, b = quantize(normal(150, 128, 1), fmt), quantize(normal(150, 128, 2), b_fmt)
    out = product(a, b)
    out[140, 133] += 7
    assert "at (140, 133)" in product_details(out, a, b)
    a, b = quantize(normal(150, 1024, 1), fmt), quantize(normal(150, 1024, 2), b_fmt)
    out = product(a, b)
    out[140, 133] += 70
    _, _, code = judge(out, a, b).details.partition("to reproduce:\n")
    names: dict[str, Any] = {"a": a, "b": b}
    exec("\n".join(line.strip() for line in code.splitlines()), names)
    assert float(names["expected"]) == pytest.approx(float(reference.matmul(a, b)[140, 133]), rel=1e-12)


def test_a_later_chunk_is_named_and_reproduced_by_its_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qbench.check._elements_at_once", lambda output: 1)
    x, b = normal(300, 64, 1), quantize(normal(5, 64, 2), MXFP4)
    out = product(x, b, dtype=torch.float32)
    out[290] = 0
    text = product_details(out, x, b)
    assert "at (290, 0)" in text and "only in rows [290]" in text
