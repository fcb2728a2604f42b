"""What kernels are compiled for: the compute capabilities of NVIDIA GPUs and what a block may use on them.

Sources: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability" (shared memory, registers,
threads); PTX ISA, `tcgen05` (tensor memory: 512 columns of 128 lanes of 32 bits); the data sheets of the GPUs named
(multiprocessors). The compiler checks none of these limits but the registers.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True)
class Target:
    """A compute capability, its limits, and the GPU that stands for it when a launcher asks for its properties.

    shared_bytes           that one block may have (opt-in maximum)
    registers              per thread
    threads                per block
    tensor_memory_columns  per multiprocessor; 0 where there is no tensor memory
    multiprocessors        of `gpu`
    """

    name: str
    capability: tuple[int, int]
    shared_bytes: int
    tensor_memory_columns: int
    gpu: str
    multiprocessors: int
    registers: int = 255
    threads: int = 1024
    registers_per_multiprocessor: int = 65536
    warp: int = 32

    @property
    def arch(self) -> int:
        """As Triton counts: 90 for sm_90."""
        return self.capability[0] * 10 + self.capability[1]

    @property
    def architecture(self) -> str:
        """What Triton passes to ptxas: from Hopper on with the features of that one GPU generation ("sm_90a")."""
        return f"{self.name}a" if self.capability >= (9, 0) else self.name


TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", (8, 0), 163 * KIB, 0, "NVIDIA A100-SXM4-80GB", 108),
        Target("sm_89", (8, 9), 99 * KIB, 0, "NVIDIA L40S", 142),
        Target("sm_90", (9, 0), 227 * KIB, 0, "NVIDIA H200", 132),
        Target("sm_100", (10, 0), 227 * KIB, 512, "NVIDIA B200", 148),
        Target("sm_103", (10, 3), 227 * KIB, 512, "NVIDIA B300 SXM6 AC", 148),
        Target("sm_120", (12, 0), 99 * KIB, 0, "NVIDIA RTX PRO 6000 Blackwell", 188),
    )
}


def get_target(name: str | Target) -> Target:
    """The target of that name. ValueError for one that is not known."""
    if isinstance(name, Target):
        return name
    if name not in TARGETS:
        raise ValueError(f"unknown target {name!r}; known: {', '.join(TARGETS)}")
    return TARGETS[name]
