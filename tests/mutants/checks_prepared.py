"""Prepared weights: their products on a CPU, the layer made of them, and the operators behind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qbench import Unsupported
from qkernels import LinearMXFP4, LinearNVFP4, QTensor, get_format, quantize, reference
from qkernels import prepared_ops as ops
from qkernels.models import RECIPES, CodesLinear
from qkernels.models.fast import on_cuda
from qkernels.prepared import prepare, prepared_matmul
from qkernels.prepared_linear import PreparedLinear
from tests.mutants.helpers import certified, normal

BIAS = torch.arange(24.0) * 0.37 - 3


def prepared() -> None:
    """Every kind of activation with every kind of weights is the reference, rounded once; what is refused."""
    for name in ("nvfp4", "nvfp4_1l", "mxfp4", "mxfp4_abs_max"):
        w = quantize(normal(24, 96, seed=1), name)
        for dtype in (torch.bfloat16, torch.float16):
            x = normal(3, 96, dtype)
            if dtype == torch.float16 and w.format.scale == "e8m0":
                _refused(lambda x=x, w=w: prepared_matmul(x, prepare(w)))
                continue
            for asked in (None, torch.float32):
                y = prepared_matmul(x, prepare(w), bias=BIAS, out_dtype=asked)
                _once(f"{name} with {dtype}", y, reference.matmul(x, w, bias=BIAS), asked or dtype)
        a = quantize(normal(3, 96, seed=2) * 5, name)
        for activation in ("w4a16", "w4a4"):
            p = prepare(w, activation)
            assert p.folded == (activation == "w4a4" and w.format.scale == "e8m0"), f"{name} {activation}"
            out = torch.bfloat16 if p.folded else torch.float32  # FP8 products have no more bits
            y = prepared_matmul(a, p, bias=BIAS, out_dtype=out)
            _once(f"{name} {activation}", y, reference.matmul(a, w, bias=BIAS), out)
    tokens = quantize(normal(3, 96, seed=2) * torch.tensor([[5.0], [2e5], [3e-5]]), "nvfp4_token")
    w = quantize(normal(24, 96, seed=1), "nvfp4")
    y = prepared_matmul(tokens, prepare(w), bias=BIAS, out_dtype=torch.float32)
    _once("nvfp4_token", y, reference.matmul(tokens, w, bias=BIAS), torch.float32)
    f, wide = prepare(w).weight, torch.ones(3, 2)
    for scales in (
        torch.ones(1, 24),
        wide[:, :1],
        wide[:2, :1].contiguous(),
        wide[:, :1].contiguous().double(),
    ):
        _refused(lambda s=scales: ops.fp4_product(normal(3, 96, torch.bfloat16), f.data, f.scale, f.base, None, s, None,
                                                  f.unit, 1.0, "nvfp4", 24, torch.float32))  # fmt: skip
    w = certified(24, 96, get_format("mxfp4"), 1)
    w.scale[3, 0] = 100
    p = prepare(w, "w4a4")
    assert not p.folded and "row 3" in p.note, f"scales too far apart are folded, or not named: {p.note!r}"
    assert not prepare(certified(12, 64, get_format("mxfp4"), 1), "w4a4").folded, "N = 12 is folded"
    rotated = quantize(normal(24, 96, seed=1), "nvfp4", hadamard=32)
    plain, other = quantize(normal(3, 96), "nvfp4"), quantize(normal(3, 96), "mxfp4")
    for a, b in ((plain, rotated), (other, quantize(normal(24, 96), "nvfp4"))):
        _refused(lambda a=a, b=b: prepared_matmul(a, prepare(b)))
    _refused(lambda: prepare(quantize(normal(24, 96), "fp8")))


def _once(what: str, y: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    """y is `wanted` rounded once to dtype; 2^-44 of it are allowed for another order of the float64 sums."""
    assert y.dtype == dtype, f"{what}: the output is {y.dtype}"
    room = wanted.abs() * torch.finfo(dtype).eps / 2 * (1 + 2.0**-20) + 1e-30
    bad = int((~((y.double() - wanted).abs() <= room)).sum())
    assert not bad, f"{what}: {bad} of {y.numel()} outputs are not within one rounding"


def _refused(call: Callable[[], object]) -> None:
    try:
        call()
    except (ValueError, TypeError, Unsupported):
        return
    raise AssertionError("operands that do not go together were taken")


def prepared_layer() -> None:
    """A prepared layer is the product that its layer means; scales stay fp32; a state dict brings its unit."""
    plain = nn.Linear(96, 24, dtype=torch.bfloat16)
    with torch.no_grad():
        plain.weight.copy_(normal(24, 96, seed=1))
        plain.bias.copy_(BIAS)
    x = normal(6, 96, torch.bfloat16, seed=2)
    kinds = (
        (LinearNVFP4, {"activation": "w4a16", "hadamard": 16}), (LinearNVFP4, {"hadamard": 32}),
        (LinearNVFP4, {"global_scale": torch.tensor(600.0)}), (LinearMXFP4, {"hadamard": 32}),
        (LinearMXFP4, {"format": "mxfp4_abs_max"}), (LinearMXFP4, {"activation": "w4a16"}),
    )  # fmt: skip
    for kind, options in kinds:
        layer = kind.from_linear(plain, **options)
        made = PreparedLinear(layer)
        wanted = reference.matmul(layer.quantize_input(x), layer.quantized_weight(), bias=layer.bias)
        y = made(x)
        _once(f"{kind.__name__} {options}", y, wanted, torch.bfloat16)
        assert made(x.view(2, 3, 96)).shape == (2, 3, 24), "leading axes are lost"
        assert torch.equal(made.half().bfloat16()(x), y), f"{options}: scales were cut to 16 bits"
    tokens = CodesLinear.from_linear(plain, RECIPES["nvfp4-w4a4"])
    for each in (x, x.float()):
        wanted = reference.matmul(tokens.quantize_input(each), tokens.quantized_weight(), bias=tokens.bias)
        _once("tokens", on_cuda(tokens, torch.bfloat16, (9, 0)).module(each), wanted, each.dtype)
    large = nn.Linear(96, 24, dtype=torch.bfloat16)
    with torch.no_grad():
        large.weight.copy_(plain.weight * 2.0**100)
        large.bias.copy_(BIAS)
    one, two = (PreparedLinear(LinearMXFP4.from_linear(each, activation="w4a16")) for each in (plain, large))
    assert two.prepared().weight.unit != one.prepared().weight.unit, "the sample is another"
    two.load_state_dict(one.state_dict())
    assert torch.equal(two(x), one(x)), "a layer with loaded weights gives another result"
    # on a CPU the product needs no unit
    assert two.prepared().weight.unit == one.prepared().weight.unit, "the unit is not loaded"
    _not_loaded(PreparedLinear(LinearMXFP4.from_linear(plain, activation="w4a16", hadamard=32)), one)


def _not_loaded(layer: nn.Module, other: nn.Module) -> None:
    try:
        layer.load_state_dict(other.state_dict())
    except (RuntimeError, ValueError):
        return
    raise AssertionError("weights of another rotation were loaded")


def prepared_ops() -> None:
    """The operators behind: what rows are, and their global scale."""
    x = normal(5, 96, torch.bfloat16, seed=3)
    for name, unit in (("nvfp4", 1.0), ("mxfp4", 4.0), ("mxfp4_abs_max", 4.0)):
        for had in (0, 32):
            q: QTensor = quantize(x, name, hadamard=had or None)
            rows, *dynamic = ops.fp4_rows(x, None, name, had)
            exact = q.exact_values(torch.float64) / unit
            assert torch.equal(rows.double(), exact), f"rows of {name}, rotated by {had}, are others"
            assert len(dynamic) == (q.global_scale is not None), f"{name}: {len(dynamic)} global scales"
            assert not dynamic or float(dynamic[0]) == float(q.global_scale), f"the global scale is {dynamic}"
    given = torch.tensor(50.0)
    (rows,) = ops.fp4_rows(x, given, "nvfp4", 0)
    wanted = quantize(x, "nvfp4", global_scale=given).exact_values(torch.float64)
    assert torch.equal(rows.double(), wanted), "a given global scale is ignored"
    far = torch.ones(2, 64, dtype=torch.bfloat16)
    far[0, 32:] = 2.0**-20
    elements, factor = ops.mxfp4_folded_rows(far, "mxfp4", 0)
    values = elements.float() * factor[:, None]
    far[0, 32:] = 0
    assert torch.equal(values, far.float()), "a block 2^-20 of its row's largest is not rounded to zero"
