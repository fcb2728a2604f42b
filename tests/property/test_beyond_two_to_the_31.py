"""More than 2^31 elements: of activations, weights, products and what quantizers are given. Judged in float64 on rows
(and columns) at the beginning, where 32 bits end, and at the end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import qkernels
from qkernels import reference
from qkernels.compare import compare_quantized
from qkernels.format import FP8, FP8_TOKEN, INT8, INT8_ASYM, INT8_TOKEN, MXFP4, NVFP4, Format
from qkernels.ops.gemm import product_bound
from qkernels.prepared import Prepared, prepare, prepared_matmul
from qkernels.quantize import quantize as quantize_exactly
from qkernels.tensor import QTensor
from qkernels.triton.fp4_fragments import Fragments
from qkernels.triton.fp4_unpack import fp4_unpack
from qkernels.triton.mxfp4_fold import Folded, mxfp4_fold
from qkernels.triton.mxfp4_folded import FoldedRows

GIB = 40
LIMIT = 1 << 31
KINDS = ("w4a16", "w4a4")
pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def room() -> Any:
    """Skipped with the reason where memory is short; what a test leaves is handed back."""
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < GIB:
        pytest.skip(f"needs {GIB} GiB of GPU memory, {free:.0f} are free")
    yield
    torch.cuda.empty_cache()


def normal(rows: int, k: int) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(rows + k)
    return torch.empty(rows, k, dtype=torch.bfloat16, device="cuda").normal_(generator=generator)


def random_weights(n: int, k: int, fmt: Format) -> QTensor:
    """Any codes, and scales within a few binades: made in place, for the reference quantizer needs 8 bytes each."""
    data = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, device="cuda")
    low, high = (120, 126) if fmt.scale == "e8m0" else (0x20, 0x48)
    scale = torch.randint(low, high, (n, k // fmt.block), dtype=torch.uint8, device="cuda")
    gs = torch.full((), 3.0, device="cuda") if fmt.levels == 2 else None
    return QTensor(data, scale, fmt, (n, k), gs)


def places(rows: int, columns: int) -> list[slice]:
    """Some rows of [rows, columns]: the first, those around element 2^31, the last."""
    assert rows * columns > LIMIT
    middle = LIMIT // columns
    return [slice(0, 8), slice(middle - 4, middle + 4), slice(rows - 8, rows)]


def operands(x: Tensor, kind: str, fmt: Format) -> tuple[Any, Any]:
    """(what the product is given, how a slice of it reads as the reference's operand)."""
    if kind == "w4a16":
        return x, lambda part: x[part]
    if fmt == NVFP4:
        q = qkernels.quantize(x, fmt, global_scale=50.0, backend="triton")
        return q, lambda part: q.rows(part.start, part.stop)
    f = mxfp4_fold(x)
    return f.rows, lambda part: _part(f, part).quantized()


def _part(f: Folded, part: slice) -> Folded:
    rows = FoldedRows(f.rows.elements[part], f.rows.factor[part], f.rows.gain, f.rows.hadamard)
    return Folded(rows, f.scale[part], f.misfits[part], f.format)


def prepared(w: QTensor, kind: str) -> tuple[Prepared, str]:
    """(weights, the accumulator of their products)."""
    p = prepare(w, kind)
    if kind == "w4a4" and w.format == MXFP4 and not p.folded:
        pytest.skip(p.note)
    return p, "fp8-fast" if p.folded else "fp32"


def judge(out: Tensor, a: Any, w: QTensor, accumulator: str) -> None:
    wrong = product_bound(roundings=0)(out, (a, w), reference.matmul, accumulator)
    assert wrong is None, str(wrong)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fmt", [NVFP4, MXFP4], ids=lambda fmt: fmt.name)
def test_a_product_of_more(fmt: Format, kind: str) -> None:
    m, n, k = 65536, 36864, 512
    w = random_weights(n, k, fmt)
    p, accumulator = prepared(w, kind)
    a, part_of = operands(normal(m, k), kind, fmt)
    out = prepared_matmul(a, p)
    for part in places(m, n):
        for first in (0, n - 512):
            columns = w.rows(first, first + 512)
            judge(out[part, first : first + 512].contiguous(), part_of(part), columns, accumulator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fmt", [NVFP4, MXFP4], ids=lambda fmt: fmt.name)
def test_activations_of_more(fmt: Format, kind: str) -> None:
    m, n, k = 81920, 520, 28672  # folded rows are of at most 32768
    w = random_weights(n, k, fmt)
    p, accumulator = prepared(w, kind)
    a, part_of = operands(normal(m, k), kind, fmt)
    out = prepared_matmul(a, p)
    for part in places(m, k):
        judge(out[part], part_of(part), w, accumulator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fmt", [NVFP4, MXFP4], ids=lambda fmt: fmt.name)
def test_weights_of_more(fmt: Format, kind: str) -> None:
    """By every kernel that the number of rows chooses."""
    n, k = 300_000, 8192
    w = random_weights(n, k, fmt)
    p, accumulator = prepared(w, kind)
    for m in (1, 16, 100, 520):
        a, part_of = operands(normal(m, k), kind, fmt)
        out = prepared_matmul(a, p)
        for part in places(n, k):
            columns = w.rows(part.start, part.stop)
            judge(out[:, part].contiguous(), part_of(slice(0, m)), columns, accumulator)


@pytest.mark.parametrize("fmt", [NVFP4, MXFP4], ids=lambda fmt: fmt.name)
def test_unpacked_weights_of_more(fmt: Format) -> None:
    n, k = 300_000, 8192
    w = random_weights(n, k, fmt)
    f = prepare(w).weight
    assert isinstance(f, Fragments)
    dense = fp4_unpack(f)
    for part in places(n, k):
        exact = w.rows(part.start, part.stop).exact_values(torch.float64)
        assert torch.equal(dense[part].double() * f.unit, exact)


@pytest.mark.parametrize(
    ("fmt", "options"),
    [
        (NVFP4, {"global_scale": 50.0}),
        (NVFP4, {"hadamard": 16, "global_scale": 50.0}),
        (MXFP4, {}),
        (MXFP4, {"hadamard": 128}),
        (FP8, {"scale": 0.02}),
        (FP8_TOKEN, {}),
        (INT8, {"scale": 0.03}),
        (INT8_ASYM, {"scale": 0.03, "zero_point": -5}),
        (INT8_TOKEN, {}),
        (INT8_ASYM, {}),
    ],
    ids=lambda each: each.name if isinstance(each, Format) else ",".join(each) or "dynamic",
)
def test_quantizers_of_more(fmt: Format, options: dict[str, Any]) -> None:
    m, k = 65536, 36864
    x = normal(m, k)
    q = qkernels.quantize(x, fmt, backend="triton", **options)
    for part in places(m, k):
        wrong = compare_quantized(q.rows(part.start, part.stop), x[part], fmt, **options)
        assert wrong is None, str(wrong)


@pytest.mark.parametrize("fmt", [NVFP4, FP8], ids=lambda fmt: fmt.name)
def test_the_scale_of_a_tensor_of_more_follows_its_last_element(fmt: Format) -> None:
    m, k = 65536, 36864
    x = normal(m, k)
    x[-1, -1] = 96.0
    q = qkernels.quantize(x, fmt, backend="triton")
    last = quantize_exactly(x[-8:], fmt)  # the largest is in it, so that the scale is the same
    found, expected = (each.scale if fmt == FP8 else each.global_scale for each in (q, last))
    assert torch.allclose(found.double(), expected.double(), rtol=2**-22, atol=0)
    known = {"scale": found.reshape(1)} if fmt == FP8 else {"global_scale": found}
    for part in places(m, k):
        wrong = compare_quantized(q.rows(part.start, part.stop), x[part], fmt, **known)
        assert wrong is None, str(wrong)


@pytest.mark.parametrize("hadamard", [None, 32])
def test_folded_rows_of_more(hadamard: int | None) -> None:
    m, k = 81920, 28672
    x = normal(m, k)
    f = mxfp4_fold(x, hadamard=hadamard)
    assert not bool(f.misfits.any())
    for part in places(m, k):
        wrong = compare_quantized(_part(f, part).quantized(), x[part], MXFP4, hadamard=hadamard)
        assert wrong is None, str(wrong)
