"""What the kernels have in common to be made of, for `qbench.Expectation`: tensor-core products and vector widths.

Checked against what Triton 3.6 to 3.9 compile. Blackwell's data-centre GPUs name one kind for bf16 and fp16.
"""

from __future__ import annotations

import qbench

BEFORE_HOPPER = "sm_80 sm_89"
TENSOR_MEMORY = "sm_100 sm_103"
WARP_PRODUCTS = "sm_80 sm_89 sm_120"  # mma.sync
TENSOR_PRODUCTS = ("mma.sync", "wgmma", "tcgen05")


def products(operands: str) -> dict[str, tuple[str, ...]]:
    """Tensor-core products of bf16, f16 or tf32 operands, of which sm_90 takes the first one from registers."""
    on_chip = "tf32" if operands == "tf32" else "f16"
    return {
        WARP_PRODUCTS: (f"mma.sync.{operands}",),
        "sm_90": (f"wgmma.{operands} A=registers",),
        TENSOR_MEMORY: (f"tcgen05.{on_chip}",),
    }


def widths(k: int, bits: int) -> dict[str, int]:
    """The widest access of rows of K elements: narrower only where K leaves rows unaligned."""
    return {"*": bits} if k % 16 == 0 else {}


def expected_words(store_bits: int, *, on_chip: bool = False) -> qbench.Expectation:
    """The FP4 quantizers of words: one store of a block's codes, and no shared memory (unless on_chip)."""
    detours = () if on_chip else ("LDS", "STS", "BAR")
    return qbench.Expectation({}, {"*": detours}, load_bits={"*": 128}, store_bits={"*": store_bits})
