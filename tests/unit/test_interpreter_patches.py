"""Each repair is applied where its defect is, and stays off where it is not."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest
import triton
import triton.language as tl
from triton.runtime import interpreter

import qbench.interpreter
from qbench.interpreter.patch import apply_patches
from qbench.interpreter.repairs import ALL

VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])
DEFECTS = [patch for patch in ALL if patch.defect is not None]


@pytest.fixture(scope="module", autouse=True)
def repaired() -> None:
    qbench.interpreter.repair()


def stand_in(**replaced: Any) -> types.SimpleNamespace:
    """The repaired interpreter, its classes one's own, with some methods of the builder replaced."""
    builder = type("Builder", (interpreter.InterpreterBuilder,), replaced)
    semantic = type("Semantic", (interpreter.TritonSemantic,), {})
    executor = type("Executor", (interpreter.GridExecutor,), {})
    named = {"InterpreterBuilder": builder, "TritonSemantic": semantic, "GridExecutor": executor}
    return types.SimpleNamespace(**{**vars(interpreter), **named})


@pytest.mark.parametrize("patch", DEFECTS, ids=lambda patch: patch.name)
def test_a_fixed_interpreter_is_left_alone(patch: Any) -> None:
    fixed = stand_in()
    before = {name: dict(vars(value)) for name, value in vars(fixed).items() if isinstance(value, type)}
    modules = dict(vars(fixed))
    (state,) = apply_patches(fixed, (patch,))
    assert not state.active
    assert state.repairs_a_defect
    assert vars(fixed) == modules
    assert before == {
        name: dict(vars(value)) for name, value in vars(fixed).items() if isinstance(value, type)
    }


def truncates(self: Any, src: Any, dst_type: Any) -> Any:
    """fp32 -> bf16 as the stock interpreter does it."""
    if src.dtype.scalar == tl.float32 and dst_type.scalar == tl.bfloat16:
        return interpreter.TensorHandle((src.data.view(np.uint32) >> 16).astype(np.uint16), tl.bfloat16)
    return interpreter.InterpreterBuilder.cast_impl(self, src, dst_type)


def to_float8(change: Any) -> Any:
    """A cast that is right but for what `change` does to the codes, given the values."""

    def cast(self: Any, src: Any, dst_type: Any, rounding: Any) -> Any:
        made = interpreter.InterpreterBuilder.create_fp_to_fp(self, src, dst_type, rounding)
        if made.dtype == tl.float8e4nv:
            made.data = change(made.data, src.data.astype(np.float32))
        return made

    return cast


def refuses(self: Any, *args: Any) -> Any:
    raise NotImplementedError("not supported in interpreter mode")


def e8m0_alone(self: Any, lhs: Any, lhs_scale: Any, *rest: Any) -> Any:
    """E4M3 scales read as E8M0."""
    if lhs_scale is not None:
        lhs_scale = interpreter.TensorHandle(lhs_scale.data.view(np.uint8), tl.uint8)
    return interpreter.InterpreterBuilder.create_dot_scaled(self, lhs, lhs_scale, *rest)


def by(op: Any) -> Any:
    return lambda self, lhs, rhs: self.binary_op(lhs, rhs, op)


@pytest.mark.parametrize(
    ("name", "method", "broken"),
    [
        ("bf16 casts", "cast_impl", truncates),
        ("fp8 casts", "create_fp_to_fp", to_float8(lambda codes, x: np.where(x == 20.0, 0x5A + 1, codes))),
        ("fp8 casts", "create_fp_to_fp", to_float8(lambda codes, x: np.where(x == 2.0**-10, 1, codes))),
        ("fp8 casts", "create_fp_to_fp", to_float8(lambda codes, x: np.where(np.isnan(x), 0x7E, codes))),
        ("fp8 casts", "create_fp_to_fp", to_float8(lambda codes, x: np.where(x == 1e30, 0x7F, codes))),
        ("bf16 constants", "get_bf16", lambda self, x: interpreter.TensorHandle(np.array([0x3FD9], "u2"), tl.bfloat16)),
        ("fma", "create_fma", lambda self, x, y, z: self.create_fadd(self.create_fmul(x, y), z)),
        ("minimum and maximum", "create_maxnumf", by(np.maximum)),
        ("minimum and maximum", "create_minnumf", by(np.minimum)),
        ("clamp", "create_clampf", lambda self, x, lo, hi, nan: self.ternary_op(x, lo, hi, np.clip)),
        ("dot", "create_dot", lambda self, a, b, d, *_: interpreter.TensorHandle(a.data @ b.data + d.data, d.dtype)),
        ("dot_scaled", "create_dot_scaled", e8m0_alone),
        ("int1 arithmetic", "create_add", lambda self, a, b: interpreter.TensorHandle(a.data | b.data, a.dtype)),
        ("umulhi", "create_umulhi", lambda self, a, b: interpreter.TensorHandle(a.data * 0 - 1, a.dtype)),
        ("inline assembly", "create_inline_asm", refuses),
        ("libdevice", "create_extern_elementwise", refuses),
    ],
)  # fmt: skip
def test_one_defect_brings_back_its_own_patch_alone(name: str, method: str, broken: Any) -> None:
    states = apply_patches(stand_in(**{method: broken}), tuple(DEFECTS))
    active = [state.name for state in states if state.active]
    assert active == [name]


def test_a_defect_of_the_reductions_brings_back_its_patch() -> None:
    def of_bits(self: Any, x: Any) -> Any:
        return self.to_tensor(np.sum(x.handle.data, axis=self.axis), x.dtype)

    stand = stand_in()
    stand.ReduceOps = type("Reduce", (interpreter.ReduceOps,), {"sum": of_bits})
    stand.ScanOps = type("Scan", (interpreter.ScanOps,), {})
    assert [state.name for state in apply_patches(stand, tuple(DEFECTS)) if state.active] == [
        "bf16 reductions"
    ]
    assert "sum" in vars(stand.ReduceOps) and stand.ReduceOps.sum is not of_bits


def test_a_patch_repairs_the_defect_that_its_probe_finds() -> None:
    for patch in DEFECTS:
        assert patch.defect is not None
        assert not patch.defect(interpreter), patch.name


def test_the_report_tells_what_this_version_of_triton_needs() -> None:
    active = {state.name for state in qbench.interpreter.patches() if state.active}
    everywhere = {
        "fp8 casts", "bf16 casts", "comparisons", "bf16 operators", "fma", "NaN", "bf16 reductions", "dot",
        "dot_scaled", "inline assembly", "libdevice", "launches", "overflow checks", "guards",
    }  # fmt: skip
    until_3_7 = {
        "bf16 constants",
        "minimum and maximum",
        "clamp",
        "dot_scaled formats",
        "int1 arithmetic",
        "umulhi",
    }
    if VERSION <= (3, 7):
        assert active - {"range of a tensor"} == everywhere | until_3_7
    elif VERSION == (3, 8):
        assert active - {"range of a tensor"} == everywhere | {"bf16 constants", "int1 arithmetic", "umulhi"}
    elif VERSION == (3, 9):
        assert active == everywhere
    else:
        assert active <= everywhere
    assert all(state.prevents for state in qbench.interpreter.patches())
