"""Where the quantized result of a product goes, as launchers hand it to kernels (quantizing_epilogue).

Imports no Triton: `qkernels.prepared` asks here which formats there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qkernels.format import (
    MXFP4,
    MXFP4_ABS_MAX,
    MXFP4_CEIL,
    MXFP4_EVEN,
    MXFP4_RCEIL,
    NVFP4,
    NVFP4_1L,
    Format,
)

TAKES = (NVFP4, NVFP4_1L, MXFP4, MXFP4_CEIL, MXFP4_EVEN, MXFP4_RCEIL, MXFP4_ABS_MAX)
"""The formats of a result. quest's scale follows from sums, whose order would be another one here."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """Where a quantized result goes: codes uint8 [M, N/2], scales uint8 [M, N/block], and how it is made.

    global_scale: one float32 on the device, read there, or None for 1 or for none. The format is one of TAKES.
    """

    codes: Tensor
    scales: Tensor
    global_scale: Tensor | None
    format: Format

    @classmethod
    def empty(
        cls, m: int, n: int, fmt: Format, global_scale: Tensor | None, device: torch.device
    ) -> Quantized:
        assert fmt.block is not None
        codes = torch.empty(m, n // 2, dtype=torch.uint8, device=device)
        scales = torch.empty(m, n // fmt.block, dtype=torch.uint8, device=device)
        return cls(codes, scales, global_scale, fmt)


def written_to(into: Quantized) -> tuple[Tensor, Tensor, Tensor | None]:
    """codes_ptr, scales_ptr and gs_ptr of a kernel."""
    return into.codes.view(torch.int32), into.scales, into.global_scale


def rule_of(into: Quantized | None) -> str:
    """RULE of a kernel."""
    if into is None:
        return ""
    return "nvfp4" if into.format.scale == "e4m3" else into.format.rule
