"""Whole models under every recipe: decoded as prefilled, batched as alone, and reported as they are."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import pytest
import torch
from torch import nn

from qbench.model import Decoder
from qbench.model.verify import agrees, decoded, text_of, uncached
from qbench.model.verify import found as left
from qkernels.models import (
    RECIPES,
    CodesLinear,
    Recipe,
    build,
    calibrate,
    get_model,
    support,
    swap,
)
from qkernels.models.fast import FastLinear, ScaledLinear, TokenLinear, on_cuda
from qkernels.models.merge import Part
from tests.models.tiny_models import (
    PRESETS,
    decoded_logits,
    distance,
    each_alone,
    logits,
    swap_for_dynamic_nvfp4,
    swapped,
    tokens,
)

pytest.importorskip("transformers", reason="transformers is not installed; pip install -e .[models]")

every_preset = pytest.mark.parametrize("preset", PRESETS)
every_recipe = pytest.mark.parametrize("recipe", RECIPES)
SUBMODULES = {  # quantized of all linear layers
    "tiny-llama": {"nemotron-nano": (6, 15)},
    "tiny-nemotron-h": {"nemotron-nano": (8, 13)},
}
NEAR = 0.15  # of bf16 models: codes that fall the other way. A scale of the whole tensor costs 0.17 to 0.24
ALL = {"tiny-llama": (14, 15), "tiny-nemotron-h": (12, 13)}


@every_preset
@every_recipe
def test_a_model_decodes_as_it_prefills_and_a_batch_as_its_rows(preset: str, recipe: str) -> None:
    """In fp32, where the two ways of a Mamba layer agree to 1e-6: an activation code that falls the other way for it
    costs 1e-3. A scale of the whole tensor costs 0.2."""
    model, _ = swapped(preset, recipe, dtype=torch.float32)
    ids = tokens()
    whole = logits(model, ids)
    assert distance(decoded_logits(model, ids, prompt=9), whole) < 0.01
    assert distance(each_alone(lambda row: logits(model, row), ids), whole) < 0.01


@every_preset
def test_a_global_scale_of_the_whole_tensor_does_neither(preset: str) -> None:
    model, ids = build(preset, device="cpu", dtype=torch.float32), tokens()
    swap_for_dynamic_nvfp4(model)
    whole = logits(model, ids)
    assert distance(decoded_logits(model, ids, prompt=9), whole) > 0.1
    assert distance(each_alone(lambda row: logits(model, row), ids), whole) > 0.1


@every_preset
@every_recipe
def test_logits_are_near_those_of_16_bits(preset: str, recipe: str) -> None:
    plain, (model, _) = build(preset, device="cpu"), swapped(preset, recipe)
    limit = {"bf16": 0.0, "fp8": 0.15, "int8": 0.1}.get(recipe, 0.5)
    assert distance(logits(model, tokens()), logits(plain, tokens())) <= limit


@every_preset
@every_recipe
def test_the_report_is_what_the_model_holds(preset: str, recipe: str) -> None:
    """Against bytes from the formats alone."""
    plain, (model, report) = build(preset, device="cpu"), swapped(preset, recipe)
    count = (0, ALL[preset][1]) if recipe == "bf16" else SUBMODULES[preset].get(recipe, ALL[preset])
    assert (len(report.swapped), len(report.layers)) == count
    fmt = RECIPES[recipe].weight_format
    for layer in report.layers:
        before, now = plain.get_submodule(layer.name), model.get_submodule(layer.name)
        assert tuple(before.weight.shape) == (layer.n, layer.k)
        assert layer.bytes_before == 2 * layer.n * layer.k
        assert isinstance(now, nn.Linear if layer.skipped else CodesLinear)
        assert layer.bytes_after == (
            2 * layer.n * layer.k if layer.skipped or not fmt else fmt.nbytes((layer.n, layer.k))
        )
        assert (layer.mode, layer.backend) == (
            ("none", "torch") if layer.skipped else ("emulated", "torch-reference")
        )
    assert report.mode == ("none" if recipe == "bf16" else "emulated")
    assert report.bytes_after == sum(layer.bytes_after for layer in report.layers)
    held = sum(
        tensor.nbytes for tensor in {id(t): t for t in [*model.parameters(), *model.buffers()]}.values()
    )
    everything = sum(tensor.nbytes for tensor in [*plain.parameters(), *plain.buffers()])
    assert held - report.bytes_after == everything - report.bytes_before


@pytest.mark.parametrize(
    ("recipe", "mode", "backend"),
    [
        ("fp8", "native", "triton/torch-scaled-mm"),
        ("int8", "native", "torch-int-mm"),
        ("nvfp4-w4a16", "weight-only", "triton-prepared"),
        ("nvfp4-w4a4", "weight-only", "triton-prepared"),
        ("mxfp4-w4a4", "native", "triton-folded-fp8"),
    ],
)
@every_preset
def test_a_model_of_fast_layers_is_that_of_the_plain_ones(
    preset: str, recipe: str, mode: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers that Hopper gets, whose operators compute on a CPU what their kernels must give. A Mamba layer makes
    rounding to bf16 the other way in one place (3e-3) to another code in the next."""
    plain, _ = swapped(preset, recipe)
    module = importlib.import_module("qkernels.models.swap")
    monkeypatch.setattr(module, "fastest", lambda layer, dtype: on_cuda(layer, dtype, (9, 0)))
    fast, report = swapped(preset, recipe)
    assert (report.mode, report.backend) == (mode, backend)
    fmt = RECIPES[recipe].weight_format
    assert fmt is not None
    for (
        layer
    ) in report.swapped:  # rows are padded to 16, K to 128; one of several has their joint global scale
        least = fmt.nbytes((layer.n, layer.k)) - (4 if fmt.levels == 2 else 0)
        assert least <= layer.bytes_after <= 1.1 * least + 4 * layer.n, layer
    ids = tokens()
    whole = logits(fast, ids)
    assert distance(whole, logits(plain, ids)) < NEAR
    assert distance(decoded_logits(fast, ids, prompt=9), whole) < NEAR
    assert distance(each_alone(lambda row: logits(fast, row), ids), whole) < NEAR


