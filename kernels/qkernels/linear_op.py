"""A whole linear layer: rotate, quantize, multiply, add the bias. (x, layer) -> y [M, N].

The layer quantizes its input itself. It says what it made of it (`layer.quantize_input`), so that quantizer and product
are checked apart, each against its own contract.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qbench import Cost, Mismatch, Op, Workload
from qkernels import reference
from qkernels.compare import compare_quantized
from qkernels.format import Format
from qkernels.linear import LinearMXFP4, LinearNVFP4, QuantizedLinear
from qkernels.ops.gemm import product_bound
from qkernels.ops.operands import activations, normal


def linear(fmt: Format) -> Op:
    """A layer with weights and activations in `fmt`; axes m, n, k and had (0: none)."""
    kind: type[QuantizedLinear] = LinearNVFP4 if fmt.scale == "e4m3" else LinearMXFP4

    def inputs(workload: Workload, device: torch.device) -> tuple[Tensor, QuantizedLinear]:
        m, n, k = (workload.size(axis) for axis in ("m", "n", "k"))
        plain = nn.Linear(k, n, bias=True, dtype=torch.bfloat16, device="meta")
        weight = normal(n, k, torch.bfloat16, "weight", workload.seed, device) * k**-0.5
        plain.weight = nn.Parameter(weight, requires_grad=False)
        bias = normal(1, n, torch.bfloat16, "bias", workload.seed, device).reshape(n)
        plain.bias = nn.Parameter(bias, requires_grad=False)
        had = int(workload.get("had", 0) or 0) or None
        return activations(m, k, torch.bfloat16, workload.seed, device), kind.from_linear(plain, hadamard=had)

    def cost(workload: Workload) -> Cost:
        m, n, k = (workload.size(axis) for axis in ("m", "n", "k"))
        return Cost(2 * (m * k + m * n + n) + fmt.nbytes((n, k)), 2 * m * n * k)

    return Op(f"{fmt.name}_linear", inputs, expected, tolerance, cost, alongside=("bf16_gemm",))


def expected(x: Tensor, layer: QuantizedLinear) -> Tensor:
    """float64 [M, N] from the layer's own weight and its own quantized input."""
    return reference.matmul(layer.quantize_input(x), layer.quantized_weight(), bias=layer.bias)


def tolerance(
    output: Tensor, inputs: tuple[Any, ...], reference_: Callable[..., Any], accumulator: str
) -> Mismatch | None:
    """The input as the layer quantized it, then the product of it."""
    x, layer = inputs
    quantized = layer.quantize_input(x)
    wrong = compare_quantized(
        quantized, x, layer.format, hadamard=layer.hadamard, global_scale=layer.input_global_scale
    )
    product = (quantized, layer.quantized_weight(), layer.bias)
    return wrong or product_bound(roundings=0)(output, product, reference.matmul, accumulator)
