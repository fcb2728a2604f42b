"""Kernels that the tests of the interpreter run and compile: every way in which one names what it calls."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton.language.extra import libdevice

from qkernels.triton import fp4


@triton.jit
def larger(a, b):
    return tl.where(a > b, a, b)


@triton.jit
def row_kernel(x_ptr, out_ptr, stride, length, BLOCK: tl.constexpr):
    """A free function, a method and a reduction of its own, a loop; out = (sum, max, max by hand) of each row."""
    row = tl.program_id(0)
    total, most = 0.0, float("-inf")
    by_hand = float("-inf")
    for start in range(0, length, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * stride + at, mask=at < length, other=0.0)
        total += x.sum(axis=0)
        most = tl.maximum(most, tl.max(x, axis=0))
        by_hand = tl.maximum(by_hand, tl.reduce(x, 0, larger))
    tl.store(out_ptr + row * 3, total)
    tl.store(out_ptr + row * 3 + 1, most)
    tl.store(out_ptr + row * 3 + 2, by_hand)


@triton.jit
def code_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    """A device function of another module, named through the module."""
    at = tl.arange(0, BLOCK)
    tl.store(out_ptr + at, fp4.encode_e2m1(tl.load(x_ptr + at)).to(tl.uint8))


@triton.heuristics({"BLOCK": lambda args: triton.next_power_of_2(args["length"])})
@triton.jit
def copy_kernel(x_ptr, out_ptr, length, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < length), mask=at < length)


@triton.jit
def libdevice_kernel(x_ptr, out_ptr, bits_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + at, libdevice.rint(libdevice.exp2(x)))
    tl.store(bits_ptr + at, libdevice.popc(libdevice.float_as_int(x)))


@triton.jit
def j0_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out_ptr + at, libdevice.j0(tl.load(x_ptr + at)))


@triton.jit
def assembly_kernel(a_ptr, b_ptr, out_ptr, low_ptr, ASM: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    both = tl.inline_asm_elementwise(
        ASM,
        "=r,=r,r,r",
        [tl.load(a_ptr + at), tl.load(b_ptr + at)],
        (tl.int32, tl.int32),
        is_pure=True,
        pack=1,
    )
    tl.store(out_ptr + at, both[0])
    tl.store(low_ptr + at, both[1])


def compile_for_sm90(kernel: Any, signature: dict[str, str], constants: dict[str, Any]) -> str:
    """PTX of a kernel, compiled without a GPU. `signature` as in {"x_ptr": "*fp32", "n": "i32"}."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {name: "constexpr" if name in constants else signature[name] for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=types, constexprs=constants)
    return str(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"])


def compile_row_kernel() -> str:
    kinds = {"x_ptr": "*fp32", "out_ptr": "*fp32", "stride": "i32", "length": "i32"}
    return compile_for_sm90(row_kernel, kinds, {"BLOCK": 128})
