"""torchao's quantizers as scale bytes and codes in this library's layout; imported where called, which takes long."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from qkernels.codec import unpack_e2m1
from qkernels.format import Element

REASON = "torchao is not installed; pip install -e .[oracles]"


def torchao(module: str) -> Any:
    """Submodule of torchao, or a skip where the package is absent or older; a module that moved is an error."""
    pytest.importorskip("torchao", minversion="0.18", reason=REASON)
    return importlib.import_module(f"torchao.{module}")


def mx(x: Tensor, element: Element, rule: str) -> tuple[Tensor, Tensor]:
    """E8M0 bytes [r, K/32] and codes uint8 [r, K] of x (bf16 or fp32) in blocks of 32."""
    formats = torchao("prototype.mx_formats.mx_tensor")
    constants = torchao("prototype.mx_formats.constants")
    types = {
        "e2m1": torch.float4_e2m1fn_x2,
        "e2m3": constants.DTYPE_FP6_E2M3,
        "e3m2": constants.DTYPE_FP6_E3M2,
        "e4m3": torch.float8_e4m3fn,
        "e5m2": torch.float8_e5m2,
    }
    scale, data = formats.to_mx(x, types[element.name], 32, formats.ScaleCalculationMode(rule))
    raw = data.view(torch.uint8)
    return scale.view(torch.uint8).reshape(len(x), -1), unpack_e2m1(raw) if element.bits == 4 else raw


def mx_values(scale: Tensor, codes: Tensor, element: Element) -> Tensor:
    """float32 [r, K] that torchao itself decodes."""
    formats = torchao("prototype.mx_formats.mx_tensor")
    assert element.name == "e2m1"
    data = codes[:, 0::2] | codes[:, 1::2] << 4
    return formats.to_dtype(data, scale, torch.float4_e2m1fn_x2, 32, torch.float32)


def nvfp4(x: Tensor, decode_scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """E4M3 bytes [r, K/16] and packed data uint8 [r, K/2]; decode_scale: amax/2688 for two levels."""
    formats = torchao("prototype.mx_formats.nvfp4_tensor")
    scale, data = formats.nvfp4_quantize(x, per_tensor_scale=decode_scale)
    return scale.view(torch.uint8), data.view(torch.uint8)


def fp8(x: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """fp32 scales, one per block [rows, columns], and E4M3 bytes."""
    primitives = torchao("quantization.quant_primitives")
    scale = primitives._choose_scale_float8(x, list(block))
    return scale, primitives._quantize_affine_float8(x, scale).view(torch.uint8)


def integers(
    x: Tensor, block: tuple[int, int], least: int, greatest: int, *, symmetric: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """fp32 scales and int32 zero points [r, K/block], int8 codes within least .. greatest."""
    primitives = torchao("quantization.quant_primitives")
    mapping = primitives.MappingType.SYMMETRIC if symmetric else primitives.MappingType.ASYMMETRIC
    limits = {"quant_min": least, "quant_max": greatest}
    scale, zero = primitives.choose_qparams_affine(x, mapping, block, torch.int8, keepdim=True, **limits)
    codes = primitives.quantize_affine(x, block, scale, zero, torch.int8, **limits)
    return scale, zero, codes
