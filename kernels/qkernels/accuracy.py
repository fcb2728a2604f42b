"""How far a format may move a number: bounds that follow from `Format` alone, against which a quantizer is judged."""

from __future__ import annotations

from .format import Format


def error_bound(fmt: Format) -> float:
    """The largest |value - x| as a fraction of the amax of what shares x's scale; codes rounded to nearest.

    With M = max, E = emax, m mantissa bits and r = 1/(2^(m+1) + 1), the relative error at the first tie of a binade:
        fp32 scale, floats    half the top binade's step over M: 2^(E-m-1)/M        FP8 1/28
        fp32 scale, integers  half a step: 1/(2*max), asymmetric 1/(number of steps)  INT8 1/254, INT4 1/15
        e4m3 scale            as fp32, times 18/17 for a scale rounded up           NVFP4 3/17, four-over-six too
        e8m0, floor           what saturates: 1 - M/2^(E+1), or r      MXFP4 1/4, FP8 and E3M2 1/8, E2M3 1/16
        e8m0, even            what saturates: 1 - M/((2 - 2^-(m+1))*2^E), or r      MXFP4 1/5
        e8m0, others          r                                                     MXFP4 1/5
    It holds to within 2^-22 (fp32 arithmetic, with amax = 1) for scales that are not clamped or saturated and, if e4m3
    or fp32, not subnormal; for abs_max where amax is well above 1e-8. Stochastic rounding doubles it at most.
    ValueError where there is none: quest's scale follows the standard deviation, a static scale the caller.
    """
    element = fmt.element
    if fmt.rule == "quest" or (element.integer and fmt.granularity == "tensor"):
        raise ValueError(f"{fmt.name} has no error bound: its scale does not follow from amax")
    if element.integer:
        return 0.5 / element.max if fmt.symmetric else 1.0 / (element.greatest - element.least)
    half_step = 2.0 ** (element.emax - element.mantissa - 1) / element.max
    if fmt.scale == "fp32":
        return half_step
    if fmt.scale == "e4m3":
        return half_step * 18 / 17
    tie = 1.0 / (2.0 ** (element.mantissa + 1) + 1.0)
    largest = {"floor": 2.0, "even": 2.0 - 2.0 ** -(element.mantissa + 1)}.get(fmt.rule, 0.0)
    return max(tie, 1.0 - element.max / (largest * 2.0**element.emax) if largest else 0.0)
