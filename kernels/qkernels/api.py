"""Quantize and multiply by name: the functions most users call.

backend "triton" is this package's kernels (CUDA tensors), "torch" the exact references (any device, slow, float64).
"auto" takes the kernels for CUDA tensors and the references elsewhere; formats outside TRITON_FORMATS, stochastic
rounding, and `matmul` of other operands than NVFP4 and MXFP4 have no kernel here and take the reference on every
device. A launch never falls back: what a kernel does not take is an error that says so. Triton is imported when it is
first used, so that this package works where Triton does not exist.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from . import reference
from .codec import round_to
from .format import (
    E2M1,
    FP8,
    FP8_BLOCK,
    FP8_BLOCK_2D,
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
    NVFP4_2D,
    NVFP4_4OVER6,
    NVFP4_4OVER6_MAE,
    NVFP4_MIN_SCALE,
    NVFP4_TOKEN,
    Format,
    get_format,
)
from .quantize import Rounding, check_input, check_rounding
from .quantize import quantize as quantize_exactly
from .tensor import QTensor, ScaleLayout, check_scale_layout
from .triton.outputs import Outputs

BACKENDS = ("auto", "torch", "triton")

TRITON_FORMATS = (
    NVFP4, NVFP4_1L, NVFP4_MIN_SCALE, NVFP4_4OVER6, NVFP4_4OVER6_MAE, NVFP4_2D, NVFP4_TOKEN,
    MXFP4, MXFP4_CEIL, MXFP4_EVEN, MXFP4_RCEIL, MXFP4_ABS_MAX, MXFP4_QUEST,
    FP8, FP8_TOKEN, FP8_BLOCK, FP8_BLOCK_2D, INT8, INT8_TOKEN, INT8_ASYM,
)  # fmt: skip
"""The formats that a Triton quantizer of this package exists for."""


def quantize(
    x: Tensor,
    fmt: Format | str,
    *,
    global_scale: Tensor | None = None,
    hadamard: int | None = None,
    scale: Tensor | None = None,
    zero_point: Tensor | None = None,
    rounding: Rounding = "nearest",
    generator: torch.Generator | None = None,
    scale_layout: ScaleLayout = "linear",
    out: Tensor | None = None,
    scale_out: Tensor | None = None,
    zero_point_out: Tensor | None = None,
    global_scale_out: Tensor | None = None,
    backend: str = "auto",
) -> QTensor:
    """x [..., K] (bf16, fp16 or fp32) in a format, given as itself or by name.

    global_scale  NVFP4: static encode scale 448*6/amax, one float32; by default taken from x. NVFP4_TOKEN: [..., 1]
    hadamard      FP4 formats: rotate K blockwise by this size first
    scale, zero_point  FP8, INT8, INT8_ASYM: static per-tensor float32 scale (value = code*scale) and zero point
    rounding      "stochastic": codes drawn with `generator`, a seeded torch.Generator on x's device
    scale_layout  "blocked": scales in the 128x4 tiles of Blackwell's tensor cores (`QTensor.scale_layout`)
    out, scale_out, zero_point_out, global_scale_out  formats with a kernel: contiguous tensors to write codes and what
                  is computed of scales and zero points into, of the shapes and dtypes that the result has otherwise;
                  the result holds them
    ValueError for an unknown format or backend, a K that is no multiple of the block or Hadamard size, or an
    argument the format does not take; TypeError for another dtype.
    """
    fmt = as_format(fmt)
    check_rounding(rounding, generator)
    kernel_exists = fmt in TRITON_FORMATS and rounding == "nearest"
    check_scale_layout(scale_layout, fmt)
    outputs = Outputs(out, scale_out, zero_point_out, global_scale_out)
    outputs.check(
        x, fmt, static=(scale if global_scale is None else global_scale) is not None, layout=scale_layout
    )
    if choose_backend(backend, x.device, kernel_exists=kernel_exists) == "torch":
        made = quantize_exactly(
            x,
            fmt,
            global_scale=global_scale,
            hadamard=hadamard,
            scale=scale,
            zero_point=zero_point,
            rounding=rounding,
            generator=generator,
        )
        return outputs.filled(made.blocked() if scale_layout == "blocked" else made)
    if not kernel_exists:
        known = ", ".join(each.name for each in TRITON_FORMATS)
        raise ValueError(f"no Triton kernel quantizes {fmt.name} with rounding to {rounding}; use backend='torch', or "
                         f"round to nearest in one of {known}")  # fmt: skip
    check_input(x, fmt, hadamard)
    q = _triton_quantize(
        x.reshape(-1, x.shape[-1]),
        fmt,
        global_scale=_by_row(global_scale, fmt, x),
        hadamard=hadamard,
        scale=scale,
        zero_point=zero_point,
        scale_layout=scale_layout,
        outputs=outputs.as_rows(fmt, scale_layout),
    )
    return q if x.ndim == 2 else _unflatten(q, tuple(x.shape))


def matmul(
    a: Tensor | QTensor,
    b: Tensor | QTensor,
    *,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    backend: str = "auto",
) -> Tensor:
    """out_dtype [M, N] = a [M, K] times b [N, K] transposed, plus bias [N]; rounded to out_dtype once.

    FP4 weights b take bf16, fp16 or fp32 activations a (weight-only) or a QTensor of the same kind. A rotation
    is not undone: if b carries one, so must a (`rotate` a plain one first).
    """
    kernel_exists = _fp4_gemm_takes(b) and (not isinstance(a, QTensor) or _fp4_gemm_takes(a))
    if choose_backend(backend, b.device, kernel_exists=kernel_exists) == "torch":
        return round_to(reference.matmul(a, b, bias=bias), out_dtype)
    if not isinstance(b, QTensor):
        raise TypeError(
            f"b is a {type(b).__name__}; quantize it to NVFP4 or MXFP4 first, or use backend='torch'"
        )
    for name, operand in (("a", a), ("b", b)):
        if isinstance(operand, QTensor) and not _fp4_gemm_takes(operand):
            raise ValueError(f"{name} is {operand.format.name}; the kernel multiplies NVFP4 and MXFP4 with a scale for "
                             "each row's block and one global scale; use backend='torch'")  # fmt: skip
    from .triton.fp4_gemm import fp4_gemm

    return fp4_gemm(a, b, bias=bias, out_dtype=out_dtype)


def scaled_fp8_quant(
    x: Tensor,
    scale: Tensor | None = None,
    *,
    per_token: bool = False,
    out: Tensor | None = None,
    scale_out: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """float8_e4m3fn codes of x [..., K] and their float32 scale, value = code*scale.

    scale given: static, [1]; per_token: one per row, [..., 1]; otherwise one for the tensor, [1].
    out, scale_out: tensors to write into, as `quantize` has them.
    """
    fmt = FP8_TOKEN if per_token else FP8
    q = quantize(x, fmt, scale=scale, out=out, scale_out=scale_out, backend=backend)
    return q.data, q.scale


def scaled_int8_quant(
    x: Tensor,
    scale: Tensor | None = None,
    *,
    zero_point: Tensor | None = None,
    symmetric: bool = True,
    out: Tensor | None = None,
    scale_out: Tensor | None = None,
    zero_point_out: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor | None]:
    """int8 codes of x [..., K], their float32 scale and int32 zero point, value = (code - zero_point)*scale.

    Without a scale both are per row ([..., 1]); with one, static per tensor ([1]). The zero point is None when
    symmetric; static asymmetric quantization needs it given. out, scale_out and zero_point_out: tensors to write into,
    as `quantize` has them.
    """
    if symmetric and zero_point is not None:
        raise ValueError(
            "zero_point is given but symmetric is True; pass symmetric=False or leave zero_point out"
        )
    dynamic = INT8_TOKEN if scale is None else INT8
    q = quantize(
        x,
        dynamic if symmetric else INT8_ASYM,
        scale=scale,
        zero_point=zero_point,
        out=out,
        scale_out=scale_out,
        zero_point_out=zero_point_out,
        backend=backend,
    )
    return q.data, q.scale, q.zero_point


def as_format(fmt: Format | str) -> Format:
    """The format itself or the one of that name; unknown names list the known."""
    if isinstance(fmt, Format):
        return fmt
    if isinstance(fmt, str):
        return get_format(fmt)
    raise TypeError(f"format is a {type(fmt).__name__}; pass a Format or its name")


def choose_backend(backend: str, device: torch.device, *, kernel_exists: bool = True) -> str:
    """ "triton" or "torch"; ValueError for another name."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    if backend != "auto":
        return backend
    return "triton" if device.type == "cuda" and kernel_exists else "torch"


