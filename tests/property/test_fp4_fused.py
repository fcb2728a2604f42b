"""RMSNorm and SiLU(gate) * up before an FP4 quantizer, in one kernel: against the float64 reference, every way in.

Interpreted on a CPU, compiled on a GPU. `backend="torch"` is judged by the same comparator.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton
from torch import Tensor

import qkernels
from qbench import poisoned_allocations
from qbench.interpreter import repair
from qkernels.format import MXFP4, NVFP4, NVFP4_1L, NVFP4_4OVER6, NVFP4_TOKEN, Format, get_format
from qkernels.norms import add_residual, rms_norm, silu_mul
from qkernels.ops.fused import Norm, norm_tolerance, silu_tolerance
from qkernels.ops.quantize import QuantizeOptions
from qkernels.triton.fp4_rows import LONGEST, NORMED
from qkernels.triton.norm_words import NormPlan, norm_plan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
BACKENDS = ("torch", "triton")
FUSED = (NVFP4, NVFP4_1L, NVFP4_4OVER6, MXFP4, *(get_format(f"mxfp4_{rule}") for rule in ("even", "abs_max")))
by_name = {"ids": lambda value: getattr(value, "name", str(value))}


@pytest.fixture(scope="module", autouse=True)
def repaired_interpreter_and_poisoned_memory() -> Iterator[None]:
    if triton.knobs.runtime.interpret:
        repair()
    with poisoned_allocations():
        yield


def normal(m: int, k: int, dtype: torch.dtype = torch.float16, seed: int = 0) -> Tensor:
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).to(dtype).to(DEVICE)


def static(fmt: Format) -> Tensor | None:
    """Of values up to 8, so that some blocks saturate."""
    one = fmt.levels == 2 and fmt.global_granularity == "tensor"
    return torch.tensor(fmt.scale_max * 6 / 3.0, device=DEVICE) if one else None


def normed(
    x: Tensor, weight: Tensor, fmt: Format, backend: str, layout: Any = "linear", **options: Any
) -> qkernels.QTensor:
    """Judged: what is returned is right."""
    gs = static(fmt)
    out = qkernels.rms_norm_quantize(
        x, weight, fmt, global_scale=gs, scale_layout=layout, backend=backend, **options
    )
    norm = Norm(weight, options.get("eps", 1e-6), options.get("residual"))
    asked = QuantizeOptions(fmt, global_scale=gs, scale_layout=layout)
    wrong = norm_tolerance(out, (x, norm, asked), rms_norm, "fp32")
    assert wrong is None, wrong
    return out[0]


def activated(x: Tensor, fmt: Format, backend: str, layout: Any = "linear") -> qkernels.QTensor:
    gs = static(fmt)
    q = qkernels.silu_mul_quantize(x, fmt, global_scale=gs, scale_layout=layout, backend=backend)
    asked = QuantizeOptions(fmt, global_scale=gs, scale_layout=layout)
    wrong = silu_tolerance(q, (x, asked), silu_mul, "fp32")
    assert wrong is None, wrong
    return q


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fmt", [*FUSED, NVFP4_TOKEN], **by_name)
def test_norm_in_every_format(fmt: Format, dtype: torch.dtype, backend: str) -> None:
    x = normal(5, 96, dtype)
    x[1] *= 30
    x[2, 3] = torch.nan
    x[3] = 0
    x[4, 7] = torch.inf
    normed(x, 1 + normal(1, 96, dtype, 1)[0] / 4, fmt, backend)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fmt", [NVFP4, MXFP4, NVFP4_TOKEN], **by_name)
def test_norm_of_a_sum_with_the_residual(fmt: Format, dtype: torch.dtype) -> None:
    x, residual = normal(3, 128, dtype), normal(3, 128, dtype, 2)
    weight = normal(1, 128, dtype, 1)[0]
    q, total = qkernels.rms_norm_quantize(
        x, weight, fmt, residual=residual, global_scale=static(fmt), backend="triton"
    )
    assert total is not None
    assert torch.equal(total, add_residual(x, residual))
    asked = QuantizeOptions(fmt, global_scale=static(fmt))
    assert norm_tolerance((q, total), (x, Norm(weight, residual=residual), asked), rms_norm, "fp32") is None


@pytest.mark.parametrize("shape", [(1, 32), (2, 1056), (130, 64)], ids=str)
@pytest.mark.parametrize("fmt", [NVFP4, MXFP4], **by_name)
@pytest.mark.parametrize("layout", ["linear", "blocked"])
def test_shapes_and_layouts(layout: str, fmt: Format, shape: tuple[int, int]) -> None:
    m, k = shape
    normed(normal(m, k), 1 + normal(1, k, seed=1)[0] / 4, fmt, "triton", layout, eps=1e-5)
    activated(normal(m, 2 * k) * 2, fmt, "triton", layout)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fmt", FUSED, **by_name)
def test_silu_in_every_format(fmt: Format, dtype: torch.dtype, backend: str) -> None:
    x = normal(6, 192, dtype) * 3
    x[1, :96] = torch.linspace(-130, 130, 96).to(dtype)
    x[2, 4] = torch.nan
    x[3, 100] = torch.inf
    x[4, 5] = torch.inf
    x[5, :96] = -120
    activated(x, fmt, backend)


@pytest.mark.parametrize("fmt", [NVFP4, MXFP4], **by_name)
def test_rows_that_are_strided_or_no_words(fmt: Format) -> None:
    wide = normal(4, 2 * 64 + 3)
    weight = normal(1, 131, seed=1)[0]
    for x in (wide[:, :64], wide[:, 1:65], normal(8, 64)[::2]):
        normed(x, weight[1:65], fmt, "triton", residual=normal(4, 67, seed=3)[:, 2:66])
        normed(x, weight[:64].float(), fmt, "triton")
    for x in (wide[:, :128], wide[:, 1:129], normal(8, 128)[::2]):
        activated(x, fmt, "triton")


@pytest.mark.parametrize("warps", [1, 2])
def test_a_row_is_the_same_by_any_number_of_threads(warps: int) -> None:
    from qkernels.triton.fp4_rows import nvfp4_token, rms_norm_quantize

    x, weight = normal(7, 2048), normal(1, 2048, seed=1)[0]
    for layout in ("linear", "blocked"):
        q = nvfp4_token(x, scale_layout=layout, warps=warps)
        assert torch.equal(nvfp4_token(x, scale_layout=layout, warps=4).data, q.data)
        normed = rms_norm_quantize(x, weight, MXFP4, scale_layout=layout, plan=NormPlan(warps, 16))[0]
        asked = QuantizeOptions(MXFP4, scale_layout=layout)
        assert norm_tolerance((normed, None), (x, Norm(weight), asked), rms_norm, "fp32") is None


PLANS = (NormPlan(8, 16, hint=True), NormPlan(8, 8), NormPlan(8, 16, reread=True, registers=64))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("fmt", [NVFP4, MXFP4, NVFP4_TOKEN], **by_name)
def test_norm_of_words_by_every_plan(fmt: Format, plan: NormPlan, dtype: torch.dtype) -> None:
    """Rows that fill the program's places and that do not, of strided words, with zeros, NaN and infinity."""
    from qkernels.triton.fp4_rows import rms_norm_quantize

    cases: list[tuple[int, bool, Any]] = [(96, True, "linear"), (512, True, "linear"), (512, False, "linear")]
    if dtype == torch.float16 and fmt != NVFP4_TOKEN:
        cases.append((96, True, "blocked"))  # 128 programs
    for k, residual, layout in cases:
        x, beside = normal(5, k + 4, dtype)[:, 2:-2], normal(5, k + 6, dtype, 2)[:, 4:-2]
        beside[0] = x[0] = 0
        beside[1, k - 1] = torch.nan
        x[2, 3] = torch.inf
        x[3] *= 40
        weight = 1 + normal(1, k + 2, dtype, 1)[0, 2:] / 4
        norm = Norm(weight, 1e-5, beside if residual else None)
        out = rms_norm_quantize(
            x, weight, fmt, eps=1e-5, residual=norm.residual, global_scale=static(fmt), scale_layout=layout,
            plan=plan,
        )  # fmt: skip
        asked = QuantizeOptions(fmt, global_scale=static(fmt), scale_layout=layout)
        wrong = norm_tolerance(out, (x, norm, asked), rms_norm, "fp32")
        assert wrong is None, f"K = {k}: {wrong}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fmt", [NVFP4, MXFP4, NVFP4_TOKEN], **by_name)
