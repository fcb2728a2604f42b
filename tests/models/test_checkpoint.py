"""Checkpoints in the layout of compressed-tensors: their bytes are the layers' bytes.

The files are written here from the layout's description, with packing and scales of our own, and the values are decoded
by plain loops over bytes, that share no code with the package.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qkernels.models import CodesLinear, build, load, swap
from qkernels.models.checkpoint import recipe_of
from tests.models.tiny_models import PRESETS, distance, logits, tokens

pytest.importorskip("transformers", reason="transformers is not installed; pip install -e .[models]")
safetensors_torch = pytest.importorskip("safetensors.torch")

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
NVFP4, MXFP4 = "nvfp4-pack-quantized", "mxfp4-pack-quantized"


def config_of(layout: str, activations: bool, ignore: list[str]) -> dict[str, Any]:
    size = 16 if layout == NVFP4 else 32
    strategy = "tensor_group" if layout == NVFP4 else "group"
    scheme = {"num_bits": 4, "type": "float", "strategy": strategy, "group_size": size, "symmetric": True}
    inputs = {**scheme, "dynamic": "local" if layout == NVFP4 else True} if activations else None
    group = {"targets": ["Linear"], "weights": {**scheme, "dynamic": False}, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": group},
        "ignore": ignore,
        "quantization_status": "compressed",
    }


def encoded(weight: Tensor, layout: str) -> dict[str, Tensor]:
    """A weight [N, K] in the layout; scales by plain rules, codes by the nearest of eight magnitudes."""
    n, k = weight.shape
    size = 16 if layout == NVFP4 else 32
    blocks = weight.double().reshape(n, k // size, size)
    amax = blocks.abs().amax(-1)
    parts = {}
    if layout == NVFP4:
        top = torch.tensor([2688.0 / float(amax.max())])
        scale = (amax / 6 * float(top)).to(torch.float8_e4m3fn)
        step = scale.double() / float(top)
        parts |= {"weight_global_scale": top, "weight_scale": scale}
    else:
        exponent = torch.floor(torch.log2(amax.clamp(min=2.0**-100))) - 2
        parts["weight_scale"] = (exponent + 127).to(torch.uint8)
        step = torch.exp2(exponent)
    ratio = (blocks / step[..., None]).reshape(n, k)
    code = (ratio.abs()[..., None] - torch.tensor(E2M1).double()).abs().argmin(-1) | (
        torch.signbit(ratio).long() << 3
    )
    parts["weight_packed"] = (code[:, 0::2] | (code[:, 1::2] << 4)).to(torch.uint8)
    return parts


def decoded(parts: dict[str, Tensor], layout: str) -> Tensor:
    """float64 [N, K] from the bytes, one at a time."""
    size, top = (16, float(parts["weight_global_scale"])) if layout == NVFP4 else (32, 1.0)
    rows = []
    scales = parts["weight_scale"].view(torch.uint8).tolist()
    for row, row_scales in zip(parts["weight_packed"].tolist(), scales, strict=True):
        values = []
        for byte in row:
            values += [math.copysign(E2M1[c & 7], -1 if c & 8 else 1) for c in (byte & 15, byte >> 4)]
        steps = [_e4m3(s) if layout == NVFP4 else 2.0 ** (s - 127) for s in row_scales]
        rows.append([value * steps[i // size] / top for i, value in enumerate(values)])
    return torch.tensor(rows, dtype=torch.float64)


def _e4m3(byte: int) -> float:
    exponent, fraction = byte >> 3, byte & 7
    return (fraction / 8 if exponent == 0 else 1 + fraction / 8) * 2.0 ** (max(exponent, 1) - 7)


def write(folder: Path, preset: str, layout: str, *, activations: bool = False,
          change: Callable[[dict[str, Tensor]], None] = lambda tensors: None) -> dict[str, Tensor]:  # fmt: skip
    """A checkpoint of a random model, in two files; the tensors of all layers but attention and the head are codes."""
    model = build(preset, device="cpu")
    tensors: dict[str, Tensor] = {}
    plain = ["lm_head"] + [n for n, m in model.named_modules() if n.endswith(("q_proj", "o_proj"))]
    for name, parameter in model.named_parameters():
        layer = name.removesuffix(".weight")
        linear = name.endswith(".weight") and isinstance(model.get_submodule(layer), nn.Linear)
        if not linear or layer in plain:
            tensors[name] = parameter.detach().clone()
            continue
        tensors |= {f"{layer}.{part}": tensor for part, tensor in encoded(parameter.detach(), layout).items()}
        if activations and layout == NVFP4:
            tensors[f"{layer}.input_global_scale"] = torch.tensor([2688.0 / (4.0 + len(tensors) % 5)])
    change(tensors)
    model.config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "quantization_config": config_of(layout, activations, plain),
        "architectures": [type(model).__name__],
    }
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(tensors)
    for index, part in enumerate((names[::2], names[1::2])):
        safetensors_torch.save_file(
            {name: tensors[name] for name in part}, folder / f"model-0000{index + 1}-of-00002.safetensors"
        )
    return tensors


def layers_of(model: nn.Module) -> dict[str, CodesLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, CodesLinear)}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("layout", "activations"), [(NVFP4, False), (NVFP4, True), (MXFP4, False), (MXFP4, True)]
)
def test_codes_and_scales_are_those_of_the_file(
    preset: str, layout: str, activations: bool, tmp_path: Path
) -> None:
    tensors = write(tmp_path, preset, layout, activations=activations)
    model = load(tmp_path, device="cpu")
    layers = layers_of(model)
    assert set(layers) == {
        name.removesuffix(".weight_packed") for name in tensors if name.endswith("weight_packed")
    }
    for name, layer in layers.items():
        assert torch.equal(layer.weight, tensors[f"{name}.weight_packed"])
        assert torch.equal(layer.weight_scale, tensors[f"{name}.weight_scale"].view(torch.uint8))
        for ours, theirs in (
            ("weight_global_scale", "weight_global_scale"),
            ("input_scale", "input_global_scale"),
        ):
            held, stored = getattr(layer, ours), tensors.get(f"{name}.{theirs}")
            assert (held is None) == (stored is None)
            assert held is None or float(held) == float(stored)  # type: ignore[arg-type]
    assert all(torch.equal(value, tensors[name]) for name, value in model.named_parameters())
    name, layer = next(iter(layers.items()))
    parts = {key.rpartition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{name}.")}
    assert torch.equal(layer.quantized_weight().dequantize(torch.float64), decoded(parts, layout))
    report = swap(model, "bf16")  # layers that are codes already are made fast, whatever is asked of others
    assert len(report.swapped) == len(layers)
    near = logits(build(preset, device="cpu"), tokens())
    assert distance(logits(model, tokens()), near) < 0.5


def swap_nibbles(tensors: dict[str, Tensor]) -> None:
    for name in [n for n in tensors if n.endswith("weight_packed")]:
        tensors[name] = (tensors[name] >> 4) | (tensors[name] << 4)


def invert_global_scales(tensors: dict[str, Tensor]) -> None:
    for name in [n for n in tensors if n.endswith("weight_global_scale")]:
        tensors[name] = 1 / tensors[name]


def shift_scales(tensors: dict[str, Tensor]) -> None:
    for name in [n for n in tensors if n.endswith("weight_scale")]:
        tensors[name] = tensors[name].view(torch.uint8).roll(1, 1).view(tensors[name].dtype)


@pytest.mark.parametrize("bug", [swap_nibbles, invert_global_scales, shift_scales])
def test_bytes_read_otherwise_give_other_values(
    bug: Callable[[dict[str, Tensor]], None], tmp_path: Path
) -> None:
    """What a reader with the other nibble first, or the other meaning of a scale, would get: far from the model."""
    near = logits(build("tiny-llama", device="cpu"), tokens())
    for folder, change, wrong in (("right", lambda tensors: None, False), ("wrong", bug, True)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, "tiny-llama", NVFP4, change=change)
        assert (distance(logits(load(tmp_path / folder, device="cpu"), tokens()), near) > 0.35) == wrong


def drop(part: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[next(name for name in tensors if name.endswith(part))]

    return change


def put(part: str, make: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        name = next(name for name in tensors if name.endswith(part))
        tensors[name] = make(tensors[name])

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("weight_scale"), "has no weight_scale in the checkpoint"),
        (drop("weight_global_scale"), "has no weight_global_scale"),
        (drop("input_global_scale"), "has no input_global_scale"),
        (drop("norm.weight"), r"missing 1 \(.*norm.weight\); without a place none"),
        (put("weight_global_scale", torch.zeros_like), "is 0.0; an encode scale"),
        (put("weight_global_scale", lambda t: t.repeat(2)), r"is torch.float32 \[2\]; one float32 is read"),
        (put("weight_packed", lambda t: t[:, :-1].contiguous()), "must be"),
        (put("weight_scale", lambda t: t[:, :-1].contiguous()), "scales must be"),
        (put("weight_scale", lambda t: t.float()), "stores one byte a block"),
        (put("norm.weight", lambda t: t[:-1].contiguous()), r"is \[127\] in .* \[128\] in the model"),
        (lambda tensors: tensors.update({"layers.9.up_proj.weight_packed": torch.zeros(2, 2)}), "no module of that"),
        (lambda tensors: tensors.update({"model.extra": torch.zeros(2)}), r"without a place 1 \(model.extra\)"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_an_error_that_says_where(
    change: Callable[[dict[str, Tensor]], None], words: str, tmp_path: Path
) -> None:
    write(tmp_path, "tiny-llama", NVFP4, activations=True, change=change)
    with pytest.raises(ValueError, match=words):
        load(tmp_path, device="cpu")


def test_names_of_the_published_nemotron_files_are_understood(tmp_path: Path) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        for name in [n for n in tensors if n.startswith("model.")]:
            tensors["backbone." + name.removeprefix("model.")] = tensors.pop(name)

    write(tmp_path, "tiny-nemotron-h", NVFP4, change=rename)
    assert len(layers_of(load(tmp_path, device="cpu"))) > 0


def test_the_recipe_is_that_of_the_config() -> None:
    weights = recipe_of(config_of(NVFP4, False, ["lm_head"]))
    both = recipe_of(config_of(NVFP4, True, []))
    mx = recipe_of(config_of(MXFP4, True, []))
    assert (weights.weight, weights.activation, weights.skip) == ("nvfp4", "", ("lm_head",))
    assert (both.activation, both.global_scale) == ("nvfp4", "static")
    assert (mx.weight, mx.activation, mx.global_scale) == ("mxfp4_even", "mxfp4_even", "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"format": "pack-quantized"},
            "'pack-quantized'; nvfp4-pack-quantized and mxfp4-pack-quantized can be read",
        ),
        ({"config_groups": {}}, "has 0 config_groups"),
        ({"format": MXFP4}, "4-bit floats in groups of 32 are read"),
    ],
)
def test_what_no_layer_computes_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        recipe_of({**config_of(NVFP4, False, []), **change})


@pytest.mark.parametrize("layout", [NVFP4, MXFP4])
def test_compressed_tensors_decodes_these_bytes_alike(layout: str) -> None:
    """The layout is not this test's own: its decompressor and its config, where it is installed."""
    pytest.importorskip("compressed_tensors", minversion="0.20", reason="pip install -e .[oracles]")
    base = importlib.import_module("compressed_tensors.compressors.base")
    quantization = importlib.import_module("compressed_tensors.quantization")
    group = config_of(layout, False, [])["config_groups"]["group_0"]
    weights = quantization.QuantizationArgs(**group["weights"])
    scheme = quantization.QuantizationScheme(targets=group["targets"], weights=weights)
    parts = encoded(build("tiny-llama", device="cpu").lm_head.weight.detach(), layout)
    theirs = base.BaseCompressor.get_value_from_registry(layout).decompress(parts, scheme)["weight"]
    assert distance(theirs, decoded(parts, layout)) < 2.0**-8  # decoded in bf16 there
    assert theirs.abs().amax() > 0.1
