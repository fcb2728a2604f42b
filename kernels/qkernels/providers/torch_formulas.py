"""Products by formula under torch.compile: decode FP4 operands, then multiply; what a user gets without a kernel.

One row of activations is multiplied and summed, which Inductor fuses with the decoding into one pass over the packed
weights; more rows take cuBLAS, in bf16 after a kernel that writes decoded weights, or in E4M3 where those hold them
exactly. Weights are compiled for their shape, the number of rows beyond one is left open: compiling takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qbench import Unsupported, provider
from qkernels.format import MXFP4, NVFP4, NVFP4_1L
from qkernels.hadamard import hadamard_matrix
from qkernels.ops.require import EXACT_PRODUCT, require_operands
from qkernels.providers.torch_quantize import compiled, mxfp4_floor
from qkernels.tensor import QTensor
from qkernels.triton.mxfp4_folded import fold_rows, relative


@provider("torch-compile", needs_capability=(8, 9), instead="torch-bf16")
def gemm(a: Tensor | QTensor, b: QTensor) -> Callable[[], Tensor]:
    """bf16 [M, N] = a times b, both decoded within the call; alpha goes into the product, where it is not rounded."""
    operands = [b] if isinstance(a, Tensor) else [a, b]
    require_operands("the plain torch formula", (NVFP4, NVFP4_1L, MXFP4), *operands)
    if isinstance(a, Tensor) and a.dtype != torch.bfloat16:
        raise Unsupported(f"the formula is written for bfloat16 activations, not {a.dtype}", EXACT_PRODUCT)
    alpha = 1.0
    for operand in operands:
        alpha *= float(operand.alpha)
    left = (a,) if isinstance(a, Tensor) else (a.data, _scales(a))
    name = ("product" if len(left) == 1 else "quantized_product") + ("_of_one_row" if a.shape[0] == 1 else "")
    formula = compiled(
        _FORMULAS[name], b.shape, b.format.scale, alpha
    )  # alpha is a constant of cuBLAS's call
    right = (b.data, _scales(b))
    _leave_rows_open(*left)
    return lambda: formula(*left, *right, alpha)


@provider("torch-compile", needs_capability=(8, 9), instead="triton-prepared")
def hadamard_gemm(x: Tensor, w: QTensor) -> Callable[[], tuple[Tensor, QTensor]]:
    """MXFP4: x rotated in fp32, quantized, decoded and multiplied."""
    if w.format != MXFP4 or x.dtype != torch.bfloat16:
        raise Unsupported(
            f"the formula quantizes bfloat16 to mxfp4, not {x.dtype} to {w.format.name}", "triton"
        )
    rotation = None
    if w.hadamard is not None:
        rotation = hadamard_matrix(w.hadamard, torch.float32, x.device) * w.hadamard**-0.5
    formula = compiled(quantized_on_the_way, w.shape, w.hadamard, x.shape[0] == 1)
    _leave_rows_open(x)
    shape = tuple(x.shape)

    def run() -> tuple[Tensor, QTensor]:
        y, data, scale = formula(x, w.data, w.scale, rotation)
        return y, QTensor(data, scale, w.format, shape, hadamard=w.hadamard)

    return run


@provider("torch-compile-fp8", needs_capability=(8, 9), accumulator="fp8-fast", instead="torch-compile")
def fp8_gemm(a: QTensor, b: QTensor) -> Callable[[], Tensor]:
    """MXFP4 times MXFP4: weights unpacked to E4M3 within the call, then torch._scaled_mm; a is E4M3 beforehand."""
    require_operands("the E4M3 formula", (MXFP4,), a, b)
    d, largest = relative(b)
    spread = 133 - d  # exponents of 2^(6 - d), as E8M0 bytes
    factor = torch.ldexp(torch.ones_like(largest, dtype=torch.float32), largest - 133)
    multiply = _scaled_mm(a, factor, fast=True)
    unpack = compiled(elements, b.shape)
    return lambda: multiply(unpack(b.data, spread))


@provider("torch-scaled-mm-fp8", needs_capability=(8, 9), accumulator="fp8-fast", instead="torch-compile")
def scaled_mm_fast(a: QTensor, b: QTensor) -> Callable[[], Tensor]:
    """MXFP4 times MXFP4, both E4M3 beforehand (twice the bytes of FP4 are read): torch._scaled_mm alone."""
    return _dense(a, b, fast=True)


@provider(
    "torch-scaled-mm-fp8-slow", needs_capability=(8, 9), accumulator="fp8-promoted", instead="torch-compile"
)
def scaled_mm_promoted(a: QTensor, b: QTensor) -> Callable[[], Tensor]:
    """The same with sums promoted to fp32 (use_fast_accum=False)."""
    return _dense(a, b, fast=False)


def _dense(a: QTensor, b: QTensor, *, fast: bool) -> Callable[[], Tensor]:
    require_operands("torch._scaled_mm on E4M3", (MXFP4,), a, b)
    w = fold_rows(b)
    multiply = _scaled_mm(a, w.factor, fast=fast)
    return lambda: multiply(w.elements)


def _scaled_mm(a: QTensor, factor: Tensor, *, fast: bool) -> Callable[[Tensor], Tensor]:
    """weights E4M3 [N, K] -> bf16 [M, N]: a factor a row on both sides, powers of two, so that only sums round."""
    n, k = factor.numel(), a.shape[1]
    if n % 16 or k % 16:
        raise Unsupported(
            f"torch._scaled_mm takes N and K in multiples of 16, not {n} and {k}", "torch-compile"
        )
    rows = fold_rows(a)
    left, right = rows.factor.view(-1, 1), factor.view(1, -1)
    return lambda w: torch._scaled_mm(
        rows.elements, w.T, left, right, out_dtype=torch.bfloat16, use_fast_accum=fast
    )


def _scales(q: QTensor) -> Tensor:
    """Block scales in the dtype that says what their bytes mean; E8M0 stay bytes."""
    return q.scale.view(torch.float8_e4m3fn) if q.format.scale == "e4m3" else q.scale


def _leave_rows_open(*operands: Tensor) -> None:
    for operand in operands:
        if operand.shape[0] > 1:
            torch._dynamo.mark_dynamic(operand, 0)


# Formulas: what is compiled. Names of the format are not known here: blocks follow from the shapes, scales from dtypes.


def product(x: Tensor, data: Tensor, scale: Tensor, alpha: float) -> Tensor:
    """bf16: x [M, K] bf16 times w [N, K] transposed, times alpha."""
    return _times(x, _decoded(data, scale), alpha)


def product_of_one_row(x: Tensor, data: Tensor, scale: Tensor, alpha: float) -> Tensor:
    """The same of x [1, K], in one pass over w."""
    blocks = x.float().view(scale.shape[1], -1, 2)
    low, high = _halves(data.view(*scale.shape, -1))
    sums = ((low * blocks[..., 0] + high * blocks[..., 1]) * _factor(scale)[..., None]).sum((1, 2))
    return (sums * alpha).to(torch.bfloat16)[None]


def quantized_product(a: Tensor, a_scale: Tensor, data: Tensor, scale: Tensor, alpha: float) -> Tensor:
    """bf16: both operands packed."""
    return _times(_decoded(a, a_scale), _decoded(data, scale), alpha)


def quantized_product_of_one_row(
    a: Tensor, a_scale: Tensor, data: Tensor, scale: Tensor, alpha: float
) -> Tensor:
    return product_of_one_row(_decoded(a, a_scale), data, scale, alpha)


def quantized_on_the_way(
    x: Tensor, data: Tensor, scale: Tensor, rotation: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(x quantized times w, the codes of x, its scale bytes)."""
    if rotation is not None:
        x = (x.float().unflatten(-1, (-1, rotation.shape[0])) @ rotation).flatten(-2)
    codes, bytes_ = mxfp4_floor(x)
    return _decoded(codes, bytes_) @ _decoded(data, scale).T, codes, bytes_


