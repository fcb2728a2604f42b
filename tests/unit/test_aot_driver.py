"""Launches recorded under the stand-in driver."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.jit import JITFunction

import qbench.interpreter
from qbench.aot import TARGETS, Launch, get_target, recording
from tests.unit import aot_kernels as toys


def record(launch: Callable[[], object], target: str = "sm_90") -> list[Launch]:
    with recording(target) as launches:
        launch()
    return launches


def test_a_launch_is_recorded_with_its_specialization_and_grid() -> None:
    (launch,) = record(lambda: toys.copy(torch.empty(4096, dtype=torch.float16)))
    assert launch.kernel == "tests.unit.aot_kernels.copy_kernel"
    assert launch.id == "copy_kernel"
    assert launch.grid == (4, 1, 1) and launch.programs == 4
    assert launch.divisible == ("x_ptr", "y_ptr", "n")
    assert launch.constants == {"BLOCK": 1024}
    assert launch.warps == 4 and launch.options["num_stages"] == 3
    assert str(launch).startswith(
        "copy_kernel(x_ptr: *fp16 %16, y_ptr: *fp16 %16, n: i32 %16, BLOCK=1024; num_warps=4"
    )


def test_alignment_is_that_of_the_memory() -> None:
    x = torch.empty(4097, dtype=torch.float16)
    (launch,) = record(lambda: toys.copy(x[1:4001]))
    assert launch.divisible == ("y_ptr", "n")  # 4000 is a multiple of 16, an address two bytes on is not
    (launch,) = record(lambda: toys.copy(x[:1]))
    assert launch.constants == {"n": 1, "BLOCK": 1024}


def test_launches_of_one_kernel_are_numbered() -> None:
    launches = record(lambda: (toys.copy(torch.empty(64)), toys.copy(torch.empty(64)), toys.scaled_product()))
    assert [each.id for each in launches] == ["copy_kernel", "copy_kernel#2", "scaled_product_kernel"]


@pytest.mark.parametrize("name", TARGETS)
def test_launchers_see_the_target(name: str) -> None:
    target, seen = get_target(name), {}

    def launcher(x: torch.Tensor) -> None:
        assert x.is_cuda and x.device == torch.device("cuda", 0) and not x.is_cpu
        made = torch.full((8,), 3.0, device=x.device)
        assert made.is_cuda and made.sum() == 24 and made.to("cuda").is_cuda and made.cuda().get_device() == 0
        with torch.cuda.device(x.device), torch.cuda.device_of(x):
            seen["capability"] = torch.cuda.get_device_capability(x.device)
        seen["count"] = torch.cuda.get_device_properties(0).multi_processor_count
        seen["driver"] = triton.runtime.driver.active.utils.get_device_properties(0)["max_shared_mem"]
        assert triton.runtime.driver.active.get_current_target().arch == target.arch
        assert not triton.knobs.runtime.interpret
        toys.copy(x)

    assert [each.target for each in record(lambda: launcher(torch.empty(8)), name)] == [target]
    assert seen == {
        "capability": target.capability,
        "count": target.multiprocessors,
        "driver": target.shared_bytes,
    }


def test_everything_is_put_back_also_after_an_error() -> None:
    asked = (
        "is_available",
        "get_device_capability",
        "get_device_properties",
        "current_device",
        "_exchange_device",
    )
    before = [getattr(torch.cuda, name) for name in asked]
    compiler, active = JITFunction._do_compile, triton.runtime.driver._active
    launches: list[Launch] = []

    def failing() -> None:
        with recording("sm_100") as recorded:
            toys.copy(torch.empty(64))
            launches.extend(recorded)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert len(launches) == 1
    assert [getattr(torch.cuda, name) for name in asked] == before
    assert (JITFunction._do_compile, triton.runtime.driver._active) == (compiler, active)
    assert not launches[0].compilation.fn.device_caches
    assert torch.empty(1).device.type == "cpu" and not torch.empty(1).is_cuda


def test_an_autotuned_kernel_is_launched_once_with_its_first_configuration() -> None:
    x = torch.empty(1000)
    (launch,) = record(lambda: toys.tuned_kernel[lambda given: (triton.cdiv(1000, given["BLOCK"]),)](x, 1000))
    assert launch.constants == {"BLOCK": 256} and launch.warps == 2 and launch.grid == (4, 1, 1)
    assert not toys.tuned_kernel.cache  # or the GPU's own tuning would not happen


def test_a_kernel_that_no_module_names_is_recorded() -> None:
    @triton.jit
    def inner(value):
        return value * 2

    @triton.jit
    def local(x_ptr, N: tl.constexpr):
        tl.store(x_ptr + tl.arange(0, N), inner(tl.load(x_ptr + tl.arange(0, N))))

    (launch,) = record(lambda: local[(1,)](torch.empty(64), 64))
    assert launch.id == "local" and launch.kernel.endswith("<locals>.local")


def test_a_launcher_that_asks_for_the_compiled_kernel_is_told() -> None:
    with pytest.raises(AttributeError, match="asks for 'n_regs' of a compiled kernel"), recording("sm_90"):
        toys.copy_kernel.warmup(torch.empty(8), torch.empty(8), 8, BLOCK=8, grid=(1,)).n_regs  # noqa: B018


def test_an_unknown_target_names_the_known() -> None:
    with (
        pytest.raises(ValueError, match=r"unknown target 'sm_95'; known: sm_80, sm_89, sm_90"),
        recording("sm_95"),
    ):
        pass


@pytest.mark.skipif(not triton.knobs.runtime.interpret, reason="Triton is compiling here")
def test_interpretation_works_before_and_after() -> None:
    qbench.interpreter.repair()
    x = torch.arange(2000.0)
    assert torch.equal(toys.copy(x), x)
    record(lambda: toys.copy(x))
    assert qbench.interpreter.is_interpreted(toys.copy_kernel)
    assert torch.equal(toys.copy(x), x)
