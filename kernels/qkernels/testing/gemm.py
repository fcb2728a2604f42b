"""check_gemm: is this product right, whatever its operands hold and wherever they lie?

Every result is judged against the float64 product of the very operands. Most cases are made so that no order of fp32
sums can round: there the output must be the exact product, rounded once. Elsewhere it must lie within the bound E.
A row alone need not equal the row of a batch bit for bit: the order of sums depends on the tile, and that on M.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from qbench import Mismatch, Provider, WrongResult, provider_info
from qkernels.api import as_format
from qkernels.compare.product_causes import take_row
from qkernels.format import Format
from qkernels.testing import gemm_cases as cases
from qkernels.testing.gemm_kind import GemmCase, Kind
from qkernels.testing.inputs import DTYPES
from qkernels.testing.product import Product, settle
from qkernels.testing.report import indent, product_reproducer, without_reproducer
from qkernels.testing.subject import Failed, Refused

Judge = Callable[[Product, GemmCase], Mismatch | None]
COARSE = ("fp8-fast", "fp8-promoted")


def check_gemm(
    provider: Provider,
    fmt: Format | str,
    activation: Format | str | None = None,
    *,
    bias: bool = False,
    dtypes: Sequence[torch.dtype] = DTYPES,
    out_dtype: torch.dtype | None = None,
    examples: int = 25,
    device: torch.device | str | None = None,
    checks: Iterable[str] | None = None,
) -> None:
    """Raise WrongResult unless provider(a, b) -> thunk -> Tensor [M, N] is a times b transposed.

    a is a QTensor [M, K] in `activation` or, by default, a plain tensor of each of `dtypes`; b a QTensor [N, K] in
    `fmt`. The output must be of out_dtype: by default that of a plain a, else bf16.
    bias        provider(a, b, bias) adds bias [N], of the output's dtype, before the one rounding
    examples    random operands of the check "values"
    device      where the operands lie: by default CUDA if there is one
    checks      names of `GEMM_CHECKS`; by default all but "extremes"
    Sums are judged as the accumulator allows that `qbench.provider` declares, fp32 by default.

    A provider refuses what it does not take by raising qbench.Unsupported; a check none of whose cases it takes has
    checked nothing, which is an error. ValueError for an unknown check, or one that says nothing of these formats.
    """
    if isinstance(checks, str):
        raise ValueError(f"checks={checks!r} is one name; pass a list of names")
    kind = Kind(
        as_format(fmt), None if activation is None else as_format(activation), tuple(dtypes), out_dtype, bias
    )
    place = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    asked = Product(provider, kind, provider_info(provider).accumulator, place)
    names = _names(asked, checks)
    try:
        product = settle(asked)
    except Refused as refusal:
        raise WrongResult(
            f"{asked.name} refused every product, so nothing was checked; its last reason: {refusal}"
        ) from refusal
    for name in names:
        _run(name, GEMM_CHECKS[name], product, asked, examples)


@dataclass(frozen=True)
class GemmCheck:
    """Where its cases come from, and how each is judged; applies: why the check says nothing of a product, or ""."""

    cases: Callable[[Kind, int], Iterator[GemmCase]]
    judge: Judge
    applies: Callable[[Product], str] = lambda product: ""
    default: bool = True


def _once(product: Product, case: GemmCase) -> Mismatch | None:
    try:
        out = product.run(case)
    except Failed as failure:
        if case.refusable and failure.clear:
            return None
        raise
    return product.judge(out, case)


def _repeat(product: Product, case: GemmCase) -> Mismatch | None:
    """The same thunk twice, then a new one: bit-equal."""
    thunk = product.thunk(case)
    first = thunk().clone()
    for what, out in (("the same thunk", thunk()), ("a new thunk", product.thunk(case)())):
        same = (first == out) | (first.isnan() & out.isnan())
        if not bool(same.all()):
            wrong = (~same).nonzero()[0].tolist()
            details = (
                f"  at {tuple(wrong)}: {first[tuple(wrong)].item()!r}, then {out[tuple(wrong)].item()!r}"
            )
            return Mismatch(
                f"{what} gave another result of the same operands", int((~same).sum()), same.numel(), details
            )
    return product.judge(first, case)


def _rows(product: Product, case: GemmCase) -> Mismatch | None:
    """The batch, then some of its rows alone (as many as the provider takes at once), each within the bound."""
    if problem := _once(product, case):
        return problem
    m, least = case.a.shape[0], product.kind.rows
    if least > 1:
        return None
    for row in (0, m // 2, m - 1):
        alone = GemmCase(f"row {row} alone", take_row(case.a, row), case.b, case.bias)
        if problem := _once(product, alone):
            return Mismatch(
                f"row {row} alone: {problem.summary}", problem.count, problem.total, problem.details
            )
    return None


def _needs_fp32(product: Product) -> str:
    wide = product.accumulator not in COARSE
    return (
        ""
        if wide
        else f"the declared accumulator {product.accumulator} keeps 13 bits, so that no sum is certain"
    )


def _needs_levels(product: Product) -> str:
    kind = product.kind
    two = kind.activation is not None and kind.activation.levels == kind.weight.levels == 2
    return "" if two and kind.weight.packed else "it needs global scales on both operands"


GEMM_CHECKS: dict[str, GemmCheck] = {
    "certificate": GemmCheck(cases.certificate, _once, _needs_fp32),
    "values": GemmCheck(cases.values, _once),
    "shapes": GemmCheck(cases.shapes, _once),
    "layouts": GemmCheck(cases.layouts, _once),
    "nonfinite": GemmCheck(cases.nonfinite, _once),
    "alpha": GemmCheck(cases.alpha, _once),
    "repeat": GemmCheck(cases.deep, _repeat),
    "rows": GemmCheck(cases.deep, _rows),
    # Global scales whose product is beyond fp32: most libraries multiply them first and do not claim to take these.
    "extremes": GemmCheck(cases.extremes, _once, _needs_levels, default=False),
}


def _names(product: Product, checks: Iterable[str] | None) -> list[str]:
    if checks is None:
        return [name for name, check in GEMM_CHECKS.items() if check.default and not check.applies(product)]
    names = list(checks)
    for name in names:
        if name not in GEMM_CHECKS:
            raise ValueError(f"unknown check {name!r}; known: {', '.join(GEMM_CHECKS)}")
        if reason := GEMM_CHECKS[name].applies(product):
            raise ValueError(f"check {name!r} does not apply: {reason}")
    return names


def _run(name: str, check: GemmCheck, product: Product, asked: Product, examples: int) -> None:
    taken, reason = 0, ""
    for case in check.cases(product.kind, examples):
        try:
            wrong = check.judge(product, case)
        except Refused as refusal:
            reason = str(refusal)
            continue
        except Failed as failure:
            wrong = failure.mismatch
        taken += 1
        if wrong is not None:
            bias = "" if case.bias is None else f", bias [{case.bias.shape[0]}]"
            lines = [f'{product.name} is not a correct product: check "{name}"', f"case: {case}{bias}",
                     *without_reproducer(wrong), "reproduce with:",
                     indent(product_reproducer(asked, name, examples))]  # fmt: skip
            raise WrongResult("\n".join(lines))
    if not taken:
        raise WrongResult(f'{product.name} refused every case of the check "{name}", so nothing was checked; '
                          f"its last reason: {reason}")  # fmt: skip