@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
def test_a_norm_is_the_same_in_any_number_of_rows(residual: bool, fmt: Format, dtype: torch.dtype) -> None:
    on_gpu = DEVICE == "cuda"
    for k in (8192, 16384) if on_gpu else (512, 1056):
        m = 2100 if on_gpu else 5
        x, weight = normal(m, k, dtype), normal(1, k, dtype, 1)[0]
        beside = normal(m, k, dtype, 2) if residual else None
        all_rows, total = qkernels.rms_norm_quantize(
            x, weight, fmt, residual=beside, global_scale=static(fmt), backend="triton"
        )
        for first in (1, 2, 3, 300) if on_gpu else (1, 2):
            q, part = qkernels.rms_norm_quantize(
                x[:first], weight, fmt, residual=None if beside is None else beside[:first],
                global_scale=static(fmt), backend="triton",
            )  # fmt: skip
            assert torch.equal(q.data, all_rows.data[:first])
            assert torch.equal(q.scale.view(torch.uint8), all_rows.scale[:first].view(torch.uint8))
            assert part is None or torch.equal(part, total[:first])


@pytest.mark.parametrize("fmt", NORMED, **by_name)
def test_a_plan_cuts_blocks_evenly_and_a_program_fits_a_processor(fmt: Format) -> None:
    for k in range(fmt.block, LONGEST + 1, 7 * fmt.block):
        for residual in (False, True):
            plan = norm_plan(k, fmt, residual)
            assert fmt.block % plan.unit == 0
            assert plan.unit == fmt.block or not fmt.select
            assert 32 * plan.warps * plan.registers <= 65536
            assert not (plan.hint and plan.reread)


