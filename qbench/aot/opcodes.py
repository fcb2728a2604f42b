"""Groups of machine instructions, by the first part of an opcode, and the order in which forms of products are fast.

Opcodes as the CUDA Binary Utilities document lists them for sm_80 to sm_12x. What is in no group is counted as "other".
"""

from __future__ import annotations

from collections.abc import Mapping

GROUPS: Mapping[str, tuple[str, ...]] = {
    "conversions": ("F2F", "F2FP", "F2I", "F2IP", "I2F", "I2FP", "I2I", "I2IP", "FRND", "UI2F", "UF2F", "UI2FP"),
    "fp32 arithmetic": (
        "FADD", "FMUL", "FFMA", "FMNMX", "FMNMX3", "FSEL", "FSET", "FSETP", "FCHK", "FADD2", "FMUL2", "FFMA2",
    ),
    "16-bit arithmetic": ("HADD2", "HMUL2", "HFMA2", "HMNMX2", "HSET2", "HSETP2", "VHMNMX"),
    "64-bit arithmetic": ("DADD", "DMUL", "DFMA", "DSETP", "DMNMX"),
    "special functions": ("MUFU",),
    "integer and bit operations": (
        "IADD", "IADD3", "IADD32I", "IMAD", "IMNMX", "VIMNMX", "VIMNMX3", "VIADD", "VIADDMNMX", "ISETP", "LEA", "LOP3",
        "PRMT", "SEL", "SHF", "SHL", "SHR", "LOP32I", "PLOP3", "POPC", "FLO", "BREV", "IABS", "SGXT", "BMSK", "IDP",
        "IDP4A",
    ),
    "moves": ("MOV", "MOV32I", "CS2R", "S2R", "S2UR", "R2UR", "P2R", "R2P", "MOVM", "UMOV"),
    "uniform operations": (
        "UIADD3", "UIMAD", "ULEA", "ULOP3", "USHF", "USEL", "UISETP", "UPRMT", "UPLOP3", "ULDC", "LDC", "LDCU",
        "UIMNMX", "UFLO", "USGXT", "UP2UR", "UVIADD",
    ),
    "tensor-core products": (
        "HMMA", "IMMA", "QMMA", "OMMA", "BMMA", "DMMA", "HGMMA", "QGMMA", "IGMMA", "BGMMA", "UTCHMMA", "UTCQMMA",
        "UTCIMMA", "UTCOMMA",
    ),
    "global loads": ("LDG", "LDGSTS", "UTMALDG", "UBLKCP", "LD"),
    "global stores": ("STG", "UTMASTG", "ST"),
    "shared-memory accesses": ("LDS", "LDSM", "STS", "STSM"),
    "local-memory accesses": ("LDL", "STL"),
    "shuffles": ("SHFL", "REDUX", "VOTE", "MATCH"),
    "barriers and waits": (
        "BAR", "WARPSYNC", "DEPBAR", "LDGDEPBAR", "WARPGROUP", "SYNCS", "MEMBAR", "FENCE", "ERRBAR", "ARRIVES", "CCTL",
    ),
    "calls": ("CALL", "RET"),
    "branches": ("BRA", "BRX", "EXIT", "BSSY", "BSYNC", "BREAK"),
}  # fmt: skip
_GROUP_OF = {opcode: group for group, opcodes in GROUPS.items() for opcode in opcodes}

PRODUCT_RANK = ("tcgen05.block_scale", "tcgen05", "wgmma", "mma.sync")
"""Beginnings of kinds of product, fastest form first; a block-scaled `mma.sync` is told apart by its name."""


def family_counts(histogram: Mapping[str, int]) -> dict[str, int]:
    """Static counts by group."""
    counts: dict[str, int] = {}
    for opcode, number in histogram.items():
        group = _GROUP_OF.get(opcode.split(".")[0], "other")
        counts[group] = counts.get(group, 0) + number
    return counts


_BITS = {"f64": 64, "tf32": 32, "f16": 16, "bf16": 16, "f8f6f4": 8, "mxf8f6f4": 8, "e4m3": 8, "e5m2": 8, "f8": 8,
         "i8": 8, "s8": 8, "u8": 8, "int8": 8, "mxf4nvf4": 4, "mxf4": 4, "i4": 4, "e2m1": 4}  # fmt: skip


def operand_bits(kinds: Mapping[str, int]) -> int:
    """Bits of the widest operand among kinds of product, which decides a tensor core's rate; 0 where none says."""
    parts = [part for kind in kinds for part in kind.split(" ")[0].split(".")]
    return max((_BITS[part] for part in parts if part in _BITS), default=0)
