"""What the tests of mismatch reports share: running the lines of Python that a report ends with."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import textwrap
from typing import Any

import pytest
import torch
from torch import Tensor

from qbench import Mismatch
from qkernels import reference
from qkernels.compare import compare_quantized
from qkernels.format import NVFP4, Format
from qkernels.ops.gemm import product_bound
from qkernels.quantize import quantize
from qkernels.tensor import QTensor


def run(problem: Mismatch) -> tuple[dict[str, Any], str]:
    """The names that the report's own lines define, and what they print."""
    _, _, code = problem.details.partition("to reproduce:\n")
    assert code, problem.details
    lines = textwrap.dedent(code).splitlines()
    assert len(lines) <= 12
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec("\n".join(lines), names)  # the lines are there to be run
    return names, printed.getvalue()


def report(output: QTensor, x: Tensor, fmt: Format, **options: Any) -> str:
    """The details of the mismatch; its lines of Python are run."""
    problem = compare_quantized(output, x, fmt, **options)
    assert problem is not None
    run(problem)
    return problem.details


def normal(rows: int, k: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, k, generator=torch.Generator().manual_seed(seed))


def with_scale(q: QTensor, scale: Tensor) -> QTensor:
    return dataclasses.replace(q, scale=scale.contiguous())


def judge(out: Tensor, *operands: Any) -> Mismatch:
    """The mismatch of a product of operands (a, b) or (a, b, bias)."""
    problem = product_bound(roundings=0, out_dtype=out.dtype)(out, operands, reference.matmul)
    assert problem is not None
    return problem


def product_details(out: Tensor, *operands: Any) -> str:
    """Its details; its lines of Python are run, and give what is expected of the first wrong element."""
    problem = judge(out, *operands)
    names, printed = run(problem)
    assert "expected" in printed and "found" in printed
    row, column = map(int, problem.details.split("at (")[1].split(")")[0].split(", "))
    assert float(names["expected"]) == pytest.approx(
        float(reference.matmul(*operands)[row, column]), rel=1e-9
    )
    return problem.details


def product(*operands: Any, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The right one."""
    return reference.matmul(*operands).float().to(dtype)


def pair(fmt: Format = NVFP4, other: Format | None = None) -> tuple[QTensor, QTensor]:
    """Operands [9, 128] and [11, 128]."""
    return quantize(normal(9, 128, 1), other or fmt), quantize(normal(11, 128, 2), fmt)