def elements(data: Tensor, spread: Tensor) -> Tensor:
    """E4M3 [N, K]: codes times a power of two for each block, exact where that is 2^-5 or more."""
    return _decoded(data, spread).to(torch.float8_e4m3fn)


_FORMULAS = {
    each.__name__: each
    for each in (product, product_of_one_row, quantized_product, quantized_product_of_one_row)
}


def _decoded(data: Tensor, scale: Tensor) -> Tensor:
    """bf16 [R, K], exact: code times block scale."""
    low, high = _halves(data.view(*scale.shape, -1))
    values = torch.stack((low, high), -1).flatten(-2) * _factor(scale)[..., None]
    return values.flatten(-2).to(torch.bfloat16)


def _halves(data: Tensor) -> tuple[Tensor, Tensor]:
    """float32 values of the codes in the low and the high four bits: their bits are those of fp16 times 2^14."""
    bits = data.to(torch.int16)

    def value(code: Tensor) -> Tensor:
        placed = ((code & 7) << 9) | ((code & 8) << 12)
        return placed.view(torch.float16).float() * 2.0**14

    return value(bits), value(bits >> 4)


def _factor(scale: Tensor) -> Tensor:
    """float32 block scales: E4M3 as they are, E8M0 bytes as exponents."""
    if scale.dtype != torch.uint8:
        return scale.float()
    bits = (scale.to(torch.int32) << 23).clamp(min=0x00400000)
    return torch.where(scale == 255, torch.nan, bits.view(torch.float32))


def _times(x: Tensor, w: Tensor, alpha: float) -> Tensor:
    if alpha == 1.0:
        return x @ w.T
    return torch.addmm(x.new_empty(w.shape[0]), x, w.T, beta=0, alpha=alpha)