def test_nemotrons_recipe_takes_mamba_and_mlp_alone() -> None:
    _, report = swapped("tiny-nemotron-h", "nemotron-nano")
    assert {layer.name.rpartition(".")[2] for layer in report.swapped} == {
        "in_proj",
        "out_proj",
        "up_proj",
        "down_proj",
    }
    skipped = {layer.name.rpartition(".")[2]: layer.skipped for layer in report.layers if layer.skipped}
    assert skipped["q_proj"] == "named by the recipe (q_proj)"
    assert set(skipped) == {"q_proj", "k_proj", "v_proj", "o_proj", "lm_head"}


def test_a_skip_that_is_ignored_shows_in_the_model() -> None:
    """The check above is one of the modules, and a recipe without the names fails it."""
    everything = dataclasses.replace(RECIPES["nemotron-nano"], skip=())
    model = build("tiny-nemotron-h", device="cpu")
    report = swap(model, everything)
    assert len(report.swapped) == 13
    assert isinstance(model.lm_head, CodesLinear)
    assert (
        distance(logits(model, tokens()), logits(swapped("tiny-nemotron-h", "nemotron-nano")[0], tokens()))
        > 0.05
    )


class Small(nn.Module):
    """A tied head, a K of 72, a layer under two names, a subclass of nn.Linear, and an inner block."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 32, dtype=torch.bfloat16)
        self.up = nn.Linear(32, 96, dtype=torch.bfloat16)
        self.odd = nn.Linear(72, 32, dtype=torch.bfloat16)
        self.down = self.again = nn.Linear(96, 32, bias=False, dtype=torch.bfloat16)
        self.special = _Special(32, 32, dtype=torch.bfloat16)
        self.head = nn.Linear(32, 64, bias=False, dtype=torch.bfloat16)
        if tied:
            self.head.weight = self.embedding.weight
        self.requires_grad_(False)

    def forward(self, ids: torch.Tensor) -> Any:
        x = self.embedding(ids)
        x = self.special(x + self.again(torch.relu(self.down(torch.relu(self.up(x))).repeat(1, 3))))
        return self.head(x)


class _Special(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_what_is_left_alone_says_why() -> None:
    model = Small()
    report = swap(model, "mxfp4-w4a16")
    why = {layer.name: layer.skipped for layer in report.layers}
    assert why == {
        "up": "",
        "odd": "K = 72 is not a multiple of the mxfp4 block 32",
        "down": "",
        "again": "",
        "special": "a _Special, whose forward may be another",
        "head": "its weight is that of embedding, which stays in 16 bits; quantized it would be a second copy",
    }
    assert model.head.weight is model.embedding.weight
    assert "K = 72" in report.table()


def test_an_untied_head_of_another_name_is_quantized_unless_it_is_named() -> None:
    assert isinstance(_swapped_head(Recipe("mine", "mxfp4")), CodesLinear)
    assert isinstance(_swapped_head(Recipe("mine", "mxfp4", skip=("head",))), nn.Linear)


def _swapped_head(recipe: Recipe) -> nn.Module:
    model = Small(tied=False)
    swap(model, recipe)
    return model.head


def test_one_layer_under_two_names_is_quantized_and_counted_once() -> None:
    model = Small()
    report = swap(model, "nvfp4-w4a16")
    assert model.down is model.again
    assert isinstance(model.down, CodesLinear)
    first, second = (next(each for each in report.layers if each.name == name) for name in ("down", "again"))
    assert (first.bytes_before, second.bytes_before) == (2 * 96 * 32, 0)
    assert first.bytes_after == model.down.quantized_weight().nbytes
    assert second.bytes_after == 0


def test_the_bias_is_counted_on_both_sides() -> None:
    report = swap(Small(), "nvfp4-w4a16")
    up = report.layers[0]
    assert up.bytes_before == 2 * 96 * 32 + 2 * 96
    assert up.bytes_after == RECIPES["nvfp4-w4a16"].weight_format.nbytes((96, 32)) + 2 * 96  # type: ignore[union-attr]


def test_only_some_layers_are_looked_at_and_one_can_be_put_back() -> None:
    model = build("tiny-llama", device="cpu")
    base, name = logits(model, tokens()), "model.layers.1.mlp.down_proj"
    original = model.get_submodule(name)
    report = swap(model, "nvfp4-w4a4", only=(name,))
    assert [layer.name for layer in report.layers] == [name]
    assert 0 < distance(logits(model, tokens()), base) < 0.2
    model.set_submodule(name, original)
    assert torch.equal(logits(model, tokens()), base)


@every_preset
def test_static_scales_come_from_calibration(preset: str) -> None:
    recipe = Recipe("static", "nvfp4", "nvfp4", "static")
    model = build(preset, device="cpu", dtype=torch.float32)
    seen: dict[str, float] = {}
    name = next(n for n, m in model.named_modules() if n.endswith("down_proj"))
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda module, args: seen.update(amax=max(seen.get("amax", 0.0), float(args[0].abs().amax())))
    )
    amax = calibrate(model, recipe, [tokens(), {"input_ids": tokens(1, 20)}])
    handle.remove()
    assert amax[name] == seen["amax"]
    with pytest.raises(ValueError, match="pass the numbers of calibrate"):
        swap(build(preset, device="cpu"), recipe)
    with pytest.raises(ValueError, match=f"no number for .*{name.rpartition('.')[2]}"):
        swap(build(preset, device="cpu"), recipe, calibration={k: v for k, v in amax.items() if k != name})
    swap(model, recipe, calibration=amax)
    assert float(model.get_submodule(name).input_scale) == pytest.approx(2688 / amax[name])
    ids = tokens()
    whole = logits(model, ids)
    assert distance(decoded_logits(model, ids, prompt=9), whole) < 0.01
    assert distance(each_alone(lambda row: logits(model, row), ids), whole) < 0.01


def test_calibration_without_a_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="no batch went through"):
        calibrate(build("tiny-llama", device="cpu"), "nvfp4-w4a4", [])


def test_the_slowest_mode_is_the_models() -> None:
    _, report = swapped("tiny-llama", "nvfp4-w4a16")
    first, *others = report.layers
    native = [dataclasses.replace(layer, mode="native", backend="a") for layer in others if not layer.skipped]
    assert dataclasses.replace(report, layers=tuple(native)).mode == "native"
    assert dataclasses.replace(report, layers=(first, *native)).mode == "emulated"
    assert dataclasses.replace(report, layers=(first, *native)).backend == "torch-reference+a"


def test_the_same_seed_gives_the_same_weights_and_another_others() -> None:
    ids = tokens()
    for preset in PRESETS:
        one = logits(build(preset, device="cpu", seed=1), ids)
        torch.manual_seed(5)
        assert torch.equal(one, logits(build(preset, device="cpu", seed=1), ids))
        assert distance(one, logits(build(preset, device="cpu", seed=2), ids)) > 0.5
        short, whole = build(preset, device="cpu", layers=1), build(preset, device="cpu")
        name = next(n for n, m in short.named_modules() if isinstance(m, nn.Linear))
        assert torch.equal(short.get_submodule(name).weight, whole.get_submodule(name).weight)
        assert 0.5 < float(logits(whole, ids).std()) < 2  # neither vanishes nor explodes


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("meta-llama/Llama-3.1-8B", 8.03e9),
        ("meta-llama/Llama-3.3-70B-Instruct", 70.6e9),
        ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", 8.89e9),
    ],
)
def test_the_published_shapes_have_the_published_sizes(preset: str, parameters: float) -> None:
    """On the meta device, where nothing is allocated; layer shapes are those that products are swept over."""
    model = build(preset.partition("/")[2].lower(), device="meta")
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.003)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    linears = [m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    swept = [layer.shape(1) for layer in get_model(preset).layers]
    assert {m.in_features for m in linears} == {k for k, _ in swept}
    assert len(model.model.layers) == {
        "meta-llama/Llama-3.1-8B": 32,
        "meta-llama/Llama-3.3-70B-Instruct": 80,
    }.get(preset, 56)
    assert len(build(preset, device="meta", layers=1).model.layers) == 1


def test_a_preset_or_a_number_of_layers_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"unknown preset 'llama-4'; known: meta-llama/Llama-3\.1-8B, "):
        build("llama-4", device="cpu")
    with pytest.raises(ValueError, match="layers = 6: tiny-nemotron-h has 1 to 5"):
        build("tiny-nemotron-h", device="cpu", layers=6)


@pytest.mark.gpu
@every_preset
@every_recipe
def test_on_a_gpu_the_fast_layers_give_the_references_logits(preset: str, recipe: str) -> None:
    """Against the plain layers on the same GPU, and in the mode that the table of capabilities promises."""
    found = support(recipe, "cuda")
    if not found.ok:
        pytest.skip(f"{found.code}: {found.reason}")
    plain, _ = swapped(preset, recipe, device="cuda", emulate=True)
    fast, report = swapped(preset, recipe, device="cuda")
    assert report.mode == found.mode, report.table()
    ids = tokens(device="cuda")
    whole = logits(fast, ids)
    assert distance(whole, logits(plain, ids)) < NEAR
    assert distance(decoded_logits(fast, ids, prompt=9), whole) < NEAR
    assert distance(each_alone(lambda row: logits(fast, row), ids), whole) < NEAR
    kinds = (FastLinear, ScaledLinear, TokenLinear, Part)
    if recipe != "bf16":
        assert all(isinstance(fast.get_submodule(layer.name), kinds) for layer in report.swapped)


@pytest.mark.gpu
@every_preset
@every_recipe
def test_on_a_gpu_a_step_is_one_captured_graph_that_decodes_what_the_model_says(
    preset: str, recipe: str
) -> None:
    """By the harness's own check: against a forward without a cache, within what a rounding of this model moves."""
    found = support(recipe, "cuda")
    if not found.ok:
        pytest.skip(f"{found.code}: {found.reason}")
    model, _ = swapped(preset, recipe, device="cuda")
    decoder = Decoder(model, batch=2, prompt=5, new=4)
    assert decoder.mode == "graph"
    seen = decoded(decoder)
    ids, places = text_of(decoder, seen)
    assert agrees(left(decoder, seen), (model, ids, places), uncached) is None
    decoder.compilations.assert_one_graph("after decoding")
