"""The cases of each check of `check_gemm`, as data: operands and what is asked of them in words.

Shapes are small: they lie around the block sizes of quantized formats and around the tiles of 16 .. 256 rows, 64 .. 256
columns and 32 .. 256 of K that kernels use.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Iterator

import torch
from torch import Tensor

from qkernels.format import Format
from qkernels.tensor import QTensor
from qkernels.testing import gemm_inputs as made
from qkernels.testing.gemm_inputs import Operand
from qkernels.testing.gemm_kind import GemmCase, Kind, on_a_grid, operand, weight
from qkernels.testing.inputs import DISTRIBUTIONS, LAYOUTS, arranged

# m, n, k of the shapes check; k in elements, rounded up to what the formats and the provider take
SHAPES = (
    (0, 70, 128), (1, 1, 1), (1, 65, 144), (127, 64, 48), (129, 63, 80), (127, 7, 32), (129, 129, 16),
    (16, 127, 112), (17, 70, 272), (33, 33, 240), (2, 9, 512),
)  # fmt: skip


def certificate(kind: Kind, examples: int) -> Iterator[GemmCase]:
    """Inputs for which every order of fp32 sums is exact: the output must be the exact product, rounded once."""
    for index in range(max(2, len(kind.dtypes) if kind.activation is None else 0)):
        yield kind.case("codes on a coarse grid", *on_a_grid(kind, 17, 70, 160, index))
        cancelled = made.cancelling(*on_a_grid(kind, 9, 40, 160, index, octaves=5))
        if cancelled is not None:
            yield kind.case("partial sums far above the result", *cancelled)
    for name, fmt in (("b", kind.weight), ("a", kind.activation)):
        if fmt is not None and fmt.block is not None and fmt.scale != "fp32":
            yield from _every_scale(kind, name, fmt)


def _every_scale(kind: Kind, name: str, fmt: Format) -> Iterator[GemmCase]:
    """One-hot rows against every scale byte, in every dtype of a plain a: each value alone in the output."""
    other = kind.activation if name == "b" else kind.weight
    k, dtypes = kind.sizes(1, 1, 1)[2], kind.dtypes if other is None else kind.dtypes[:1]
    least = kind.rows if name == "b" else kind.columns
    x = torch.eye(k)[:: max(1, k // 32)]
    x = x[torch.arange(-(-len(x) // least) * least) % len(x)]
    for (hot, wide), dtype in itertools.product(made.every_scale(fmt), dtypes):
        wide = _repeat(wide, k // wide.shape[1])
        wide = _repeat_rows(wide, kind.columns if name == "b" else kind.rows)
        if other is None:
            one: Operand = (x * hot).to(dtype)
        else:
            one = made.quantized(x if other.scale == "e4m3" else x * hot, other)
        if name == "b":
            yield kind.case("every scale byte of b, read out one by one", one, wide)
        elif isinstance(one, QTensor):
            yield kind.case("every scale byte of a, read out one by one", wide, one)


def _repeat(q: QTensor, times: int) -> QTensor:
    return dataclasses.replace(
        q,
        data=q.data.repeat(1, times),
        scale=q.scale.repeat(1, times),
        shape=(q.shape[0], q.shape[1] * times),
    )


def _repeat_rows(q: QTensor, multiple: int) -> QTensor:
    """q with its last row repeated up to a multiple of that many rows."""
    unit = math.lcm(multiple, q.format.block_rows)
    rows = -(-q.shape[0] // unit) * unit
    index = torch.arange(rows).clamp(max=q.shape[0] - 1)
    groups = torch.arange(rows // q.format.block_rows).clamp(max=len(q.scale) - 1)
    gs = q.global_scale
    if gs is not None and gs.ndim == 2:
        gs = gs[index]
    data = q.data.view(torch.uint8)[index].view(q.data.dtype)
    return dataclasses.replace(q, data=data, scale=q.scale[groups], global_scale=gs, shape=(rows, q.shape[1]))


def values(kind: Kind, examples: int) -> Iterator[GemmCase]:
    """Random operands of many distributions, within the bound E (and bit-equal where they happen to be exact)."""
    names, rng = list(DISTRIBUTIONS), random.Random(0)
    for index in range(examples):
        m, n, k = kind.sizes(
            rng.randint(1, 20), rng.randint(1, 70), kind.block * rng.randint(1, max(1, 256 // kind.block))
        )
        one, other = rng.choice(names), rng.choice(names)
        a, b = operand(kind, m, k, index, one, 2 * index), weight(kind, n, k, other, 2 * index + 1)
        yield kind.case(f"a {one}, b {other}, seed {index}", a, b)


def shapes(kind: Kind, examples: int) -> Iterator[GemmCase]:
    """Every row count, any number of columns, K around blocks and tiles."""
    for index, (m, n, k) in enumerate(SHAPES):
        yield kind.case("shape", *on_a_grid(kind, m, n, k, index))


def layouts(kind: Kind, examples: int) -> Iterator[GemmCase]:
    """Strided, sliced and misaligned operands among poison: right, or an error that names the layout."""
    m, n, k = kind.sizes(9, 40, 112)
    a, b = on_a_grid(kind, m, n, k, 0)
    places = {
        "wide rows": {"right": 16},
        "column slice": {"left": 16, "right": 16},
        "odd column slice": {"left": 3, "right": 2},
        "every second row": {"every": 2, "above": 1},
    }
    if isinstance(a, Tensor):
        for name in LAYOUTS:
            if name not in ("contiguous", "three axes"):
                yield kind.case(f"a: {name}", arranged(a, name), b, refusable=True)
    else:
        for name, place in places.items():
            yield kind.case(f"a: {name}", made.laid_out(a, **place), b, refusable=True)
    for name, place in places.items():
        yield kind.case(f"b: {name}", a, made.laid_out(b, **place), refusable=True)
    group = kind.weight.block_rows
    skipped = -(-kind.columns // group) * group
    larger = made.coarse(n + 2 * skipped, k, kind.weight, 1, global_scale=0.5)
    yield kind.case("b: rows of a larger one", a, larger.rows(skipped, skipped + n), refusable=True)


def nonfinite(kind: Kind, examples: int) -> Iterator[GemmCase]:
    """NaN and inf in a row of a stay in it, NaN scales of b stay in their columns, and none gets lost."""
    m, n, k = kind.sizes(5, 40, 144)
    plain = 0
    if kind.activation is None:
        for index, (name, bad) in enumerate((("NaN", torch.nan), ("inf", torch.inf), ("-inf", -torch.inf))):
            a, b = on_a_grid(kind, m, n, k, index)
            assert isinstance(a, Tensor)
            a[2, (0, k // 2, k - 1)[index]] = bad
            if index == 1:  # inf * 0
                b.data.view(torch.uint8)[1] = 0
            yield kind.case(f"{name} in row 2 of a", a, b)
            plain = index
    a, b = on_a_grid(kind, m, n, k, plain)
    for column in (0, k - 1):
        if isinstance(a, QTensor):
            yield kind.case("a NaN scale of a", made.poisoned_scale(a, 2, column), b)
        yield kind.case("a NaN scale of b", a, made.poisoned_scale(b, 3, column))
    # Infinity for NaN would give NaN beside a zero or another sign; beside these it gives infinity.
    positive = made.quantized(torch.ones(n, k), kind.weight)
    for dtype in kind.dtypes if kind.activation is None else kind.dtypes[:1]:
        ones = torch.ones(m, k)
        same = ones.to(dtype) if kind.activation is None else made.quantized(ones, kind.activation)
        yield kind.case("a NaN scale of b, all else positive", same, made.poisoned_scale(positive, 3, k - 1))
        if isinstance(same, QTensor):
            yield kind.case("a NaN scale of a, all else positive", made.poisoned_scale(same, 2, 0), positive)


def alpha(kind: Kind, examples: int) -> Iterator[GemmCase]:
    """Large and small global scales (block scales, where there are none) of either operand and of both."""
    m, n, k = kind.sizes(5, 40, 80)
    for index, (low, high) in enumerate(((2.0**-40, 2.0**40), (3e-15, 7e12))):
        a, b = operand(kind, m, k, index, "normal", 2 * index), weight(kind, n, k, "normal", 2 * index + 1)
        for left, right in ((0, low), (0, high), (low, low), (high, high), (low, high)):
            scaled_b = made.scaled(b, right)
            if isinstance(a, QTensor) and left:
                yield kind.case(
                    f"scales of a and b near {left:g} and {right:g}", made.scaled(a, left), scaled_b
                )
            elif not left:
                yield kind.case(f"scales of b near {right:g}", a, scaled_b)


def extremes(kind: Kind, examples: int) -> Iterator[GemmCase]:
    """Global scales whose product leaves fp32 while the result does not: alpha must be applied in two steps."""
    fmt = kind.activation
    if fmt is None or fmt.levels == 1 or kind.weight.levels == 1 or not fmt.packed:
        return
    m, n, k = kind.sizes(4, 8, 16)
    for gs, scale, code in ((2.5e-20, 0x01, 0x11), (1.7e20, 0x7E, 0x77)):
        pair = []
        for rows, each in ((m, fmt), (n, kind.weight)):
            q = made.coarse(rows, k, each, 0, global_scale=gs)
            pair.append(
                dataclasses.replace(
                    q, data=torch.full_like(q.data, code), scale=torch.full_like(q.scale, scale)
                )
            )
        yield kind.case(f"global scales {gs:g} and {gs:g}", pair[0], pair[1])


def deep(kind: Kind, examples: int) -> Iterator[GemmCase]:
    """Depths that a kernel may split, on random operands."""
    for index, (m, n, k) in enumerate(((33, 70, 480), (5, 33, 512))):
        m, n, k = kind.sizes(m, n, k)
        a, b = (
            operand(kind, m, k, index, "normal", index),
            weight(kind, n, k, "normal", 9 + index),
        )
        yield kind.case("random operands", a, b)
