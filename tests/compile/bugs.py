# ruff: noqa: E501  (lines of the sources, as they are)
"""Performance bugs, one each, as they get into kernels, and changes that are none.

`words` must all be in what the gate says of it. Results stay right in most of them: no test of values would notice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from qkernels.format import get_format
from qkernels.triton.compile_tensors import K
from tests.compile import toys
from tests.compile.planting import Change

NVFP4 = "nvfp4_quantize[bf16,static,had=0,m=4096,k=8192]"
GENERAL = "nvfp4_quantize[fp32,static,had=0,m=4096,k=8192]"
DYNAMIC = "nvfp4_quantize[bf16,dynamic,had=0,m=4096,k=8192]"
MXFP4 = "mxfp4_quantize[fp32,floor,had=0,m=4096,k=8192]"
ROTATED = "mxfp4_quantize[bf16,floor,had=32,m=4096,k=8192]"
ROTATED_AMAX = "amax[fp32,had=128,k=8192]"
FP8 = "fp8_quantize[bf16,static,gaps,m=4096,k=8192]"
TOKEN = "fp8_token_quantize[fp32,m=4096,k=8192]"
LONG_TOKEN = "fp8_token_quantize[fp32,m=4096,k=28672]"
INT8 = "int8_quantize[bf16,static,m=4096,k=8192]"
GEMM = "nvfp4_gemm[bf16,m=1024,n=8192,k=8192]"
SMALL_GEMM = "nvfp4_gemm[bf16,m=1,n=8192,k=8192]"


def strided(cases: Any) -> None:
    x = cases.matrix(4096, K + 1, "fp32")[:, :K]
    cases.fp4_gemm.quantize_fp4(x, get_format("nvfp4"), global_scale=cases.one())


def misaligned(cases: Any) -> None:
    x = torch.empty(4096 * K + 1, dtype=torch.float32, device="cuda")[1:].view(4096, K)
    cases.fp4_gemm.quantize_fp4(x, get_format("nvfp4"), global_scale=cases.one())


BUGS = [
    Change(
        "a view with a stride of K + 1",
        GENERAL,
        ("128-bit loads became 32-bit", "argument `stride` lost divisibility by 16"),
        launch=strided,
    ),
    Change(
        "a view that begins four bytes into the allocation",
        GENERAL,
        ("128-bit loads became 32-bit", "argument `x_ptr` lost divisibility by 16"),
        launch=misaligned,
    ),
    Change(
        "K and the stride are no longer specialized",
        FP8,
        ("became", "arguments `k`, `stride` lost divisibility by 16"),
        (("fp8_quantize.py", '["m", "across"])\ndef fp8_tensor_kernel', '["m", "across", "k", "stride"])\ndef fp8_tensor_kernel'),),
    ),
    Change(
        "a mask that differs from element to element",
        GENERAL,
        ("128-bit loads became 32-bit",),
        (("fp4_parts.py", "low = tl.load(at, mask=inside[:, None], other", "low = tl.load(at, mask=inside[:, None] & (at.to(tl.int64) != 64), other"),
         ("fp4_parts.py", "tl.load(at + 4, mask=inside[:, None], other", "tl.load(at + 4, mask=inside[:, None] & (at.to(tl.int64) != 64), other"),),
    ),
    Change(
        "products left in flight while their operand is made anew",
        SMALL_GEMM,
        ("operand in registers is overwritten while the product may still read it",),
        (("fp4_gemm.py", "a = tl.where(m > 0, load_columns(a_values, values, limit, EVEN_K).to(DTYPE), 0.0)", "a = load_columns(a_values, values, limit, EVEN_K).to(DTYPE)"),),
    ),
    Change(
        "a cap on registers",
        TOKEN,
        ("spills", "with 32 registers: a limit on registers"),
        (("fp8_quantize.py", "num_warps=warps, enable", "num_warps=warps, maxnreg=32, enable"),),
    ),
    Change(
        "an eighth of the warps for a row",
        TOKEN,
        ("spills",),
        (("launch.py", "max(1, length // 1024)", "max(1, length // 8192)"),),
    ),
    Change(
        "a layout conversion before packing",
        MXFP4,
        ("shared-memory stores", "a layout conversion was added"),
        (("fp4_words.py", "    low, high = tl.split(tl.reshape(codes, (codes.shape[0], 4, 2)))",
          "    codes = tl.reshape(tl.trans(tl.reshape(codes, (8, codes.shape[0]))), (codes.shape[0], 8))\n"
          "    low, high = tl.split(tl.reshape(codes, (codes.shape[0], 4, 2)))"),),
    ),
    Change(
        "weights dequantized through fp32",
        SMALL_GEMM,
        ("values take a detour through fp32",),
        (
            ("fp4_decode.py", "        factor = decode_e8m0(scale, DTYPE)", "        factor = decode_e8m0(scale, tl.float32)"),
            ("fp4_decode.py", "        factor = decode_e4m3(scale, DTYPE)", "        factor = decode_e4m3(scale, tl.float32)"),
            ("fp4_decode.py", "tl.join(decode_e2m1(packed & 0xF, DTYPE, E8M0), decode_e2m1(packed >> 4, DTYPE, E8M0))",
             "tl.join(decode_e2m1(packed & 0xF, tl.float32, E8M0), decode_e2m1(packed >> 4, tl.float32, E8M0))"),
            ("fp4_decode.py", "    return tl.reshape(values, (rows, columns))", "    return tl.reshape(values, (rows, columns)).to(DTYPE)"),
        ),
    ),
    Change(
        "rows that fit in registers are read twice",
        TOKEN,
        ("the launch reads 201,326,592 B, was 134,217,728 (1.50×)",),
        (("launch.py", "    if k > 16384:\n        return 8192, 16", "    if k > 4096:\n        return 4096, 8"),),
    ),
    Change(
        "x is loaded again for the second use",
        MXFP4,
        ("each byte twice: a double load", "more global loads"),
        (("mxfp4_quantize.py", "    store_mxfp4(\n        data_ptr, scale_ptr, sizes, signs, scales, amax_bits < 0x7F800000, root, row, unit,",
          "    again = (x_ptr + row * stride + unit * 32)[:, None] + tl.arange(0, 8)[None, :]\n"
          "    sizes = ()\n"
          "    for i in tl.static_range(4):\n"
          "        sizes += (tl.abs(tl.load(again + 8 * i, mask=inside[:, None], other=0.0, volatile=True)),)\n"
          "    store_mxfp4(\n        data_ptr, scale_ptr, sizes, signs, scales, amax_bits < 0x7F800000, root, row, unit,"),),
    ),
    Change(
        "the widest tile on a GPU with little shared memory",
        GEMM,
        ("shared memory", "is over sm_120's 101,376 B", "the launch will fail"),
        (("fp4_plan.py", "or quantize or capability[0] not in (9, 10):", "or quantize:"),),
        target="sm_120",
    ),
    Change(
        "a tile of 64 rows, which has no block-scaled product",
        "toy[e2m1]",
        ("left block-scaled MMA: tcgen05.block_scale.mxf4 A=shared became tcgen05.f16",),
        launch=lambda _cases: toys.multiply(bm=64),
        target="sm_100",
    ),
    Change(
        "activations that the block-scaled product does not take",
        "toy[e2m1]",
        ("left block-scaled MMA: mma.sync.mxf4.block_scale became mma.sync.bf16",),
        launch=lambda _cases: toys.multiply(a="bf16"),
        target="sm_120",
    ),
    Change(
        "weights as the second operand",
        GEMM,
        ("spills",),
        (("fp4_gemm.py", "sums = tl.dot(b, tl.trans(a), sums, input_precision=PRECISION)",
          "sums += tl.trans(tl.dot(a, tl.trans(b), input_precision=PRECISION))"),),
    ),
    Change(
        "fp32 arithmetic where TF32 is exact",
        "mxfp4_gemm[fp16,m=16,n=8192,k=8192]",
        ("wgmma.tf32 A=registers became no tensor-core product at all",),
        (("fp4_plan.py", '"PRECISION": "ieee" if ieee else "tf32"', '"PRECISION": "ieee"'),),
    ),
    Change(
        "a rotation without tensor cores",
        ROTATED_AMAX,
        ("wgmma.bf16 A=registers became no tensor-core product at all",),
        (("fp4.py", "            total = tl.dot(high.to(tl.bfloat16), matrix, total)",
          '            total = tl.dot(high, matrix.to(tl.float32), total, input_precision="ieee")'),),
    ),
    Change(
        "a correctly rounded division for each element",
        TOKEN,
        ("a slow division",),
        (("fp8_quantize.py", "    y = tl.where(finite, correct_quotient(x, scale, inverse), 0.0)",
          "    y = tl.where(finite, tl.div_rn(x, scale), 0.0)"),),
    ),
    Change(
        "a double-precision factor",
        INT8,
        ("fp64 arithmetic crept in",),
        (("int8_quantize.py", "codes = symmetric_codes(x, scale)",
          "codes = to_int8((x.to(tl.float64) / scale).to(tl.float32), tl.full((), 0, tl.int32))"),),
    ),
    Change(
        "tiles of an eighth",
        GENERAL,
        ("programs", "as many warps"),
        (("fp4_launch.py", "(16, False): (1, 256)", "(16, False): (1, 32)"),),
    ),
    Change(
        "one maximum for all programs, by atomics",
        DYNAMIC,
        ("atomic operations 0 -> 1",),
        (("amax.py", "        tl.store(partial_ptr + program, bits)", "        tl.atomic_max(partial_ptr, bits)"),),
    ),
    Change(
        "the result is stored twice",
        FP8,
        ("more global stores", "the launch writes"),
        (("fp8_quantize.py", "    tl.store(out_ptr + at * k + column[None, :], codes, mask=inside)",
          "    tl.store(out_ptr + at * k + column[None, :], to_e4m3(x.to(tl.float32), HARDWARE), mask=inside)\n"
          "    tl.store(out_ptr + at * k + column[None, :], codes, mask=inside)"),),
    ),
    Change(
        "the scale is loaded anew for each piece of the row",
        LONG_TOKEN,
        ("more global loads",),
        (("fp8_quantize.py", "            y = tl.where(finite, correct_quotient(more, scale, inverse), 0.0)",
          "            scale = tl.load(scale_ptr + row, volatile=True)\n"
          "            y = tl.where(finite, correct_quotient(more, scale, tl.div_rn(1.0, scale)), 0.0)"),),
    ),
    Change(
        "block scales loaded for each element",
        SMALL_GEMM,
        ("the launch reads",),
        (
            ("fp4_gemm.py", "tl.arange(0, BK // 2), tl.arange(0, BK // BLOCK)", "tl.arange(0, BK // 2), tl.arange(0, BK) // BLOCK"),
            ("fp4_decode.py", "    blocks: tl.constexpr = scale.shape[1]", "    blocks: tl.constexpr = scale.shape[1]  # one for each"),
        ),
    ),
    Change(
        "the hardware's cast is not used",
        FP8,
        ("F2FP.E4M3 is gone, which this kernel requires",),
        (("scaled_codes.py", "torch.cuda.get_device_capability(device) >= (9, 0)", "torch.cuda.get_device_capability(device) > (12, 0)"),),
    ),
    Change(
        "one stage: nothing is prefetched",
        GEMM,
        ("loads are no longer pipelined",),
        (("fp4_plan.py", '"num_stages": tile.stages', '"num_stages": 1'),),
    ),
    Change(
        "every load of the loop masked",
        GEMM,
        ("loads became narrower",),
        (("fp4_plan.py", '"EVEN_K": k % tile.k == 0', '"EVEN_K": False'),),
    ),
]  # fmt: skip

COMMENT = "# a comment, and with it all lines below are further down\n\n\n"
_NO_BUGS = [
    Change("a comment at the top", NVFP4, edits=(("nvfp4_quantize.py", "\nTAKES = {", f"\n{COMMENT}TAKES = {{"),)),
    Change(
        "a comment in the kernel",
        NVFP4,
        edits=(("nvfp4_quantize.py", "    inside = (row < m) & ", "    # rows there are\n    inside = (row < m) & "),),
    ),
    Change("blank lines", GEMM, edits=(("fp4_gemm.py", "    # Rows past the edge", "\n\n    # Rows past the edge"),)),
    Change(
        "another way to write it",
        MXFP4,
        edits=(("mxfp4_quantize.py", "byte = tl.where(finite, scales, 0xFF)", "byte = tl.where(  finite  ,  (scales)  ,  255  )"),),
    ),
    Change(
        "a docstring",
        TOKEN,
        edits=(("fp8_quantize.py", '    """One row, in one piece (WHOLE) or in pieces of LENGTH, of which the last is whole if EVEN."""', '    """One row."""'),),
    ),
    Change(
        "a local name",
        GEMM,
        edits=(
            ("fp4_gemm.py", "    inside = (rows < m)[:, None] & (columns < n)[None, :]", "    present = (rows < m)[:, None] & (columns < n)[None, :]"),
            ("fp4_gemm.py", "out_ptr.dtype.element_ty), mask=inside)", "out_ptr.dtype.element_ty), mask=present)"),
        ),
    ),
    Change(
        "the name of an argument",
        FP8,
        edits=(
            ("fp8_quantize.py", "    x_ptr, out_ptr, scale_ptr, partial_ptr, m, k, stride, across,\n", "    x_ptr, out_ptr, scale_ptr, partial_ptr, m, k, pitch, across,\n"),
            ("fp8_quantize.py", "    x = tl.load(x_ptr + at * stride + column", "    x = tl.load(x_ptr + at * pitch + column"),
        ),
    ),
    Change(
        "the name of a helper",
        ROTATED,
        edits=(
            ("mxfp4_quantize.py", "def inverse_of(", "def reciprocal_of("),
            ("mxfp4_quantize.py", "= inverse_of(scales)", "= reciprocal_of(scales)"),
            ("norm_words.py", "import inverse_of, ", "import reciprocal_of, "),
            ("norm_words.py", "= inverse_of(byte)", "= reciprocal_of(byte)"),
        ),
    ),
    Change("another row count", NVFP4, launch=lambda c: c.fp4_gemm.quantize_fp4(c.matrix(4096), get_format("nvfp4"), global_scale=c.one())),
    Change(
        "a scale that is a view",
        NVFP4,
        launch=lambda c: c.fp4_gemm.quantize_fp4(c.matrix(4096), get_format("nvfp4"), global_scale=c.matrix(1, 4, "fp32")[0, :1]),
    ),
]  # fmt: skip

NO_BUGS = [
    replace(change, name=f"{change.name} ({t})", target=t)
    for change in _NO_BUGS
    for t in ("sm_80", "sm_90", "sm_100")
]
