"""Bytes and flops counted in Triton's IR: loops, branches, accesses, on text as Triton 3.6 to 3.9 print it."""

from __future__ import annotations

import pytest

from qbench.aot.ttir import Cost, cost


def kernel(
    body: str, arguments: str = "%p: !tt.ptr<f32> {tt.divisibility = 16 : i32} loc(unknown), %n: i32"
) -> str:
    head = f"module {{\n  tt.func public @k({arguments}) attributes {{noinline = false}} {{"
    return f"{head}\n{body}\n    tt.return\n  }}\n}}"


LOAD = "%x = tt.load %ps : tensor<128x!tt.ptr<f16>> loc(#loc2)"  # 256 bytes


def read(body: str, n: int | None = None, grid: tuple[int, int, int] = (1, 1, 1)) -> int | None:
    return cost(kernel(body), [None, n], grid).bytes_read


ATOMIC = "(tensor<8x!tt.ptr<f32>>, tensor<8xf32>, tensor<8xi1>) -> tensor<8xf32>"
SCALED = "tensor<128x64xi8>, tensor<128x8xf8E4M3FN> * tensor<64x128xi8>, tensor<128x8xf8E4M3FN>"
MIXED = "tensor<128x64xf8E4M3FN>, tensor<128x2xi8> * tensor<64x128xbf16>"


@pytest.mark.parametrize(
    ("operation", "types", "expected"),
    [
        ("%x = tt.load %p, %m", "tensor<128x!tt.ptr<f16>> loc(#loc2)", Cost(256, 0, 0)),
        ("%x = tt.load %p", "!tt.ptr<f32> loc(#loc)", Cost(4, 0, 0)),
        ("%x = tt.load %p, %m, %o evictionPolicy = evict_last", "tensor<4x32x!tt.ptr<i8>>", Cost(128, 0, 0)),
        ("tt.store %p, %v, %m", "tensor<8x!tt.ptr<bf16>> loc(#loc)", Cost(0, 16, 0)),
        ("tt.store %p, %v", "!tt.ptr<i1>", Cost(0, 1, 0)),
        ("%x = tt.atomic_rmw fadd, acq_rel, gpu, %p, %v, %m", ATOMIC, Cost(32, 32, 0)),
        (
            "%x = tt.descriptor_load %d[%i, %j]",
            "!tt.tensordesc<tensor<64x32xf8E4M3FN>> -> tensor<64x32xf8E4M3FN>",
            Cost(2048, 0, 0),
        ),
        (
            "%x = tt.descriptor_load %d[%i, %j]",
            "!tt.tensordesc<64x32xf16> -> tensor<64x32xf16>",
            Cost(4096, 0, 0),
        ),
        (
            "tt.descriptor_store %d[%i, %j], %v",
            "!tt.tensordesc<tensor<64x32xbf16>>, tensor<64x32xbf16>",
            Cost(0, 4096, 0),
        ),
        (
            "%x = tt.dot %a, %b, %c, inputPrecision = tf32",
            "tensor<128x64xbf16> * tensor<64x32xbf16> -> tensor<128x32xf32>",
            Cost(0, 0, 2 * 128 * 64 * 32),
        ),
        (
            "%x = tt.dot %a, %b, %c",
            "tensor<4x16x64xf16> * tensor<4x64x32xf16> -> tensor<4x16x32xf32>",
            Cost(0, 0, 2 * 4 * 16 * 64 * 32),
        ),
        (
            "%x = tt.dot_scaled %a scale %s, %b scale %t, %c lhs = e2m1 rhs = e2m1 {fastMath = false}",
            f"{SCALED} -> tensor<128x128xf32>",
            Cost(0, 0, 2 * 128 * 128 * 128),
        ),
        (
            "%x = tt.dot_scaled %a scale %s, %b, %c lhs = e4m3 rhs = bf16",
            f"{MIXED} -> tensor<128x128xf32>",
            Cost(0, 0, 2 * 128 * 64 * 128),
        ),
    ],
)
def test_accesses_and_products(operation: str, types: str, expected: Cost) -> None:
    assert cost(kernel(f"{operation} : {types}"), [None, None], (1, 1, 1)) == expected


LOOP = f"""
    %c0 = arith.constant 0 : i32
    %c32 = arith.constant 32 : i32
    %r = scf.for %i = %c0 to %n step %c32 iter_args(%s = %z) -> (tensor<128xf32>)  : i32 {{
      {LOAD}
      scf.yield %x : tensor<128xf32>
    }} loc(#loc3)
"""


