"""Machine code read into figures: the rules, on single instructions."""

from __future__ import annotations

import pytest

from qbench.aot.sass import normalise, product, summarize, tensor_kinds, width


@pytest.mark.parametrize(
    ("opcode", "key"),
    [
        ("LDG.E.128.CONSTANT", "LDG.128"),
        ("LDG.E.EF.U8", "LDG.8"),
        ("LDG.E.ENL2.256", "LDG.256"),
        ("LDGSTS.E.BYPASS.128", "LDGSTS.128"),
        ("STG.E", "STG.32"),
        ("STG.E.U16", "STG.16"),
        ("LDL.64.LU", "LDL.64"),
        ("LDL.LU", "LDL.32"),
        ("LDSM.16.M88.4", "LDSM.128"),
        ("LDSM.16.MT88.2", "LDSM.64"),
        ("STSM.16.M88", "STSM.32"),
        ("IMAD.MOV.U32", "MOV"),
        ("CS2R", "MOV"),
        ("CS2R.32", "MOV"),
        ("UMOV", "MOV"),
        ("IMAD.WIDE.U32", "IMAD"),
        ("IMAD.HI.U32", "IMAD"),
        ("IMAD.IADD", "IADD"),
        ("IADD3.X", "IADD"),
        ("IADD.64", "IADD"),
        ("UIADD3.64", "IADD"),
        ("IMAD.SHL.U32", "SHF"),
        ("SHF.R.U32.HI", "SHF"),
        ("F2FP.BF16.F32.PACK_AB", "F2FP.BF16.F32"),
        ("F2FP.SATFINITE.E4M3.F32.PACK_AB_MERGE_C", "F2FP.E4M3.F32"),
        ("F2FP.SATFINITE.E2M1.F32.PACK_AB_MERGE_C", "F2FP.E2M1.F32"),
        ("HFMA2.BF16_V2", "HFMA2.BF16"),
        ("HMUL2", "HMUL2"),
        ("MUFU.RCP", "MUFU.RCP"),
        ("MUFU.RCP64H", "MUFU.RCP64H"),
        ("BAR.SYNC.DEFER_BLOCKING", "BAR"),
        ("HGMMA.64x128x16.F32.BF16", "HGMMA"),
        ("ULDC.64", "LDC"),
        ("LDCU.64", "LDC"),
        ("FSETP.GEU.AND", "FSETP"),
    ],
)
def test_opcodes_are_normalised(opcode: str, key: str) -> None:
    assert normalise(opcode) == key


