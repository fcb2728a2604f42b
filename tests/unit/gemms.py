"""Products of other people: right ones, and one for each bug that users of such kernels have met."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

import qbench
from qkernels import reference
from qkernels.codec import round_to
from qkernels.swizzle import from_blocked
from qkernels.tensor import QTensor

Operand = Tensor | QTensor
Thunk = Callable[[], Tensor]


def out_dtype(a: Operand) -> torch.dtype:
    return a.dtype if isinstance(a, Tensor) else torch.bfloat16


def right(a: Operand, b: QTensor, bias: Tensor | None = None) -> Thunk:
    """The float64 product, rounded once."""
    return lambda: round_to(reference.matmul(a, b, bias), out_dtype(a))


def values(t: Operand) -> Tensor:
    """fp32 without alpha."""
    return t.float() if isinstance(t, Tensor) else t.exact_values(torch.float32)


def alpha(a: Operand, b: QTensor) -> float:
    return float(b.alpha) * (1.0 if isinstance(a, Tensor) else float(a.alpha))


def fp16_sums(a: Operand, b: QTensor) -> Thunk:
    def run() -> Tensor:
        left, right_ = values(a).half(), values(b).half()
        sums = torch.zeros(left.shape[0], right_.shape[0], dtype=torch.float16)
        for k in range(left.shape[1]):
            sums += left[:, k, None] * right_[None, :, k]
        return (sums.float() * alpha(a, b)).to(out_dtype(a))

    return run


def no_alpha(a: Operand, b: QTensor) -> Thunk:
    return lambda: (values(a) @ values(b).T).to(out_dtype(a))


def inverted_alpha(a: Operand, b: QTensor) -> Thunk:
    return lambda: (values(a) @ values(b).T / alpha(a, b)).to(out_dtype(a))


def no_k_tail(a: Operand, b: QTensor) -> Thunk:
    whole = max(64, b.shape[1] // 64 * 64)
    return lambda: (values(a)[:, :whole] @ values(b)[:, :whole].T * alpha(a, b)).to(out_dtype(a))


def no_last_column(a: Operand, b: QTensor) -> Thunk:
    def run() -> Tensor:
        out = torch.empty(a.shape[0], b.shape[0], dtype=out_dtype(a))
        whole = max(8, b.shape[0] // 8 * 8)
        out[:, :whole] = right(a, b)()[:, :whole]
        return out

    return run


def swapped(q: QTensor) -> QTensor:
    return dataclasses.replace(q, data=(q.data >> 4) | (q.data << 4))


def swapped_nibbles(a: Operand, b: QTensor) -> Thunk:
    return right(a, swapped(b))


def swizzled_scales(a: Operand, b: QTensor) -> Thunk:
    """Reads linear scales as blocked ones, wherever their number allows it."""
    rows, columns = b.scale.shape
    if rows % 128 or columns % 4:
        raise qbench.Unsupported("rows % 128 or columns % 4")
    return right(a, dataclasses.replace(b, scale=from_blocked(b.scale.flatten(), rows, columns)))


def truncated(a: Operand, b: QTensor) -> Thunk:
    def run() -> Tensor:
        product = reference.matmul(a, b).float()
        bits = 16 if out_dtype(a) == torch.bfloat16 else 13
        return (product.view(torch.int32) >> bits << bits).view(torch.float32).to(out_dtype(a))

    return run


def half_up(a: Operand, b: QTensor) -> Thunk:
    """Rounds ties of bf16 away from zero."""

    def run() -> Tensor:
        bits = reference.matmul(a, b).float().view(torch.int32)
        return ((bits + 0x8000) >> 16 << 16).view(torch.float32).bfloat16()

    return run


def late_bias(a: Operand, b: QTensor, bias: Tensor) -> Thunk:
    return lambda: right(a, b)() + bias


def nan_to_zero(a: Operand, b: QTensor) -> Thunk:
    return lambda: right(a, b)().nan_to_num(0.0)


def nan_everywhere(a: Operand, b: QTensor) -> Thunk:
    """One row's NaN reaches its neighbour, as it does where a tile's tail is multiplied by zero."""

    def run() -> Tensor:
        out = right(a, b)()
        return torch.where(out.isnan().any(1).roll(1)[:, None], torch.nan, out)

    return run


def ignores_strides(a: Operand, b: QTensor) -> Thunk:
    """Takes the storage for a contiguous matrix from the pointer on."""
    if isinstance(a, Tensor):
        flat = torch.cat([a.as_strided((a.untyped_storage().nbytes() // a.element_size() - a.storage_offset(),), (1,),
                                       a.storage_offset()), a.new_zeros(a.numel())])  # fmt: skip
        a = flat[: a.numel()].view(a.shape)
    return right(a, b)


def vague_refusal(a: Operand, b: QTensor) -> Thunk:
    if isinstance(a, Tensor) and not a.is_contiguous():
        raise RuntimeError("assertion failed")
    return right(a, b)


def clear_refusal(a: Operand, b: QTensor) -> Thunk:
    parts = (a,) if isinstance(a, Tensor) else (a.data, a.scale)
    for t in (*parts, b.data, b.scale):
        if not t.is_contiguous():
            raise ValueError(f"operand has strides {t.stride()}; call .contiguous()")
    return right(a, b)


def crashes_without_rows(a: Operand, b: QTensor) -> Thunk:
    if a.shape[0] == 0:
        raise ZeroDivisionError("division by zero")
    return right(a, b)


def alpha_in_fp16(a: Operand, b: QTensor) -> Thunk:
    scale = float(torch.tensor(alpha(a, b)).half())
    return lambda: (values(a) @ values(b).T * scale).to(out_dtype(a))


class Unsteady:
    """Another order of sums at each call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, a: Operand, b: QTensor) -> Thunk:
        def run() -> Tensor:
            self.calls += 1
            products = values(a)[:, None] * values(b)
            parts = products[..., : 100 * self.calls], products[..., 100 * self.calls :]
            return (parts[0].sum(2) + parts[1].sum(2)) * alpha(a, b)

        return run


def quantizes_the_batch(a: Operand, b: QTensor) -> Thunk:
    """Rows beyond the 16th fall away when there are few: right in every batch that other checks use."""
    if a.shape[0] == 1 and a.shape[1] > 400:
        return lambda: torch.zeros(1, b.shape[0], dtype=out_dtype(a))
    return right(a, b)


def writes_into_its_operand(a: Operand, b: QTensor) -> Thunk:
    def run() -> Tensor:
        out = right(a, b)()
        b.scale.add_(1)
        return out

    return run


def flushes_subnormal_scales(a: Operand, b: QTensor) -> Thunk:
    return right(a, dataclasses.replace(b, scale=torch.where(b.scale < 8, 0, b.scale).to(torch.uint8)))


def wrong_byte_zero(a: Operand, b: QTensor) -> Thunk:
    """2^-127 is a subnormal fp32: building it by shifting the byte into the exponent gives zero."""
    none = (b.scale == 0).repeat_interleave(32, dim=1)
    data = torch.where(none[:, 0::2], 0, b.data).to(torch.uint8)
    return right(a, dataclasses.replace(b, data=data))


def row_above(a: Operand, b: QTensor) -> Thunk:
    return lambda: right(a, b)().roll(-1, 0)