def test_words_are_normed_in_words_and_anything_else_by_values(monkeypatch: pytest.MonkeyPatch) -> None:
    from qkernels.triton import fp4_rows

    took: list[str] = []
    monkeypatch.setattr(fp4_rows, "launch_norm_words", lambda *args, **options: took.append("words"))
    monkeypatch.setattr(fp4_rows, "_launch", lambda *args, **options: took.append("values"))
    x, weight, odd = normal(4, 64), normal(1, 65, seed=1)[0], normal(4, 65)
    for y, w, residual in (
        (x, weight[:64], None), (x, weight[:64], x), (odd[::2, :64], weight[:64].bfloat16(), None),
        (x.float(), weight[:64], None), (odd[:, 1:], weight[:64], None), (x, weight[1:], None),
        (x, weight[:64].float(), None), (x, weight[:64], odd[:, 1:]),
    ):  # fmt: skip
        fp4_rows.rms_norm_quantize(y, w, MXFP4, residual=residual)
    assert took == ["words"] * 3 + ["values"] * 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w: qkernels.rms_norm_quantize(x, w[:32], "nvfp4_1l"), r"floating point \[64\]"),
        (lambda x, w: qkernels.rms_norm_quantize(x, w, "nvfp4"), "pass one"),
        (lambda x, w: qkernels.rms_norm_quantize(x, w, "mxfp4", global_scale=torch.ones(1)), "one scale level"),
        (lambda x, w: qkernels.rms_norm_quantize(x, w, "nvfp4_token", global_scale=torch.ones(2, 1)), "leave"),
        (lambda x, w: qkernels.rms_norm_quantize(x, w, "mxfp4_quest"), "nothing is fused with mxfp4_quest"),
        (lambda x, w: qkernels.rms_norm_quantize(x, w, "fp8"), "nothing is fused with fp8"),
        (lambda x, w: qkernels.rms_norm_quantize(x, w, "mxfp4", eps=-1.0), "eps = -1.0"),
        (lambda x, w: qkernels.rms_norm_quantize(x, w, "mxfp4", residual=x[:1]), "it must be x's"),
        (lambda x, w: qkernels.rms_norm_quantize(x[None], w, "mxfp4"), r"takes \[M, K\]"),
        (lambda x, w: qkernels.silu_mul_quantize(x, "nvfp4_token"), "nothing is fused with nvfp4_token"),
        (lambda x, w: qkernels.silu_mul_quantize(x[:, :63], "mxfp4"), r"\[M, 2K\]"),
        (lambda x, w: qkernels.silu_mul_quantize(x[:, :32], "mxfp4"), "K = 16 is not a multiple"),
        (lambda x, w: qkernels.silu_mul_quantize(x, "nvfp4_2d", global_scale=torch.ones(1)), "nvfp4_2d"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("backend", ["auto"])
def test_what_does_not_go_together_is_one_clear_error(call: Any, message: str, backend: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(normal(2, 64), normal(1, 64)[0])
