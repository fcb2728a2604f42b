"""Other libraries' kernels, used where they are installed and skipped with the reason where they are not.

None of these is installed by this project. Each adapter repacks operands untimed and returns what the op's
contract asks for, so that a peer is checked exactly like our own kernels.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qbench import Unsupported, provider
from qkernels.format import (
    FP8,
    FP8_TOKEN,
    INT8,
    INT8_ASYM,
    INT8_TOKEN,
    MXFP4,
    MXFP4_ABS_MAX,
    NVFP4,
    NVFP4_1L,
    Format,
)
from qkernels.ops.quantize import QuantizeOptions
from qkernels.ops.require import require, require_operands
from qkernels.swizzle import to_blocked
from qkernels.tensor import QTensor

LIBRARIES = {
    "vllm": "vllm",
    "vllm-cutlass": "vllm",
    "qutlass": "qutlass",
    "torchao": "torchao",
    "gemlite": "gemlite",
    "humming": "humming",
}
"""Provider name to the module it needs."""


VLLM_TAKES: dict[Format, tuple[str, ...]] = {
    FP8: ("scale",),
    FP8_TOKEN: (),
    INT8: ("scale",),
    INT8_TOKEN: (),
    INT8_ASYM: (),
}
"""The formats of vllm_quantize and the options of each. Its static zero point is not compared."""


def installed(name: str) -> bool:
    """Is the library there to import?"""
    return importlib.util.find_spec(name) is not None


def need(name: str, *parts: str) -> Any:
    """Import `name.parts...`, or Unsupported with the reason."""
    try:
        module = importlib.import_module(".".join((name, *parts)))
    except Exception as error:  # a library built for another torch fails in many ways; each is "not here"
        raise Unsupported(f"{name} cannot be used: {type(error).__name__}: {error}") from error
    return module


@provider("vllm", needs_cuda=True)
def vllm_quantize(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """vLLM's scaled_fp8_quant and scaled_int8_quant."""
    require(options, "vLLM's adapter", VLLM_TAKES)
    ops = need("vllm", "_custom_ops")
    fmt, scale = options.format, options.scale
    if fmt in (FP8, FP8_TOKEN):
        token = fmt.granularity == "row"

        def run() -> QTensor:
            data, scales = ops.scaled_fp8_quant(x, scale, use_per_token_if_dynamic=token)
            return QTensor(data, scales, fmt, tuple(x.shape))

        return run

    def run_int8() -> QTensor:
        data, scales, zero = ops.scaled_int8_quant(x, scale, symmetric=fmt.symmetric)
        return QTensor(data, scales, fmt, tuple(x.shape), zero_point=zero)

    return run_int8


