"""Which attention the kernel takes. Tensors only say that they lie on a GPU."""

from __future__ import annotations

import pytest
import torch

from qbench.aot.pretend import on_device
from qbench.aot.target import get_target
from qbench.model.attend import MOST_ROWS, MOST_SUMS, WIDTHS, takes
from tests.attention import DTYPES, MASKS, mask_of, rows


def test_what_it_takes_lies_on_a_gpu() -> None:
    query, key, value = (each.cpu() for each in rows())
    assert not takes(query, key, value, None)
    with on_device(get_target("sm_90")):
        assert takes(query, key, value, None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shared", [1, MOST_ROWS])
def test_what_is_tested_here_is_taken(shared: int, kind: str, dtype: torch.dtype) -> None:
    for width in WIDTHS:
        of = rows(shared=min(shared, MOST_SUMS // width), width=width, dtype=dtype)
        mask = mask_of(kind, of)
        with on_device(get_target("sm_80")):
            assert takes(*of, mask)


QUERY, KEY = (2, 6, 1, 32), (2, 2, 100, 32)
REFUSED = {
    "more tokens": ((2, 6, 2, 32), KEY, KEY, None),
    "a width of 24": ((2, 6, 1, 24), (2, 2, 100, 24), (2, 2, 100, 24), None),
    "values of another width": (QUERY, KEY, (2, 2, 100, 16), None),
    "keys of another width": (QUERY, (2, 2, 100, 16), (2, 2, 100, 16), None),
    "more heads in a group": ((2, 130, 1, 32), KEY, KEY, None),
    "33 heads of a width of 256 in a group": ((2, 66, 1, 256), (2, 2, 100, 256), (2, 2, 100, 256), None),
    "heads that are no multiple of groups": ((2, 5, 1, 32), KEY, KEY, None),
    "keys of one text for all": (QUERY, (1, 2, 100, 32), (1, 2, 100, 32), None),
    "no places": (QUERY, (2, 2, 0, 32), (2, 2, 0, 32), None),
    "a mask for each head": (QUERY, KEY, KEY, (2, 6, 1, 100)),
    "a mask of two dimensions": (QUERY, KEY, KEY, (1, 100)),
    "a mask of more tokens": (QUERY, KEY, KEY, (2, 1, 2, 100)),
    "a mask of one place for all": (QUERY, KEY, KEY, (2, 1, 1, 1)),
    "a mask of fewer places": (QUERY, KEY, KEY, (2, 1, 1, 99)),
    "a mask of more texts": (QUERY, KEY, KEY, (3, 1, 1, 100)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_shapes_it_does_not_take(case: str) -> None:
    *operands, mask = REFUSED[case]
    query, key, value = (torch.zeros(shape, dtype=torch.bfloat16) for shape in operands)
    with on_device(get_target("sm_90")):
        assert not takes(query, key, value, None if mask is None else torch.zeros(mask, dtype=torch.bool))


def test_types_gaps_and_gradients_it_does_not_take() -> None:
    query, key, value = (each.cpu() for each in rows())
    wide = torch.zeros(2, 2, 100, 64, dtype=torch.bfloat16)[..., ::2]
    seen = torch.zeros(2, 1, 1, 200, dtype=torch.bool)[..., ::2]
    with on_device(get_target("sm_90")):
        assert takes(query, key, value, None)
        assert not takes(query.float(), key.float(), value.float(), None)
        assert not takes(query.half(), key, value, None)
        assert not takes(query, key, value.half(), None)
        assert not takes(query[..., :16].repeat_interleave(4, -1)[..., ::2], key, value, None)
        assert not takes(query, wide, value, None)
        assert not takes(query, key, wide, None)
        assert not takes(query, key, value, seen)
        assert not takes(query, key, value, torch.zeros(2, 1, 1, 100, dtype=torch.int64))
        for trained in (query, key, value):
            trained.requires_grad_()
            assert not takes(query, key, value, None), "the operator has no derivative"
            with torch.no_grad():
                assert takes(query, key, value, None)
            trained.requires_grad_(False)