def _fp4_gemm_takes(operand: Tensor | QTensor) -> bool:
    """The kernel decodes the stored bytes: how their scales were chosen does not matter, how they lie does."""
    if not isinstance(operand, QTensor):
        return False
    fmt = operand.format
    return fmt.element == E2M1 and fmt.block_rows == 1 and fmt.global_granularity == "tensor"


def _triton_quantize(
    x: Tensor,
    fmt: Format,
    *,
    global_scale: Tensor | None,
    hadamard: int | None,
    scale: Tensor | None,
    zero_point: Tensor | None,
    scale_layout: ScaleLayout,
    outputs: Outputs,
) -> QTensor:
    if fmt.packed:
        if scale is not None or zero_point is not None:
            raise ValueError(
                f"{fmt.name} computes its block scales; scale and zero_point belong to FP8 and INT8"
            )
        from .triton.fp4_gemm import quantize_fp4

        return quantize_fp4(
            x, fmt, global_scale=global_scale, hadamard=hadamard, scale_layout=scale_layout, outputs=outputs
        )
    if global_scale is not None:
        raise ValueError(f"{fmt.name} has one scale level and takes no global_scale; use nvfp4 or drop it")
    per_token = fmt.granularity == "row" and scale is None
    if scale is not None and fmt in (FP8_TOKEN, INT8_TOKEN):
        raise ValueError(
            f"{fmt.name} computes a scale per row; use {'fp8' if fmt == FP8_TOKEN else 'int8'} for a static one"
        )
    if fmt.element.name == "e4m3":
        if zero_point is not None:
            raise ValueError(f"{fmt.name} is symmetric and takes no zero_point; use int8_asym")
        if fmt.block is not None:
            if scale is not None:
                raise ValueError(
                    f"{fmt.name} computes its block scales; scale and zero_point belong to FP8 and INT8"
                )
            from .triton.fp8_block import fp8_block_quantize

            return fp8_block_quantize(x, rows=fmt.block_rows, out=outputs.data, scale_out=outputs.scale)
        from .triton.fp8_quantize import fp8_quantize

        return fp8_quantize(x, scale, per_token=per_token, out=outputs.data, scale_out=outputs.scale)
    from .triton.int8_quantize import int8_quantize

    return int8_quantize(
        x,
        scale,
        zero_point=zero_point,
        symmetric=fmt.symmetric,
        per_token=per_token,
        out=outputs.data,
        scale_out=outputs.scale,
        zero_point_out=outputs.zero_point,
    )


