"""Formats are data: sizes, bytes and names follow from the fields; QTensor refuses what does not fit them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from qkernels.codec import decode_e4m3
from qkernels.format import (
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E5M2,
    FORMATS,
    FP8_BLOCK,
    FP8_BLOCK_2D,
    FP8_TOKEN,
    INT4_ASYM,
    INT8,
    INT8_ASYM,
    MXFP4,
    MXFP4_ABS_MAX,
    MXFP6_E2M3,
    NVFP4,
    NVFP4_2D,
    NVFP4_TOKEN,
    S4,
    U4,
    Format,
    get_format,
)
from qkernels.quantize import quantize
from qkernels.tensor import DATA_DTYPE, QTensor


def static(fmt: Format) -> dict[str, float]:
    return {"scale": 0.03} if fmt is INT8 else {}


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(6, 256, generator=torch.Generator().manual_seed(0))


def test_names_are_unique_and_an_unknown_one_lists_the_known():
    assert all(get_format(name).name == name for name in FORMATS)
    with pytest.raises(
        ValueError, match=r"unknown format 'nvpf4' \(did you mean 'nvfp4'\?\); known: nvfp4, .*int8_asym"
    ):
        get_format("nvpf4")


def test_memory_follows_from_the_block_not_from_the_rotation():
    assert MXFP4.bits_per_element(8192) == 4.25
    assert 1 - MXFP4.nbytes((4096, 4096)) / (2 * 4096**2) == pytest.approx(0.734, abs=1e-3)
    assert NVFP4.bits_per_element(8192) == 4.5
    assert INT8_ASYM.bits_per_element(64) == 9.0
    assert NVFP4_2D.bits_per_element(8192) == 4 + 8 / 256
    assert FP8_BLOCK_2D.nbytes((129, 256)) == 129 * 256 + 4 * 2 * 2
    assert NVFP4_TOKEN.bits_per_element(4096) == 4.5 + 32 / 4096
    assert MXFP6_E2M3.nbytes((4, 64)) == 4 * 64 * 6 // 8 + 4 * 2
    assert INT4_ASYM.bits_per_element(4096) == 4 + 64 / 128


def test_elements_state_their_range():
    assert [(e.name, e.emax, e.emin) for e in (E2M1, E2M3, E3M2, E4M3, E5M2)] == [
        ("e2m1", 2, 0), ("e2m3", 2, 0), ("e3m2", 4, -2), ("e4m3", 8, -6), ("e5m2", 15, -14)]  # fmt: skip
    assert (
        not E2M1.integer and S4.integer and (S4.least, S4.greatest, U4.least, U4.greatest) == (-8, 7, 0, 15)
    )


@pytest.mark.parametrize(
    ("shape", "fmt", "scales"),
    [
        ((17, 32), NVFP4_2D, (2, 2)),
        ((3, 32, 32), NVFP4_2D, (3, 2, 2)),
        ((32,), NVFP4_2D, (2,)),
        ((0, 256), FP8_BLOCK_2D, (0, 2)),
        ((5, 256), INT4_ASYM, (5, 2)),
        ((5, 256), INT8_ASYM, (5, 1)),
        ((5, 256), INT8, (1,)),
    ],
)
def test_shapes_of_scales(shape: tuple[int, ...], fmt: Format, scales: tuple[int, ...]):
    assert fmt.scale_shape(shape) == scales


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda f: f.name)
def test_nbytes_is_what_a_tensor_of_the_format_holds(fmt: Format, x: torch.Tensor):
    q = quantize(x, fmt, **static(fmt))
    assert q.nbytes == fmt.nbytes(x.shape)
    assert all(n % (fmt.block or 1) == 0 for n in fmt.hadamard)
    assert q.data.dtype == DATA_DTYPE[fmt.element.name]


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda f: f.name)
def test_value_is_exact_value_times_alpha(fmt: Format, x: torch.Tensor):
    q = quantize(x, fmt, **static(fmt))
    torch.testing.assert_close(q.exact_values() * q.alpha, q.dequantize(torch.float64), rtol=1e-15, atol=0)
    if fmt.element is E2M1 and fmt.global_granularity == "tensor":
        assert torch.equal(q.exact_values(torch.bfloat16).double(), q.exact_values())
    error = (q.dequantize() - x).norm() / x.norm()
    assert error < 0.2


def test_global_scale_is_an_encode_scale(x: torch.Tensor):
    q = quantize(x, NVFP4)
    assert q.global_scale is not None
    assert q.global_scale.item() == pytest.approx(448 * 6 / x.abs().max().item(), rel=1e-6)
    assert q.alpha.item() == 1 / q.global_scale.double().item()
    assert torch.equal(q.scale_values(), decode_e4m3(q.scale).double())


def test_abs_max_scales_hold_a_third(x: torch.Tensor):
    q = quantize(x, MXFP4_ABS_MAX)
    assert q.alpha.item() == 1 / 3
    assert torch.equal(q.scale_values() * 3, torch.exp2(q.scale.double() - 127))


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda f: f.name)
def test_rows_cut_data_and_scales_alike(fmt: Format):
    group = fmt.block_rows
    x = torch.randn(2 * group + 5, 256, generator=torch.Generator().manual_seed(0))
    q = quantize(x, fmt, **static(fmt))
    for start, stop in ((0, group), (group, 2 * group + 3), (2 * group, 2 * group + 99), (0, 1)):
        part = q.rows(start, stop)
        assert torch.equal(part.dequantize(), q.dequantize()[start:stop])
        assert part.nbytes == fmt.nbytes(part.shape)
    assert q.rows(8 * group, 9 * group).shape == (0, 256)
    assert torch.equal(q.to("cpu").dequantize(), q.dequantize())


@pytest.mark.parametrize("fmt", [NVFP4_2D, FP8_BLOCK_2D], ids=lambda f: f.name)
def test_rows_may_not_start_within_a_group_that_shares_scales(fmt: Format):
    q = quantize(torch.ones(300, 128), fmt)
    start = fmt.block_rows + 3
    with pytest.raises(ValueError, match=rf"row {start} lies within a group .* start at {fmt.block_rows}"):
        q.rows(start, 300)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"block_rows": 16, "global_granularity": "row"}, "rows share scales only in blocks"),
        ({"scale": "e8m0", "rule": "floor", "select": "mse", "levels": 1}, "four-over-six chooses"),
        ({"scale": "e8m0", "rule": "quest", "element": E4M3, "levels": 1}, "rules are for E2M1"),
        ({"scale": "e8m0", "rule": "floor"}, "a global scale belongs to e4m3"),
        ({"rule": "floor"}, "need an MX rule"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields: dict[str, object], words: str):
    with pytest.raises(ValueError, match=f"format nvfp4: .*{words}"):
        dataclasses.replace(NVFP4, **fields)


def test_rows_of_a_3d_tensor_are_refused():
    with pytest.raises(ValueError, match="2-D"):
        quantize(torch.ones(2, 3, 32), MXFP4).rows(0, 1)


def test_dequantize_rounds_once_from_float64():
    # alpha = 1/3: the value 4/3 rounded to bf16 directly
    q = quantize(torch.full((1, 32), 4 / 3), MXFP4_ABS_MAX)
    assert q.dequantize(torch.bfloat16)[0, 0].item() == torch.tensor(4 / 3).bfloat16().item()


def test_a_qtensor_refuses_shapes_and_dtypes_that_contradict_its_format(x: torch.Tensor):
    q = quantize(x, NVFP4)
    with pytest.raises(ValueError, match="K counted in elements"):
        dataclasses.replace(q, shape=(6, 128))
    with pytest.raises(ValueError, match="uint8"):
        dataclasses.replace(q, scale=q.scale.view(torch.float8_e4m3fn))
    with pytest.raises(ValueError, match="global_scale must be given"):
        dataclasses.replace(q, global_scale=None)
    with pytest.raises(ValueError, match=r"one global scale a row, \[6, 1\]; got \[\]"):
        dataclasses.replace(q, format=NVFP4_TOKEN)
    with pytest.raises(ValueError, match=r"nvfp4_2d scales must be uint8 \[1, 16\]"):
        dataclasses.replace(q, format=NVFP4_2D)
    with pytest.raises(ValueError, match=r"fp8_block scales must be float32 \[6, 2\]"):
        dataclasses.replace(quantize(x, FP8_BLOCK), scale=torch.ones(6, 1))
    asym = quantize(x, INT4_ASYM)
    assert asym.zero_point is not None
    with pytest.raises(ValueError, match=r"zero points must be \[6, 2\]"):
        dataclasses.replace(asym, zero_point=asym.zero_point[:, :1])
    with pytest.raises(ValueError, match="must not be given"):
        QTensor(
            torch.zeros(1, 16, dtype=torch.uint8),
            torch.zeros(1, 1, dtype=torch.uint8),
            MXFP4,
            (1, 32),
            torch.ones(()),
        )


def test_quantize_names_the_value_and_the_remedy():
    x = torch.ones(2, 96)
    with pytest.raises(TypeError, match=r"int32.*convert to"):
        quantize(x.int(), NVFP4)
    with pytest.raises(ValueError, match=r"K = 90 .* block 16; pad K with zeros to 96"):
        quantize(x[:, :90], NVFP4)
    with pytest.raises(ValueError, match=r"K = 96 .* Hadamard size 64"):
        quantize(x, MXFP4, hadamard=64)
    with pytest.raises(ValueError, match=r"no Hadamard size 16; known: 32, 64, 128"):
        quantize(x, MXFP4, hadamard=16)
    with pytest.raises(ValueError, match="at least one element"):
        quantize(x[:, :0], MXFP4)
    with pytest.raises(ValueError, match="takes no global_scale"):
        quantize(x, MXFP4, global_scale=1.0)
    with pytest.raises(ValueError, match="block scales"):
        quantize(x, MXFP4, scale=1.0)
    with pytest.raises(
        ValueError, match="fp8_row: scales per row or tensor are defined for e4m3 and int8, not e5m2"
    ):
        quantize(x, Format("fp8_row", E5M2, "row"))
    with pytest.raises(ValueError, match="int8 is static"):
        quantize(x, INT8)
    with pytest.raises(ValueError, match="use fp8 for a static scale"):
        quantize(x, FP8_TOKEN, scale=1.0)
    with pytest.raises(ValueError, match="together"):
        quantize(x, INT8_ASYM, scale=1.0)
    with pytest.raises(ValueError, match="use int8_asym"):
        quantize(x, INT8, scale=1.0, zero_point=1)
    for bad in (-1.0, 0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite number > 0"):
            quantize(x, NVFP4, global_scale=bad)
    with pytest.raises(TypeError, match=r"one float32 value, got torch.bfloat16"):
        quantize(x, NVFP4, global_scale=torch.ones((), dtype=torch.bfloat16))
