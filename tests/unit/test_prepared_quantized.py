"""Products of prepared weights with a quantized result, and layers that hand it on: what a CPU computes, torch traces
and callers are told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qkernels
from qbench import Unsupported, gemm_error, poisoned_allocations
from qkernels import quantized_ops as ops
from qkernels import reference
from qkernels.compare import compare_quantized
from qkernels.format import FORMATS, MXFP4, MXFP4_ABS_MAX, NVFP4, NVFP4_1L, Format
from qkernels.linear import LinearMXFP4, LinearNVFP4
from qkernels.prepared import fold, prepare, prepared_matmul, prepared_matmul_quantized
from qkernels.prepared_linear import PreparedLinear
from qkernels.quantize import quantize as quantize_exactly
from qkernels.tensor import QTensor
from qkernels.triton.fp4_fragments import fragments
from qkernels.triton.mxfp4_folded import fold_rows, fold_weights
from qkernels.triton.mxfp4_quantize import mxfp4_quantize
from qkernels.triton.nvfp4_quantize import nvfp4_quantize
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
    for activation, left in (("w4a16", x), ("w4a16", xq), ("w4a4", xq)):
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
    for x in (
        quantize_exactly(normal(6, 64), MXFP4),
        quantize_exactly(normal(6, 64), FORMATS["nvfp4_token"]),
    ):
        with pytest.raises(ValueError, match=x.format.name):
            two(x)


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


# --- on a GPU


def on_gpu(m: int, n: int, k: int, fmt: Format, activation: str):
    """(activations, weights, what is multiplied: for the reference, for the product) on the device."""
    w = quantize_exactly(normal(n, k, 1), fmt).to("cuda")
    if activation == "w4a16":
        x = normal(m, k).cuda()
        return x, w, x, prepare(w)
    x = quantize_exactly(normal(m, k), fmt).to("cuda")
    p = prepare(w, activation)
    return x, w, fold(x) if p.folded else x, p


GPU = pytest.mark.gpu
HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
KINDS = pytest.mark.parametrize(
    ("fmt", "activation"),
    [(NVFP4, "w4a16"), (NVFP4, "w4a4"), (MXFP4, "w4a16"), (MXFP4, "w4a4")],
    ids=["nvfp4-w4a16", "nvfp4-w4a4", "mxfp4-w4a16", "mxfp4-folded"],
)


def judged(found: QTensor, x, w: QTensor, gs: torch.Tensor | None, accumulator: str, bias=None) -> object:
    y = reference.matmul(x, w, bias=bias)
    error = gemm_error(y, reference.magnitude(x, w), w.shape[1], accumulator)
    return compare_quantized(found, y, found.format, global_scale=gs, error=error)


def static_scale(x, w: QTensor, result: Format) -> torch.Tensor | None:
    return (2688 / reference.matmul(x, w).abs().amax()).float() if result.levels == 2 else None


@GPU
@KINDS
@pytest.mark.parametrize("m", [1, 8, 17, 33, 64, 65, 127, 129, 300])
@pytest.mark.parametrize("n", [32, 96, 416, 8224])
def test_on_a_gpu_results_are_those_of_the_product(fmt: Format, activation: str, n: int, m: int) -> None:
    x, w, left, p = on_gpu(m, n, 1056, fmt, activation)
    bias = normal(1, n, 2)[0].cuda()
    accumulator = "fp8-fast" if p.folded else "fp32"
    for result in (NVFP4, MXFP4):
        gs = static_scale(x, w, result)
        with poisoned_allocations():
            found = prepared_matmul_quantized(left, p, result, global_scale=gs, bias=bias)
        wrong = judged(found, x, w, gs, accumulator, bias)
        assert wrong is None, f"{wrong}"
        assert same(found, prepared_matmul_quantized(left, p, result, global_scale=gs, bias=bias))


@GPU
@pytest.mark.skipif(not HOPPER, reason="the epilogue is of Hopper's products")
@pytest.mark.parametrize(
    ("columns", "rows", "warps"),
    [(128, r, 8) for r in (16, 32, 64, 128, 256)]
    + [(128, 64, 4), (128, 8, 2)]
    + [(64, r, 4) for r in (8, 32, 128)],
)
@pytest.mark.parametrize("halves", [False, True])
def test_on_a_gpu_the_epilogue_alone_is_the_quantizer(
    columns: int, rows: int, warps: int, halves: bool
) -> None:
    from tests.gluon_tiles import write

    for m, n in ((1, 32), (129, 416), (300, 224)):
        y = normal(m, n, dtype=torch.float32).cuda()
        y[0, 3], y[-1, n - 1] = float("nan"), float("inf")
        gs = torch.tensor(100.0, device="cuda")
        for found, wanted in (
            (
                write(y, NVFP4, gs, columns, rows, warps, halves=halves and rows > 8),
                nvfp4_quantize(y, global_scale=gs),
            ),
            (write(y, MXFP4, None, columns, rows, warps, halves=halves and rows > 8), mxfp4_quantize(y)),
        ):
            assert torch.equal(found.scale, wanted.scale)
            if found.format == MXFP4:
                assert torch.equal(found.data, wanted.data)
            else:  # its quantizer multiplies in another order, which decides ties
                assert compare_quantized(found, y, NVFP4, global_scale=gs) is None


@GPU
@RESULTS
@pytest.mark.parametrize("m", [3, 100])
def test_on_a_gpu_every_result_of_few_rows_is_the_quantizer_of_the_fp32_product(
    m: int, result: Format
) -> None:
    x, w, left, p = on_gpu(m, 160, 2048, NVFP4, "w4a16")
    gs = static_scale(x, w, result)
    y = prepared_matmul(
        left, p, out_dtype=torch.float32
    )  # the same kernel's sums, where it takes so few rows
    found = prepared_matmul_quantized(left, p, result, global_scale=gs)
    if m <= 64:
        if result.scale == "e4m3":
            wanted = nvfp4_quantize(y, fmt=NVFP4 if gs is not None else NVFP4_1L, global_scale=gs)
        else:
            wanted = mxfp4_quantize(y, rule=result.rule)
        if result.scale == "e8m0":  # NVFP4's kernel multiplies in another order, which decides ties
            assert torch.equal(found.data, wanted.data)
        assert torch.equal(found.scale, wanted.scale)
        assert compare_quantized(found, y, result, global_scale=gs) is None
    wrong = judged(found, x, w, gs, "fp32")
    assert wrong is None, f"{wrong}"


@GPU
@KINDS
@pytest.mark.parametrize("m", [5, 200])
def test_on_a_gpu_zeros_nan_and_saturation(fmt: Format, activation: str, m: int) -> None:
    x, _w, left, p = on_gpu(m, 160, 256, fmt, activation)
    if isinstance(x, torch.Tensor):
        x[1], x[2, 7] = 0.0, float("nan")
    else:
        x.data[1] = 0
        x.scale[2, 3] = 0xFF if fmt.scale == "e8m0" else 0x7F
        left = fold(x) if p.folded else x
    for result, gs in ((NVFP4, torch.tensor(1e9, device="cuda")), (MXFP4, None)):
        found = prepared_matmul_quantized(left, p, result, global_scale=gs)
        values = found.dequantize(torch.float64)
        assert not values[1].any()
        assert values[2].isnan().all()
        assert not values[[0, *range(3, m)]].isnan().any()
        if gs is not None:
            assert (found.scale[[0, *range(3, m)]] == 0x7E).all()


@GPU
@chains
@pytest.mark.parametrize("m", [1, 40, 200])
def test_on_a_gpu_a_chain_waits_for_nothing(kind, name, gs, m: int) -> None:
    one, two, *_ = chain(kind, name, gs, "cuda", 512, 288)
    seq, x = nn.Sequential(one, two), normal(m, 512).cuda()
    y = seq(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert seq(x) is not None
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again = seq(x)
    for _ in range(3):
        graph.replay()
    assert torch.equal(again, y)
    torch.compiler.reset()
    assert torch.equal(torch.compile(seq, fullgraph=True)(x), y)


@GPU
@pytest.mark.parametrize(("m", "k"), [(1, 32), (3, 160), (200, 8192), (5, 28672)])
def test_on_a_gpu_codes_are_folded_as_on_a_cpu(m: int, k: int) -> None:
    x = quantize_exactly(normal(m, k), MXFP4)
    x.scale[0, 0] = 255
    x.scale[-1, -1] = 3
    found, wanted = fold(x.to("cuda")), fold(x)
    bits = wanted.elements.view(torch.uint8)
    nan = bits & 0x7F == 0x7F
    assert torch.equal(found.elements.cpu().view(torch.uint8)[~nan], bits[~nan])
    assert found.elements.cpu().float()[nan].isnan().all()
    assert torch.equal(found.factor.cpu(), wanted.factor)
