"""The tiny model under every recipe: problems solved, judged per problem against 16 bits, and KL on their answers.

Problems are what a recipe is for, and only what spoils a model grossly loses any: nibbles swapped, one operand rotated,
scales shifted by a block, both operands truncated instead of rounded. Weights alone truncated cost 3% of the problems
and pass; their KL is thirty times the right one. So KL has a limit too: ten times what the right arithmetic gives,
since rescaling a model's weights, which changes no function, moves it by up to four.

Neither sees a scale rule that is another one, nor a global scale left out: those cost no more than the right ones do,
and are judged by the quantizers' and the products' own references. On a CPU all layers are the plain ones of mode
"emulated", on fewer problems; with a GPU the ones that truly run there.
"""

import dataclasses
from typing import NamedTuple

import pytest

pytest.importorskip("transformers", reason="the extra `models` is not installed")

import torch

from qbench.model.accuracy import answer_windows, divergence_from, exact_match, reference_logits
from qbench.model.accuracy.rule import Finding, judge
from qbench.model.tiny import load_tiny
from qbench.model.tiny.load import NEW
from qkernels import models, quantize
from qkernels.codec import E2M1_VALUES, decode_e8m0

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = "bfloat16" if DEVICE == "cuda" else "float32"  # on a CPU bfloat16 takes tenfold
FEW = 400 if DEVICE == "cuda" else 32
MANY = 400 if DEVICE == "cuda" else 96  # for what loses a fourth
ANSWERS = 100 if DEVICE == "cuda" else 32  # whose tokens KL is taken on


class Allowed(NamedTuple):
    margin: float  # of problems, a fraction
    kl: float  # nats a token


ALLOWED = {  # KL measured: 1.4e-6, 1.1e-5, 1.6e-5, 7.3e-5, 1.8e-4, 6.0e-3, 5.6e-5
    "int8": Allowed(0.02, 1.5e-5),
    "fp8": Allowed(0.02, 1e-4),
    "nvfp4-w4a16": Allowed(0.04, 1.6e-4),
    "mxfp4-w4a16": Allowed(0.04, 7e-4),
    "nvfp4-w4a4": Allowed(0.06, 2e-3),
    "mxfp4-w4a4": Allowed(0.10, 6e-2),
    "nemotron-nano": Allowed(0.06, 6e-4),
}


class Base(NamedTuple):
    tokenizer: object
    problems: tuple
    correct: tuple
    parts: tuple
    logits: list


class Found(NamedTuple):
    finding: Finding
    kl: float
    line: str


@pytest.fixture(scope="module")
def base():
    """The model in 16 bits (32 on a CPU): which problems it solves, and its logits on their written answers."""
    model, tokenizer, problems = load_tiny(device=DEVICE, dtype=DTYPE)
    correct = exact_match(model, tokenizer, problems[:MANY], new=NEW).correct
    parts = answer_windows(tokenizer, problems[:ANSWERS])
    return Base(tokenizer, problems, correct, parts, reference_logits(model, parts))


def _run(base, recipe, margin, spoil=None, count=FEW):
    """The recipe on the first `count` problems; spoil(layer, linear) plants a bug into each quantized layer."""
    model = load_tiny(device=DEVICE, dtype=DTYPE)[0]
    linear = dict(model.named_modules())
    report = models.swap(model, recipe, emulate=spoil is not None)
    assert len(report.swapped) >= 6  # nemotron-nano: the MLPs
    for layer in report.swapped if spoil is not None else ():
        spoil(model.get_submodule(layer.name), linear[layer.name])
    kl = divergence_from(base.logits, model, base.parts).kl
    answers = exact_match(model, base.tokenizer, base.problems[:count], new=NEW, batch=128)
    judged = judge(base.correct[:count], answers.correct, margin=margin)
    line = f"{report.recipe} ({report.mode}, {report.backend}): {judged.line()}; KL {kl}"
    print(line)
    return Found(judged.finding, kl.value, line)


def test_every_recipe_is_allowed_for():
    assert set(ALLOWED) == set(models.RECIPES) - {"bf16"}


def test_the_reference_is_right(base):
    assert sum(base.correct) >= 0.98 * MANY


@pytest.mark.parametrize("recipe", ALLOWED)
def test_no_recipe_loses_more_than_is_allowed(base, recipe):
    found = _run(base, recipe, ALLOWED[recipe].margin)
    assert found.finding is not Finding.WORSE and found.kl < ALLOWED[recipe].kl, found.line


