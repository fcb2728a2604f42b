"""compressed-tensors' scales, zero points and quantized values. Imported only where called, for it takes long."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

REASON = "compressed-tensors is not installed; pip install -e .[oracles]"

NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16,
         "scale_dtype": torch.float8_e4m3fn, "dynamic": "local"}  # fmt: skip
MXFP4 = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8}
MXFP6 = {**MXFP4, "num_bits": 6}
MXFP8 = {**MXFP4, "num_bits": 8}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
INT4_ASYM = {**INT4, "symmetric": False}
FP8_TOKEN = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
FP8_TENSOR = {"num_bits": 8, "type": "float", "strategy": "tensor"}
FP8_BLOCK = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}
INT8_TOKEN = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
INT8_CHANNEL = {"num_bits": 8, "type": "int", "strategy": "channel"}


def compressed_tensors(module: str) -> Any:
    """Submodule of compressed_tensors, or a skip where it is absent or older; a module that moved is an error."""
    pytest.importorskip("compressed_tensors", minversion="0.20", reason=REASON)
    return importlib.import_module(f"compressed_tensors.{module}")


def arguments(settings: dict[str, Any]) -> Any:
    return compressed_tensors("quantization").QuantizationArgs(**settings)


def parameters(
    low: Tensor, high: Tensor, settings: dict[str, Any], gs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Scales and zero points of groups whose least and greatest elements these are."""
    helpers = compressed_tensors("quantization.utils.helpers")
    return helpers.calculate_qparams(low, high, arguments(settings), global_scale=gs)


def of_groups(
    x: Tensor, group: int, settings: dict[str, Any], gs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Scales and zero points [r, K/group]."""
    blocks = x.unflatten(-1, (-1, group))
    return parameters(blocks.amin(-1), blocks.amax(-1), settings, gs)


def global_scale(x: Tensor) -> Tensor:
    """NVFP4's encode scale [1]."""
    return compressed_tensors("quantization.utils.helpers").generate_gparam(x.amin(), x.amax())


def quantized(
    x: Tensor, scale: Tensor, zero: Tensor | None, settings: dict[str, Any], gs: Tensor | None = None
) -> Tensor:
    """Quantized values in x's dtype, before they are multiplied by the scale."""
    forward = compressed_tensors("quantization.lifecycle.forward")
    return forward.quantize(x, scale, zero, arguments(settings), global_scale=gs)


def fake_quantized(
    x: Tensor, scale: Tensor, zero: Tensor | None, settings: dict[str, Any], gs: Tensor | None = None
) -> Tensor:
    forward = compressed_tensors("quantization.lifecycle.forward")
    return forward.fake_quantize(x, scale, zero, arguments(settings), global_scale=gs)


def packed_fp4(values: Tensor) -> Tensor:
    return compressed_tensors("compressors.nvfp4.helpers").pack_fp4_to_uint8(values)


def packed_int4(values: Tensor) -> Tensor:
    """uint8 [r, K/2]: the int32 words that hold eight codes each, as bytes."""
    helpers = compressed_tensors("compressors.pack_quantized.helpers")
    return helpers.pack_to_int32(values.to(torch.int8), 4).view(torch.uint8)
