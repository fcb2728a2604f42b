"""tl.dot_scaled in the interpreter: every code of every operand and scale type, both ways of packing, exact sums.

Expected values come from ml_dtypes, which knows all of these types.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from qbench.interpreter import compiled, interpreted
from tests.unit.interpreter_kernels import compile_for_sm90

KINDS = {"e2m1": ml_dtypes.float4_e2m1fn, "e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}
SCALES = {"e8m0": (ml_dtypes.float8_e8m0fnu, 32), "e4m3": (ml_dtypes.float8_e4m3fn, 16)}


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu() -> Iterator[None]:
    with interpreted(sys.modules[__name__]):
        yield


@triton.jit
def scaled_kernel(
    a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, out_ptr, A: tl.constexpr, B: tl.constexpr,
    A_K_PACK: tl.constexpr, B_K_PACK: tl.constexpr, A_ROWS: tl.constexpr, A_COLUMNS: tl.constexpr,
    B_ROWS: tl.constexpr, B_COLUMNS: tl.constexpr, M: tl.constexpr, N: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    m, n, g = tl.arange(0, M), tl.arange(0, N), tl.arange(0, GROUPS)
    a = tl.load(a_ptr + tl.arange(0, A_ROWS)[:, None] * A_COLUMNS + tl.arange(0, A_COLUMNS)[None, :])
    b = tl.load(b_ptr + tl.arange(0, B_ROWS)[:, None] * B_COLUMNS + tl.arange(0, B_COLUMNS)[None, :])
    if a_scale_ptr is None:
        a_scale: tl.constexpr = None
    else:
        a_scale = tl.load(a_scale_ptr + m[:, None] * GROUPS + g[None, :])
    b_scale = tl.load(b_scale_ptr + n[:, None] * GROUPS + g[None, :])
    one = tl.full((M, N), 1.0, tl.float32)
    out = tl.dot_scaled(a, a_scale, A, b, b_scale, B, one, lhs_k_pack=A_K_PACK, rhs_k_pack=B_K_PACK)
    tl.store(out_ptr + m[:, None] * N + n[None, :], out)


@triton.jit
def dot_kernel(a_ptr, b_ptr, out_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a, b = tl.load(a_ptr + m[:, None] * K + k[None, :]), tl.load(b_ptr + k[:, None] * N + n[None, :])
    tl.store(out_ptr + m[:, None] * N + n[None, :], tl.dot(a, b))


def packed(codes: Any, kind: str, axis: int) -> torch.Tensor:
    """Codes as a kernel gets them: e2m1 in pairs along `axis`, the even one low."""
    if kind == "e2m1":
        low, high = (np.take(codes, np.arange(i, codes.shape[axis], 2), axis) for i in (0, 1))
        codes = low | high << 4
    data = torch.from_numpy(np.ascontiguousarray(codes))
    return (
        data if kind == "e2m1" else data.view({"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}[kind])
    )


def scale_tensor(codes: Any, scale: str) -> torch.Tensor:
    data = torch.from_numpy(np.ascontiguousarray(codes))
    return data.view(torch.float8_e4m3fn) if scale == "e4m3" else data


def run(
    a: Any,
    b: Any,
    a_scale: Any,
    b_scale: Any,
    kinds: tuple[str, str],
    scale: str,
    packs: tuple[bool, bool] = (True, True),
) -> Any:
    """float32 [M, N] of the kernel: codes a [M, K] and b [K, N], scale codes [M, K/group] and [N, K/group]."""
    (m, _), n = a.shape, b.shape[1]
    left, right = packed(a, kinds[0], 1 if packs[0] else 0), packed(b, kinds[1], 0 if packs[1] else 1)
    out = torch.empty(m, n)
    scaled_kernel[(1,)](
        left, None if a_scale is None else scale_tensor(a_scale, scale), right, scale_tensor(b_scale, scale), out,
        *kinds, *packs, *left.shape, *right.shape, m, n, b_scale.shape[1],
    )  # fmt: skip
    return out.numpy()


def values(codes: Any, kind: Any) -> Any:
    return codes.view(kind).astype(np.float64)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("kind", "packs"),
    [
        ("e4m3", (True, True)),
        ("e5m2", (True, True)),
        *(
            ("e2m1", (a, b)) for a in (True, False) for b in (True, False)
        ),  # pairs can lie along M and N as well
    ],
)
def test_every_operand_scale_and_packing(kind: str, scale: str, packs: tuple[bool, bool]) -> None:
    rng, (scale_type, group) = np.random.default_rng(1), SCALES[scale]
    m, n, k = 16, 32, 64
    a, b = (rng.integers(0, 16, shape, dtype=np.uint8) for shape in ((m, k), (k, n)))
    if kind != "e2m1":  # numbers of few bits around one, of both signs, so that every order of sums is exact
        some = np.arange(-8, 8).astype(np.float32).astype(KINDS[kind]).view(np.uint8)
        a, b = some[a], some[b]
    near_one = np.array([0.5, 1, 2, 4], dtype=np.float32).astype(scale_type).view(np.uint8)
    a_scale, b_scale = (near_one[rng.integers(0, 4, (rows, k // group))] for rows in (m, n))
    left = values(a, KINDS[kind]) * np.repeat(values(a_scale, scale_type), group, axis=1)
    right = values(b, KINDS[kind]) * np.repeat(values(b_scale, scale_type), group, axis=1).T
    assert np.array_equal(run(a, b, a_scale, b_scale, (kind, kind), scale, packs), left @ right + 1)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_code_under_every_scale_code(kind: str, scale: str) -> None:
    """One-hot rows read out one weight each; finite results are exact, NaN and inf are where they belong."""
    scale_type, group = SCALES[scale]
    codes = np.arange(256 if kind != "e2m1" else 16, dtype=np.uint8)
    hot = (np.eye(group) * 1.0).astype(np.float32).astype(ml_dtypes.float8_e5m2).view(np.uint8)
    scale_codes = np.arange(256, dtype=np.uint8)[:, None]
    ones = np.array([[1.0]] * group, dtype=np.float32).astype(scale_type).view(np.uint8)
    for start in range(0, len(codes), group):
        b = np.zeros((group, 256), dtype=np.uint8)
        part = codes[start : start + group]
        b[: len(part)] = part[:, None]
        with np.errstate(all="ignore"):
            weights = values(b, KINDS[kind]) * values(scale_codes, scale_type).T
            expected = ((hot.view(ml_dtypes.float8_e5m2).astype(np.float64)) @ weights + 1).astype(np.float32)
        found = run(hot, b, ones, scale_codes, ("e5m2", kind), scale)
        assert np.array_equal(found, expected, equal_nan=True)


def test_bf16_times_scaled_codes_and_a_missing_scale() -> None:
    rng = np.random.default_rng(2)
    a = torch.randint(-8, 9, (16, 32), generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    b, b_scale = (
        rng.integers(0, 16, (32, 16), dtype=np.uint8),
        rng.integers(126, 129, (16, 1), dtype=np.uint8),
    )
    out, right = torch.empty(16, 16), packed(b, "e2m1", 0)
    scaled_kernel[(1,)](
        a, None, right, torch.from_numpy(b_scale), out, "bf16", "e2m1", True, True, 16, 32, 16, 16, 16, 16, 1
    )
    weights = values(b, KINDS["e2m1"]) * values(b_scale, SCALES["e8m0"][0]).T
    assert np.array_equal(out.numpy(), a.double().numpy() @ weights + 1)


@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_a_plain_dot_knows_every_code_of_fp8(kind: str) -> None:
    """Column k of a one-hot b reads out column k of a: subnormals, inf and NaN among the codes."""
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    out = torch.empty(16, 16)
    one = np.eye(16, dtype=np.float32).astype(KINDS[kind]).view(np.uint8)
    dot_kernel[(1,)](packed(codes, kind, 1), packed(one, kind, 1), out, M=16, N=16, K=16)
    right = values(codes, KINDS[kind])
    lost = ~np.isfinite(right).all(1, keepdims=True)  # a NaN or inf in its row makes inf * 0
    assert np.array_equal(out.numpy()[~lost[:, 0]], right[~lost[:, 0]])
    assert np.isnan(out.numpy()[lost[:, 0]]).any(1).all()


def test_the_repairs_leave_the_compilation_of_dot_scaled_alone(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pointers = {
        "a_ptr": "*u8",
        "a_scale_ptr": "*u8",
        "b_ptr": "*u8",
        "b_scale_ptr": "*u8",
        "out_ptr": "*fp32",
    }
    sizes = {"A_ROWS": 64, "A_COLUMNS": 32, "B_ROWS": 32, "B_COLUMNS": 64, "M": 64, "N": 64, "GROUPS": 2}
    with compiled(sys.modules[__name__]):
        kinds = {"A": "e2m1", "B": "e2m1", "A_K_PACK": True, "B_K_PACK": True}
        assert ".entry scaled_kernel" in compile_for_sm90(scaled_kernel, pointers, {**kinds, **sizes})
