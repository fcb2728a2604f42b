"""A report shows the place, the bytes found and expected, and lines of Python that give the right ones when run."""

from __future__ import annotations

import dataclasses

import torch
from hypothesis import given
from hypothesis import strategies as st

from qkernels.codec import decode_e4m3
from qkernels.compare import compare_quantized
from qkernels.format import (
    NVFP4,
    NVFP4_1L,
    Format,
    get_format,
)
from qkernels.quantize import quantize
from tests.unit.mismatches import normal, report, run, with_scale
from tests.unit.quantizer_samples import every_format, sample, static


def test_the_report_shows_place_value_scale_and_bytes() -> None:
    x = sample()
    q = quantize(x, NVFP4)
    data = q.data.clone()
    data[20, 9] ^= 0x10
    problem = compare_quantized(dataclasses.replace(q, data=data), x, NVFP4)
    assert problem is not None and problem.count == 1
    right, wrong = (bytes(t[20, 8:16].tolist()).hex(" ") for t in (q.data, data))
    scale = int(q.scale[20, 1])
    y = float(x[20, 19].double() * q.global_scale.double() / decode_e4m3(q.scale[20, 1]).double())
    for words in (
        "at row 20, column 19, block 1: found code ",
        f"(byte 0x{int(data[20, 9]):02x}), allowed ",
        f"x = {float(x[20, 19])!r}, x over the stored scale 0x{scale:02x} = {y!r}",
        f"bytes there: found {wrong}, expected {right}",
    ):
        assert words in problem.details
    names, printed = run(problem)
    again = names["q"]
    assert bytes(again.data.flatten().tolist()).hex(" ") == right
    assert f"scale: expected [{scale}] found [{scale}]" in printed
    assert f"data: expected {right} found {wrong}" in printed


def test_two_dimensional_blocks_are_named_by_their_rows_and_reduced_to_one() -> None:
    x, fmt = sample(), get_format("nvfp4_2d")
    q = quantize(x, fmt)
    scale, data = q.scale.clone(), q.data.clone()
    scale[1, 3] += 1
    assert "scale of rows 16..31, block 3" in report(with_scale(q, scale), x, fmt)
    data[20, 9] ^= 1
    problem = compare_quantized(dataclasses.replace(q, data=data), x, fmt)
    assert problem is not None
    again = run(problem)[0]["q"]
    assert int(again.scale) == int(q.scale[1, 1]) and int(again.codes()[0, 2]) == int(q.codes()[20, 18])
    rotated = quantize(x, fmt, hadamard=16)
    problem = compare_quantized(dataclasses.replace(rotated, data=rotated.data ^ 1), x, fmt, hadamard=16)
    assert problem is not None and "too large to print: x[0:16] of this call" in problem.details


def test_a_format_of_ones_own_is_rebuilt_in_full() -> None:
    fmt = dataclasses.replace(NVFP4_1L, name="mine", min_scale=0.5)
    x = sample()
    q = quantize(x, fmt)
    problem = compare_quantized(with_scale(q, q.scale + 1), x, fmt)
    assert problem is not None
    assert run(problem)[0]["q"].format == fmt


@every_format
@given(
    seed=st.integers(0, 2**20),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    data=st.data(),
)
def test_any_corruption_of_any_format_gives_lines_that_give_the_right_bytes(
    fmt: Format, seed: int, dtype: torch.dtype, data: st.DataObject
) -> None:
    """One byte of the codes or the scales is changed; the report's lines make it right again, for any rotation."""
    x = normal(20, 256, seed).to(dtype)
    had = data.draw(st.sampled_from([None, *fmt.hadamard])) if fmt.block_rows == 1 else None
    q = quantize(x, fmt, hadamard=had, **static(fmt))
    row, column = data.draw(st.integers(0, 19)), data.draw(st.integers(0, 255))
    wrong = q
    if data.draw(st.booleans()) or fmt.block is None:
        codes = q.data.view(torch.uint8).clone()
        codes[row, column * codes.shape[1] // 256] ^= data.draw(st.sampled_from([1, 2, 3, 8]))
        wrong = dataclasses.replace(q, data=codes.view(q.data.dtype))
    else:
        scale = q.scale.clone()
        at = row // fmt.block_rows, column // fmt.block
        scale[at] = scale[at] * 4 if fmt.scale == "fp32" else scale[at] - data.draw(st.integers(1, 9))
        wrong = with_scale(q, scale)
    problem = compare_quantized(wrong, x, fmt, hadamard=had, **static(fmt))
    if problem is None:  # an honest neighbour at a tie, or a code under a scale of zero
        return
    again = run(problem)[0]["q"]
    if fmt.block is not None and fmt.block_rows == 1:
        span = max(fmt.block, had or 0)
        c, per = column // span, 2 if fmt.packed else 1
        blocks = slice(c * span // fmt.block, (c + 1) * span // fmt.block)
        assert torch.equal(again.scale[0], q.scale[row, blocks])
        right = q.data.view(torch.uint8)[row, c * span // per : (c + 1) * span // per]
        assert torch.equal(again.data.view(torch.uint8)[0], right)
    elif fmt.block is not None:
        assert float(again.scale) == float(q.scale[row // fmt.block_rows, column // fmt.block])
    else:
        assert again.scale.flatten()[0] == (q.scale[row, 0] if q.scale.ndim == 2 else q.scale[0])
        assert set(again.data.flatten().tolist()) <= set(q.data.flatten().tolist())
