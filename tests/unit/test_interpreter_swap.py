"""Interpreting and compiling the same kernels in one process, whichever of the two it was started for."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

import qbench.interpreter
import qkernels.triton
from qkernels.format import NVFP4
from qkernels.quantize import quantize
from qkernels.triton.fp4_gemm import fp4_gemm
from tests.unit import interpreter_kernels as kernels

ROOT = Path(__file__).resolve().parents[2]
STARTED_INTERPRETED = triton.knobs.runtime.interpret
interpreted_only = pytest.mark.skipif(not STARTED_INTERPRETED, reason="this process was started to compile")


@pytest.fixture(scope="module", autouse=True)
def repaired() -> None:
    qbench.interpreter.repair()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise an earlier run's file would be read, and nothing compiled."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def names() -> dict[tuple[str, str], int]:
    """The identity of everything that exchanging could change."""
    owners: list[tuple[str, dict[str, Any]]] = [
        (name, vars(module))
        for name, module in sorted(sys.modules.items())
        if module is not None and name.startswith(("triton.language", "qkernels.triton", kernels.__name__))
    ]
    owners += [
        ("tensor", dict(vars(tl.tensor))),
        ("dtype", dict(vars(tl.dtype))),
        ("wrapped", vars(kernels.copy_kernel)),
    ]
    owners += [("knobs", vars(triton.knobs.runtime))]
    # Asking for a class's annotations makes them; a launch restores an inherited method as the class's own.
    same_by_another_way = {"__annotations__", "__repr__", "__str__"}
    return {
        (owner, name): id(value)
        for owner, found in owners
        for name, value in found.items()
        if name not in same_by_another_way
    }


def row_sums_are_right() -> None:
    x, out = torch.arange(2 * 300, dtype=torch.float32).reshape(2, 300), torch.empty(2, 3)
    kernels.row_kernel[(2,)](x, out, x.stride(0), 300, BLOCK=128)
    assert torch.equal(out, torch.stack([x.sum(1), x.amax(1), x.amax(1)], dim=1))


def everything_runs_interpreted() -> None:
    """Functions, methods, reductions, another module's functions, wrapped kernels, launchers' own questions."""
    row_sums_are_right()
    x, codes = torch.tensor([0.25, 0.75, -5.0, 6.1]), torch.empty(4, dtype=torch.uint8)
    kernels.code_kernel[(1,)](x, codes, BLOCK=4)
    assert codes.tolist() == [0, 2, 14, 7]
    out, bits = torch.empty(4), torch.empty(4, dtype=torch.int32)
    kernels.copy_kernel[(1,)](x, out, 4)
    assert torch.equal(out, x)
    kernels.libdevice_kernel[(1,)](x, out, bits, BLOCK=4)
    assert out.tolist() == [1.0, 2.0, 0.0, 69.0]
    a, b = torch.eye(16), quantize(torch.arange(32).reshape(2, 16).float(), NVFP4)
    assert torch.equal(fp4_gemm(a, b, out_dtype=torch.float32), b.dequantize().T)


@interpreted_only
def test_a_process_started_to_interpret_can_compile() -> None:
    row_sums_are_right()
    before = names()
    for _ in range(2):
        with qbench.interpreter.compiled(kernels):
            assert not triton.knobs.runtime.interpret
            assert not qbench.interpreter.is_interpreted(kernels.row_kernel)
            assert ".entry row_kernel" in kernels.compile_row_kernel()
        assert names() == before
        row_sums_are_right()


@interpreted_only
def test_blocks_nest() -> None:
    before = names()
    with qbench.interpreter.compiled(kernels, qkernels.triton):
        outer = names()
        with qbench.interpreter.interpreted(kernels, qkernels.triton):
            everything_runs_interpreted()
        assert names() == outer
        assert ".entry row_kernel" in kernels.compile_row_kernel()
    assert names() == before


def test_an_error_inside_puts_everything_back() -> None:
    before = names()
    with (
        pytest.raises(ZeroDivisionError),
        qbench.interpreter.interpreted(kernels),
        qbench.interpreter.compiled(kernels),
    ):
        raise ZeroDivisionError
    assert names() == before


@pytest.mark.parametrize("name", ["late", "late_too"])
def test_a_module_imported_inside_is_as_if_it_was_imported_outside(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "import triton\nimport triton.language as tl\n@triton.jit\ndef kernel(p):\n    tl.store(p, 1.0)\n"
    )
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with qbench.interpreter.compiled(), qbench.interpreter.interpreted():
        late = __import__(name)
        assert qbench.interpreter.is_interpreted(late.kernel)
        out = torch.empty(1)
        late.kernel[(1,)](out)
        assert float(out) == 1.0
    assert qbench.interpreter.is_interpreted(late.kernel) == STARTED_INTERPRETED


@interpreted_only
def test_a_kernel_that_first_ran_in_a_block_runs_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first_inside.py").write_text(
        "import triton\nimport triton.language as tl\n@triton.jit\ndef kernel(p):\n"
        "    x = tl.load(p)\n    tl.store(p, x + 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    first, out = importlib.import_module("first_inside"), torch.zeros(1)
    with qbench.interpreter.compiled(first), qbench.interpreter.interpreted(first):
        first.kernel[(1,)](out)
    first.kernel[(1,)](out)
    with qbench.interpreter.compiled(first), qbench.interpreter.interpreted(first):
        first.kernel[(1,)](out)
    assert float(out) == 3


CYCLE = """
import json, os
assert "TRITON_INTERPRET" not in os.environ
import torch, triton
import qbench.interpreter, qkernels.triton
from tests.unit import interpreter_kernels as kernels, test_interpreter_swap as test

