"""Each property that check_quantizer asks holds of the exact quantizers, and fails on a quantizer that breaks it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qkernels.format import FORMATS, Format, get_format
from qkernels.ops.quantize import QuantizeOptions
from qkernels.providers.torch_quantize import torch_exact
from qkernels.quantize import quantize
from qkernels.tensor import QTensor
from qkernels.testing.inputs import DISTRIBUTIONS, drawn
from qkernels.testing.properties import PROPERTIES, judge_property, properties_of
from qkernels.testing.quantizer import make_subject
from qkernels.testing.subject import Subject

Breaks = Callable[[Tensor, Format], QTensor]


def subject_of(quantizer: Callable[[Tensor, QuantizeOptions], Callable[[], QTensor]], fmt: Format) -> Subject:
    return make_subject(quantizer, fmt, None, None, None, None, "cpu")


def as_if(name: str) -> Breaks:
    """The result of another rule, under this format's name."""
    return lambda x, fmt: dataclasses.replace(quantize(x, get_format(name)), format=fmt)


def edited(change: Callable[[Tensor], Tensor]) -> Breaks:
    """Right for something else than x."""
    return lambda x, fmt: quantize(change(x), fmt)


def first_block_coarse(x: Tensor) -> Tensor:
    """The first 32 columns lose all but one bit."""
    head = torch.ldexp(torch.sign(x[:, :32]).float(), torch.frexp(x[:, :32].float()).exponent - 1).to(x.dtype)
    return torch.cat([head, x[:, 32:]], dim=1)


def first_of_a_block_lost(x: Tensor) -> Tensor:
    return torch.where(torch.arange(x.shape[1]) % 32 == 0, 0, x)


def scale_too_large(x: Tensor, fmt: Format) -> QTensor:
    """A block scale two steps up: the largest code is no 6 any more."""
    q = quantize(x, fmt)
    scale = torch.where((q.scale > 8) & (q.scale < 0x78), q.scale + 6, q.scale)
    codes = torch.where((q.data & 7) == 7, q.data - 1, q.data)
    return dataclasses.replace(q, scale=scale, data=codes)


def codes_exchanged(x: Tensor, fmt: Format) -> QTensor:
    """Code 2 for 3 and 3 for 2, in the even elements."""
    q = quantize(x, fmt)
    swapped = torch.where((q.data & 6) == 2, q.data ^ 1, q.data)
    return dataclasses.replace(q, data=swapped)


def offset_lost(x: Tensor, fmt: Format) -> QTensor:
    q = quantize(x, fmt)
    assert q.zero_point is not None
    return dataclasses.replace(q, zero_point=torch.zeros_like(q.zero_point))


BREAKS: dict[str, tuple[str, Breaks]] = {
    "error within the bound of the format": ("mxfp4", edited(lambda x: x * 1.5)),
    "odd": ("mxfp4", edited(lambda x: torch.where(x < 0, x * 1.25, x))),
    "monotone within a block": ("mxfp4", codes_exchanged),
    "a power of two passes through": ("mxfp4", edited(lambda x: x + 0.5)),
    "blocks may be moved": ("mxfp4", edited(first_block_coarse)),
    "elements of a block may be moved": ("mxfp4", edited(first_of_a_block_lost)),
    "idempotent in bytes": ("mxfp4", as_if("mxfp4_ceil")),
    "idempotent in values": ("mxfp4_ceil", as_if("mxfp4_quest")),
    "blocks of normal scale are idempotent": ("nvfp4_1l", scale_too_large),
    "blocks of normal scale hold a six": ("nvfp4_1l", scale_too_large),
    "representable blocks are kept": ("mxfp4", as_if("mxfp4_ceil")),
    "constant rows are kept": ("int8_asym", offset_lost),
}


def broken_by(subject: Subject, name: str) -> bool:
    return any(
        judge_property(subject, drawn(kind, 3, 64, seed=seed), name) is not None
        for kind in DISTRIBUTIONS
        for seed in range(3)
    )


def test_every_property_has_a_quantizer_that_breaks_it() -> None:
    assert list(BREAKS) == list(PROPERTIES)


@pytest.mark.parametrize("name", BREAKS)
def test_a_property_fails_on_a_quantizer_that_breaks_it(name: str) -> None:
    fmt, breaks = get_format(BREAKS[name][0]), BREAKS[name][1]
    assert name in properties_of(subject_of(torch_exact, fmt))
    assert not broken_by(subject_of(torch_exact, fmt), name)
    assert broken_by(subject_of(lambda x, options: lambda: breaks(x, options.format), fmt), name)


def test_the_properties_of_each_format_are_those_that_are_true_of_it() -> None:
    """A property that is dropped here is no longer tested anywhere."""
    error, odd, monotone, power, blocks, elements, in_bytes, in_values, normal, six, kept, constant = (
        PROPERTIES
    )
    always = {monotone, blocks}
    plain = always | {error, odd, elements}
    wanted = {
        **{name: plain | {power, normal, six} for name in ("nvfp4", "nvfp4_2d", "nvfp4_min_scale")},
        "nvfp4_1l": plain | {normal, six},
        "nvfp4_token": plain | {power, six},
        **{name: always | {odd, power} for name in ("nvfp4_4over6", "nvfp4_4over6_mae")},
        **{name: plain | {power, in_bytes, in_values, kept} for name in ("mxfp4", "mxfp4_even")},
        "mxfp4_ceil": plain | {power, in_values},
        "mxfp4_rceil": plain | {power, in_values, kept},
        "mxfp4_abs_max": plain,
        "mxfp4_quest": always | {odd},
        **{name: plain | {power, in_values} for name in ("mxfp8", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3")},
        **dict.fromkeys(("fp8", "fp8_token", "fp8_block", "fp8_block_2d", "int8_token"), plain),
        "int8": plain - {odd},  # static: -128 is reachable, 128 is not
        "int4": plain - {odd},  # 7.5 rounds to 7, -7.5 to -8
        **{name: plain - {odd} | {constant} for name in ("int8_asym", "int4_asym")},
    }
    assert set(wanted) == set(FORMATS)
    for name, properties in wanted.items():
        assert set(properties_of(subject_of(torch_exact, FORMATS[name]))) == properties, name


def test_no_property_is_asked_of_a_rotated_result() -> None:
    assert properties_of(make_subject(torch_exact, "nvfp4", 16, None, None, None, "cpu")) == []
