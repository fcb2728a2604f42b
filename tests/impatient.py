"""Split products whose programs do not wait for parts of others: `python -m tests.impatient`, on a Hopper GPU.

Who sums a tile looks a while for the other parts (stream_k.look). Here it looks once, so that it leaves its mark in
most launches, and who brings the last part sums in its place. Results must be those of the patient.
"""

from __future__ import annotations

import sys

import torch
from triton.experimental.gluon import language as gl

from qkernels.quantize import quantize
from qkernels.triton import stream_k

stream_k.PATIENCE = gl.constexpr(0)  # before the kernels that read it are imported

from qbench import gemm_error, within  # noqa: E402
from qkernels import reference  # noqa: E402
from qkernels.format import MXFP4, NVFP4  # noqa: E402
from qkernels.triton import fp4_gemm_sm90, mxfp4_gemm_sm90  # noqa: E402
from qkernels.triton.fp4_fragments import fragments  # noqa: E402
from qkernels.triton.mxfp4_folded import fold_rows, fold_weights  # noqa: E402
from qkernels.triton.workspaces import processors  # noqa: E402
from tests.plans import every_plan  # noqa: E402


def of_sixteen_bits(m: int, n: int, k: int, generator: torch.Generator):
    x = torch.randn(m, k, generator=generator).bfloat16().cuda()
    w = quantize(torch.randn(n, k, generator=generator), NVFP4).to("cuda")
    f, expected = fragments(w), reference.matmul(x, w)
    bound = gemm_error(expected, reference.magnitude(x, w), k)
    return expected, bound, lambda **how: fp4_gemm_sm90.fp4_gemm_sm90(x, f, **how)


def folded(m: int, n: int, k: int, generator: torch.Generator):
    x, w = (quantize(torch.randn(rows, k, generator=generator), MXFP4).to("cuda") for rows in (m, n))
    rows, f, expected = fold_rows(x), fold_weights(w), reference.matmul(x, w)
    bound = gemm_error(expected, reference.magnitude(x, w), k, accumulator="fp8-fast")
    return expected, bound, lambda **how: mxfp4_gemm_sm90.mxfp4_gemm_sm90(rows, f, **how)


def main() -> int:
    wrong = 0
    generator = torch.Generator().manual_seed(0)
    kinds = ((of_sixteen_bits, fp4_gemm_sm90.SHAPES, 128), (folded, mxfp4_gemm_sm90.SHAPES, 256))
    for m, n, k in ((300, 5128, 2048), (250, 10240, 1024), (100, 520, 4096)):
        for kind, shapes, step in kinds:
            expected, bound, product = kind(m, n, k, generator)
            for shape in shapes:
                tiles = -(-m // shape.rows) * -(-n // (16 * shape.tiles))
                for plan in every_plan(tiles, -(-k // step), processors(expected.device), shape):
                    first = product(shape=shape, plan=plan)
                    same = all(torch.equal(first, product(shape=shape, plan=plan)) for _ in range(20))
                    if (problem := within(first, expected, bound)) or not same:
                        print(f"{kind.__name__} {m} x {n} x {k}, {plan}: {problem or 'does not repeat'}")
                        wrong += 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