steps = [".entry row_kernel" in kernels.compile_row_kernel()]  # imports what compiling takes
before = test.names()
for modules, run in (
    ((kernels,), test.row_sums_are_right),
    ((kernels, qkernels.triton), test.everything_runs_interpreted),
):
    steps.append(".entry row_kernel" in kernels.compile_row_kernel())
    with qbench.interpreter.interpreted(*modules):
        run()
    steps.append(not qbench.interpreter.is_interpreted(kernels.row_kernel))
    steps.append(test.names() == before)
kernels.row_kernel.device_caches.clear()
steps.append(".entry row_kernel" in kernels.compile_row_kernel())
try:
    kernels.row_kernel[(1,)](torch.ones(1, 1), torch.ones(3), 1, 1, BLOCK=16)
    steps.append(False)
except Exception as error:  # no driver, or CPU tensors: whichever Triton finds first
    steps.append("InterpreterError" not in type(error).__name__)
steps.append("TRITON_INTERPRET" not in os.environ)
print(json.dumps(steps))
"""


def test_a_process_started_to_compile_can_interpret(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join([*sys.path, str(ROOT), str(ROOT / "kernels")])
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", CYCLE], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [True] * 10


@pytest.mark.parametrize("bad", ["qkernels.triton", kernels.row_kernel])
def test_only_modules_are_exchanged(bad: Any) -> None:
    with (
        pytest.raises(TypeError, match="pass the modules whose kernels are meant"),
        qbench.interpreter.interpreted(bad),
    ):
        pass


@interpreted_only
def test_what_the_stock_interpreter_left_behind_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tl.core, "load", lambda *args: None)
    with (
        pytest.raises(RuntimeError, match=r"call qbench\.interpreter\.repair\(\) before"),
        qbench.interpreter.compiled(),
    ):
        pass


def test_a_kernel_says_whether_it_is_interpreted() -> None:
    for kernel in (kernels.row_kernel, kernels.copy_kernel):
        assert qbench.interpreter.is_interpreted(kernel) == STARTED_INTERPRETED
    with qbench.interpreter.interpreted(kernels):
        assert qbench.interpreter.is_interpreted(kernels.copy_kernel)
    with pytest.raises(TypeError, match="is no kernel"):
        qbench.interpreter.is_interpreted(types.SimpleNamespace())


def test_importing_the_package_imports_neither_triton_nor_torch() -> None:
    code = "import sys, qbench.interpreter; print({'triton', 'torch'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
    with pytest.raises(AttributeError, match="no attribute 'repare'"):
        _ = qbench.interpreter.repare
