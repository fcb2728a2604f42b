"""What check_quantizer tries: every input can be made again from its expression, and is what its name says."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import qkernels
from qkernels.codec import E2M1_VALUES
from qkernels.format import E4M3, FORMATS, S8, Format
from qkernels.providers.torch_quantize import torch_exact
from qkernels.quantize import quantize
from qkernels.testing import CHECKS, strategies
from qkernels.testing.exactness import exact_elements
from qkernels.testing.inputs import DTYPES, LAYOUTS, Sample, arranged
from qkernels.testing.quantizer import make_subject
from qkernels.testing.ties import element_values, near_ties, ties

NAMES = {name: getattr(strategies, name) for name in strategies.__all__} | {
    "torch": torch,
    "qkernels": qkernels,
}


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda f: f.name)
def test_every_named_input_is_what_its_expression_makes(fmt: Format, rows: int) -> None:
    subject = make_subject(torch_exact, fmt, None, None, None, None, "cpu")
    subject = dataclasses.replace(subject, rows=rows, step=fmt.block or 1)
    for name, check in CHECKS.items():
        if check.named is None or check.applies(subject):
            continue
        samples = list(check.named(subject, DTYPES))
        assert samples, name
        for sample in samples:
            made = eval(sample.code, NAMES)
            assert same_bits(made.contiguous(), sample.x.contiguous()), sample.code
            assert len(made) % rows == 0 or name == "shapes"


@given(sample=strategies.samples(), tall=strategies.samples(rows=16, step=32, any_bits=False))
def test_every_drawn_input_is_what_its_expression_makes_and_finite(sample: Sample, tall: Sample) -> None:
    for each in (sample, tall):
        assert same_bits(eval(each.code, NAMES), each.x)
        assert each.x.isfinite().all()
    assert sample.x.shape[1] % 16 == 0
    assert (tall.x.shape[0] % 16, tall.x.shape[1] % 32) == (0, 0)


@given(
    x=strategies.tensors(), bits=strategies.raw_bits(), shape=strategies.shapes(rows=3, step=8, max_rows=9)
)
def test_strategies_keep_their_word(x: torch.Tensor, bits: torch.Tensor, shape: tuple[int, int]) -> None:
    assert x.isfinite().all()
    assert bits.isfinite().all()
    assert bits.shape[0] == 1
    assert (shape[0] % 3, shape[1] % 8) == (0, 0)
    assert 3 <= shape[0] <= 9


@given(layout=strategies.layouts(), seed=st.integers(0, 9))
def test_a_layout_changes_where_x_lies_and_not_what_it_is(layout: str, seed: int) -> None:
    x = strategies.drawn("normal", 4, 32, seed=seed)
    if layout == "broadcast row":
        x = x[:1].repeat(4, 1)
    y = arranged(x, layout)
    assert torch.equal(y.reshape(4, 32), x)
    assert y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


def test_layouts_are_those_that_kernels_get_wrong() -> None:
    x = strategies.drawn("normal", 4, 32)
    made = {name: arranged(x, name) for name in LAYOUTS}
    assert made["misaligned"].is_contiguous()
    assert made["misaligned"].data_ptr() % 16 == 4
    assert made["transposed"].stride() == (1, 4)
    assert made["column slice"].stride() == (80, 1)
    assert made["column slice"].storage_offset() % 16 == 0
    assert made["odd column slice"].storage_offset() % 2 == 1
    assert made["every second column"].stride() == (64, 2)
    assert made["every third row"].stride() == (96, 1)
    assert made["broadcast row"].stride() == (0, 1)
    assert made["three axes"].shape == (2, 2, 32)


def test_values_of_an_element_are_those_of_its_codes() -> None:
    assert element_values(FORMATS["nvfp4"].element).tolist() == list(E2M1_VALUES)
    assert len(element_values(E4M3)) == 127
    assert element_values(S8).tolist() == list(range(129))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_near_ties_are_the_ties_and_both_neighbours_of_either_sign(dtype: torch.dtype) -> None:
    near = near_ties(FORMATS["nvfp4"].element, 0.5, dtype).double()
    assert near.shape == (6, 7)
    assert (near[0] * 2).tolist() == [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    assert ((near[1] < near[0]) & (near[0] < near[2])).all()
    assert torch.equal(near[3:], -near[:3])
    gap = near[2] / near[0] - 1
    assert (gap <= torch.finfo(dtype).eps * (1 + 1e-9)).all()


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda f: f.name)
def test_inputs_of_ties_are_exact_where_bits_must_be_equal(fmt: Format) -> None:
    """Else the check would say nothing of the tie rule."""
    if fmt.scale == "e8m0" or fmt.select or fmt.name == "int8":
        return
    for dtype in DTYPES:
        for x in ties(fmt, fmt.block or 1, dtype).values():
            q = quantize(x, fmt)
            exact = exact_elements(q, x)
            assert float(exact.float().mean()) > (0.3 if fmt.scale == "e4m3" else 0.99)
            middle = (q.exact_values() - x.double()).abs()[exact]
            assert bool((middle > 0).any())
