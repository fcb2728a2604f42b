"""Machine code of a kernel read into figures: opcodes, widths of loads and stores, matrix products, spills.

Triton's wheel brings the tools. nvdisasm needs 0.3 s to start for an architecture and a millisecond for a kernel;
given the bare code of many kernels (`--binary`) it starts once for all of them, and prints what it prints for each
file (compared for sm_80 to sm_120 with those of CUDA 12.8 and 13.1).

Opcodes are normalised, for compilers choose freely between forms of one thing (MOV, IMAD.MOV and CS2R copy; integer
additions have six spellings; each has a twin in the uniform datapath): the key is the operation, with a memory
access's width and a conversion's type, and no others of the modifiers.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from qbench.aot.branches import Instruction, loops
from qbench.aot.in_flight import overwritten
from qbench.aot.reused import reused

_BYTES = 16  # of one instruction, since Volta
_SAME = {
    "MOV": ("MOV", "MOV32I", "CS2R", "UMOV", "IMAD.MOV", "IMAD.MOV.U32"),
    "IADD": ("IADD", "IADD3", "UIADD3", "VIADD", "VIADDMNMX", "IMAD.IADD", "IMAD.X", "UIADD"),
    "SHF": ("SHF", "USHF", "SHL", "SHR", "IMAD.SHL", "USHL", "USHR"),
    "LEA": ("LEA", "ULEA"),
    "LOP3": ("LOP3", "ULOP3", "LOP", "PLOP3", "UPLOP3"),
    "ISETP": ("ISETP", "UISETP"),
    "SEL": ("SEL", "USEL"),
    "SGXT": ("SGXT", "USGXT"),
    "PRMT": ("PRMT", "UPRMT"),
    "IMAD": ("IMAD", "UIMAD"),
    "LDC": ("LDC", "ULDC", "LDCU"),
    "BRA": ("BRA", "UBRA", "BRX", "JMP", "BSSY", "BSYNC"),
    "S2R": ("S2R", "S2UR"),
}
_OPERATION = {form: name for name, forms in _SAME.items() for form in forms}
_TYPES = re.compile(r"^([EU]\d[MU0-9]*|UE\d.*|BF16|F16|F32|F64|TF32|[SU](8|16|32|64))$")
_GLOBAL_LOADS, _GLOBAL_STORES = {"LDG", "LDGSTS", "LD"}, {"STG", "ST"}
_SHARED_LOADS, _SHARED_STORES = {"LDS", "LDSM"}, {"STS", "STSM"}
_LOCAL = {"LDL", "STL"}
_SIZED = _GLOBAL_LOADS | _GLOBAL_STORES | _SHARED_LOADS | _SHARED_STORES | _LOCAL
_CONVERSIONS = {"F2F", "F2FP", "F2I", "I2F", "I2FP", "F2IP", "I2IP", "FRND"}
_PACKED = {"HADD2", "HMUL2", "HFMA2", "HMNMX2", "HSET2", "HSETP2"}


@dataclass(frozen=True)
class Code:
    """What the machine code of one kernel consists of; see Metrics for the words."""

    instructions: int
    looped: int
    overwritten: tuple[str, ...]
    reused: tuple[str, ...]
    histogram: dict[str, int]
    global_loads: dict[int, int]
    global_stores: dict[int, int]
    shared_loads: dict[int, int]
    shared_stores: dict[int, int]
    spill_bytes: int
    barriers: int
    mma: dict[str, int]


def summarize(instructions: Sequence[Instruction], kinds: Sequence[str] = ()) -> Code:
    """Count. `kinds`: of tcgen05.mma in the kernel's PTX ("mxf4nvf4.block_scale"), which its SASS does not tell."""
    histogram, mma = Counter[str](), Counter[str]()
    widths = {
        name: Counter[int]() for name in ("global_loads", "global_stores", "shared_loads", "shared_stores")
    }
    spilled = barriers = 0
    for opcode, operands in instructions:
        family = opcode.partition(".")[0]
        if family == "NOP":
            continue
        nowhere = operands.startswith("RZ") and family in _SHARED_LOADS  # waits for the copies before it
        histogram[family if nowhere else normalise(opcode)] += 1
        barriers += family == "BAR"
        if kind := product(opcode, operands, kinds):
            mma[kind] += 1
        if family in _LOCAL:
            spilled += width(opcode) // 8
        if nowhere:
            continue
        for name, families in (
            ("global_loads", _GLOBAL_LOADS),
            ("global_stores", _GLOBAL_STORES),
            ("shared_loads", _SHARED_LOADS),
            ("shared_stores", _SHARED_STORES),
        ):
            if family in families:
                widths[name][width(opcode)] += 1
    return Code(
        instructions=histogram.total(),
        looped=looped(instructions),
        overwritten=overwritten(instructions),
        reused=reused(instructions),
        histogram=dict(sorted(histogram.items())),
        **{name: dict(sorted(counts.items())) for name, counts in widths.items()},
        spill_bytes=spilled,
        barriers=barriers,
        mma=dict(sorted(mma.items())),
    )


