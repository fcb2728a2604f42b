"""Prepared weights hold what they were made from, and their products are operators that torch can trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qkernels
from qbench import Unsupported
from qkernels import prepared_ops as ops
from qkernels import quantized_ops, reference
from qkernels.format import (
    FP8,
    MXFP4,
    MXFP4_ABS_MAX,
    MXFP8,
    NVFP4,
    NVFP4_1L,
    NVFP4_4OVER6,
    NVFP4_TOKEN,
    Format,
)
from qkernels.linear import LinearMXFP4, LinearNVFP4
from qkernels.prepared import prepare, prepared_matmul
from qkernels.prepared_linear import PreparedLinear
from qkernels.quantize import quantize as quantize_exactly
from qkernels.tensor import QTensor
from qkernels.triton.fp4_fragments import Fragments, fragments
from qkernels.triton.fp4_fragments import dense as dense_fragments
from qkernels.triton.fp4_stream import fp4_stream
from qkernels.triton.mxfp4_folded import FoldedWeights, fold_rows, fold_weights
from qkernels.triton.mxfp4_folded import dense as dense_folded

FORMATS = pytest.mark.parametrize(
    "fmt", [NVFP4, NVFP4_1L, NVFP4_4OVER6, MXFP4, MXFP4_ABS_MAX], ids=lambda fmt: fmt.name
)


def normal(m: int, k: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).to(dtype)


def weight(n: int, k: int, fmt: Format, hadamard: int | None = None) -> QTensor:
    return qkernels.quantize(normal(n, k, 1), fmt, hadamard=hadamard, backend="torch")


def off(y: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest error in units of what one rounding to y's dtype may be."""
    return float(((y.double() - exact) / (exact.abs() * torch.finfo(y.dtype).eps / 2 + 1e-30)).abs().max())


@FORMATS
@pytest.mark.parametrize(("n", "k"), [(16, 64), (24, 96), (5, 160)])
def test_fragments_mean_what_the_weights_do(n: int, k: int, fmt: Format) -> None:
    w = weight(n, k, fmt)
    torch.testing.assert_close(
        dense_fragments(fragments(w)), w.exact_values(torch.float64) / fmt.gain, rtol=1e-15, atol=0
    )


