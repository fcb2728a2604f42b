"""The largest logit in two steps is the one of argmax: the first of several, and NaN above everything."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qbench.model.decode import largest

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Of Llama 3, of GPT-2 (odd), of one part, of none for its size, of two parts, and a prime
VOCABULARIES = (128256, 50257, 512, 40, 144, 131)


def check(logits: Tensor) -> None:
    found = largest(logits)
    assert (found.shape, found.dtype) == ((len(logits), 1), torch.int64)
    nan = logits.isnan()
    top = torch.where(nan.any(-1, keepdim=True), nan, logits == logits.amax(-1, keepdim=True))
    assert torch.equal(found[:, 0], top.int().argmax(-1)) and torch.equal(
        found, logits.argmax(-1, keepdim=True)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_it_is_argmax(vocabulary: int, dtype: torch.dtype) -> None:
    logits = torch.randn(5, vocabulary, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    check(logits)
    check(-logits.abs())  # none is above the zeros that nothing was written to
    for row, place in enumerate((0, 1, vocabulary // 2, vocabulary - 2, vocabulary - 1)):
        logits[row, place] = 100.0
    assert largest(logits)[:, 0].tolist() == [0, 1, vocabulary // 2, vocabulary - 2, vocabulary - 1]


@given(
    rows=st.integers(1, 4), vocabulary=st.integers(1, 2000), values=st.integers(1, 50),
    bad=st.sampled_from(("none", "nan", "-inf", "inf")), seed=st.integers(0, 1 << 20),
)  # fmt: skip
def test_of_several_it_is_the_first(rows: int, vocabulary: int, values: int, bad: str, seed: int) -> None:
    """Within a part and in several; of few values, and a tenth of them NaN or infinite."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-values, 1, (rows, vocabulary), generator=generator).bfloat16()
    if bad != "none":
        logits[torch.rand(logits.shape, generator=generator) < 0.1] = float(bad)
    check(logits.to(DEVICE))


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("value", [0.0, -torch.inf, torch.inf, torch.nan])
def test_where_all_are_alike_it_is_the_first_place(value: float, vocabulary: int) -> None:
    assert not largest(torch.full((2, vocabulary), value, device=DEVICE)).any()


def test_logits_of_the_last_token() -> None:
    """A view with gaps between its rows."""
    check(torch.randn(3, 4, 640, generator=torch.Generator().manual_seed(0)).to(DEVICE)[:, -1])


@pytest.mark.gpu
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_compiled(vocabulary: int) -> None:
    compiled = torch.compile(largest, fullgraph=True, dynamic=False)
    generator = torch.Generator().manual_seed(0)
    for logits in (torch.randn(8, vocabulary, generator=generator),
                   torch.randint(-3, 1, (8, vocabulary), generator=generator)):  # fmt: skip
        given = logits.bfloat16().cuda()
        assert torch.equal(compiled(given), given.argmax(-1, keepdim=True))