def looped(instructions: Sequence[Instruction]) -> int:
    """How many lie between a branch and its target further up."""
    inside = {place for last, first in loops(instructions).items() for place in range(first, last + 1)}
    return sum(instructions[place][0].partition(".")[0] != "NOP" for place in inside)


@cache  # a few hundred forms make up all code
def normalise(opcode: str) -> str:
    """The key of an opcode in the histogram: "LDG.E.128.CONSTANT" -> "LDG.128", "IMAD.MOV.U32" -> "MOV"."""
    family, *modifiers = opcode.split(".")
    if family in _SIZED:
        return f"{family}.{width(opcode)}"
    if family in _CONVERSIONS:
        return ".".join([family, *(each for each in modifiers if _TYPES.match(each))])
    if family in _PACKED:
        return f"{family}.BF16" if any(each.startswith("BF16") for each in modifiers) else family
    if family == "MUFU":
        return f"MUFU.{modifiers[0]}" if modifiers else family
    for form in (opcode, ".".join([family, *modifiers[:1]]), family):
        if form in _OPERATION:
            return _OPERATION[form]
    return family


@cache
def width(opcode: str) -> int:
    """Bits that one thread loads or stores: "LDG.E.U8" -> 8, "LDG.E.128" -> 128, "LDSM.16.M88.4" -> 128."""
    family, *modifiers = opcode.split(".")
    if family in ("LDSM", "STSM"):  # matrices of 8 x 8 halves, a word of each for every thread
        return 32 * int(modifiers[-1]) if modifiers[-1] in ("2", "4") else 32
    for each in modifiers:
        if each in ("64", "128", "256"):
            return int(each)
        if each in ("U8", "S8", "U16", "S16", "F16"):
            return int(each[1:])
    return 32


def product(opcode: str, operands: str, kinds: Sequence[str] = ()) -> str:
    """What a matrix instruction multiplies and where its first operand lies; "" for other instructions.

    Kinds: wgmma.bf16, mma.sync.bf16, mma.sync.s8, mma.sync.mxf4nvf4.block_scale, tcgen05.f16,
    tcgen05.block_scale.mxf4nvf4, ...
    """
    if "MMA" not in opcode:
        return ""
    family, *modifiers = opcode.split(".")
    if family in ("HGMMA", "QGMMA", "IGMMA", "BGMMA"):
        source = "shared" if operands.partition(",")[2].startswith("gdesc") else "registers"
        return f"wgmma.{_element(family[0], modifiers)} A={source}"
    if family in ("HMMA", "QMMA", "IMMA", "DMMA", "BMMA", "OMMA"):
        if "SF" in modifiers:
            return f"mma.sync.{_scaled(family, modifiers)}.block_scale"
        return f"mma.sync.{_element(family[0], modifiers)}"
    if re.fullmatch(r"UTC[HQOI]MMA", family):
        source = "tensor-memory" if operands.startswith("tmem") else "shared"
        return f"tcgen05.{_tensor_kind(family[3], operands, kinds)} A={source}"
    return ""


def _element(letter: str, modifiers: Sequence[str]) -> str:
    """The element type of A. Of 16 bits without a name is fp16; a name before it is the accumulator's."""
    if letter == "D":
        return "f64"
    named = [each.lower() for each in modifiers if _TYPES.match(each)]
    if letter == "H":
        return named[-1] if named and named[-1] in ("bf16", "tf32") else "f16"
    operands = [each for each in named if each not in ("f32", "f16")]
    return operands[0] if operands else {"Q": "f8", "I": "s8", "B": "b1"}.get(letter, "f4")


def _scaled(family: str, modifiers: Sequence[str]) -> str:
    if family == "QMMA":
        return "mxf8f6f4"
    return "mxf4nvf4" if "4X" in modifiers or "UE4M3" in modifiers else "mxf4"


