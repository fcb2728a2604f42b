"""The tiny model under every recipe, judged per problem against 16 bits; and that gross bugs do not pass.

What this cannot see is asserted too: a scale rule that is another one costs no more than the right one does, nor does a
global scale that is left out. Those are judged by the quantizers' and the products' own references.
On a CPU all layers are the plain ones of 'emulated' mode; with a GPU the ones that truly run there.
"""

import dataclasses

import pytest

pytest.importorskip("transformers", reason="the extra `models` is not installed")

import torch

from qbench.model.accuracy import exact_match, measure
from qbench.model.accuracy.rule import Finding, judge
from qbench.model.tiny import load_tiny
from qbench.model.tiny.load import NEW
from qkernels import models
from qkernels.codec import E2M1_VALUES, decode_e8m0

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = "bfloat16" if DEVICE == "cuda" else "float32"  # on a CPU bfloat16 takes tenfold
FEW = 400 if DEVICE == "cuda" else 64
MANY = 400 if DEVICE == "cuda" else 192  # for a bug that loses a seventh

MARGIN = {
    "fp8": 0.02, "int8": 0.02, "nvfp4-w4a16": 0.04, "mxfp4-w4a16": 0.04, "nvfp4-w4a4": 0.06, "mxfp4-w4a4": 0.10,
    "nemotron-nano": 0.06,
}  # fmt: skip
"""Loss allowed, a fraction of problems: about twice what each format's right arithmetic costs this model."""


@pytest.fixture(scope="module")
def tiny():
    return load_tiny(device=DEVICE, dtype=DTYPE)


@pytest.fixture(scope="module")
def reference(tiny):
    model, tokenizer, problems = tiny
    return measure(
        model, tokenizer, problems[:MANY], name="tiny", recipe="bf16", task="tiny", new=NEW
    ).correct


def _judge(tiny, reference, recipe, margin, spoil=None, count=FEW):
    """The recipe on the first `count` problems; spoil(layer, linear) plants a bug into each quantized layer."""
    model = load_tiny(device=DEVICE, dtype=DTYPE)[0]
    linear = dict(model.named_modules())
    report = models.swap(model, recipe, emulate=spoil is not None)
    assert len(report.swapped) >= 6  # nemotron-nano: the MLPs
    for layer in report.swapped if spoil is not None else ():
        spoil(model.get_submodule(layer.name), linear[layer.name])
    answers = exact_match(model, tiny[1], tiny[2][:count], new=NEW, batch=128)
    judged = judge(reference[:count], answers.correct, margin=margin)
    print(report.recipe, report.mode, report.backend, judged.line())
    return judged


def test_every_recipe_has_a_margin():
    assert set(MARGIN) == set(models.RECIPES) - {"bf16"}


def test_the_reference_is_right(reference):
    assert sum(reference) >= 0.98 * MANY


@pytest.mark.parametrize("recipe", MARGIN)
def test_no_recipe_loses_more_than_its_margin(tiny, reference, recipe):
    judged = _judge(tiny, reference, recipe, MARGIN[recipe])
    assert judged.finding is not Finding.WORSE, judged.line()


def nibbles_swapped(layer, linear):
    layer.weight = (layer.weight >> 4) | (layer.weight << 4)


def one_operand_rotated(layer, linear):
    layer.hadamard = None


def scales_shifted_by_a_block(layer, linear):
    layer.weight_scale = layer.weight_scale.roll(1, dims=-1)


def codes_truncated(layer, linear):
    """The next code toward zero for what was rounded away from it."""
    scale = layer.weight_scale
    scale = (
        scale.view(torch.float8_e4m3fn).double()
        if layer.format.scale == "e4m3"
        else decode_e8m0(scale).double()
    )
    top = 1.0 if layer.weight_global_scale is None else layer.weight_global_scale.double()
    exact = linear.weight.double() * top
    y = exact.unflatten(-1, (-1, layer.format.block)).abs() / scale.clamp_min(1e-300).unsqueeze(-1)
    grid = torch.tensor(E2M1_VALUES, dtype=torch.float64, device=y.device)
    below = torch.searchsorted(grid, y.flatten(-2), right=True).sub(1).to(torch.uint8)
    codes = below | ((exact < 0).to(torch.uint8) << 3)
    layer.weight = codes[..., 0::2] | (codes[..., 1::2] << 4)


BUGS = [nibbles_swapped, scales_shifted_by_a_block, codes_truncated]


@pytest.mark.parametrize("recipe", ["nvfp4-w4a16", "mxfp4-w4a16"])
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_gross_bugs_fail(tiny, reference, recipe, bug):
    count = MANY if bug is scales_shifted_by_a_block else FEW
    judged = _judge(tiny, reference, recipe, MARGIN[recipe], bug, count)
    assert judged.finding is Finding.WORSE, judged.line()


def test_a_rotation_of_one_operand_fails_and_of_both_does_not(tiny, reference):
    rotated = dataclasses.replace(models.RECIPES["mxfp4-w4a16"], name="rotated", hadamard=32)
    assert _judge(tiny, reference, rotated, 0.04).finding is not Finding.WORSE
    assert _judge(tiny, reference, rotated, 0.04, one_operand_rotated).finding is Finding.WORSE


def scales_by_another_rule(layer, linear):
    """MXFP4 with exponents rounded up where the standard rounds down."""
    other = dataclasses.replace(layer.recipe, weight="mxfp4_ceil")
    weight = models.CodesLinear.from_linear(linear, other).quantized_weight()
    layer.fill(dataclasses.replace(weight, format=layer.format))


def test_what_it_cannot_see(tiny, reference):
    """Another scale rule decodes to other weights and passes: the quantizers' references have to see that."""
    judged = _judge(tiny, reference, "mxfp4-w4a16", MARGIN["mxfp4-w4a16"], scales_by_another_rule)
    assert judged.finding is not Finding.WORSE, judged.line()
