"""The quantizing epilogue: NVFP4 of the fp32 product under a static scale, as the reference quantizer makes it."""

from __future__ import annotations

import pytest
import torch
import triton

from qbench import gemm_error
from qbench.interpreter import repair
from qkernels import reference
from qkernels.compare import compare_quantized
from qkernels.compare.bounds import block_bounds
from qkernels.format import MXFP4, MXFP4_ABS_MAX, NVFP4, NVFP4_1L, Format
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from qkernels.triton.fp4_gemm_quantize import nvfp4_gemm_quantize

if triton.knobs.runtime.interpret:
    repair()

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def normal(m: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def scale_for(y: torch.Tensor) -> torch.Tensor:
    return (448 * 6 / y.abs().amax()).float()


def wrong(out: QTensor, a: torch.Tensor | QTensor, b: QTensor, bias: torch.Tensor | None = None) -> int:
    """How many scales and codes no product within its error bound would give."""
    y = reference.matmul(a, b, bias=bias)
    error = gemm_error(y, reference.magnitude(a, b), a.shape[1])
    room = error.unflatten(1, (-1, 16)).amax(-1)
    bounds = block_bounds(out, y, room, NVFP4, torch.float32)
    return int(bounds.scale_bad.sum()) + int(bounds.code_bad.sum())


@pytest.mark.parametrize("m", [1, 15, 17, 129])
@pytest.mark.parametrize("n", [16, 80])
@pytest.mark.parametrize("fmt", [NVFP4, NVFP4_1L, MXFP4, MXFP4_ABS_MAX], ids=lambda fmt: fmt.name)
def test_scales_and_codes_are_those_of_the_product(fmt: Format, n: int, m: int) -> None:
    b, bias = quantize(normal(n, 96, 1), fmt), normal(1, n, 2)[0]
    for a in (normal(m, 96).bfloat16(), quantize(normal(m, 96), fmt)):
        gs = scale_for(reference.matmul(a, b, bias=bias))
        out = nvfp4_gemm_quantize(a, b, bias=bias, out_global_scale=gs)
        assert out.shape == (m, n)
        assert out.format == NVFP4
        assert torch.equal(out.global_scale, gs)
        assert wrong(out, a, b, bias) == 0


@pytest.mark.parametrize("gs", [0.125, 1.0, 4096.0])
def test_certified_products_are_quantized_as_the_reference_does(gs: float) -> None:
    """Small whole numbers: the product is exact in fp32, so nothing but the quantizer is judged."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-6, 7, (33, 64), generator=generator).half().to(DEVICE)
    data = torch.randint(0, 256, (48, 32), dtype=torch.uint8, generator=generator).to(DEVICE)
    b = QTensor(data, torch.full((48, 4), 0x40, dtype=torch.uint8, device=DEVICE), NVFP4_1L, (48, 64))
    y = reference.matmul(x, b).float()
    out = nvfp4_gemm_quantize(x, b, out_global_scale=torch.tensor(gs, device=DEVICE))
    assert compare_quantized(out, y, NVFP4, global_scale=gs) is None


def test_a_scale_too_large_saturates_and_zeros_stay_zeros() -> None:
    x, b = normal(4, 32).half(), quantize(normal(16, 32, 1), NVFP4)
    x[2] = 0
    out = nvfp4_gemm_quantize(x, b, out_global_scale=torch.tensor(1e9, device=DEVICE))
    values = out.dequantize(torch.float64)
    assert bool((out.scale[[0, 1, 3]] == 0x7E).all())
    assert values.abs().max() <= 448 * 6 / 1e9 * (1 + 1e-6)
    assert bool((values[2] == 0).all())


def test_nan_marks_its_blocks_and_no_others() -> None:
    x, b = normal(4, 32).half(), quantize(normal(48, 32, 1), NVFP4)
    b.scale[20, 0] = 0x7F
    out = nvfp4_gemm_quantize(x, b, out_global_scale=torch.tensor(100.0, device=DEVICE))
    marked = (out.scale & 0x7F) == 0x7F
    assert bool(marked[:, 1].all())
    assert not bool(marked[:, [0, 2]].any())


def test_no_rows_give_an_empty_result() -> None:
    b = quantize(normal(32, 64), MXFP4)
    out = nvfp4_gemm_quantize(normal(1, 64).half()[:0], b, out_global_scale=torch.ones((), device=DEVICE))
    assert out.shape == (0, 32)
    assert out.scale.shape == (0, 2)


def test_planted_errors_are_noticed() -> None:
    a, b = normal(16, 64).half(), quantize(normal(32, 64, 1), NVFP4)
    gs = scale_for(reference.matmul(a, b))
    good = nvfp4_gemm_quantize(a, b, out_global_scale=gs)
    assert wrong(good, a, b) == 0
    swapped = QTensor((good.data >> 4) | (good.data << 4), good.scale, NVFP4, good.shape, gs)
    assert wrong(swapped, a, b) > 0
    unscaled = nvfp4_gemm_quantize(a, b, out_global_scale=gs / 2)
    assert wrong(QTensor(unscaled.data, unscaled.scale, NVFP4, good.shape, gs), a, b) > 0


def test_bad_arguments_name_the_value_and_the_remedy() -> None:
    a, b = normal(4, 32).half(), quantize(normal(24, 32), NVFP4)
    one = torch.ones((), device=DEVICE)
    with pytest.raises(ValueError, match=r"N = 24 .* multiple of 16"):
        nvfp4_gemm_quantize(a, b, out_global_scale=one)
    with pytest.raises(ValueError, match="one float32"):
        nvfp4_gemm_quantize(a, b.rows(0, 16), out_global_scale=one.half())
    with pytest.raises(ValueError, match="out_global_scale is on meta"):
        nvfp4_gemm_quantize(a, b.rows(0, 16), out_global_scale=one.to("meta"))
