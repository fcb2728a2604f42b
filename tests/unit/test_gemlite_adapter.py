"""GemLite's own failure to compile is a refusal in the one case that is known, and an error in every other."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qbench import Unsupported
from qkernels.format import FP8, MXFP4, NVFP4, Format
from qkernels.providers import gemlite, libraries
from tests.providers import DEVICE, normal, operand

COMPILER = "PassManager::run failed"


class Library:
    """Modules of GemLite as far as the adapter looks; every product of it runs `work`."""

    def __init__(self, work: Callable[..., torch.Tensor]) -> None:
        self.work, self.packing, self.made = work, [], []
        kinds = ("A16W4_NVFP", "A16W4_MXFP", "A4W4_NVFP_dynamic", "A4W4_MXFP_dynamic")
        kernel = SimpleNamespace(forward=lambda *given, **options: work())
        self.parts = {
            "helper": SimpleNamespace(
                **{kind: lambda kind=kind, **given: self.maker(kind) for kind in kinds}
            ),
            "core": SimpleNamespace(
                set_ptx_fp4_pack=self.packing.append,
                get_matmul_type=lambda m, bits, mx: "GEMM" if m >= 64 else "GEMM_SPLITK",
                GEMLITE_TRITON_MAPPING={"GEMM": kernel, "GEMM_SPLITK": kernel},
            ),
        }

    def maker(self, kind: str) -> Any:
        def packed(data: torch.Tensor, **given: torch.Tensor) -> Any:
            self.made.append((kind, given))
            return Layer(self.work)

        return SimpleNamespace(from_packed_weights=packed)

    def need(self, name: str, *parts: str) -> Any:
        assert name == "gemlite"
        return self.parts[parts[0]]


class Layer:
    def __init__(self, work: Callable[..., torch.Tensor]) -> None:
        self.work = work

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.work()

    def get_tensor_args(self) -> list[torch.Tensor]:
        return [torch.empty(0)] * 4

    def get_meta_args(self) -> list[int]:
        return [0, 4, 16, 15, 2, 18, 2, 0, 3, 4, 0, 0]


def library(monkeypatch: pytest.MonkeyPatch, outcome: Exception | None) -> Library:
    def work() -> torch.Tensor:
        if outcome is not None:
            raise outcome
        return torch.zeros(3, 16)

    made = Library(work)
    monkeypatch.setattr(libraries, "need", made.need)
    monkeypatch.setattr(gemlite, "_blackwell", lambda: False)
    return made


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    ("fmt", "outcome", "raised"),
    [
        (NVFP4, RuntimeError(COMPILER), Unsupported),
        (MXFP4, RuntimeError(COMPILER), RuntimeError),
        (NVFP4, RuntimeError("an illegal memory access was encountered"), RuntimeError),
        (NVFP4, AssertionError(COMPILER), AssertionError),
    ],
)
def test_only_what_triton_is_known_to_refuse_is_unsupported(
    fmt: Format, outcome: Exception, raised: type, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    library(monkeypatch, outcome)
    a = normal(3).bfloat16() if plain else operand(fmt, 3, seed=1)
    with pytest.raises(
        raised, match="dot_scaled takes no E4M3 scales" if raised is Unsupported else str(outcome)
    ):
        gemlite.gemm(a, operand(fmt, 16, seed=2))


def test_on_blackwell_no_failure_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, RuntimeError(COMPILER))
    monkeypatch.setattr(gemlite, "_blackwell", lambda: True)
    with pytest.raises(RuntimeError, match=COMPILER):
        gemlite.gemm(normal(3).bfloat16(), operand(NVFP4, 16, seed=2))


def test_scales_go_in_as_what_their_bytes_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    made = library(monkeypatch, None)
    for fmt in (NVFP4, MXFP4):
        for a in (normal(3).bfloat16(), operand(fmt, 3, seed=1)):
            gemlite.gemm(a, operand(fmt, 16, seed=2))()
    kinds = [(kind, given["scales"].dtype, "meta_scale" in given) for kind, given in made.made]
    assert kinds == [
        ("A16W4_NVFP", torch.float8_e4m3fn, True),
        ("A4W4_NVFP_dynamic", torch.float8_e4m3fn, True),
        ("A16W4_MXFP", torch.float8_e8m0fnu, False),
        ("A4W4_MXFP_dynamic", torch.float8_e8m0fnu, False),
    ]
    assert made.packing and not any(made.packing), "a conversion of Blackwell's is switched off elsewhere"


def test_other_operands_are_refused_before_the_library_is_looked_for() -> None:
    mx, nv, x = operand(MXFP4, 16, seed=1), operand(NVFP4, 16, seed=1), torch.ones(3, 128, device=DEVICE)
    for a, b, words in (
        (x, nv, "bfloat16 activations, not torch.float32"),
        (mx, operand(FP8, 16, seed=1), "multiplies nvfp4, mxfp4, not fp8"),
        (nv, mx, "a is nvfp4 and b is mxfp4"),
    ):
        with pytest.raises(Unsupported, match=words):
            gemlite.gemm(a, b)
