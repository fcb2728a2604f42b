"""Products by formula: right on every operand they take, and compiled for each shape, never run eagerly instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qbench import Mismatch, Provider, Unsupported, provider_info
from qkernels import reference
from qkernels.compare import compare_quantized
from qkernels.format import FORMATS, MXFP4, MXFP4_ABS_MAX, NVFP4, NVFP4_1L, Format
from qkernels.ops.gemm import product_bound
from qkernels.providers import torch_formulas as formulas
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from tests.providers import DEVICE, normal, operand, refused

ON_CUDA = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)


@pytest.fixture
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked is the formula; Inductor's C++ takes minutes on a CPU."""
    monkeypatch.setattr(formulas, "compiled", lambda formula, *key: formula)


def judge(provider: Provider, out: torch.Tensor, *operands: Any) -> Mismatch | None:
    return product_bound(roundings=0)(out, operands, reference.matmul, provider_info(provider).accumulator)


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize("m", [1, 2, 37])
@pytest.mark.parametrize("fmt", [NVFP4, NVFP4_1L, MXFP4], ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("plain", [True, False])
def test_the_formula_is_right_for_one_row_and_for_many(m: int, fmt: Format, plain: bool) -> None:
    a = normal(m, seed=1).bfloat16() if plain else operand(fmt, m, seed=1)
    b = operand(fmt, 48, seed=2)
    out = formulas.gemm(a, b)()
    assert judge(formulas.gemm, out, a, b) is None


@pytest.mark.usefixtures("not_compiled")
def test_every_code_and_scale_is_decoded_as_the_reference_decodes_it() -> None:
    bytes_ = torch.arange(256, device=DEVICE).to(torch.uint8)
    for fmt, scales in ((NVFP4, range(128)), (MXFP4, range(250))):
        scale = torch.tensor(scales, dtype=torch.uint8, device=DEVICE)[:, None].repeat(1, 512 // fmt.block)
        gs = torch.ones((), device=DEVICE) if fmt.levels == 2 else None
        q = QTensor(bytes_.repeat(len(scale), 1), scale, fmt, (len(scale), 512), global_scale=gs)
        found = formulas._decoded(q.data, formulas._scales(q))
        assert torch.equal(found.isnan(), q.exact_values(torch.float64).isnan())
        assert torch.equal(found.nan_to_num(), q.exact_values(torch.float64).nan_to_num().to(torch.bfloat16))


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize("hadamard", [None, 32, 128])
@pytest.mark.parametrize("m", [1, 5])
def test_activations_are_quantized_as_the_format_says(m: int, hadamard: int | None) -> None:
    x = normal(m, k=256).bfloat16()
    w = quantize(normal(32, k=256, seed=1), MXFP4, hadamard=hadamard)
    y, xq = formulas.hadamard_gemm(x, w)()
    assert compare_quantized(xq, x, MXFP4, hadamard=hadamard) is None
    assert judge(formulas.hadamard_gemm, y, xq, w) is None


@pytest.mark.parametrize(
    "provider",
    [formulas.fp8_gemm, formulas.scaled_mm_fast, formulas.scaled_mm_promoted],
    ids=lambda p: p.__name__,
)
def test_folded_products_are_right(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch._scaled_mm as what it means where no GPU has it: the folding is what is tested here."""

    def meaning(a: Any, b: Any, left: Any, right: Any, *, out_dtype: Any, use_fast_accum: bool) -> Any:
        assert use_fast_accum == (provider_info(provider).accumulator == "fp8-fast")
        assert a.dtype == b.dtype == torch.float8_e4m3fn and b.stride(0) == 1
        return ((a.double() @ b.double()) * left.double() * right.double()).to(out_dtype)

    if not ON_CUDA:
        monkeypatch.setattr(torch, "_scaled_mm", meaning)
        monkeypatch.setattr(formulas, "compiled", lambda formula, *key: formula)
    a, b = (quantize(normal(m, k=256, seed=m), MXFP4) for m in (16, 48))
    out = provider(a, b)()
    assert (
        product_bound(roundings=0)(out, (a, b), reference.matmul, provider_info(provider).accumulator) is None
    )
    off = out * (1 + 2**-6)
    assert product_bound(roundings=0)(off.to(out.dtype), (a, b), reference.matmul, "fp8-fast") is not None


def test_other_formats_and_shapes_are_refused_with_the_reason() -> None:
    x = normal(3).bfloat16()
    for fmt in FORMATS.values():
        w = operand(fmt, 16, seed=1)
        kin = fmt.name.startswith("nvfp4") and fmt.name not in ("nvfp4_2d", "nvfp4_token")
        mx = fmt.name.startswith("mxfp4") and fmt != MXFP4_ABS_MAX
        assert bool(refused(formulas.gemm, x, w)) != (kin or mx), fmt.name
        for provider in (formulas.fp8_gemm, formulas.scaled_mm_fast):
            assert bool(refused(provider, w, w)) != mx, fmt.name
    for provider, operands, words in (
        (formulas.gemm, (x.half(), operand(MXFP4, 16, seed=1)), "not torch.float16"),
        (formulas.hadamard_gemm, (x, operand(NVFP4, 16, seed=1)), "not torch.bfloat16 to nvfp4"),
        (formulas.scaled_mm_fast, (operand(MXFP4, 3, 1), operand(MXFP4, 24, 2)), "multiples of 16, not 24"),
    ):
        with pytest.raises(Unsupported, match=words):
            provider(*operands)


def test_a_hundred_shapes_are_a_hundred_compilations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamo gives a code object up after 8 and runs it eagerly, which would be timed as if it were compiled."""
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Any:
        graphs.append(graph)
        return graph.forward

    made = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: made(f, backend=backend, **options))
    for n in range(16, 216, 2):
        formula = formulas.compiled(formulas.elements, "test", n)
        data = torch.zeros(n, 16, dtype=torch.uint8)
        assert formula(data, torch.full((n, 1), 127, dtype=torch.uint8)).shape == (n, 32)
    assert len(graphs) == 100


def test_the_number_of_rows_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Any:
        graphs.append(graph)
        return graph.forward

    made = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: made(f, backend=backend, **options))
    formulas.compiled.cache_clear()
    try:
        for fmt in (MXFP4, NVFP4):
            b = operand(fmt, 80, seed=2)
            static = {"global_scale": torch.tensor(50.0, device=DEVICE)} if fmt.levels == 2 else {}
            for m in (1, 2, 3, 16, 64, 65, 66, 67, 68, 69, 70):
                x = normal(m, seed=1).bfloat16()
                for a in (x, quantize(x, fmt, **static)):
                    assert judge(formulas.gemm, formulas.gemm(a, b)(), a, b) is None
        assert len(graphs) == 8  # one row or more, bf16 or quantized, of each format
    finally:
        formulas.compiled.cache_clear()
