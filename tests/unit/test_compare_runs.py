"""Comparing two runs and merging parts of one: what joins, what is refused, and that the reason names names."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from qbench.compare import CannotCombine, compare, merge
from qbench.result import Ceilings, Device, Result, Run, Times

H200 = Device("cuda", "NVIDIA H200", "9.0", 132, 140)
H100 = Device("cuda", "NVIDIA H100", "9.0", 132, 80)


def timed(m: int, us: float, **changes: Any) -> Result:
    ns = us * 1e3
    made = Result(f"op/p[m={m}]", "op", "p", {"m": m}, "ok", times=Times(ns, ns, ns, 9, 9, 1, "graph", True))
    return msgspec.structs.replace(made, **changes)


def untimed(m: int, status: str, reason: str = "because") -> Result:
    return timed(m, 1.0, times=None, status=status, reason=reason)


def run_of(*results: Result, **changes: Any) -> Run:
    versions = {"torch": "2.13.0", "triton": "3.7.1", "driver": "570"}
    return msgspec.structs.replace(Run(1, "2026-01-02T00:00:00Z", H200, versions, results), **changes)


# compare


def test_cases_are_joined_by_id_in_the_order_of_the_first() -> None:
    found = compare(
        run_of(timed(1, 10), timed(2, 10), timed(3, 10)), run_of(timed(4, 9), timed(2, 5), timed(1, 12))
    )
    assert [(pair.case, pair.ratio) for pair in found.pairs] == [("op/p[m=1]", 1.2), ("op/p[m=2]", 0.5)]
    assert found.only_a == ("op/p[m=3]",)
    assert found.only_b == ("op/p[m=4]",)
    assert found.warnings == ()
    assert found.same_device


def test_slower_lists_what_exceeds_the_limit_worst_first() -> None:
    a = run_of(timed(1, 100), timed(2, 100), timed(3, 100), timed(4, 100))
    b = run_of(timed(1, 104), timed(2, 106), timed(3, 150), timed(4, 10))
    assert [pair.case for pair in compare(a, b).slower(0.05)] == ["op/p[m=3]", "op/p[m=2]"]
    assert [pair.case for pair in compare(a, a).slower(0.0)] == []


def test_a_case_that_is_no_longer_right_or_can_no_longer_run_is_broken_and_one_that_never_ran_is_not() -> (
    None
):
    a = run_of(timed(1, 10), timed(2, 10), untimed(3, "wrong"), timed(4, 10))
    b = run_of(untimed(1, "wrong"), untimed(2, "error"), untimed(3, "wrong"), untimed(4, "unsupported"))
    found = compare(a, b)
    assert [pair.case for pair in found.broken] == ["op/p[m=1]", "op/p[m=2]", "op/p[m=4]"]
    assert all(pair.ratio is None for pair in found.pairs)


def test_other_device_versions_and_timer_are_flagged() -> None:
    b = run_of(
        timed(1, 10, times=Times(1, 1, 1, 9, 9, 1, "events", True)),
        device=H100,
        versions={"torch": "2.14.0", "triton": "3.7.1", "vllm": "1"},
    )
    found = compare(run_of(timed(1, 10)), b)
    assert not found.same_device
    assert found.warnings == (
        "DIFFERENT DEVICES: nvidia-h200_sm90_132sm_140gib and nvidia-h100_sm90_132sm_80gib; "
        "ratios compare devices, not code",
        "DIFFERENT VERSIONS: torch 2.13.0 and 2.14.0",
        "DIFFERENT VERSIONS: driver 570 and none",
        "DIFFERENT VERSIONS: vllm none and 1",
        "TIMED DIFFERENTLY (graph, events or wall): op/p[m=1]",
    )


def test_files_without_a_common_case_cannot_be_compared() -> None:
    with pytest.raises(CannotCombine, match=r"share no case \(1 and 0 cases\)"):
        compare(run_of(timed(1, 10)), run_of())


def test_a_file_that_holds_a_case_twice_cannot_be_compared() -> None:
    with pytest.raises(CannotCombine, match=r"the second file holds op/p\[m=1\] twice"):
        compare(run_of(timed(1, 10)), run_of(timed(1, 10), timed(1, 11)))


# merge


def test_parts_become_one_run_in_their_order() -> None:
    first = run_of(timed(3, 10), untimed(1, "unsupported"), at="2026-01-02T00:00:00Z")
    second = run_of(timed(2, 10), at="2026-01-01T00:00:00Z")
    joined = merge([first, second])
    assert joined.results == (*first.results, *second.results)
    assert joined.at == "2026-01-01T00:00:00Z"
    assert (joined.device, joined.versions) == (H200, first.versions)


def test_merging_one_part_gives_it_back() -> None:
    part = run_of(timed(1, 10), ceilings=Ceilings(4000.0, 700.0))
    assert merge([part]) == part


def test_highest_ceilings_are_kept_and_missing_ones_do_not_count() -> None:
    parts = [
        run_of(timed(1, 10), ceilings=Ceilings(4000.0, 690.0)),
        run_of(timed(2, 10)),
        run_of(timed(3, 10), ceilings=Ceilings(3900.0, 700.0)),
    ]
    assert merge(parts).ceilings == Ceilings(4000.0, 700.0)
    assert merge([parts[1]]).ceilings is None
    new = [
        run_of(ceilings=Ceilings(1.0, 1.0, read_gbps=2.0, by_accumulator={"int32": 3.0, "fp8-fast": 5.0})),
        run_of(ceilings=Ceilings(1.0, 1.0, read_gbps=4.0, by_accumulator={"int32": 4.0})),
        run_of(ceilings=Ceilings(1.0, 1.0)),
    ]
    joined = merge(new).ceilings
    assert joined is not None
    assert (joined.read_gbps, joined.by_accumulator) == (4.0, {"int32": 4.0, "fp8-fast": 5.0})


def test_ceilings_of_different_dtypes_are_refused() -> None:
    parts = [run_of(ceilings=Ceilings(1.0, 1.0)), run_of(ceilings=Ceilings(1.0, 1.0, "float32"))]
    with pytest.raises(CannotCombine, match="bfloat16 and float32"):
        merge(parts)


def test_an_identical_case_is_kept_once_and_a_different_one_refused_by_name() -> None:
    same = run_of(timed(1, 10), timed(2, 10))
    assert merge([same, run_of(timed(2, 10), timed(3, 10))]).results == (
        timed(1, 10),
        timed(2, 10),
        timed(3, 10),
    )
    with pytest.raises(CannotCombine, match=r"more than one part: op/p\[m=2\]; leave out one part"):
        merge([same, run_of(timed(2, 10.5))])


def test_many_repeated_cases_are_counted() -> None:
    parts = [run_of(*(timed(m, us) for m in range(1, 31))) for us in (10, 11)]
    with pytest.raises(CannotCombine, match=r"op/p\[m=10\] and 20 more"):
        merge(parts)


def test_parts_of_another_device_are_refused() -> None:
    with pytest.raises(CannotCombine, match=r"part 2 was taken on nvidia-h100\S+, part 1 on nvidia-h200"):
        merge([run_of(timed(1, 10)), run_of(timed(2, 10), device=H100)])


@pytest.mark.parametrize("name", ["torch", "triton"])
@pytest.mark.parametrize("other", ["9.9", None])
def test_parts_of_another_torch_or_triton_are_refused(name: str, other: str | None) -> None:
    versions = {"torch": "2.13.0", "triton": "3.7.1"}
    changed = {**versions, name: other} if other else {key: versions[key] for key in versions if key != name}
    with pytest.raises(CannotCombine, match=rf"part 3 used {name} {other or 'none'}, part 1"):
        merge([run_of(versions=versions), run_of(versions=versions), run_of(versions=changed)])


def test_other_versions_may_differ_and_are_all_kept() -> None:
    versions = {"torch": "2.13.0", "triton": "3.7.1", "driver": "580", "vllm": "1"}
    joined = merge([run_of(timed(1, 10)), run_of(timed(2, 10), versions=versions)])
    assert joined.versions == {"torch": "2.13.0", "triton": "3.7.1", "driver": "570 | 580", "vllm": "1"}


def test_nothing_to_merge_is_refused() -> None:
    with pytest.raises(CannotCombine, match="no runs to merge"):
        merge([])
