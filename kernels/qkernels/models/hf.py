"""Recipes as a quantizer of transformers: loading quantizes, saving and loading again keeps every bit.

    from qkernels.models import QKernelsConfig
    model = AutoModelForCausalLM.from_pretrained(path, quantization_config=QKernelsConfig("nvfp4-w4a16"))
    model.save_pretrained(folder)                        # config.json says quant_method "qkernels" and the recipe
    model = AutoModelForCausalLM.from_pretrained(folder)      # after this module was imported
    qkernels.models.swap(model, "nvfp4-w4a16")           # the fastest layers there are; no longer to be saved

The model holds `CodesLinear`, whose buffers mean the same on every machine. Importing this module imports transformers,
and registers the method there. Written for transformers 5.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from .codes import CodesLinear
from .recipe import Recipe, get_recipe
from .swap import linear_layers, skip_reason

METHOD = "qkernels"


@register_quantization_config(METHOD)
class QKernelsConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """A recipe, given as itself, by name, or as the fields that config.json holds."""

    def __init__(self, recipe: Recipe | str | dict[str, Any] = "nvfp4-w4a16", **_: Any) -> None:
        if isinstance(recipe, dict):
            known = {field.name for field in dataclasses.fields(Recipe)}
            if unknown := set(recipe) - known:
                raise ValueError(f"quantization_config.recipe has unknown fields {', '.join(sorted(unknown))}; "
                                 f"known: {', '.join(sorted(known))}")  # fmt: skip
            recipe = Recipe(**recipe)
        self.quant_method = METHOD
        self.recipe = {**dataclasses.asdict(get_recipe(recipe))}
        self.recipe["skip"] = list(self.recipe["skip"])  # as JSON reads it again

    def as_recipe(self) -> Recipe:
        return Recipe(**self.recipe)


@register_quantizer(METHOD)
class QKernelsQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts empty CodesLinear in while the model is on the meta device; weights of 16 bits are quantized as they arrive,
    one at a time, and codes that were saved go in as they are."""

    requires_calibration = False

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        recipe = self.quantization_config.as_recipe()
        if recipe.static and not self.pre_quantized:
            raise ValueError(
                f"recipe {recipe.name} has static activation scales, which no checkpoint of 16 bits holds; load it "
                "plainly, calibrate(), swap(..., calibration=, emulate=True), attach() and save"
            )

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        recipe = self.quantization_config.as_recipe()
        for names in linear_layers(model):
            linear = model.get_submodule(names[0])
            if not isinstance(linear, nn.Linear) or skip_reason(model, names[0], linear, recipe):
                continue
            layer = CodesLinear(linear.in_features, linear.out_features, linear.bias is not None, recipe,
                                dtype=linear.weight.dtype, device="meta")  # fmt: skip
            if (
                not self.pre_quantized
            ):  # the loader casts what arrives to the dtype that is there: to uint8, it would
                layer.weight = linear.weight.detach()
            for name in names:
                model.set_submodule(name, layer)
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        for name, module in model.named_modules():
            if isinstance(module, CodesLinear):
                module.quantized_weight()  # checks shapes and dtypes
                if any(buffer.is_meta for buffer in module.buffers()):
                    raise ValueError(f"{name}: the checkpoint lacks some of this layer's codes and scales")
        return model

    def param_needs_quantization(self, model: nn.Module, param_name: str, **kwargs: Any) -> bool:
        module, _, tensor = param_name.rpartition(".")
        return (
            not self.pre_quantized
            and tensor == "weight"
            and isinstance(model.get_submodule(module), CodesLinear)
        )

    def get_quantize_ops(self) -> ConversionOps:
        return _Quantize()

    def get_state_dict_and_metadata(self, model: nn.Module) -> tuple[Any, dict[str, Any]]:
        require_codes(model)
        return None, {}

    def is_serializable(self) -> bool:  # a method: a property is always true to who calls it
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    @property
    def is_compileable(self) -> bool:  # the default is False, and generate then silently runs eager
        return True


class _Quantize(ConversionOps):  # type: ignore[misc]
    """One weight of 16 bits to the buffers of its layer."""

    def convert(
        self, input_dict: dict[str, Any], *args: Any, model: nn.Module, full_layer_name: str, **kwargs: Any
    ) -> dict[str, Tensor]:
        value = next(iter(input_dict.values()))
        weight = value[0] if isinstance(value, list | tuple) else value
        if not weight.is_floating_point():
            raise ValueError(
                f"{full_layer_name} arrived as {weight.dtype}; weights to quantize are of 16 or 32 bits"
            )
        name = full_layer_name.rpartition(".")[0]
        layer = model.get_submodule(name)
        assert isinstance(layer, CodesLinear)
        plain = nn.Linear(layer.in_features, layer.out_features, False, device="meta")
        plain.weight = nn.Parameter(weight, requires_grad=False)
        made = CodesLinear.from_linear(plain, layer.recipe)
        return {f"{name}.{key}": tensor for key, tensor in made.named_buffers()}


def attach(model: Any, recipe: Recipe | str) -> None:
    """Make a model whose layers `swap(..., emulate=True)` replaced one that save_pretrained saves as quantized."""
    require_codes(model)
    config = QKernelsConfig(recipe)
    model.hf_quantizer = QKernelsQuantizer(config, pre_quantized=True)
    model.config.quantization_config = config
    model.is_quantized, model.quantization_method = True, METHOD


def require_codes(model: nn.Module) -> None:
    """ValueError unless every quantized layer holds its codes as they are saved."""
    from .fast import FastLinear, ScaledLinear
    from .merge import Part

    for name, module in model.named_modules():
        if isinstance(module, FastLinear | ScaledLinear | Part):
            raise ValueError(f"{name} is laid out for this GPU's kernel; save the model before swap() makes its layers "
                             "fast, or take swap(..., emulate=True)")  # fmt: skip
