"""GPUs and their peak rates, for the static floor. Dense rates with fp32 accumulation; no sparsity.

Sources: NVIDIA's data sheets (A100 80GB SXM, L40S, H100 SXM, H200 SXM, HGX B200 and B300 divided by eight GPUs, RTX PRO
6000 Blackwell Workstation Edition) and architecture whitepapers (GA100, AD102, GH100, GB202). Rates that a whitepaper
gives with sparsity are halved. Clocks are the boost clocks at which those rates are stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU's peaks.

    bandwidth_gbps  memory, 1e9 bytes a second
    mma_tflops      bits of the operands -> dense products with fp32 sums (int32 for integers); 32 is TF32
    """

    name: str
    target: str
    multiprocessors: int
    clock_mhz: int
    bandwidth_gbps: float
    mma_tflops: Mapping[int, float]

    @property
    def fp32_tflops(self) -> float:
        """Of fused multiply-adds without tensor cores: 128 lanes a multiprocessor, 64 on sm_80."""
        lanes = 64 if self.target == "sm_80" else 128
        return self.multiprocessors * lanes * 2 * self.clock_mhz / 1e6


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100", "sm_80", 108, 1410, 2039, {32: 156, 16: 312, 8: 624, 4: 1248}),
        Gpu("L40S", "sm_89", 142, 2520, 864, {32: 183, 16: 362, 8: 733, 4: 733}),
        Gpu("H100", "sm_90", 132, 1830, 3350, {32: 494, 16: 989, 8: 1979}),
        Gpu("H200", "sm_90", 132, 1830, 4800, {32: 494, 16: 989, 8: 1979}),
        Gpu("B200", "sm_100", 148, 1965, 7700, {32: 1125, 16: 2250, 8: 4500, 4: 9000}),
        Gpu("B300", "sm_103", 148, 1965, 7700, {32: 1125, 16: 2250, 8: 4500, 4: 13500}),
        Gpu("RTX PRO 6000", "sm_120", 188, 2617, 1792, {32: 252, 16: 504, 8: 1008, 4: 2015}),
    )
}


def get_gpu(name: str) -> Gpu:
    """The GPU of that name. ValueError for one that is not in the table."""
    if name not in GPUS:
        raise ValueError(f"unknown GPU {name!r}; known: {', '.join(GPUS)}")
    return GPUS[name]


def gpu_of(target: str) -> Gpu | None:
    """The GPU that a target's floor is shown for: the last of the table with that target."""
    return next((gpu for gpu in reversed(GPUS.values()) if gpu.target == target), None)
