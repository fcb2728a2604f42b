"""The catalogue: every mutant, area by area."""

from __future__ import annotations

from tests.mutants.catalogue import (
    amax_launch,
    codec,
    decode,
    device,
    encode_e2m1,
    encode_e4m3,
    fp4_words,
    fp8,
    gemm,
    gemm_mainloop,
    gemm_quantize,
    int8,
    int8_token,
    judges,
    mxfp4,
    nvfp4,
    reference,
    reference_rules,
    rest,
)
from tests.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *encode_e2m1.MUTANTS,
    *encode_e4m3.MUTANTS,
    *device.MUTANTS,
    *nvfp4.MUTANTS,
    *mxfp4.MUTANTS,
    *fp4_words.MUTANTS,
    *fp8.MUTANTS,
    *int8.MUTANTS,
    *int8_token.MUTANTS,
    *amax_launch.MUTANTS,
    *decode.MUTANTS,
    *gemm_mainloop.MUTANTS,
    *gemm.MUTANTS,
    *gemm_quantize.MUTANTS,
    *codec.MUTANTS,
    *reference.MUTANTS,
    *reference_rules.MUTANTS,
    *rest.MUTANTS,
    *judges.MUTANTS,
)
