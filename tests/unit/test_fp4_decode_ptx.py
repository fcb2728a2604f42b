"""The assembly that decodes fragments, an instruction at a time, against the layout's description.

The interpreter takes the description for the assembly's meaning, so that the masks and shifts are tested here alone.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from qkernels.triton.fp4_fragments import FIELDS
from qkernels.triton.fp4_stream import DECODE_BF16, DECODE_FP16, FACTOR

U32 = np.uint32


def run(assembly: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray | tuple[str, str]]:
    """Registers after the integer instructions; of a product, the names of its factors."""
    registers: dict[str, np.ndarray | tuple[str, str]] = dict(inputs)

    def value(name: str) -> Any:
        if re.fullmatch(r"\d+|0x[0-9A-Fa-f]+", name):
            return U32(int(name, 0))
        found = registers[name]
        assert not isinstance(found, tuple)
        return found

    for line in assembly.strip("{}\n").split("\n"):
        if line.startswith((".reg", "mov")):
            continue
        name, rest = line.rstrip(";").split(" ", 1)
        to, *operands = (each.strip() for each in rest.split(","))
        if name.startswith("fma"):
            registers[to + " product"] = (operands[0], operands[1])
            continue
        a, b, *more = (value(each) for each in operands)
        if name == "and.b32":
            found = a & b
        elif name == "mul.lo.u32":
            found = a * b
        elif name == "shr.u32":
            found = a >> b
        elif name == "lop3.b32":
            assert operands[3] == "0xEA"
            found = a & b | more[0]
        elif name == "prmt.b32":
            assert operands[1] == "0"
            both = [(a >> U32(8 * i)) & U32(0xFF) for i in range(4)] + [np.zeros_like(a)] * 4
            found = sum(both[int(more[0]) >> (4 * i) & 7] << U32(8 * i) for i in range(4))
        else:
            assert name == "mad.lo.u32", name
            found = a * b + more[0]
        registers[to] = found
    return registers


@pytest.mark.parametrize(("assembly", "low"), [(DECODE_BF16, 6), (DECODE_FP16, 9)], ids=["bf16", "fp16"])
def test_every_half_of_a_word(assembly: object, low: int) -> None:
    every = np.arange(1 << 16, dtype=U32)
    other = (every * U32(40503) + U32(77)) & U32(0xFFFF)  # all halves again, in another order
    words = every | other << U32(16)
    found = run(assembly.value, {"$8": words})  # type: ignore[attr-defined]
    for register, (name, scale) in enumerate(zip("abcd", "fgfg", strict=True)):
        assert found[name + " product"] == (name, scale)  # registers 1 and 3 are of the second row
        expected = np.zeros_like(words)
        for place, to in zip(FIELDS[register], (low, low + 1, low + 2, 15), strict=True):
            for half in (0, 16):
                expected |= (words >> U32(half + place) & U32(1)) << U32(half + to)
        np.testing.assert_array_equal(found[name], expected)


def test_fields_are_all_bits_of_a_half() -> None:
    assert sorted(place for places in FIELDS for place in places) == list(range(16))


@pytest.mark.parametrize(("select", "bytes_"), [(0x4140, (0, 1)), (0x4342, (2, 3))])
@pytest.mark.parametrize("step", [16, 128])
def test_factors_are_two_bytes_times_a_step_and_a_base(
    select: int, bytes_: tuple[int, int], step: int
) -> None:
    words = np.random.default_rng(0).integers(0, 1 << 32, 1000, dtype=U32)
    base = 112 * 0x01000100 if step == 16 else 0
    inputs = {"$1": words} | {name: np.array(number, U32) for name, number in (("$3", step), ("$4", base))}
    assembly = FACTOR.value.replace("$2", str(select))
    found = run(assembly, inputs)["$0"]
    low, high = ((words >> U32(8 * byte) & U32(0xFF)) * U32(step) + U32(base & 0xFFFF) for byte in bytes_)
    np.testing.assert_array_equal(found, low | high << U32(16))