def nibbles_swapped(layer, linear):
    layer.weight = (layer.weight >> 4) | (layer.weight << 4)


def scales_shifted_by_a_block(layer, linear):
    layer.weight_scale = layer.weight_scale.roll(1, dims=-1)


def one_operand_rotated(layer, linear):
    layer.hadamard = None


def _truncated(exact, q):
    """Codes [R, K] of the values `exact` under the scales of q: the next one toward zero; and the values they mean."""
    scale = q.scale.view(torch.float8_e4m3fn) if q.format.scale == "e4m3" else decode_e8m0(q.scale)
    top = 1.0 if q.global_scale is None else q.global_scale.double().reshape(-1, 1)
    scale = scale.double().repeat_interleave(q.format.block, dim=-1) / top
    grid = torch.tensor(E2M1_VALUES, dtype=torch.float64, device=exact.device)
    y = exact.double() / scale.clamp_min(1e-300)
    index = torch.searchsorted(grid, y.abs(), right=True) - 1
    return index.to(torch.uint8) | ((y < 0).to(torch.uint8) << 3), grid[index] * y.sign() * scale


def weight_truncated(layer, linear):
    codes, _ = _truncated(linear.weight, layer.quantized_weight())
    layer.weight = codes[..., 0::2] | (codes[..., 1::2] << 4)


def both_truncated(layer, linear):
    """What a truncating quantizer does to W4A4: the layer's own is bypassed, for it would round once more."""
    weight_truncated(layer, linear)
    fmt, layer.activation = layer.activation, None

    def before(module, inputs):
        rows = inputs[0].reshape(-1, layer.in_features)
        values = _truncated(rows, quantize(rows, fmt))[1]
        return (values.to(rows.dtype).reshape(inputs[0].shape),)

    layer.register_forward_pre_hook(before)


@pytest.mark.parametrize(
    ("bug", "recipe", "count"),
    [
        (nibbles_swapped, "nvfp4-w4a16", FEW),
        (nibbles_swapped, "mxfp4-w4a16", FEW),
        (scales_shifted_by_a_block, "nvfp4-w4a16", MANY),
        (scales_shifted_by_a_block, "mxfp4-w4a16", FEW),
        (both_truncated, "nvfp4-w4a4", FEW),
        (both_truncated, "mxfp4-w4a4", FEW),
    ],
)
def test_gross_bugs_lose_problems(base, bug, recipe, count):
    found = _run(base, recipe, ALLOWED[recipe].margin, bug, count)
    assert found.finding is Finding.WORSE and found.kl > ALLOWED[recipe].kl, found.line


@pytest.mark.parametrize("recipe", ["nvfp4-w4a16", "mxfp4-w4a16"])
def test_truncated_weights_keep_the_problems_and_not_the_kl(base, recipe):
    found = _run(base, recipe, ALLOWED[recipe].margin, weight_truncated)
    assert found.finding is not Finding.WORSE and found.kl > ALLOWED[recipe].kl, found.line


def test_a_rotation_of_one_operand_fails_and_of_both_does_not(base):
    rotated = dataclasses.replace(models.RECIPES["mxfp4-w4a16"], name="rotated", hadamard=32)
    margin, kl = ALLOWED["mxfp4-w4a16"]
    right, wrong = _run(base, rotated, margin), _run(base, rotated, margin, one_operand_rotated)
    assert right.finding is not Finding.WORSE and right.kl < kl, right.line
    assert wrong.finding is Finding.WORSE and wrong.kl > kl, wrong.line


def scales_by_another_rule(layer, linear):
    """MXFP4 with exponents rounded up where the standard rounds down."""
    other = dataclasses.replace(layer.recipe, weight="mxfp4_ceil")
    weight = models.CodesLinear.from_linear(linear, other).quantized_weight()
    assert not torch.equal(weight.data, layer.weight)
    layer.fill(dataclasses.replace(weight, format=layer.format))


def test_what_it_cannot_see(base):
    """Another scale rule decodes to other weights and passes: the quantizers' references have to see that."""
    allowed = ALLOWED["mxfp4-w4a16"]
    found = _run(base, "mxfp4-w4a16", allowed.margin, scales_by_another_rule)
    assert found.finding is not Finding.WORSE and found.kl < allowed.kl, found.line
