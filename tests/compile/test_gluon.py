"""Hopper's products in Gluon, compiled for sm_90 without a GPU, in every shape that is chosen.

What correct results do not show: that no register is written which a product still reads, that ptxas lets products run
while the next operand is decoded (it gives up silently, with a wait after each), and that nothing is spilled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from qbench.aot.in_flight import overwritten
from qbench.aot.sass import code_of, disassemble
from qkernels.triton import fp4_gemm_sm90, mxfp4_gemm_sm90
from qkernels.triton.stream_k import Shape

WIDE, BYTES, RAW = (
    gl.NVMMASharedLayout(swizzle_byte_width=swizzle, element_bitwidth=bits, rank=2)
    for swizzle, bits in ((128, 16), (128, 8), (0, 32))
)
INTEGERS = dict.fromkeys(("m", "n", "steps", "split", "group", "members", "lead", "rest"), "i32")
NUMBERS = {"work_ptr": "*fp32", "counter_ptr": "*i32", **INTEGERS}


def descriptor(kind: str, rows: int, columns: int, layout: object) -> str:
    return f"tensordesc<{kind}[{rows},{columns}],{layout!r}>"


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], shape: Shape) -> Any:
    names = kernel.arg_names
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in types if types[name][0] == "*"}
    source = GluonASTSource(
        kernel,
        {name: "constexpr" if name in constants else types[name] for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        aligned,
    )
    options: dict[str, Any] = {"num_warps": shape.warps}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def judge(made: Any, product: str, shape: Shape, folder: Path) -> None:
    (instructions,) = disassemble([code_of(made.asm["cubin"])], "sm_90a", folder)
    opcodes = [opcode for opcode, _ in instructions]
    assert not overwritten(instructions)
    assert not [opcode for opcode in opcodes if opcode.startswith(("LDL", "STL"))]
    # two steps of four products for each 64 rows of w that a warpgroup has, and one full wait a tile
    assert sum(opcode.startswith(product) for opcode in opcodes) == 8 * shape.tiles // shape.warps
    waits = [operands for opcode, operands in instructions if opcode.startswith("WARPGROUP.DEPBAR")]
    assert [wait.rpartition(",")[2].strip() for wait in waits] == ["0x1", "0x1", "0x0"]
    assert made.metadata.shared <= 227 * 1024


@pytest.mark.parametrize("words", [2, 1], ids=["nvfp4", "mxfp4"])
@pytest.mark.parametrize("shape", fp4_gemm_sm90.SHAPES, ids=str)
def test_product_of_bf16_and_fp4(shape: Shape, words: int, tmp_path: Path) -> None:
    held, mma = fp4_gemm_sm90.layouts(shape.tiles, words, shape.rows, shape.warps)
    types = {
        "x_desc": descriptor("bf16", shape.rows, 64, WIDE),
        "w_desc": descriptor("i32", shape.tiles, 128, RAW),
        "s_desc": descriptor("i32", shape.tiles, 8 * words, RAW),
        "out_desc": descriptor("bf16", shape.rows, shape.tiles * 16, WIDE),
        "base_ptr": "*u8", "gs_ptr": "*fp32", "bias_ptr": "*fp32", "unit": "fp32", **NUMBERS,
    }  # fmt: skip
    constants = {
        "x_gs_ptr": None, "STEP": 16 if words == 2 else 128, "U": words, "L": held, "BM": shape.rows,
        "S": shape.stages, "GROUP": 16, "MMA": mma, "WARPS": shape.warps,
    }  # fmt: skip
    judge(compiled(fp4_gemm_sm90.fp4_gemm_sm90_kernel, types, constants, shape), "HGMMA", shape, tmp_path)


@pytest.mark.parametrize("shape", mxfp4_gemm_sm90.SHAPES, ids=str)
def test_product_of_folded_operands(shape: Shape, tmp_path: Path) -> None:
    held, mma = mxfp4_gemm_sm90.layouts(shape.tiles, shape.rows, shape.warps)
    types = {
        "x_desc": descriptor("fp8e4nv", shape.rows, 128, BYTES),
        "w_desc": descriptor("i32", shape.tiles, 256, RAW),
        "d_desc": descriptor("i32", shape.tiles, 16, RAW),
        "out_desc": descriptor("bf16", shape.rows, shape.tiles * 16, WIDE),
        "x_factor_ptr": "*fp32", "w_factor_ptr": "*fp32", "bias_ptr": "*bf16", "gain": "fp32", **NUMBERS,
    }  # fmt: skip
    constants = {
        "L": held, "BM": shape.rows, "S": shape.stages, "MMA": mma, "GROUP": 16, "WARPS": shape.warps
    }  # fmt: skip
    judge(compiled(mxfp4_gemm_sm90.mxfp4_gemm_sm90_kernel, types, constants, shape), "QGMMA", shape, tmp_path)
