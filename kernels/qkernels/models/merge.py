"""Layers that read one input, as one product: queries, keys and values; gate and up.

A step of decoding reads 4 MB for the keys of an 8B model's layer in 5 us, of which 1 is the reading. So, as engines do,
the weights of such layers are joined along N when they are made fast. For that they need one global scale, which they
get when they are quantized together (`quantized`), on every device, so that numbers are the same with and without.
Layers that were quantized one by one, as transformers loads them, have one each in NVFP4 and stay apart.

The layers stay where they are and are called one by one (`Part`): the first that sees an input computes the product of
all, the others take their columns of it, the last lets it go. A layer that is called with another input than the one
before it gets its own product; so nothing but time depends on the guess that a model calls them with one. A tensor that
was written to is another input; where torch does not count that (inference_mode, torch.compile), one that a layer sees
again, or that a layer before it has not seen, is: only what writes between two of the layers is not noticed there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from qkernels.api import quantize

from .codes import CodesLinear
from .fast import Placed
from .recipe import Recipe

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("gate_proj", "up_proj"), ("w1", "w3"))
"""Names of layers of one module that mostly read one input."""


def grouped(names: Sequence[tuple[str, ...]]) -> list[list[tuple[str, ...]]]:
    """Layers, each with all of its names, in order; siblings together where the first of them was."""
    groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for each in names:
        parent, _, last = each[0].rpartition(".")
        kin = next((kin for kin in SIBLINGS if last in kin), None)
        alone = len(each) > 1 or kin is None
        groups.setdefault(each if alone else (parent, *kin), []).append(each)  # type: ignore[misc]
    return list(groups.values())


def quantized(
    linears: Sequence[nn.Linear], recipe: Recipe, amax: Sequence[float | None]
) -> list[CodesLinear]:
    """`CodesLinear.from_linear` of each; where the weights' format has a scale for more than a block or row, it is one
    for all of those of one K, dtype and device."""
    fmt = recipe.weight_format
    weights = [each.weight.detach() for each in linears]
    alike = {(weight.shape[1], weight.dtype, weight.device) for weight in weights}
    each_alone = fmt is None or (fmt.levels == 1 and fmt.granularity != "tensor")
    if fmt is None or each_alone or len(linears) < 2 or len(alike) > 1:
        return [CodesLinear.from_linear(each, recipe, top) for each, top in zip(linears, amax, strict=True)]
    q, start, made = quantize(torch.cat(weights), fmt, hadamard=recipe.hadamard), 0, []
    for linear, top in zip(linears, amax, strict=True):
        rows = slice(start, start + linear.out_features)
        scale = q.scale if fmt.granularity == "tensor" else q.scale[rows]
        # clones: what is saved must not share memory
        encode = None if q.global_scale is None else q.global_scale.clone()
        own = replace(
            q, data=q.data[rows].clone(), scale=scale.clone(), global_scale=encode,
            shape=(linear.out_features, q.shape[1]),
        )  # fmt: skip
        made.append(CodesLinear.from_linear(linear, recipe, top, own))
        start = rows.stop
    return made


def joined(layers: Sequence[CodesLinear]) -> CodesLinear | None:
    """One layer of their weights below each other, or None where they are not of one kind and scale."""
    first = layers[0]
    if len(layers) < 2 or any(not _alike(first, each) for each in layers[1:]):
        return None
    n = sum(each.out_features for each in layers)
    made = CodesLinear(first.in_features, n, first.bias is not None, first.recipe, device="meta")
    made.weight = torch.cat([each.weight for each in layers])
    by_tensor = first.format.granularity == "tensor"
    made.weight_scale = first.weight_scale if by_tensor else torch.cat([each.weight_scale for each in layers])
    made.weight_global_scale, made.input_scale = first.weight_global_scale, first.input_scale
    made.bias = (
        None if first.bias is None else torch.cat([each.bias for each in layers if each.bias is not None])
    )
    return made.train(first.training)


def _alike(a: CodesLinear, b: CodesLinear) -> bool:
    kinds = [
        (each.recipe, each.in_features, each.weight.device, None if each.bias is None else each.bias.dtype)
        for each in (a, b)
    ]
    scales = [
        "weight_global_scale",
        "input_scale",
        *(["weight_scale"] if a.format.granularity == "tensor" else []),
    ]
    return kinds[0] == kinds[1] and all(_same(getattr(a, name), getattr(b, name)) for name in scales)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a, b)


def parts(placed: Placed, layers: Sequence[CodesLinear]) -> list[Placed]:
    """What to put in the place of each of the layers whose joint one was placed."""
    shared, start, made = _Held(asked=len(layers)), 0, []
    for layer in layers:
        stop = start + layer.out_features
        made.append(replace(placed, module=Part(placed.module, shared, layer, start, stop)))
        start = stop
    return made


@dataclass
class _Held:
    """The last input and its product, until `asked` layers have taken theirs."""

    asked: int
    left: int = 0
    version: int = 0
    last: int = 0  # the first column of the layer that took its part last
    x: Tensor | None = None
    y: Tensor | None = None

    def product(self, layer: nn.Module, x: Tensor, start: int) -> Tensor:
        """For the layer whose columns begin at `start`."""
        uncounted = torch.compiler.is_compiling() or x.is_inference()
        version = 0 if uncounted else x._version
        again = uncounted and start <= self.last
        if self.y is None or self.x is not x or self.version != version or again:
            self.x, self.y, self.version, self.left = x, layer(x), version, self.asked
        y, self.last = self.y, start
        assert y is not None
        self.left -= 1
        if self.left == 0:
            self.x = self.y = None
        return y


class Part(nn.Module):
    """Columns [start, stop) of the product of several layers: y [..., stop - start], as the layer alone gives it."""

    def __init__(self, merged: nn.Module, held: _Held, layer: CodesLinear, start: int, stop: int) -> None:
        super().__init__()
        self.merged, self.held, self.start, self.stop = merged, held, start, stop
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.train(layer.training)

    @property
    def weight(self) -> Tensor:
        """Of all parts, in the kernel's layout: code around may look at its device."""
        tensor: Tensor = self.merged.weight  # type: ignore[assignment]
        return tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.held.product(self.merged, x, self.start)[..., self.start : self.stop].contiguous()

    def extra_repr(self) -> str:
        return f"columns {self.start} to {self.stop}"
