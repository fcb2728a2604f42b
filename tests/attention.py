"""Attention of one token in float64, and how far rounding may honestly lead from it; operands of every kind."""

from __future__ import annotations

import torch
from torch import Tensor

from qbench import Mismatch, gemm_error, within

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.bfloat16, torch.float16)
MASKS = ("none", "seen", "seen by each", "added", "added for each", "added in fp32")
Rows = tuple[Tensor, Tensor, Tensor]


def rows(
    texts: int = 2, groups: int = 2, shared: int = 3, width: int = 32, places: int = 100,
    dtype: torch.dtype = torch.bfloat16, seed: int = 0,
) -> Rows:  # fmt: skip
    """Query, keys, values; scores have a deviation of 3, so that a text's weights differ by powers of two."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((texts, groups * shared, 1, width), *2 * ((texts, groups, places, width),))
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return (3 * query).to(DEVICE), key.to(DEVICE), value.to(DEVICE)


def mask_of(kind: str, of: Rows, seed: int = 0) -> Tensor | None:
    """Half of the places are seen; the last always, so that no text sees nothing."""
    if kind == "none":
        return None
    query, places = of[0], of[1].shape[2]
    generator = torch.Generator().manual_seed(seed)
    shape = (query.shape[0] if "each" in kind else 1, 1, 1, places)
    seen = torch.rand(shape, generator=generator) < 0.5
    seen[..., -1] = True
    if kind.startswith("seen"):
        return seen.to(DEVICE)
    added = (2 * torch.randn(shape, generator=generator)).masked_fill(~seen, -torch.inf)
    return added.to(torch.float32 if kind.endswith("fp32") else query.dtype).to(DEVICE)


def attention(of: Rows, mask: Tensor | None, scale: float | None) -> tuple[Tensor, Tensor]:
    """In float64 [texts, 1, heads, width], and how far from it a result may lie before it is rounded.

    A score's error is that of its sum in fp32 and of eight operations behind it (by scale * log2 e, which is rounded,
    the mask's own, less the maximum, which moves); exp2 and each of its corrections at a larger maximum add 2^-22 to
    the weight's. All of that is in the sum of weights too. For the second product weights are rounded to 16 bits, in
    fp16 no finer than 2^-24 of the largest, and the product is summed in fp32.
    """
    query, key, value = (each.double() for each in of)
    texts, heads, _, width = query.shape
    groups, places = key.shape[1:3]
    query = query.view(texts, groups, heads // groups, width)
    by = width**-0.5 if scale is None else scale
    score = query @ key.mT * by
    off = gemm_error(score, query.abs() @ key.abs().mT * abs(by), width)
    size = score.abs()
    if mask is not None and mask.dtype == torch.bool:
        score = score.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        score, size = score + mask.double(), size + mask.double().abs()
    unseen = score == -torch.inf
    off = (off + 2.0**-21 * size).masked_fill(unseen, 0.0).amax(-1, keepdim=True)
    y = score.softmax(-1) @ value
    size = score.softmax(-1) @ value.abs()
    error = gemm_error(y, size, places)
    error += size * (2 * torch.expm1(off) + 2 * (places / 16 + 4) * 2.0**-22)
    error += size * torch.finfo(of[0].dtype).eps / 2
    if of[0].dtype == torch.float16:
        error += 2.0**-25 * (~unseen).double() @ value.abs()
    return y.reshape(texts, 1, heads, width), error.reshape(texts, 1, heads, width)


def is_wrong(y: Tensor, of: Rows, mask: Tensor | None, scale: float | None) -> Mismatch | None:
    """What is wrong with a result, or None; a text that sees nothing must be NaN."""
    wanted, error = attention(of, mask, scale)
    assert (y.shape, y.dtype) == (wanted.shape, of[0].dtype)
    return within(y.flatten(0, 2), wanted.flatten(0, 2), error.flatten(0, 2))
