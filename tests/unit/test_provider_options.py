"""A provider computes what the format and the options say, or refuses with a reason: never something else instead."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import triton

import qkernels
from qbench import Provider, Unsupported, poisoned_allocations
from qbench.interpreter import repair
from qkernels.compare import compare_quantized
from qkernels.format import FORMATS, INT8, INT8_ASYM, MXFP4, MXFP4_RCEIL, NVFP4, Format
from qkernels.ops.quantize import QuantizeOptions
from qkernels.ops.quantize import reference as exact_quantizer
from qkernels.ops.require import OPTIONS
from qkernels.providers import gemlite, libraries, torch_quantize
from qkernels.triton import fp4_gemm, fp4_rows, fp8_quantize, int8_quantize, mxfp4_quantize, nvfp4_quantize
from tests.providers import DEVICE, NO_REASON, full_name, normal, prepared, refused, static

KERNELS = {
    nvfp4_quantize.quantize_nvfp4: nvfp4_quantize.TAKES,
    fp4_rows.quantize_nvfp4_token: fp4_rows.TAKES,
    mxfp4_quantize.quantize_mxfp4: mxfp4_quantize.TAKES,
    fp8_quantize.quantize_fp8: fp8_quantize.TAKES,
    int8_quantize.quantize_int8: int8_quantize.TAKES,
}
FORMULAS = (torch_quantize.torch_eager, torch_quantize.torch_compile)
ADAPTERS = {
    libraries.vllm_quantize: set(libraries.VLLM_TAKES),
    libraries.torchao_quantize: {MXFP4},
    gemlite.quantize: {MXFP4_RCEIL, NVFP4},
}
WRITTEN_FOR: dict[Provider, set[Format]] = {
    torch_quantize.torch_exact: set(FORMATS.values()),
    **{kernel: set(takes) for kernel, takes in KERNELS.items()},
    **{formula: set(torch_quantize.TAKES) for formula in FORMULAS},
    **ADAPTERS,
}
ASKED: dict[str, dict[str, float]] = {
    "plain": {},
    "rotated": {"hadamard": 32},
    "global": {"global_scale": 60.0},
    "rotated-global": {"hadamard": 64, "global_scale": 60.0},
    "scaled": {"scale": 0.05},
    "shifted": {"scale": 0.05, "zero_point": -3},
}


@pytest.fixture(scope="module", autouse=True)
def repaired_interpreter_and_poisoned_memory() -> Iterator[None]:
    if triton.knobs.runtime.interpret:
        repair()
    with poisoned_allocations():
        yield


@pytest.fixture(autouse=True)
def formulas_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's C++ takes minutes on a CPU, and what is asked here comes before it."""
    monkeypatch.setattr(torch_quantize, "compiled", lambda formula, *key: formula)


def options_of(fmt: Format, asked: dict[str, float], rows: int) -> dict[str, Any]:
    """As QuantizeOptions takes them: one float32, or one a row; an int32 zero point."""
    made: dict[str, Any] = dict(asked)
    for name, dtype in (
        ("global_scale", torch.float32),
        ("scale", torch.float32),
        ("zero_point", torch.int32),
    ):
        if name in asked:
            by_row = name == "global_scale" and fmt.global_granularity == "row"
            made[name] = torch.full((rows, 1) if by_row else (1,), asked[name], dtype=dtype, device=DEVICE)
    return made


@cache
def defined(fmt: Format, asked: str) -> bool:
    """Does the format have these options at all?"""
    try:
        exact_quantizer(normal(3), QuantizeOptions(fmt, **options_of(fmt, ASKED[asked], 3)))
    except ValueError:
        return False
    return True


