"""Products of prepared weights with a quantized result, and layers that hand it on: what a CPU computes, torch traces
and callers are told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qkernels
from qbench import Unsupported
from qkernels import quantized_ops as ops
from qkernels import reference
from qkernels.format import FORMATS, MXFP4, MXFP4_ABS_MAX, NVFP4, NVFP4_1L, NVFP4_TOKEN, Format
from qkernels.linear import LinearMXFP4, LinearNVFP4
from qkernels.prepared import fold, prepare, prepared_matmul, prepared_matmul_quantized
from qkernels.prepared_linear import PreparedLinear
from qkernels.quantize import quantize as quantize_exactly
from qkernels.tensor import QTensor
from qkernels.triton.fp4_fragments import fragments
from qkernels.triton.mxfp4_folded import fold_rows, fold_weights
from qkernels.triton.quantized_result import TAKES

RESULTS = pytest.mark.parametrize("result", TAKES, ids=lambda fmt: fmt.name)
WEIGHTS = pytest.mark.parametrize("fmt", [NVFP4, NVFP4_1L, MXFP4, MXFP4_ABS_MAX], ids=lambda fmt: fmt.name)


def normal(m: int, k: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).to(dtype)


def weight(n: int, k: int, fmt: Format, hadamard: int | None = None) -> QTensor:
    return qkernels.quantize(normal(n, k, 1), fmt, hadamard=hadamard, backend="torch")


def scale_of(result: Format) -> torch.Tensor | None:
    return torch.tensor(37.0) if result.levels == 2 else None


def same(found: QTensor, wanted: QTensor) -> bool:
    gs = found.global_scale, wanted.global_scale
    return (
        (found.format, found.shape, found.hadamard) == (wanted.format, wanted.shape, wanted.hadamard)
        and torch.equal(found.data, wanted.data)
        and torch.equal(found.scale, wanted.scale)
        and (gs == (None, None) or (None not in gs and torch.equal(*gs)))
    )


@RESULTS
@WEIGHTS
def test_the_product_in_fp32_is_quantized(fmt: Format, result: Format) -> None:
    w, x, bias, gs = weight(64, 96, fmt), normal(3, 96), normal(1, 64)[0], scale_of(result)
    xq = qkernels.quantize(x, fmt, backend="torch")
    pairs = [("w4a16", x), ("w4a16", xq), ("w4a4", xq)]
    if fmt.scale == "e4m3":
        pairs.append(
            ("w4a4", quantize_exactly(x * torch.tensor([[1.0], [2.0**20], [2.0**-20]]), NVFP4_TOKEN))
        )
    for activation, left in pairs:
        found = prepared_matmul_quantized(left, prepare(w, activation), result, global_scale=gs, bias=bias)
        exact = reference.matmul(left, w, bias=bias).float()
        assert same(found, quantize_exactly(exact, result, global_scale=gs))


def test_a_result_rounded_to_sixteen_bits_first_would_be_another() -> None:
    w, x = weight(64, 96, MXFP4), normal(40, 96)
    found = prepared_matmul_quantized(x, prepare(w), "mxfp4")
    rounded = quantize_exactly(prepared_matmul(x, prepare(w)), MXFP4)
    assert not torch.equal(found.data, rounded.data)


def test_no_rows_give_an_empty_result() -> None:
    found = prepared_matmul_quantized(
        normal(1, 64)[:0], prepare(weight(32, 64, NVFP4)), "nvfp4", global_scale=1.0
    )
    assert (found.shape, tuple(found.data.shape), tuple(found.scale.shape)) == ((0, 32), (0, 16), (0, 2))


def test_what_is_not_taken_is_said() -> None:
    x, p = normal(3, 64), prepare(weight(48, 64, NVFP4))
    for name in sorted(set(FORMATS) - {fmt.name for fmt in TAKES}):
        with pytest.raises(Unsupported, match=f"not to {name}"):
            prepared_matmul_quantized(x, p, name)
    with pytest.raises(ValueError, match=r"N = 48 .* block 32"):
        prepared_matmul_quantized(x, p, "mxfp4")
    with pytest.raises(ValueError, match="nvfp4 needs a static global_scale"):
        prepared_matmul_quantized(x, p, "nvfp4")
    with pytest.raises(ValueError, match="nvfp4_1l takes no global_scale"):
        prepared_matmul_quantized(x, p, "nvfp4_1l", global_scale=1.0)
    for wrong in (torch.ones(2), torch.ones((), dtype=torch.float64)):
        with pytest.raises(ValueError, match="one float32"):
            prepared_matmul_quantized(x, p, "nvfp4", global_scale=wrong)
    with pytest.raises(ValueError, match="on meta and w on cpu"):
        prepared_matmul_quantized(x, p, "nvfp4", global_scale=torch.ones((), device="meta"))
    with pytest.raises(ValueError, match="finite"):
        prepared_matmul_quantized(x, p, "nvfp4", global_scale=-1.0)
    with pytest.raises(ValueError, match=r"x \[3, 64\] must be"):
        prepared_matmul_quantized(x, prepare(weight(48, 96, NVFP4)), "nvfp4", global_scale=1.0)


@pytest.mark.parametrize("fmt", [MXFP4, MXFP4_ABS_MAX], ids=lambda fmt: fmt.name)
def test_codes_are_folded_as_when_spreads_are_looked_at(fmt: Format) -> None:
    x, w = qkernels.quantize(normal(5, 96), fmt, backend="torch"), prepare(weight(24, 96, fmt), "w4a4")
    folded, looked_at = fold(x), fold_rows(x)
    assert torch.equal(folded.elements.view(torch.uint8), looked_at.elements.view(torch.uint8))
    assert torch.equal(folded.factor, looked_at.factor)
    assert torch.equal(prepared_matmul(folded, w), prepared_matmul(x, w))


def test_rows_that_do_not_fold_are_rounded_without_a_word() -> None:
    x = quantize_exactly(torch.ones(2, 64), MXFP4)
    x.scale[0, 1] = x.scale[0, 0] - 20
    with pytest.raises(Unsupported, match="row 0"):
        fold_rows(x)
    values = fold(x).elements.float() * fold(x).factor[:, None]
    assert torch.equal(values[0, :32], torch.ones(32))
    assert not values[0, 32:].any()
    assert torch.equal(values[1], torch.ones(64))
    with pytest.raises(ValueError, match="nvfp4"):
        fold(quantize_exactly(torch.ones(2, 64), NVFP4))


# --- layers


def linear(k: int, n: int, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(k, n, dtype=torch.bfloat16)


CHAINS = [
    (LinearNVFP4, "nvfp4", 300.0),
    (LinearNVFP4, "nvfp4_1l", None),
    (LinearMXFP4, "mxfp4", None),
    (LinearMXFP4, "mxfp4_abs_max", None),
]
chains = pytest.mark.parametrize(("kind", "name", "gs"), CHAINS, ids=[name for _, name, _ in CHAINS])


def chain(kind, name, gs, device="cpu", k=128, n=64):
    """Two layers, the first of which gives what the second takes."""
    first = kind.from_linear(linear(k, n).to(device), format=name)
    last = kind.from_linear(linear(n, 32, 1).to(device), format=name)
    return PreparedLinear(first, output=name, output_global_scale=gs), PreparedLinear(last), first, last


@chains
def test_layers_hand_on_quantized_activations(kind, name, gs) -> None:
    one, two, first, last = chain(kind, name, gs)
    x = normal(6, 128).view(2, 3, 128)
    hidden = one(x)
    assert isinstance(hidden, QTensor)
    assert hidden.shape == (2, 3, 64)
    exact = reference.matmul(first.quantize_input(x), first.quantized_weight(), bias=first.bias).float()
    scale = None if gs is None else torch.tensor(gs)
    wanted = quantize_exactly(exact.view(2, 3, 64), qkernels.get_format(name), global_scale=scale)
    assert same(hidden, wanted)
    y = two(hidden)
    assert (y.shape, y.dtype) == ((2, 3, 32), torch.bfloat16)
    flat = quantize_exactly(exact, wanted.format, global_scale=scale)
    wanted_y = reference.matmul(flat, last.quantized_weight(), bias=last.bias)
    off = (y.reshape(6, 32).double() - wanted_y).abs() / (wanted_y.abs() * 2.0**-8 + 1e-30)
    assert off.max() <= 1 + 2.0**-20
    assert two(one(x[:0])).shape == (0, 3, 32)


@chains
def test_torch_compile_keeps_one_graph_for_a_chain(kind, name, gs) -> None:
    one, two, *_ = chain(kind, name, gs)
    x = normal(6, 128)
    for module in (one, nn.Sequential(one, two)):
        torch.compiler.reset()
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        for rows in (x, x[:5]):
            found, wanted = compiled(rows), module(rows)
            assert same(found, wanted) if isinstance(wanted, QTensor) else torch.equal(found, wanted)
    torch.compiler.reset()
    compiled = torch.compile(two, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(one(x)), two(one(x)))


def test_a_state_dict_brings_the_scale_of_the_output_and_no_other_format() -> None:
    kind, name, gs = CHAINS[0]
    one, *_ = chain(kind, name, gs)
    other = PreparedLinear(
        kind.from_linear(linear(128, 64, 5), format=name), output=name, output_global_scale=1.0
    )
    other.load_state_dict(one.state_dict())
    x = normal(6, 128)
    assert same(other(x), one(x))
    assert same(one.half().bfloat16()(x), other(x)), "scales were cut to sixteen bits"
    plain = PreparedLinear(kind.from_linear(linear(128, 64), format=name))
    with pytest.raises((ValueError, RuntimeError), match="output"):
        plain.load_state_dict(one.state_dict())
    assert "output=nvfp4" in repr(one)
    assert "output" not in repr(plain)


def test_a_layer_says_what_it_does_not_take() -> None:
    kind, name, gs = CHAINS[0]
    one, two, first, _last = chain(kind, name, gs)
    hidden = one(normal(6, 128))
    with pytest.raises(ValueError, match="needs a static global_scale"):
        PreparedLinear(first, output="nvfp4")
    with pytest.raises(ValueError, match="name its format"):
        PreparedLinear(first, output_global_scale=gs)
    with pytest.raises(ValueError, match="K = 64"):
        one(hidden)
    weights_only = PreparedLinear(kind.from_linear(linear(64, 32, 1), format=name, activation="w4a16"))
    with pytest.raises(TypeError, match="w4a4"):
        weights_only(hidden)
    rotated = PreparedLinear(kind.from_linear(linear(64, 32, 1), format=name, hadamard=16))
    with pytest.raises(ValueError, match="rotated by None and w by 16"):
        rotated(hidden)
    with pytest.raises(ValueError, match="mxfp4"):
        two(quantize_exactly(normal(6, 64), MXFP4))
    with pytest.raises(ValueError, match="nvfp4_token"):
        chain(*CHAINS[2])[1](quantize_exactly(normal(6, 64), NVFP4_TOKEN))


def test_a_layer_takes_activations_with_a_global_scale_a_row() -> None:
    _, layer, _, last = chain(*CHAINS[0])
    x = quantize_exactly(normal(6, 64).view(2, 3, 64) * torch.tensor([[[1.0]], [[2.0**20]]]), NVFP4_TOKEN)
    y = layer(x)
    assert (y.shape, y.dtype) == ((2, 3, 32), torch.bfloat16)
    flat = QTensor(x.data.view(6, -1), x.scale.view(6, -1), x.format, (6, 64), x.global_scale.view(6, 1))
    wanted = reference.matmul(flat, last.quantized_weight(), bias=last.bias)
    assert ((y.view(6, 32).double() - wanted).abs() / (wanted.abs() * 2.0**-8 + 1e-30)).max() <= 1 + 2.0**-20
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), y)


# --- operators


def operators():
    w, x = fragments(weight(32, 64, NVFP4)), normal(3, 64)
    xq = qkernels.quantize(x, MXFP4, backend="torch")
    held = (w.data, w.scale, w.base, w.global_scale)
    yield (
        ops.fp4_product_quantized,
        (x, *held, None, normal(1, 32)[0], torch.tensor(30.0), w.unit, 1.0, "nvfp4", 32, "nvfp4"),
    )
    yield ops.fp4_product_quantized, (x, *held, None, None, None, w.unit, 1.0, "nvfp4", 32, "mxfp4")
    yield (
        ops.fp4_product_quantized,
        (x, *held, torch.ones(3, 1), None, None, w.unit, 1.0, "nvfp4", 32, "mxfp4"),
    )
    xt = quantize_exactly(x, NVFP4_TOKEN)
    yield ops.fp4_decoded_rows, (xt.data, xt.scale, "nvfp4_token")
    yield ops.mxfp4_fold_codes, (xq.data, xq.scale)
    yield ops.fp4_decoded_rows, (xq.data, xq.scale, "mxfp4")
    f, rows = fold_weights(weight(32, 64, MXFP4)), fold_rows(xq)
    yield (
        ops.mxfp4_folded_product_quantized,
        (rows.elements, rows.factor, f.codes, f.spread, f.factor, None, None, 1.0, 32, "mxfp4"),
    )


@pytest.mark.parametrize(
    ("operator", "arguments"), list(operators()), ids=lambda value: getattr(value, "_name", "")
)
def test_operators_pass_opcheck(operator, arguments) -> None:
    tests = ["test_schema", "test_faketensor", "test_aot_dispatch_dynamic"]
    if arguments[0].dtype == torch.float8_e4m3fn:  # to see whether it was written, torch multiplies it
        del tests[0]
    torch.library.opcheck(operator, arguments, test_utils=tests)