@pytest.mark.parametrize(
    ("opcode", "operands", "kind"),
    [
        ("HGMMA.64x128x16.F32.BF16", "R88,gdesc[UR4].tnspB,R88", "wgmma.bf16 A=shared"),
        ("HGMMA.64x16x16.F32.BF16", "R24,R32,gdesc[UR40],R24", "wgmma.bf16 A=registers"),
        ("HGMMA.64x64x16.F32", "R24,gdesc[UR4],R24,gsb0", "wgmma.f16 A=shared"),
        ("HGMMA.64x64x16.F16", "R24,gdesc[UR4],R24", "wgmma.f16 A=shared"),
        ("HGMMA.64x64x8.F32.TF32", "R24,gdesc[UR4],R24", "wgmma.tf32 A=shared"),
        ("QGMMA.64x64x32.F32.E4M3.E5M2", "R24,R4,gdesc[UR4],R24", "wgmma.e4m3 A=registers"),
        ("IGMMA.64x64x32.S8.S8", "R24,gdesc[UR4],R24", "wgmma.s8 A=shared"),
        ("HMMA.16816.F32.BF16", "R68,R140,R32,R68", "mma.sync.bf16"),
        ("HMMA.16816.F32", "R68,R140,R32,R68", "mma.sync.f16"),
        ("HMMA.16816.F16", "R68,R140,R32,R68", "mma.sync.f16"),
        ("HMMA.1688.F32.TF32", "R68,R140,R32,R68", "mma.sync.tf32"),
        ("IMMA.16832.S8.S8", "R4,R8,R12,R4", "mma.sync.s8"),
        ("QMMA.16832.F32.E4M3.E4M3", "R4,R8,R12,R4", "mma.sync.e4m3"),
        ("DMMA.8x8x4", "R4,R8,R12,R4", "mma.sync.f64"),
        ("OMMA.SF.16864.F32.E2M1.E2M1.UE4M3.4X", "R4,R8,R12,R4,R3,R84,URZ", "mma.sync.mxf4nvf4.block_scale"),
        ("OMMA.SF.16864.F32.E2M1.E2M1.UE8", "R4,R8,R12,R4,R3,R84,URZ", "mma.sync.mxf4.block_scale"),
        ("QMMA.SF.16832.F32.E4M3.E2M1.UE8", "R4,R8,R12,R4,R3,R84,URZ", "mma.sync.mxf8f6f4.block_scale"),
        ("UTCHMMA", "gdesc[UR6],gdesc[UR12],tmem[UR19],tmem[UR32],idesc[UR33],!UPT", "tcgen05.f16|tf32 A=shared"),
        ("UTCQMMA", "tmem[UR6],gdesc[UR12],tmem[UR9],tmem[UR2],idesc[UR3],UP0", "tcgen05.f8f6f4 A=tensor-memory"),
        (
            "UTCQMMA", "gdesc[UR6],gdesc[UR8],tmem[UR10],tmem[UR22],idesc[UR23],tmem[UR18],UP0",
            "tcgen05.block_scale.mxf8f6f4 A=shared",
        ),
        ("FFMA", "R1,R2,R3,R4", ""),
        ("UTCBAR", "[UR17],URZ", ""),
        ("UTCATOMSWS.AND", "URZ,UR4", ""),
    ],
)  # fmt: skip
def test_kinds_of_product(opcode: str, operands: str, kind: str) -> None:
    assert product(opcode, operands) == kind


def test_the_ptx_tells_what_tcgen05_multiplies() -> None:
    ptx = """
        @%p9 tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale.scale_vec::4X [ %r395 + 0 ], %rd114, %rd115;
        tcgen05.mma.cta_group::1.kind::f16 [ %r1 ], %rd1, %rd2, %r3, %p1;
    """
    kinds = tensor_kinds(ptx)
    assert kinds == ("f16", "mxf4nvf4.block_scale")
    scaled = "gdesc[UR6],gdesc[UR8],tmem[UR10],tmem[UR22],idesc[UR23],tmem[UR18],UP0"
    assert product("UTCOMMA.4X", scaled, kinds) == "tcgen05.block_scale.mxf4nvf4 A=shared"
    plain = "gdesc[UR6],gdesc[UR12],tmem[UR19],tmem[UR32],idesc[UR33],!UPT"
    assert product("UTCHMMA", plain, kinds) == "tcgen05.f16 A=shared"


def test_what_is_counted_where() -> None:
    code = summarize(
        [
            ("LDG.E.128", "R4,desc[UR4][R2.64]"),
            ("LDGSTS.E.64", "[R2],desc[UR4][R2.64]"),
            ("LDS", "RZ[RZ]"),  # waits only
            ("LDS.U8", "R2[UR5+0x1c]"),
            ("STS.128", "[R2],R4"),
            ("STS", "[R2],RZ"),
            ("STL.64", "[R1+0x8],R4"),
            ("LDL", "R4[R1+0x8]"),
            ("BAR.SYNC.DEFER_BLOCKING", "0x0"),
            ("EXIT", ""),
            ("NOP", ""),
        ]
    )
    assert code.instructions == 10 == sum(code.histogram.values())
    assert code.global_loads == {64: 1, 128: 1} and code.global_stores == {}
    assert code.shared_loads == {8: 1} and code.shared_stores == {32: 1, 128: 1}
    assert code.spill_bytes == 12 and code.barriers == 1 and code.mma == {}
    assert code.histogram["LDS"] == 1 and width("LDS") == 32
