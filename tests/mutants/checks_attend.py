"""Attention of one token, interpreted, against float64; and which attention it takes."""

from __future__ import annotations

import torch

from tests.attention import mask_of, rows
from tests.models import test_attend, test_attend_takes


def attend() -> None:
    """Each kind of mask in one part and in several, steps and parts that see nothing, large scores, given scales."""
    for kind, dtype in zip(
        ("none", "seen by each", "added for each", "added"), 2 * test_attend.DTYPES, strict=True
    ):
        of = rows(width=16, dtype=dtype)
        for cut in (None, (1, 100), (2, 60)):
            test_attend.check(of, mask_of(kind, of), cut=cut, block=32)
    test_attend.test_a_scale_that_is_given(0.0)
    test_attend.test_what_lies_behind_the_last_place_is_not_seen((2, 64))
    for cut in ((1, 192), (3, 64)):
        test_attend.test_parts_without_a_place_that_is_seen_and_texts_that_see_nothing(cut, "seen")
    for top in (0, 200):
        test_attend.test_large_scores(top, (4, 64), torch.bfloat16)
    for places in (63, 64, 1000, 1001):
        parts, size = test_attend.parts_of(1, places, 132)
        assert (parts - 1) * size < places <= parts * size


def attend_takes() -> None:
    """Everything that is refused, and what is not."""
    for case in test_attend_takes.REFUSED:
        test_attend_takes.test_shapes_it_does_not_take(case)
    test_attend_takes.test_types_gaps_and_gradients_it_does_not_take()
    test_attend_takes.test_what_it_takes_lies_on_a_gpu()
    test_attend_takes.test_what_is_tested_here_is_taken(1, "added", torch.bfloat16)
