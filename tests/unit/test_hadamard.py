"""Rotation: inverse, products kept, growth, strides, what bf16 does to it. Entries: tests/oracles, against scipy."""

from __future__ import annotations

import math

import pytest
import torch

from qkernels.format import NVFP4
from qkernels.hadamard import hadamard_matrix, rotate
from qkernels.quantize import quantize

SIZES = [2, 4, 8, 16, 32, 64, 128]


@pytest.mark.parametrize("n", SIZES)
def test_rotate_is_its_own_inverse_and_keeps_products(n: int):
    g = torch.Generator().manual_seed(n)
    a, b = (torch.randn(4, 128, dtype=torch.float64, generator=g) for _ in range(2))
    torch.testing.assert_close(rotate(rotate(a, n, torch.float64), n, torch.float64), a)
    product = rotate(a, n, torch.float64) @ rotate(b, n, torch.float64).T
    torch.testing.assert_close(product, a @ b.T)


@pytest.mark.parametrize("n", SIZES)
def test_one_element_can_grow_by_sqrt_n_and_none_by_more(n: int):
    x = hadamard_matrix(n)  # rows are the worst case: one element takes everything
    assert rotate(x, n).abs().max().item() == pytest.approx(math.sqrt(n), rel=1e-6)


def test_non_contiguous_input_and_zero_rows():
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(1)).T
    assert torch.equal(rotate(x, 32), rotate(x.contiguous(), 32))
    assert rotate(torch.zeros(0, 64), 32).shape == (0, 64)


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match="K = 48 is not a multiple of the Hadamard size 32"):
        rotate(torch.zeros(2, 48), 32)  # 96 elements in all: rows must not mix
    for n in (0, 1, 12):
        with pytest.raises(ValueError, match=f"Hadamard size {n} is not a power of two"):
            hadamard_matrix(n)


@pytest.mark.parametrize(("n", "orthogonal"), [(16, True), (64, True), (32, False), (128, False)])
def test_a_matrix_rounded_to_bf16_is_orthogonal_only_for_even_powers(n: int, orthogonal: bool):
    h = (hadamard_matrix(n, torch.float64) / math.sqrt(n)).bfloat16().double()
    assert torch.equal(h @ h, torch.eye(n, dtype=torch.float64)) is orthogonal


def test_a_larger_rotation_can_be_worse():
    # 16 large constants: n = 16 gathers them into one element of their own block, n = 128 puts it into every block
    x = torch.randn(4, 128, generator=torch.Generator().manual_seed(0))
    x[:, :16] = 100.0
    error = {}
    for n in (16, 128):
        y = rotate(x, n, torch.float64)
        error[n] = (quantize(x, NVFP4, hadamard=n).dequantize(torch.float64) - y).square().mean().item()
    assert error[128] > 2 * error[16]
