"""What the checks are run on: a format with its options, and the providers of it.

Only children import the packages, so nothing here does at import time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from qkernels.format import Format
    from qkernels.tensor import QTensor


@dataclass(frozen=True)
class Subject:
    """A quantizer under its options, or a product of operands in two formats.

    options     of check_quantizer: hadamard, global_scale, scale, zero_point
    activation  products: the format of the first operand, "" for plain activations
    bias        products: with a bias
    out         products: name of the output's dtype, "" for that of the activations or bf16
    arithmetic  FP8 cast by arithmetic, as on GPUs without the instruction
    scaled      products: by the block-scaled kernel
    """

    format: str
    options: dict[str, Any] = field(default_factory=dict)
    activation: str = ""
    bias: bool = False
    out: str = ""
    arithmetic: bool = False
    scaled: bool = False

    @property
    def fmt(self) -> Format:
        from qkernels.format import get_format

        return get_format(self.format)

    def quantize(self, x: Tensor) -> QTensor:
        """x by the Triton kernel, under the options."""
        from qkernels.ops.quantize import QuantizeOptions

        return self.quantizer()(x, QuantizeOptions(self.fmt, **_as_tensors(self.options)))()

    def quantizer(self) -> Callable[..., Callable[[], Any]]:
        """The Triton provider of the format."""
        from qkernels.triton import fp4_rows, fp8_quantize, int8_quantize, mxfp4_quantize, nvfp4_quantize

        fmt = self.fmt
        if fmt in fp4_rows.TAKES:
            return fp4_rows.quantize_nvfp4_token
        if fmt.scale == "e4m3":
            return nvfp4_quantize.quantize_nvfp4
        if fmt.scale == "e8m0":
            return mxfp4_quantize.quantize_mxfp4
        if fmt.element.name == "int8":
            return int8_quantize.quantize_int8
        if not self.arithmetic:
            return fp8_quantize.quantize_fp8

        def by_arithmetic(x: Tensor, options: Any) -> Callable[[], Any]:
            run = fp8_quantize.quantize_fp8(x, options)

            def timed() -> Any:
                with patch.object(fp8_quantize, "has_e4m3_cast", lambda device: False):
                    return run()

            return timed

        return by_arithmetic

    @property
    def out_dtype(self) -> torch.dtype | None:
        import torch

        return getattr(torch, self.out) if self.out else None

    def multiplier(self) -> Callable[..., Callable[[], Any]]:
        """A provider of products by the Triton kernel: (a, b) or (a, b, bias)."""
        import torch

        import qbench
        from qkernels.triton.fp4_gemm import fp4_gemm
        from qkernels.triton.fp4_gemm_scaled import fp4_gemm_scaled

        multiply: Callable[..., Tensor] = fp4_gemm_scaled if self.scaled else fp4_gemm

        @qbench.provider("triton")
        def product(a: Any, b: QTensor, bias: Tensor | None = None) -> Callable[[], Tensor]:
            natural = a.dtype if isinstance(a, torch.Tensor) else torch.bfloat16
            return lambda: multiply(a, b, bias=bias, out_dtype=self.out_dtype or natural)

        return product


def _as_tensors(options: dict[str, Any]) -> dict[str, Any]:
    """Static scales as the tensors that providers are given."""
    import torch

    made = dict(options)
    for name, dtype in (
        ("global_scale", torch.float32),
        ("scale", torch.float32),
        ("zero_point", torch.int32),
    ):
        if name in made:
            made[name] = torch.full((1,), made[name], dtype=dtype)
    return made


RULES = ("floor", "ceil", "even", "rceil", "abs_max", "quest")

SUBJECTS: dict[str, Subject] = {
    "nvfp4": Subject("nvfp4"),
    "nvfp4 static": Subject("nvfp4", {"global_scale": 57.25}),
    "nvfp4 hadamard 32": Subject("nvfp4", {"hadamard": 32}),
    "mxfp4 quest hadamard 32": Subject("mxfp4_quest", {"hadamard": 32}),
    "nvfp4_1l": Subject("nvfp4_1l"),
    **{
        f"nvfp4_{rule}": Subject(f"nvfp4_{rule}")
        for rule in ("min_scale", "4over6", "4over6_mae", "2d", "token")
    },
    "nvfp4_1l hadamard 128": Subject("nvfp4_1l", {"hadamard": 128}),
    **{f"mxfp4 {rule}": Subject("mxfp4" if rule == "floor" else f"mxfp4_{rule}") for rule in RULES},
    "mxfp4 floor hadamard 32": Subject("mxfp4", {"hadamard": 32}),
    "mxfp4 floor hadamard 64": Subject("mxfp4", {"hadamard": 64}),
    "fp8": Subject("fp8"),
    "fp8 static": Subject("fp8", {"scale": 0.02}),
    "fp8_token": Subject("fp8_token"),
    "fp8_block": Subject("fp8_block"),
    "fp8_block_2d": Subject("fp8_block_2d"),
    "fp8 by arithmetic": Subject("fp8", {"scale": 0.02}, arithmetic=True),
    "fp8_token by arithmetic": Subject("fp8_token", arithmetic=True),
    "int8 static": Subject("int8", {"scale": 0.03}),
    "int8_token": Subject("int8_token"),
    "int8_asym": Subject("int8_asym"),
    "int8_asym static": Subject("int8_asym", {"scale": 0.03, "zero_point": -5}),
    "nvfp4 w4a16": Subject("nvfp4"),
    "nvfp4 w4a16 bias": Subject("nvfp4", bias=True),
    "nvfp4 w4a4": Subject("nvfp4", activation="nvfp4"),
    "nvfp4 w4a4 bias": Subject("nvfp4", activation="nvfp4", bias=True),
    "nvfp4 w4a4 fp32": Subject("nvfp4", activation="nvfp4", out="float32"),
    "mxfp4 w4a16": Subject("mxfp4"),
    "mxfp4 w4a4": Subject("mxfp4", activation="mxfp4"),
    "mxfp4_abs_max w4a16": Subject("mxfp4_abs_max"),
    "mxfp4_abs_max w4a4": Subject("mxfp4_abs_max", activation="mxfp4_abs_max"),
    "nvfp4 scaled": Subject("nvfp4", activation="nvfp4", scaled=True),
    "nvfp4 scaled bias fp32": Subject("nvfp4", activation="nvfp4", bias=True, out="float32", scaled=True),
    "mxfp4_abs_max scaled": Subject("mxfp4_abs_max", activation="mxfp4_abs_max", scaled=True),
}