def _by_row(global_scale: Tensor | None, fmt: Format, x: Tensor) -> Tensor | None:
    """A global scale for each row of x [..., K], [..., 1], as [M, 1]; ValueError for another shape."""
    if not isinstance(global_scale, Tensor) or fmt.global_granularity != "row":
        return global_scale
    wanted = (*x.shape[:-1], 1)
    if tuple(global_scale.shape) != wanted:
        raise ValueError(f"global_scale is {list(global_scale.shape)}; {fmt.name} has one for each row of x "
                         f"{list(x.shape)}: give {list(wanted)}")  # fmt: skip
    return global_scale.reshape(-1, 1)


def _unflatten(q: QTensor, shape: tuple[int, ...]) -> QTensor:
    """A 2-D result as [..., K]; scales and zero points per tensor stay [1]."""

    scales = q.format.scale_shape(shape)

    def unfold(t: Tensor) -> Tensor:
        return t if t.ndim < 2 else t.reshape(scales)

    zero_point = None if q.zero_point is None else unfold(q.zero_point)
    data = q.data.reshape(*shape[:-1], q.data.shape[-1])
    top = q.global_scale
    if top is not None and top.ndim > 1:
        top = top.reshape(*shape[:-1], 1)
    return dataclasses.replace(
        q, data=data, scale=unfold(q.scale), shape=shape, zero_point=zero_point, global_scale=top
    )
