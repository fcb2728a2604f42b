"""Recipes as data, and the layers they make: what each computes, on which units, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from qbench import Unsupported
from qkernels import LinearNVFP4, get_format, reference
from qkernels.codec import round_to
from qkernels.models import RECIPES, CodesLinear, Recipe, get_recipe
from qkernels.models.codes import _decoded_product
from qkernels.models.fast import ScaledLinear, fastest, on_cuda
from tests.models.tiny_models import distance, each_alone

HOPPER = (9, 0)
QUANTIZED = [name for name, recipe in RECIPES.items() if recipe.weight]
OTHERS = [
    Recipe("nvfp4-static", "nvfp4", "nvfp4", "static"),
    Recipe("nvfp4-rotated", "nvfp4", "nvfp4", "token", hadamard=64),
    Recipe("nvfp4-4over6", "nvfp4_4over6", ""),
    Recipe("mxfp4-even-rotated", "mxfp4_even", "mxfp4_even", hadamard=32),
    Recipe("fp8-tensor", "fp8", "fp8_token"),
    Recipe("fp8-static", "fp8", "fp8", "static"),
    Recipe("int8-static", "int8_token", "int8", "static"),
]
EVERY = [RECIPES[name] for name in QUANTIZED] + OTHERS
every_recipe = pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)


def dense(k: int = 128, n: int = 64, bias: bool = True, dtype: torch.dtype = torch.bfloat16) -> nn.Linear:
    """Output channels of unlike sizes, so that the scale of one does not do for another."""
    torch.manual_seed(0)
    linear = nn.Linear(k, n, bias=bias, dtype=dtype).requires_grad_(False)
    linear.weight *= torch.logspace(-0.5, 0.5, n).to(dtype)[:, None]
    return linear


def normal(*shape: int, seed: int = 1, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def coded(recipe: Recipe, **options: object) -> CodesLinear:
    return CodesLinear.from_linear(dense(**options), recipe, 4.0)  # type: ignore[arg-type]


def test_the_presets_are_the_published_ones() -> None:
    assert list(RECIPES) == [
        "bf16", "fp8", "int8", "nvfp4-w4a16", "nvfp4-w4a4", "mxfp4-w4a16", "mxfp4-w4a4", "nemotron-nano"
    ]  # fmt: skip
    assert all(recipe.name == name and recipe.skips("lm_head") for name, recipe in RECIPES.items())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (("nvfp4", "nvfp4"), ["25%", "global_scale='token'", "calibrate()"]),
        (("nvfp4", "nvfp4", "dynamic"), ["25%", "global_scale='token'"]),
        (("nvfp4_4over6", "nvfp4_4over6"), ["beside it", "global_scale='static'"]),
        (("fp8", "fp8"), ["beside it", "activation='fp8_token'"]),
        (("int8_token", "int8"), ["beside it", "activation='int8_token'"]),
        (("fp8", "fp8", "token"), ["no form of one scale a token", "activation='fp8_token'"]),
        (("mxfp4", "mxfp4", "static"), ["mxfp4 computes a scale", "drop"]),
        (("nvfp4", "", "token"), ["16 bits have no scale"]),
        (("nvfp4", "mxfp4"), ["mxfp4 do not multiply weights in nvfp4", "take nvfp4 or 16 bits"]),
        (("nvfp4_2d", ""), ["no layer holds weights in nvfp4_2d", "nvfp4"]),
        (("int4", ""), ["no layer holds weights in int4"]),
        (("nvfp5", ""), ["unknown format 'nvfp5'", "nvfp4"]),
        (("", "nvfp4"), ["without a weight format"]),
    ],
)
def test_what_would_be_wrong_is_refused_with_the_remedy(fields: tuple[str, ...], words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^mine: |^unknown format") as caught:
        Recipe("mine", *fields)  # type: ignore[arg-type]
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_rotation_that_the_format_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="fp8 takes no rotation by 16; known: none"):
        Recipe("mine", "fp8", "fp8_token", hadamard=16)
    with pytest.raises(ValueError, match="mxfp4 takes no rotation by 16; known: 32, 64, 128"):
        Recipe("mine", "mxfp4", hadamard=16)


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"unknown recipe 'nvfp4-w4a8' \(did you mean 'nvfp4-w4a4'\?\); known: bf16, "
    ):
        get_recipe("nvfp4-w4a8")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("lm_head", "lm_head"), ("model.language.lm_head", "lm_head"), ("model.layers.3.mixer.q_proj", "q_proj"),
        ("model.layers.3.mixer.up_proj", None), ("model.lm_head_norm", None), ("my_lm_head", None),
    ],
)  # fmt: skip
def test_patterns_name_a_module_whole_or_from_a_dot_on(name: str, pattern: str | None) -> None:
    assert RECIPES["nemotron-nano"].skips(name) == pattern


@every_recipe
@pytest.mark.parametrize("bias", [True, False])
def test_the_plain_layer_is_the_reference(recipe: Recipe, bias: bool) -> None:
    layer, x = coded(recipe, bias=bias), normal(5, 128)
    expected = reference.matmul(layer.quantize_input(x), layer.quantized_weight(), bias=layer.bias)
    assert torch.equal(layer(x), round_to(expected, torch.bfloat16))
    assert distance(layer(x), dense(bias=bias)(x)) < (0.05 if layer.format.element.bits == 8 else 0.3)


@every_recipe
@pytest.mark.parametrize("rows", [1, 5, 70])
def test_the_fast_layer_computes_what_the_plain_one_does(recipe: Recipe, rows: int) -> None:
    layer, x = coded(recipe), normal(rows, 128)
    fast = on_cuda(layer, torch.bfloat16, HOPPER).module
    assert distance(fast(x), layer(x)) < 2e-3  # roundings to bf16 that fall the other way
    decoded = _decoded_product(layer.quantize_input(x), layer.quantized_weight(), layer.bias, x.dtype)
    assert distance(decoded, layer(x)) < 2e-3


def swap_nibbles(layer: nn.Module, name: str) -> None:
    codes = getattr(layer, name)
    setattr(layer, name, (codes >> 4) | (codes << 4))


@pytest.mark.parametrize(
    ("recipe", "bug"),
    [
        ("nvfp4-w4a16", lambda layer: swap_nibbles(layer, "weight")),
        ("mxfp4-w4a4", lambda layer: swap_nibbles(layer, "weight")),
        ("nvfp4-w4a4", lambda layer: setattr(layer, "weight_global_scale", 1 / layer.weight_global_scale)),
        ("mxfp4-w4a16", lambda layer: setattr(layer, "weight_scale", layer.weight_scale + 1)),
        ("fp8", lambda layer: setattr(layer, "weight_scale", layer.weight_scale.roll(1, 0))),
        ("int8", lambda layer: setattr(layer, "weight", layer.weight.roll(1, 1))),
        ("nvfp4-static", lambda layer: setattr(layer, "input_scale", layer.input_scale * 64)),
    ],
)
def test_a_planted_bug_is_seen_by_the_same_comparison(recipe: str, bug: object) -> None:
    chosen = next(each for each in EVERY if each.name == recipe)
    layer, x = coded(chosen), normal(5, 128)
    broken = coded(chosen)
    bug(broken)  # type: ignore[operator]
    fast = on_cuda(broken, torch.bfloat16, HOPPER).module
    assert distance(fast(x), layer(x)) > 0.02


@every_recipe
def test_rows_do_not_depend_on_their_batch(recipe: Recipe) -> None:
    layer, x = coded(recipe), normal(8, 128) * torch.logspace(-2, 2, 8)[:, None].bfloat16()
    for each in (layer, on_cuda(layer, torch.bfloat16, HOPPER).module):
        assert distance(each_alone(each, x), each(x)) < 1e-3


def test_that_property_fails_for_a_scale_of_the_whole_tensor() -> None:
    layer, x = LinearNVFP4.from_linear(dense()), normal(8, 128) * torch.logspace(-2, 2, 8)[:, None].bfloat16()
    alone, together = each_alone(layer, x), layer(x)
    assert distance(alone[:4], together[:4]) > 0.05


@pytest.mark.parametrize(
    ("recipe", "capability", "backend", "mode"),
    [
        ("fp8", HOPPER, "triton/torch-scaled-mm", "native"),
        ("fp8", (8, 9), "torch-scaled-mm", "native"),
        ("int8", (8, 0), "torch-int-mm", "native"),
        ("nvfp4-w4a16", (8, 0), "triton-prepared", "weight-only"),
        ("nvfp4-w4a4", HOPPER, "triton-prepared", "weight-only"),
        ("mxfp4-w4a16", HOPPER, "triton-prepared", "weight-only"),
        ("mxfp4-w4a4", HOPPER, "triton-folded-fp8", "native"),
    ],
)
def test_the_mode_says_what_the_units_multiply(
    recipe: str, capability: tuple[int, int], backend: str, mode: str
) -> None:
    placed = on_cuda(coded(RECIPES[recipe]), torch.bfloat16, capability)
    assert (placed.backend, placed.mode, placed.note) == (backend, mode, "")


def test_weights_that_cannot_be_folded_are_weight_only_with_the_reason() -> None:
    placed = on_cuda(coded(RECIPES["mxfp4-w4a4"], n=60), torch.bfloat16, HOPPER)
    assert (placed.backend, placed.mode) == ("triton-prepared", "weight-only")
    assert "60 is no multiple of 8" in placed.note


@pytest.mark.parametrize(
    ("recipe", "options", "dtype", "capability", "reason"),
    [
        ("fp8", {}, torch.bfloat16, (8, 0), "needs compute capability 8.9, this is 8.0"),
        ("fp8", {"n": 72}, torch.bfloat16, HOPPER, "multiples of 16, not 72 and 128"),
        ("fp8", {}, torch.float16, HOPPER, "gives bfloat16, not torch.float16"),
        ("int8", {"n": 60}, torch.bfloat16, HOPPER, "multiples of 8, not 60"),
        ("nvfp4-w4a16", {}, torch.float32, HOPPER, "activations are torch.float32"),
        ("mxfp4-w4a16", {}, torch.float16, HOPPER, "range of float16"),
        ("nvfp4-w4a4", {}, torch.bfloat16, (7, 5), "sm_80"),
        (
            "nvfp4-w4a4",
            {"k": 32784, "n": 8},
            torch.bfloat16,
            HOPPER,
            "at most 32768, take global_scale='static'",
        ),
    ],
)
def test_what_no_kernel_takes_is_refused_with_the_reason(
    recipe: str, options: dict[str, int], dtype: torch.dtype, capability: tuple[int, int], reason: str
) -> None:
    with pytest.raises(Unsupported, match=reason):
        on_cuda(coded(RECIPES[recipe], **options), dtype, capability)


def test_on_a_cpu_the_layer_stays_and_is_called_emulated() -> None:
    layer = coded(RECIPES["fp8"])
    placed = fastest(layer, torch.bfloat16)
    assert placed.module is layer
    assert (placed.backend, placed.mode) == ("torch-reference", "emulated")


def test_static_scales_need_a_number_and_use_it() -> None:
    recipe = next(each for each in OTHERS if each.name == "nvfp4-static")
    with pytest.raises(ValueError, match="pass the numbers of calibrate"):
        CodesLinear.from_linear(dense(), recipe)
    with pytest.raises(ValueError, match="amax of a layer's input is -1"):
        CodesLinear.from_linear(dense(), recipe, -1.0)
    assert float(CodesLinear.from_linear(dense(), recipe, 4.0).input_scale) == 2688 / 4  # type: ignore[arg-type]
    fp8 = next(each for each in OTHERS if each.name == "fp8-static")
    assert float(CodesLinear.from_linear(dense(), fp8, 4.0).input_scale) == pytest.approx(4 / 448)  # type: ignore[arg-type]


@every_recipe
def test_a_cast_touches_no_code_and_no_scale(recipe: Recipe) -> None:
    layer = coded(recipe)
    kept = {name: value.clone() for name, value in layer.named_buffers() if name != "bias"}
    layer.to(torch.float16)
    assert all(torch.equal(value.float(), getattr(layer, name).float()) for name, value in kept.items())
    assert {value.dtype for value in kept.values()} == {getattr(layer, name).dtype for name in kept}
    assert layer.bias is not None and layer.bias.dtype == torch.float16
    if not layer.format.packed:
        fast = ScaledLinear(coded(recipe), torch.bfloat16, HOPPER).to(torch.float16)
        assert all(torch.equal(value.float(), getattr(fast, name).float()) for name, value in kept.items())


def test_the_longest_row_is_that_of_the_kernel() -> None:
    from qkernels.models.codes import LONGEST_ROW
    from qkernels.triton.fp4_rows import LONGEST

    assert LONGEST_ROW == LONGEST


@pytest.mark.parametrize("recipe", ["fp8", "int8", "nvfp4-w4a16", "nvfp4-w4a4", "mxfp4-w4a4"])
@pytest.mark.parametrize("fast", [True, False])
def test_a_layer_is_one_graph(recipe: str, fast: bool) -> None:
    plain = coded(RECIPES[recipe])
    layer = on_cuda(plain, torch.bfloat16, HOPPER).module if fast else plain
    torch._dynamo.reset()
    graph = torch.compile(layer, fullgraph=True, backend="eager")  # fullgraph: a break is an error
    x = normal(2, 3, 128)
    assert torch.equal(graph(x), layer(x))


@pytest.mark.parametrize("shape", [(128,), (0, 128), (2, 0, 128), (2, 3, 128)])
def test_leading_axes_are_the_inputs(shape: tuple[int, ...]) -> None:
    for recipe in ("nvfp4-w4a4", "int8"):
        layer = coded(RECIPES[recipe])
        assert layer(normal(*shape)).shape == (*shape[:-1], 64)
        assert on_cuda(layer, torch.bfloat16, HOPPER).module(normal(*shape)).shape == (*shape[:-1], 64)


def test_a_k_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="K = 72 is not a multiple of the nvfp4 block 16"):
        CodesLinear(72, 8, False, RECIPES["nvfp4-w4a16"])
    with pytest.raises(ValueError, match="input has K = 64, this layer in_features = 128"):
        coded(RECIPES["fp8"])(normal(2, 64))
    with pytest.raises(ValueError, match=r"mxfp4 .* is no weight of a layer of nvfp4"):
        coded(RECIPES["nvfp4-w4a16"]).fill(coded(RECIPES["mxfp4-w4a16"]).quantized_weight())


def test_a_recipe_is_data() -> None:
    mine = dataclasses.replace(RECIPES["nvfp4-w4a4"], name="mine", weight="nvfp4_4over6", activation="nvfp4")
    assert mine.weight_format == get_format("nvfp4_4over6")
    assert mine.activation_format == get_format("nvfp4_token")