def _blocked_matrix(scale: Tensor) -> Tensor:
    """The 128 x 4 swizzle as the padded matrix that CUTLASS wrappers ask for."""
    rows, columns = (-(-size // unit) * unit for size, unit in zip(scale.shape, (128, 4), strict=True))
    return to_blocked(scale).view(rows, columns)


@provider("vllm-cutlass", needs_capability=(10, 0), instead="triton")
def vllm_nvfp4_gemm(a: QTensor, b: QTensor) -> Callable[[], Tensor]:
    """vLLM's CUTLASS NVFP4 product (Blackwell)."""
    require_operands("vLLM's cutlass_scaled_fp4_mm", (NVFP4, NVFP4_1L), a, b)
    ops = need("vllm", "_custom_ops")
    if a.shape[1] % 32 or b.shape[0] % 32:
        raise Unsupported(
            f"cutlass_scaled_fp4_mm takes K and N in multiples of 32, not {a.shape[1]} and {b.shape[0]}"
        )
    left_scale, right_scale = (_blocked_matrix(o.scale).view(torch.float8_e4m3fn) for o in (a, b))
    alpha = (a.alpha * b.alpha).to(torch.float32)
    return lambda: ops.cutlass_scaled_fp4_mm(a.data, b.data, left_scale, right_scale, alpha, torch.bfloat16)


@provider("qutlass", needs_capability=(10, 0), instead="triton")
def qutlass_hadamard_gemm(x: Tensor, w: QTensor) -> Callable[[], tuple[Tensor, QTensor]]:
    """QuTLASS: fused Hadamard and MXFP4 abs_max quantization, then its MXFP4 product (Blackwell)."""
    if w.format != MXFP4_ABS_MAX or w.hadamard is None:
        unlike = w.format.name if w.hadamard else f"{w.format.name} without one"
        raise Unsupported(
            f"qutlass is compared on mxfp4_abs_max with a rotation, not on {unlike}", "torch-eager"
        )
    qutlass = need("qutlass")
    from qkernels.hadamard import hadamard_matrix

    matrix = hadamard_matrix(w.hadamard, x.dtype, x.device) * w.hadamard**-0.5
    weight_scale = to_blocked(w.scale).view(torch.float8_e8m0fnu)
    alpha = torch.full((1,), 1 / 9, dtype=torch.float32, device=x.device)
    rows, blocks = x.shape[0], x.shape[1] // 32

    def run() -> tuple[Tensor, QTensor]:
        data, padded = qutlass.fusedQuantizeMx(x, matrix, method="abs_max")
        linear = padded.view(torch.uint8)[:rows, :blocks].contiguous()
        blocked = to_blocked(linear).view(torch.float8_e8m0fnu)
        y = qutlass.matmul_mxf4_bf16_tn(data, w.data, blocked, weight_scale, alpha)
        return y, QTensor(data.view(torch.uint8), linear, w.format, tuple(x.shape), hadamard=w.hadamard)

    return run


@provider("torchao")
def torchao_quantize(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """torchao's MX quantizer, OCP floor rule."""
    require(options, "torchao's adapter", {MXFP4: ()})
    mx = need("torchao", "prototype", "mx_formats", "mx_tensor")
    if x.dtype == torch.float16:
        raise Unsupported(
            "torchao's to_mx takes bfloat16 and float32, not float16", instead="--dtype bfloat16"
        )
    fmt = options.format

    def run() -> QTensor:
        scale, data = mx.to_mx(x, torch.float4_e2m1fn_x2, 32)
        return QTensor(data.view(torch.uint8), scale.view(torch.uint8), fmt, tuple(x.shape))

    return run


@provider("humming", needs_cuda=True)
def humming_gemm(x: Tensor | QTensor, w: QTensor) -> Callable[[], Tensor]:
    """Humming's weight-only FP4 product, repacked once and with its own choice of kernel configurations."""
    require_operands("humming's adapter", (NVFP4, NVFP4_1L, MXFP4), w)
    if not isinstance(x, Tensor) or x.dtype == torch.float32:
        unlike = x.dtype if isinstance(x, Tensor) else x.format.name
        raise Unsupported(f"humming is compared on 16-bit activations, not {unlike}", "triton")
    layers = need("humming", "layer")
    n, k = w.shape
    two_levels = w.format.levels == 2
    scale_type = torch.float8_e4m3fn if w.format.scale == "e4m3" else torch.float8_e8m0fnu
    config = {
        "dtype": "float4e2m1",
        "group_size": w.format.block,
        "scale_dtype": f"float8{w.format.scale}",
        "scale_type": "group_tensor" if two_levels else "group",
    }
    layer = layers.HummingLayer(shape_n=n, shape_k=k, weight_config=config, torch_dtype=x.dtype).to(x.device)
    weights = {"weight": w.data.view(torch.int32), "weight_scale": w.scale.view(scale_type)}
    if two_levels:
        names = [name for name in ("global_scale", "weight_scale_2") if name in layer.state_dict()]
        if not names:
            raise Unsupported("this version of humming names its second scale level otherwise")
        weights[names[0]] = w.alpha.to(torch.float32).reshape(1)
    layer.load_from_tensors(weights)
    layer.transform()
    layer.prepare_default_kernel_configs()
    return lambda: layer(x)
