"""What the launchers share: which inputs are accepted, and how a matrix is cut into tiles.

A tile is `rows` rows by `columns` (a power of two) of K, handled by one program. It depends on the shape
alone, so that one shape always takes the same path and a graph can be replayed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

INPUT_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_ENOUGH_PROGRAMS = 512  # about four for each of 132 SMs; with fewer, smaller tiles fill the GPU better
_LEAST_ELEMENTS = 1024  # of a tile: 16 bytes of fp16 for each of 128 threads
_COLUMNS = (128, 1024)  # few widths, for each is a kernel to compile


@dataclass(frozen=True)
class Tile:
    """`rows` x `columns` elements of one program, and how many programs cover the matrix each way."""

    rows: int
    columns: int
    down: int
    across: int

    @property
    def programs(self) -> int:
        return self.down * self.across


@triton.jit
def tile_of_program(across, REVERSED: tl.constexpr):
    """(down, across) of this program's tile: see second_pass.

    A kernel that reads what another has just read from front to back finds its end in the L2 cache: FP8 of
    8192 x 16384 takes 153 us for 163 (H200).
    """
    if REVERSED:
        program = tl.num_programs(0) - 1 - tl.program_id(0)
        return program // across, program % across
    else:
        return tl.program_id(0), tl.program_id(1)


def second_pass(dynamic: bool, tile: Tile) -> tuple[bool, tuple[int, ...]]:
    """REVERSED and the grid of a kernel that reads x after another (dynamic) or alone: down and across, no division."""
    return dynamic, (tile.programs,) if dynamic else (tile.down, tile.across)


def check_matrix(x: Tensor, *, block: int = 1, hadamard: int | None = None) -> tuple[int, int]:
    """(M, K) of a floating-point x [M, K] with contiguous rows on a device a kernel can run on.

    Raises TypeError for a dtype, ValueError for a shape, stride or device that the kernels do not take.
    """
    if x.dtype not in INPUT_DTYPES:
        raise TypeError(f"cannot quantize {x.dtype}; convert to float16, bfloat16 or float32 first")
    if x.dim() != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}, the kernel takes [M, K]; use x.reshape(-1, K)")
    m, k = x.shape
    if k == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; K must be at least one")
    if k > 1 and x.stride(1) != 1:
        raise ValueError(
            f"x has strides {x.stride()}; elements of a row must be adjacent, use x.contiguous()"
        )
    if k % block:
        padded = triton.cdiv(k, block) * block
        raise ValueError(f"K = {k} is not a multiple of the block {block}; pad K with zeros to {padded}")
    if hadamard is not None and k % hadamard:
        raise ValueError(
            f"K = {k} is not a multiple of the Hadamard size {hadamard}; pad K or take a smaller size"
        )
    if not (x.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f'x is on {x.device}; Triton needs a CUDA tensor, use backend="torch" elsewhere')
    return m, k


def check_hadamard(hadamard: int | None, known: tuple[int, ...]) -> None:
    """ValueError unless the rotation is one that the format defines."""
    if hadamard is not None and hadamard not in known:
        raise ValueError(f"unknown Hadamard size {hadamard}; known: {', '.join(map(str, known))}")


def as_scale(value: Tensor | float, name: str, device: torch.device) -> Tensor:
    """One float32 on `device`, shape [1]. A tensor's value is not looked at: that would wait for the GPU."""
    if isinstance(value, Tensor):
        if value.dtype != torch.float32 or value.numel() != 1:
            remedy = "use .float()" if value.dtype != torch.float32 else "pass one element"
            raise TypeError(
                f"{name} must be one float32 value, got {value.dtype} {list(value.shape)}; {remedy}"
            )
        return value.reshape(1).to(device)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} = {value} is not a finite number > 0")
    return torch.full((1,), value, dtype=torch.float32, device=device)


def choose_tile(m: int, k: int, *, hadamard: int | None = None, elements: int | None = None) -> Tile:
    """A tile of about `elements`, made smaller where the matrix would give too few programs.

    Its columns hold whole blocks and rotations (both at most 128). A rotated tile holds at least 64 rotations:
    tensor cores of sm_90 multiply 64 rows at a time, and fewer would be padded.
    """
    if elements is None:
        elements = 4096 if hadamard is None else 8192
    narrow, wide = _COLUMNS
    columns = min(wide, max(narrow, triton.next_power_of_2(k)))
    least = max(1, (_LEAST_ELEMENTS if hadamard is None else 64 * hadamard) // columns)
    rows = max(least, elements // columns)
    while rows > least and triton.cdiv(m, rows) * triton.cdiv(k, columns) < _ENOUGH_PROGRAMS:
        rows //= 2
    return Tile(rows, columns, triton.cdiv(m, rows), triton.cdiv(k, columns))


def choose_row(k: int) -> tuple[int, int]:
    """(elements of a row held in registers at once, warps) for kernels that give one program one row.

    Up to 16384 elements stay in registers and are read once. Longer rows are read twice, in pieces of 8192:
    16384 would spill, because a piece and its running extremes are alive together.
    """
    if k > 16384:
        return 8192, 16
    length = max(128, triton.next_power_of_2(k))
    return length, max(1, length // 1024)
