"""MXFP4 folded into E4M3 rows: exact, laid out as described, and refused where it does not fit."""

from __future__ import annotations

import pytest
import torch

from qbench import Unsupported
from qkernels.format import MXFP4, MXFP4_ABS_MAX
from qkernels.tensor import QTensor
from qkernels.triton.mxfp4_folded import fold_rows, fold_weights
from qkernels.triton.mxfp4_gemm_sm90 import SHAPES, mxfp4_gemm_sm90
from qkernels.triton.stream_plan import Plan
from qkernels.triton.workspaces import processors
from tests.plans import every_plan

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
SIGNS = (7, 15, 23, 31, 3, 11, 19, 27)


def random_mxfp4(rows: int, k: int, low: int, high: int, seed: int = 0) -> QTensor:
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(0, 256, (rows, k // 2), dtype=torch.uint8, generator=generator)
    scale = torch.randint(low, high + 1, (rows, k // 32), dtype=torch.uint8, generator=generator)
    return QTensor(data, scale, MXFP4, (rows, k))


@pytest.mark.parametrize(("low", "high"), [(127, 127), (116, 127), (0, 11), (243, 254)])
def test_rows_are_what_they_were_exactly(low: int, high: int) -> None:
    q = random_mxfp4(9, 128, low, high)
    folded = fold_rows(q)
    values = folded.elements.double() * folded.factor.double()[:, None]
    assert torch.equal(values, q.exact_values(torch.float64))


@pytest.mark.parametrize(("n", "k"), [(16, 128), (5, 96), (33, 256)])
def test_weights_are_where_the_layout_says(n: int, k: int) -> None:
    q = random_mxfp4(n, k, 118, 127)
    w = fold_weights(q)
    words = w.codes.view(torch.int32).tolist()
    spread = w.spread.tolist()
    found = torch.zeros(n, k, dtype=torch.float64)
    for row in range(n):
        tile, s, g = row // 16, row % 16 // 8, row % 8
        for column in range(k):
            chunk, part, inner = column // 128, column % 128 // 32, column % 32
            upper, t, byte = inner // 16, inner % 16 // 4, inner % 4
            word = words[tile][chunk][((((part // 2) * 8 + g) * 4 + t) * 2 + part % 2) * 2 + s]
            v = 4 * upper + byte
            magnitude, sign = E2M1[word >> 4 * v & 7], -1.0 if word >> SIGNS[v] & 1 else 1.0
            d = spread[tile][chunk][g * 8 + part * 2 + s]
            found[row, column] = sign * magnitude * 2.0 ** (6 - d)
    assert torch.equal(found * w.factor.double()[:, None], q.exact_values(torch.float64))


def test_a_row_whose_scales_span_more_than_e4m3_is_refused_with_its_number() -> None:
    q = random_mxfp4(4, 64, 120, 120)
    q.data[2] = 0x11
    q.scale[2, 0] = 108
    with pytest.raises(Unsupported, match=r"scales of row 2 span 2\^12, more than the 2\^11"):
        fold_weights(q)
    for within in (12, 14):  # activations may: their elements reach down to 2^-9
        q.scale[2, 0] = 120 - within
        assert torch.equal(
            fold_rows(q).elements.double() * fold_rows(q).factor.double()[:, None],
            q.exact_values(torch.float64),
        )
    q.scale[2, 0] = 105
    with pytest.raises(Unsupported, match=r"scales of row 2 span 2\^15, more than the 2\^14"):
        fold_rows(q)
    q.data[2, :16] = 0x80  # the block is +0 and -0: its scale does not matter
    assert torch.equal(
        fold_rows(q).elements.double() * fold_rows(q).factor.double()[:, None], q.exact_values(torch.float64)
    )
    q.scale[1, 1] = 255
    with pytest.raises(Unsupported, match="NaN"):
        fold_weights(q)


def test_the_gain_of_abs_max_is_kept_for_the_product() -> None:
    q = random_mxfp4(2, 64, 120, 127)
    q = QTensor(q.data, q.scale, MXFP4_ABS_MAX, q.shape)
    assert fold_rows(q).gain == fold_weights(q).gain == MXFP4_ABS_MAX.gain


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 256, 128), (100, 264, 320), (300, 5128, 2048), (513, 1032, 4096), (250, 10240, 1024)],
)
def test_hoppers_product_of_folded_operands(m: int, n: int, k: int) -> None:
    a, w = random_mxfp4(m, k, 120, 127).to("cuda"), random_mxfp4(n, k, 118, 127, 1).to("cuda")
    x, folded = fold_rows(a), fold_weights(w)
    expected = a.exact_values(torch.float64) @ w.exact_values(torch.float64).T
    for shape in SHAPES:
        tiles = -(-m // shape.rows) * -(-n // (16 * shape.tiles))
        plans: list[Plan | None] = [None, *every_plan(tiles, -(-k // 256), processors(a.data.device), shape)]
        for plan in plans:
            out = mxfp4_gemm_sm90(x, folded, shape=shape, plan=plan)
            # FP8 products are summed with about 14 bits; the result is bf16
            assert float((out.double() - expected).norm() / expected.norm()) < 3e-3, (shape, plan)
            for _ in range(5):
                assert torch.equal(out, mxfp4_gemm_sm90(x, folded, shape=shape, plan=plan, early=False))
