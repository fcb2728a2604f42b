"""The table of what a quantizer's time goes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench.result import read_run
from tests.quantizers_table import short, table
from tests.reports import lines_with, result, run_of


def quantizer(provider: str, us: float, **axes: object):
    return result("fp8_quantize", provider, us, dtype="half", **{"m": 16, "k": 8192, **axes})


RUN = run_of(
    quantizer("triton", 20.0, scale="static"),
    quantizer("triton", 25.0, scale="token"),
    quantizer("triton", 1234.5, scale="tensor", m=4096),
    quantizer("torch-compile", 30.0, scale="token"),
    result("int8_quantize", "triton", 10.0, m=16, k=8192, dtype="half", scale="asymmetric"),
    result("int8_quantize", "triton", 9.0, m=16, k=8192, dtype="half", scale="static_asymmetric"),
    result("int8_quantize", "triton", 4.0, m=16, k=8192, dtype="half", scale="static"),
    result("nvfp4_quantize", "triton", 22.0, m=16, k=8192, dtype="half", scale="static", had=16),
    result("mxfp4_quantize", "triton", 22.0, m=16, k=8192, dtype="half", had=0),
    result("bf16_gemm", "triton", 22.0, m=16, n=64, k=8192),
)


def test_each_quantizer_has_its_rates_the_scales_share_and_the_peers_ratio() -> None:
    text = table(RUN)
    assert lines_with(text, "| fp8, half | token | 8192 | 16 | 25 | 0.025 | 120 | 3% | 20% | 1.20× |")
    assert lines_with(text, "| fp8, half | static | 8192 | 16 | 20 | 0.02 | 150 | 4% |  |  |")
    assert lines_with(text, "| int8, half | asymmetric | 8192 | 16 | 10 |", "| 10% |")
    assert lines_with(text, "| mxfp4, half |  | 8192 | 16 | 22 |")
    assert lines_with(text, "| nvfp4, half, Hadamard 16 | static |")
    assert len(text.splitlines()) == 2 + 8


def test_nothing_is_said_of_a_scale_whose_static_form_was_not_timed() -> None:
    assert lines_with(table(RUN), "| tensor | 8192 | 4096 | 1234 |", "|  |  |")


def test_a_run_without_the_provider_is_an_error() -> None:
    with pytest.raises(ValueError, match="no quantizer of 'vllm'"):
        table(RUN, "vllm")


def test_the_readmes_table_is_that_of_the_stored_run() -> None:
    root = Path(__file__).resolve().parents[2]
    runs = (read_run(root / f"tests/data/h200_quantizers{each}.json") for each in ("", "_large"))
    assert short(*runs) in (root / "README.md").read_text()


def test_the_short_table_has_a_row_for_each_quantizer_and_a_column_for_each_shape() -> None:
    lines = short(RUN).splitlines()
    assert lines[0] == "| | 16 × 8192 | 4096 × 8192 |"
    assert len(lines) == 2 + 8
    assert lines_with(short(RUN), "| fp8, half, token | 25, 3% (1.2×) |")
    assert lines_with(short(RUN), "| fp8, half, tensor |  | 1234, ")
