"""This machine's own ceilings, measured once per run: copy bandwidth and the bf16 matrix rate.

Percentages are of these, not of a datasheet: a card behind a power cap or in a virtual machine has its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from qbench.result import Ceilings
from qbench.timing import CudaTimer, Plan, TimingPolicy, time_wall

_COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}
_MATMUL_SIZE = {"cuda": 8192, "cpu": 1024}


def measure_ceilings(timer: CudaTimer | None, policy: TimingPolicy) -> Ceilings:
    """Copy bandwidth counts bytes read and written; the matrix product is square, on random data.

    On a CPU the matrix rate is that of float32, which is what its units do at full rate everywhere.
    """
    kind = "cuda" if timer else "cpu"
    policy = replace(policy, bursts=5, max_bursts=5)
    dtype = torch.bfloat16 if timer else torch.float32
    source = torch.empty(_COPY_BYTES[kind] // 4, dtype=torch.float32, device=kind).uniform_()
    target = torch.empty_like(source)
    size = _MATMUL_SIZE[kind]
    left, right = (torch.randn(size, size, device=kind).to(dtype) for _ in range(2))

    def copy() -> torch.Tensor:
        # By the SMs: copy_ becomes a memcpy node in a graph, which reached 2.7 TB/s where this reaches 4.2 (H200).
        return torch.neg(source, out=target)

    def matmul() -> torch.Tensor:
        return left @ right

    def median_ns(work: Callable[[], torch.Tensor], launches: int) -> float:
        timed = timer.time([work], Plan(1, launches, True)) if timer else time_wall(work, policy)
        return timed.samples.median_ns

    return Ceilings(
        copy_gbps=round(2 * source.nbytes / median_ns(copy, 4), 2),
        matmul_tflops=round(2 * size**3 / median_ns(matmul, 2) / 1e3, 4),
        matmul_dtype=str(dtype).removeprefix("torch."),
    )
