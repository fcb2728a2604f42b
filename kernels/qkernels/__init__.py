"""qkernels: quantized formats as data, their quantizers and products, and what both must equal.

The names below are the public interface. Importing them does not import Triton.
"""

from . import reference
from .api import matmul, quantize, scaled_fp8_quant, scaled_int8_quant
from .format import (
    FORMATS,
    FP8,
    FP8_TOKEN,
    INT8,
    INT8_ASYM,
    INT8_TOKEN,
    MXFP4,
    MXFP4_ABS_MAX,
    MXFP4_CEIL,
    MXFP4_EVEN,
    MXFP4_QUEST,
    MXFP4_RCEIL,
    NVFP4,
    NVFP4_1L,
    Format,
    get_format,
)
from .hadamard import hadamard_matrix, rotate
from .linear import LinearMXFP4, LinearNVFP4
from .swizzle import from_blocked, to_blocked
from .tensor import QTensor

__all__ = [
    "FORMATS",
    "FP8",
    "FP8_TOKEN",
    "INT8",
    "INT8_ASYM",
    "INT8_TOKEN",
    "MXFP4",
    "MXFP4_ABS_MAX",
    "MXFP4_CEIL",
    "MXFP4_EVEN",
    "MXFP4_QUEST",
    "MXFP4_RCEIL",
    "NVFP4",
    "NVFP4_1L",
    "Format",
    "LinearMXFP4",
    "LinearNVFP4",
    "QTensor",
    "from_blocked",
    "get_format",
    "hadamard_matrix",
    "matmul",
    "quantize",
    "reference",
    "rotate",
    "scaled_fp8_quant",
    "scaled_int8_quant",
    "to_blocked",
]
