"""The fastest layer this package has for a CodesLinear, and what it truly does: its mode.

native       the matrix units multiply the quantized operands at their own rate: FP8 by FP8 (torch._scaled_mm), INT8 by
             INT8 (torch._int_mm), and MXFP4 by MXFP4 on Hopper, which has no FP4 units: both are folded into E4M3
             exactly and multiplied as FP8 ("triton-folded-fp8")
weight-only  the weight is read as 4 bits and decoded inside the product, which runs on 16-bit units. So do NVFP4 W4A4
             recipes everywhere here: activations are rounded to NVFP4 first, so the numbers are those of W4A4, the
             matrix rate is that of 16 bits
emulated     the weight is decoded to memory at every call (CodesLinear): no speed to speak of
none         not quantized

Every layer's forward is operators of torch: one graph under torch.compile, nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

from qbench import Unsupported
from qkernels.api import quantize
from qkernels.codec import round_to
from qkernels.format import NVFP4_TOKEN, get_format
from qkernels.linear import LinearMXFP4, LinearNVFP4, QuantizedLinear
from qkernels.operators import fake, operator
from qkernels.prepared import product, settle
from qkernels.prepared_linear import PreparedLinear
from qkernels.prepared_ops import row_unit, rows_of
from qkernels.tensor import QTensor

from .codes import LONGEST_ROW, CodesLinear, as_rows, uncast

Mode = Literal["native", "weight-only", "emulated", "none"]
INT_MM_ROWS = 32  # torch._int_mm on CUDA wants more than 16


@dataclass(frozen=True)
class Placed:
    """A layer to put into a model. note: why it is not of a faster kind, or ""."""

    module: nn.Module
    backend: str
    mode: Mode
    note: str = ""


def fastest(layer: CodesLinear, dtype: torch.dtype) -> Placed:
    """The layer for inputs of that dtype, where `layer` lies; the layer itself, "emulated", where there is none."""
    device = layer.weight.device
    if device.type != "cuda":
        return Placed(layer, "torch-reference", "emulated", f"no kernels of this package on {device.type}")
    try:
        return on_cuda(layer, dtype, torch.cuda.get_device_capability(device))
    except Unsupported as problem:
        return Placed(layer, "torch-dequantize", "emulated", problem.reason)


def on_cuda(layer: CodesLinear, dtype: torch.dtype, capability: tuple[int, int]) -> Placed:
    """What a GPU of that compute capability takes; Unsupported with the reason."""
    if not layer.format.packed:
        native = ScaledLinear(layer, dtype, capability)
        return Placed(native, native.backend, "native")
    if capability < (8, 0):
        raise Unsupported(
            f"the products of FP4 weights are written for sm_80 and newer, not {capability}", "bf16"
        )
    if layer.activation is None and dtype not in (torch.bfloat16, torch.float16):
        raise Unsupported(f"activations are {dtype}; the product takes bfloat16 and float16")
    if layer.activation is None and dtype == torch.float16 and layer.format.scale == "e8m0":
        raise Unsupported("MXFP4's scales leave the range of float16; use bfloat16")
    if layer.activation is None:
        return Placed(FastLinear(_library_layer(layer, "w4a16")), "triton-prepared", "weight-only")
    if layer.activation == NVFP4_TOKEN:
        if layer.in_features > LONGEST_ROW:
            raise Unsupported(f"K = {layer.in_features}; a global scale a token is computed for at most {LONGEST_ROW}, "
                              "take global_scale='static'")  # fmt: skip
        return Placed(TokenLinear(_library_layer(layer, "w4a16")), "triton-prepared", "weight-only")
    if layer.activation != layer.format:
        raise Unsupported(f"prepared layers quantize activations to the weight's {layer.format.name}")
    made = FastLinear(_library_layer(layer, "w4a4"))
    if made.folded:
        return Placed(made, "triton-folded-fp8", "native")
    return Placed(made, "triton-prepared", "weight-only", made.note)


def _library_layer(layer: CodesLinear, activation: str) -> QuantizedLinear:
    """The same weights in the layer of `qkernels.linear`, which `PreparedLinear` is made of."""
    kind = LinearNVFP4 if layer.format.scale == "e4m3" else LinearMXFP4
    static = activation == "w4a4" and layer.input_scale is not None
    made = kind(layer.in_features, layer.out_features, layer.bias is not None, format=layer.format,
                hadamard=layer.hadamard, activation=activation, static_global_scale=static, device="meta")  # fmt: skip
    made.weight, made.weight_scale = layer.weight, layer.weight_scale
    made.weight_global_scale, made.bias = layer.weight_global_scale, layer.bias
    if static:
        made.input_global_scale = layer.input_scale
    return made.train(layer.training)


class FastLinear(PreparedLinear):
    """PreparedLinear in a model: code around it may look at `.weight` for its device."""

    @property
    def weight(self) -> Tensor:
        """The largest buffer of the weight; its layout is the kernel's."""
        tensor: Tensor = getattr(self, f"weight_{self._tensors[0]}")
        return tensor


