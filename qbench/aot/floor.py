"""The static floor of a launch: no GPU of this kind can do it faster than its slowest resource allows. Advice only.

    memory   bytes / bandwidth
    product  flops / rate of the tensor cores for the operands (of the fp32 lanes where no tensor core is used)
    issue    instructions × warps × programs / (multiprocessors × 4 × clock)

What it cannot say: latency, caches, occupancy, bank conflicts, launch overhead, instructions that take more than one
slot. Bytes are those that programs ask for: operands that several programs read come from L2 after the first, so the
operation's own least number may be given. An instruction in a loop counts once, times `iterations` where that is known.
"""

from __future__ import annotations

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


def floor(
    metrics: Metrics, gpu: Gpu, *, bytes: int | None = None, flops: int | None = None, iterations: float = 1.0
) -> Floor:
    """The floor of the launch that was compiled.

    bytes, flops  of the whole launch, where the operation says them; otherwise what the programs ask for
    iterations    by which the static count of instructions falls short of those executed
    """
    if bytes is None and metrics.bytes_read is not None and metrics.bytes_written is not None:
        bytes = (metrics.bytes_read + metrics.bytes_written) * metrics.programs
    if flops is None and metrics.flops is not None:
        flops = metrics.flops * metrics.programs
    bits = operand_bits(metrics.mma)
    rate = gpu.mma_tflops.get(bits) if bits else gpu.fp32_tflops
    slots = metrics.instructions * iterations * metrics.warps * metrics.programs
    return Floor(
        gpu.name,
        None if bytes is None else bytes / gpu.bandwidth_gbps,
        None if flops is None or rate is None else flops / rate / 1e3,
        slots / gpu.issue_slots_per_ns,
    )
