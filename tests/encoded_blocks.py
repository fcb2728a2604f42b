"""Blocks as a product's epilogue encodes them, by a kernel of their own."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qkernels.format import Format
from qkernels.tensor import QTensor
from qkernels.triton.quantized_result import Quantized, rule_of
from qkernels.triton.quantizing_epilogue import encode


@triton.jit
def encode_kernel(
    y_ptr, gs_ptr, words_ptr, bytes_ptr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr, RULE: tl.constexpr
):
    """A tile of blocks, as write_quantized encodes them."""
    block = tl.arange(0, BLOCKS)
    y = tl.load(y_ptr + block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :])
    words, byte, coded = encode(y, tl.load(gs_ptr), RULE)
    words = tl.where(coded[:, None], tl.reshape(words, (BLOCKS, BLOCK // 8)), 0)
    tl.store(words_ptr + block[:, None] * (BLOCK // 8) + tl.arange(0, BLOCK // 8)[None, :], words)
    tl.store(bytes_ptr + block, byte.to(tl.uint8))


def encoded(y: Tensor, fmt: Format, gs: float) -> QTensor:
    """fp32 y [M, N], M*N / block a power of two; gs is the encode scale where the format has one."""
    m, n = y.shape
    assert fmt.block is not None
    scale = torch.tensor(gs if fmt.levels == 2 else 1.0, device=y.device)
    into = Quantized.empty(m, n, fmt, scale if fmt.levels == 2 else None, y.device)
    encode_kernel[(1,)](
        y, scale, into.codes.view(torch.int32), into.scales,
        BLOCKS=m * n // fmt.block, BLOCK=fmt.block, RULE=rule_of(into), enable_fp_fusion=False,
    )  # fmt: skip
    return QTensor(into.codes, into.scales, fmt, (m, n), into.global_scale)
