"""GemLite's Triton kernels (tried against the sources of 0.6.0.post2), where it is installed.

It searches its own configurations at the first call of a shape, some twenty compilations; that is done here, untimed.
Before Blackwell its FP4 products are `tl.dot_scaled`, which Triton 3.6 and 3.7 compile for E8M0 scales (as bf16
products of decoded operands) and not for the E4M3 scales of NVFP4. Up to 63 rows it splits K and adds the parts in
bf16. Its settings are left as it ships them, but for FP4 conversion by one instruction, which it switches on by the
version of ptxas alone and only Blackwell has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qbench import Unsupported, provider
from qkernels.format import MXFP4, MXFP4_RCEIL, NVFP4, Format
from qkernels.ops.quantize import QuantizeOptions
from qkernels.ops.require import require, require_operands
from qkernels.providers import libraries
from qkernels.tensor import QTensor

QUANTIZES: dict[Format, tuple[str, ...]] = {MXFP4_RCEIL: (), NVFP4: ("global_scale",)}
_REFUSED_BY_TRITON = "PassManager::run failed"


@provider("gemlite", needs_cuda=True)
def quantize(x: Tensor, options: QuantizeOptions) -> Callable[[], QTensor]:
    """Its activation quantizers: MXFP4 with the scale 2^ceil(log2(amax/6)), which is rceil, and NVFP4."""
    require(options, "gemlite's adapter", QUANTIZES)
    quant = _library("quant_utils")
    fmt, rows, gs = options.format, x.shape[0], options.global_scale
    if fmt == MXFP4_RCEIL and not _blackwell():
        raise Unsupported(
            "without Blackwell's conversion gemlite rounds ties toward zero, MXFP4 to even", "triton"
        )
    shape = tuple(x.shape)
    if fmt == MXFP4_RCEIL:

        def run() -> QTensor:
            data, scale = quant.scale_activations_mxfp4(x)
            return QTensor(data.view(torch.uint8), scale.view(torch.uint8)[:rows], fmt, shape)

        return run
    meta = None if gs is None else gs.reshape(1)

    def run_nvfp4() -> QTensor:
        data, scale, used = quant.scale_activations_nvfp4(x, meta_scale=meta)
        return QTensor(data, scale.view(torch.uint8)[:rows], fmt, shape, global_scale=used.reshape(()))

    return run_nvfp4


@provider("gemlite", needs_cuda=True, accumulator="bf16-parts")
def gemm(a: Tensor | QTensor, b: QTensor) -> Callable[[], Tensor]:
    """bf16 [M, N]: its linear layers A16W4 on bf16 activations, the product of A4W4 on quantized ones."""
    require_operands("gemlite's adapter", (NVFP4, MXFP4), b, *(() if isinstance(a, Tensor) else (a,)))
    if isinstance(a, Tensor) and a.dtype != torch.bfloat16:
        raise Unsupported(f"gemlite is compared on bfloat16 activations, not {a.dtype}", "triton-prepared")
    if isinstance(a, QTensor) and a.format.scale != b.format.scale:
        raise Unsupported(f"a is {a.format.name} and b is {b.format.name}: quantize both to one of them")
    helper = _library("helper")
    nvfp4 = b.format.scale == "e4m3"
    kind = f"{'A16W4' if isinstance(a, Tensor) else 'A4W4'}_{'NVFP' if nvfp4 else 'MXFP'}"
    make = getattr(helper, kind if isinstance(a, Tensor) else f"{kind}_dynamic")
    scale = b.scale.view(torch.float8_e4m3fn if nvfp4 else torch.float8_e8m0fnu)
    more = {"meta_scale": b.global_scale} if nvfp4 else {}
    layer = make(device=b.device, dtype=torch.bfloat16).from_packed_weights(b.data, scales=scale, **more)
    run = (lambda: layer(a)) if isinstance(a, Tensor) else _quantized(layer, a, b)
    try:
        run()
    except RuntimeError as error:
        if nvfp4 and not _blackwell() and _REFUSED_BY_TRITON in str(error):
            reason = (
                f"gemlite's {kind} does not compile here: Triton's dot_scaled takes no E4M3 scales ({error})"
            )
            raise Unsupported(reason, "triton-prepared") from error
        raise
    return run


def _quantized(layer: Any, a: QTensor, b: QTensor) -> Callable[[], Tensor]:
    """The product alone of a layer that would quantize a first: its kernel, chosen and called as the layer does."""
    core = _library("core")
    kernel = core.GEMLITE_TRITON_MAPPING[core.get_matmul_type(a.shape[0], 4, True)]
    weights, meta = layer.get_tensor_args()[:3], layer.get_meta_args()
    nvfp4 = a.format.scale == "e4m3"
    scale = a.scale.view(torch.float8_e4m3fn) if nvfp4 else a.scale
    alpha = (a.alpha * b.alpha).to(torch.float32) if nvfp4 else 0.0
    kind = 100 * int(meta[5]) + 4

    def run() -> Tensor:
        options = (*meta[1:-1], bool(meta[-1]), kind)
        y: Tensor = kernel.forward(a.data, *weights, scale, *options, meta_scale=alpha)
        return y

    return run


def _library(part: str) -> Any:
    """A module of it, after one setting is mended; Unsupported where it cannot be imported."""
    module = libraries.need("gemlite", part)
    if not _blackwell():
        libraries.need("gemlite", "core").set_ptx_fp4_pack(False)
    return module


def _blackwell() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (10, 0)
