"""What the launchers of the FP4 quantizers share: the tensors they write, how a matrix is cut into tiles of blocks, and
whether a launch may begin before the kernel before it has ended."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from qkernels.format import Format
from qkernels.swizzle import blocked_bytes
from qkernels.tensor import ScaleLayout, check_scale_layout
from qkernels.triton.early import early_launches
from qkernels.triton.outputs import Outputs, output

FEW = 1 << 18
"""Elements up to which a thread takes as little as possible: 32 x 8192 do not fill the GPU, and time is latency."""


BESIDE = {16: 8, 32: 4}
"""Blocks of that many elements in a row beside each other, where scales are blocked ("squares" of fp4_parts)."""

SQUARES = {16: (4, 32), 32: (8, 16)}
"""Rows and blocks of a tile where scales are blocked."""

TILES = {(16, False): (1, 256), (16, True): (2, 64), (32, False): (1, 256), (32, True): (1, 128)}
"""(elements of a block, rotated?) -> rows and blocks of a tile whose scales are linear: the quickest of eight on an
H200 (4096 x 8192 and 8192 x 16384). A thread takes 32 elements; one warp a tile, and the launches hold it up: 40 us."""

_ENOUGH_PROGRAMS = 512  # as launch.choose_tile


@dataclass(frozen=True)
class Cut:
    """ROWS x ACROSS blocks of a program of `warps`, in an order of fp4_parts; `down` x `across` programs."""

    rows: int
    blocks: int
    warps: int
    order: str
    beside: int
    down: int
    across: int

    @property
    def constants(self) -> dict[str, object]:
        return {
            "ROWS": self.rows, "ACROSS": self.blocks, "ORDER": self.order, "BESIDE": self.beside,
            "num_warps": self.warps,
        }  # fmt: skip


def cut(
    m: int,
    k: int,
    fmt: Format,
    *,
    blocked: bool = False,
    hadamard: int | None = None,
    halves: bool = False,
    shape: tuple[int, int, int] | None = None,
) -> Cut:
    """How [m, k] is cut for a format. shape: (rows, blocks across, warps) instead of the measured ones.

    Few elements: 16 a thread and a warp a program (16 x 8192: 256 warps, for a thread's instructions are what takes the
    time), which are half a block of MXFP4 (halves: blocks are counted as half blocks).
    """
    block = 16 if halves else fmt.block or 1
    across, few = k // block, m * k <= FEW
    order = "squares" if blocked else "groups" if fmt.block_rows > 1 else "rows"
    most = triton.next_power_of_2(across)
    if shape is not None:
        rows, blocks, warps = shape
    else:
        if order == "squares":
            rows, blocks = (4, 16) if few else SQUARES[block]
            blocks = min(blocks, max(4, most))
        elif order == "groups":
            rows, blocks = 16, min(8, max(4, most))
        elif few:
            rows, blocks = 1, 32
        else:
            rows, blocks = _tile(m, across, block, hadamard or 0)
        warps = max(1, rows * blocks * block // 1024)
    down = triton.cdiv(m, 128) * (128 // rows) if blocked else triton.cdiv(m, rows)
    beside = max(min(BESIDE[block], blocks) if blocked else 1, (hadamard or 0) // block)
    return Cut(rows, blocks, warps, order, beside, down, triton.cdiv(across, blocks))


def _tile(m: int, across: int, block: int, hadamard: int) -> tuple[int, int]:
    """Rows and blocks of TILES, smaller where there would be too few programs; a warp has a block for each lane."""
    rows, blocks = TILES[block, hadamard > 0]
    least = max(32, hadamard // block)
    blocks = min(blocks, max(least, triton.next_power_of_2(across)))
    while rows * blocks > 32 and triton.cdiv(m, rows) * triton.cdiv(across, blocks) < _ENOUGH_PROGRAMS:
        if rows > 1:
            rows //= 2
        elif blocks > least:
            blocks //= 2
        else:
            break
    return rows, blocks


def begins(early: bool, device: torch.device) -> dict[str, object]:
    """Arguments of a launch that may begin while the kernel before it ends, where the GPU can (early.py)."""
    early = early and early_launches(device)
    return {"EARLY": early, "launch_pdl": early}


def written(
    m: int, k: int, fmt: Format, x: Tensor, layout: ScaleLayout, outputs: Outputs | None
) -> tuple[Tensor, Tensor]:
    """uint8 data [M, K/2] and scales of that layout: the caller's, checked, or new ones."""
    check_scale_layout(layout, fmt)
    given = outputs or Outputs()
    shape = fmt.scale_shape((m, k))
    scales = (blocked_bytes(m, shape[-1]),) if layout == "blocked" else shape
    data = output(given.data, "out", (m, k // 2), torch.uint8, x)
    return data, output(given.scale, "scale_out", scales, torch.uint8, x)
