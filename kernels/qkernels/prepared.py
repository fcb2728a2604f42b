"""Weights laid out once for this package's fastest products, and the product and the layer that take them.

    w = qkernels.quantize(weight, "nvfp4")
    p = qkernels.prepare(w)                      # once; as many bytes as w
    y = qkernels.prepared_matmul(x, p)           # x bf16, fp16, or quantized

"w4a16" weights are `Fragments`: exact with activations of 16 bits, and with quantized ones, which are decoded to bf16.
"w4a4" of MXFP4 are `FoldedWeights` for FP8 tensor cores, about 1.7 times cuBLAS bf16 on an H200; weights whose scales
spread too far for that become fragments, and `note` says why. Preparing waits for the device, products do not (but for
folding a QTensor, whose spreads are looked at).

On Hopper a product of few rows may begin while earlier kernels of the stream end, and read its weights at once. So what
writes weights in place must be waited for before the next product; `prepare`, moving a layer and loading into it wait.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from qbench import Unsupported

from . import prepared_ops as ops
from .format import MXFP4, MXFP4_ABS_MAX, NVFP4, NVFP4_1L, Format
from .hadamard import rotate
from .ops.require import EXACT_PRODUCT, decodes_as
from .tensor import QTensor
from .triton.fp4_fragments import Fragments, fragments
from .triton.mxfp4_folded import FoldedRows, FoldedWeights, fold_rows, fold_weights

if TYPE_CHECKING:
    from .linear import QuantizedLinear

DECODES = (NVFP4, NVFP4_1L, MXFP4, MXFP4_ABS_MAX)
LONGEST = 32768  # what mxfp4_fold holds of a row


@dataclass(frozen=True, eq=False)
class Prepared:
    """Weights [n, k] of `format`. note: why they are fragments where folded ones were asked for, or ""."""

    weight: Fragments | FoldedWeights
    format: Format
    n: int
    k: int
    hadamard: int | None
    note: str = ""

    @property
    def folded(self) -> bool:
        return isinstance(self.weight, FoldedWeights)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes


def prepare(w: QTensor, activation: str = "w4a16") -> Prepared:
    """w [N, K] in NVFP4 or MXFP4 (or a format whose bytes mean the same), on any device.

    ValueError for an unknown activation, Unsupported for other formats and for MXFP4 scales too far apart for bf16.
    """
    if activation not in ("w4a16", "w4a4"):
        raise ValueError(f"unknown activation {activation!r}; known: w4a16, w4a4")
    if not decodes_as(w.format, *DECODES):
        raise Unsupported(
            f"w is {w.format.name}; NVFP4 and MXFP4 are prepared, and formats of their bytes", EXACT_PRODUCT
        )
    w = w.linear()
    made: Fragments | FoldedWeights | None = None
    note = ""
    if activation == "w4a4" and w.format.scale == "e8m0":
        try:
            _require_foldable(w)
            made = fold_weights(w)
        except Unsupported as problem:
            note = problem.reason
    n, k = w.shape
    made = made or fragments(w)
    _settle(w.device)
    return Prepared(made, w.format, n, k, w.hadamard, note)


def _require_foldable(w: QTensor) -> None:
    """Unsupported where no FP8 product of this package takes the shape or runs on the GPU."""
    if w.shape[0] % 8:
        raise Unsupported(f"N = {w.shape[0]} is no multiple of 8, which TMA stores")
    if w.device.type == "cuda" and torch.cuda.get_device_capability(w.device)[0] != 9:
        raise Unsupported(ops.NOT_HOPPER)
    if w.shape[1] > LONGEST:
        raise Unsupported(f"K = {w.shape[1]}; rows of at most {LONGEST} are folded when they are quantized")


def _settle(device: torch.device) -> None:
    """Wait for what was written, and allocate what launches share: not while a graph is captured or warmed up."""
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device)[0] == 9:
            from .triton.stream_k import reserve

            reserve(device)
        torch.cuda.synchronize(device)


def prepared_matmul(
    x: Tensor | QTensor | FoldedRows,
    w: Prepared,
    *,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """out_dtype [M, N] (x's, or bf16) = x [M, K] times w [N, K] transposed, plus bias [N], rounded once.

    x: bf16 or, with NVFP4, fp16 for fragments; a QTensor of w's block and scale type; FoldedRows with folded
    weights. A rotation of w is not undone. Folded products are rounded to bf16 first; their sums have no more.
    ValueError or TypeError for operands that do not go together.
    """
    shape = x.elements.shape if isinstance(x, FoldedRows) else x.shape
    if len(shape) != 2 or shape[1] != w.k:
        raise ValueError(f"x {list(shape)} must be [M, {w.k}], for w is [{w.n}, {w.k}]")
    bias = _checked_bias(bias, w)
    if isinstance(x, Tensor):
        if w.folded:
            raise TypeError(
                "folded weights multiply quantized activations; prepare(w, 'w4a16') takes 16-bit ones"
            )
        return _product(_sixteen(x, w.format), w, None, 1.0, bias, out_dtype or x.dtype)
    if x.hadamard != w.hadamard:
        raise ValueError(f"x is rotated by {x.hadamard} and w by {w.hadamard}: rotate both alike")
    dtype = out_dtype or torch.bfloat16
    if isinstance(x, QTensor):
        if x.scale_layout != "linear":
            raise ValueError(
                f"the scales of x are {x.scale_layout}; these kernels read linear ones, use x.linear()"
            )
        alike = (x.format.block, x.format.scale) == (w.format.block, w.format.scale)
        if not (alike and decodes_as(x.format, *DECODES)):
            raise ValueError(f"x is {x.format.name} and w is {w.format.name}: quantize both to one of them")
        if not w.folded:
            return _product(ops.rows_of(x), w, x.global_scale, ops.row_unit(x.format), bias, dtype)
        x = fold_rows(x)
    if not w.folded:
        raise TypeError("folded activations multiply folded weights: prepare(w, 'w4a4')")
    return _folded_product(x.elements, x.factor, x.gain, w, bias, dtype)


def _sixteen(x: Tensor, fmt: Format) -> Tensor:
    """x, if fragments of a format multiply it: on every device what the kernels take."""
    if x.dtype not in (torch.bfloat16, torch.float16):
        raise TypeError(f"x is {x.dtype}; use bfloat16 or float16, or matmul with the weights as they were")
    if x.dtype == torch.float16 and fmt.scale == "e8m0":
        raise TypeError("MXFP4's scales leave the range of float16; use bfloat16")
    return x if x.stride(-1) == 1 else x.contiguous()


def _checked_bias(bias: Tensor | None, w: Prepared) -> Tensor | None:
    if bias is None:
        return None
    if tuple(bias.shape) != (w.n,) or not bias.is_floating_point() or bias.dtype == torch.float64:
        raise ValueError(f"bias is {bias.dtype} {list(bias.shape)}; it must be bf16, fp16 or fp32 [{w.n}]")
    return bias.contiguous()


def _product(
    x: Tensor, w: Prepared, gs: Tensor | None, factor: float, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    f = w.weight
    assert isinstance(f, Fragments)
    y: Tensor = ops.fp4_product(
        x, f.data, f.scale, f.base, f.global_scale, gs, bias, f.unit, factor, w.format.name, w.n, dtype
    )
    return y


def _folded_product(
    elements: Tensor, factor: Tensor, gain: float, w: Prepared, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    f = w.weight
    assert isinstance(f, FoldedWeights)
    y: Tensor = ops.mxfp4_folded_product(
        elements, factor, f.codes, f.spread, f.factor, bias, gain * f.gain, w.n, dtype
    )
    return y


class PreparedLinear(nn.Module):
    """A QuantizedLinear whose weights are prepared, for inference: y = x W^T + bias in x's dtype, x [..., K].

    Its forward is operators of torch (qkernels::...): one graph under torch.compile, nothing waits for the device, a
    CUDA graph can be captured. A state dict loads into a layer prepared from any weights of the shape and format.
    """

    input_global_scale: Tensor | None
    bias: Tensor | None

    def __init__(self, layer: QuantizedLinear) -> None:
        super().__init__()
        p = prepare(layer.quantized_weight(), layer.activation)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.format, self.hadamard, self.activation = layer.format, layer.hadamard, layer.activation
        self.note, self.folded = p.note, p.folded
        self._tensors = [name for name, value in vars(p.weight).items() if isinstance(value, Tensor)]
        for name in self._tensors:
            self.register_buffer(f"weight_{name}", getattr(p.weight, name))
        self._prepared = _with(p, dict.fromkeys(self._tensors, torch.empty(0)))
        self.register_buffer("input_global_scale", layer.input_global_scale)
        self.register_buffer("bias", layer.bias)

    @classmethod
    def from_linear(cls, linear: nn.Linear, kind: type[QuantizedLinear], **options: object) -> Self:
        """Quantize and prepare: options are those of kind.from_linear."""
        return cls(kind.from_linear(linear, **options))  # type: ignore[arg-type]

    def prepared(self) -> Prepared:
        """The weights, as views of the buffers."""
        return _with(self._prepared, {name: getattr(self, f"weight_{name}") for name in self._tensors})

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.in_features:
            raise ValueError(f"input has K = {x.shape[-1]}, this layer in_features = {self.in_features}")
        w, name, had = self.prepared(), self.format.name, self.hadamard or 0
        rows = x.detach().reshape(-1, self.in_features)
        rows = rows if rows.stride(-1) == 1 else rows.contiguous()
        if self.activation == "w4a16":
            rows = _sixteen(rotate(rows, had, x.dtype) if had else rows, self.format)
            y = _product(rows, w, None, 1.0, self.bias, x.dtype)
        elif self.folded:
            elements, factor = ops.mxfp4_folded_rows(rows, name, had)
            y = _folded_product(elements, factor, self.format.gain, w, self.bias, x.dtype)
        else:
            decoded, *dynamic = ops.fp4_rows(rows, self.input_global_scale, name, had)
            gs = dynamic[0] if dynamic else self.input_global_scale
            y = _product(decoded, w, gs, ops.row_unit(self.format), self.bias, x.dtype)
        return y.reshape(*x.shape[:-1], self.out_features)

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
            self._prepared = _with(self._prepared, {"unit": unit})

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
        _settle(next(iter(self.buffers())).device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if (state := state_dict.get(f"{prefix}_extra_state")) is not None:
            self._check_meaning(state)  # before anything is overwritten
        super()._load_from_state_dict(state_dict, prefix, *rest)
        _settle(next(iter(self.buffers())).device)

    def _meaning(self) -> str:
        kind = "folded" if self.folded else "fragments"
        return f"format={self.format.name}, hadamard={self.hadamard}, {kind}"


def _with(p: Prepared, parts: dict[str, Any]) -> Prepared:
    """p with parts of its weight replaced."""
    return replace(p, weight=replace(p.weight, **parts))
