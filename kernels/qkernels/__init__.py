"""qkernels: quantized formats as data, their quantizers and products, and what both must equal.

The names below are the public interface. Importing them does not import Triton.
"""

from . import reference
from .accuracy import error_bound
from .api import TRITON_FORMATS, matmul, quantize, scaled_fp8_quant, scaled_int8_quant
from .format import (
    FORMATS,
    FP8,
    FP8_BLOCK,
    FP8_BLOCK_2D,
    FP8_TOKEN,
    INT4,
    INT4_ASYM,
    INT8,
    INT8_ASYM,
    INT8_TOKEN,
    MXFP4,
    MXFP4_ABS_MAX,
    MXFP4_CEIL,
    MXFP4_EVEN,
    MXFP4_QUEST,
    MXFP4_RCEIL,
    MXFP6_E2M3,
    MXFP6_E3M2,
    MXFP8,
    MXFP8_E5M2,
    NVFP4,
    NVFP4_1L,
    NVFP4_2D,
    NVFP4_4OVER6,
    NVFP4_4OVER6_MAE,
    NVFP4_MIN_SCALE,
    NVFP4_TOKEN,
    Format,
    get_format,
)
from .fused import rms_norm_quantize, silu_mul_quantize
from .hadamard import hadamard_matrix, rotate
from .linear import LinearMXFP4, LinearNVFP4
from .linear_op import linear
from .model_config import Layer
from .models import (
    LLAMA_3_1_8B,
    LLAMA_3_3_70B,
    MODELS,
    NEMOTRON_NANO_9B_V2,
    Model,
    from_config,
    get_model,
)
from .ops.fused import rms_norm_fp4, silu_mul_fp4
from .ops.gemm import bf16_gemm, gemm, gemm_quantize, hadamard_gemm
from .ops.quantize import QuantizeOptions, quantize_fp4, quantize_fp8, quantize_int8
from .prepared import Prepared, fold, prepare, prepared_matmul, prepared_matmul_quantized
from .prepared_linear import PreparedLinear
from .swizzle import from_blocked, to_blocked
from .tensor import QTensor

__all__ = [
    "FORMATS",
    "FP8",
    "FP8_BLOCK",
    "FP8_BLOCK_2D",
    "FP8_TOKEN",
    "INT4",
    "INT4_ASYM",
    "INT8",
    "INT8_ASYM",
    "INT8_TOKEN",
    "LLAMA_3_1_8B",
    "LLAMA_3_3_70B",
    "MODELS",
    "MXFP4",
    "MXFP4_ABS_MAX",
    "MXFP4_CEIL",
    "MXFP4_EVEN",
    "MXFP4_QUEST",
    "MXFP4_RCEIL",
    "MXFP6_E2M3",
    "MXFP6_E3M2",
    "MXFP8",
    "MXFP8_E5M2",
    "NEMOTRON_NANO_9B_V2",
    "NVFP4",
    "NVFP4_1L",
    "NVFP4_2D",
    "NVFP4_4OVER6",
    "NVFP4_4OVER6_MAE",
    "NVFP4_MIN_SCALE",
    "NVFP4_TOKEN",
    "TRITON_FORMATS",
    "Format",
    "Layer",
    "LinearMXFP4",
    "LinearNVFP4",
    "Model",
    "Prepared",
    "PreparedLinear",
    "QTensor",
    "QuantizeOptions",
    "bf16_gemm",
    "error_bound",
    "fold",
    "from_blocked",
    "from_config",
    "gemm",
    "gemm_quantize",
    "get_format",
    "get_model",
    "hadamard_gemm",
    "hadamard_matrix",
    "linear",
    "matmul",
    "prepare",
    "prepared_matmul",
    "prepared_matmul_quantized",
    "quantize",
    "quantize_fp4",
    "quantize_fp8",
    "quantize_int8",
    "reference",
    "rms_norm_fp4",
    "rms_norm_quantize",
    "rotate",
    "scaled_fp8_quant",
    "scaled_int8_quant",
    "silu_mul_fp4",
    "silu_mul_quantize",
    "to_blocked",
]