# Quantizers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("provider", WRITTEN_FOR, ids=full_name)
@pytest.mark.parametrize("asked", ASKED)
def test_a_quantizer_does_what_is_asked_or_refuses(asked: str, provider: Provider, rounding: Any) -> None:
    x = normal(3).bfloat16()
    for fmt in FORMATS.values():
        named = options_of(fmt, ASKED[asked], len(x))
        options = QuantizeOptions(fmt, **named, rounding=rounding, seed=5)
        if not defined(fmt, asked):
            with pytest.raises((Unsupported, ValueError)):
                provider(x, options)()
            continue
        run, reason = prepared(provider, x, options)
        assert reason != NO_REASON
        if provider is torch_quantize.torch_exact:
            assert not reason
        elif fmt not in WRITTEN_FOR[provider] or rounding == "stochastic":
            assert fmt.name in reason or "rounds to nearest, not stochastic" in reason
        if not reason:
            wrong = compare_quantized(run(), x, fmt, **named, rounding=rounding)
            assert wrong is None, f"{fmt.name}: {wrong}"


@pytest.mark.parametrize("provider", [p for p in WRITTEN_FOR if p not in ADAPTERS], ids=full_name)
def test_a_quantizer_takes_every_format_it_was_written_for(provider: Provider) -> None:
    for fmt in WRITTEN_FOR[provider]:
        assert refused(provider, normal(2), QuantizeOptions(fmt, **static(fmt))) == ""


@pytest.mark.parametrize("provider", ADAPTERS, ids=full_name)
def test_an_adapter_judges_the_format_before_it_looks_for_its_library(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str, *parts: str) -> Any:
        raise Unsupported(f"{name} is not here")

    monkeypatch.setattr(libraries, "need", absent)
    for fmt in FORMATS.values():
        reason = refused(provider, normal(2), QuantizeOptions(fmt, **static(fmt)))
        assert reason.endswith("is not here" if fmt in ADAPTERS[provider] else f"not to {fmt.name}")
        reason = refused(provider, normal(2), QuantizeOptions(fmt, **static(fmt), rounding="stochastic"))
        assert not reason.endswith("is not here")


@pytest.mark.parametrize(
    "provider", [p for p in WRITTEN_FOR if p is not torch_quantize.torch_exact], ids=full_name
)
def test_a_format_of_another_making_is_no_built_in_one(provider: Provider) -> None:
    for fmt in WRITTEN_FOR[provider]:
        mine = replace(fmt, name="mine")
        with pytest.raises(Unsupported, match="not to mine; use torch-exact instead"):
            provider(normal(2), QuantizeOptions(mine))


def test_kernels_and_the_list_of_their_formats_agree() -> None:
    assert [fmt for takes in KERNELS.values() for fmt in takes] == list(qkernels.TRITON_FORMATS)
    for takes in (*KERNELS.values(), torch_quantize.TAKES, libraries.VLLM_TAKES):
        assert all(name in (*OPTIONS, "scale_layout") for names in takes.values() for name in names)
    for fmt in mxfp4_quantize.TAKES:
        assert mxfp4_quantize.mxfp4_quantize(normal(2), rule=fmt.rule).format is fmt


def test_mxfp4_rules_are_those_of_mxfp4_in_whatever_order_formats_are_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(qkernels.format, "FORMATS", dict(reversed(FORMATS.items())))
    spec = importlib.util.spec_from_file_location("again", mxfp4_quantize.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert set(again.TAKES) == set(mxfp4_quantize.TAKES)


def test_static_int8_needs_its_scale() -> None:
    for provider in (int8_quantize.quantize_int8, *FORMULAS, libraries.vllm_quantize):
        with pytest.raises(
            Unsupported, match="int8 is static, and no scale is given; use a scale, or int8_token"
        ):
            provider(normal(2), QuantizeOptions(INT8))


def test_the_fp4_launcher_knows_its_formats() -> None:
    for fmt in FORMATS.values():
        if fmt in fp4_gemm.QUANTIZES:
            assert fp4_gemm.quantize_fp4(normal(2), fmt).format == fmt
            continue
        with pytest.raises(ValueError, match=f"no Triton kernel quantizes to {fmt.name}; known: nvfp4, "):
            fp4_gemm.quantize_fp4(normal(2), fmt)


def test_asymmetric_int8_is_static_with_both_or_dynamic_with_neither() -> None:
    for asked in ({"scale": 0.05}, {"zero_point": -3}):
        options = QuantizeOptions(INT8_ASYM, **options_of(INT8_ASYM, asked, 2))
        with pytest.raises(ValueError, match="together"):
            int8_quantize.quantize_int8(normal(2), options)()
