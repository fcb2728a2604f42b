"""Hopper's products of few rows, compiled for sm_90 without a GPU, as programs are made up; see test_gluon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget

from qbench.aot.driver import compilable, recording
from qbench.aot.in_flight import overwritten
from qbench.aot.reused import reused
from qbench.aot.sass import code_of, disassemble
from qkernels.format import MXFP4, NVFP4, Format
from qkernels.triton.fp4_few_plan import Few
from qkernels.triton.fp4_few_sm90 import fp4_few_sm90
from qkernels.triton.fp4_fragments import Fragments
from qkernels.triton.mxfp4_few_sm90 import mxfp4_few_sm90
from qkernels.triton.mxfp4_folded import FoldedRows, FoldedWeights
from qkernels.triton.quantized_result import Quantized
from tests.compile.test_gluon import lets_the_next_one_in_behind_a_wait

N, K = 8192, 8192
FOLDED = [
    (1, Few(2, 1, 4, 4)), (16, Few(2, 1, 4, 4)), (1, Few(2, 1, 4, 6)), (8, Few(2, 1, 2, 4, 2)),
    (16, Few(2, 1, 2, 4, 2)), (64, Few(2, 1, 2, 4)), (33, Few(1, 2, 2, 4)), (16, Few(1, 4, 2, 3)),
    (32, Few(1, 4, 2, 3)), (64, Few(1, 4, 2, 3)), (32, Few(2, 2, 2, 6)), (16, Few(2, 1, 2, 6, 1, 2)),
    (32, Few(2, 1, 2, 4, 1, 2)), (16, Few(2, 1, 2, 4, 2, 2)), (16, Few(2, 1, 2, 4, 1, 4)), (16, Few(4, 1, 1, 8)),
    (32, Few(2, 1, 2, 6, 1, 2)), (32, Few(2, 1, 4, 4)),
]  # fmt: skip


def empty(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="cuda")


def compiled(m: int, few: Few, result: Format | None, folded: bool, *, rows: bool = False) -> Any:
    """The kernel as the launcher asks for it, with a bias. rows: x has a global scale for each row."""
    with recording("sm_90") as launches:
        gs = empty(1, dtype=torch.float32).view(()) if result and result.levels == 2 else None
        into = Quantized.empty(m, N, result, gs, torch.device("cuda")) if result else None
        bias = empty(N, dtype=torch.bfloat16)
        if folded:
            x = FoldedRows(empty(m, K, dtype=torch.float8_e4m3fn), empty(m, dtype=torch.float32), 1.0)
            units = empty(N // 16, K // 128, 1024), empty(N // 16, K // 128, 64)
            mxfp4_few_sm90(
                x,
                FoldedWeights(*units, empty(N, dtype=torch.float32), N, K, 1.0),
                bias=bias,
                few=few,
                into=into,
            )
        else:
            words = (empty(N // 16, K // 64, *each, dtype=torch.int32) for each in ((32, 4), (16,)))
            w = Fragments(*words, empty(1), 1.0, NVFP4, N, K, empty(1, dtype=torch.float32).view(()))
            x = empty(m, K, dtype=torch.bfloat16)
            tops = empty(m, 1, dtype=torch.float32) if rows else None
            fp4_few_sm90(x, w, x_global_scale=tops, bias=bias, few=few, into=into)
    (launch,) = launches
    asked = launch.compilation
    with compilable():
        source = asked.ast_source(asked.fn, asked.signature, asked.constexprs, asked.attrs)
        names = ("num_warps", "num_stages", "maxnreg", "launch_pdl", "enable_fp_fusion")
        options = {name: value for name in names if (value := getattr(asked.options, name, None)) is not None}
        return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def judge(made: Any, product: str, few: Few, products: int, folder: Path) -> None:
    """products: of a unit."""
    (instructions,) = disassemble([code_of(made.asm["cubin"])], "sm_90a", folder)
    assert not overwritten(instructions) and not reused(instructions)
    warpgroups = few.wk * few.wr
    opcodes = [opcode for opcode, _ in instructions]
    places = [i for i, opcode in enumerate(opcodes) if opcode.startswith(product)]
    each = products * few.depth
    assert len(places) == each * warpgroups
    local = [i for i, opcode in enumerate(opcodes) if opcode.startswith(("LDL", "STL"))]
    for number in range(warpgroups):  # an item's end may spill some registers, never the loop
        first, last = places[number * each], places[number * each + each - 1]
        assert not [i for i in local if first <= i <= last]
    assert len(local) <= 50 * warpgroups
    waits = [operands for opcode, operands in instructions if opcode.startswith("WARPGROUP.DEPBAR")]
    expected = (["0x1"] * (few.depth - 1) + ["0x0"]) * warpgroups
    assert [wait.rpartition(",")[2].strip() for wait in waits] == expected
    assert few.resident * (made.metadata.shared + 1024) <= 228 * 1024
    assert lets_the_next_one_in_behind_a_wait(made.asm["ptx"], warpgroups)


@pytest.mark.parametrize(("m", "few"), FOLDED, ids=str)
def test_few_rows_of_folded_operands(m: int, few: Few, tmp_path: Path) -> None:
    judge(compiled(m, few, None, True), "QGMMA", few, 4, tmp_path)


@pytest.mark.parametrize("result", [NVFP4, MXFP4], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize(("m", "few"), [FOLDED[1], FOLDED[4], FOLDED[5], FOLDED[9]], ids=str)
def test_few_rows_of_folded_operands_quantized(m: int, few: Few, result: Format, tmp_path: Path) -> None:
    judge(compiled(m, few, result, True), "QGMMA", few, 4, tmp_path)


@pytest.mark.parametrize(("m", "few"), [(1, Few(1, 4, 4, 3)), (64, Few(1, 2, 4, 4))], ids=str)
def test_few_rows_of_sixteen_bits_where_no_warpgroups_share_depth(m: int, few: Few, tmp_path: Path) -> None:
    """Barriers of sums that nobody adds are none: their memory is used for something else."""
    judge(compiled(m, few, None, False), "HGMMA", few, 4, tmp_path)


@pytest.mark.parametrize(("m", "few"), [(64, Few(1, 2, 4, 4)), (128, Few(2, 1, 2, 4))], ids=str)
def test_few_rows_of_sixteen_bits_under_a_global_scale_each(m: int, few: Few, tmp_path: Path) -> None:
    judge(compiled(m, few, None, False, rows=True), "HGMMA", few, 4, tmp_path)
