"""Results repeat to the bit while other processes have the GPU in turns with this one, as on any shared machine.

The GPU then stops programs wherever they are. What this is about is memory that a barrier had left too early
(qbench.aot.reused): alone it never showed, beside others it put NaN into one of some thousand products.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch import Tensor

import qkernels
from qkernels.prepared import folded_product
from qkernels.prepared_ops import mxfp4_folded_rows

SECONDS = 6.0  # for each
OTHERS = """
import torch
x, y = torch.empty(1 << 26, device="cuda"), torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
print("begun", flush=True)
while True:
    for _ in range(20):
        x.normal_()
        y @ y
    torch.cuda.synchronize()
"""


@contextmanager
def others(count: int = 3) -> Iterator[None]:
    """So many processes that keep the GPU busy."""
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", OTHERS], stdout=subprocess.PIPE)
            )
            stack.callback(process.kill)  # before its end is waited for
            started.append(process)
        for each in started:
            assert each.stdout is not None and each.stdout.readline() == b"begun\n"
        yield


def folded(m: int, n: int, k: int) -> Callable[[], list[Tensor]]:
    x, w = normal(m, k), qkernels.prepare(qkernels.quantize(normal(n, k), "mxfp4"), "w4a4")

    def run() -> list[Tensor]:
        elements, factor = mxfp4_folded_rows(x, "mxfp4", 0)
        return [elements, factor, folded_product(elements, factor, w.format.gain, w, None, torch.bfloat16)]

    return run


def weight_only(m: int, n: int, k: int) -> Callable[[], list[Tensor]]:
    x, w, bias = normal(m, k), qkernels.prepare(qkernels.quantize(normal(n, k), "nvfp4")), normal(1, n)[0]
    return lambda: [qkernels.prepared_matmul(x, w, bias=bias)]


def of_tensor(m: int, n: int, k: int) -> Callable[[], list[Tensor]]:
    x = normal(m, k)

    def run() -> list[Tensor]:
        q = qkernels.quantize(x, "fp8")
        return [q.data, q.scale]

    return run


def normal(m: int, k: int) -> Tensor:
    return torch.randn(m, k, device="cuda", dtype=torch.bfloat16)


def differing(run: Callable[[], list[Tensor]]) -> tuple[int, int]:
    """(launches whose result is not the first's, launches), counted within a graph."""
    first = [each.reshape(-1).view(torch.uint8).clone() for each in run()]
    count = torch.zeros((), dtype=torch.int64, device="cuda")

    def step() -> None:
        for each, right in zip(run(), first, strict=True):
            count.add_((each.reshape(-1).view(torch.uint8) != right).any())

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    launches, end = 0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        for _ in range(10):
            graph.replay()
        torch.cuda.synchronize()
        launches += 10
    return int(count), launches


@pytest.mark.gpu
def test_results_repeat_beside_other_processes() -> None:
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("the kernels that this is about are written for Hopper (sm_90)")
    torch.manual_seed(0)
    wrong = {}
    with others():
        for kind in (folded, weight_only, of_tensor):
            for shape in ((8, 4096, 14336), (4096, 4096, 4096)):
                count, launches = differing(kind(*shape))
                assert launches > 0
                if count:
                    wrong[kind.__name__, shape] = f"{count} of {launches}"
    assert not wrong
