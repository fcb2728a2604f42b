"""Operands of asynchronous products that are written too early: found in machine code, and nothing else called so."""

from __future__ import annotations

import pytest

from qbench.aot.in_flight import overwritten

PRODUCT = ("HGMMA.64x128x16.F32.BF16", "R24, R152, gdesc[UR12], R24, gsb0")
FROM_SHARED = ("HGMMA.64x128x16.F32.BF16", "R24, gdesc[UR12], R24, gsb0")
LAST, ALL = ("WARPGROUP.DEPBAR.LE", "gsb0, 0x1"), ("WARPGROUP.DEPBAR.LE", "gsb0, 0x0")


def code(*instructions: tuple[str, str], back_to: int | None = None) -> list[tuple[str, str]]:
    """The instructions, a branch back to one of them if asked for, and the branch to itself at the end."""
    begin, body = 0x100, list(instructions)
    if back_to is not None:
        body.append(("BRA", f"0x{begin + 16 * back_to:x}"))
    body.append(("EXIT", ""))
    return [*body, ("BRA", f"0x{begin + 16 * len(body):x}")]


@pytest.mark.parametrize(
    "writer",
    [
        ("MOV", "R153, R9"),
        ("IMAD.MOV.U32", "R155, RZ, RZ, R9"),
        ("LDS.128", "R152, [R4]"),
        ("HMUL2.BF16_V2", "R154, R9, R8"),
        ("SHFL.IDX", "PT, R152, R8, R9, 0x1f"),
        ("LOP3.LUT", "P0, R153, R8, 0xff, RZ, 0xc0, !PT"),
        ("LDSM.16.M88.4", "R150, [R4]"),
    ],
)
def test_an_operand_written_in_flight_is_found(writer: tuple[str, str]) -> None:
    assert overwritten(code(PRODUCT, writer, ALL)) == (" ".join(writer),)


@pytest.mark.parametrize(
    "beside",
    [
        ("LDG.E.128", "R148, desc[UR4][R2.64]"),
        ("CS2R", "R150, SRZ"),
        ("LDSM.16.M88.2", "R150, [R4]"),
        ("MOV", "R156, R9"),
    ],
)
def test_what_ends_beside_the_operand_does_not_write_it(beside: tuple[str, str]) -> None:
    assert overwritten(code(PRODUCT, beside, ALL)) == ()


def test_a_wait_for_more_groups_than_run_frees_none() -> None:
    others = [("HGMMA.64x128x16.F32.BF16", f"R24, R{160 + 8 * i}, gdesc[UR12], R24, gsb0") for i in range(4)]
    wait = ("WARPGROUP.DEPBAR.LE", "gsb0, 0x7")
    assert overwritten(code(PRODUCT, *others, wait, ("MOV", "R152, R9"))) == ("MOV R152, R9",)


def test_after_the_wait_it_may_be_written() -> None:
    assert overwritten(code(PRODUCT, ALL, ("MOV", "R152, R9"))) == ()


def test_a_wait_for_all_but_one_group_frees_the_older_ones() -> None:
    other = ("HGMMA.64x128x16.F32.BF16", "R24, R160, gdesc[UR12], R24, gsb0")
    assert overwritten(code(PRODUCT, other, LAST, ("MOV", "R152, R9"))) == ()
    assert overwritten(code(PRODUCT, other, LAST, ("MOV", "R161, R9"))) == ("MOV R161, R9",)


def test_products_of_one_group_are_in_flight_together_and_before_it_ends() -> None:
    first = ("HGMMA.64x128x16.F32.BF16", "R24, R152, gdesc[UR12], R24")
    second = ("HGMMA.64x128x16.F32.BF16", "R24, R160, gdesc[UR16], R24, gsb0")
    assert overwritten(code(first, ("MOV", "R152, R9"), second, ALL)) == ("MOV R152, R9",)
    assert overwritten(code(first, second, ("MOV", "R155, R9"), ALL)) == ("MOV R155, R9",)


def test_a_loop_that_writes_the_operand_of_the_last_round_is_found() -> None:
    copies = ("IMAD.MOV.U32", "R152, RZ, RZ, R194")
    assert overwritten(code(copies, PRODUCT, LAST, back_to=0)) == (" ".join(copies),)
    assert overwritten(code(copies, PRODUCT, ALL, back_to=0)) == ()


def test_reads_stores_operands_in_shared_memory_and_code_without_such_products_are_not() -> None:
    for reader in (("STG.E.128", "desc[UR4][R152.64], R8"), ("STS", "[R152], R8"), ("MOV", "R8, R152")):
        assert overwritten(code(PRODUCT, reader, ALL)) == ()
    assert overwritten(code(FROM_SHARED, ("MOV", "R152, R9"), ALL)) == ()
    assert overwritten(code(("HMMA.16816.F32.BF16", "R24, R152, R8, R24"), ("MOV", "R152, R9"))) == ()
