"""A layer whose weights are prepared (`qkernels.prepared`), for inference.

Layers chain without sixteen-bit activations between them: PreparedLinear(layer, output="nvfp4", output_global_scale=gs)
gives a QTensor, and one whose weights are in that format, not rotated, takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from . import prepared_ops as ops
from . import quantized_ops
from .format import Format
from .hadamard import rotate
from .ops.require import decodes_as
from .prepared import MULTIPLIES, Prepared, folded_product, prepare, product, settle, sixteen, with_parts
from .quantized_ops import Result
from .tensor import QTensor

if TYPE_CHECKING:
    from .linear import QuantizedLinear


class PreparedLinear(nn.Module):
    """A QuantizedLinear whose weights are prepared, for inference: y = x W^T + bias in x's dtype, x [..., K].

    Its forward is operators of torch (qkernels::...): one graph under torch.compile, nothing waits for the device, a
    CUDA graph can be captured. A state dict loads into a layer prepared from any weights of the shape and format.

    output: a format that the result is quantized to (`prepared_matmul_quantized`); forward then gives a QTensor [...,
    N]. output_global_scale: its static encode scale, a buffer. With activation "w4a4" x may be a QTensor [..., K] that
    is quantized (to nvfp4_token, too, of NVFP4) and rotated as the weights are, as another layer's output is; y is then
    bf16. For folded weights it is folded as `fold` does: without waiting, and rounded where a row's scales span more
    than 2^14.
    """

    input_global_scale: Tensor | None
    output_global_scale: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        layer: QuantizedLinear,
        *,
        output: Format | str | None = None,
        output_global_scale: Tensor | float | None = None,
    ) -> None:
        super().__init__()
        if output is None and output_global_scale is not None:
            raise ValueError("output_global_scale is of a quantized output; name its format as output")
        device = layer.weight.device
        result = (
            None if output is None else Result.of(output, output_global_scale, layer.out_features, device)
        )
        self.output = None if result is None else result.format
        p = prepare(layer.quantized_weight(), layer.activation)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.format, self.hadamard, self.activation = layer.format, layer.hadamard, layer.activation
        self.note, self.folded = p.note, p.folded
        self._tensors = [name for name, value in vars(p.weight).items() if isinstance(value, Tensor)]
        for name in self._tensors:
            self.register_buffer(f"weight_{name}", getattr(p.weight, name))
        self._prepared = with_parts(p, dict.fromkeys(self._tensors, torch.empty(0)))
        self.register_buffer("input_global_scale", layer.input_global_scale)
        self.register_buffer("output_global_scale", None if result is None else result.global_scale)
        self.register_buffer("bias", layer.bias)

    @classmethod
    def from_linear(cls, linear: nn.Linear, kind: type[QuantizedLinear], **options: object) -> Self:
        """Quantize and prepare: options are those of kind.from_linear."""
        return cls(kind.from_linear(linear, **options))  # type: ignore[arg-type]

    def prepared(self) -> Prepared:
        """The weights, as views of the buffers."""
        return with_parts(self._prepared, {name: getattr(self, f"weight_{name}") for name in self._tensors})

    def forward(self, x: Tensor | QTensor) -> Tensor | QTensor:
        if x.shape[-1] != self.in_features:
            raise ValueError(f"input has K = {x.shape[-1]}, this layer in_features = {self.in_features}")
        w, name, had = self.prepared(), self.format.name, self.hadamard or 0
        if isinstance(x, QTensor):
            return self._shaped(self._of_quantized(x, w, self._result(torch.bfloat16)), x)
        out = self._result(x.dtype)
        rows = x.detach().reshape(-1, self.in_features)
        rows = rows if rows.stride(-1) == 1 else rows.contiguous()
        if self.activation == "w4a16":
            rows = sixteen(rotate(rows, had, x.dtype) if had else rows, self.format)
            y = product(rows, w, None, 1.0, self.bias, out)
        elif self.folded:
            elements, factor = ops.mxfp4_folded_rows(rows, name, had)
            y = folded_product(elements, factor, self.format.gain, w, self.bias, out)
        else:
            decoded, *dynamic = ops.fp4_rows(rows, self.input_global_scale, name, had)
            gs = dynamic[0] if dynamic else self.input_global_scale
            y = product(decoded, w, gs, ops.row_unit(self.format), self.bias, out)
        return self._shaped(y, x)

    def _result(self, dtype: torch.dtype) -> torch.dtype | Result:
        return dtype if self.output is None else Result(self.output, self.output_global_scale)

    def _of_quantized(self, x: QTensor, w: Prepared, out: torch.dtype | Result) -> Tensor | QTensor:
        """The product of a QTensor, in operators of torch."""
        fmt = x.format
        if self.activation != "w4a4":
            raise TypeError(
                f'x is {fmt.name}, and this layer takes 16-bit activations; prepare one of "w4a4"'
            )
        if (fmt.block, fmt.scale) != (self.format.block, self.format.scale) or not decodes_as(
            fmt, *MULTIPLIES
        ):
            raise ValueError(
                f"x is {fmt.name} and the layer's weights are {self.format.name}: quantize both to one of them"
            )
        if x.hadamard != self.hadamard:
            raise ValueError(
                f"x is rotated by {x.hadamard} and w by {self.hadamard}: rotate both alike, or none in a chain"
            )
        if x.scale_layout != "linear":
            raise ValueError(
                f"the scales of x are {x.scale_layout}; this layer reads linear ones, use x.linear()"
            )
        data, scale = x.data.reshape(-1, x.data.shape[-1]), x.scale.reshape(-1, x.scale.shape[-1])
        if self.folded:
            elements, factor = quantized_ops.mxfp4_fold_codes(data, scale)
            y: Tensor | QTensor = folded_product(elements, factor, fmt.gain, w, self.bias, out)
            return y
        rows = quantized_ops.fp4_decoded_rows(data, scale, fmt.name)
        gs = None if x.global_scale is None else x.global_scale.reshape(-1, 1).contiguous()
        y = product(rows, w, gs, ops.row_unit(fmt), self.bias, out)
        return y

    def _shaped(self, y: Tensor | QTensor, x: Tensor | QTensor) -> Tensor | QTensor:
        """y with the leading axes of x."""
        lead = x.shape[:-1]
        if isinstance(y, Tensor):
            return y.reshape(*lead, self.out_features)
        data = y.data.reshape(*lead, y.data.shape[-1])
        scale = y.scale.reshape(*lead, y.scale.shape[-1])
        return QTensor(data, scale, y.format, (*lead, self.out_features), y.global_scale)

    def extra_repr(self) -> str:
        return (f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
                f"{self._meaning()}, activation={self.activation}")  # fmt: skip

    def get_extra_state(self) -> Tensor:
        """What the buffers mean, as a uint8 tensor of text."""
        text = f"{self._meaning()}; unit={getattr(self._prepared.weight, 'unit', 1.0)!r}"
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).clone()

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse weights of another format, rotation or layout; take the unit of the saved ones."""
        unit = self._check_meaning(state)
        if not self.folded:
            self._prepared = with_parts(self._prepared, {"unit": unit})

    def _check_meaning(self, state: Tensor) -> float:
        """The unit of saved weights, which must be like these."""
        saved, _, unit = bytes(state.tolist()).decode().partition("; unit=")
        if saved != self._meaning():
            raise ValueError(
                f"the state dict holds {saved}, this layer {self._meaning()}; prepare one like the saved"
            )
        return float(unit)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # scales stay float32: in bf16 they are off by up to 2^-9, and so would be every output
        names = [name for name in self._buffers if name != "bias"]
        kept = {name: getattr(self, name) for name in names}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in kept.items():
            if tensor is not None and (moved := getattr(self, name)).dtype != tensor.dtype:
                setattr(self, name, tensor.to(moved.device))
        settle(next(iter(self.buffers())).device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if (state := state_dict.get(f"{prefix}_extra_state")) is not None:
            self._check_meaning(state)  # before anything is overwritten
        super()._load_from_state_dict(state_dict, prefix, *rest)
        settle(next(iter(self.buffers())).device)

    def _meaning(self) -> str:
        kind = "folded" if self.folded else "fragments"
        output = "" if self.output is None else f", output={self.output.name}"
        return f"format={self.format.name}, hadamard={self.hadamard}, {kind}{output}"
