"""What compiled toys consist of: known instructions, counts and figures, on several targets, compiled at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
import triton

from qbench.aot import Built, Metrics, recording
from qbench.aot.build import build
from tests.unit import aot_kernels as toys

K = 1024
TRITON = tuple(int(part) for part in triton.__version__.split(".")[:2])


def half(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, dtype=torch.float16)


def lost_alignment() -> None:
    x = half(4097)
    toys.copy(x[1:])


def lost_divisibility() -> None:
    toys.product(torch.empty(64, K + 8, dtype=torch.bfloat16), torch.empty(K + 8, 64, dtype=torch.bfloat16))


CASES: Mapping[str, tuple[str, Callable[[], object]]] = {
    "copy": ("sm_90", lambda: toys.copy(half(4096))),
    "lost alignment": ("sm_90", lost_alignment),
    "wgmma shared": ("sm_90", lambda: toys.product(half(64, K), half(K, 64))),
    "wgmma registers": (
        "sm_90",
        lambda: toys.product(torch.empty(64, K, dtype=torch.int8), torch.empty(K, 64, dtype=torch.bfloat16)),
    ),
    "lost divisibility": ("sm_90", lost_divisibility),
    "spills": ("sm_80", lambda: toys.product(half(64, K), half(K, 64), maxnreg=32)),
    "tf32": ("sm_90", lambda: toys.product(torch.empty(64, K), torch.empty(K, 64))),
    "ampere": ("sm_80", lambda: toys.product(half(64, K), half(K, 64))),
    "tcgen05": ("sm_100", lambda: toys.product(half(64, K), half(K, 64))),
    "scaled tcgen05": ("sm_100", lambda: toys.scaled_product(K)),
    "scaled tcgen05 ultra": ("sm_103", lambda: toys.scaled_product(K)),
    "scaled mma": ("sm_120", lambda: toys.scaled_product(K)),
    "grid stride": ("sm_89", lambda: toys.grid_stride_kernel[(8,)](half(100 * 256), torch.empty(9), 100, BLOCK=256)),
    "walk": ("sm_89", lambda: toys.walk_kernel[(1,)](torch.empty(9, dtype=torch.int32), torch.empty(1))),
}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Built]]:
    launches = {}
    for name, (target, launch) in CASES.items():
        with recording(target) as recorded:
            launch()
        (launches[name],) = recorded
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QBENCH_COMPILE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield dict(zip(launches, build(list(launches.values())), strict=True))


@pytest.fixture
def metrics(built: dict[str, Built]) -> Callable[[str], Metrics]:
    def of(name: str) -> Metrics:
        found = built[name]
        assert found.metrics is not None, found.error
        return found.metrics

    return of


def test_a_copy_moves_128_bits_at_a_time(metrics: Callable[[str], Metrics]) -> None:
    m = metrics("copy")
    assert m.global_loads == {128: 1} and m.global_stores == {128: 1}
    assert (m.bytes_read, m.bytes_written, m.flops, m.programs) == (2048, 2048, 0, 4)
    assert (
        m.mma == {} and m.barriers == 0 and m.spill_bytes == 0 and m.stack_bytes == 0 and m.shared_bytes == 0
    )
    assert m.warps == 4 and 8 <= m.registers <= 40 and 10 <= m.instructions <= 60
    assert m.histogram["LDG.128"] == 1 and "NOP" not in m.histogram
    assert sum(m.histogram.values()) == m.instructions


def test_an_address_that_is_not_aligned_loses_the_width(metrics: Callable[[str], Metrics]) -> None:
    m = metrics("lost alignment")
    assert m.divisible == ("y_ptr", "n") and metrics("copy").divisible == ("x_ptr", "y_ptr", "n")
    assert m.global_loads == {16: 8} and m.global_stores == {128: 1}


def test_a_row_length_not_divisible_by_16_loses_the_width(metrics: Callable[[str], Metrics]) -> None:
    m = metrics("lost divisibility")
    assert m.divisible == ("a_ptr", "b_ptr", "out_ptr")
    assert 128 not in m.global_loads or m.global_loads.get(16, 0) > m.global_loads[128]
    assert set(metrics("wgmma shared").global_loads) == {128}


def test_products_of_hopper_take_their_first_operand_from_shared_memory_or_registers(
    metrics: Callable[[str], Metrics],
) -> None:
    assert metrics("wgmma shared").mma == {"wgmma.f16 A=shared": 4}
    assert metrics("wgmma shared").histogram["HGMMA"] == 4
    assert metrics("wgmma registers").mma == {"wgmma.bf16 A=registers": 4}
    assert (
        set(metrics("tf32").mma) <= {"wgmma.tf32 A=shared", "wgmma.tf32 A=registers"} and metrics("tf32").mma
    )


def test_products_of_other_targets(metrics: Callable[[str], Metrics]) -> None:
    assert metrics("ampere").mma == {"mma.sync.f16": 32}
    assert set(metrics("tcgen05").mma) == {"tcgen05.f16 A=shared"}
    assert metrics("tcgen05").tensor_memory_columns > 0 == metrics("ampere").tensor_memory_columns


def test_scaled_products_are_block_scaled_on_blackwell(metrics: Callable[[str], Metrics]) -> None:
    for name in ("scaled tcgen05", "scaled tcgen05 ultra"):
        assert metrics(name).mma == {"tcgen05.block_scale.mxf4nvf4 A=shared": 2}
        assert metrics(name).histogram["UTCOMMA"] == 2
    assert metrics("scaled mma").mma == {"mma.sync.mxf4nvf4.block_scale": 64}
    assert metrics("scaled mma").flops == 2 * 128 * 128 * K


def test_too_few_registers_spill(metrics: Callable[[str], Metrics]) -> None:
    m = metrics("spills")
    assert m.registers == 32 and m.spill_bytes > 0 and m.stack_bytes > 0
    assert m.spill_bytes == sum(
        count * int(name.split(".")[1]) // 8
        for name, count in m.histogram.items()
        if name.startswith(("LDL", "STL"))
    )
    assert metrics("ampere").spill_bytes == 0


def test_bytes_and_flops_follow_from_the_arguments(metrics: Callable[[str], Metrics]) -> None:
    m = metrics("wgmma shared")
    assert (m.bytes_read, m.bytes_written) == (2 * 64 * K * 2, 64 * 64 * 4)
    assert m.flops == 2 * 64 * 64 * K
    m = metrics("grid stride")  # program 4 of 8 takes tiles 4, 12, ..., 92, 100 being no more
    assert (m.bytes_read, m.bytes_written) == (12 * 512, 4)


def test_a_trip_count_in_the_data_is_unknown(metrics: Callable[[str], Metrics]) -> None:
    m = metrics("walk")
    assert m.bytes_read is None and m.bytes_written == 4 and m.flops == 0


def test_results_repeat_also_from_another_folder(
    built: dict[str, Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = ["copy", "wgmma registers", "scaled mma"]
    monkeypatch.chdir(tmp_path)
    again = build([built[name].launch for name in some], cache=False)
    assert [each.metrics for each in again] == [built[name].metrics for name in some]
