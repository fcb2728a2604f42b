"""backend="triton" is the reference by other means, and each Triton provider runs the operation it names."""

from __future__ import annotations

import pytest
import torch
import triton
from torch import nn

import qkernels
from qbench import exact, gemm_error, within
from qbench.interpreter import repair
from qkernels import reference
from qkernels.api import TRITON_FORMATS
from qkernels.compare import compare_quantized
from qkernels.linear import QuantizedLinear
from qkernels.triton import fp4_gemm, fp4_gemm_quantize

if triton.knobs.runtime.interpret:
    repair()

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DYNAMIC = [fmt.name for fmt in TRITON_FORMATS if fmt.name != "int8"]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).half().to(DEVICE)


def judge(out: torch.Tensor, a: torch.Tensor | qkernels.QTensor, b: qkernels.QTensor) -> object:
    expected = reference.matmul(a, b)
    return within(out, expected, gemm_error(expected, reference.magnitude(a, b), a.shape[1]))


@pytest.mark.parametrize("name", DYNAMIC)
def test_every_dynamic_format_quantizes_with_leading_axes(name: str) -> None:
    fmt = qkernels.get_format(name)
    shape = (2, max(3, fmt.block_rows), max(64, fmt.block or 64))
    q = qkernels.quantize(x := normal(*shape), name, backend="triton")
    assert q.shape == shape
    assert q.format == fmt
    assert compare_quantized(q, x, fmt) is None


def test_static_scales_reach_the_kernels() -> None:
    x, scale = normal(4, 64), torch.tensor([0.02], device=DEVICE)
    gs, zero_point = torch.tensor(700.0, device=DEVICE), torch.tensor([5], dtype=torch.int32, device=DEVICE)
    q = qkernels.quantize(x, "nvfp4", global_scale=gs, hadamard=32, backend="triton")
    assert compare_quantized(q, x, qkernels.NVFP4, global_scale=gs, hadamard=32) is None
    for name in ("fp8", "int8"):
        q = qkernels.quantize(x, name, scale=scale, backend="triton")
        assert compare_quantized(q, x, qkernels.get_format(name), scale=scale) is None
    q = qkernels.quantize(x, "int8_asym", scale=scale, zero_point=zero_point, backend="triton")
    assert compare_quantized(q, x, qkernels.INT8_ASYM, scale=scale, zero_point=zero_point) is None


BAD = {
    "scale for a block format": ("nvfp4", {"scale": 1.0}, "computes its block scales"),
    "zero point for a block format": ("mxfp4", {"zero_point": 1}, "computes its block scales"),
    "global scale for MXFP4": ("mxfp4", {"global_scale": 1.0}, "global_scale"),
    "global scale for FP8": ("fp8", {"global_scale": 1.0}, "takes no global_scale"),
    "static scale for a dynamic format": ("fp8_token", {"scale": 1.0}, "computes a scale per row"),
    "static scale for dynamic INT8": ("int8_token", {"scale": 1.0}, "computes a scale per row"),
    "zero point for FP8": ("fp8", {"scale": 1.0, "zero_point": 1}, "takes no zero_point"),
    "zero point for symmetric INT8": ("int8", {"scale": 1.0, "zero_point": 1}, "zero_point"),
    "no scale for static INT8": ("int8", {}, "scale"),
    "half of an asymmetric pair": ("int8_asym", {"scale": 1.0}, "zero_point"),
}


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("case", BAD, ids=lambda name: name.replace(" ", "-"))
def test_both_backends_refuse_the_same_arguments(case: str, backend: str) -> None:
    name, options, message = BAD[case]
    tensors = {
        key: torch.tensor([value], dtype=torch.int32 if key == "zero_point" else torch.float32, device=DEVICE)
        for key, value in options.items()
    }
    with pytest.raises(ValueError, match=message):
        qkernels.quantize(normal(2, 32), name, backend=backend, **tensors)


@pytest.mark.parametrize("name", ["nvfp4", "mxfp4_quest"])
def test_matmul_by_the_kernel(name: str) -> None:
    a, b = normal(3, 96), qkernels.quantize(normal(10, 96, seed=1), name)
    assert judge(qkernels.matmul(a, b, backend="triton"), a, b) is None


def test_products_of_other_formats_have_no_kernel() -> None:
    a, b = normal(3, 64), qkernels.quantize(normal(10, 64, seed=1), "fp8", backend="torch")
    with pytest.raises(ValueError, match="multiplies NVFP4 and MXFP4"):
        qkernels.matmul(a, b, backend="triton")


def test_gemm_provider() -> None:
    a, b = normal(3, 64), qkernels.quantize(normal(10, 64, seed=1), "nvfp4")
    out = fp4_gemm.gemm(a, b)()
    assert out.dtype == a.dtype
    assert judge(out, a, b) is None


@pytest.mark.parametrize(("name", "hadamard"), [("nvfp4", 16), ("mxfp4_abs_max", 32), ("nvfp4_1l", None)])
def test_hadamard_gemm_provider_returns_what_it_multiplied(name: str, hadamard: int | None) -> None:
    x, w = normal(3, 64), qkernels.quantize(normal(10, 64, seed=1), name, hadamard=hadamard)
    y, xq = fp4_gemm.hadamard_gemm(x, w)()
    assert compare_quantized(xq, x, w.format, hadamard=hadamard) is None
    assert judge(y, xq, w) is None


def test_gemm_quantize_provider() -> None:
    a, b = normal(3, 64), qkernels.quantize(normal(32, 64, seed=1), "nvfp4")
    gs = torch.tensor(100.0, device=DEVICE)
    made = fp4_gemm_quantize.gemm_quantize(a, b, gs)()
    wanted = fp4_gemm_quantize.nvfp4_gemm_quantize(a, b, out_global_scale=gs)
    assert torch.equal(made.data, wanted.data)
    assert torch.equal(made.scale, wanted.scale)


@pytest.mark.parametrize("kind", [qkernels.LinearNVFP4, qkernels.LinearMXFP4])
def test_linear_provider(kind: type[QuantizedLinear]) -> None:
    layer, x = kind.from_linear(nn.Linear(64, 24, device=DEVICE), hadamard=32), normal(3, 64)
    assert exact(fp4_gemm.linear(x, layer)(), (), lambda: layer(x)) is None


@pytest.mark.gpu
@pytest.mark.parametrize("activation", ["w4a4", "w4a16"])
@pytest.mark.parametrize("kind", [qkernels.LinearNVFP4, qkernels.LinearMXFP4])
def test_a_layer_on_the_gpu_equals_its_parts(kind: type[QuantizedLinear], activation: str) -> None:
    linear = nn.Linear(1024, 512, device=DEVICE, dtype=torch.bfloat16)
    layer = kind.from_linear(linear, hadamard=32, activation=activation)
    x = normal(7, 1024).bfloat16()
    a: torch.Tensor | qkernels.QTensor
    if activation == "w4a4":
        a = qkernels.quantize(x, layer.format, hadamard=32)
    else:
        a = qkernels.rotate(x, 32, torch.bfloat16)
    weight, out = layer.quantized_weight(), layer(x)
    assert compare_quantized(weight, linear.weight.detach(), layer.format, hadamard=32) is None
    expected = reference.matmul(a, weight, bias=layer.bias)
    assert within(out, expected, gemm_error(expected, reference.magnitude(a, weight), 1024)) is None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = layer(x)
    graph.replay()
    assert torch.equal(captured, out)