def _tensor_kind(letter: str, operands: str, kinds: Sequence[str]) -> str:
    """kind::… of the PTX where it names one of this instruction, otherwise as far as the SASS tells."""
    scaled = "tmem[" in operands.partition("idesc")[2]
    families = {"H": ("f16", "tf32"), "Q": ("f8f6f4", "mxf8f6f4"), "O": ("mxf4", "mxf4nvf4"), "I": ("i8",)}[
        letter
    ]
    fitting = [
        kind for kind in kinds if kind.partition(".")[0] in families and ("block_scale" in kind) == scaled
    ]
    kind = (
        fitting[0].partition(".")[0]
        if len(fitting) == 1
        else families[scaled]
        if letter == "Q"
        else "|".join(families)
    )
    return f"block_scale.{kind}" if scaled else kind


def tensor_kinds(ptx: str) -> tuple[str, ...]:
    """Kinds of tcgen05.mma in a kernel's PTX: "f16", "mxf4nvf4.block_scale"."""
    found = re.findall(r"tcgen05\.mma\S*?kind::(\w+)(\.block_scale)?", ptx)
    return tuple(sorted({"".join(each) for each in found}))


def code_of(cubin: bytes) -> bytes:
    """The instructions of an ELF file, of all its functions."""
    (at,) = struct.unpack_from("<Q", cubin, 40)
    count, names = struct.unpack_from("<HH", cubin, 60)
    sections = [struct.unpack_from("<IIQQQQ", cubin, at + 64 * each) for each in range(count)]
    code = b""
    for name, _kind, _flags, _address, start, size in sections:
        label = cubin[sections[names][4] + name :]
        if label.startswith(b".text"):
            code += cubin[start : start + size]
    return code


def disassemble(codes: Sequence[bytes], architecture: str, folder: Path) -> list[list[Instruction]]:
    """Instructions of kernels for one architecture ("sm_90a"), by one run of nvdisasm. `folder` is for its input.

    RuntimeError with the tool's words if it refuses.
    """
    path = folder / f"{architecture}.bin"
    path.write_bytes(b"".join(codes))
    tool = tool_path("nvdisasm")
    for asserted in _asserted(architecture):
        done = subprocess.run([tool, "-json", "-b", asserted, str(path)], capture_output=True, text=True)
        if done.returncode == 0 or "not defined for option" not in done.stderr:
            break
    path.unlink()
    if done.returncode:
        raise RuntimeError(f"nvdisasm cannot read code for {architecture}: {done.stderr.strip()[:200]}")
    flat = _instructions(done.stdout)
    result = []
    for code in codes:
        result.append(list(_take(flat, len(code) // _BYTES, architecture)))
    return result


def _asserted(architecture: str) -> Iterator[str]:
    """nvdisasm's names, best first: that of CUDA 12.8 does not know SM103, whose code it reads as SM100's."""
    name = architecture.upper().replace("_", "")
    yield name
    yield name.removesuffix("A")
    if name.startswith("SM103"):
        yield "SM100a"


def _instructions(text: str) -> Iterator[Instruction]:
    for function in json.loads(text)[1]:
        for each in function["sass-instructions"]:
            yield each["opcode"], each.get("operands", "")


def _take(flat: Iterator[Instruction], count: int, architecture: str) -> Iterator[Instruction]:
    for _ in range(count):
        each = next(flat, None)
        if each is None:
            raise RuntimeError(f"nvdisasm printed fewer instructions for {architecture} than the code has")
        yield each


def resource_usage(cubin: Path) -> tuple[int, int]:
    """(registers a thread, bytes of stack a thread) of a cubin's kernel, the largest of its functions."""
    done = subprocess.run([tool_path("cuobjdump"), "-res-usage", str(cubin)], capture_output=True, text=True)
    found = re.findall(r"REG:(\d+) STACK:(\d+)", done.stdout + done.stderr)
    if not found:
        raise RuntimeError(f"cuobjdump tells no registers: {(done.stdout + done.stderr).strip()[:200]}")
    return max(int(registers) for registers, _ in found), max(int(stack) for _, stack in found)


def tool_path(name: str) -> str:
    """A tool of Triton's wheel, or the one that TRITON_NVDISASM_PATH and its like name."""
    from triton import knobs

    return str(getattr(knobs.nvidia, name).path)