@pytest.mark.parametrize("fmt", [MXFP4, MXFP4_ABS_MAX], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize(("n", "k"), [(16, 128), (24, 96), (5, 160)])
def test_folded_weights_mean_what_the_weights_do(n: int, k: int, fmt: Format) -> None:
    w = weight(n, k, fmt)
    torch.testing.assert_close(
        dense_folded(fold_weights(w)), w.exact_values(torch.float64) / fmt.gain, rtol=1e-15, atol=0
    )


@FORMATS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_product_with_sixteen_bit_activations_is_the_reference_rounded_once(
    fmt: Format, dtype: torch.dtype
) -> None:
    w, x, bias = weight(24, 96, fmt), normal(3, 96, dtype=dtype), normal(1, 24)[0]
    if dtype == torch.float16 and fmt.scale == "e8m0":
        with pytest.raises(TypeError, match="range of float16"):
            prepared_matmul(x, prepare(w), bias=bias)
        return
    y = prepared_matmul(x, prepare(w), bias=bias)
    assert y.dtype == dtype
    assert off(y, reference.matmul(x, w, bias=bias)) <= 1


@FORMATS
@pytest.mark.parametrize("activation", ["w4a16", "w4a4"])
def test_a_product_with_quantized_activations(fmt: Format, activation: str) -> None:
    w = weight(24, 96, fmt)
    x = qkernels.quantize(normal(3, 96), fmt, backend="torch")
    p = prepare(w, activation)
    assert p.folded == (activation == "w4a4" and fmt.scale == "e8m0")
    dtype = torch.bfloat16 if p.folded else torch.float32
    assert off(prepared_matmul(x, p, out_dtype=dtype), reference.matmul(x, w)) <= 1


@pytest.mark.parametrize("fmt", [NVFP4, NVFP4_1L, NVFP4_4OVER6], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("m", [0, 1, 7, 130])
def test_each_row_is_over_its_own_global_scale(fmt: Format, m: int) -> None:
    w, bias = weight(24, 96, fmt), normal(1, 24)[0]
    spread = torch.exp2(torch.arange(float(m)) % 60 - 30)[:, None]
    x = quantize_exactly(normal(m + 1, 96, dtype=torch.float32)[:m] * spread, NVFP4_TOKEN)
    for dtype in (torch.bfloat16, torch.float32):
        y = prepared_matmul(x, prepare(w), bias=bias, out_dtype=dtype)
        assert y.shape == (m, 24)
        assert m == 0 or off(y, reference.matmul(x, w, bias=bias)) <= 1


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (torch.ones(3), r"float32 \[3\] .* \[3, 1\]: use"),
        (torch.ones(2, 1), r"float32 \[2, 1\]"),
        (torch.ones(1, 3), r"float32 \[1, 3\]"),
        (torch.ones(3, 2)[:, :1], r"strides \(2, 1\)"),
        (torch.ones(3, 1).double(), "float64"),
        (torch.ones((), dtype=torch.bfloat16), "bfloat16"),
    ],
)
def test_global_scales_that_are_neither_one_nor_one_a_row_are_named(scale: torch.Tensor, words: str) -> None:
    f = fragments(weight(32, 64, NVFP4))
    held = (normal(3, 64), f.data, f.scale, f.base, f.global_scale, scale, None)
    for call in (
        lambda: ops.fp4_product(*held, f.unit, 1.0, "nvfp4", 32, torch.bfloat16),
        lambda: quantized_ops.fp4_product_quantized(*held, None, f.unit, 1.0, "nvfp4", 32, "mxfp4"),
        lambda: fp4_stream(held[0], f, x_global_scale=scale),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(ValueError, match="on meta and x on cpu"):
        fp4_stream(held[0], f, x_global_scale=torch.ones(3, 1, device="meta"))


def test_folded_rows_go_with_folded_weights_only() -> None:
    w = weight(24, 96, MXFP4)
    x = qkernels.quantize(normal(3, 96), MXFP4, backend="torch")
    assert off(prepared_matmul(fold_rows(x), prepare(w, "w4a4")), reference.matmul(x, w)) <= 1
    with pytest.raises(TypeError, match="w4a4"):
        prepared_matmul(fold_rows(x), prepare(w))
    with pytest.raises(TypeError, match="w4a16"):
        prepared_matmul(normal(3, 96), prepare(w, "w4a4"))


def test_weights_that_do_not_fold_become_fragments_and_say_why() -> None:
    w = weight(16, 128, MXFP4)
    w.scale[3] = torch.tensor([120, 120, 120, 100], dtype=torch.uint8)
    p = prepare(w, "w4a4")
    assert (p.folded, "row 3" in p.note) == (False, True)
    assert "multiple of 8" in prepare(weight(12, 64, MXFP4), "w4a4").note
    x = qkernels.quantize(normal(3, 128), MXFP4, backend="torch")
    assert off(prepared_matmul(x, p, out_dtype=torch.float32), reference.matmul(x, w)) <= 1


def test_every_second_row_of_activations_with_a_global_scale_each() -> None:
    q, p = quantize_exactly(normal(6, 64), NVFP4_TOKEN), prepare(weight(16, 64, NVFP4))
    assert q.global_scale is not None
    some = QTensor(q.data[::2], q.scale[::2], q.format, (3, 64), q.global_scale[::2])
    expected = prepared_matmul(q, p)[::2]
    assert torch.equal(prepared_matmul(some, p), expected)
    layer = PreparedLinear(LinearNVFP4.from_linear(linear(64, 16)))
    assert torch.equal(layer(some), layer(q)[::2])


def test_small_blocks_of_a_row_are_rounded_and_a_block_of_nan_stays() -> None:
    x = torch.ones(3, 64)
    x[:, 32:] = 2.0**-20
    x[1, 40], x[2, 3] = 1.0, float("nan")
    elements, factor = ops.mxfp4_folded_rows(x, "mxfp4", 0)
    value = elements.float() * factor[:, None]
    assert torch.equal(value[0], torch.tensor([1.0] * 32 + [0.0] * 32))
    assert float(value[1, 40]) == 1
    assert value[2, :32].isnan().all()
    assert not value[2, 32:].isnan().any()


def test_what_is_not_taken_is_said() -> None:
    with pytest.raises(ValueError, match="w4a8"):
        prepare(weight(16, 64, NVFP4), "w4a8")
    for fmt in (MXFP8, FP8):
        with pytest.raises(Unsupported, match=fmt.name):
            prepare(weight(16, 64, fmt))
    p = prepare(weight(16, 64, NVFP4, 16))
    with pytest.raises(ValueError, match="rotated by None and w by 16"):
        prepared_matmul(qkernels.quantize(normal(3, 64), NVFP4, backend="torch"), p)
    with pytest.raises(ValueError, match=r"mxfp4 and w is nvfp4"):
        prepared_matmul(qkernels.quantize(normal(3, 64), MXFP4, hadamard=None, backend="torch"),
                        prepare(weight(16, 64, NVFP4)))  # fmt: skip
    with pytest.raises(TypeError, match="float32"):
        prepared_matmul(normal(3, 64, dtype=torch.float32), p)
    for bias in (normal(1, 1)[0], normal(1, 16), torch.zeros(16, dtype=torch.int32)):
        with pytest.raises(ValueError, match=r"must be bf16, fp16 or fp32 \[16\]"):
            prepared_matmul(normal(3, 64), p, bias=bias)
    one = quantize_exactly(normal(3, 64), NVFP4_TOKEN)
    with pytest.raises(ValueError, match=r"nvfp4_token and w is mxfp4"):
        prepared_matmul(one, prepare(weight(16, 64, MXFP4)))
    with pytest.raises(Unsupported, match="nvfp4_token"):
        prepare(one)


@pytest.mark.parametrize("fmt", [NVFP4, MXFP4], ids=lambda fmt: fmt.name)
def test_another_k_than_the_weights_is_refused(fmt: Format) -> None:
    w = weight(32, 128, fmt)
    folded = fold_rows(quantize_exactly(normal(4, 64), MXFP4))
    for x, p in (
        (normal(4, 64), prepare(w)),
        (quantize_exactly(normal(4, 64), fmt), prepare(w)),
        (folded, prepare(weight(32, 128, MXFP4), "w4a4")),
    ):
        with pytest.raises(ValueError, match=r"x \[4, 64\] must be \[M, 128\]"):
            prepared_matmul(x, p)
    f, x = prepare(w).weight, normal(4, 64)
    with pytest.raises(ValueError, match="the K of the weights"):
        ops.fp4_product(
            x, f.data, f.scale, f.base, f.global_scale, None, None, f.unit, 1.0, fmt.name, 32, x.dtype
        )


def test_blocks_of_zeros_do_not_spread_the_scales() -> None:
    w = normal(16, 64, dtype=torch.float32)
    w[0, 0], w[1, 32:] = 600.0, 0.0
    q = qkernels.quantize(w, MXFP4, backend="torch")
    assert int(q.scale.min()) == 0
    assert off(prepared_matmul(normal(3, 64), prepare(q)), reference.matmul(normal(3, 64), q)) <= 1


def linear(k: int = 128, n: int = 24) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(k, n, dtype=torch.bfloat16)


LAYERS = [
    (LinearNVFP4, {"activation": "w4a16"}),
    (LinearNVFP4, {"hadamard": 16}),
    (LinearNVFP4, {"global_scale": torch.tensor(600.0)}),
    (LinearNVFP4, {"format": "nvfp4_1l", "activation": "w4a16", "hadamard": 32}),
    (LinearMXFP4, {"activation": "w4a16"}),
    (LinearMXFP4, {"hadamard": 32}),
    (LinearMXFP4, {"format": "mxfp4_abs_max"}),
    (LinearNVFP4, {"format": "nvfp4_4over6"}),
]


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_a_prepared_layer_gives_what_the_layer_gives(kind, options) -> None:
    layer = kind.from_linear(linear(), **options)
    made = PreparedLinear(layer)
    x = normal(6, 128).view(2, 3, 128)
    y = made(x)
    assert y.shape == (2, 3, 24)
    exact = reference.matmul(layer.quantize_input(x), layer.quantized_weight(), bias=layer.bias)
    assert off(y.reshape(6, 24), exact) <= 1
    again = PreparedLinear(kind.from_linear(nn.Linear(128, 24, dtype=torch.bfloat16), **options))
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(x), y)


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_scales_stay_float32(kind, options) -> None:
    made, x = PreparedLinear(kind.from_linear(linear(), **options)), normal(6, 128)
    y = made(x)
    assert torch.equal(made.half().bfloat16()(x), y)


