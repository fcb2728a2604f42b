"""Attention of one token (qbench.model.attend), to be compiled without a GPU: one case for a path through a kernel.

Keys and values of one part and of several, each kind of mask, both types, every loop's shape, and heads that fill the
rows of a product four times. Here and not beside qkernels' cases, which know nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import qbench
from qbench.model import attend
from qkernels.triton.compile_tensors import DTYPES
from qkernels.triton.expected import TENSOR_MEMORY, WARP_PRODUCTS

EARLY = "sm_90 sm_100 sm_103 sm_120"
PROCESSORS = 132  # an H200's: cuts do not depend on the target


def attention_cases() -> list[qbench.CompileCase]:
    def case(
        dtype: str, texts: int = 1, heads: int = 32, width: int = 128, places: int = 208, mask: str = "added",
        loads: int = 128, fast: bool = False,
    ) -> qbench.CompileCase:  # fmt: skip
        parts = attend.parts_of(texts * 8, places, PROCESSORS)[0]
        name = f"attend[{dtype},texts={texts},heads={heads},width={width},places={places},mask={mask},parts={parts}]"
        expect = {"attend_kernel": expected(dtype, heads // 8, parts > 1, loads)}
        if parts > 1:
            expect["join_kernel"] = joined()
        return qbench.CompileCase(
            name, attention(DTYPES[dtype], texts, heads, width, places, mask), expect, fast
        )

    return [
        case("bf16", fast=True),
        case("bf16", texts=32),
        case("bf16", texts=32, mask="none"),
        case("fp16", places=4225, mask="seen"),
        case("fp16", texts=32, width=64, places=2064, mask="each"),
        case("bf16", texts=8, width=64, places=207, mask="seen"),
        case("bf16", width=256, mask="each"),
        case("fp16", texts=32, width=16, places=16, mask="seen", loads=32),  # two numbers a thread
        case("bf16", texts=32, heads=512),  # 64 heads of a group
        case("bf16", heads=256, width=256),  # as many sums as are taken
    ]


def attention(
    dtype: torch.dtype, texts: int, heads: int, width: int, places: int, mask: str
) -> Callable[[], Tensor]:
    """A launch over 8 groups. mask: "none", "added" to all texts' scores, or "seen" and "each", a text's own."""

    def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="cuda")

    def launch() -> Tensor:
        key, value = empty(texts, 8, places, width), empty(texts, 8, places, width)
        masks = {
            "none": None,
            "added": empty(1, 1, 1, places),
            "each": empty(texts, 1, 1, places),
            "seen": empty(texts, 1, 1, places, dtype=torch.bool),
        }
        cut = attend.parts_of(texts * 8, places, PROCESSORS)
        shape = attend.shape_of(width, places)
        return attend.launch(empty(texts, heads, 1, width), key, value, masks[mask], 0.1, cut, shape)

    return launch


def expected(dtype: str, shared: int, parts: bool, loads: int = 128) -> qbench.Expectation:
    """Products of a warp: 16 rows are too few for a warpgroup's or for tensor memory, which 64 rows go to.

    Keys and values are fetched ahead (LDGSTS), 16 bytes a thread, whatever the number of places. Sums of a part are 8
    bytes a thread, for its row has two numbers more. Waiting for the kernel before and letting the next begin are an
    instruction each.
    """
    product = f"mma.sync.{'bf16' if dtype == 'bf16' else 'f16'}"
    if shared <= 32:
        products = {f"{WARP_PRODUCTS} sm_90 {TENSOR_MEMORY}": (product,)}
    else:
        products = {WARP_PRODUCTS: (product,), "sm_90": (f"wgmma.{dtype}",), TENSOR_MEMORY: ("tcgen05.f16",)}
    return qbench.Expectation(
        {**products, EARLY: ("ACQBULK", "PREEXIT"), "*": ("LDGSTS",)},
        load_bits={"*": loads},
        store_bits={"*": 64 if parts else min(128, loads)},
    )


def joined() -> qbench.Expectation:
    return qbench.Expectation({EARLY: ("ACQBULK", "PREEXIT")}, {"*": ("ATOMG", "RED")}, load_bits={"*": 64})
