"""Recipes as a quantizer of transformers: loading quantizes, saving and loading again keeps every bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qkernels.models import CodesLinear, Recipe, build, calibrate, load, swap
from tests.models.tiny_models import PRESETS, distance, logits, swapped, tokens

transformers = pytest.importorskip(
    "transformers", minversion="5", reason="needs transformers 5; pip install -e .[models]"
)

from qkernels.models import QKernelsConfig, attach  # noqa: E402 - imports transformers

MIXED = "nemotron-nano"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    for preset in PRESETS:
        build(preset, device="cpu").save_pretrained(folder / preset)
    return folder


def quantized(folder: Path, recipe: Recipe | str) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=QKernelsConfig(recipe)
    )


def assert_same(one: nn.Module, other: nn.Module) -> None:
    """In every bit and dtype."""
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    assert {name: tensor.dtype for name, tensor in a.items()} == {
        name: tensor.dtype for name, tensor in b.items()
    }
    assert [name for name in a if not torch.equal(_bytes(a[name]), _bytes(b[name]))] == []


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("recipe", ["nvfp4-w4a16", "mxfp4-w4a4", "fp8", "int8", MIXED])
def test_loading_quantizes_as_swapping_does_and_a_reload_is_bit_equal(
    preset: str, recipe: str, plain: Path, tmp_path: Path
) -> None:
    model = quantized(plain / preset, recipe)
    assert_same(model, swapped(preset, recipe, together=False)[0])
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_same(model, again)
    assert_same(model, load(tmp_path, device="cpu"))
    assert torch.equal(logits(model, tokens()), logits(again, tokens()))


def test_the_files_are_as_small_as_the_codes_and_say_the_recipe(plain: Path, tmp_path: Path) -> None:
    quantized(plain / "tiny-llama", "nvfp4-w4a16").save_pretrained(tmp_path)
    held = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert (held["quant_method"], held["recipe"]["name"], held["recipe"]["skip"]) == (
        "qkernels",
        "nvfp4-w4a16",
        ["lm_head"],
    )
    sizes = [
        sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        for folder in (plain / "tiny-llama", tmp_path)
    ]
    _, report = swapped("tiny-llama", "nvfp4-w4a16")
    assert sizes[0] - sizes[1] == pytest.approx(report.bytes_before - report.bytes_after, rel=0.05)


def test_a_planted_change_of_one_code_is_seen(plain: Path) -> None:
    one, other = (quantized(plain / "tiny-llama", "fp8") for _ in range(2))
    assert_same(one, other)
    layer = next(module for module in other.modules() if isinstance(module, CodesLinear))
    layer.weight.view(torch.uint8)[3, 5] ^= 1
    with pytest.raises(AssertionError):
        assert_same(one, other)


def test_what_the_recipe_names_is_left_alone(plain: Path) -> None:
    model = quantized(plain / "tiny-nemotron-h", MIXED)
    kinds = {name: type(m) for name, m in model.named_modules() if isinstance(m, nn.Linear | CodesLinear)}
    left = {name.rpartition(".")[2] for name, kind in kinds.items() if kind is nn.Linear}
    assert left == {"q_proj", "k_proj", "v_proj", "o_proj", "lm_head"}
    assert sum(kind is CodesLinear for kind in kinds.values()) == 8


def test_a_tied_head_stays_tied(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
                                      num_key_value_heads=2, vocab_size=64, tie_word_embeddings=True)  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "plain")
    model = quantized(tmp_path / "plain", Recipe("all", "mxfp4", skip=()))
    assert isinstance(model.lm_head, nn.Linear)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path / "codes")
    again = load(tmp_path / "codes", device="cpu")
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert_same(model, again)


def test_static_scales_are_saved_and_cannot_be_made_while_loading(plain: Path, tmp_path: Path) -> None:
    recipe = Recipe("static", "nvfp4", "nvfp4", "static")
    with pytest.raises(ValueError, match="which no checkpoint of 16 bits holds"):
        quantized(plain / "tiny-llama", recipe)
    model = load(plain / "tiny-llama", device="cpu")
    swap(model, recipe, calibration=calibrate(model, recipe, [tokens()]), emulate=True)
    attach(model, recipe)
    model.save_pretrained(tmp_path)
    again = load(tmp_path, device="cpu")
    assert_same(model, again)
    scales = [float(m.input_scale) for m in again.modules() if isinstance(m, CodesLinear)]
    assert len(set(scales)) > 1


def test_a_loaded_model_is_made_fast_by_swap(plain: Path) -> None:
    model = quantized(plain / "tiny-llama", "int8")
    before = logits(model, tokens())
    report = swap(model, "int8")
    assert len(report.swapped) == 14
    assert distance(logits(model, tokens()), before) == 0


def test_layers_laid_out_for_a_kernel_are_not_saved(plain: Path, tmp_path: Path) -> None:
    from qkernels.models.fast import on_cuda

    model = quantized(plain / "tiny-llama", "nvfp4-w4a16")
    name = "model.layers.0.mlp.up_proj"
    model.set_submodule(name, on_cuda(model.get_submodule(name), torch.bfloat16, (9, 0)).module)
    with pytest.raises(ValueError, match="up_proj is laid out for this GPU's kernel; save the model before"):
        model.save_pretrained(tmp_path)


def test_generate_may_be_compiled_and_the_model_saved(plain: Path) -> None:
    quantizer = quantized(plain / "tiny-llama", "fp8").hf_quantizer
    assert quantizer.is_compileable is True
    assert quantizer.is_serializable() is True
    assert quantizer.is_trainable is False


def test_a_config_with_unknown_fields_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown fields weights; known: activation, "):
        QKernelsConfig({"name": "mine", "weights": "nvfp4"})
    with pytest.raises(ValueError, match="unknown recipe 'nvfp3'"):
        QKernelsConfig("nvfp3")


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"give a local folder with config\.json"):
        load(tmp_path, device="cpu")