def test_a_state_dict_brings_the_unit_of_its_weights_and_no_other_format() -> None:
    small, large = linear(), linear()
    large.weight.data *= 2.0**100
    options = {"activation": "w4a16"}
    made, other = (PreparedLinear(LinearMXFP4.from_linear(each, **options)) for each in (small, large))
    assert made.prepared().weight.unit != other.prepared().weight.unit
    other.load_state_dict(made.state_dict())
    assert made.prepared().weight.unit == other.prepared().weight.unit
    assert torch.equal(other(normal(3, 128)), made(normal(3, 128)))
    rotated = PreparedLinear(LinearMXFP4.from_linear(small, hadamard=32, **options))
    before = rotated(normal(3, 128))
    with pytest.raises(ValueError, match=r"hadamard=None.*hadamard=32"):
        rotated.load_state_dict(made.state_dict())
    assert torch.equal(rotated(normal(3, 128)), before)


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_inputs_in_any_order_of_strides_and_without_a_graph(kind, options) -> None:
    made = PreparedLinear(kind.from_linear(linear(), **options))
    x = normal(6, 128).view(2, 3, 128)
    turned = x.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    assert torch.equal(made(turned), made(x))
    assert not made(turned).requires_grad


@pytest.mark.parametrize(("kind", "options"), LAYERS)
def test_torch_compile_keeps_one_graph(kind, options) -> None:
    made, x = PreparedLinear(kind.from_linear(linear(), **options)), normal(6, 128)
    torch.compiler.reset()  # or cases count as recompilations of one function
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), made(x))
    assert torch.equal(compiled(x[:5]), made(x[:5]))


