"""Inline assembly and libdevice in the interpreter: by registered meanings, or a clear error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from qbench.interpreter import calls, interpreted, libdevice, register_extern, register_inline_asm
from tests.unit import interpreter_kernels as kernels

ASM = "{ add.s32 $0, $2, $3;  and.b32 $1, $0, 255; }"


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> Iterator[None]:
    with interpreted(kernels):
        yield


@pytest.fixture(autouse=True)
def own_meanings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_assembly", {})
    monkeypatch.setattr(calls, "_extern", {})


def run_assembly(asm: str = ASM) -> tuple[list[int], list[int]]:
    a, b = torch.arange(4, dtype=torch.int32) * 100, torch.full((4,), 7, dtype=torch.int32)
    out, low = torch.empty_like(a), torch.empty_like(a)
    kernels.assembly_kernel[(1,)](a, b, out, low, ASM=asm, BLOCK=4)
    return out.tolist(), low.tolist()


def test_inline_assembly_has_the_meaning_it_was_given() -> None:
    register_inline_asm(ASM, lambda a, b: (a + b, (a + b) & 255))
    expected = ([7, 107, 207, 307], [7, 107, 207, 51])
    assert run_assembly() == expected
    assert run_assembly("{ add.s32 $0, $2, $3;\n    and.b32 $1, $0, 255; }") == expected
    register_inline_asm(ASM, lambda a, b: (a, b))
    assert run_assembly() == ([0, 100, 200, 300], [7] * 4)


def test_unregistered_assembly_is_an_error_that_names_the_remedy() -> None:
    with pytest.raises(Exception, match=r"add\.s32 \$0, \$2, \$3.*qbench\.interpreter\.register_inline_asm"):
        run_assembly()


@pytest.mark.parametrize(
    ("meaning", "message"),
    [
        (lambda a, b: a, "gave 1 results, the kernel wants 2"),
        (lambda a, b: (a[:2], b), r"gave shape \(2,\) for arguments of shape \(4,\)"),
        (lambda a, b: (a, b * 0.5), r"gave float64; convert it to int32"),
    ],
)
def test_a_meaning_of_another_shape_or_type_is_an_error(meaning: Any, message: str) -> None:
    register_inline_asm(ASM, meaning)
    with pytest.raises(Exception, match=message):
        run_assembly()


def test_libdevice_functions_are_numpys() -> None:
    x = torch.tensor([-1.5, 0.0, 1.3, 2.6])
    out, bits = torch.empty(4), torch.empty(4, dtype=torch.int32)
    kernels.libdevice_kernel[(1,)](x, out, bits, BLOCK=4)
    assert torch.equal(out, torch.exp2(x).round())
    assert bits.tolist() == [bin(int(v) & 0xFFFFFFFF).count("1") for v in x.view(torch.int32)]


def test_an_unknown_function_is_an_error_and_may_be_given_a_meaning() -> None:
    x, out = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.empty(4)
    with pytest.raises(Exception, match=r"'__nv_j0f' means.*qbench\.interpreter\.register_extern"):
        kernels.j0_kernel[(1,)](x, out, BLOCK=4)
    register_extern("__nv_j0f", np.negative)
    kernels.j0_kernel[(1,)](x, out, BLOCK=4)
    assert torch.equal(out, -x)


def test_the_meanings_of_libdevice_against_python() -> None:
    meaning = libdevice.FUNCTIONS
    x = np.array([-2.5, -0.5, -0.0, 0.3, 0.5, 1.5, 2.5, 7.0], dtype=np.float32)

    def plain(name: str, value: float) -> float:
        return float({"exp": math.exp, "tanh": math.tanh, "erf": math.erf, "cbrt": np.cbrt, "floor": math.floor,
                      "trunc": math.trunc, "expm1": math.expm1, "rint": round}[name](value))  # fmt: skip

    for name in ("exp", "tanh", "erf", "cbrt", "floor", "trunc", "expm1", "rint"):
        found = meaning[f"__nv_{name}f"](x)
        assert found.dtype == np.float32
        assert np.array_equal(found, np.array([plain(name, v) for v in x.tolist()], dtype=np.float32)), name
    assert meaning["__nv_roundf"](x).tolist() == [-3.0, -1.0, 0.0, 0.0, 1.0, 2.0, 3.0, 7.0]
    assert meaning["__nv_rsqrtf"](np.float32([4.0])).tolist() == [0.5]
    assert meaning["__nv_fmaf"](*np.float32([[1 + 2**-12]] * 2), np.float32([-1 - 2**-11])).tolist() == [
        2.0**-24
    ]
    integers = np.array([0, 1, -1, 255, 1 << 30], dtype=np.int32)
    assert meaning["__nv_clz"](integers).tolist() == [32, 31, 0, 24, 1]
    assert meaning["__nv_popc"](integers).tolist() == [0, 1, 32, 8, 1]
    assert meaning["__nv_brev"](integers).tolist() == [0, -(1 << 31), -1, -(1 << 24), 2]
    wild = np.array([2.5, -2.5, 3e9, -3e9, np.nan], dtype=np.float32)
    assert meaning["__nv_float2int_rn"](wild).tolist() == [2, -2, 2**31 - 1, -(2**31), 0]
    assert meaning["__nv_float2int_rz"](wild)[:2].tolist() == [2, -2]
    assert meaning["__nv_float2int_ru"](wild)[:2].tolist() == [3, -2]
    assert meaning["__nv_float2int_rd"](wild)[:2].tolist() == [2, -3]
    assert meaning["__nv_saturatef"](wild).tolist() == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert meaning["__nv_isnanf"](wild).tolist() == [0, 0, 0, 0, 1]
    assert meaning["__nv_float_as_int"](np.float32([1.0])).tolist() == [0x3F800000]
