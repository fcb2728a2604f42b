"""Mutants that change nothing that is promised, each with its proof. They are planted too, and must not be noticed.

Kept out of the catalogue so that "all caught" stays the goal; kept here so that nobody plants them again.
"""

from __future__ import annotations

from functools import partial

from tests.mutants.mutant import Equivalent, Mutant

_fp4 = partial(Mutant, file="qkernels/triton/fp4.py")
_mxfp4 = partial(Mutant, file="qkernels/triton/mxfp4_quantize.py")
_gemm = partial(Mutant, file="qkernels/triton/fp4_gemm.py")
_quantize = partial(Mutant, file="qkernels/quantize.py")
_amax = partial(Mutant, file="qkernels/triton/amax.py")
_launch = partial(Mutant, file="qkernels/triton/launch.py")

EQUIVALENT = (
    Equivalent(
        _fp4(
            "hadamard-transposed",
            "shared = index[:, None] & index[None, :]",
            "shared = index[None, :] & index[:, None]",
            "the Hadamard matrix is transposed",
            "quantizer:values",
            "nvfp4 hadamard 32",
        ),
        "H[i, j] = (-1)^popcount(i & j), and i & j = j & i: Sylvester's matrix is its own transpose.",
    ),
    Equivalent(
        _fp4(
            "hadamard-signs-inverted",
            "sign = (1 - 2 * (shared & 1)).to(tl.float32)",
            "sign = (2 * (shared & 1) - 1).to(tl.float32)",
            "every sign of H is inverted",
            "amax",
        ),
        "The matrix is used for the maximum of |x H| only, which has no sign; quantizers rotate by butterflies.",
    ),
    Equivalent(
        _fp4(
            "e2m1-saturates-above-6",
            "size = tl.minimum(tl.abs(y), 6.0 / GAIN)",
            "size = tl.minimum(tl.abs(y), 6.9 / GAIN)",
            "saturation is a little above 6",
            "e2m1",
        ),
        "The quantum of [4, 8) is 2, so everything in [5, 7) rounds to 6: for any limit below 7 the code is the same.",
    ),
    Equivalent(
        _amax(
            "amax-fewer-programs",
            "PROGRAMS = 512 ",
            "PROGRAMS = 64 ",
            "fewer programs share the tiles",
            "amax",
        ),
        "Every tile is taken by one program, whatever their number, and a maximum does not depend on its order.",
    ),
    Equivalent(
        _launch(
            "launch-smaller-tiles",
            "elements = 4096 if hadamard is None else 8192",
            "elements = 2048 if hadamard is None else 8192",
            "tiles of another height",
            "quantizer:shapes",
            "nvfp4_1l",
        ),
        "Blocks lie along K, so no code or scale depends on how many rows a program takes.",
    ),
    Equivalent(
        _launch(
            "launch-rows-in-pieces",
            "    length = max(128, triton.next_power_of_2(k))\n",
            "    length = max(128, triton.next_power_of_2(k) // 2)\n",
            "short rows are quantized in two pieces",
            "exact",
            "int8_asym",
        ),
        "Extremes are taken over all pieces before any code is computed, and minimum and maximum are exact.",
    ),
    Equivalent(
        _mxfp4(
            "mx-no-rows-launched",
            "    if m > 0:\n        if halves",
            "    if m >= 0:\n        if halves",
            "M = 0 launches a grid of no programs",
            "refusals",
        ),
        "Triton's launcher starts nothing for a grid with a zero, on the GPU and interpreted, and no step before it "
        "divides by M.",
    ),
    Equivalent(
        _gemm(
            "gemm-empty-launched",
            "    if out.numel():\n",
            "    if True:\n",
            "M = 0 or N = 0 launches a grid of no programs",
            "refusals",
        ),
        "As above: the grid is the product of the numbers of tiles, zero if either is.",
    ),
    Equivalent(
        _quantize(
            "ref-hadamard-divides-numel",
            "    if k % hadamard:\n",
            "    if x.numel() % hadamard:\n",
            "the reference checks the Hadamard size against the number of elements",
            "refusals",
        ),
        "`rotate`, which every rotated row passes, checks K again and raises the same ValueError: rows cannot mix.",
    ),
    Equivalent(
        _mxfp4(
            "mx-quest-negative-variance",
            "byte = tl.where(variance >= 0.0, magnitude_bits(target) >> 23, 127)",
            "byte = magnitude_bits(target) >> 23",
            "quest takes the byte of 1e-8 where the variance is negative",
            "quantizer:values",
            "mxfp4 quest",
        ),
        "An fp32 variance is negative only by rounding, its true value being within 2^-18 of E[x^2] of zero; another "
        "order of the 32 additions makes it zero or positive. The order is not part of the rule, both are right.",
    ),
)
