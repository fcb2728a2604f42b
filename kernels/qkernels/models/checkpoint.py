"""Checkpoints of compressed-tensors in NVFP4 and MXFP4, read as they are: no code and no scale is computed anew.

Tensors of a linear layer `name` there (compressed-tensors 0.20, formats nvfp4-pack-quantized and mxfp4-pack-quantized):

    name.weight_packed         uint8 [N, K/2], the even element in the low nibble
    name.weight_scale          NVFP4: float8_e4m3fn [N, K/16]; MXFP4: uint8 [N, K/32], E8M0
    name.weight_global_scale   NVFP4: float32 [1], the encode scale 448*6/amax: value = code*scale/global
    name.input_global_scale    NVFP4 W4A4: float32 [1], the static encode scale of the input

These are the meanings that this package has, so the bytes go over. Activations of MXFP4 are quantized by the rule of
compressed-tensors, which is `even`.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkernels.tensor import QTensor

from .codes import CodesLinear
from .recipe import Recipe

FORMATS = ("nvfp4-pack-quantized", "mxfp4-pack-quantized")
_PARTS = ("weight_packed", "weight_scale", "weight_global_scale", "input_global_scale")


def is_compressed(folder: Path) -> bool:
    """Does config.json there name compressed-tensors?"""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return bool(config.get("quantization_config", {}).get("quant_method") == "compressed-tensors")


def recipe_of(quantization: dict[str, Any]) -> Recipe:
    """The recipe of a config.json's quantization_config; ValueError for what no layer here computes."""
    groups = list(quantization.get("config_groups", {}).values())
    if len(groups) != 1:
        raise ValueError(
            f"the checkpoint has {len(groups)} config_groups; one for all linear layers can be read"
        )
    group = groups[0]
    stored = group.get("format") or quantization.get("format")
    if stored not in FORMATS:
        raise ValueError(f"the checkpoint's format is {stored!r}; {' and '.join(FORMATS)} can be read")
    weights, inputs = group.get("weights") or {}, group.get("input_activations")
    nvfp4 = stored.startswith("nvfp4")
    block = 16 if nvfp4 else 32
    for what, found in (("weights", weights), ("input_activations", inputs)):
        if found is not None and (found.get("num_bits"), found.get("type"), found.get("group_size")) != (
            4,
            "float",
            block,
        ):
            raise ValueError(f"{stored} with {what} {found}; 4-bit floats in groups of {block} are read")
    skip = tuple(quantization.get("ignore") or ())
    name = "nvfp4" if nvfp4 else "mxfp4_even"
    if inputs is None:
        return Recipe(f"{stored}-w4a16", name, skip=skip, source="compressed-tensors")
    static = "static" if nvfp4 else ""
    return Recipe(f"{stored}-w4a4", name, name, static, skip=skip, source="compressed-tensors")  # type: ignore[arg-type]


def load_compressed(path: str | Path, *, device: torch.device | str, dtype: torch.dtype | None = None) -> Any:
    """The causal LM of a local folder; its quantized layers are CodesLinear: `swap` makes them fast.

    Which layers are quantized is what the files say, not the names in config.json. ValueError that lists tensors which
    are missing, of another shape, or have no place; FileNotFoundError for a folder without safetensors.
    """
    import transformers

    folder = Path(path)
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    quantization = config.quantization_config
    recipe = recipe_of(quantization if isinstance(quantization, dict) else quantization.to_dict())
    del config.quantization_config
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=dtype or config.dtype or torch.bfloat16
        )
    read_into(model, folder, recipe)
    model.tie_weights()
    return model.eval().requires_grad_(False)