@pytest.mark.parametrize(("n", "trips"), [(0, 0), (-5, 0), (1, 1), (32, 1), (33, 2), (8192, 256)])
def test_a_loop_is_multiplied_by_its_trips(n: int, trips: int) -> None:
    assert read(LOOP, n) == 256 * trips


def test_an_unknown_trip_count_is_told_by_none() -> None:
    found = cost(kernel(LOOP + "tt.store %p, %v : !tt.ptr<f32>"), [None, None], (1, 1, 1))
    assert found == Cost(None, 4, 0)


def test_bounds_are_computed() -> None:
    body = f"""
    %c127 = arith.constant 127 : i32
    %c128 = arith.constant 128 : i32
    %c0 = arith.constant 0 : i32
    %c1 = arith.constant 1 : i32
    %a = arith.addi %n, %c127 : i32
    %b = arith.divsi %a, %c128 : i32
    scf.for %i = %c0 to %b step %c1  : i32 {{
      {LOAD}
    }}
    """
    assert read(body, 1000) == 8 * 256


def test_the_program_is_one_from_the_middle_of_the_grid() -> None:
    body = f"""
    %pid = tt.get_program_id x : i32
    %np = tt.get_num_programs x : i32
    scf.for %i = %pid to %n step %np  : i32 {{
      {LOAD}
    }}
    %c0 = arith.constant 0 : i32
    %first = arith.cmpi eq, %pid, %c0 : i32
    scf.if %first {{
      {LOAD}
    }}
    """
    assert read(body, 100, (8, 1, 1)) == 12 * 256  # program 4 takes 4, 12, ..., 92
    assert read(body, 100, (1, 1, 1)) == 101 * 256


def test_branches() -> None:
    body = f"""
    %c5 = arith.constant 5 : i32
    %is = arith.cmpi sgt, %n, %c5 : i32
    %r = scf.if %is -> (i32) {{
      {LOAD}
      scf.yield %c5 : i32
    }} else {{
      scf.yield %n : i32
    }}
    %c0 = arith.constant 0 : i32
    %c1 = arith.constant 1 : i32
    scf.for %i = %c0 to %r step %c1  : i32 {{
      {LOAD}
    }}
    """
    assert read(body, 9) == (1 + 5) * 256
    assert read(body, 3) == 3 * 256
    assert read(body, None) is None
    assert (
        read(f"%u = tt.load %p : !tt.ptr<i1>\nscf.if %u {{\n{LOAD}\n}} else {{\n}}") == 1 + 256
    )  # the larger


def test_nested_loops_that_depend_on_each_other() -> None:
    body = f"""
    %c0 = arith.constant 0 : i32
    %c1 = arith.constant 1 : i32
    scf.for %i = %c0 to %n step %c1  : i32 {{
      scf.for %j = %i to %n step %c1  : i32 {{
        {LOAD}
      }}
    }}
    """
    assert read(body, 10) == 55 * 256


def test_reductions_have_regions_that_count_for_nothing() -> None:
    body = f"""
    {LOAD}
    %m = "tt.reduce"(%x) <{{axis = 0 : i32}}> ({{
    ^bb0(%a: f32 loc(#loc), %b: f32 loc(#loc)):
      %c = arith.maxnumf %a, %b : f32 loc(#loc)
      tt.reduce.return %c : f32 loc(#loc)
    }}) : (tensor<128xf32>) -> f32 loc(#loc)
    tt.store %p, %m : !tt.ptr<f32> loc(#loc)
    """
    assert cost(kernel(body), [None, None], (1, 1, 1)) == Cost(256, 4, 0)


def test_a_loop_over_data_is_unknown() -> None:
    body = f"""
    %r = scf.while (%at = %n) : (i32) -> i32 {{
      %go = arith.cmpi sgt, %at, %n : i32
      scf.condition(%go) %at : i32
    }} do {{
    ^bb0(%at: i32):
      {LOAD}
      scf.yield %at : i32
    }}
    tt.store %p, %v : !tt.ptr<f32>
    """
    assert cost(kernel(body), [None, 5], (1, 1, 1)) == Cost(None, 4, 0)


def test_functions_that_are_not_inlined_are_followed() -> None:
    text = kernel('%r = tt.call @"m.f"(%p, %n) : (!tt.ptr<f32>, i32) -> f32').removesuffix("}")
    body = LOOP.replace("%n", "%count")
    text += '  tt.func private @"m.f"(%q: !tt.ptr<f32>, %count: i32) -> f32 attributes {noinline = true} {'
    text += f"\n{body}\n  tt.return %v : f32\n  }}\n}}"
    assert cost(text, [None, 64], (1, 1, 1)) == Cost(512, 0, 0)