class TokenLinear(FastLinear):
    """NVFP4 by NVFP4 with one global scale a token, which the product divides out of its fp32 sums.

    One kernel of fragments up to 64 rows, and on Hopper for more where x is bf16 and N a multiple of 8; otherwise more
    rows multiply unpacked weights (prepared_product).
    """

    def forward(self, x: Tensor | QTensor) -> Tensor:
        if isinstance(x, QTensor):
            raise TypeError(f"x is {x.format.name}; this layer quantizes its input itself, give it 16 bits")
        rows, top = nvfp4_token_rows(as_rows(x, self.in_features), self.hadamard or 0)
        y: Tensor = product(rows, self.prepared(), top, row_unit(self.format), self.bias, x.dtype)
        return y.reshape(*x.shape[:-1], self.out_features)


@operator
def nvfp4_token_rows(x: Tensor, hadamard: int) -> tuple[Tensor, Tensor]:
    """x [M, K] rotated (0: not) and quantized to NVFP4_TOKEN: bf16 [M, K] of code * scale, exact, and the rows'
    encode scales, float32 [M, 1]."""
    if x.device.type == "cuda":
        from qkernels.triton.nvfp4_rounded import nvfp4_rounded

        return nvfp4_rounded(x, hadamard=hadamard or None)
    q = quantize(x, NVFP4_TOKEN, hadamard=hadamard or None)
    assert q.global_scale is not None
    return rows_of(q), q.global_scale


@fake(nvfp4_token_rows)
def _(x, hadamard):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape, dtype=torch.bfloat16), x.new_empty((x.shape[0], 1), dtype=torch.float32)


