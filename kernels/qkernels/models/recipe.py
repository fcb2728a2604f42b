"""What becomes of a model's linear layers, as data: the formats of weights and activations, and what is left alone.

A row of a layer's output must not depend on the rows beside it, or a batch of eight gives other tokens than eight
batches of one, and decoding other logits than the prompt's pass. So an activation scale is static, or one a token, or
one a block. NVFP4 whose global scale comes from the whole tensor anew is refused: with it logits of decoding and
prefill of a small random model differed by 25%, those of batch 8 and 1 by 30%.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from qkernels.format import (
    FP8,
    FP8_TOKEN,
    INT8,
    INT8_TOKEN,
    NVFP4,
    NVFP4_TOKEN,
    Format,
    get_format,
)

_WEIGHTS = (FP8, FP8_TOKEN, INT8_TOKEN)  # and FP4 whose layers hold one scale a row's block
_ACTIVATIONS = (FP8, FP8_TOKEN, INT8, INT8_TOKEN, NVFP4_TOKEN)


@dataclass(frozen=True)
class Recipe:
    """A rule for every nn.Linear of a model.

    weight        name of a format: fp8 (one scale a tensor), fp8_token and int8_token (one an output channel), nvfp4,
                  mxfp4 or their kin with another scale rule (nvfp4_4over6, mxfp4_even); "": layers stay
    activation    name of a format, of the same elements as the weight's; "": 16 bits
    global_scale  of activations, where the format has one for more than a block: "token", one a row, computed, or
                  "static", one a layer, from `calibrate` or given; "" where the format needs none
    hadamard      size of the rotation of weights and activations along K, or None
    skip          patterns (fnmatch) of module names, whole or from a dot on, that are left alone: "lm_head", "*.q_proj"
    source        where the recipe comes from
    """

    name: str
    weight: str = ""
    activation: str = ""
    global_scale: Literal["", "static", "token"] = ""
    hadamard: int | None = None
    skip: tuple[str, ...] = ("lm_head",)
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "skip", tuple(self.skip))
        if self.global_scale not in ("", "static", "token"):
            raise ValueError(f"{self.name}: global_scale {self.global_scale!r}: {_batch(self.activation)}")
        if not self.weight:
            if self.activation or self.global_scale or self.hadamard:
                raise ValueError(
                    f"{self.name}: activations of a recipe without a weight format stay 16 bits; name one"
                )
            return
        weight = get_format(self.weight)
        if weight not in _WEIGHTS and not _fp4(weight):
            raise ValueError(f"{self.name}: no layer holds weights in {weight.name}; take fp8, fp8_token, int8_token, "
                             "nvfp4, mxfp4, or one of these two with another scale rule")  # fmt: skip
        if self.hadamard is not None and self.hadamard not in weight.hadamard:
            sizes = ", ".join(map(str, weight.hadamard)) or "none"
            raise ValueError(
                f"{self.name}: {weight.name} takes no rotation by {self.hadamard}; known: {sizes}"
            )
        self._check_activation(weight)

    def _check_activation(self, weight: Format) -> None:
        if not self.activation:
            if self.global_scale:
                raise ValueError(
                    f"{self.name}: activations of 16 bits have no scale; drop global_scale or name a format"
                )
            return
        fmt = get_format(self.activation)
        if (fmt.element, fmt.block) != (weight.element, weight.block):
            raise ValueError(f"{self.name}: activations in {fmt.name} do not multiply weights in {weight.name}; "
                             f"take {weight.name} or 16 bits")  # fmt: skip
        if fmt not in _ACTIVATIONS and not _fp4(fmt):
            raise ValueError(f"{self.name}: no layer quantizes activations to {fmt.name}")
        whole = _whole_tensor(fmt)
        if whole and not self.global_scale:
            raise ValueError(f"{self.name}: {_batch(fmt.name)}")
        if whole and self.global_scale == "token" and fmt != NVFP4:
            raise ValueError(f"{self.name}: {fmt.name} has no form of one scale a token; {_remedy(fmt.name)}")
        if not whole and self.global_scale == "static":
            raise ValueError(
                f"{self.name}: {fmt.name} computes a scale a row or a block; drop global_scale='static'"
            )

    @property
    def weight_format(self) -> Format | None:
        return get_format(self.weight) if self.weight else None

    @property
    def activation_format(self) -> Format | None:
        """The format activations are quantized to, NVFP4 of one global scale a row where that is asked for."""
        if not self.activation:
            return None
        fmt = get_format(self.activation)
        return NVFP4_TOKEN if fmt == NVFP4 and self.global_scale == "token" else fmt

    @property
    def static(self) -> bool:
        """Does each layer need a number of its own beside its weights?"""
        return self.global_scale == "static"

    def skips(self, name: str) -> str | None:
        """The pattern that leaves the module of that name alone, or None."""
        return next((p for p in self.skip if fnmatchcase(name, p) or fnmatchcase(name, f"*.{p}")), None)


def _fp4(fmt: Format) -> bool:
    return (
        fmt.packed and not fmt.element.integer and fmt.block_rows == 1 and fmt.global_granularity == "tensor"
    )


def _whole_tensor(fmt: Format) -> bool:
    """Would the scale be one of the whole tensor, and every row depend on all?"""
    return fmt.granularity == "tensor" or (fmt.levels == 2 and fmt.global_granularity == "tensor")


def _batch(activation: str) -> str:
    return (f"{activation} activations whose scale is computed from the whole tensor make a row depend on the rows "
            f"beside it (logits of decoding and prefill differed by 25%); {_remedy(activation)}")  # fmt: skip


def _remedy(activation: str) -> str:
    token = {
        "nvfp4": "global_scale='token'",
        "fp8": "activation='fp8_token'",
        "int8": "activation='int8_token'",
    }
    static = "global_scale='static' with the numbers of calibrate()"
    return f"take {token[activation]}, or {static}" if activation in token else f"take {static}"


_NVIDIA = "https://huggingface.co/nvidia/NVIDIA-Nemotron-Nano-9B-v2-NVFP4"

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("bf16"),
        Recipe("fp8", "fp8_token", "fp8_token", source="vLLM's W8A8: channels and tokens"),
        Recipe("int8", "int8_token", "int8_token", source="vLLM's W8A8: channels and tokens"),
        Recipe("nvfp4-w4a16", "nvfp4"),
        Recipe("nvfp4-w4a4", "nvfp4", "nvfp4", "token"),
        Recipe("mxfp4-w4a16", "mxfp4"),
        Recipe("mxfp4-w4a4", "mxfp4", "mxfp4"),
        # Mamba's two projections and the MLP; attention stays, and so does conv1d, which is no linear layer
        Recipe("nemotron-nano", "nvfp4", "nvfp4", "token",
               skip=("lm_head", "q_proj", "k_proj", "v_proj", "o_proj"), source=_NVIDIA),
    )
}  # fmt: skip


def get_recipe(name: str | Recipe) -> Recipe:
    """The recipe of that name, or the recipe itself; ValueError lists the known ones and the nearest."""
    if isinstance(name, Recipe):
        return name
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"unknown recipe {name!r}{hint}; known: {', '.join(RECIPES)}")