@torch.no_grad()
def read_into(model: nn.Module, folder: Path, recipe: Recipe) -> None:
    """Replace the layers that the files hold quantized, and fill the whole model from them, where it lies."""
    with ExitStack() as stack:
        tensors = _open(folder, stack)
        places = {_place(key, model): key for key in tensors}
        quantized = [
            name.removesuffix(".weight_packed") for name in places if name.endswith(".weight_packed")
        ]
        used = set()
        for name in quantized:
            parts = {part: tensors[places[f"{name}.{part}"]] for part in _PARTS if f"{name}.{part}" in places}
            used |= {f"{name}.{part}" for part in parts}
            _replace(
                model,
                name,
                {part: file.get_tensor(places[f"{name}.{part}"]) for part, file in parts.items()},
                recipe,
            )
        state = model.state_dict(keep_vars=True)
        plain = set(state) - {f"{name}.{part}" for name in quantized for part in _FILLED}
        tied = set(getattr(model, "all_tied_weights_keys", None) or ())
        missing, surplus = plain - set(places) - tied, set(places) - plain - used
        if missing or surplus:
            raise ValueError(
                f"{folder} and the model do not fit: missing {_few(missing)}; without a place {_few(surplus)}"
            )
        for name in plain & set(places):
            tensor = tensors[places[name]].get_tensor(places[name])
            if tensor.shape != state[name].shape:
                raise ValueError(
                    f"{name} is {list(tensor.shape)} in {folder}, {list(state[name].shape)} in the model"
                )
            state[name].copy_(tensor)


_FILLED = ("weight", "weight_scale", "weight_global_scale", "input_scale")


def _replace(model: nn.Module, name: str, parts: dict[str, Tensor], recipe: Recipe) -> None:
    """Put a CodesLinear of these very bytes where the nn.Linear of that name is."""
    try:
        linear = model.get_submodule(name)
    except AttributeError:
        raise ValueError(
            f"the checkpoint has a quantized layer {name}, and the model no module of that name"
        ) from None
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"{name} is quantized in the checkpoint and a {type(linear).__name__} in the model")
    device = linear.weight.device
    layer = CodesLinear(linear.in_features, linear.out_features, linear.bias is not None, recipe,
                        dtype=linear.weight.dtype, device="meta")  # fmt: skip
    needed = (
        ["weight_scale"]
        + ["weight_global_scale"] * (layer.format.levels == 2)
        + ["input_global_scale"] * recipe.static
    )
    if absent := [part for part in needed if part not in parts]:
        raise ValueError(f"{name} has no {', '.join(absent)} in the checkpoint, and {recipe.name} needs it")
    shape = (layer.out_features, layer.in_features)
    top = (
        _encode_scale(parts["weight_global_scale"], f"{name}.weight_global_scale")
        if layer.format.levels == 2
        else None
    )
    scale = parts["weight_scale"]
    if scale.element_size() != 1:
        raise ValueError(f"{name}.weight_scale is {scale.dtype}; {recipe.name} stores one byte a block")
    try:
        q = QTensor(parts["weight_packed"], scale.view(torch.uint8), layer.format, shape, top)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    layer.fill(q.to(device))
    if recipe.static:
        layer.input_scale = _encode_scale(parts["input_global_scale"], f"{name}.input_global_scale").to(
            device
        )
    layer.bias = None if linear.bias is None else linear.bias.detach()
    model.set_submodule(name, layer.train(linear.training))


def _encode_scale(value: Tensor, name: str) -> Tensor:
    """float32 0-dim. (Writers that store its reciprocal name the tensors otherwise.)"""
    if value.numel() != 1 or value.dtype != torch.float32:
        raise ValueError(f"{name} is {value.dtype} {list(value.shape)}; one float32 is read")
    if not 0 < float(value) < float("inf"):
        raise ValueError(f"{name} is {float(value)}; an encode scale 448*6/amax is positive and finite")
    return value.reshape(())


def _open(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """The open file of each tensor's name."""
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no *.safetensors in {folder}")
    found: dict[str, Any] = {}
    for file in files:
        opened = stack.enter_context(safe_open(file, framework="pt"))
        for key in opened.keys():  # noqa: SIM118 - a file is no dict
            if key in found:
                raise ValueError(f"{key} is in two files of {folder}; keep one")
            found[key] = opened
    return found


def _place(key: str, model: nn.Module) -> str:
    """The model's name of a tensor: checkpoints of Nemotron-H say "backbone" where transformers says "model"."""
    prefix = getattr(model, "base_model_prefix", "")
    head, _, rest = key.partition(".")
    return f"{prefix}.{rest}" if head == "backbone" and prefix and prefix != "backbone" else key


def _few(names: set[str]) -> str:
    shown = sorted(names)
    return f"{len(shown)} ({', '.join(shown[:4])}{', ...' if len(shown) > 4 else ''})" if shown else "none"
