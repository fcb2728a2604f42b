"""Sheets: the right results beside each other, nothing hidden."""

from __future__ import annotations

import pytest

from qbench.report import (
    make_sheets,
)
from tests.reports import hadamard, result, sweep, with_


def test_one_sheet_per_op_and_fixed_axes_with_the_companion_joined_to_each() -> None:
    sheets = make_sheets(sweep().results)
    assert [(sheet.op, sheet.x, dict(sheet.fixed)) for sheet in sheets] == [
        ("nvfp4_hadamard_gemm", "m", {"n": 8192, "k": 4096, "had": had}) for had in (16, 32)
    ]
    for sheet in sheets:
        assert [line.label for line in sheet.lines] == ["bf16_gemm/torch-bf16", "nvfp4", "vllm"]
        assert sheet.reference == "bf16_gemm/torch-bf16"
        assert sheet.xs == (1, 16, 256)


def test_companion_of_another_shape_does_not_join_and_keeps_its_own_sheet() -> None:
    sheets = make_sheets(
        [
            hadamard("nvfp4", 10.0, 1, 16),
            hadamard("nvfp4", 11.0, 2, 16),
            result("bf16_gemm", "torch-bf16", 5.0, m=1, n=64, k=64),
            result("bf16_gemm", "torch-bf16", 6.0, m=2, n=64, k=64),
        ]
    )
    assert [(sheet.op, len(sheet.lines)) for sheet in sheets] == [
        ("nvfp4_hadamard_gemm", 1),
        ("bf16_gemm", 1),
    ]
    assert sheets[0].reference is None


def test_companion_keeps_its_sheet_when_some_of_it_is_shown_nowhere_else() -> None:
    shared = result("bf16_gemm", "torch-bf16", 5.0, m=1, n=8192, k=4096)
    alone = result("bf16_gemm", "torch-bf16", 5.0, m=4, n=8192, k=4096)
    sheets = make_sheets([hadamard("nvfp4", 10.0, 1, 16), shared, alone])
    assert [sheet.op for sheet in sheets] == ["nvfp4_hadamard_gemm", "bf16_gemm"]
    assert sheets[0].xs == (1,), "a companion adds no batch size that the op itself was not run at"


def test_two_ops_alongside_each_other_both_keep_their_sheets() -> None:
    a = with_(result("a", "p", 1.0, m=1), alongside=("b",))
    b = with_(result("b", "p", 2.0, m=1), alongside=("a",))
    assert [sheet.op for sheet in make_sheets([a, b])] == ["a", "b"]


def test_only_the_reference_stands_beside_every_rotation() -> None:
    """Another op's unrotated result is not this rotation's: drawn here it would pass for it."""
    own = [with_(hadamard("triton", 1.0, 1, had), alongside=("bf16_gemm", "plain")) for had in (16, 32)]
    shape = {name: value for name, value in own[0].axes.items() if name != "had"}
    lent = [result("bf16_gemm", "torch", 2.0, **shape), result("plain", "triton", 3.0, **shape)]
    found = [sheet for sheet in make_sheets([*own, *lent]) if sheet.op == own[0].op]
    labels = {line.label for sheet in found for line in sheet.lines}
    assert labels == {"bf16_gemm/torch", "triton"}


def test_companion_with_more_axes_says_which() -> None:
    results = [with_(result("q", "p", 1.0, m=1), alongside=("c",))]
    results += [result("c", "p", 2.0, m=1, dtype=dtype) for dtype in ("half", "float")]
    sheet = make_sheets(results)[0]
    assert [line.label for line in sheet.lines] == ["c/p dtype=half", "p", "c/p dtype=float"]


def test_first_alongside_op_is_the_reference_and_a_later_one_never_takes_its_place() -> None:
    first, second = result("first", "p", 1.0, m=1), result("second", "p", 1.0, m=1)
    own = with_(result("own", "p", 1.0, m=1), alongside=("first", "second"))
    assert make_sheets([second, own, first])[0].reference == "first/p"
    assert make_sheets([second, own])[0].reference is None


@pytest.mark.parametrize(
    ("axes", "x"),
    [
        ([{"k": 1, "m": 2}], "m"),
        ([{"hidden": 1, "tokens": 2}], "tokens"),
        ([{"a": 1, "b": 1}, {"a": 1, "b": 2}], "b"),
        ([{}], ""),
    ],
)
def test_x_axis_is_m_then_tokens_then_the_axis_of_most_values(axes: list[dict[str, int]], x: str) -> None:
    sheets = make_sheets([result("op", "p", 1.0, **each) for each in axes])
    assert [sheet.x for sheet in sheets] == [x]


def test_numbers_are_ordered_by_size_and_words_as_they_came() -> None:
    assert make_sheets([result("op", "p", 1.0, m=m) for m in (256, 1, 16)])[0].xs == (1, 16, 256)
    words = ("half", "bfloat16", "float")
    assert make_sheets([result("op", "p", 1.0, dtype=word) for word in words])[0].xs == words


def test_sheets_of_one_point_are_folded_into_one_named_by_what_differs() -> None:
    cubes = [with_(result("g", "p", 1.0, m=s, n=s, k=s, bits=4), alongside=("bf16",)) for s in (128, 256)]
    cubes += [result("bf16", "t", 1.0, m=s, n=s, k=s) for s in (128, 256)]
    (sheet,) = make_sheets(cubes)
    assert (sheet.x, sheet.xs, sheet.fixed) == ("m×n×k", ("128×128×128", "256×256×256"), (("bits", 4),))
    assert [line.label for line in sheet.lines] == ["bf16/t", "p"]
    assert sheet.reference == "bf16/t"


def test_folding_over_a_single_number_keeps_it_a_number() -> None:
    (sheet,) = make_sheets([result("g", "p", 1.0, m=16, had=had) for had in (128, 16, 64)])
    assert (sheet.x, sheet.xs, sheet.numeric) == ("had", (16, 64, 128), True)


def test_the_same_case_twice_is_shown_twice() -> None:
    (sheet,) = make_sheets([result("op", "p", us, m=1) for us in (1.0, 2.0)])
    assert [line.label for line in sheet.lines] == ["p", "p #2"]


def test_every_result_is_on_some_sheet() -> None:
    run = sweep()
    shown = {point.case for sheet in make_sheets(run.results) for point in sheet.results}
    assert shown == {each.case for each in run.results}
