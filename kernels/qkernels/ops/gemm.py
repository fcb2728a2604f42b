"""GEMM operations: on bf16 operands, on quantized operands, and with the activations quantized on the way.

A product of operands that are quantized already and a product that quantizes its activations first are
different operations with different work: the second is `hadamard_gemm`, and its providers return the quantized
activations beside the product, so that the two contracts are checked apart: the quantizer against
its own rule, the product against dequantize-then-matmul on the very operands it multiplied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qbench import Cost, GemmBound, Mismatch, Op, Workload
from qkernels import reference
from qkernels.compare import compare_quantized, explain_product
from qkernels.format import Format
from qkernels.ops.operands import activations, dtype_of, normal, weight
from qkernels.quantize import quantize
from qkernels.tensor import QTensor

Operand = Tensor | QTensor


def bf16_gemm() -> Op:
    """x [M, K] bf16 times w [N, K] bf16: what every quantized product is measured against."""

    def inputs(workload: Workload, device: torch.device) -> tuple[Tensor, Tensor]:
        m, n, k = _mnk(workload)
        x = activations(m, k, torch.bfloat16, workload.seed, device)
        return x, normal(n, k, torch.bfloat16, "weight", workload.seed, device) * k**-0.5

    def cost(workload: Workload) -> Cost:
        m, n, k = _mnk(workload)
        return Cost(2 * (m * k + n * k + m * n), 2 * m * n * k)

    return Op("bf16_gemm", inputs, reference.matmul, product_bound(roundings=0), cost)


def gemm(fmt: Format, activation: Format | None = None) -> Op:
    """Product with a quantized weight: W4A16 when the activations stay 16 bits wide, W4A4 when they are quantized.

    Operands (x, w): x [M, K] bf16 (or the axis `dtype`) or a QTensor, w a QTensor [N, K]. Output [M, N] in bf16, or
    in x's dtype. The axis `had` is the rotation both operands were given before.
    """
    kind = f"w{fmt.element.bits}a{16 if activation is None else activation.element.bits}"

    def inputs(workload: Workload, device: torch.device) -> tuple[Operand, QTensor]:
        m, n, k = _mnk(workload)
        had = int(workload.get("had", 0) or 0)
        x = activations(m, k, _dtype(workload), workload.seed, device)
        w = weight(n, k, fmt, had, workload.seed, device)
        return (x if activation is None else quantize(x, activation, hadamard=had or None)), w

    def cost(workload: Workload) -> Cost:
        m, n, k = _mnk(workload)
        x_bytes = 2 * m * k if activation is None else activation.nbytes((m, k))
        return Cost(x_bytes + fmt.nbytes((n, k)) + 2 * m * n, 2 * m * n * k)

    bound = product_bound(roundings=0)
    return Op(f"{fmt.name}_{kind}_gemm", inputs, reference.matmul, bound, cost, alongside=("bf16_gemm",))


def hadamard_gemm(fmt: Format) -> Op:
    """Rotate and quantize x [M, K] bf16, then multiply with a weight that was rotated and quantized before.

    Operands (x, w); the rotation is `w.hadamard`. Output (y, xq): the product and the quantized activations.
    """

    def inputs(workload: Workload, device: torch.device) -> tuple[Tensor, QTensor]:
        m, n, k = _mnk(workload)
        x = activations(m, k, torch.bfloat16, workload.seed, device)
        return x, weight(n, k, fmt, int(workload.get("had", 0) or 0), workload.seed, device)

    def expected(x: Tensor, w: QTensor) -> Tensor:
        return reference.matmul(quantize(x, fmt, hadamard=w.hadamard), w)

    def cost(workload: Workload) -> Cost:
        m, n, k = _mnk(workload)
        return Cost(2 * m * k + fmt.nbytes((n, k)) + 2 * m * n, 2 * m * n * k)

    beside = ("bf16_gemm", f"{fmt.name}_w4a4_gemm")
    return Op(f"{fmt.name}_hadamard_gemm", inputs, expected, _product_and_operand, cost, alongside=beside)


def gemm_quantize(fmt: Format, activation: str = "w4a4") -> Op:
    """Product whose epilogue quantizes its output to fmt: (a, b, gs) -> QTensor [M, N].

    a [M, K] is quantized as b [N, K] is, or bf16 ("w4a16"). gs is the static encode scale of a format of two levels,
    None for the others. The fp32 accumulator is quantized (after alpha), not a bf16 rounding of it.
    """
    if activation not in ("w4a4", "w4a16"):
        raise ValueError(f"unknown activation {activation!r}; known: w4a4, w4a16")
    product = gemm(fmt, fmt if activation == "w4a4" else None)

    def inputs(workload: Workload, device: torch.device) -> tuple[Operand, QTensor, Tensor | None]:
        a, b = product.inputs(workload, device)
        if fmt.levels == 1:
            return a, b, None
        first = _take_rows((a,), 0, 16)[0]
        gs = fmt.scale_max * fmt.element.max / reference.matmul(first, b).abs().amax()
        return a, b, gs.to(torch.float32)

    def expected(a: Operand, b: QTensor, global_scale: Tensor | None) -> QTensor:
        return quantize(reference.matmul(a, b).to(torch.float32), fmt, global_scale=global_scale)

    def tolerance(
        output: QTensor, inputs: tuple[Any, ...], reference_: Callable[..., Any], accumulator: str
    ) -> Mismatch | None:
        a, b, global_scale = inputs
        y = reference.matmul(a, b)
        error = product_bound(roundings=0).error(y, (a, b), accumulator)
        return compare_quantized(output, y, fmt, global_scale=global_scale, error=error)

    def cost(workload: Workload) -> Cost:
        m, n, k = _mnk(workload)
        a_bytes = fmt.nbytes((m, k)) if activation == "w4a4" else 2 * m * k
        return Cost(a_bytes + fmt.nbytes((n, k)) + fmt.nbytes((m, n)), 2 * m * n * k)

    name = f"{fmt.name}_gemm_quantize" if activation == "w4a4" else f"{fmt.name}_w4a16_gemm_quantize"
    return Op(name, inputs, expected, tolerance, cost, alongside=("bf16_gemm",))


def product_bound(*, roundings: int = 3, out_dtype: torch.dtype | None = None) -> GemmBound:
    """The float64 bound of qbench.check for products (a, b) or (a, b, bias) of tensors and quantized tensors.

    roundings is 0 if the operands show all that the reference computes. By default there is room for something added
    to the product that they do not show, such as a layer's bias. out_dtype: bf16, or that of a plain a.
    """
    return GemmBound(
        reference.magnitude,
        _sizes,
        _out_dtype if out_dtype is None else lambda *operands: out_dtype,
        _take_rows,
        reference.certified,
        roundings,
        explain_product,
    )


def _product_and_operand(
    output: Any, inputs: tuple[Any, ...], reference_: Callable[..., Any], accumulator: str
) -> Mismatch | None:
    x, w = inputs
    if not (isinstance(output, tuple) and len(output) == 2):
        return Mismatch("return (product, quantized activations), so that both can be checked", 1, 1)
    y, quantized = output
    if hasattr(quantized, "quantized"):  # kept in another form, whose bytes say what was quantized
        quantized = quantized.quantized()
    if not isinstance(quantized, QTensor):
        return Mismatch("return (product, quantized activations), so that both can be checked", 1, 1)
    wrong = compare_quantized(quantized, x, w.format, hadamard=w.hadamard)
    return wrong or product_bound(roundings=0)(y, (quantized, w), reference.matmul, accumulator)


def _sizes(a: Operand, b: Operand, bias: Tensor | None = None) -> tuple[int, int, int]:
    return a.shape[0], b.shape[0], a.shape[1]


def _out_dtype(a: Operand, b: Operand, bias: Tensor | None = None) -> torch.dtype:
    return a.dtype if isinstance(a, Tensor) else torch.bfloat16


def _take_rows(operands: tuple[Any, ...], start: int, stop: int) -> tuple[Any, ...]:
    a, *others = operands
    return (a.rows(start, stop) if isinstance(a, QTensor) else a[start:stop], *others)


def _mnk(workload: Workload) -> tuple[int, int, int]:
    return workload.size("m"), workload.size("n"), workload.size("k")


def _dtype(workload: Workload) -> torch.dtype:
    return dtype_of(workload.get("dtype", "bfloat16"))
