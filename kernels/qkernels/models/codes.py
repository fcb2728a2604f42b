"""A linear layer of a weight in any format that a recipe names, as it is stored: codes and scales in linear layout.

It computes plainly on every device, decoding its weight at each call ("emulated"): what faster layers (fast.py) must
equal, what runs without a GPU, and what a model is saved and loaded as. On a CPU it is the library's reference, rounded
once; on CUDA the kernels quantize and 16-bit products of decoded operands are summed in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn

from qkernels import reference
from qkernels.api import quantize
from qkernels.codec import E2M1_VALUES, decode_e8m0, round_to, unpack_e2m1
from qkernels.format import NVFP4_TOKEN, Format, get_format
from qkernels.hadamard import rotate
from qkernels.operators import fake, operator
from qkernels.tensor import DATA_DTYPE, QTensor

from .recipe import Recipe

LONGEST_ROW = 32768
"""Elements of a row that the kernel of one global scale a token holds in registers."""


class CodesLinear(nn.Module):
    """y = x W^T + bias in x's dtype, x [..., K]; for inference. Buffers:

    weight               codes: uint8 [N, K/2] of 4 bits, float8_e4m3fn or int8 [N, K]
    weight_scale         uint8 [N, K/block] (raw e4m3 or e8m0), float32 [N, 1] or [1]
    weight_global_scale  float32 0-dim encode scale of formats of two levels, else None
    input_scale          float32 0-dim, static: NVFP4's encode scale, or FP8's and INT8's (value = code*scale)
    bias                 [N] or None
    """

    weight: Tensor
    weight_scale: Tensor
    weight_global_scale: Tensor | None
    input_scale: Tensor | None
    bias: Tensor | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool, recipe: Recipe, *,
        dtype: torch.dtype = torch.bfloat16, device: torch.device | str | None = None,
    ) -> None:  # fmt: skip
        """Empty buffers to load into; dtype is the bias's. ValueError for a K the recipe's formats do not divide."""
        super().__init__()
        fmt = recipe.weight_format
        if fmt is None:
            raise ValueError(f"recipe {recipe.name} has no weight format; its layers stay nn.Linear")
        if problem := unfit(in_features, recipe):
            raise ValueError(problem)
        self.in_features, self.out_features, self.recipe = in_features, out_features, recipe
        self.format, self.activation, self.hadamard = fmt, recipe.activation_format, recipe.hadamard
        width = in_features // 2 if fmt.packed else in_features
        scale_dtype = torch.float32 if fmt.scale == "fp32" else torch.uint8

        def empty(shape: tuple[int, ...], dtype: torch.dtype, present: bool = True) -> Tensor | None:
            return torch.empty(shape, dtype=dtype, device=device) if present else None

        self.register_buffer("weight", empty((out_features, width), DATA_DTYPE[fmt.element.name]))
        self.register_buffer("weight_scale", empty(fmt.scale_shape((out_features, in_features)), scale_dtype))
        self.register_buffer("weight_global_scale", empty((), torch.float32, fmt.levels == 2))
        self.register_buffer("input_scale", empty((), torch.float32, recipe.static))
        self.register_buffer("bias", empty((out_features,), dtype, bias))

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, recipe: Recipe, amax: float | None = None, q: QTensor | None = None
    ) -> Self:
        """Rotate and quantize the weight of a layer where it lies. amax: of the (rotated) input, for a static scale;
        q: the weight, if it has been quantized."""
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, recipe, device="meta")
        layer.fill(q or quantize(linear.weight.detach(), layer.format, hadamard=recipe.hadamard))
        if recipe.static:
            if amax is None:
                raise ValueError(f"recipe {recipe.name} has static activation scales and none is given; pass the "
                                 "numbers of calibrate(), or take global_scale='token'")  # fmt: skip
            layer.input_scale = static_scale(layer, amax, linear.weight.device)
        layer.bias = None if linear.bias is None else linear.bias.detach().clone()
        return layer.train(linear.training)

    def fill(self, q: QTensor) -> None:
        """Take the codes and scales of q as they are; ValueError unless q is the weight of such a layer."""
        shape = (self.out_features, self.in_features)
        if (q.format, q.shape, q.hadamard) != (self.format, shape, self.hadamard):
            raise ValueError(f"{q.format.name} {list(q.shape)} rotated by {q.hadamard} is no weight of a layer of "
                             f"{self.format.name} {list(shape)} rotated by {self.hadamard}")  # fmt: skip
        self.weight, self.weight_scale, self.weight_global_scale = q.data, q.scale, q.global_scale

    def quantized_weight(self) -> QTensor:
        """The weight [N, K] as views."""
        shape = (self.out_features, self.in_features)
        return QTensor(
            self.weight, self.weight_scale, self.format, shape, self.weight_global_scale, self.hadamard
        )

    def quantize_input(self, x: Tensor) -> Tensor | QTensor:
        """[rows, K]: what forward multiplies, rotated and, where the recipe says so, quantized."""
        return _operand(as_rows(x, self.in_features), self.activation, self.input_scale, self.hadamard)

    def forward(self, x: Tensor) -> Tensor:
        rows = as_rows(x, self.in_features)
        name = "" if self.activation is None else self.activation.name
        y: Tensor = codes_linear(
            rows, self.weight, self.weight_scale, self.weight_global_scale, self.input_scale, self.bias,
            self.format.name, name, self.hadamard or 0,
        )  # fmt: skip
        return y.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return (f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
                f"recipe={self.recipe.name}")  # fmt: skip

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        moved: Self = uncast(self, super()._apply, fn, recurse)
        return moved


def uncast(
    module: nn.Module, apply: Callable[..., Any], fn: Callable[[Tensor], Tensor], recurse: bool
) -> Any:
    """`nn.Module._apply` that moves all buffers and casts the bias alone: a bf16 scale is off by up to 2^-9, and FP8
    codes would become numbers."""
    kept = {name: value for name, value in module._buffers.items() if name != "bias" and value is not None}
    moved = apply(fn, recurse)
    for name, tensor in kept.items():
        now = getattr(module, name)
        if now.dtype != tensor.dtype:
            setattr(module, name, tensor.to(now.device))
    return moved


def unfit(k: int, recipe: Recipe) -> str:
    """Why the recipe takes no weight of that K, or ""."""
    fmt = recipe.weight_format
    if fmt is not None and fmt.block and k % fmt.block:
        return f"K = {k} is not a multiple of the {fmt.name} block {fmt.block}"
    if recipe.hadamard and k % recipe.hadamard:
        return f"K = {k} is not a multiple of the Hadamard size {recipe.hadamard}"
    return ""


def static_scale(layer: CodesLinear, amax: float, device: torch.device) -> Tensor:
    """float32 0-dim: encode scale scale_max*max/amax of two-level formats, amax/max of FP8 and INT8. 1 for amax = 0."""
    fmt = layer.activation
    assert fmt is not None
    if not 0 <= amax < float("inf"):
        raise ValueError(f"amax of a layer's input is {amax}; it must be finite and not negative")
    top = fmt.element.max * (fmt.scale_max if fmt.levels == 2 else 1.0)
    value = 1.0 if amax == 0 else top / amax if fmt.levels == 2 else amax / top
    return torch.full((), value, dtype=torch.float32, device=device)


def as_rows(x: Tensor, k: int) -> Tensor:
    """x [..., K] as [rows, K], whose rows lie densely."""
    if x.shape[-1] != k:
        raise ValueError(f"input has K = {x.shape[-1]}, this layer in_features = {k}")
    rows = x.detach().reshape(-1, k)
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def _operand(x: Tensor, fmt: Format | None, scale: Tensor | None, hadamard: int | None) -> Tensor | QTensor:
    if fmt is None:
        return x if hadamard is None else rotate(x, hadamard, x.dtype)
    if fmt.block is None:
        return quantize(x, fmt, scale=None if scale is None else scale.reshape(1))
    backend = "torch" if fmt == NVFP4_TOKEN and x.shape[-1] > LONGEST_ROW else "auto"
    return quantize(x, fmt, global_scale=scale, hadamard=hadamard, backend=backend)


@operator
def codes_linear(
    x: Tensor, weight: Tensor, weight_scale: Tensor, weight_global_scale: Tensor | None, input_scale: Tensor | None,
    bias: Tensor | None, weight_format: str, activation_format: str, hadamard: int,
) -> Tensor:  # fmt: skip
    """[M, N] of x [M, K] in x's dtype: CodesLinear's forward as one operator, so that torch.compile takes it whole."""
    fmt, size = get_format(weight_format), hadamard or None
    w = QTensor(weight, weight_scale, fmt, (weight.shape[0], x.shape[1]), weight_global_scale, size)
    a = _operand(x, get_format(activation_format) if activation_format else None, input_scale, size)
    if x.device.type == "cpu":
        return round_to(reference.matmul(a, w, bias=bias), x.dtype)
    return _decoded_product(a, w, bias, x.dtype)


@fake(codes_linear)
def _(x, weight, *rest):  # type: ignore[no-untyped-def]
    return x.new_empty((x.shape[0], weight.shape[0]))


def _decoded_product(a: Tensor | QTensor, w: QTensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Operands decoded to 16 bits, which hold code * block scale exactly; sums, scales and bias in fp32. E8M0 scales
    leave fp16's range: beside fp16 activations, 32 bits."""
    held = dtype if isinstance(a, Tensor) else torch.bfloat16
    if held == torch.float16 and w.format.scale == "e8m0":
        held = torch.float32
    left, left_factor = (a.to(held), None) if isinstance(a, Tensor) else _decoded(a, held)
    right, right_factor = _decoded(w, held)
    if left.is_cuda and held != torch.float32:
        y = torch.mm(left, right.T, out_dtype=torch.float32)
    else:
        y = left.to(torch.float32) @ right.to(torch.float32).T
    y = y * right_factor.T if left_factor is None else y * left_factor * right_factor.T
    return (y if bias is None else y + bias).to(dtype)


def _decoded(q: QTensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(values [R, K], factor float32 [R, 1] or [1, 1]) of a QTensor: value = values * factor."""
    fmt = q.format
    if fmt.block is None:
        return q.data.to(dtype), q.scale.reshape(-1, 1)
    codes = _e2m1(q.device)[unpack_e2m1(q.data).to(torch.int32)].to(dtype)
    scale = q.scale.view(torch.float8_e4m3fn).float() if fmt.scale == "e4m3" else decode_e8m0(q.scale)
    values = codes.unflatten(-1, (-1, fmt.block)) * scale.to(dtype).unsqueeze(-1)
    top = torch.ones(1, 1, device=q.device) if q.global_scale is None else q.global_scale.reshape(-1, 1)
    return values.flatten(-2), 1.0 / (top * fmt.gain)


@cache
def _e2m1(device: torch.device) -> Tensor:
    """Values of codes 0..15, copied to a device once: no copy is allowed while a CUDA graph is captured."""
    return torch.tensor([*E2M1_VALUES, *(-v for v in E2M1_VALUES)], dtype=torch.float32, device=device)
