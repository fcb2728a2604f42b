"""Which kernel multiplies prepared weights, and how work is divided on a GPU: the parts that run on a CPU."""

from __future__ import annotations

from collections import Counter
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from qbench import Unsupported, gemm_error, within
from qkernels import quantize, reference
from qkernels.triton.fp4_few_plan import TILES, Few, share, steps_of
from qkernels.triton.fp4_fragments import fragments
from qkernels.triton.prepared_product import aligned, product
from qkernels.triton.stream_k import piece, segment, segments
from qkernels.triton.stream_plan import Shape, divide
from qkernels.triton.workspaces import require_hopper
from tests.mutants.helpers import normal


def plans() -> None:
    """Each step of each item or tile is taken once, by programs that are there, and parts find each other."""
    for few in (Few(2, 1, 8, 4), Few(2, 1, 4, 4, 2), Few(1, 4, 4, 3)):
        for tiles, chunks, counters in ((512, 128, 512), (37, 9, 512), (640, 20, 0), (2113, 448, 1024)):
            plan = share(few, tiles, chunks, 132, counters)
            steps, items = -(-chunks // few.depth), -(-tiles // (TILES * few.wr))
            assert plan.programs <= 132 * few.resident and plan.steps == steps, f"{plan} for {few}"
            ranges = [steps_of.fn(i, plan.programs, plan.grain, plan.grains) for i in range(plan.programs)]
            met = [end for _, end in ranges[:-1]] == [begin for begin, _ in ranges[1:]]
            assert met and ranges[0][0] == 0 and ranges[-1][1] == items * steps, f"{plan} for {few}: gaps"
            split = any(begin % steps for begin, _ in ranges)
            assert not split or counters >= plan.programs * few.wr, f"{plan} splits without counters"
    shape = Shape(8, 128, 6, 8, 4, step_ns=1200, part_ns=300, slack_ns=1200, join_ns=300)
    for tiles, steps in ((264, 64), (320, 64), (100, 64), (80, 64), (63, 5)):
        work = divide(tiles, steps, 132, shape)
        taken: Counter[tuple[int, int]] = Counter()
        for program in range(work.programs):
            begin, stop = piece.fn(work.arguments(), steps, program)
            shared, count = segments.fn(tiles, work.split, begin, stop, steps, program, work.programs)
            for number in range(count):
                tile, first, end = segment.fn(
                    number, shared, tiles, work.split, begin, stop, steps, program, work.programs
                )
                taken.update((tile, step) for step in range(first, end))
        assert len(taken) == tiles * steps and set(taken.values()) == {1}, (
            f"{work}: steps are left, or taken twice"
        )
    costly = Shape(8, 128, 6, 8, 4, step_ns=1200, part_ns=4000, slack_ns=1200, join_ns=4000)
    short = [
        divide(tiles, steps, 132, costly).split for tiles, steps in ((64, 64), (64, 4), (160, 64), (160, 4))
    ]
    assert short == [64, 0, 28, 0], f"split are {short}, expected tiles of 64 steps and none of 4"

    for capability in ((8, 9), (10, 0)):
        with patch.object(torch.cuda, "get_device_capability", lambda device, c=capability: c):
            try:
                require_hopper(torch.device("cuda"))
            except Unsupported:
                continue
        raise AssertionError(f"a GPU of capability {capability} is taken for a Hopper")


def prepared_product() -> None:
    """On a GPU before Hopper: few rows by one kernel, more by unpacking and a product in fp32; rows for TMA."""
    for m, name, dtype, top in (
        (64, "nvfp4", torch.float16, torch.tensor(3.0)),
        (65, "nvfp4", torch.float16, torch.arange(3.0, 68.0)[:, None]),
        (65, "nvfp4", torch.bfloat16, torch.tensor(4e-36)),  # fp32 does not hold the sums over it alone
        (66, "mxfp4", torch.bfloat16, None),
    ):
        x, w, bias = (
            normal(m, 96, dtype),
            quantize(normal(24, 96, seed=1), name),
            normal(1, 24, seed=2)[0] * 9,
        )
        with (
            patch.object(torch.cuda, "get_device_capability", lambda device: (8, 0)),
            patch.object(torch, "mm", _mm),
        ):
            out = product(x, fragments(w), top, bias, dtype)
        divided = x.double() / (1.0 if top is None else top.double())
        wanted = reference.matmul(divided, w, bias=bias)
        wrong = within(out, wanted, gemm_error(wanted, reference.magnitude(divided, w), 96))
        assert out.dtype == dtype and wrong is None, f"{m} rows by {name}: {out.dtype}, {wrong}"
    for start, wide in ((0, 132), (4, 136), (0, 136)):
        x = torch.arange(3.0 * wide, dtype=torch.bfloat16).view(3, wide)[:, start : start + 128]
        y = aligned(x)
        assert y.stride(0) % 8 == 0 and y.data_ptr() % 16 == 0 and torch.equal(x, y), (
            f"{start}, {wide}: not aligned"
        )


def _mm(x: Tensor, y: Tensor, *, out_dtype: torch.dtype) -> Any:
    """torch.mm with another output, which no CPU has."""
    return (x.double() @ y.double()).to(out_dtype)
