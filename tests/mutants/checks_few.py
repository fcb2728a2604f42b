"""Products of few rows on Hopper, their own source run by threads of Python (tests/gluon_threads*.py)."""

from __future__ import annotations

from qkernels.triton.fp4_few_plan import Few
from qkernels.triton.fp8_few_plan import Few8, choose
from tests.property import test_fp4_few_parts, test_fp8_few, test_mxfp4_few
from tests.unit import test_stream_k


def fp8_few() -> None:
    """Plans with parts, several stages and split items; rows and depth that end within a tile; chosen plans."""
    for plan in (Few8(2, 64, 1, 3), Few8(1, 64, 2, 3, 1, True), Few8(8, 64, 1, 2)):
        test_fp8_few.check(3, 100, 2048, plan, bias=True)
    test_fp8_few.check(5, 70, 144, Few8(1, 64, 1, 2))
    test_fp8_few.check(17, 70, 1024)
    assert choose(1, 4096, 4096).parts == 2 and choose(1, 6144, 4096).parts == 1
    assert choose(32, 1024, 4096).split and not choose(64, 8192, 8192).split


def few_parts() -> None:
    """Two and four parts of K beside each other, by one, two and four warpgroups."""
    for plan in (Few(2, 1, 2, 4, 1, 2), Few(1, 2, 1, 2, 1, 4), Few(4, 1, 1, 4, 1, 4)):
        test_fp4_few_parts.check(3, 136, 768, plan, bias=True)
    test_fp4_few_parts.check(9, 70, 512, Few(2, 1, 1, 2, 1, 2), "mxfp4")
    for scales, plan in ((1, Few(2, 1, 1, 2)), (2, Few(1, 2, 1, 3)), (2, Few(2, 1, 1, 2, 1, 2))):
        test_fp4_few_parts.check(9, 70, 256, plan, bias=True, scales=scales)
        test_fp4_few_parts.check(3, 70, 256, plan, scales=scales, least=-118)


def few_folded() -> None:
    """Folded operands by one and several warpgroups, in parts, gains, rows apart, what is refused, what is chosen."""
    for plan in (Few(1, 4, 2, 2), Few(2, 1, 1, 2, 2, 2), Few(2, 1, 1, 4, 1, 4)):
        test_mxfp4_few.check(3, 136, 1536, plan, bias=True)
    test_mxfp4_few.check(5, 130, 416, Few(2, 1, 1, 2))
    test_mxfp4_few.check(33, 70, 128, Few(2, 1, 1, 2))
    test_mxfp4_few.test_gains_of_both_operands()
    test_mxfp4_few.test_rows_that_do_not_lie_as_tma_reads_them()
    test_mxfp4_few.test_what_it_does_not_take_is_refused()
    test_mxfp4_few.test_few_rows_are_of_this_kernel_and_more_of_the_other()
    for m, tiles, chunks in (
        (1, 256, 65),
        (1, 256, 64),
        (16, 384, 3),
        (16, 384, 32),
        (32, 512, 64),
        (64, 3584, 32),
    ):
        test_mxfp4_few.test_what_is_chosen_fits(m, tiles, chunks)


def finish() -> None:
    """Sums of fp4_gemm_sm90 over x's scale, or each row's, in whole tiles and in quarters."""
    for scales in (0, 1, 2):
        for m, n in ((7, 136), (300, 128)):
            test_stream_k.check_finished(m, n, scales)
