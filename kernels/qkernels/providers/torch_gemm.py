"""Products by torch: cuBLAS on dequantized operands, and the scaled matrix products of recent GPUs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qbench import Unsupported, provider
from qkernels import reference
from qkernels.format import FP8, FP8_TOKEN, NVFP4, NVFP4_1L, Format
from qkernels.ops.require import EXACT_PRODUCT, require_operands
from qkernels.quantize import quantize
from qkernels.swizzle import to_blocked
from qkernels.tensor import QTensor


@provider("torch-bf16")
def torch_bf16(a: Tensor | QTensor, b: Tensor | QTensor) -> Callable[[], Tensor]:
    """The product in the activations' 16-bit dtype, quantized operands dequantized beforehand.

    FP4 values are exact in bf16 when alpha is left out, so alpha goes into the epilogue. Formats whose values no
    16 bits hold, as those of fp32 scales, take fp32 activations only. torch lets
    cuBLAS add the parts of a split K in bf16; on an H200 (torch 2.11) the 64 shapes of the Llama-3.3-70B sweep
    and the cubes all stayed within the fp32 bound, so it is held to it.
    """
    dtype = a.dtype if isinstance(a, Tensor) else torch.bfloat16
    for operand in (a, b):
        if isinstance(operand, QTensor) and not _exact_in(dtype, operand.format):
            raise Unsupported(f"{operand.format.name} has values that {dtype} rounds", EXACT_PRODUCT)
    left = a if isinstance(a, Tensor) else a.exact_values(dtype)
    right = b if isinstance(b, Tensor) else b.exact_values(dtype)
    alpha = 1.0
    for operand in (a, b):
        if isinstance(operand, QTensor):
            alpha *= float(operand.alpha)
    transposed = right.T
    if alpha == 1.0:
        return lambda: left @ transposed
    empty = left.new_empty(right.shape[0])
    return lambda: torch.addmm(empty, left, transposed, beta=0, alpha=alpha)


def _exact_in(dtype: torch.dtype, fmt: Format) -> bool:
    """Does dtype hold code * scale? fp32 rounds the product with an fp32 scale too, but far within the bound."""
    if dtype == torch.float32:
        return True
    divided = fmt.levels == 2 and fmt.global_granularity == "row"
    scales = ("e4m3",) if dtype == torch.float16 else ("e4m3", "e8m0")  # E8M0 leaves the range of fp16
    return fmt.scale in scales and not divided


@provider("layer")
def module_forward(x: Tensor, layer: torch.nn.Module) -> Callable[[], Tensor]:
    """A layer's own forward, whichever kernels it runs on."""
    return lambda: layer(x)


@provider("torch-eager", accumulator="fp32")
def torch_quantize_matmul(x: Tensor, w: QTensor) -> Callable[[], tuple[Tensor, QTensor]]:
    """Quantize by the exact torch quantizer, dequantize, multiply in fp32: slow everywhere, right everywhere."""
    fmt = w.format
    if fmt.element.integer and fmt.granularity == "tensor":
        raise Unsupported(f"{fmt.name} is static: activations have no scale of their own", "int8_token")
    weight = w.exact_values(torch.float32).T.contiguous()

    def run() -> tuple[Tensor, QTensor]:
        xq = quantize(x, fmt, hadamard=w.hadamard)
        product = xq.exact_values(torch.float32) @ weight
        return (product * (xq.alpha * w.alpha).to(torch.float32)).to(x.dtype), xq

    return run


@provider("torch-exact")
def torch_gemm_quantize(
    a: Tensor | QTensor, b: QTensor, global_scale: Tensor | None
) -> Callable[[], QTensor]:
    """The float64 product, quantized to b's format by the exact quantizer: what the fused epilogue must equal."""
    fmt = b.format
    if fmt.block is None or fmt.scale == "fp32" or (fmt.levels == 2 and fmt.global_granularity == "row"):
        raise Unsupported(
            f"{fmt.name} is no format of blocks with one static global scale or none", NVFP4.name
        )
    if (fmt.levels == 2) != (global_scale is not None):
        raise Unsupported(f"{fmt.name} has {fmt.levels} scale level(s)", NVFP4.name)

    def run() -> QTensor:
        product = reference.matmul(a, b).to(torch.float32)
        return quantize(product, fmt, global_scale=global_scale)

    return run


@provider("torch-scaled-mm", needs_capability=(10, 0), instead="triton")
def torch_scaled_mm_fp4(a: QTensor, b: QTensor) -> Callable[[], Tensor]:
    """`torch._scaled_mm` on NVFP4 operands with blocked scales: Blackwell's block-scaled matrix units.

    With two levels the product comes in fp32, takes alpha and is rounded once: two roundings are not the op.
    """
    require_operands("torch._scaled_mm on CUDA", (NVFP4, NVFP4_1L), a, b)
    left, right = (operand.data.view(torch.float4_e2m1fn_x2) for operand in (a, b))
    left_scale, right_scale = (to_blocked(operand.scale).view(torch.float8_e4m3fn) for operand in (a, b))
    alpha = (a.alpha * b.alpha).to(torch.float32)
    single = a.format.levels == b.format.levels == 1
    out_dtype = torch.bfloat16 if single else torch.float32

    def run() -> Tensor:
        out = torch._scaled_mm(left, right.T, left_scale, right_scale, out_dtype=out_dtype)
        return out if single else (out * alpha).to(torch.bfloat16)

    return run


@provider("torch-scaled-mm", accumulator="fp8-fast", needs_capability=(8, 9), instead=EXACT_PRODUCT)
def torch_scaled_mm_fp8(a: QTensor, b: QTensor) -> Callable[[], Tensor]:
    """`torch._scaled_mm` on FP8 e4m3 operands: per-tensor scales, or a scale a row on both sides."""
    require_operands("torch._scaled_mm", (FP8, FP8_TOKEN), a, b)
    if a.format != b.format:
        raise Unsupported(
            f"torch._scaled_mm takes scales of one kind, not {a.format.name} and {b.format.name}"
        )
    left, right = a.data, b.data.T
    rowwise = a.scale.numel() > 1 or b.scale.numel() > 1
    left_scale = a.scale.reshape(-1, 1).contiguous() if rowwise else a.scale.reshape(())
    right_scale = b.scale.reshape(1, -1).contiguous() if rowwise else b.scale.reshape(())
    return lambda: torch._scaled_mm(
        left, right, left_scale, right_scale, out_dtype=torch.bfloat16, use_fast_accum=True
    )