def operators():
    w = fragments(weight(16, 64, NVFP4))
    x = normal(3, 64)
    yield (
        ops.fp4_product,
        (x, w.data, w.scale, w.base, w.global_scale, None, None, w.unit, 1.0, "nvfp4", 16, x.dtype),
    )
    yield (
        ops.fp4_product,
        (
            x,
            w.data,
            w.scale,
            w.base,
            w.global_scale,
            torch.ones(3, 1),
            None,
            w.unit,
            1.0,
            "nvfp4",
            16,
            x.dtype,
        ),
    )
    yield ops.fp4_rows, (x, None, "nvfp4", 16)
    yield ops.fp4_rows, (x, torch.tensor(50.0), "nvfp4", 0)
    yield ops.fp4_rows, (x, None, "mxfp4", 0)
    yield ops.mxfp4_folded_rows, (x, "mxfp4", 32)
    f, rows = fold_weights(weight(16, 64, MXFP4)), fold_rows(qkernels.quantize(x, MXFP4, backend="torch"))
    yield (
        ops.mxfp4_folded_product,
        (rows.elements, rows.factor, f.codes, f.spread, f.factor, None, 1.0, 16, x.dtype),
    )


@pytest.mark.parametrize(
    ("operator", "arguments"), list(operators()), ids=lambda value: getattr(value, "_name", "")
)
def test_operators_pass_opcheck(operator, arguments) -> None:
    tests = ["test_schema", "test_faketensor", "test_aot_dispatch_dynamic"]
    if (
        arguments[0].dtype == torch.float8_e4m3fn
    ):  # to see whether an argument was written, torch multiplies it
        del tests[0]
    torch.library.opcheck(operator, arguments, test_utils=tests)


def test_weights_report_their_bytes() -> None:
    w = weight(64, 256, NVFP4)
    assert prepare(w).nbytes == w.data.numel() + w.scale.numel()
    folded = prepare(weight(64, 256, MXFP4), "w4a4")
    assert folded.nbytes == 64 * 128 + 64 * 8 + 64 * 4
    assert isinstance(folded.weight, FoldedWeights)
    assert isinstance(prepare(w).weight, Fragments)


@pytest.mark.gpu
@pytest.mark.parametrize("m", [1, 40, 200])
@pytest.mark.parametrize(
    ("kind", "options"), LAYERS[:-1]
)  # the last is quantized by the reference, which waits
def test_on_a_gpu_nothing_waits_and_graphs_and_compile_give_the_same(kind, options, m: int) -> None:
    layer = kind.from_linear(linear(512, 264).cuda(), **{k: _cuda(v) for k, v in options.items()})
    made, x = PreparedLinear(layer), normal(m, 512).cuda()
    y = made(x)  # compiles the kernels
    exact = reference.matmul(layer.quantize_input(x), layer.quantized_weight(), bias=layer.bias)
    assert float((y.double() - exact).norm() / exact.norm()) < 4e-3
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert made(x) is not None
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again = made(x)
    graph.replay()
    assert torch.equal(again, y)
    torch.compiler.reset()
    assert torch.equal(torch.compile(made, fullgraph=True)(x), y)
    torch.compiler.reset()
    reduced = torch.compile(
        made, fullgraph=True, mode="reduce-overhead"
    )  # CUDA graphs, in a pool that is watched
    for _ in range(4):
        assert torch.equal(reduced(x).clone(), y)


def _cuda(value):
    return value.cuda() if isinstance(value, torch.Tensor) else value


@pytest.mark.gpu
def test_a_layer_whose_format_has_no_kernel_to_quantize_works_on_a_gpu() -> None:
    kind, options = LAYERS[-1]
    layer = kind.from_linear(linear(512, 264).cuda(), **options)
    made, x = PreparedLinear(layer), normal(40, 512).cuda()
    exact = reference.matmul(layer.quantize_input(x), layer.quantized_weight(), bias=layer.bias)
    assert float((made(x).double() - exact).norm() / exact.norm()) < 4e-3
