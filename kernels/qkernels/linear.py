"""Linear layers with 4-bit weights, built from an nn.Linear. For inference: no gradient passes through.

forward is rotate -> quantize -> product * alpha -> + bias -> the input's dtype, for inputs [..., K]. The weight is
rotated and quantized once. activation says what the input becomes:
    "w4a4"   quantized to the weight's format
    "w4a16"  left in its dtype (rotated in fp32 and rounded back to it where there is a rotation)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from .api import as_format, matmul, quantize
from .format import MXFP4, NVFP4, Format
from .hadamard import rotate
from .quantize_scaled import static_scale
from .tensor import QTensor

ACTIVATIONS = ("w4a4", "w4a16")


class QuantizedLinear(nn.Module):
    """y = x W^T + bias with W in an FP4 format: that of the layer, or one whose bytes decode alike (NVFP4 by
    four-over-six or with a least scale, MXFP4 by another rule). Where no kernel quantizes to that format "w4a4" takes
    the exact reference for each input, which is slow; "w4a16" is not slower than another. Buffers:

    weight               uint8 [N, K/2], packed codes
    weight_scale         uint8 [N, K/block], raw e4m3 or e8m0 bytes, linear layout
    weight_global_scale  float32 0-dim encode scale; None for formats of one level
    input_global_scale   float32 0-dim static encode scale of the input; None: dynamic, or not needed
    bias                 [N] or None
    Global scales stay float32 under `.to(dtype)`, `.half()` and `.bfloat16()`.
    """

    default_format: Format = NVFP4
    weight: Tensor
    weight_scale: Tensor
    weight_global_scale: Tensor | None
    input_global_scale: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        format: Format | str | None = None,
        hadamard: int | None = None,
        activation: str = "w4a4",
        static_global_scale: bool = False,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str | None = None,
    ) -> None:
        """An empty layer to load a state dict into; dtype is the bias's."""
        super().__init__()
        fmt = self.default_format if format is None else as_format(format)
        _check(fmt, self.default_format, activation, static_global_scale)
        assert fmt.block is not None
        if in_features % fmt.block:
            raise ValueError(
                f"in_features = {in_features} is not a multiple of the {fmt.name} block {fmt.block}"
            )
        if hadamard is not None and (hadamard not in fmt.hadamard or in_features % hadamard):
            raise ValueError(f"Hadamard size {hadamard} does not fit {fmt.name} with K = {in_features}; "
                             f"known: {', '.join(map(str, fmt.hadamard))}, and it must divide K")  # fmt: skip
        self.in_features, self.out_features = in_features, out_features
        self.format, self.hadamard, self.activation = fmt, hadamard, activation

        def empty(*shape: int, dtype: torch.dtype = torch.uint8, present: bool = True) -> Tensor | None:
            return torch.empty(shape, dtype=dtype, device=device) if present else None

        self.register_buffer("weight", empty(out_features, in_features // 2))
        self.register_buffer("weight_scale", empty(out_features, in_features // fmt.block))
        self.register_buffer("weight_global_scale", empty(dtype=torch.float32, present=fmt.levels == 2))
        self.register_buffer("input_global_scale", empty(dtype=torch.float32, present=static_global_scale))
        self.register_buffer("bias", empty(out_features, dtype=dtype, present=bias))

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        *,
        hadamard: int | None = None,
        activation: str = "w4a4",
        global_scale: Tensor | float | None = None,
        format: Format | str | None = None,
    ) -> Self:
        """Rotate (blocks of `hadamard` along K) and quantize the weight of a bf16, fp16 or fp32 layer.

        global_scale is the static encode scale 448*6/amax of the (rotated) input, for NVFP4 with "w4a4". By
        default it is computed from every input anew, and then an output row depends on the whole batch: the
        layer is not batch-invariant (decode and prefill logits of one model differed by 25%). Give a static
        one where a row must not depend on its neighbours. MXFP4 and "w4a16" are batch-invariant as they are.
        """
        weight = linear.weight.detach()
        fmt = cls.default_format if format is None else as_format(format)
        _check(fmt, cls.default_format, activation, global_scale is not None)
        q = quantize(weight, fmt, hadamard=hadamard)
        layer = cls(
            linear.in_features, linear.out_features, linear.bias is not None, format=fmt, hadamard=hadamard,
            activation=activation, static_global_scale=global_scale is not None, device="meta",
        )  # fmt: skip
        layer.weight, layer.weight_scale, layer.weight_global_scale = q.data, q.scale, q.global_scale
        if global_scale is not None:
            layer.input_global_scale = static_scale(global_scale, weight.device).reshape(())
        if linear.bias is not None:
            layer.bias = linear.bias.detach().clone()
        return layer.train(linear.training)

    def quantized_weight(self) -> QTensor:
        """The weight [N, K] as a QTensor of views."""
        shape = (self.out_features, self.in_features)
        return QTensor(
            self.weight, self.weight_scale, self.format, shape, self.weight_global_scale, self.hadamard
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.in_features:
            raise ValueError(f"input has K = {x.shape[-1]}, this layer in_features = {self.in_features}")
        y = matmul(self.quantize_input(x), self.quantized_weight(), bias=self.bias, out_dtype=x.dtype)
        return y.reshape(*x.shape[:-1], self.out_features)

    def quantize_input(self, x: Tensor) -> Tensor | QTensor:
        """[rows, K]: the operand that forward makes of x [..., K], rotated and, for "w4a4", quantized."""
        rows = x.detach().reshape(-1, self.in_features)
        rows = rows if rows.stride(-1) == 1 else rows.contiguous()
        if self.activation == "w4a4":
            return quantize(rows, self.format, global_scale=self.input_global_scale, hadamard=self.hadamard)
        return rows if self.hadamard is None else rotate(rows, self.hadamard, x.dtype)

    def memory_bytes(self) -> int:
        """Bytes of the weight's codes, block scales and global scale; the bias is as large as it was."""
        return self.quantized_weight().nbytes

    def extra_repr(self) -> str:
        parts = [
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        ]
        parts.append(f"format={self.format.name}, hadamard={self.hadamard}, activation={self.activation}")
        if self.activation == "w4a4" and self.format.levels == 2:
            parts.append(f"global_scale={'dynamic' if self.input_global_scale is None else 'static'}")
        return ", ".join(parts)

    def get_extra_state(self) -> Tensor:
        """What the bytes mean, as a uint8 tensor of text: tensor-only containers can hold it."""
        return torch.frombuffer(bytearray(self._meaning().encode()), dtype=torch.uint8).clone()

    def set_extra_state(self, state: Any) -> None:
        """Refuse weights of another format or rotation: they would decode without an error, to something else."""
        saved = bytes(state.tolist()).decode()
        if saved != self._meaning():
            raise ValueError(
                f"the state dict holds {saved}, this layer {self._meaning()}; build the layer like the saved one"
            )

    def _meaning(self) -> str:
        return f"{self.format.name}, hadamard={self.hadamard}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # A bf16 global scale is off by up to 2^-9, and so would be every output.
        kept = {name: getattr(self, name) for name in ("weight_global_scale", "input_global_scale")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, scale in kept.items():
            if scale is not None and (moved := getattr(self, name)).dtype != torch.float32:
                setattr(self, name, scale.to(moved.device))
        return self


class LinearNVFP4(QuantizedLinear):
    """Weights in NVFP4 (two levels; `format="nvfp4_1l"` for one)."""

    default_format = NVFP4


class LinearMXFP4(QuantizedLinear):
    """Weights in MXFP4 by the OCP rule, or another: `format="mxfp4_quest"`."""

    default_format = MXFP4


def _check(fmt: Format, default: Format, activation: str, static: bool) -> None:
    if (fmt.element, fmt.scale) != (default.element, default.scale):
        raise ValueError(
            f"format {fmt.name} has other elements or scales than {default.name}; use the layer made for it"
        )
    if fmt.block != default.block or fmt.block_rows != 1 or fmt.global_granularity != "tensor":
        raise ValueError(f"no layer holds {fmt.name}: its buffers are a scale for each row's {default.block} elements "
                         f"and one global scale; use {default.name}, or quantize and matmul")  # fmt: skip
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; known: {', '.join(ACTIVATIONS)}")
    if static and (fmt.levels == 1 or activation != "w4a4"):
        raise ValueError(
            f"a static global scale belongs to NVFP4 activations, not to {fmt.name} with {activation}"
        )
