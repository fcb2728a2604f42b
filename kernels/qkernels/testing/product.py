"""The product under test: preparing and running it, telling a refusal from a failure, and judging what it returns."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qbench import Mismatch, Provider, Unsupported, poisoned_allocations
from qkernels import reference
from qkernels.ops.gemm import product_bound
from qkernels.tensor import QTensor
from qkernels.testing.gemm_kind import GemmCase, Kind, on_a_grid
from qkernels.testing.subject import Failed, Refused, memory


@dataclass(frozen=True)
class Product:
    """provider(a, b) or, with a bias, provider(a, b, bias) -> thunk -> Tensor [M, N], and what it multiplies."""

    provider: Provider
    kind: Kind
    accumulator: str
    device: torch.device

    @property
    def name(self) -> str:
        return str(getattr(self.provider, "__qualname__", repr(self.provider)))

    def thunk(self, case: GemmCase) -> Callable[[], Tensor]:
        """Calls the product of the case's operands on the device; raises Refused or Failed, then and now."""
        operands = tuple(_moved(each, self.device) for each in case.operands)
        held = [memory(t) for each in operands for t in _tensors(each)]
        before = [bytes_.clone() for bytes_ in held]
        inner = self._guarded(lambda: self.provider(*operands), case)

        def call() -> Tensor:
            out = self._guarded(inner, case)
            if not isinstance(out, Tensor):
                raise Failed(
                    Mismatch(f"the provider's thunk returned a {type(out).__name__}, expected a Tensor", 1, 1)
                )
            for now, then in zip(held, before, strict=True):
                if not torch.equal(now, then):
                    changed = int((now != then).sum())
                    raise Failed(
                        Mismatch("the provider wrote into the memory of its operands", changed, len(now))
                    )
            return out.detach()

        return call

    def run(self, case: GemmCase) -> Tensor:
        """Once, with everything that the provider allocates overwritten before it gets it."""
        with poisoned_allocations():
            return self.thunk(case)()

    def judge(self, out: Tensor, case: GemmCase) -> Mismatch | None:
        """Bit equality where every order of sums is exact, the bound of the declared accumulator elsewhere."""
        bound = product_bound(roundings=0, out_dtype=self.kind.output(case.a))
        return bound(out.cpu(), case.operands, reference.matmul, self.accumulator)

    def _guarded(self, function: Callable[[], Any], case: GemmCase) -> Any:
        try:
            return function()
        except Unsupported as refusal:
            raise Refused(str(refusal)) from refusal
        except Exception as error:  # a stranger's code: whatever it raises is the finding
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"  in {frame.name}, {frame.filename}:{frame.lineno}"
            size = case.a.shape[0] * case.b.shape[0]
            raise Failed(
                Mismatch(f"raised {type(error).__name__}: {error}", size, size, where), error
            ) from error


def settle(product: Product) -> Product:
    """With the least multiples of M, N and K that the provider takes; Refused, with its reason, if none."""
    reason = ""
    for rows, columns, step in itertools.product(
        (1, 16, 128), (1, 8, 16, 64, 128), (1, 32, 64, 128, 256, 512)
    ):
        kind = replace(product.kind, rows=rows, columns=columns, step=step)
        tried = replace(product, kind=kind)
        for index in range(len(kind.dtypes)):
            a, b = on_a_grid(kind, 1, 1, 1, index)
            try:
                tried.run(kind.case("smallest", a, b))
            except Refused as refusal:
                reason = str(refusal)
                continue
            except Failed:
                pass  # taken, and wrong: a check will say how
            return tried
    raise Refused(reason)


def _tensors(operand: Tensor | QTensor) -> Iterator[Tensor]:
    if isinstance(operand, Tensor):
        yield operand
        return
    for each in (operand.data, operand.scale, operand.global_scale, operand.zero_point):
        if each is not None:
            yield each


def _moved(operand: Tensor | QTensor, device: torch.device) -> Tensor | QTensor:
    """A copy on the device that lies in its storage as the operand in its own."""
    if isinstance(operand, Tensor):
        return _moved_tensor(operand, device)
    return replace(
        operand,
        data=_moved_tensor(operand.data, device),
        scale=_moved_tensor(operand.scale, device),
        global_scale=None if operand.global_scale is None else _moved_tensor(operand.global_scale, device),
        zero_point=None if operand.zero_point is None else _moved_tensor(operand.zero_point, device),
    )


def _moved_tensor(t: Tensor, device: torch.device) -> Tensor:
    storage = memory(t).to(device, copy=True)
    return storage.view(t.dtype).as_strided(t.shape, t.stride(), t.storage_offset())
