"""The quantizer under test with its options: running it, and telling a refusal from a failure."""

from __future__ import annotations

import math
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qbench import Mismatch, Provider, Unsupported, poisoned_allocations
from qkernels.format import Format
from qkernels.ops.quantize import QuantizeOptions
from qkernels.tensor import QTensor
from qkernels.testing.inputs import drawn

_REASONS = (
    "contiguous",
    "stride",
    "adjacent",
    "align",
    "layout",
    "transpose",
    "shape",
    "dim",
    "[m, k]",
    "2-d",
)
"""A refusal of a layout must speak of one of these."""

_REFUSALS = (ValueError, TypeError, RuntimeError, NotImplementedError, AssertionError)
"""What a refusal may be raised as. An IndexError is none: the interpreter raises it for an access out of bounds."""


class Refused(Exception):
    """The provider does not take this input, and said so."""


class Failed(Exception):
    """The provider raised or returned what is no quantized tensor."""

    def __init__(self, mismatch: Mismatch, error: Exception | None = None) -> None:
        super().__init__(mismatch.summary)
        self.mismatch, self.error = mismatch, error

    @property
    def clear(self) -> bool:
        """An error that a caller can act on: it names what is wrong with the layout or the shape."""
        return self.refusal and any(word in str(self.error).lower() for word in _REASONS)

    @property
    def refusal(self) -> bool:
        """An error by which input is refused, and no sign of a broken kernel. One of the device is such a sign, though
        it is a RuntimeError and may speak of alignment."""
        return isinstance(self.error, _REFUSALS) and "CUDA error" not in str(self.error)


@dataclass(frozen=True)
class Subject:
    """provider(x, QuantizeOptions) -> thunk -> QTensor, and how it is asked to quantize.

    rows, step  least numbers of rows and of columns of which the provider takes multiples (see `settle`)
    """

    provider: Provider
    format: Format
    hadamard: int | None
    global_scale: Tensor | None
    scale: Tensor | None
    zero_point: Tensor | None
    device: torch.device
    rows: int = 1
    step: int = 1

    @property
    def name(self) -> str:
        return str(getattr(self.provider, "__qualname__", repr(self.provider)))

    def named(self, x: Tensor) -> dict[str, Any]:
        """The options for x by name, as `quantize` and `compare_quantized` take them."""
        gs = self.global_scale
        if gs is not None and self.format.global_granularity == "row" and gs.dim() == 0:
            gs = gs.repeat(*x.shape[:-1], 1)
        return {
            "hadamard": self.hadamard,
            "global_scale": gs,
            "scale": self.scale,
            "zero_point": self.zero_point,
        }

    @property
    def tensor_scaled(self) -> bool:
        """A scale that the whole tensor shares is computed, so that every row depends on all others."""
        if self.format.levels == 2 and self.global_scale is None:
            return self.format.global_granularity == "tensor"
        return self.format.granularity == "tensor" and self.scale is None

    def to(self, device: str) -> Subject:
        """The same with its options on that device."""
        gs, scale, zero = (
            None if value is None else value.to(device)
            for value in (self.global_scale, self.scale, self.zero_point)
        )
        place = torch.device(device)
        return replace(self, device=place, global_scale=gs, scale=scale, zero_point=zero)

    def width(self, k: int) -> int:
        """The least number of columns from k on that the provider takes."""
        return -(-k // self.step) * self.step

    def height(self, m: int) -> int:
        """The least number of rows from m on that the provider takes."""
        return -(-m // self.rows) * self.rows

    def with_global_scale(self, global_scale: Tensor | None) -> Subject:
        return self if self.global_scale is not None else replace(self, global_scale=global_scale)

    def thunk(self, x: Tensor) -> Any:
        """What the provider returns for x; raises Refused or Failed."""
        return self._guarded(lambda: self.provider(x, QuantizeOptions(self.format, **self.named(x))), x)

    def call(self, thunk: Any, x: Tensor) -> QTensor:
        """One call of a thunk for x; raises Refused, or Failed, also if the provider wrote into x's memory."""
        before = memory(x).clone()
        q = self._guarded(thunk, x)
        if not isinstance(q, QTensor):
            found = f"the provider's thunk returned a {type(q).__name__}, expected a QTensor"
            raise Failed(Mismatch(found, x.numel(), x.numel()))
        if words := _misshapen(q):
            raise Failed(Mismatch(words, x.numel(), x.numel()))
        changed = int((memory(x) != before).sum())
        if changed:
            raise Failed(Mismatch("the provider wrote into the memory of its input", changed, before.numel()))
        return q

    def run(self, x: Tensor, *, poisoned: bool = False) -> QTensor:
        """Quantize x once; poisoned: with everything that the provider allocates overwritten before it gets it."""
        if not poisoned:
            return self.call(self.thunk(x), x)
        with poisoned_allocations():
            return self.call(self.thunk(x), x)

    def _guarded(self, function: Any, x: Tensor) -> Any:
        try:
            return function()
        except Unsupported as refusal:
            raise Refused(str(refusal)) from refusal
        except Exception as error:  # a stranger's code: whatever it raises is the finding
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"  in {frame.name}, {frame.filename}:{frame.lineno}"
            found = Mismatch(f"raised {type(error).__name__}: {error}", x.numel(), x.numel(), where)
            raise Failed(found, error) from error


def _misshapen(q: QTensor) -> str:
    """What a QTensor does not check itself: scales by row or tensor, and the global scale's type; "" if all is well."""
    if q.format.block is None:
        row = (*q.shape[:-1], 1)
        wanted = (row, (1,)) if q.format.granularity == "row" else ((1,), ())
        for name, tensor in (("scale", q.scale), ("zero point", q.zero_point)):
            if tensor is not None and tuple(tensor.shape) not in wanted:
                return f"{name} of {q.format.name} has shape {list(tensor.shape)}, expected {list(wanted[0])}"
    if q.global_scale is not None and q.global_scale.dtype != torch.float32:
        return f"global scale is {q.global_scale.dtype}, expected torch.float32"
    return ""


def memory(x: Tensor) -> Tensor:
    """Every byte of the storage x lies in, uint8."""
    return torch.empty(0, dtype=torch.uint8, device=x.device).set_(x.untyped_storage())


def needs_scale(fmt: Format) -> bool:
    return fmt.element.integer and fmt.granularity == "tensor"


def settle(subject: Subject, dtypes: Sequence[torch.dtype]) -> tuple[Subject, tuple[torch.dtype, ...]]:
    """The subject with the least multiples of rows and columns that it takes, and the dtypes it takes.

    A provider may refuse K that is no multiple of 256, or M below 16; its checks then run on what it takes.
    Refused, with its last reason, if it takes nothing.
    """
    block = subject.format.block or 1
    unit = math.lcm(block, subject.hadamard or 1)
    reason = ""
    for rows in (1, 16, 128):
        for times in (1, 2, 4, 8, 16, 32, 64):
            settled = replace(subject, rows=rows, step=unit * times)
            taken = []
            for dtype in dtypes:
                try:
                    settled.run(drawn("normal", rows, settled.step, dtype=dtype).to(subject.device))
                except Refused as refusal:
                    reason = str(refusal)
                    continue
                except Failed:
                    pass  # taken, and wrong: a check will say how
                taken.append(dtype)
            if taken:
                return settled, tuple(taken)
    raise Refused(reason)
