"""Hadamard against scipy, sizes 2 to 256: the matrix entry by entry, the rotation against a float64 matmul."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from qkernels.hadamard import hadamard_matrix, rotate

SIZES = [2, 4, 8, 16, 32, 64, 128, 256]
every_size = pytest.mark.parametrize("n", SIZES)


def expected(x: Tensor, n: int) -> Tensor:
    """float64 (x @ H)/sqrt(n) per n elements of the last axis, H from scipy."""
    blocks = x.double().numpy().reshape(*x.shape[:-1], -1, n)
    product = blocks @ scipy.linalg.hadamard(n, dtype=np.float64) / math.sqrt(n)
    return torch.from_numpy(product.reshape(x.shape))


@every_size
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_matrix_is_scipys(n: int, dtype: torch.dtype):
    h = hadamard_matrix(n, dtype)
    assert h.dtype == dtype
    assert np.array_equal(h.double().numpy(), scipy.linalg.hadamard(n))


@every_size
def test_rotate_of_small_integers_is_the_matmul_bit_for_bit(n: int):
    """All sums are exact, only the last division rounds: any order of the additions must give the same bits."""
    x = torch.randint(-8, 9, (3, 2, 2 * n), generator=torch.Generator().manual_seed(n)).float()
    wide = expected(x, n)
    assert torch.equal(rotate(x, n, torch.float64), wide)
    assert torch.equal(rotate(x.to(torch.bfloat16), n, torch.float64), wide)
    torch.testing.assert_close(rotate(x, n), wide.float(), rtol=2.0**-23, atol=0)


@every_size
@pytest.mark.parametrize(("dtype", "unit"), [(torch.float64, 2.0**-53), (torch.float32, 2.0**-24)])
def test_rotate_keeps_the_error_bound_of_log2_n_additions(n: int, dtype: torch.dtype, unit: float):
    """Each of log2(n) stages rounds once, then sqrt(n) and the division, in units of sum|x|/sqrt(n)."""
    g = torch.Generator().manual_seed(n)
    x = torch.randn(64, 256, generator=g) * torch.exp2(torch.randint(-12, 13, (64, 256), generator=g).float())
    error = (rotate(x, n, dtype).double() - expected(x, n)).abs().unflatten(-1, (-1, n))
    total = x.double().abs().unflatten(-1, (-1, n)).sum(-1, keepdim=True) / math.sqrt(n)
    own = 8 * 2.0**-53 * n  # of the float64 matmul this is compared with
    assert (error <= ((math.log2(n) + 2) * unit + own) * total).all()


@every_size
def test_rotating_a_unit_vector_gives_a_row_of_the_matrix(n: int):
    rows = rotate(torch.eye(n), n, torch.float64) * math.sqrt(n)
    assert np.array_equal(rows.round().numpy(), scipy.linalg.hadamard(n))
    torch.testing.assert_close(rows, rows.round(), rtol=2.0**-51, atol=0)
