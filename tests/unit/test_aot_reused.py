"""Memory of a barrier that is used again: found in machine code, and nothing else called so."""

from __future__ import annotations

import pytest

from qbench.aot.reused import reused

BEGUN = ("SYNCS.EXCH.64", "URZ[UR11+0x2e600],UR6")
ENDED = ("SYNCS.CCTL.IV", "[UR11+0x2e600]")


@pytest.mark.parametrize(
    "writer",
    [
        ("STS", "[R224+0x2e600],R7"),
        ("STS", "[R224+0x2e604],R7"),
        ("STS.64", "[UR4+0x2e600],R8"),
        ("STS.128", "[R9.X16+UR4+0x2e5f8],R8"),
        ("STSM.16.M88.4", "[R9+0x2e600],R8"),
        ("STSM.16.M88.4", "[R9+0x2e5f8],R8"),
        ("STS.U8", "[R9+0x2e607],R8"),
        ("LDGSTS.E.BYPASS.128", "[R9+0x2e5f8],desc[UR16][R12.64]"),
        ("ATOMS.ADD", "R4,[R9+0x2e600],R8"),
    ],
)
def test_data_where_a_barrier_lies_is_found(writer: tuple[str, str]) -> None:
    assert reused([BEGUN, ("BAR.SYNC", "0x0"), writer, writer]) == (" ".join(writer),)


@pytest.mark.parametrize(
    "beside",
    [
        ("STS", "[R224+0x2e608],R7"),
        ("STS", "[R224+0x2e5fc],R7"),
        ("STS.128", "[R224+0x2e5f0],R4"),
        ("STS.U8", "[R224+0x2e5ff],R4"),
        ("STS.U16", "[R224+0x2e5fe],R4"),
        ("STS", "[R224],R7"),
        ("LDS.64", "R4,[R224+0x2e600]"),
        ("STG.E", "desc[UR16][R12.64+0x2e600],R4"),
        ("SYNCS.ARRIVE.TRANS64.A1T0", "RZ[UR19+0x2e600],RZ"),
        ("SYNCS.PHASECHK.TRANS64.TRYWAIT", "P3[UR6+0x2e600],R10"),
    ],
)
def test_what_writes_elsewhere_reads_or_is_the_barriers_own_is_not(beside: tuple[str, str]) -> None:
    assert reused([BEGUN, beside]) == ()


def test_an_invalidated_barrier_is_memory_again() -> None:
    store = ("STS", "[R224+0x2e600],R7")
    assert reused([BEGUN, ENDED, store]) == ()
    assert reused([BEGUN, ("SYNCS.CCTL.IV", "[UR11+0x2e608]"), store]) == (" ".join(store),)


def test_of_a_computed_address_nothing_is_said() -> None:
    first, second = ("SYNCS.EXCH.64", "URZ[UR10],UR6"), ("SYNCS.EXCH.64", "URZ[UR10+0x8],UR6")
    assert reused([first, second, ("STS", "[R2],R7"), ("STS.64", "[R2+0x8],R8")]) == ()
