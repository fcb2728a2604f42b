"""Models: the layer shapes that are swept, and whole models whose linear layers are swapped for quantized ones.

    model = qkernels.models.build("tiny-llama", device="cpu")           # or load("path/to/a/model")
    report = qkernels.models.swap(model, "nvfp4-w4a16")                 # in place
    print(report.table())

transformers and safetensors are imported when they are first needed: `pip install pytest-qbench[models]`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .build import PRESETS, build, load
from .codes import CodesLinear
from .recipe import RECIPES, Recipe, get_recipe
from .shapes import (
    COMMAND_A,
    CONFIGS,
    DEEPSEEK_CODER_V2_LITE,
    DEFAULT_BATCH_SIZES,
    FULL_BATCH_SIZES,
    LLAMA_2_7B,
    LLAMA_2_13B,
    LLAMA_2_70B,
    LLAMA_3_1_8B,
    LLAMA_3_1_8B_INSTRUCT,
    LLAMA_3_1_405B,
    LLAMA_3_3_70B,
    LLAMA_3_8B,
    MISTRAL_7B,
    MISTRAL_LARGE_2407,
    MODELS,
    NEMOTRON_NANO_9B_V2,
    QWEN_2_5_7B,
    QWEN_2_5_32B,
    QWEN_2_5_72B,
    AxisValue,
    Model,
    from_config,
    get_model,
    sweep,
)
from .support import ProbeError, Support, probe, support
from .swap import LayerReport, SwapReport, calibrate, swap

if TYPE_CHECKING:
    from .checkpoint import load_compressed
    from .hf import QKernelsConfig, attach

__all__ = [
    "COMMAND_A",
    "CONFIGS",
    "DEEPSEEK_CODER_V2_LITE",
    "DEFAULT_BATCH_SIZES",
    "FULL_BATCH_SIZES",
    "LLAMA_2_7B",
    "LLAMA_2_13B",
    "LLAMA_2_70B",
    "LLAMA_3_1_8B",
    "LLAMA_3_1_8B_INSTRUCT",
    "LLAMA_3_1_405B",
    "LLAMA_3_3_70B",
    "LLAMA_3_8B",
    "MISTRAL_7B",
    "MISTRAL_LARGE_2407",
    "MODELS",
    "NEMOTRON_NANO_9B_V2",
    "PRESETS",
    "QWEN_2_5_7B",
    "QWEN_2_5_32B",
    "QWEN_2_5_72B",
    "RECIPES",
    "AxisValue",
    "CodesLinear",
    "LayerReport",
    "Model",
    "ProbeError",
    "QKernelsConfig",
    "Recipe",
    "Support",
    "SwapReport",
    "attach",
    "build",
    "calibrate",
    "from_config",
    "get_model",
    "get_recipe",
    "load",
    "load_compressed",
    "probe",
    "support",
    "swap",
    "sweep",
]

_LATER = {"QKernelsConfig": "hf", "attach": "hf", "load_compressed": "checkpoint"}


def __getattr__(name: str) -> Any:
    """What needs transformers is imported when it is first asked for."""
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
