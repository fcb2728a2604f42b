"""The machine's own rates: which are measured, and what happens where a product does not exist."""

from __future__ import annotations

import pytest
import torch

from qbench import ceilings
from qbench.check import ACCUMULATORS
from qbench.timing import TimingPolicy


def test_a_cpu_has_bandwidths_and_a_matrix_rate_and_no_units_of_eight_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ceilings._COPY_BYTES, "cpu", 1 << 20)
    monkeypatch.setitem(ceilings._MATMUL_SIZE, "cpu", 64)
    found = ceilings.measure_ceilings(None, TimingPolicy(bursts=2))
    assert min(found.copy_gbps, found.matmul_tflops, found.read_gbps) > 0
    assert found.memory_gbps == max(found.copy_gbps, found.read_gbps)
    assert found.by_accumulator == {}


def test_products_that_this_torch_does_not_have_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*operands: object, **options: object) -> None:
        raise RuntimeError("compute capability >= 8.9 required")

    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    a, b = torch.randn(32, 32), torch.randn(32, 32)
    found = dict(ceilings._eight_bits(a, b))
    assert list(found) == ["int32"]
    assert found["int32"]().dtype == torch.int32


def test_every_unit_is_named_by_an_accumulator_that_providers_declare(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast = []
    monkeypatch.setattr(
        torch, "_scaled_mm", lambda *operands, **options: fast.append(options["use_fast_accum"])
    )
    found = dict(ceilings._eight_bits(torch.randn(32, 32), torch.randn(32, 32)))
    assert set(found) < set(ACCUMULATORS)
    assert fast == [True, False]


@pytest.mark.gpu
def test_a_gpu_with_fp8_products_has_their_rate() -> None:
    from qbench.measure import Bench

    found = Bench.open(TimingPolicy(bursts=3)).ceilings()
    assert found.read_gbps and found.read_gbps > 100
    if torch.cuda.get_device_capability() >= (8, 9):
        assert found.by_accumulator["fp8-fast"] > found.matmul_tflops
