"""What is compiled ahead of time is what a GPU runs: registers and shared memory of every kernel, launched for real."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import triton
from triton.runtime.jit import JITFunction

from qbench.aot.build import build
from qbench.aot.driver import recording
from qbench.aot.target import TARGETS, get_target
from qkernels.triton.compile_cases import all_cases

pytestmark = pytest.mark.gpu


def target_of_device() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{10 * major + minor}"


@contextmanager
def launched_kernels() -> Iterator[list[Any]]:
    """Compiled kernels in the order in which they are launched here."""
    found: list[Any] = []
    run = JITFunction.run

    def noted(self: Any, *args: Any, **named: Any) -> Any:
        kernel = run(self, *args, **named)
        found.append((self.fn.__name__, kernel))
        return kernel

    JITFunction.run = noted
    try:
        yield found
    finally:
        JITFunction.run = run


@pytest.fixture(scope="module")
def ahead() -> dict[str, list[Any]]:
    """Every case compiled for this device's target without using the device."""
    target = get_target(target_of_device())
    launches, counts = [], {}
    for case in all_cases():
        if case.unsupported(target.name):
            continue
        with recording(target) as recorded:
            case.launch()
        launches += recorded
        counts[case.name] = len(recorded)
    built = iter(build(launches))
    return {name: [next(built) for _ in range(count)] for name, count in counts.items()}


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_registers_and_shared_memory_are_those_of_the_device(case: Any, ahead: dict[str, list[Any]]) -> None:
    if target_of_device() not in TARGETS:
        pytest.skip(f"{target_of_device()} is no target")
    if reason := case.unsupported(target_of_device()):
        pytest.skip(reason)
    with launched_kernels() as launched:
        case.launch()
    torch.cuda.synchronize()
    assert [name for name, _kernel in launched] == [each.launch.id.split("#")[0] for each in ahead[case.name]]
    for (_name, kernel), expected in zip(launched, ahead[case.name], strict=True):
        assert expected.metrics is not None, expected.error
        kernel._init_handles()
        found = (kernel.n_regs, kernel.metadata.shared, kernel.metadata.num_warps)
        metrics = expected.metrics
        assert found == (metrics.registers, metrics.shared_bytes, metrics.warps), triton.__version__
