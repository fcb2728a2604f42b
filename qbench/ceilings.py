"""This machine's own ceilings, measured once per run: bandwidth of copies and reads, and matrix rates.

Percentages are of these, not of a datasheet: a card behind a power cap or in a virtual machine has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from qbench.result import Ceilings
from qbench.timing import CudaTimer, Plan, TimingPolicy, time_wall

_COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}
_MATMUL_SIZE = {"cuda": 8192, "cpu": 1024}


def measure_ceilings(timer: CudaTimer | None, policy: TimingPolicy) -> Ceilings:
    """Copy bandwidth counts bytes read and written; the matrix products are square, on random data.

    On a CPU the matrix rate is that of float32, which is what its units do at full rate everywhere. On a GPU those of
    8 bits are measured too, for providers whose accumulators say that they use them (`qbench.check.ACCUMULATORS`).
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

    def read() -> torch.Tensor:
        return torch.amax(source)

    def matmul() -> torch.Tensor:
        return left @ right

    def median_ns(work: Callable[[], torch.Tensor], launches: int) -> float:
        timed = timer.time([work], Plan(1, launches, True)) if timer else time_wall(work, policy)
        return timed.samples.median_ns

    def tflops(work: Callable[[], torch.Tensor]) -> float:
        return round(2 * size**3 / median_ns(work, 2) / 1e3, 4)

    return Ceilings(
        copy_gbps=round(2 * source.nbytes / median_ns(copy, 4), 2),
        matmul_tflops=tflops(matmul),
        matmul_dtype=str(dtype).removeprefix("torch."),
        read_gbps=round(source.nbytes / median_ns(read, 4), 2),
        by_accumulator={name: tflops(work) for name, work in _eight_bits(left, right)} if timer else {},
    )


def _eight_bits(left: torch.Tensor, right: torch.Tensor) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """Accumulators and a product of torch under each, where this GPU and this torch have it."""
    one = torch.ones((), device=left.device)
    a, b = (each.to(torch.float8_e4m3fn) for each in (left, right))
    i, j = ((32 * each).clamp(-127, 127).to(torch.int8) for each in (left, right))

    def fp8(fast: bool) -> Callable[[], torch.Tensor]:
        return lambda: torch._scaled_mm(a, b.T, one, one, out_dtype=torch.bfloat16, use_fast_accum=fast)

    def int8() -> torch.Tensor:
        product: torch.Tensor = torch._int_mm(i, j.T)
        return product

    candidates = {"fp8-fast": fp8(True), "fp8-promoted": fp8(False), "int32": int8}
    for name, work in candidates.items():
        try:
            work()
        except RuntimeError:
            continue  # not on this GPU, or not in this build of torch: then nothing is compared with it
        yield name, work
