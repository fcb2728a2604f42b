"""What the FP4 GEMM kernels share before a launch: the operands' checks, the tile, the constants."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from qbench import Unsupported
from qkernels.format import MXFP4, MXFP4_ABS_MAX, NVFP4, NVFP4_1L
from qkernels.ops.require import EXACT_PRODUCT, decodes_as
from qkernels.tensor import QTensor
from qkernels.triton.fp4_decode import E8M0_UNIT, dequantize_tile

if TYPE_CHECKING:
    from torch import Tensor

DECODES = (NVFP4, NVFP4_1L, MXFP4, MXFP4_ABS_MAX)
"""What operands may be stored as: also their kin of other MX rules, a least scale or four-over-six, whose bytes and
global scale mean the same. Not those with scales of 16x16 blocks or a global scale for each row: no alpha holds these.
"""

NO_IEEE = "fp32 activations: on sm_100 and sm_103 Triton before 3.8 multiplies them as TF32 in spite of input_precision"
"""Found by compiling: for these GPUs Triton 3.6 and 3.7 make tcgen05.mma.kind::tf32 of a dot with
input_precision="ieee" if one operand is widened in the kernel, as weights are here. Never run: there was no such GPU.
"""
IEEE_BECOMES_TF32 = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 8)

_TRITON = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


@dataclass(frozen=True)
class Tile:
    """What one program computes ([m, n] outputs, k at a time) and the resources it gets."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Plan:
    """A checked launch, but for bias and output. Kernels take their arguments in this order:
    tensors, bias, output pointers, scalars, output strides, constants.
    """

    m: int
    n: int
    grid: tuple[int]
    tensors: tuple[Tensor | None, ...]  # a, a's scale, b, b's scale, global scale of a, of b
    scalars: tuple[float | int, ...]  # alpha's constant; m, n, k; row strides of a, a's scale, b, b's scale
    constants: dict[str, object]
    device: torch.device

    def device_guard(self) -> AbstractContextManager[object]:
        """Triton launches on the current device, which need not be the operands'."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()


def choose_tile(
    m: int, dot: torch.dtype, ieee: bool, capability: tuple[int, int], *, quantize: bool = False
) -> Tile:
    """Static table by rows and by the operands' width. Shared memory stays under the 99 KiB of sm_89 and sm_120,
    except for the widest tile: only sm_90 and sm_100 get it (sm_80 spills), and a quantizing epilogue (spills) not.
    """
    if ieee:
        return Tile(16 if m <= 16 else 64, 64, 32, 4, 2)
    depth = 64 if dot == torch.float32 else 128  # tf32 operands take twice the bytes
    if m <= 16:
        return Tile(16, 64, depth, 4, 4)
    if m <= 32:
        return Tile(32, 64, depth, 4, 4)
    if m <= 64:
        return Tile(64, 64, depth, 4, 3)
    if m <= 128:
        return Tile(128, 64, depth // 2, 4, 4)
    if m <= 256 or dot == torch.float32 or quantize or capability[0] not in (9, 10):
        return Tile(128, 128, depth // 2, 8, 3)
    return Tile(256, 128, depth // 2, 8, 3)


def plan(a: Tensor | QTensor, b: QTensor, bias: Tensor | None, *, quantize: bool = False) -> Plan:
    """Check the operands and decide the launch. TypeError or ValueError name the value and the remedy."""
    m, n, k = check_operands(a, b, bias)
    e8m0 = b.format.scale == "e8m0"
    if isinstance(a, QTensor):
        dot = torch.bfloat16
        data, scale, gs, gain = a.data, a.scale, a.global_scale, a.format.gain
    else:
        dot = torch.float32 if e8m0 and a.dtype == torch.float16 else a.dtype
        data, scale, gs, gain = a, None, None, 1.0
    unit = (E8M0_UNIT if e8m0 else 1.0) * (E8M0_UNIT if e8m0 and isinstance(a, QTensor) else 1.0)
    ieee = not isinstance(a, QTensor) and a.dtype == torch.float32
    capability = torch.cuda.get_device_capability(b.device) if b.device.type == "cuda" else (9, 0)
    if ieee and capability[0] == 10 and IEEE_BECOMES_TF32:
        raise Unsupported(NO_IEEE, EXACT_PRODUCT)
    tile = choose_tile(m, dot, ieee, capability, quantize=quantize)
    strides = (data.stride(0), 0 if scale is None else scale.stride(0), b.data.stride(0), b.scale.stride(0))
    return Plan(
        m, n,
        grid=(triton.cdiv(m, tile.m) * triton.cdiv(n, tile.n),),
        tensors=(data, scale, b.data, b.scale, gs, b.global_scale),
        scalars=(unit / (gain * b.format.gain), m, n, k, *strides),
        constants={
            "BLOCK": b.format.block, "E8M0": e8m0, "DTYPE": _TRITON[dot], "PRECISION": "ieee" if ieee else "tf32",
            "BM": tile.m, "BN": tile.n, "BK": tile.k, "EVEN_K": k % tile.k == 0, "GROUP": 8,
            "num_warps": tile.warps, "num_stages": tile.stages,
        },
        device=b.device,
    )  # fmt: skip


def check_operands(a: Tensor | QTensor, b: QTensor, bias: Tensor | None) -> tuple[int, int, int]:
    """m, n, k of a [m, k] and b [n, k]."""
    if not isinstance(b, QTensor):
        raise TypeError(f"b is a {type(b).__name__}; quantize it to NVFP4 or MXFP4 first")
    if problem := _unfit(a, b):
        raise ValueError(problem)
    parts = {"b.data": b.data, "b.scale": b.scale, "b.global_scale": b.global_scale, "bias": bias}
    if isinstance(a, QTensor):
        parts |= {"a.data": a.data, "a.scale": a.scale, "a.global_scale": a.global_scale}
        if a.hadamard != b.hadamard:
            raise ValueError(f"a is rotated by {a.hadamard} and b by {b.hadamard}: rotate both alike")
    else:
        parts["a"] = a
        if a.dtype not in _TRITON:
            raise TypeError(f"a is {a.dtype}; use bfloat16, float16, float32 or a QTensor")
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"a {list(a.shape)} and b {list(b.shape)} must be [M, K] and [N, K] with the same K")
    if bias is not None and (tuple(bias.shape) != (b.shape[0],) or bias.dtype not in _TRITON):
        raise ValueError(
            f"bias is {bias.dtype} {list(bias.shape)}; it must be bf16, fp16 or fp32 [{b.shape[0]}]"
        )
    for name, tensor in parts.items():
        if tensor is None:
            continue
        if tensor.device != b.device:
            raise ValueError(
                f"{name} is on {tensor.device} and b on {b.device}; move it with .to({str(b.device)!r})"
            )
        if tensor.ndim and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(
                f"{name} has stride {tensor.stride(-1)} in its last dimension; call .contiguous() first"
            )
        if name.endswith("global_scale") and (tensor.dtype != torch.float32 or tensor.numel() != 1):
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}; it must be one float32")
    if b.device.type != "cuda" and isinstance(dequantize_tile, triton.JITFunction):
        raise ValueError(
            f"the Triton kernel needs CUDA tensors, these are on {b.device}; use backend='torch'"
        )
    return a.shape[0], b.shape[0], b.shape[1]


def require_formats(a: Tensor | QTensor, b: Tensor | QTensor) -> None:
    """Unsupported, in the words of check_operands, for operands of formats that the kernels do not multiply."""
    if not isinstance(b, QTensor):
        raise Unsupported(
            f"the FP4 GEMM kernels multiply with quantized weights, not {b.dtype}", "torch-bf16"
        )
    if problem := _unfit(a, b):
        raise Unsupported(problem, EXACT_PRODUCT)


def _unfit(a: Tensor | QTensor, b: QTensor) -> str:
    """Why operands of these formats cannot be multiplied here, or ""."""
    for name, operand in (("b", b), ("a", a)):
        if isinstance(operand, QTensor) and not decodes_as(operand.format, *DECODES):
            return (f"{name} is {operand.format.name}; this kernel takes NVFP4 (block 16, e4m3) and MXFP4 "
                    "(block 32, e8m0), each row's blocks with scales of their own, and one global scale")  # fmt: skip
        if isinstance(operand, QTensor) and operand.scale_layout != "linear":
            return (
                f"the scales of {name} are {operand.scale_layout}; this kernel reads linear: {name}.linear()"
            )
    if not isinstance(a, QTensor):
        return ""
    if (a.format.block, a.format.scale) != (b.format.block, b.format.scale):
        return f"a is {a.format.name} and b is {b.format.name}: quantize both to one of them"
    return ""


def check_out_dtype(dtype: torch.dtype) -> None:
    if dtype not in _TRITON:
        raise TypeError(f"out_dtype is {dtype}; use bfloat16, float16 or float32")
