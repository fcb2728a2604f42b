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
from qkernels.triton.launch import choose_tile
from qkernels.triton.outputs import Outputs, output

FEW = 1 << 18
"""Elements up to which a thread takes as little as possible: 32 x 8192 do not fill the GPU, and time is latency."""


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

    def turns(self, programs: int | None) -> int:
        """Programs down: one for each tile, or fewer, so that about `programs` in all take tiles in turn."""
        return self.down if programs is None else max(1, min(self.down, programs // self.across))


def cut(
    m: int,
    k: int,
    fmt: Format,
    *,
    elements: int,
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
    across = k // block
    order = "squares" if blocked else "groups" if fmt.block_rows > 1 else "rows"
    if shape is not None:
        rows, blocks, warps = shape
    elif order != "rows":
        rows, blocks = (4, 32) if m * k <= FEW else (elements // block // 16, 16)
        if order == "groups":
            rows = 16
            blocks = elements // block // 16
        blocks = min(blocks, max(4, triton.next_power_of_2(across)))
        warps = max(1, rows * blocks * block // 1024)
    elif m * k <= FEW:
        rows, blocks, warps = 1, 32, 1
    else:
        tile = choose_tile(m, k, elements=elements)
        rows, blocks, warps = tile.rows, tile.columns // block, max(1, tile.rows * tile.columns // 1024)
    down = triton.cdiv(m, 128) * (128 // rows) if blocked else triton.cdiv(m, rows)
    beside = max(4 if blocked else 1, (hadamard or 0) // block)
    return Cut(rows, blocks, warps, order, beside, down, triton.cdiv(across, blocks))


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
