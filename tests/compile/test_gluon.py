"""Hopper's products in Gluon, compiled for sm_90 without a GPU, in every shape that is chosen.

What correct results do not show: that no register is written which a product still reads, that ptxas lets products run
while the next operand is decoded (it gives up silently, with a wait after each), that nothing is spilled, and that the
next kernel is let in behind the wait for the one before.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

from qbench.aot.driver import compilable
from qbench.aot.in_flight import overwritten
from qbench.aot.reused import reused
from qbench.aot.sass import code_of, disassemble
from qkernels.triton import fp4_gemm_sm90, mxfp4_gemm_sm90
from qkernels.triton.stream_plan import Plan, Shape, beside
from tests import gluon_tiles

WIDE, BYTES, RAW = (
    gl.NVMMASharedLayout(swizzle_byte_width=swizzle, element_bitwidth=bits, rank=2)
    for swizzle, bits in ((128, 16), (128, 8), (0, 32))
)
INTEGERS = dict.fromkeys(("m", "n", "steps", "split", "group", "members", "lead", "rest"), "i32")
NUMBERS = {"work_ptr": "*fp32", "counter_ptr": "*i32", **INTEGERS}


def descriptor(kind: str, rows: int, columns: int, layout: object) -> str:
    return f"tensordesc<{kind}[{rows},{columns}],{layout!r}>"


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], shape: Shape, **more: Any) -> Any:
    names = kernel.arg_names
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in types if types[name][0] == "*"}
    with compilable():  # the epilogue calls functions of triton.jit, which may be interpreted here
        source = GluonASTSource(
            kernel,
            {name: "constexpr" if name in constants else types[name] for name in names},
            {(names.index(name),): value for name, value in constants.items()},
            aligned,
        )
        return triton.compile(
            source, target=GPUTarget("cuda", 90, 32), options={"num_warps": shape.warps, **more}
        )


def judge(made: Any, product: str, shape: Shape, folder: Path) -> None:
    (instructions,) = disassemble([code_of(made.asm["cubin"])], "sm_90a", folder)
    opcodes = [opcode for opcode, _ in instructions]
    assert not overwritten(instructions) and not reused(instructions)
    products = [i for i, opcode in enumerate(opcodes) if opcode.startswith(product)]
    # where warps of their own sum parts, registers are few, and a tile's end may spill some: never the loop
    loop = opcodes[products[0] : products[-1]]
    assert not [opcode for opcode in loop if opcode.startswith(("LDL", "STL"))]
    assert sum(opcode.startswith(("LDL", "STL")) for opcode in opcodes) <= 100
    # two steps of four products for each 64 rows of w that a warpgroup has, and one full wait a tile
    assert len(products) == 8 * shape.tiles // shape.warps
    waits = [operands for opcode, operands in instructions if opcode.startswith("WARPGROUP.DEPBAR")]
    assert [wait.rpartition(",")[2].strip() for wait in waits] == ["0x1", "0x1", "0x0"]
    assert made.metadata.shared <= 227 * 1024
    assert lets_the_next_one_in_behind_a_wait(made.asm["ptx"])


def lets_the_next_one_in_behind_a_wait(ptx: str, count: int = 1) -> bool:
    """So often, and no label lies between the two: nothing gets there without waiting (the second rule of early.py)."""
    lines = [line.strip() for line in ptx.splitlines()]
    begins = [i for i, line in enumerate(lines) if line.startswith("griddepcontrol.launch_dependents")]
    waited = True
    for at in begins:
        before = (line for line in reversed(lines[:at]) if re.match(r"\S+:|griddepcontrol\.wait", line))
        waited &= next(before, "").startswith("griddepcontrol.wait")
    return waited and len(begins) == count


def test_a_kernel_that_lets_the_next_one_in_without_a_wait_is_seen() -> None:
    wait, begin = (
        "\tgriddepcontrol.wait; // dummy %r1\n",
        "\tgriddepcontrol.launch_dependents; // dummy %r2\n",
    )
    assert lets_the_next_one_in_behind_a_wait(f"$L__BB0_1:\n{wait}\tmov.u32 %r3, 0;\n{begin}")
    for ptx in (begin + wait, f"$L__BB0_1:\n{begin}{wait}", f"{wait}$L__BB0_1:\n{begin}"):
        assert not lets_the_next_one_in_behind_a_wait(ptx)


@gluon.jit
def waiting_kernel(x_ptr, out_ptr, WAITS: gl.constexpr, ENDS: gl.constexpr):
    """A sum through shared memory, beside a barrier: waited for or not, invalidated at the end or not."""
    L: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    place = gl.arange(0, 1024, L)
    held = gl.allocate_shared_memory(gl.float32, [1024], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    barrier = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(barrier, count=1)
    x = gl.load(x_ptr + place)
    held.store(x)
    if WAITS:
        mbarrier.arrive(barrier, count=1)
        mbarrier.wait(barrier, 0)
    total = gl.sum(x, axis=0)
    gl.store(out_ptr + place, held.load(L) * total)
    if ENDS:
        mbarrier.invalidate(barrier)


@pytest.mark.parametrize("waits", [False, True])
def test_memory_of_a_barrier_is_given_away_after_its_last_use_and_that_is_seen(
    waits: bool, tmp_path: Path
) -> None:
    shape = Shape(1, 1, 1, 4, 0, 0, 0, 0, 0)  # its warps are looked at
    for ends in (False, True):
        types = {"x_ptr": "*fp32", "out_ptr": "*fp32"}
        made = compiled(waiting_kernel, types, {"WAITS": waits, "ENDS": ends}, shape)
        (instructions,) = disassemble([code_of(made.asm["cubin"])], "sm_90a", tmp_path)
        assert bool(reused(instructions)) is not ends


def shared_tiles(shape: Shape, split: bool) -> tuple[int, int]:
    """(warps beside, rows at once) where tiles behind a wave are split, and where none are."""
    return beside(shape, Plan(132, 56, 1, 2, 32, 32) if split else Plan(132), 320)


def written(rule: str, kind: str, shape: Shape) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
    """Types, constants and options of where a result goes: as `kind` by TMA, or quantized by a rule."""
    if not rule:
        types = {"out_desc": descriptor(kind, shape.rows, shape.tiles * 16, WIDE), "out_ptr": f"*{kind}"}
        return types, {"RULE": "", "scales_ptr": None, "out_gs_ptr": None}, {}
    types = {"out_ptr": "*i32", "scales_ptr": "*u8"}
    missing: dict[str, Any] = {"RULE": rule, "out_desc": None}
    if rule == "nvfp4":
        types["out_gs_ptr"] = "*fp32"
    else:
        missing["out_gs_ptr"] = None
    return types, missing, {"enable_fp_fusion": False}


@pytest.mark.parametrize(
    ("words", "kind", "rule", "split", "scales"),
    [(2, "bf16", "", False, 0), (2, "bf16", "", True, 0), (2, "bf16", "nvfp4", False, 0), (2, "bf16", "floor", True, 0),
     (1, "bf16", "", True, 0), (2, "fp16", "", True, 0), (2, "bf16", "", False, 2), (2, "bf16", "", True, 2),
     (2, "bf16", "nvfp4", False, 2), (2, "bf16", "nvfp4", True, 2), (2, "bf16", "nvfp4", True, 1)],
)  # fmt: skip
@pytest.mark.parametrize("shape", fp4_gemm_sm90.SHAPES, ids=str)
def test_product_of_sixteen_bits_and_fp4(
    shape: Shape, words: int, kind: str, rule: str, split: bool, scales: int, tmp_path: Path
) -> None:
    """scales: of x, none, one for all (1), or one a row (2)."""
    held, mma = fp4_gemm_sm90.layouts(shape.tiles, words, shape.rows, shape.warps)
    warps, rows = shared_tiles(shape, split)
    types = {
        "x_desc": descriptor(kind, shape.rows, 64, WIDE),
        "w_desc": descriptor("i32", shape.tiles, 128, RAW),
        "s_desc": descriptor("i32", shape.tiles, 8 * words, RAW),
        "base_ptr": "*u8", "gs_ptr": "*fp32", "bias_ptr": "*fp32", "unit": "fp32", **NUMBERS,
    }  # fmt: skip
    pointers = ("x_gs_ptr", "row_gs_ptr")
    types |= dict.fromkeys(pointers[scales - 1 : scales] if scales else (), "*fp32")
    constants = {
        **dict.fromkeys(set(pointers) - set(types)), "STEP": 16 if words == 2 and kind == "bf16" else 128, "U": words,
        "L": held, "BM": shape.rows, "S": shape.stages, "GROUP": 16, "MMA": mma, "WARPS": shape.warps, "SUMMING": warps,
        "SOME": fp4_gemm_sm90.layouts(shape.tiles, words, rows, warps or shape.warps)[1], "EARLY": True,
    }  # fmt: skip
    more, missing, options = written(rule, kind, shape)
    kernel = fp4_gemm_sm90.fp4_gemm_sm90_kernel
    made = compiled(kernel, types | more, constants | missing, shape, **options)
    judge(made, "HGMMA", shape, tmp_path)


@pytest.mark.parametrize(("rule", "split"), [("", False), ("", True), ("nvfp4", True), ("floor", False)])
@pytest.mark.parametrize("shape", mxfp4_gemm_sm90.SHAPES, ids=str)
def test_product_of_folded_operands(shape: Shape, rule: str, split: bool, tmp_path: Path) -> None:
    held, mma = mxfp4_gemm_sm90.layouts(shape.tiles, shape.rows, shape.warps)
    warps, rows = shared_tiles(shape, split)
    types = {
        "x_desc": descriptor("fp8e4nv", shape.rows, 128, BYTES),
        "w_desc": descriptor("i32", shape.tiles, 256, RAW),
        "d_desc": descriptor("i32", shape.tiles, 16, RAW),
        "x_factor_ptr": "*fp32", "w_factor_ptr": "*fp32", "bias_ptr": "*bf16", "gain": "fp32", **NUMBERS,
    }  # fmt: skip
    constants = {
        "L": held, "BM": shape.rows, "S": shape.stages, "MMA": mma, "GROUP": 16, "WARPS": shape.warps,
        "SUMMING": warps, "SOME": mxfp4_gemm_sm90.layouts(shape.tiles, rows, warps or shape.warps)[1], "EARLY": True,
    }  # fmt: skip
    more, missing, options = written(rule, "bf16", shape)
    kernel = mxfp4_gemm_sm90.mxfp4_gemm_sm90_kernel
    made = compiled(kernel, types | more, constants | missing, shape, **options)
    judge(made, "QGMMA", shape, tmp_path)


TILES = [
    (128, 16, 8),
    (128, 64, 8),
    (128, 256, 8),
    (128, 64, 4),
    (128, 8, 2),
    (64, 8, 4),
    (64, 32, 4),
    (64, 128, 4),
]


@pytest.mark.parametrize("rule", ["nvfp4", "floor"])
@pytest.mark.parametrize(("columns", "rows", "warps"), TILES)
def test_tiles_of_every_size_are_quantized_in_registers(
    columns: int, rows: int, warps: int, rule: str, tmp_path: Path
) -> None:
    """By themselves, whole and in halves: no spills, and one pass through shared memory."""
    for halves in (False, True) if rows > 8 else (False,):
        types = {"y_ptr": "*fp32", "codes_ptr": "*i32", "scales_ptr": "*u8", "m": "i32", "n": "i32"}
        constants: dict[str, Any] = {
            "COLUMNS": columns, "ROWS": rows, "MMA": gluon_tiles.accumulator(rows, warps), "RULE": rule,
            "HALVES": halves,
        }  # fmt: skip
        if rule == "nvfp4":
            types["gs_ptr"] = "*fp32"
        else:
            constants["gs_ptr"] = None
        shape = Shape(columns // 16, rows, 1, warps, 0, 0, 0, 0, 0)  # its warps are looked at
        made = compiled(gluon_tiles.write_kernel, types, constants, shape, enable_fp_fusion=False)
        (instructions,) = disassemble([code_of(made.asm["cubin"])], "sm_90a", tmp_path)
        opcodes = [opcode for opcode, _ in instructions]
        assert not [opcode for opcode in opcodes if opcode.startswith(("LDL", "STL"))]
        elements = columns * rows // (32 * warps)
        stored = sum(opcode.startswith("STS") * words(opcode) for opcode in opcodes)
        assert elements <= stored <= elements * 1.25 + 16
        assert made.metadata.shared <= 36 << 10


def words(opcode: str) -> int:
    """32-bit words that an access to shared memory moves for a thread."""
    return next((int(part) // 32 for part in opcode.split(".") if part in ("64", "128")), 1)
