"""The static floor, its table of GPUs, and the ranking of floors beside stored times."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from qbench.__main__ import EXIT_UNUSABLE, main
from qbench.aot.floor import Floor, floor
from qbench.aot.gpus import GPUS, get_gpu, gpu_of
from qbench.aot.ranking import Point, find_function, ranking_lines, spearman, stored_times
from qbench.aot.target import TARGETS
from tests.unit.test_aot_judge import BASE

ROOT = Path(__file__).resolve().parents[2]
H200 = get_gpu("H200")
COPY = replace(
    BASE,
    mma={},
    flops=0,
    looped=0,
    overwritten=(),
    reused=(),
    iterations=1,
    instructions=100,
    bytes_read=8192,
    bytes_written=8192,
    programs=132 * 64,
)


def test_a_copy_is_bound_by_memory() -> None:
    found = floor(COPY, H200)
    assert found.memory_ns == pytest.approx(16384 * 132 * 64 / 4800)
    assert found.issue_ns == pytest.approx(100 * 64 * 4 / 4 / 1.83)
    assert found.bound == "memory"
    assert found.words.startswith("H200: at least 28.8 µs, bound by memory (product 0.0, issue 3.5 µs")


def test_instructions_in_a_loop_count_for_each_iteration() -> None:
    once, many = (floor(replace(COPY, looped=60, iterations=n), H200).issue_ns for n in (1, 64))
    assert many / once == pytest.approx((100 + 60 * 63) / 100)
    assert floor(replace(COPY, looped=60, iterations=64), H200).bound == "issue"
    assert floor(replace(COPY, looped=60, iterations=None), H200).issue_ns == once


def test_operands_that_programs_share_come_from_memory_once() -> None:
    assert floor(COPY, H200, tensor_bytes=4800).memory_ns == pytest.approx(1.0)
    assert floor(COPY, H200, tensor_bytes=10**12).memory_ns == floor(COPY, H200).memory_ns


def test_products_take_the_rate_of_their_operands() -> None:
    times = {
        kind: floor(replace(COPY, mma={kind: 1}, flops=10**9), get_gpu("B200")).product_ns
        for kind in ("tcgen05.tf32 A=shared", "tcgen05.f16 A=shared", "tcgen05.block_scale.mxf4 A=shared")
    }
    first = times["tcgen05.tf32 A=shared"]
    assert first is not None
    assert [first / each for each in times.values() if each] == pytest.approx([1, 2, 8])
    lanes = floor(replace(COPY, flops=10**9), H200).product_ns
    assert lanes == pytest.approx(10**9 * 132 * 64 / (132 * 128 * 2 * 1830e6) * 1e9)


def test_what_is_not_known_is_said() -> None:
    found = floor(replace(COPY, bytes_read=None, flops=None), H200)
    assert (found.memory_ns, found.product_ns, found.bound) == (None, None, "issue")
    assert found.words.endswith("memory and product not known)")


def test_every_target_has_a_gpu_and_every_gpu_is_of_a_target() -> None:
    assert {gpu.target for gpu in GPUS.values()} == set(TARGETS)
    for target in TARGETS.values():
        gpu = gpu_of(target.name)
        assert gpu is not None
        assert gpu.multiprocessors == target.multiprocessors
        assert gpu.name in target.gpu


@pytest.mark.parametrize("gpu", GPUS.values(), ids=lambda gpu: gpu.name)
def test_the_table_agrees_with_itself(gpu) -> None:
    """Narrower operands are no slower, and bf16 products come out of whole flops a cycle and multiprocessor."""
    rates = [gpu.mma_tflops[bits] for bits in sorted(gpu.mma_tflops, reverse=True)]
    assert rates == sorted(rates)
    cycle = gpu.mma_tflops[16] * 1e6 / gpu.multiprocessors / gpu.clock_mhz
    assert min(abs(cycle / flops - 1) for flops in (1024, 2048, 4096, 8192)) < 0.06


def test_an_unknown_gpu_is_refused_with_the_known() -> None:
    with pytest.raises(ValueError, match="unknown GPU 'H300'; known: A100, L40S"):
        get_gpu("H300")


def test_rank_correlation() -> None:
    assert spearman([(1, 10), (2, 20), (3, 400)]) == pytest.approx(1)
    assert spearman([(1, 30), (2, 20), (3, 10)]) == pytest.approx(-1)
    assert spearman([(1, 1), (1, 2), (2, 2), (3, 3)]) == pytest.approx(0.8333, abs=1e-3)
    assert math.isnan(spearman([(1, 1), (1, 2), (1, 3)]))


def test_the_ranking_names_what_is_furthest_off() -> None:
    points = [
        Point(
            f"op/triton[m={m},k=8]", ns, (Floor("H200", 1000.0 * m, 0.0, 1.0), Floor("H200", None, 0.0, 10.0))
        )
        for m, ns in ((1, 9000.0), (2, 4000.0), (4, 8000.0))
    ]
    lines = ranking_lines(points, H200)
    assert lines[0] == "3 stored cases against their floors on H200: rank correlation -0.500"
    assert (
        "8.91×  9.0 µs, floor 1.0 by memory  op/triton[m=1,k=8]"
        in lines[lines.index("furthest above their floor") + 1]
    )
    assert ranking_lines(points[:2], H200) == ["2 stored cases launch kernels: too few to rank"]


def test_stored_times_are_the_medians_of_the_runs() -> None:
    times = stored_times(ROOT / "baselines" / "nvidia-h200_sm90_132sm_140gib")
    assert times["fp8_quantize/triton[m=4096,k=8192,dtype=half,scale=static]"] == pytest.approx(
        24_417, rel=0.02
    )


@pytest.mark.parametrize("text", ["no.such.module:f", "json:nothing", "json", ":"])
def test_a_function_that_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write package\.module:function"):
        find_function(text)


def test_the_command_refuses_in_words(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["floor", str(tmp_path), "json:nothing", "--gpu", "H200"]) == EXIT_UNUSABLE
    assert main(["floor", str(tmp_path), "json:loads", "--gpu", "H300"]) == EXIT_UNUSABLE
    assert "unknown GPU 'H300'" in capsys.readouterr().err


def test_the_call_of_every_stored_case_is_found_where_there_is_no_gpu() -> None:
    from qkernels.triton.compile_cases import launch_of

    (folder,) = (ROOT / "baselines").glob("nvidia-h200*")
    found = [case for case in stored_times(folder) if "/triton[" in case]
    assert len(found) > 100 and all(launch_of(case) for case in found)
    assert launch_of("fp8_token_w8a8_gemm/triton[m=1,n=4096,k=4096]")
    assert launch_of("bf16_gemm/torch-bf16[m=1,n=4096,k=4096]") is None
