"""Bugs in the judges: a comparator that has become lenient catches nothing, and no test of a right kernel shows it."""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Mutant

_b = partial(Mutant, file="qkernels/compare/bounds.py", check="comparator")
_s = partial(Mutant, file="qkernels/compare/scales.py", check="comparator")
_g = partial(Mutant, file="qkernels/compare/global_scale.py", check="comparator")
_w = partial(Mutant, file="qkernels/compare/rows.py", check="comparator")
_c = partial(Mutant, file="qbench/check.py", check="comparator")

MUTANTS = (
    _s(
        name="judge-interval-of-2^-3",
        old="EPS = 2.0**-21",
        new="EPS = 2.0**-3",
        bug="scales and codes may be off by an eighth",
    ),
    _b(
        name="judge-codes-not-compared",
        old="wrong = ((code < code_low) | (code > code_high)) & judged",
        new="wrong = ((code < code_low) & (code > code_high)) & judged",
        bug="no code is ever wrong",
    ),
    _b(
        name="judge-sign-of-codes",
        old="return torch.where(codes >= sign, -1 - magnitude, magnitude)",
        new="return magnitude",
        bug="codes of either sign are the same",
    ),
    _b(
        name="judge-codes-under-any-scale",
        old="(torch.isfinite(amax) & meant & ~scales.bad)",
        new="(torch.isfinite(amax) & meant & scales.bad)",
        bug="codes are compared under wrong scales only",
    ),
    _s(
        name="judge-scale-bytes-not-compared",
        old="        wrong, nan = (byte < low) | (byte > high), E4M3_NAN\n",
        new="        wrong, nan = (byte < low) & (byte > high), E4M3_NAN\n",
        bug="no E4M3 scale is ever wrong",
    ),
    _s(
        name="judge-mx-bytes-not-compared",
        old="wrong, nan = ((byte < low) | (byte > high)) & ((byte != 127) | ~extra), E8M0_NAN",
        new="wrong, nan = (byte > high) & ((byte != 127) | ~extra), E8M0_NAN",
        bug="an E8M0 scale that is too small is taken",
    ),
    _s(
        name="judge-lost-nan",
        old="torch.where(finite, wrong, lost)",
        new="finite & wrong",
        bug="NaN made finite is taken",
    ),
    _g(
        name="judge-global-scale-not-compared",
        old="right = (found > 0) & torch.isfinite(found) & (found >= least.clamp(max=2.0**126)) & (found <= most)",
        new="right = (found > 0) & torch.isfinite(found)",
        bug="any global scale is right",
    ),
    _g(
        name="judge-static-global-scale",
        old="return _describe(found, wanted, wanted, found != wanted, by_row",
        new="return _describe(found, wanted, wanted, found < 0, by_row",
        bug="a static global scale need not be used",
    ),
    _w(
        name="judge-row-codes-not-compared",
        old="wrong = ((code < code_low) | (code > code_high)) & compared",
        new="wrong = (code > code_high) & compared",
        bug="FP8 and INT8 codes that are too small are taken",
    ),
    _w(
        name="judge-zero-point-not-compared",
        old="(~nan & ~flat_rows & _zero_point_bad(x, found, part.zero_point))",
        new="(nan & ~flat_rows & _zero_point_bad(x, found, part.zero_point))",
        bug="any zero point is right",
    ),
    _c(
        name="judge-product-one-percent",
        old="error: Tensor = size * max(sums, _COARSE.get(accumulator, 0.0)) + expected.abs() * (3 * unit)",
        new="error: Tensor = 0.01 + 0.01 * expected.abs()",
        bug="products are compared with rtol = atol = 1e-2",
    ),
    _c(
        name="judge-product-half-gap",
        old="gap = ldexp(torch.full_like(values, 0.5 * info.eps), exponent - 1)",
        new="gap = ldexp(torch.full_like(values, 1.0 * info.eps), exponent - 1)",
        bug="a product may be off by a whole unit in the last place: truncation passes",
    ),
    _c(
        name="judge-product-nan",
        old="return _Judged(torch.where(nan, ~found.isnan(), ~inside),",
        new="return _Judged(torch.where(nan | found.isnan(), False, ~inside),",
        bug="NaN in an output is never wrong",
    ),
    _c(
        name="judge-product-infinity",
        old="overflow = found.isinf() & (high.abs().maximum(low.abs()) >= torch.finfo(output.dtype).max)",
        new="overflow = found.isinf()",
        bug="an infinite output of the right sign is taken",
    ),
    _c(
        name="judge-product-first-rows",
        old="        for start in range(0, rows, step):\n",
        new="        for start in range(0, 0, step):\n",
        bug="no row of a product is compared",
    ),
    _c(
        name="judge-product-dtype",
        old="same = tuple(output.shape) == tuple(shape) and output.dtype == dtype",
        new="same = tuple(output.shape) == tuple(shape)",
        bug="a product in a narrower dtype is taken",
    ),
    _c(
        name="judge-product-missing-rows",
        old="same = tuple(output.shape) == tuple(shape) and output.dtype == dtype",
        new="same = output.dtype == dtype",
        bug="a product with rows missing is taken",
        dies="RuntimeError",
    ),
)
