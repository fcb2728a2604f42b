"""Where bytes lie: the scale swizzle by its formula; the Hadamard rotation by scipy."""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
import torch

from qkernels import from_blocked, hadamard_matrix, rotate, to_blocked

SHAPES = ((1, 1), (3, 5), (31, 4), (32, 8), (33, 7), (127, 6), (128, 4), (129, 9), (257, 13))


def swizzle() -> None:
    """offset(r, c) for every element, zeros elsewhere, and an inverse that sees no padding."""
    for rows, columns in SHAPES:
        scale = (torch.arange(rows * columns) % 255 + 1).to(torch.uint8).reshape(rows, columns)
        r, c = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
        wide = -(-columns // 4)
        offset = ((r // 128) * wide + c // 4) * 512 + (r % 32) * 16 + ((r % 128) // 32) * 4 + c % 4
        wanted = np.zeros(-(-rows // 128) * wide * 512, dtype=np.uint8)
        wanted[offset] = scale.numpy()
        flat = to_blocked(scale)
        assert flat.numel() == len(wanted), f"{rows}x{columns}: {flat.numel()} bytes, expected {len(wanted)}"
        assert np.array_equal(flat.numpy(), wanted), (
            f"{rows}x{columns}: bytes lie elsewhere, or padding is not 0"
        )
        wanted[:] = 0xFF  # the padding: NaN in either scale type
        wanted[offset] = scale.numpy()
        back = from_blocked(torch.from_numpy(wanted), rows, columns)
        assert torch.equal(back, scale), f"{rows}x{columns}: from_blocked does not undo to_blocked"
    try:
        from_blocked(torch.zeros(512, dtype=torch.uint8), 129, 4)
    except ValueError:
        return
    raise AssertionError("from_blocked took 512 bytes for 129 rows, which take 1024")


def hadamard() -> None:
    """Matrix and rotation of each size, in float64 and fp32; blocks of one row never reach the next."""
    generator = torch.Generator().manual_seed(3)
    for n in (2, 16, 32, 64, 128):
        matrix = scipy.linalg.hadamard(n).astype(np.float64)
        assert np.array_equal(hadamard_matrix(n).numpy(), matrix), f"H of size {n} is not Sylvester's"
        x = torch.randn(3, 3 * n, generator=generator, dtype=torch.float64)
        x[1] *= 1e9
        wanted = (x.numpy().reshape(3, 3, n) @ matrix / math.sqrt(n)).reshape(3, 3 * n)
        for dtype, unit in ((torch.float64, 1e-15), (torch.float32, 1e-7), (torch.bfloat16, 2.0**-8)):
            given = x.to(dtype)
            near = wanted if dtype != torch.bfloat16 else _rotated(given, matrix, n)
            size = np.abs(x.numpy()).reshape(3, 3, n).sum(-1).repeat(n, axis=-1).reshape(3, 3 * n)
            error = np.abs(rotate(given, n, dtype).double().numpy() - near)
            bad = error > unit * (size if dtype != torch.bfloat16 else np.abs(near) + 1e-30)
            assert not bad.any(), f"rotation by {n} in {dtype}: off by {error[bad].max():.3g}"
        grid = torch.randint(-8, 9, (2, 2 * n), generator=generator).float()
        exact = _rotated(grid, matrix, n)
        found = rotate(grid, n).double().numpy()
        assert (np.abs(found - exact) <= 2.0**-23 * np.abs(exact)).all(), (
            f"rotation by {n}: 1/sqrt(n) in fewer bits"
        )
    for k in (
        24,
        40,
    ):  # 3 rows of 24 are 72 elements, and 4 of 40 are 160: multiples of 8 and 32, K is not of 16
        try:
            rotate(torch.zeros(4, k), 16 if k == 24 else 32)
        except ValueError:
            continue
        raise AssertionError(f"a rotation of rows of {k} across their ends was not refused")


def _rotated(x: torch.Tensor, matrix: np.ndarray, n: int) -> np.ndarray:
    wide = x.double().numpy()
    return (wide.reshape(len(wide), -1, n) @ matrix / math.sqrt(n)).reshape(wide.shape)
