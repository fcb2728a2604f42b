"""Quantizers as a third party would write them, in fp32 torch: a correct one of each kind, and broken ones.

Each broken one has a single bug that kernels of this kind have shipped with.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from qbench import Unsupported
from qkernels.ops.quantize import QuantizeOptions
from qkernels.tensor import QTensor

GRID = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
Rounding = Callable[[Tensor], Tensor]


def to_even(y: Tensor) -> Tensor:
    """E2M1 codes of |y|: nearest, ties to the even code."""
    code = torch.zeros_like(y, dtype=torch.uint8)
    for index, (low, high) in enumerate(itertools.pairwise(GRID)):
        middle = (low + high) / 2
        code += (y.abs() > middle if index % 2 == 0 else y.abs() >= middle).to(torch.uint8)
    return code


def toward_zero(y: Tensor) -> Tensor:
    code = torch.zeros_like(y, dtype=torch.uint8)
    for value in GRID[1:]:
        code += (y.abs() >= value).to(torch.uint8)
    return code


def away_from_zero(y: Tensor) -> Tensor:
    code = torch.zeros_like(y, dtype=torch.uint8)
    for low, high in itertools.pairwise(GRID):
        code += (y.abs() >= (low + high) / 2).to(torch.uint8)
    return code


def packed(y: Tensor, rounding: Rounding = to_even) -> Tensor:
    code = rounding(y) | (torch.signbit(y).to(torch.uint8) << 3)
    return code[..., 0::2] | (code[..., 1::2] << 4)


def mxfp4(x: Tensor, rounding: Rounding = to_even) -> tuple[Tensor, Tensor]:
    """OCP MXFP4, exponent floor(log2 amax) - 2 read off the fp32 bits; blocks with NaN or inf become NaN."""
    blocks = x.float().unflatten(-1, (-1, 32))
    amax = blocks.abs().amax(-1)
    byte = ((amax.view(torch.int32) >> 23) - 2).clamp(min=0)
    y = blocks.double() * torch.exp2(127.0 - byte.double()).unsqueeze(-1)
    bad = ~amax.isfinite()
    y = torch.where(bad.unsqueeze(-1), 0.0, y)
    return packed(y, rounding).flatten(-2), byte.to(torch.uint8).masked_fill(bad, 0xFF)


def nvfp4(x: Tensor, gs: Tensor, rounding: Rounding = to_even) -> tuple[Tensor, Tensor]:
    """NVFP4 under the encode scale gs."""
    blocks = x.float().unflatten(-1, (-1, 16))
    amax = blocks.abs().amax(-1)
    scale = (amax / 6 * gs).clamp(max=448.0).to(torch.float8_e4m3fn)
    y = blocks * gs / scale.float().unsqueeze(-1)  # gs / scale first would overflow
    bad = ~amax.isfinite()
    y = torch.where((scale.float() == 0).unsqueeze(-1) | bad.unsqueeze(-1), 0.0, y)
    return packed(y, rounding).flatten(-2), scale.view(torch.uint8).masked_fill(bad, 0x7F)


def global_scale(x: Tensor) -> Tensor:
    amax = torch.where(x.isfinite(), x, 0).abs().float().amax() if x.numel() else torch.zeros(())
    return torch.where(amax > 0, torch.clamp(2688.0 / amax, max=torch.finfo(torch.float32).max), 1.0)


def shaped(x: Tensor, block: int) -> None:
    if x.dim() != 2:
        raise Unsupported(f"x has {x.dim()} axes, takes [M, K]")
    if x.shape[1] % block:
        raise Unsupported(f"K = {x.shape[1]} is no multiple of {block}")


def right_mxfp4(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    shaped(x, 32)
    return lambda: QTensor(*mxfp4(x), options.format, tuple(x.shape))


def right_nvfp4(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    shaped(x, 16)

    def run() -> QTensor:
        gs = global_scale(x) if options.global_scale is None else options.global_scale
        return QTensor(*nvfp4(x, gs), options.format, tuple(x.shape), gs)

    return run


def only_bf16(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """Correct, of contiguous bf16 whose K is a multiple of 128."""
    if x.dtype != torch.bfloat16:
        raise Unsupported(f"{str(x.dtype)[6:]} is not supported", "bfloat16")
    if not x.is_contiguous():
        raise Unsupported("x is not contiguous", "x.contiguous()")
    if x.shape[-1] % 128:
        raise Unsupported(f"K = {x.shape[-1]} is no multiple of 128")
    return right_mxfp4(x, options)


def refuses_everything(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    raise Unsupported("this library is not built for this machine")


# Broken -----------------------------------------------------------------------------------------------------


def truncates(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    shaped(x, 32)
    return lambda: QTensor(*mxfp4(x, toward_zero), options.format, tuple(x.shape))


def rounds_ties_away(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    shaped(x, 32)
    return lambda: QTensor(*mxfp4(x, away_from_zero), options.format, tuple(x.shape))


def ignores_global_scale(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """Stores it, and quantizes as if it were 1."""
    right = right_nvfp4(x, options)

    def run() -> QTensor:
        q = right()
        return QTensor(*nvfp4(x, torch.ones(())), options.format, tuple(x.shape), q.global_scale)

    return run


def forgets_the_last_row(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """Rows in pairs, as a grid of M // 2 programs does: an odd last row is never written."""
    shaped(x, 32)
    data = torch.empty(len(x), x.shape[1] // 2, dtype=torch.uint8)
    scale = torch.empty(len(x), x.shape[1] // 32, dtype=torch.uint8)

    def run() -> QTensor:
        whole = len(x) // 2 * 2
        data[:whole], scale[:whole] = mxfp4(x[:whole])
        return QTensor(data, scale, options.format, tuple(x.shape))

    return run


def ignores_strides(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """Reads K elements a row, row after row, from the first element on, whatever the strides say."""
    shaped(x, 32)
    flat = torch.as_strided(x, tuple(x.shape), (x.shape[1], 1)) if 0 not in x.shape else x
    return lambda: QTensor(*mxfp4(flat), options.format, tuple(x.shape))


def swaps_nibbles(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    shaped(x, 32)

    def run() -> QTensor:
        data, scale = mxfp4(x)
        return QTensor((data << 4) | (data >> 4), scale, options.format, tuple(x.shape))

    return run


def flips_a_bit_now_and_then(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """A race: the sign of a zero depends on the order in which programs ran."""
    shaped(x, 32)
    calls = iter(range(1 << 30))

    def run() -> QTensor:
        data, scale = mxfp4(x)
        if data.numel() and next(calls) % 2:
            data[-1, -1] ^= 0x10
        return QTensor(data, scale, options.format, tuple(x.shape))

    return run


def depends_on_the_batch(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """Takes another path for one row, which truncates."""
    shaped(x, 32)
    rounding = toward_zero if len(x) == 1 else to_even
    return lambda: QTensor(*mxfp4(x, rounding), options.format, tuple(x.shape))


def drops_a_tail(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """Quantizes whole blocks only and says nothing of the rest."""
    k = x.shape[1] // 32 * 32

    def run() -> QTensor:
        data, scale = mxfp4(x[:, :k])
        data = torch.nn.functional.pad(data, (0, (x.shape[1] - k) // 2))
        return QTensor(data, scale, options.format, tuple(x.shape))

    return run


def writes_into_its_input(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    shaped(x, 32)

    def run() -> QTensor:
        made = QTensor(*mxfp4(x), options.format, tuple(x.shape))
        x.mul_(2)
        return made

    return run


def keeps_nan_out(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """Maps NaN to zero without a word."""
    shaped(x, 32)
    return lambda: QTensor(*mxfp4(x.nan_to_num(0.0)), options.format, tuple(x.shape))


def crashes_on_no_rows(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    shaped(x, 32)
    x[0]
    return right_mxfp4(x, options)
