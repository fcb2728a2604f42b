"""Kernels that take weights as fragments, interpreted: the product of few rows, the decoders of weights and of rows."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from qbench import gemm_error, poisoned_allocations, within
from qkernels import QTensor, quantize, reference
from qkernels.format import MXFP4, MXFP4_ABS_MAX, NVFP4, NVFP4_1L, Format
from qkernels.triton.fp4_decode_rows import fp4_decode_rows
from qkernels.triton.fp4_fragments import fragments
from qkernels.triton.fp4_stream import Stream, choose, fp4_stream
from qkernels.triton.fp4_unpack import fp4_unpack
from tests.mutants.helpers import certified, normal

DIVIDED = (None, Stream(1, 1, 1, 1), Stream(2, 1, 2, 1), Stream(1, 2, 1, 2))


def stream() -> None:
    """Exact sums bit for bit, others within the bound; bias and output rounded once; rows that are strided."""
    for fmt in (NVFP4, MXFP4):
        for m, n, k, divide in ((9, 37, 224, DIVIDED[0]), (1, 8, 32, DIVIDED[1]), (3, 70, 96, DIVIDED[2]),
                                (5, 20, 288, DIVIDED[3])):  # fmt: skip
            w, x = certified(n, k, fmt, 1), _between_nan(m, k)
            bias = torch.arange(float(n)) * 0.25 - 9
            for each in (None, bias):
                out = _run(x, w, bias=each, out_dtype=torch.float32, divide=divide)
                wanted = reference.matmul(x, w, bias=each).float()
                wrong = int((out != wanted).sum())
                assert not wrong, (
                    f"{fmt.name} [{m}, {n}, {k}]: {wrong} of {out.numel()} exact sums are others"
                )
    for fmt, dtype in ((NVFP4_1L, torch.float16), (NVFP4, torch.bfloat16), (MXFP4_ABS_MAX, torch.bfloat16)):
        x, w, bias = (
            normal(17, 160, dtype),
            quantize(normal(33, 160, seed=1) * 3, fmt),
            normal(1, 33, seed=2)[0],
        )
        _judge(f"{fmt.name} {dtype}", _run(x, w, bias=bias), reference.matmul(x, w, bias=bias), x, w)
    assert [choose(m, 4096) for m in (8, 9, 17)] == [
        Stream(4, 1, 4, 1),
        Stream(4, 2, 2, 1),
        Stream(4, 2, 1, 1),
    ]


def stream_scales() -> None:
    """Global scales of both operands, of x and of each row, their product out of range too; every scale byte; NaN stays
    in its column."""
    for m, divide in ((16, DIVIDED[1]), (7, None)):  # 16 rows of x by 16 of w: one may be taken for the other
        w, x = quantize(normal(16, 96, seed=1) * 3, NVFP4), normal(m, 96, torch.bfloat16)
        tops = 1.37 * torch.exp2(torch.arange(float(m)) - 5)[:, None]
        out, over = _run(x, w, x_global_scale=tops, divide=divide), x.double() / tops.double()
        _judge(f"{m} rows by a scale each", out, reference.matmul(over, w), over, w)
    a, w = certified(3, 160, NVFP4, 2, gs=24.0), certified(20, 160, NVFP4, 3, gs=0.375)
    for of_x, of_w in ((24.0, 0.375), (3e19, 5e19), (2e-20, 3e-19), (1e-37, 1e5)):
        a, w = (dataclasses.replace(q, global_scale=torch.tensor(gs)) for q, gs in ((a, of_x), (w, of_w)))
        x = fp4_decode_rows(a)
        out = _run(x, w, x_global_scale=a.global_scale, out_dtype=torch.float32)
        _judge(f"global scales {of_x}, {of_w}", out, reference.matmul(a, w), a, w)
        out = _run(x, w, x_global_scale=torch.full((3, 1), of_x), out_dtype=torch.float32)
        _judge(f"global scales {of_x} a row, {of_w}", out, reference.matmul(a, w), a, w)
    for fmt, low, high in ((NVFP4_1L, 1, 0x7E), (MXFP4, 100, 128), (MXFP4, 160, 200), (MXFP4, 87, 220)):
        w = certified(18, 64, fmt, 4)
        count = w.scale.numel()
        w.scale.view(-1)[:] = torch.linspace(low, high, count).to(torch.uint8)
        x = torch.eye(64, dtype=torch.bfloat16)[5::7]
        out = _run(x, w, out_dtype=torch.float32)
        wanted = reference.matmul(x, w).float()
        assert torch.equal(out, wanted), (
            f"{fmt.name}: {int((out != wanted).sum())} single elements are others"
        )
    w = certified(18, 64, NVFP4, 4)
    w.scale[7, 2] = 0x7F
    lost = _run(normal(2, 64, torch.bfloat16), w).isnan().any(0).nonzero().flatten().tolist()
    assert lost == [7], f"a NaN scale of row 7 is seen in the columns {lost}"


def _between_nan(m: int, k: int) -> Tensor:
    """Whole numbers in every other row of a tensor of NaN: what is read beside them shows in the sums."""
    whole = torch.full((2 * m, k + 80), torch.nan, dtype=torch.bfloat16)
    x = whole[::2, :k]
    x.copy_(torch.randint(-4, 5, (m, k), generator=torch.Generator().manual_seed(m)))
    return x


def _run(x: Tensor, w: QTensor, **options: object) -> Tensor:
    with poisoned_allocations():
        out = fp4_stream(x, fragments(w), **options)  # type: ignore[arg-type]
    assert out.dtype == (options.get("out_dtype") or x.dtype), f"the output is {out.dtype}"
    return out


def _judge(what: str, out: Tensor, wanted: Tensor, a: Tensor | QTensor, w: QTensor) -> None:
    wrong = within(out, wanted, gemm_error(wanted, reference.magnitude(a, w), w.shape[1]))
    assert wrong is None, f"{what}: {wrong}"


def unpack() -> None:
    """Each weight is code * scale, whatever its place, in bf16 and fp16."""
    cases: tuple[tuple[Format, torch.dtype], ...] = (
        (NVFP4, torch.bfloat16), (NVFP4, torch.float16), (MXFP4, torch.bfloat16),
    )  # fmt: skip
    for fmt, dtype in cases:
        for n, k in ((40, 96), (7, 1056)):
            w = certified(n, k, fmt, 6)
            f = fragments(w)
            with poisoned_allocations():
                found = fp4_unpack(f, dtype)
            wrong = int((found.double() * f.unit != w.exact_values(torch.float64)).sum())
            assert not wrong, f"{fmt.name} [{n}, {k}] {dtype}: {wrong} of {n * k} elements are others"


def decode_rows() -> None:
    """Rows are code * scale, a quarter of it for MXFP4; strided ones too, with K that no tile divides."""
    for fmt, unit in ((NVFP4, 1.0), (NVFP4_1L, 1.0), (MXFP4, 4.0)):
        for m, k in ((9, 160), (1, 32), (3, 4128)):
            q = certified(m, k, fmt, 8)
            wide = torch.full((m, k), 0x77, dtype=torch.uint8)
            scales = torch.full((m, 2 * q.scale.shape[1]), 0x44, dtype=torch.uint8)
            data, scale = wide[:, : k // 2], scales[:, : q.scale.shape[1]]
            data.copy_(q.data)
            scale.copy_(q.scale)
            with poisoned_allocations():
                found = fp4_decode_rows(dataclasses.replace(q, data=data, scale=scale))
            wrong = int((found.double() * unit != q.exact_values(torch.float64)).sum())
            assert not wrong, f"{fmt.name} [{m}, {k}]: {wrong} of {m * k} elements are others"