class ScaledLinear(nn.Module):
    """FP8 by FP8 or INT8 by INT8 on the units for 8 bits; buffers as those of CodesLinear.

    FP8 sums are Hopper's fast ones ("fp8-fast": 13 fraction bits inside a product); INT8's are exact.
    """

    weight: Tensor
    weight_scale: Tensor
    input_scale: Tensor | None
    bias: Tensor | None

    def __init__(self, layer: CodesLinear, dtype: torch.dtype, capability: tuple[int, int]) -> None:
        """Unsupported where torch's product does not take the shape, the dtype or the GPU."""
        super().__init__()
        self.fp8 = layer.format.element.name == "e4m3"
        self.in_features, self.out_features = layer.in_features, layer.out_features
        if layer.activation is None:
            raise Unsupported(f"no kernel multiplies 16-bit activations and {layer.format.name} weights")
        self.activation = layer.activation
        name, least, unit = ("_scaled_mm", (8, 9), 16) if self.fp8 else ("_int_mm", (8, 0), 8)
        if capability < least:
            raise Unsupported(f"torch.{name} needs compute capability {least[0]}.{least[1]}, this is "
                              f"{capability[0]}.{capability[1]}", "int8" if self.fp8 else "bf16")  # fmt: skip
        if self.in_features % unit or self.out_features % unit:
            raise Unsupported(f"torch.{name} takes N and K in multiples of {unit}, not {self.out_features} and "
                              f"{self.in_features}")  # fmt: skip
        if self.fp8 and dtype != torch.bfloat16:
            raise Unsupported(f"torch._scaled_mm by rows gives bfloat16, not {dtype}")
        for buffer in ("weight", "weight_scale", "input_scale", "bias"):
            self.register_buffer(buffer, getattr(layer, buffer))
        self.few_rows: int | None = None
        if self.fp8 and capability[0] == 9:
            from qkernels.triton.fp8_few_plan import MAX_ROWS  # Triton is imported where a GPU needs it

            self.few_rows = MAX_ROWS
            settle(self.weight.device)
        self.train(layer.training)

    @property
    def backend(self) -> str:
        """What multiplies few rows, then, where that is something else, many."""
        if not self.fp8:
            return "torch-int-mm"
        return "torch-scaled-mm" if self.few_rows is None else "triton/torch-scaled-mm"

    def forward(self, x: Tensor) -> Tensor:
        rows = as_rows(x, self.in_features)
        codes, scale = scaled_rows(rows, self.input_scale, self.activation.name)
        y = self._fp8(codes, scale) if self.fp8 else self._int8(codes, scale, x.dtype)
        return y.reshape(*x.shape[:-1], self.out_features)

    def _fp8(self, codes: Tensor, scale: Tensor) -> Tensor:
        """Few rows by this package's kernel on Hopper, else torch._scaled_mm. That takes a scale a row on both sides or
        on none: one of a tensor is repeated."""
        m, n = codes.shape[0], self.out_features
        if self.few_rows is not None and m <= self.few_rows:
            few: Tensor = fp8_product(codes, self.weight, scale, self.weight_scale, self.bias)
            return few
        left, right = scale.reshape(-1, 1), self.weight_scale.reshape(1, -1)
        if left.numel() != 1 or right.numel() != 1 or m == 1:
            left, right = left.expand(m, 1).contiguous(), right.expand(1, n).contiguous()
        y: Tensor = torch._scaled_mm(codes, self.weight.t(), left, right, bias=self.bias,
                                     out_dtype=torch.bfloat16, use_fast_accum=True)  # fmt: skip
        return y

    def _int8(self, codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        m = codes.shape[0]
        if m < INT_MM_ROWS:
            codes = torch.nn.functional.pad(codes, (0, 0, 0, INT_MM_ROWS - m))
        sums = torch._int_mm(codes, self.weight.t())[:m]
        y = sums.to(torch.float32) * scale.reshape(-1, 1) * self.weight_scale.reshape(1, -1)
        return (y if self.bias is None else y + self.bias).to(dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        moved: Self = uncast(self, super()._apply, fn, recurse)
        return moved

    def extra_repr(self) -> str:
        return (f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
                f"activation={self.activation.name}")  # fmt: skip


@operator
def fp8_product(
    codes: Tensor, weight: Tensor, scale: Tensor, weight_scale: Tensor, bias: Tensor | None
) -> Tensor:
    """bf16 [M, N]: codes [M, K] times weight [N, K] transposed, both E4M3, M <= 64; scales float32 [rows, 1] or [1]."""
    if codes.device.type == "cuda":
        from qkernels.triton.fp8_few import fp8_few  # imports Gluon's names for Hopper

        return fp8_few(codes, weight, scale, weight_scale, bias)
    y = (
        codes.to(torch.float64)
        @ weight.to(torch.float64).T
        * scale.reshape(-1, 1)
        * weight_scale.reshape(1, -1)
    )
    return round_to(y if bias is None else y + bias, torch.bfloat16)


@fake(fp8_product)
def _(codes, weight, *rest):  # type: ignore[no-untyped-def]
    return codes.new_empty((codes.shape[0], weight.shape[0]), dtype=torch.bfloat16)


@operator
def scaled_rows(x: Tensor, scale: Tensor | None, format: str) -> tuple[Tensor, Tensor]:
    """x [M, K] quantized to FP8 or INT8: codes [M, K], and float32 scales [M, 1], or [1] for a static one."""
    q = quantize(x, get_format(format), scale=None if scale is None else scale.reshape(1))
    return q.data, q.scale if scale is None else q.scale.clone()


@fake(scaled_rows)
def _(x, scale, format):  # type: ignore[no-untyped-def]
    codes = torch.int8 if get_format(format).element.integer else torch.float8_e4m3fn
    shape = (x.shape[0], 1) if scale is None else (1,)
    return x.new_empty(x.shape, dtype=codes), x.new_empty(shape, dtype=torch.float32)
