"""The static floor of a launch: no GPU of this kind can do it faster than its slowest resource allows. Advice only.

    memory   bytes / bandwidth
    product  flops / rate of the tensor cores for the operands (of the fp32 lanes where no tensor core is used)
    issue    instructions × warps of the busiest multiprocessor / (4 × clock)

Bytes are those that programs ask for, but no more than the tensors have: operands that several programs read come from
L2 after the first. Instructions in a loop count for each iteration, where their number is known. Programs that leave
multiprocessors idle in the last round count as if they were busy.

What it cannot say: latency, caches, occupancy, bank conflicts, launch overhead, instructions of more than one slot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qbench.aot.gpus import Gpu
from qbench.aot.metrics import Metrics
from qbench.aot.opcodes import operand_bits


@dataclass(frozen=True)
class Floor:
    """Nanoseconds by resource; None where the kernel does not say."""

    gpu: str
    memory_ns: float | None
    product_ns: float | None
    issue_ns: float

    @property
    def ns(self) -> float:
        return max(self.memory_ns or 0.0, self.product_ns or 0.0, self.issue_ns)

    @property
    def bound(self) -> str:
        """The resource that needs the longest: "memory", "product" or "issue"."""
        times = {"issue": self.issue_ns, "product": self.product_ns or 0.0, "memory": self.memory_ns or 0.0}
        return max(times, key=lambda name: times[name])

    @property
    def words(self) -> str:
        """Advice: what bounds it on which GPU, the others beside it."""
        times = {"memory": self.memory_ns, "product": self.product_ns, "issue": self.issue_ns}
        rest = ", ".join(
            f"{name} {ns / 1e3:.1f}" for name, ns in times.items() if name != self.bound and ns is not None
        )
        unknown = [name for name, ns in times.items() if ns is None]
        tail = f"; {' and '.join(unknown)} not known" if unknown else ""
        return f"{self.gpu}: at least {self.ns / 1e3:.1f} µs, bound by {self.bound} ({rest} µs{tail})"


def floor(metrics: Metrics, gpu: Gpu, *, tensor_bytes: int | None = None) -> Floor:
    """The floor of the launch that was compiled. tensor_bytes: of all its tensors, if known."""
    moved = None
    if metrics.bytes_read is not None and metrics.bytes_written is not None:
        moved = (metrics.bytes_read + metrics.bytes_written) * metrics.programs
        if tensor_bytes:
            moved = min(moved, tensor_bytes)
    flops = None if metrics.flops is None else metrics.flops * metrics.programs
    bits = operand_bits(metrics.mma)
    rate = gpu.mma_tflops.get(bits) if bits else gpu.fp32_tflops
    each = metrics.instructions + metrics.looped * ((metrics.iterations or 1) - 1)  # of one warp
    warps = math.ceil(metrics.programs / gpu.multiprocessors) * metrics.warps
    return Floor(
        gpu.name,
        None if moved is None else moved / gpu.bandwidth_gbps,
        None if flops is None or rate is None else flops / rate / 1e3,
        each * max(1.0, warps / 4) / gpu.clock_mhz * 1e3,
    )
