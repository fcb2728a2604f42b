"""The compile gate's verdicts, on metrics made by hand: each rule fires on its own bug, and says its words."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from qbench.aot.expect import EVERY, Expectation, Weight, check, count
from qbench.aot.judge import CompileVerdict, Outcome, judge, judge_failure
from qbench.aot.metrics import Metrics
from qbench.aot.target import get_target

SM_90, SM_120 = get_target("sm_90"), get_target("sm_120")
BASE = Metrics(
    registers=40,
    spill_bytes=0,
    stack_bytes=0,
    shared_bytes=16384,
    tensor_memory_columns=0,
    warps=4,
    instructions=1320,
    looped=600,
    overwritten=(),
    reused=(),
    iterations=64,
    histogram={
        "LDG.128": 8,
        "STG.64": 4,
        "FMUL": 64,
        "F2FP": 12,
        "LOP3": 400,
        "MUFU.RCP": 8,
        "BAR.SYNC": 2,
        "LDGSTS.128": 6,
    },
    global_loads={128: 8, 8: 2},
    global_stores={64: 4},
    shared_loads={128: 4},
    shared_stores={128: 4},
    barriers=2,
    mma={"wgmma.bf16 A=registers": 8},
    bytes_read=65536,
    bytes_written=18432,
    flops=1 << 20,
    programs=512,
    divisible=("x_ptr", "k"),
)
NOTHING = Expectation()


def verdict(base: Metrics = BASE, expectation: Expectation = NOTHING, **now: Any) -> CompileVerdict:
    return judge(replace(base, **now), base, expectation, SM_90)


def test_unchanged_metrics_are_the_same() -> None:
    assert verdict() == CompileVerdict(Outcome.SAME)


BUGS: dict[str, tuple[dict[str, Any], str]] = {
    "lost divisibility": (
        {"global_loads": {16: 64, 8: 2}, "divisible": ("x_ptr",)},
        "128-bit loads became 16-bit (8 × 128 bits, 2 × 8 bits -> 64 × 16 bits, 2 × 8 bits): argument `k` lost "
        "divisibility by 16",
    ),
    "two arguments": ({"global_loads": {64: 16}, "divisible": ()}, "arguments `x_ptr`, `k` lost divisibility by 16"),
    "narrow stores": ({"global_stores": {8: 32}}, "64-bit stores became 8-bit"),
    "half of the loads narrow": ({"global_loads": {128: 4, 16: 32, 8: 2}}, "loads became narrower"),
    "double load": (
        {"bytes_read": 131072, "global_loads": {128: 16, 8: 2}}, "(2.00×) (each byte twice: a double load)"
    ),
    "more loads": (
        {"bytes_read": None, "global_loads": {128: 16, 8: 2}},
        "more global loads: 8 × 128 bits, 2 × 8 bits became 16",
    ),
    "more stores": ({"bytes_written": 2 * 18432}, "the launch writes 18,874,368 B, was 9,437,184"),
    "more work": ({"flops": 3 << 20}, "(3.00×)"),
    "other product": ({"mma": {"mma.sync.bf16": 64}}, "wgmma.bf16 A=registers became mma.sync.bf16"),
    "no product": ({"mma": {}}, "wgmma.bf16 A=registers became no tensor-core product at all"),
    "spill": (
        {"spill_bytes": 64, "registers": 255},
        "spills 64 bytes a thread to local memory and back: all 255 registers",
    ),
    "register cap": ({"spill_bytes": 96, "registers": 32}, "with 32 registers: a limit on registers"),
    "layout conversion": (
        {"shared_loads": {128: 12}, "shared_stores": {128: 12}, "barriers": 4},
        "shared-memory stores 4 -> 12, loads 4 -> 12, barriers 2 -> 4: a layout conversion was added",
    ),
    "instructions": ({"instructions": 6136}, "instructions 1,320 -> 6,136 (4.65×)"),
    "detour": (
        {"instructions": 1800, "histogram": {**BASE.histogram, "F2FP": 160, "FMUL": 320}},
        "fp32 arithmetic 64 -> 320, conversions 12 -> 160: values take a detour through fp32",
    ),
    "fp64": (
        {"instructions": 1800, "histogram": {**BASE.histogram, "DFMA": 480}},
        "64-bit arithmetic 0 -> 480: fp64 arithmetic crept in",
    ),
    "slow function": (
        {"instructions": 1700, "histogram": {**BASE.histogram, "CALL.REL": 40, "MUFU.RCP": 88, "FFMA": 260}},
        "a slow division, root or other function",
    ),
    "no prefetching": (
        {"histogram": {k: n for k, n in BASE.histogram.items() if k != "LDGSTS.128"}, "instructions": 900},
        "asynchronous copies to shared memory 6 -> 0: loads are no longer pipelined",
    ),
    "moved into the loop": (
        {"looped": 800},
        "instructions in the loop 600 -> 800, iterations 64 -> 64 (1.33×)",
    ),
    "atomics": ({"histogram": {**BASE.histogram, "RED.ADD": 4}}, "atomic operations 0 -> 4"),
    "twice the programs": ({"programs": 1024}, "instructions 1,320 -> 1,320, over 2× as many warps (2.00×)"),
    "over the limit": ({"shared_bytes": 300_000}, "shared memory 300,000 B is over sm_90's 232,448 B"),
    "too many registers": ({"registers": 168, "warps": 16}, "168 registers × 512 threads are over the 65,536"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_each_regression_is_worse_and_is_named(bug: str) -> None:
    change, words = BUGS[bug]
    found = verdict(**change)
    assert found.verdict is Outcome.WORSE
    assert words in found.words


SOFT: dict[str, tuple[dict[str, Any], str]] = {
    "a little moved into the loop": ({"looped": 640}, "instructions in the loop 600 -> 640"),
    "registers": ({"registers": 55}, "registers 40 -> 55: room for 12 -> 9 blocks on an SM"),
    "instructions": ({"instructions": 1420}, "instructions 1,320 -> 1,420 (1.08×)"),
    "shared memory": ({"shared_bytes": 49152}, "shared memory 16,384 -> 49,152 B a block"),
    "a new product": (
        {"mma": {**BASE.mma, "wgmma.f16 A=registers": 1}},
        "new kind of product: wgmma.f16 A=registers",
    ),
    "divisibility": ({"divisible": ("x_ptr",)}, "argument `k` lost divisibility by 16, to no visible effect"),
    "unknown bytes": ({"bytes_read": None}, "bytes_read is no longer known"),
    "the same number of slower instructions": (
        {"histogram": {**BASE.histogram, "LOP3": 300, "F2FP": 112}},
        "about as many instructions, of another kind: conversions 12 -> 112",
    ),
}


@pytest.mark.parametrize("change", SOFT)
def test_soft_limits_are_shown_and_fail_nothing(change: str) -> None:
    metrics, words = SOFT[change]
    found = verdict(**metrics)
    assert found.verdict is Outcome.CHANGED
    assert not found.verdict.fails
    assert words in found.words


@pytest.mark.parametrize(
    "change",
    [
        {"registers": 48},
        {"instructions": 1380},
        {"instructions": 1260},
        {"shared_bytes": 17000},
        {"shared_loads": {128: 4, 8: 1}},
        {"histogram": {**BASE.histogram, "F2FP": 14}},
        {"divisible": ("x_ptr", "columns")},  # an argument was renamed
    ],
)
def test_small_changes_are_the_same(change: dict[str, Any]) -> None:
    assert verdict(**change).verdict is Outcome.SAME


@pytest.mark.parametrize(
    "change",
    [
        {"instructions": 1000},
        {"registers": 24},
        {"bytes_read": 32768},
        {"global_loads": {256: 4, 8: 2}},
        {"mma": {"tcgen05.block_scale.mxf4nvf4": 8}},
        {"mma": {"wgmma.e4m3 A=registers": 8}},
    ],
)
def test_improvements_are_better_and_fail_nothing(change: dict[str, Any]) -> None:
    found = verdict(**change)
    assert found.verdict is Outcome.BETTER
    assert found.words


def test_a_larger_tile_with_the_same_work_is_no_regression() -> None:
    """Twice the tile, half the programs: every count of a program doubles, and nothing of the launch."""
    twice = {
        field.name: {k: 2 * n for k, n in value.items()}
        for field in fields(Metrics)
        if isinstance(value := getattr(BASE, field.name), dict)
    }
    twice |= {
        name: 2 * getattr(BASE, name)
        for name in ("instructions", "looped", "bytes_read", "bytes_written", "flops")
    }
    found = verdict(**twice, programs=256)
    assert found.verdict is Outcome.CHANGED
    assert found.words == "the launch has 256 programs of 4 warps, was 512 of 4"


def test_leaving_block_scaled_products_is_said_so() -> None:
    base = replace(BASE, mma={"tcgen05.block_scale.mxf4nvf4": 4})
    found = verdict(base, mma={"tcgen05.f16": 16}, instructions=6136)
    assert "left block-scaled MMA: tcgen05.block_scale.mxf4nvf4 became tcgen05.f16" in found.words


def test_shared_memory_over_the_limit_needs_no_baseline() -> None:
    found = judge(replace(BASE, shared_bytes=164_864), None, NOTHING, SM_120)
    assert found.verdict is Outcome.WORSE
    assert "shared memory 164,864 B is over sm_120's 101,376 B" in found.words


# expectations

EXPECTED = Expectation(
    required={"sm_90": ("wgmma.bf16 A=registers",), EVERY: ("LDG.128",)},
    forbidden={"*": ("DFMA",)},
    load_bits={"*": 128},
    store_bits={"sm_90 sm_100": 64},
    spill_bytes={"sm_80": 512},
)


def test_a_kernel_as_expected_without_baseline_says_so() -> None:
    assert judge(BASE, None, EXPECTED, SM_90).verdict is Outcome.NO_BASELINE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"mma": {"wgmma.bf16": 8}},
            "wgmma.bf16 A=registers is gone, which this kernel requires; there is wgmma.bf16",
        ),
        ({"mma": {}}, "there is no tensor-core product at all"),
        ({"histogram": {"LDG.64": 3}}, "LDG.128 is gone, which this kernel requires; there is LDG.64"),
        ({"histogram": {**BASE.histogram, "DFMA": 3}}, "3 × DFMA, which this kernel must not contain"),
        ({"global_loads": {32: 1}}, "the widest global load is of 32 bits, expected 128"),
        ({"global_stores": {}}, "the widest global store is absent, expected 64"),
        ({"spill_bytes": 8}, "spills 8 bytes"),
        ({"tensor_memory_columns": 1}, "1 columns of tensor memory are over sm_90's 0"),
    ],
)
def test_what_is_not_as_expected_is_worse_and_never_stored(change: dict[str, Any], words: str) -> None:
    found = judge(replace(BASE, **change), None, EXPECTED, SM_90)
    assert found.verdict is Outcome.WORSE
    assert words in found.words
    assert not found.as_declared
    assert judge(replace(BASE, **change), replace(BASE, **change), EXPECTED, SM_90).verdict is Outcome.WORSE


def test_a_declared_spill_is_allowed_on_its_target_alone() -> None:
    spilling = replace(BASE, spill_bytes=500)
    target = get_target("sm_80")
    expected = Expectation(spill_bytes={"sm_80": 512})
    assert judge(spilling, spilling, expected, target).verdict is Outcome.SAME
    assert judge(spilling, spilling, expected, SM_90).verdict is Outcome.WORSE
    assert judge(replace(BASE, spill_bytes=520), spilling, expected, target).words.startswith("spills 520")


def test_names_stand_for_what_begins_with_them_part_by_part() -> None:
    metrics = replace(
        BASE, histogram={"HMMA.16816": 2, "HMMA2": 5, "LDG.128": 1}, mma={"wgmma.bf16 A=shared": 3}
    )
    assert [count(metrics, name) for name in ("HMMA", "HMMA2", "LDG.12", "wgmma", "wgmma.bf16")] == [
        2,
        5,
        0,
        3,
        3,
    ]


def test_declared_unsupported_must_fail_and_nothing_else_may() -> None:
    expected = Expectation(unsupported={"sm_80": "has no FP8"})
    sm_80 = get_target("sm_80")
    failed = judge_failure("type fp8e4nv not supported", expected, sm_80)
    assert failed.verdict is Outcome.UNSUPPORTED
    assert failed.words == "has no FP8 (type fp8e4nv not supported)"
    assert judge_failure("type fp8e4nv not supported", expected, SM_90).verdict is Outcome.BROKEN
    compiles = judge(BASE, BASE, expected, sm_80)
    assert compiles.verdict is Outcome.BROKEN
    assert "compiles for sm_80, though declared unsupported (has no FP8)" in compiles.words


@pytest.mark.parametrize("targets", ["sm90", "", "sm_90, sm_100", "all"])
def test_a_misspelt_target_is_refused(targets: str) -> None:
    with pytest.raises(ValueError, match="names no targets"):
        Expectation(required={targets: ("LDG",)})


def test_one_text_in_place_of_names_is_refused() -> None:
    with pytest.raises(TypeError, match="write a tuple"):
        Expectation(forbidden={"*": "LDG"})  # type: ignore[dict-item]


def test_every_finding_of_check_is_worse() -> None:
    assert {finding.weight for finding in check(BASE, Expectation(required={"*": ("XYZ",)}), SM_90)} == {
        Weight.WORSE
    }


def test_an_operand_overwritten_in_flight_is_worse_unless_it_is_accepted_with_a_reason() -> None:
    found = verdict(overwritten=("MOV R152, R9", "MOV R153, R9"))
    assert (found.verdict, found.as_declared) == (Outcome.WORSE, False)
    assert "may still read it: MOV R152, R9 and 1 others" in found.words
    accepted = Expectation(races={"sm_90": "the wait is in assembly"})
    assert verdict(expectation=accepted, overwritten=("MOV R152, R9",)).verdict is Outcome.SAME


def test_data_where_a_barrier_lies_is_worse() -> None:
    found = verdict(reused=("STS [R224+0x2e600],R7",))
    assert (found.verdict, found.as_declared) == (Outcome.WORSE, False)
    assert "data is written where a barrier lies that was not invalidated: STS" in found.words
